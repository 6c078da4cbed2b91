"""Data-parallel training: every worker has the whole model and computes leaves of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from ...backends.arrays import Array
from ...parallel.groups import Group
from ..tensors import local_tensor
from .sums import TensorSums
from .sync import LeafSync


def ddp(model: Module, optimizer: Any, *, leaves: int, group: Group | None = None) -> LeafSync:
    """Steps of M leaves for a model that every worker has whole: the bits do not show how many take part.

    A leaf is a micro-batch with a number from 0 to M - 1. The step's gradient is

        g = (weight_0*g_0 + weight_1*g_1 + ...)/(weight_0 + weight_1 + ...)

    with products, sums and quotient rounded to the parameter's type (float32 for 16 bits), the sums taken
    of neighbours, 0+1, 2+3, ..., then of these. Who computed a leaf cannot be seen in it, as long as the
    leaf's own gradient is the same everywhere: samestep's layers see to that on any machine, torch's on
    machines of one kind.

    A DistributedDataParallel no longer averages anything itself, nor does it broadcast buffers.

    Floating-point buffers, such as running statistics: each leaf starts from those that the step started
    with, and the step leaves the mean of what its leaves left. Buffers of whole numbers become what the first
    leaf left.

    Args:
        model: on the CPU or one NVIDIA GPU, with the same parameters and buffers on every worker, which is
            checked.
        optimizer: of parameters of the model: samestep.torch's, torch.optim's or another one. Every worker
            steps all elements.
        leaves: M, the same in every step and on every worker: at least as many as there will ever be workers,
            best a power of two.
        group: the worker's place among all; None: that of torch.distributed's default process group, or one
            worker alone where it has not been started.

    Returns:
        What the training loop goes by. Until ``remove()`` the gradients of the model are its.

    Raises:
        TypeError, ValueError, NotImplementedError: an argument does not fit, or differs between workers;
            raised on all of them.

    Source:
        docs/numerics.md, "Leaves", for the order of additions.

    Example:
        >>> import torch, samestep as ss, samestep.torch
        >>> def train(group):
        ...     model = ss.torch.Linear(3, 1)
        ...     model.load_state_dict({"weight": torch.ones(1, 3), "bias": torch.zeros(1)})
        ...     x = torch.arange(24.0).reshape(8, 3)
        ...     optimizer = ss.torch.Adam(model.parameters(), lr=0.1)
        ...     sync = ss.torch.parallel.ddp(model, optimizer, leaves=4, group=group)
        ...     for step in range(3):
        ...         for leaf in sync.leaves:
        ...             with sync.leaf(leaf):
        ...                 model(x[2 * leaf : 2 * leaf + 2]).square().mean().backward()
        ...         optimizer.step()
        ...     return ss.digest([p.detach().numpy() for p in model.parameters()])
        >>> alone, three = ss.parallel.run_threads(1, train), ss.parallel.run_threads(3, train)
        >>> alone[0] == three[0] == three[1] == three[2]
        True
    """
    return DdpSync(model, optimizer, leaves, group)


class DdpSync(LeafSync):
    """Takes gradients by hooks, into sums of whole vectors."""

    def __init__(self, model: Module, optimizer: Any, leaves: int, group: Group | None) -> None:
        super().__init__(model, optimizer, leaves, group)
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = model.require_forward_param_sync = False
        like = [local_tensor(p.detach()) for p in self._params]
        self._sums = TensorSums(like, self._leaves, self._group)
        self._ranges = self._sums.ranges
        self.leaves = self._ranges[self._group.rank]
        self._buffer: Array | None = None  # of the leaf that is open
        self._places = {id(p): i for i, p in enumerate(self._params)}
        self._handles += [p.register_post_accumulate_grad_hook(self._take) for p in self._params]

    def _checked(self, number: int, weight: float) -> tuple[int, float]:
        return self._sums.leaf_sums.check(number, weight)

    def _begin(self, number: int, weight: float) -> None:
        self._buffer = self._sums.buffer()
        self._has = np.zeros(len(self._params), bool)
        for p in self._params:
            p.grad = None

    def _take(self, p: Tensor) -> None:
        if self._open is None or self._buffer is None:
            return  # a gradient that belongs to no leaf stays where it is
        _, weight = self._open
        i, grad = self._places[id(p)], p.grad
        assert grad is not None
        if grad.layout is not torch.strided:
            raise RuntimeError(
                f"model: {self._names[i]}: got a gradient of layout {grad.layout}, expected a dense one; "
                "make the embedding with sparse=False"
            )
        if weight > 0.0:
            self._sums.place(self._buffer, i, local_tensor(grad), weight, adds=bool(self._has[i]))
            self._has[i] = True
        p.grad = None

    def _end(self, number: int, weight: float, is_kept: bool) -> None:
        sums, buffer = self._sums.leaf_sums, self._buffer
        self._buffer = None
        if buffer is None:
            return
        if not is_kept:
            sums.give_back([buffer])
            return
        for i in np.flatnonzero(~self._has):
            self._sums.clear(buffer, int(i))
        sums.has_gradient |= self._has
        self._sums.release()  # the last step's mean, which no gradient shows any more
        self._sums.keep(number, weight, buffer)

    def _flags(self) -> NDArray[np.bool_]:
        return self._sums.leaf_sums.has_gradient

    def _finish(self, weight: float, flags: NDArray[np.bool_]) -> None:
        means = self._sums.mean(weight)
        for p, mean, has in zip(self._params, means, flags, strict=True):
            p.grad = _like(p, mean) if has else None


def _like(p: Tensor, mean: Tensor) -> Tensor:
    """The mean as the gradient of a parameter, which may be a shard."""
    if isinstance(mean, type(p.detach())):
        return mean
    from torch.distributed.tensor import DTensor

    assert isinstance(p, DTensor)
    shape, stride = p.shape, p.stride()
    return DTensor.from_local(mean, p.device_mesh, p.placements, run_check=False, shape=shape, stride=stride)
