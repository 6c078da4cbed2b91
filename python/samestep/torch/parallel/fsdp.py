"""Leaves for FSDP2, which spreads parameters, gradients and state over the workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module

from ...arguments import whole_number
from ...backends import cpu
from ...backends.arrays import Array
from ...parallel.groups import Group, check_group
from ...parallel.leaf_sums import LeafSums, total_weight
from ...tree import ranges
from ..tensors import HALVES
from .ddp import DdpSync
from .leaves import group_of
from .sums import ShardSums
from .sync import LeafSync


class Leaf(NamedTuple):
    """A leaf that is open."""

    number: int
    weight: float
    total: float | None  # the weight of all leaves, if it is this worker's last one


def fsdp(model: Module, optimizer: Any, *, leaves: int, group: Group | None = None) -> LeafSync:
    """Steps of M leaves for a model of FSDP2: the bits are those of ``ddp``, for any number of workers.

    Each unit's gradients are summed over this worker's leaves as they are, and reduce-scattered once a step,
    in the backward pass of its last leaf: the gradient in ``.grad`` is this worker's shard of the mean.
    Until then they take the memory of log2(leaves of a worker) + 1 unsharded gradients. Where workers have
    different numbers of leaves, parameters stay unsharded from the first leaf to the last one.

    As FSDP2 demands of every pass, every leaf must run every unit: one that only fills up the number of
    leaves runs any data with weight 0. A parameter that a leaf does not reach counts as zeros there, and
    has a gradient of zeros where no leaf reaches it.

    Args:
        model: ``fully_shard`` has been applied to it, over one dimension, with the workers of the group. What
            else is set there stays as it is, but for what averages gradients.
        optimizer: of parameters of the model, which are sharded.
        leaves: M, as for ``ddp``.
        group: as for ``ddp``.

    Returns:
        What the training loop goes by, as for ``ddp``. Leaves come in order, with one ``backward()`` each;
        an exception within the last one cannot be made up for.

    Raises:
        TypeError, ValueError, NotImplementedError: an argument does not fit, or differs between workers;
            raised on all of them. Gradients would be reduced in 16 bits, but parameters have more.

    Example:
        >>> import torch, torch.distributed as dist, samestep as ss, samestep.torch
        >>> from torch.distributed.fsdp import fully_shard
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        >>> model = fully_shard(ss.torch.Linear(3, 1), mesh=mesh)
        >>> optimizer = ss.torch.Adam(model.parameters(), lr=0.1)
        >>> sync = ss.torch.parallel.fsdp(model, optimizer, leaves=4)
        >>> for leaf in sync.leaves:
        ...     with sync.leaf(leaf):
        ...         model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
        >>> model.bias.grad.full_tensor()
        tensor([2.])
        >>> dist.destroy_process_group()
    """
    from torch.distributed.fsdp import FSDPModule  # which takes long to import

    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not units:
        raise TypeError("model: has no unit of FSDP2, expected fully_shard(model) before; else use ddp()")
    for unit in units:
        _check_reduce_dtype(unit)
    for unit in units:
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_reduce_scatter_unused_params(True, recurse=False)
    group = group_of(group)
    if group.size == 1:  # FSDP2 then reduces nothing, but calls the hooks of its shards
        return DdpSync(model, optimizer, leaves, group)
    return FsdpSync(units, model, optimizer, leaves, group)


def _check_reduce_dtype(unit: Any) -> None:
    """Raises where FSDP2 itself would round gradients to 16 bits, which one worker alone does elsewhere."""
    for params in unit._get_fsdp_state()._fsdp_param_groups:
        dtype = params.mp_policy.reduce_dtype or params.mp_policy.param_dtype
        if dtype in HALVES and any(p.orig_dtype != dtype for p in params.fsdp_params):
            raise ValueError(
                f"model: its mp_policy reduces gradients in {dtype}, expected reduce_dtype=torch.float32"
            )


class ReduceScatter:
    """FSDP2's reduce-scatter of one unit, along the tree of leaves.

    ``fsdp`` makes one for each unit of a model, which is the way to use it. By itself it is for
    ``FSDPModule.set_custom_reduce_scatter``, together with ``set_gradient_divide_factor(1.0)``,
    ``set_force_sum_reduction_for_comms(True)`` and ``set_reduce_scatter_unused_params(True)``. It then takes
    each of the unit's backward passes for the next leaf of this worker, all of weight 1, and needs two
    workers or more.

    Before this worker's last leaf it returns -0, which changes no bit of what it is added to; with the last
    one its shard of the mean.

    Args:
        leaves: M.
        group: the workers of the unit, in the order of its mesh.
    """

    def __init__(self, *, leaves: int, group: Group) -> None:
        self._group, self._leaves = check_group(group), whole_number("leaves", leaves, at_least=group.size)
        self.own = ranges(leaves, group.size)[group.rank]
        self._sums: ShardSums | None = None
        self._open: Leaf | None = None  # set by fsdp(); None: leaves are counted
        self._buffer: Array | None = None  # of the leaf that is open
        self.is_done = False  # whether the leaf that is open has completed the mean

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        size = output_tensor.numel()
        if input_tensor.numel() != size * self._group.size:
            raise ValueError(
                f"group: has {self._group.size} workers, but FSDP2 cut {input_tensor.numel()} gradients into "
                f"shards of {size}; pass the group of the model's mesh"
            )
        if self._sums is None:
            self._sums = ShardSums(output_tensor.reshape(-1), self._leaves, self._group)
        sums = self._sums
        leaf = self._open or self._next(sums)
        if self.is_done:
            raise RuntimeError(
                f"leaf {leaf.number}: a second backward() in the last leaf; expected one, or the first ones "
                "within set_requires_gradient_sync(False)"
            )
        is_first = self._buffer is None
        buffer = self._buffer = sums.buffer() if self._buffer is None else self._buffer
        sums.place_shards(buffer, input_tensor, leaf.weight, adds=not is_first)
        if leaf.total is None:
            output_tensor.fill_(-0.0)
        else:
            self.keep(leaf)
            for missing in set(self.own) - sums.leaf_sums.weights.keys():
                zeros = sums.buffer()
                for i in range(self._group.size):
                    sums.clear(zeros, i)
                sums.keep(missing, 0.0, zeros)
            sums.write_shard(leaf.total, output_tensor)
            self.is_done = True
        if self._open is None:
            self.close(leaf)

    def _next(self, sums: ShardSums) -> Leaf:
        """The leaf after those that are here."""
        here = len(sums.leaf_sums.weights)
        return Leaf(self.own[here], 1.0, float(self._leaves) if here + 1 == len(self.own) else None)

    def open(self, leaf: Leaf) -> None:
        """Begins a leaf."""
        self._open, self.is_done = leaf, False

    def keep(self, leaf: Leaf) -> None:
        """Adds the leaf that is open."""
        if self._buffer is not None and self._sums is not None:
            self._sums.keep(leaf.number, leaf.weight, self._buffer)
            self._buffer = None

    def close(self, leaf: Leaf, is_kept: bool = True) -> None:
        """Ends a leaf; if it is not kept, what came of it is forgotten."""
        if is_kept:
            self.keep(leaf)
        elif self._buffer is not None and self._sums is not None:
            self._sums.leaf_sums.give_back([self._buffer])
            self._buffer = None
        self._open, self.is_done = None, False

    @property
    def is_due(self) -> bool:
        """Whether leaves are here that no mean has been made of."""
        return self._sums is not None and len(self._sums.leaf_sums.weights) > 0


class FsdpSync(LeafSync):
    """Takes gradients where FSDP2 would reduce them, into sums of each unit."""

    def __init__(self, units: list[Any], model: Module, optimizer: Any, leaves: int, group: Group) -> None:
        super().__init__(model, optimizer, leaves, group)
        self._units = units
        self._ranges = ranges(self._leaves, group.size)
        self.leaves = self._ranges[group.rank]
        self._is_last = False  # whether the leaf that is open is this worker's last one
        # Numbers and weights of leaves alone: the sums are the units'.
        self._ledger = LeafSums([], self._leaves, self.leaves, cpu)
        self._ledger.narrowest = self._narrowest
        self._comms = [ReduceScatter(leaves=self._leaves, group=group) for _ in units]
        # All workers gather a unit's parameters together, so they must do it as often.
        self._is_even = len(set(map(len, self._ranges))) == 1
        for unit, comm in zip(units, self._comms, strict=True):
            unit.set_custom_reduce_scatter(comm)
            if not self._is_even:
                unit.set_reshard_after_forward(False, recurse=False)
                unit.set_reshard_after_backward(False, recurse=False)

    def _checked(self, number: int, weight: float) -> tuple[int, float]:
        self._ledger.weights = self._weights
        return self._ledger.check(number, weight)

    def _begin(self, number: int, weight: float) -> None:
        if not self._is_even and not self._weights:
            for unit in self._units:
                unit.reshard()
            for unit in self._units:
                unit.unshard()
        self._is_last = len(self._weights) + 1 == len(self.leaves)
        total = None
        if self._is_last:
            weights, _ = self._agree({**self._weights, number: weight})
            total = total_weight(weights, cpu, self._narrowest)
        for p in self._params:
            p.grad = None
        for comm in self._comms:
            comm.open(Leaf(number, weight, total))

    def _end(self, number: int, weight: float, is_kept: bool) -> None:
        done = [comm.is_done for comm in self._comms]
        for comm in self._comms:
            comm.close(Leaf(number, weight, None), is_kept)
        if not self._is_last:
            return
        if not self._is_even:
            for unit in self._units:
                unit.reshard()
        if any(done) and (not is_kept or any(comm.is_due for comm in self._comms)):
            self._usable = False
            if is_kept:
                raise RuntimeError(
                    f"leaf {number}: its backward() did not reach all units that other leaves reached, so "
                    "that the step cannot be completed; start again with all workers"
                )

    def _flags(self) -> NDArray[np.bool_]:
        return np.zeros(0, bool)

    def _finish(self, weight: float, flags: NDArray[np.bool_]) -> None:
        pass  # the backward pass of the last leaf has done it

    def remove(self) -> None:
        raise NotImplementedError("model: FSDP2 takes no reduce-scatter back; make a new model")
