"""Sums of leaves of tensors, and their mean on every worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...backends import cpu
from ...backends.arrays import Array
from ...parallel.exchange import Exchange
from ...parallel.groups import Group
from ...parallel.leaf_sums import LeafSums
from ...parallel.tree import ranges
from ..tensors import HALVES, as_array, compute_type, resolved

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


class TensorSums:
    """A step's sums of tensors over leaves.

    Tensors are added element by element as they lie in memory; 16-bit ones in float32.

    Args:
        like: dense tensors of the same shapes, strides and dtypes on every worker.
        leaves: M, how many leaves there are in all.

    Attributes:
        leaf_sums: of the leaves that are here.
        ranges: the leaves of each worker.
    """

    def __init__(self, like: Sequence[Tensor], leaves: int, group: Group) -> None:
        self._group = group
        # Of a parameter the sums need the size and the type alone, not the memory, which torch may replace.
        self._like = [torch.empty_like(t, device="meta") for t in like]
        params = [np.broadcast_to(_NUMPY[compute_type(t.dtype)](0), t.numel()) for t in like]
        self.leaf_sums = LeafSums(params, leaves, ranges(leaves, group.size)[group.rank], cpu)
        self._exchange = Exchange(group, leaves, self.leaf_sums.vector, self.leaf_sums.add)
        self.ranges = self._exchange.ranges
        self._mean: Array | None = None

    def place(self, buffer: Array, i: int, values: Tensor, weight: float, adds: bool = False) -> None:
        """Writes a leaf's weighed tensor into its buffer, or adds it to what is there."""
        like = self._like[i]
        values = resolved(values)
        if values.stride() != like.stride():
            values = torch.empty_like(like, device="cpu").copy_(values)
        if values.dtype in HALVES:
            values = values.to(torch.float32)
        g = as_array(values.as_strided((values.numel(),), (1,)), "grad")
        to = self.leaf_sums.vector.whole(buffer, i)
        if adds:
            weighed = np.empty_like(to)
            cpu.weigh_leaf(g, weight, weighed)
            cpu.add_leaves(to, weighed)
        else:
            cpu.weigh_leaf(g, weight, to)

    def clear(self, buffer: Array, i: int) -> None:
        """Writes zeros for a tensor that a leaf does not have."""
        self.leaf_sums.vector.whole(buffer, i)[...] = 0

    def mean(self, weight: float) -> list[Tensor]:
        """The mean of all leaves, once they are there. Every worker calls it.

        Args:
            weight: that of all leaves.

        Returns:
            A tensor for each of ``like``; they stay as they are until ``release`` is called.
        """
        group, exchange, sums = self._group, self._exchange, self.leaf_sums
        held = sums.take(exchange.nodes[group.rank])

        def spare() -> Array:
            held.append(sums.buffer())
            return held[-1]

        total = exchange.sum(held[:], spare)
        sums.divide(total, weight, *exchange.parts[group.rank])
        parts = [sums.vector.part(total, *blocks) for blocks in exchange.parts]
        mine = parts[group.rank]
        others = {rank: part for rank, part in enumerate(parts) if rank != group.rank}
        send = dict.fromkeys(others, mine) if mine.size else {}
        group.transfer(send, {rank: part for rank, part in others.items() if part.size})
        sums.give_back(buffer for buffer in held if buffer is not total)
        sums.start()
        self._mean = total
        return [self._tensor(total, i) for i in range(len(self._like))]

    def release(self) -> None:
        """Takes the memory of the last mean for later leaves."""
        if self._mean is not None:
            self.leaf_sums.give_back([self._mean])
            self._mean = None

    def _tensor(self, total: Array, i: int) -> Tensor:
        like = self._like[i]
        flat = torch.from_numpy(self.leaf_sums.vector.whole(total, i)).to(like.dtype)
        return flat.as_strided(like.shape, like.stride())
