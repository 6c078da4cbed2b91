"""Batch norm of a batch whose samples are spread over workers: with the bits of one that has all of them.

Worker r has the samples after those of workers 0..r-1, however many. The terms of a channel, in their order
over all workers, are cut into blocks of 1024 as ever. A block is added up by the worker that has its first
term; the others send it what they have of the block, fewer than 1024 terms of each channel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...backends import cpu
from ...backends.arrays import Array
from ...backends.face import Sizes
from ...backends.reference.sums import SUM_BLOCK
from ...spread import Doubles, Spread, Workers, total


class Batch:
    """A batch, of which this worker has ``sizes`` = (N, C, S); N may be 0. Every worker makes it.

    Args:
        x: (N, C, S), or (N, S, C) with ``channels_last``, in C order. Each worker may have its own layout.

    Attributes:
        values: M, of each channel in the whole batch.
    """

    def __init__(self, group: Workers, x: Array, sizes: Sizes, channels_last: bool) -> None:
        self._group, self._sizes, self._channels_last = group, sizes, channels_last
        N, C, S = sizes
        rows = N * S
        first = self._terms(x, 0, 1) if rows else np.zeros((C, 1), x.dtype)
        facts = np.concatenate([np.array([rows], np.int64).view(np.uint8), first.reshape(-1).view(np.uint8)])
        everyone = group.all_gather(facts, [facts.size] * group.size)
        counts = np.array([one[:8].view(np.int64)[0] for one in everyone])
        begins = np.cumsum([0, *counts], dtype=np.int64)
        self.values = int(begins[-1])
        owner = int(np.argmax(counts > 0))
        self._shift = everyone[owner][8:].copy().view(x.dtype)
        # Of each worker the terms that belong to a block which begins on another one, and whose that is.
        self._heads = np.minimum(counts, -begins[:-1] % SUM_BLOCK)
        self._holders = np.searchsorted(begins[1:], np.arange(0, self.values, SUM_BLOCK), side="right")
        self._receivers = [
            int(self._holders[begin // SUM_BLOCK]) if head else -1
            for begin, head in zip(begins[:-1], self._heads, strict=True)
        ]
        self._head = int(self._heads[group.rank])
        self._whole = (rows - self._head) // SUM_BLOCK
        self._tail = self._head + self._whole * SUM_BLOCK

    def forward(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        out: Array,
        mean: Array,
        inv: Array,
        mean64: Doubles,
        var64: Doubles,
        relu: bool,
        eps: float,
    ) -> None:
        """``face.Backend.batchnorm_forward`` of the worker's part, with the statistics of the whole batch."""
        layout = self._sizes, self._channels_last
        self._edge = self._last_block(x)

        def add(sums: Doubles, is_edge: bool) -> None:
            if is_edge:
                edge_layout = (1, *self._edge.shape), False
                cpu.batchnorm_forward_blocks(self._edge, self._shift, sums, *edge_layout, 0)
            else:
                cpu.batchnorm_forward_blocks(x, self._shift, sums, *layout, self._head)

        sums = self._sum(add)
        statistics = mean, inv, mean64, var64
        cpu.batchnorm_forward_apply(
            x, self._shift, gamma, beta, sums, out, *statistics, *layout, relu, eps, self.values
        )

    def backward(
        self,
        dy: Array,
        x: Array,
        gamma: Array,
        beta: Array,
        mean: Array,
        inv: Array,
        out: Array,
        dgamma: Array,
        dbeta: Array,
        relu: bool,
    ) -> None:
        """``face.Backend.batchnorm_backward`` likewise, after ``forward``; dgamma and dbeta of the whole."""
        layout = self._sizes, self._channels_last
        channels = gamma, beta, mean, inv
        edge = self._last_block(dy)

        def add(sums: Doubles, is_edge: bool) -> None:
            if is_edge:
                edge_layout = (1, *edge.shape), False
                cpu.batchnorm_backward_blocks(edge, self._edge, *channels, sums, *edge_layout, relu, 0)
            else:
                cpu.batchnorm_backward_blocks(dy, x, *channels, sums, *layout, relu, self._head)

        sums = self._sum(add)
        cpu.batchnorm_backward_apply(dy, x, *channels, sums, out, dgamma, dbeta, *layout, relu, self.values)

    def _terms(self, x: Array, begin: int, end: int) -> Array:
        """Terms ``begin`` to ``end - 1`` of each channel: (C, end - begin)."""
        N, C, S = self._sizes
        if self._channels_last:
            return np.ascontiguousarray(x.reshape(N * S, C)[begin:end].T)
        first, last = begin // S, -(-end // S)  # of the samples that have them
        columns = x.reshape(N, C, S)[first:last].transpose(1, 0, 2).reshape(C, (last - first) * S)
        return np.ascontiguousarray(columns[:, begin - first * S : end - first * S])

    def _last_block(self, x: Array) -> Array:
        """The block that is not whole here, with what others have of it; (C, 0) if there is none."""
        group, (N, C, S) = self._group, self._sizes
        own = self._terms(x, self._tail, N * S) if self._tail < N * S else np.empty((C, 0), x.dtype)
        receiver = self._receivers[group.rank]
        send = {receiver: self._terms(x, 0, self._head)} if receiver >= 0 else {}
        receive = {
            rank: np.empty((C, int(self._heads[rank])), x.dtype)
            for rank, holder in enumerate(self._receivers)
            if holder == group.rank
        }
        group.transfer(send, receive)
        return np.concatenate([own, *(receive[rank] for rank in sorted(receive))], axis=1)

    def _sum(self, add: Callable[[Doubles, bool], None]) -> Doubles:
        """The totals of both sums over the batch, laid out as the backend takes them.

        ``add(sums, is_edge)`` writes those of this worker's whole blocks, or of its last one.
        """
        C = self._sizes[1]
        found = [np.empty((2, C, 0))]
        if self._whole:
            shape = (2, self._whole, C) if self._channels_last else (C, 2, self._whole)
            sums = np.empty(shape)
            add(sums, False)
            found.append(sums.transpose(0, 2, 1) if self._channels_last else sums.transpose(1, 0, 2))
        if self._edge.shape[1]:
            sums = np.empty((C, 2, 1))
            add(sums, True)
            found.append(sums.transpose(1, 0, 2))
        own = np.concatenate(found, axis=2).reshape(2 * C, -1, 1)
        (totals,) = total(self._group, cpu, [Spread(self._holders, own)])
        both = totals.reshape(2, C)
        return np.ascontiguousarray(both if self._channels_last else both.T)
