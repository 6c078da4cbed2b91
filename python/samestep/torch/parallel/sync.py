"""The mean gradient of a step of leaves, before torch's optimizer makes the step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import Module

from ...backends import cpu
from ...backends.arrays import Array
from ...parallel.agreement import agree
from ...parallel.groups import Group, WorkerLost
from ...parallel.leaf_sums import total_weight
from .alike import hyper_of
from .leaves import Leaves


class LeafSync(Leaves):
    """What ``ddp`` and ``fsdp`` return: the leaves of a step, and the mean of their gradients.

    Attributes:
        leaves: the numbers of this worker's leaves, a range.
    """

    _ranges: list[range]

    def __init__(self, model: Module, optimizer: Any, leaves: int, group: Group | None) -> None:
        def check() -> dict[str, Any]:
            _check_optimizer(optimizer, model)
            return {"optimizer": f"{type(optimizer).__name__} {hyper_of(optimizer).decode()}"}

        super().__init__(model, leaves, group, check)
        self._optimizer = optimizer
        self._is_reduced = False
        self._handles = [optimizer.register_step_pre_hook(self._before_step)]

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
        if self._is_reduced and not self._weights:
            return
        self._check_usable()
        try:
            weights, flags = self._agree(self._weights)
            weight = total_weight(weights, cpu, self._narrowest)
            n_changed = len(self._buffers.changed)
            self._finish(weight, flags[:-n_changed])
            self._buffers.finish(weights, weight, flags[-n_changed:])
        except WorkerLost:
            self._usable = False
            raise
        self._weights = {}
        self._is_reduced = True

    def _agree(self, mine: dict[int, float]) -> tuple[Array, NDArray[np.bool_]]:
        """The weights of all leaves, and the flags of all workers: ``_flags``, then of buffers."""
        flags = np.concatenate([self._flags(), self._buffers.changed])
        return agree(self._group, self._ranges, mine, flags, hyper_of(self._optimizer))

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


def _check_optimizer(optimizer: Any, model: Module) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer: got {type(optimizer).__name__}, expected a torch.optim.Optimizer")
    own = set(map(id, model.parameters()))
    if any(id(p) not in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "optimizer: has a parameter that is none of model's, so that nobody would sum its gradient; "
            "pass a module that holds all, such as torch.nn.ModuleList([model, loss])"
        )
