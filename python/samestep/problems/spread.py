"""Squared errors of rows that are spread over workers: with the bits of one process that has all rows.

A batch is cut into blocks of 1024 rows, in its order. Each block is added up by the worker that has most of
its rows; the others send it theirs. So where all rows are in use, or whole ranges of them, none travels; of
rows that are drawn at random, most travel once. Then the sums travel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..backends.arrays import Array, digest, read_only_copy
from ..backends.reference.sums import SUM_BLOCK
from ..spread import Spread, Workers, blocks_of, check_cut, check_same, do_together, total
from .examples import Floats, Integers

T = TypeVar("T")
Checked = tuple[str, Floats, Floats]

_SAME = "every worker computes with the same weights, rows and scale"


def check_spread(group: Workers, check: Callable[[], Checked], scale: str) -> tuple[Checked, list[int]]:
    """The worker's own examples, checked together with those of all, and how many rows each has."""
    checked, facts = do_together(
        group, check, lambda found: [found[1].dtype.name, found[1].shape[1], scale, len(found[1])]
    )
    check_same("Phi", "the dtype", [fact[0] for fact in facts])
    check_same("Phi", "so many columns:", [fact[1] for fact in facts])
    check_same("scale", "the scale", [fact[2] for fact in facts], _SAME)
    counts = [fact[3] for fact in facts]
    check_cut("Phi", counts, "rows")
    if sum(counts) == 0:
        raise ValueError(f"Phi: got no row on any of {group.size} workers, expected at least one")
    return checked, counts


class SpreadMse:
    """The kernels over the rows of all workers: ``face.Mse``, whose calls all workers make.

    Args:
        group: the workers.
        module: of a backend in main memory.
        Phi: this worker's rows, shape (n, p).
        y: their targets, shape (n,).
        scale: c: a factor, and whether that is divided by the number of rows in use.
        counts: the rows of each worker.
        whole: makes the problem of all rows.
    """

    def __init__(
        self,
        group: Workers,
        module: Any,
        Phi: Array,
        y: Array,
        scale: tuple[float, bool],
        counts: Sequence[int],
        whole: Callable[[Array, Array], Any],
    ) -> None:
        self._group, self._module, self._scale = group, module, scale
        self._Phi, self._y, self._counts = Phi, y, list(counts)
        # The first row of each worker, then the number of all.
        self._firsts = np.cumsum([0, *counts], dtype=np.int64)
        self._make_whole, self._whole, self._is_gathered = whole, None, False
        # No cached_property, which keeps a lock while workers wait for others.
        self._found: dict[str, Array] = {}
        if len(y):
            self._kernels = module.Mse(Phi, y, *scale)
        else:  # kernels need a row, which none of the sums reads
            self._kernels = module.Mse(np.zeros((1, Phi.shape[1]), Phi.dtype), np.zeros(1, Phi.dtype), *scale)

    def check(self, check: Callable[[], tuple[Floats, Integers | None]]) -> tuple[Floats, Integers | None]:
        """The weights and rows that ``check`` returns, which must be the same on every worker."""
        found, facts = do_together(self._group, check, _facts_of_batch)
        check_same("w", "the digest", [fact[0] for fact in facts], _SAME)
        check_same("rows", "the digest", [fact[1] for fact in facts], _SAME)
        return found

    def evaluate(self, w: Array, rows: Integers | None, r: Array | None, g: Array | None) -> float:
        """As ``face.Mse``; the residuals are those of this worker's rows alone, and are computed here."""
        if r is not None:
            return float(self._kernels.evaluate(w, None, r, None)) if len(r) else 0.0
        of_gradient = g is not None
        if rows is None:
            holders, count = blocks_of(self._counts), int(self._firsts[-1])
            found = self._kernels.block_sums(w, None, of_gradient) if len(self._y) else None
        else:
            holders, count = self._holders(rows), len(rows)
            found = self._block_sums(w, rows, holders, of_gradient)
        squares, gradient = (np.zeros(0), np.zeros(0)) if found is None else found
        spreads = [Spread(holders, squares.reshape(1, -1, 1))]
        if of_gradient:
            spreads.append(Spread(holders, gradient.reshape(1, len(squares), len(w))))
        squared, *of_columns = total(self._group, self._module, spreads)
        sums = of_columns[0] if of_columns else None
        return float(self._kernels.finish(count, float(squared[0]), sums, g))

    def _owners(self, rows: Integers) -> NDArray[np.int64]:
        """The worker of each row. Of several that begin with it, all but the last have no rows."""
        owners: NDArray[np.int64] = np.searchsorted(self._firsts, rows, side="right") - 1
        return owners

    def _holders(self, rows: Integers) -> NDArray[np.int64]:
        """Of each block of the batch the worker that has most of its rows, the first of several."""
        blocks, size = -(-len(rows) // SUM_BLOCK), self._group.size
        places = np.arange(len(rows)) // SUM_BLOCK * size + self._owners(rows)
        holders: NDArray[np.int64] = (
            np.bincount(places, minlength=blocks * size).reshape(blocks, size).argmax(1)
        )
        return holders

    def _block_sums(
        self, w: Array, rows: Integers, holders: NDArray[np.int64], of_gradient: bool
    ) -> tuple[Array, Array] | None:
        """The sums of the blocks that this worker holds, once the rows that it lacks have come."""
        rank, p = self._group.rank, len(w)
        owners, adders = self._owners(rows), np.repeat(holders, SUM_BLOCK)[: len(rows)]
        own, mine = owners == rank, adders == rank
        send, receive = {}, {}
        for other in range(self._group.size):
            given = rows[own & (adders == other)] - self._firsts[rank]
            if other != rank and len(given):
                send[other] = np.column_stack([self._Phi[given], self._y[given]])
            coming = np.count_nonzero(mine & (owners == other))
            if other != rank and coming:
                receive[other] = np.empty((coming, p + 1), self._Phi.dtype)
        self._group.transfer(send, receive)
        if not mine.any():
            return None
        local = rows[mine] - self._firsts[rank]
        if not receive:
            return self._kernels.block_sums(w, local, of_gradient)  # type: ignore[no-any-return]
        here = own[mine]
        Phi, y = np.empty((len(local), p), self._Phi.dtype), np.empty(len(local), self._Phi.dtype)
        Phi[here], y[here] = self._Phi[local[here]], self._y[local[here]]
        for other, came in receive.items():
            places = owners[mine] == other
            Phi[places], y[places] = came[:, :p], came[:, p]
        return self._module.Mse(Phi, y, *self._scale).block_sums(w, None, of_gradient)  # type: ignore[no-any-return]

    def of_whole(self, name: str) -> Array:
        """What the problem of all rows has by that name: read-only. Worker 0 computes it and tells all."""
        if name not in self._found:
            if not self._is_gathered:
                self._gather()
            result, facts = do_together(
                self._group, lambda: self._on_worker_0(name), lambda a: [a.dtype.name, a.shape]
            )
            dtype, shape = facts[0]
            counts = [math.prod(shape), *[0] * (self._group.size - 1)]
            found = self._group.all_gather(result.reshape(-1).astype(dtype), counts)[0].reshape(shape)
            self._found[name] = read_only_copy(found)
        return self._found[name]

    def _on_worker_0(self, name: str) -> Array:
        if self._group.rank:
            return np.zeros(0)
        value = getattr(self._whole, name)
        return np.array(value() if callable(value) else value)

    def _gather(self) -> None:
        """Brings all rows to worker 0."""
        group = self._group
        n = int(self._firsts[-1]) if group.rank == 0 else 0

        def make_room() -> tuple[Array, Array]:
            return np.empty((n, self._Phi.shape[1]), self._Phi.dtype), np.empty(n, self._Phi.dtype)

        (Phi, y), _ = do_together(group, make_room)
        others = range(1, group.size)
        for whole, part in ((Phi, self._Phi), (y, self._y)):
            if group.rank == 0:
                whole[: len(part)] = part
                places = {rank: whole[self._firsts[rank] : self._firsts[rank + 1]] for rank in others}
                group.transfer({}, {rank: place for rank, place in places.items() if len(place)})
            else:
                group.transfer({0: part} if len(part) else {}, {})
        if group.rank == 0:
            self._whole = self._make_whole(Phi, y)
        self._is_gathered = True


def _facts_of_batch(batch: tuple[Floats, Integers | None]) -> list[str | None]:
    """Digests of the weights and of the rows, whose numbers are as float64 subnormal: none is NaN."""
    w, rows = batch
    return [digest([w])[:16], None if rows is None else digest([rows.view(np.float64)])[:16]]
