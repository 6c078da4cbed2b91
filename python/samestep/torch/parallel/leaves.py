"""The leaves of a step of a torch model: whose turn it is."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import torch
from torch.nn import Module, Parameter

from ... import parallel
from ...arguments import whole_number
from ...parallel.groups import Alone, Group, check_group
from .. import launching
from ..tensors import TYPES, gpu_of, local_tensor
from .alike import check_alike, check_tensor
from .buffers import LeafBuffers


class Leaves(ABC):
    """What all ways of training by leaves share.

    Args:
        model: with dense parameters and buffers, on the CPU or on one GPU.
        leaves: M.
        group: None: that of the process.
        check: raises if other arguments do not fit; returns what must be the same on all workers.

    Attributes:
        leaves: the numbers of this worker's leaves, a range.
    """

    leaves: range

    def __init__(
        self, model: Module, leaves: int, group: Group | None, check: Callable[[], dict[str, Any]]
    ) -> None:
        self._group = group = group_of(group)
        error: Exception | None = None
        try:
            self._leaves = whole_number("leaves", leaves, at_least=1)
            if self._leaves < group.size:
                raise ValueError(
                    f"leaves: got {leaves}, expected at least one for each of {group.size} workers"
                )
            number = _check_model(model)
            facts = {"model on a GPU": number is not None, **check()}
        except Exception as found:
            error = found
        group.all_or_none(error)
        self._number = number
        named = dict(model.named_parameters())
        self._names = [name for name, p in named.items() if p.requires_grad]
        self._params: list[Parameter] = [named[name] for name in self._names]
        has_narrow = any(p.dtype != torch.float64 for p in self._params)
        self._narrowest = np.dtype(np.float32 if has_narrow else np.float64)  # that weights are rounded to
        self._frozen = [(name, p) for name, p in named.items() if not p.requires_grad]
        facts = {"leaves": self._leaves, **facts, "frozen": [name for name, _ in self._frozen]}
        check_alike(group, facts, {**named, **dict(model.named_buffers())})
        self._buffers = LeafBuffers(model, self._leaves, group)
        self._weights: dict[int, float] = {}
        self._open: tuple[int, float] | None = None
        self._usable = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(leaves={self._leaves}, group={self._group!r})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: cannot be copied or pickled, as it belongs to this process's model, "
            "optimizer and group; copy or save those two, and call ddp(), fsdp() or Sharded() again"
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
            RuntimeError: another leaf is open, or an earlier step was broken off.
        """
        self._check_usable()
        if self._open is not None:
            raise RuntimeError(
                f"leaf: got {number} within leaf {self._open[0]}, expected one after the other"
            )
        number, weight = self._checked(number, weight)
        if self._number is not None and launching.is_capturing(self._number):
            raise RuntimeError("leaf: a CUDA graph is being captured, in which no worker can wait for others")
        for name, p in self._frozen:
            if p.requires_grad:
                raise RuntimeError(
                    f"model: {name} requires a gradient, which it did not when the leaves were set up; "
                    "do it again after parameters were frozen or released"
                )
        before = [p.grad for p in self._params]
        self._buffers.begin_leaf()
        self._open = number, weight
        is_kept = False
        try:
            self._begin(number, weight)
            yield
            self._end(number, weight, True)
            is_kept = True
        finally:
            self._open = None
            if not is_kept:
                self._end(number, weight, False)
            self._buffers.end_leaf(number, weight, is_kept)
            if not is_kept:
                for p, grad in zip(self._params, before, strict=True):
                    p.grad = grad
        self._weights[number] = weight

    def _check_usable(self) -> None:
        if not self._usable:
            raise RuntimeError("an earlier step was broken off; start again with a new group")

    @abstractmethod
    def _checked(self, number: int, weight: float) -> tuple[int, float]:
        """Number and weight of a leaf that may begin."""

    @abstractmethod
    def _begin(self, number: int, weight: float) -> None: ...

    @abstractmethod
    def _end(self, number: int, weight: float, is_kept: bool) -> None:
        """Adds what has come of a leaf, or forgets it."""


def _check_model(model: Any) -> int | None:
    """The number of the GPU that the model lies on; None: of none."""
    if not isinstance(model, Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    params = dict(model.named_parameters())
    named = {**params, **dict(model.named_buffers())}
    number = next((gpu_of(local_tensor(tensor.detach())) for tensor in named.values()), None)
    for name, tensor in named.items():
        check_tensor(name, tensor, number)
    for name, p in params.items():
        if p.requires_grad and p.dtype not in TYPES:
            raise TypeError(f"model: {name}: got {p.dtype}, expected one of {', '.join(map(str, TYPES))}")
    return number


def group_of(group: Group | None) -> Group:
    """The group, or that of the process; see ``ddp``."""
    if group is not None:
        return check_group(group)
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        return parallel.torch_distributed()
    return Alone()
