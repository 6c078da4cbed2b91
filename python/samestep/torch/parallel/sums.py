"""Sums of leaves of tensors, and their mean on every worker."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from ...backends.arrays import Array
from ...parallel.exchange import Exchange
from ...parallel.groups import Group
from ...parallel.leaf_sums import LeafSums
from ...tree import ranges
from ..launching import Backend, backend_at
from ..tensors import HALVES, compute_type, gpu_of, resolved

_ZEROS: dict[torch.dtype, Array] = {
    torch.float32: np.zeros((), np.float32),
    torch.float64: np.zeros((), np.float64),
}


class TensorSums:
    """A step's sums of tensors over leaves.

    Tensors are added element by element as they lie in memory; 16-bit ones in float32.

    Args:
        like: dense tensors of the same shapes, strides and dtypes on every worker, all on the CPU or one GPU.
        leaves: M, how many leaves there are in all.

    Attributes:
        leaf_sums: of the leaves that are here.
        ranges: the leaves of each worker.
    """

    def __init__(self, like: Sequence[Tensor], leaves: int, group: Group) -> None:
        self._group = group
        # Of a parameter the sums need the size and the type alone, not the memory, which torch may replace.
        self._like = [torch.empty_like(t, device="meta") for t in like]
        self._number = gpu_of(like[0]) if like else None
        self._device = torch.device("cpu") if self._number is None else like[0].device
        params = [np.broadcast_to(_ZEROS[compute_type(t.dtype)], t.numel()) for t in like]
        own = ranges(leaves, group.size)[group.rank]
        with self._backend() as backend:
            here = backend.module.from_host(np.zeros(1))
            self.leaf_sums = LeafSums(params, leaves, own, backend.module, here)
        self._exchange = Exchange(group, leaves, self.leaf_sums.vector, self.leaf_sums.add)
        self.ranges = self._exchange.ranges
        group.meet(here)
        self._mean: Array | None = None

    def _backend(self) -> AbstractContextManager[Backend]:
        return backend_at(self._number)

    def buffer(self) -> Array:
        """Room for a leaf."""
        with self._backend():
            return self.leaf_sums.buffer()

    def keep(self, leaf: int, weight: float, buffer: Array) -> None:
        """Takes over a leaf whose weighed tensors lie in a buffer."""
        with self._backend():
            self.leaf_sums.keep(leaf, weight, buffer)

    def place(self, buffer: Array, i: int, values: Tensor, weight: float, adds: bool = False) -> None:
        """Writes a leaf's weighed tensor into its buffer, or adds it to what is there."""
        like = self._like[i]
        values = resolved(values)
        if values.stride() != like.stride():
            values = torch.empty_like(like, device=self._device).copy_(values)
        if values.dtype in HALVES:
            values = values.to(torch.float32)
        with self._backend() as backend:
            module = backend.module
            g = backend.array(values.as_strided((values.numel(),), (1,)), "grad")
            to = self.leaf_sums.vector.whole(buffer, i)
            if adds:
                weighed = module.empty_like(to)
                module.weigh_leaf(g, weight, weighed)
                module.add_leaves(to, weighed)
            else:
                module.weigh_leaf(g, weight, to)

    def clear(self, buffer: Array, i: int) -> None:
        """Writes zeros for a tensor that a leaf does not have."""
        with self._backend() as backend:
            backend.module.weigh_leaf(None, 0.0, self.leaf_sums.vector.whole(buffer, i))

    def mean(self, weight: float) -> list[Tensor]:
        """The mean of all leaves, once they are there. Every worker calls it.

        Args:
            weight: that of all leaves.

        Returns:
            A tensor for each of ``like``; they stay as they are until ``release`` is called.
        """
        with self._backend():
            total = self._reduce(weight)
            parts = [self.leaf_sums.vector.part(total, *blocks) for blocks in self._exchange.parts]
            mine = parts[self._group.rank]
            others = {rank: part for rank, part in enumerate(parts) if rank != self._group.rank}
            send = dict.fromkeys(others, mine) if mine.size else {}
            self._group.carry(send, {rank: part for rank, part in others.items() if part.size})
            means = [self._tensor(total, i) for i in range(len(self._like))]
        if self._number is not None:  # they are copies
            self.release()
        return means

    def _reduce(self, weight: float) -> Array:
        """A vector that has the mean where this worker's part is; the next step begins."""
        exchange, sums = self._exchange, self.leaf_sums
        held = sums.take(exchange.nodes[self._group.rank])
        total = exchange.sum(held, sums.buffer, sums.give_back)
        sums.divide(total, weight, *exchange.parts[self._group.rank])
        sums.start()
        self._mean = total
        return total

    def release(self) -> None:
        """Takes the memory of the last mean for later leaves."""
        if self._mean is not None:
            self.leaf_sums.give_back([self._mean])
            self._mean = None

    def _tensor(self, total: Array, i: int) -> Tensor:
        like, values = self._like[i], self.leaf_sums.vector.whole(total, i)
        if self._number is None:
            flat = torch.from_numpy(values)
        else:
            flat = torch.empty(like.numel(), dtype=compute_type(like.dtype), device=self._device)
            with self._backend() as backend:
                backend.module.assign(backend.array(flat, "mean"), values)
        return flat.to(like.dtype).as_strided(like.shape, like.stride())


class ShardSums(TensorSums):
    """A step's sums of flat tensors that are cut into a shard for each worker; each ends with its own.

    Args:
        shard: a tensor like this worker's, where the sums are made.
    """

    def __init__(self, shard: Tensor, leaves: int, group: Group) -> None:
        super().__init__([shard] * group.size, leaves, group)
        # The shards lie in the order in which the exchange hands out its parts, each of as many blocks.
        order = sorted(range(group.size), key=lambda rank: self._exchange.parts[rank])
        self._places = [order.index(rank) for rank in range(group.size)]

    def place_shards(self, buffer: Array, values: Tensor, weight: float, adds: bool) -> None:
        """Writes a leaf's weighed tensor, all shards one after another, or adds it."""
        for place, shard in zip(self._places, values.chunk(len(self._places)), strict=True):
            self.place(buffer, place, shard, weight, adds)

    def write_shard(self, weight: float, out: Tensor) -> None:
        """Writes this worker's shard of the mean of all leaves. Every worker calls it."""
        with self._backend():
            out.copy_(self._tensor(self._reduce(weight), self._places[self._group.rank]))
        self.release()
