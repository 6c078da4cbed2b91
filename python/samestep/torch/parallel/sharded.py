"""Data-parallel training whose optimizer state is spread over the workers (ZeRO, stage 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ... import parallel
from ...backends import cpu
from ...optim.optimizer import Optimizer
from ...optional import require
from ...parallel.agreement import agree
from ...parallel.groups import Group, WorkerLost
from ...parallel.leaf_sums import total_weight
from ...tree import ranges
from ..launching import Backend, backend_at
from ..tensors import gpu_of, resolved
from .leaves import Leaves


class Sharded(Leaves):
    """``samestep.parallel.Sharded`` for a torch model: it steps the parameters' memory.

    Every worker has the whole model and computes leaves of its own, keeps the state of its part of the
    elements, and steps these. The bits do not show how many workers there are.

    Args:
        make_optimizer: called once with the worker's part of the parameters, a dict of flat arrays by the
            parameters' names, NumPy's or on a GPU CuPy's; returns one of samestep's optimizers of it, such as
            ``lambda part: samestep.Adam(part, lr=1e-3)``. See ``samestep.parallel.Sharded``.
        model: as for ``ddp``.
        leaves: M, as for ``ddp``.
        group: as for ``ddp``.

    Attributes:
        leaves: the numbers of this worker's leaves, a range.
        sharded: the ``samestep.parallel.Sharded``, for its ``state_dict``, ``save``, ``load``, ``ema``,
            ``record``.
            Arrays of a parameter that is not contiguous, such as a channels_last one, lie flat as in memory.

    Raises:
        TypeError, ValueError, NotImplementedError: an argument does not fit, or differs between workers;
            raised on all of them.

    Example:
        >>> import torch, samestep as ss, samestep.torch
        >>> def train(group):
        ...     model = ss.torch.Linear(3, 1)
        ...     model.load_state_dict({"weight": torch.ones(1, 3), "bias": torch.zeros(1)})
        ...     x = torch.arange(24.0).reshape(8, 3)
        ...     opt = ss.torch.parallel.Sharded(
        ...         lambda part: ss.Adam(part, lr=0.1), model, leaves=4, group=group)
        ...     for step in range(3):
        ...         for leaf in opt.leaves:
        ...             with opt.leaf(leaf):
        ...                 model(x[2 * leaf : 2 * leaf + 2]).square().mean().backward()
        ...         opt.step()
        ...     return ss.digest([p.detach().numpy() for p in model.parameters()])
        >>> alone, three = ss.parallel.run_threads(1, train), ss.parallel.run_threads(3, train)
        >>> alone[0] == three[0] == three[1] == three[2]
        True
    """

    def __init__(
        self,
        make_optimizer: Callable[[Any], Optimizer],
        model: Module,
        *,
        leaves: int,
        group: Group | None = None,
    ) -> None:
        super().__init__(model, leaves, group, dict)
        with backend_at(self._number) as backend:
            arrays = {
                name: _array(p.detach(), backend) for name, p in zip(self._names, self._params, strict=True)
            }
            self.sharded = parallel.Sharded(make_optimizer, arrays, self._group, leaves=self._leaves)
            self._wait(backend)
        self.leaves = self.sharded.leaves
        self._memory = [p.detach() for p in self._params]  # arrays on a GPU keep none alive

    def _wait(self, backend: Backend) -> None:
        """On a GPU, the state may be read next on another stream than torch's current one."""
        if self._number is not None:
            backend.module.wait_for(self._number)

    def _checked(self, number: int, weight: float) -> tuple[int, float]:
        return self.sharded._leaf_sums.check(number, weight)

    def _begin(self, number: int, weight: float) -> None:
        for p in self._params:
            p.grad = None

    def _end(self, number: int, weight: float, is_kept: bool) -> None:
        if not is_kept:
            return
        with backend_at(self._number) as backend:
            grads = [None if p.grad is None else _gradient(p.grad, backend) for p in self._params]
            self.sharded.add(number, dict(zip(self._names, grads, strict=True)), weight=weight)
        for p in self._params:
            p.grad = None

    def step(self, *, scale: float = 1.0) -> float | None:
        """Makes one step in place, once the leaves of all workers are there. Every worker calls it.

        Args:
            scale: the gradients count so many times: 1/loss_scale. The same on every worker.

        Returns:
            The norm of all gradients, ``scale`` times, before clipping, if the optimizer has ``clip_norm``.

        Raises:
            ValueError, FloatingPointError, WorkerLost: as ``samestep.parallel.Sharded.step``.
            RuntimeError: a parameter has been given other memory, or an earlier step was broken off.
        """
        self._check_usable()
        if [p.data_ptr() for p in self._params] != [memory.data_ptr() for memory in self._memory]:
            raise RuntimeError("model: a parameter has been given other memory; make a new Sharded")
        torch.autograd.graph.increment_version(self._params)
        weights = self._weights
        try:
            with backend_at(self._number) as backend:
                norm = self.sharded.step(scale=scale)
                self._wait(backend)
            everyone, changed = agree(
                self._group, ranges(self._leaves, self._group.size), weights, self._buffers.changed, b""
            )
            self._buffers.finish(everyone, total_weight(everyone, cpu), changed)
        except FloatingPointError:
            self._buffers.start()
            raise
        except WorkerLost:
            self._usable = False
            raise
        self._weights = {}
        return norm


def _array(tensor: Tensor, backend: Backend) -> Any:
    """The memory of a tensor as an array; flat, where its elements are not in C order."""
    if not tensor.is_contiguous():
        tensor = tensor.as_strided((tensor.numel(),), (1,))
    if tensor.dtype == torch.bfloat16 and gpu_of(tensor) is None:
        bits = backend.array(tensor.view(torch.int16), "model")
        return bits.view(require("ml_dtypes", "bfloat16", "bfloat16").bfloat16)
    return backend.array(tensor, "model")


def _gradient(grad: Tensor, backend: Backend) -> Any:
    """A gradient as an array like that of its parameter, for autograd lays both out alike."""
    if grad.layout is not torch.strided:
        raise RuntimeError(f"grad: got layout {grad.layout}, expected a dense one; use sparse=False")
    return _array(resolved(grad), backend)
