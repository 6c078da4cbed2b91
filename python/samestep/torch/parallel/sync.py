"""The leaves of a step of a torch model: whose turn it is, and when the mean is due."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module, Parameter

from ... import parallel
from ...arguments import whole_number
from ...backends import cpu
from ...backends.arrays import Array
from ...parallel.agreement import agree
from ...parallel.groups import Alone, Group, WorkerLost, check_group
from ...parallel.leaf_sums import total_weight
from ..tensors import TYPES
from .alike import check_alike, check_tensor, hyper_of
from .buffers import LeafBuffers


class LeafSync(ABC):
    """The leaves of a training step: what ``ddp`` and ``fsdp`` return.

    Attributes:
        leaves: the numbers of this worker's leaves, a range.
    """

    leaves: range
    _whole = True  # whether each worker has all elements of the parameters

    def __init__(self, model: Module, optimizer: Any, leaves: int, group: Group | None) -> None:
        self._group = group = _group_of(group)
        error: Exception | None = None
        try:
            self._leaves = whole_number("leaves", leaves, at_least=1)
            self._check(model, optimizer)
        except Exception as found:
            error = found
        group.all_or_none(error)
        self._optimizer = optimizer
        named = dict(model.named_parameters())
        self._names = [name for name, p in named.items() if p.requires_grad]
        self._params: list[Parameter] = [named[name] for name in self._names]
        self._frozen = [(name, p) for name, p in named.items() if not p.requires_grad]
        facts = {
            "leaves": self._leaves,
            "optimizer": f"{type(optimizer).__name__} {hyper_of(optimizer).decode()}",
            "frozen": [name for name, _ in self._frozen],
        }
        check_alike(group, facts, {**named, **dict(model.named_buffers())}, self._whole)
        self._buffers = LeafBuffers(model, self._leaves, group)
        self._weights: dict[int, float] = {}
        self._open: tuple[int, float] | None = None
        self._is_reduced, self._usable = False, True
        self._handles = [optimizer.register_step_pre_hook(self._before_step)]

    def _check(self, model: Module, optimizer: Any) -> None:
        if not isinstance(model, Module):
            raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer: got {type(optimizer).__name__}, expected a torch.optim.Optimizer")
        params = dict(model.named_parameters())
        for name, tensor in (*params.items(), *model.named_buffers()):
            check_tensor(name, tensor)
        for name, p in params.items():
            if p.requires_grad and p.dtype not in TYPES:
                raise TypeError(f"model: {name}: got {p.dtype}, expected one of {', '.join(map(str, TYPES))}")
        own = set(map(id, params.values()))
        if any(id(p) not in own for group in optimizer.param_groups for p in group["params"]):
            raise ValueError(
                "optimizer: has a parameter that is none of model's, whose gradient would stay this worker's; "
                "pass a module that holds all, such as torch.nn.ModuleList([model, loss])"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(leaves={self._leaves}, group={self._group!r})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: cannot be copied or pickled, as it belongs to this process's model, "
            "optimizer and group; copy or save those two, and call ddp() or fsdp() again"
        )

    # ---- leaves ----

    @contextlib.contextmanager
    def leaf(self, number: int, weight: float = 1.0) -> Iterator[None]:
        """Within it, ``backward()`` gives the gradient of one of this worker's leaves.

        Gradients are taken when they are ready: ``.grad`` is None afterwards. Those of several calls of
        ``backward()`` are added. What was in ``.grad`` before is not counted; ``zero_grad`` is not needed.
        Buffers start from what the step started with: see ``ddp``. If an exception leaves the block, the
        leaf does not count, and ``.grad`` and buffers are as before.

        Args:
            number: one of ``leaves``, each once a step, in any order.
            weight: what the leaf counts: its number of examples, if the loss is their mean. A leaf of weight
                0 counts nothing, and its block may be empty.

        Raises:
            TypeError, ValueError: it is not this worker's leaf, was there before, or the weight does not fit.
            RuntimeError: another leaf is open, or a worker was lost in an earlier step.
        """
        if not self._usable:
            raise RuntimeError("a worker was lost in an earlier step; start again with a new group")
        if self._open is not None:
            raise RuntimeError(f"leaf: got {number} within leaf {self._open[0]}, expected one after the other")
        number, weight = self._checked(number, weight)
        for name, p in self._frozen:
            if p.requires_grad:
                raise RuntimeError(
                    f"model: {name} requires a gradient, which it did not when ddp() or fsdp() was called; "
                    "call it again after parameters were frozen or released"
                )
        before = [p.grad for p in self._params]
        self._buffers.begin_leaf()
        self._open = number, weight
        is_kept = False
        try:
            self._begin(number, weight)
            yield
            is_kept = True
        finally:
            self._open = None
            self._end(number, weight, is_kept)
            self._buffers.end_leaf(number, weight, is_kept)
            if not is_kept:
                for p, grad in zip(self._params, before, strict=True):
                    p.grad = grad
        self._weights[number] = weight
        self._is_reduced = False

    @abstractmethod
    def _checked(self, number: int, weight: float) -> tuple[int, float]:
        """Number and weight of a leaf that may begin."""

    @abstractmethod
    def _begin(self, number: int, weight: float) -> None: ...

    @abstractmethod
    def _end(self, number: int, weight: float, is_kept: bool) -> None: ...

    # ---- the mean ----

    def reduce(self) -> None:
        """Completes the step's gradient: the mean of all leaves, in ``.grad``. Every worker calls it.

        ``optimizer.step()`` calls it by itself, unless it is given a closure, within which it is to be
        called. Call it before what reads gradients, such as ``clip_grad_norm_`` or ``GradScaler.unscale_``.
        Once it has been called, it does nothing until the next leaf. A parameter that no leaf reached has
        no gradient.

        Raises:
            ValueError: leaves are missing, all weights are 0, or hyper-parameters of the optimizer differ
                between workers; raised on all of them. The leaves stay.
            WorkerLost: a worker is gone. No gradient has been written.
        """
        if self._is_reduced:
            return
        if not self._usable:
            raise RuntimeError("a worker was lost in an earlier step; start again with a new group")
        try:
            weights, flags = self._agree()
            weight = total_weight(weights, cpu)
            n_changed = len(self._buffers.changed)
            self._finish(weight, flags[:-n_changed])
            self._buffers.finish(weights, weight, flags[-n_changed:])
        except WorkerLost:
            self._usable = False
            raise
        self._weights = {}
        self._is_reduced = True

    def _agree(self) -> tuple[Array, NDArray[np.bool_]]:
        """The weights of all leaves, and the flags of all workers: ``_flags``, then of buffers."""
        flags = np.concatenate([self._flags(), self._buffers.changed])
        return agree(self._group, self._ranges, self._weights, flags, hyper_of(self._optimizer))

    _ranges: list[range]

    @abstractmethod
    def _flags(self) -> NDArray[np.bool_]:
        """Which parameters have a gradient in a leaf of this worker."""

    @abstractmethod
    def _finish(self, weight: float, flags: NDArray[np.bool_]) -> None:
        """Writes the mean to ``.grad``."""

    def _before_step(self, _: Any, args: Any, kwargs: Any) -> None:
        if kwargs.get("closure", args[1] if len(args) > 1 else None) is None:  # args[0]: the optimizer
            self.reduce()

    def remove(self) -> None:
        """Takes all hooks from model and optimizer, which are then plain ones of one worker."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _group_of(group: Group | None) -> Group:
    if group is not None:
        return check_group(group)
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        return parallel.torch_distributed()
    return Alone()


