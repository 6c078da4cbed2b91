"""The parts of the parameters that the workers step, and how they come together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backends.arrays import Array, is_half
from ..backends.options import Options
from ..optim.optimizer import Optimizer
from .groups import Group
from .vector import Vector


class Parts:
    """Which elements each worker steps.

    Args:
        params: all parameters, in C order.
        parts: the blocks of each worker: first, last.
        group: the worker's place among all.

    Attributes:
        own: copies of the worker's elements, one flat array a parameter, some of them empty.
    """

    def __init__(self, params: Sequence[Array], parts: Sequence[tuple[int, int]], group: Group) -> None:
        self._params, self._parts, self._group = params, parts, group
        self._vector = self._vector_of([w.dtype for w in params])
        self.pieces = self._vector.pieces(*parts[group.rank])
        self.own = [piece.copy() for piece in self.cut(params)]

    def _vector_of(self, dtypes: Sequence[np.dtype[Any]]) -> Vector:
        return Vector([w.size for w in self._params], dtypes)

    def cut(self, whole: Sequence[Array]) -> list[Array]:
        """The worker's elements of arrays like the parameters."""
        return [
            array.reshape(-1)[piece.begin : piece.end]
            for piece, array in zip(self.pieces, whole, strict=True)
        ]

    def gather(self, own: Sequence[Array]) -> list[Array]:
        """Arrays like the parameters, of which each worker gives its elements."""
        if not own:
            return []
        vector = self._vector_of([part.dtype for part in own])
        buffer = vector.buffer()
        self._collect(vector, own, buffer)
        return [vector.whole(buffer, i).reshape(w.shape) for i, w in enumerate(self._params)]

    def step(self, optimizer: Optimizer, grads: list[Any], scale: float, buffer: Array) -> None:
        """Steps the worker's elements. The parameters change once those of all workers have come.

        ``buffer`` has room for all parameters; it may be where the gradients lie.
        """
        for own, now in zip(self.own, self.cut(self._params), strict=True):
            own[...] = now  # the caller may have changed it
        error: Exception | None = None
        try:
            optimizer._step_flat(grads, scale)
        except Exception as found:  # the others must not wait for this worker
            error = found
        failed = self._group.all_gather(np.array([error is not None]), [1] * self._group.size)
        if error is not None:
            raise error
        if any(failed):
            rank = [bool(one[0]) for one in failed].index(True)
            raise RuntimeError(f"worker {rank} could not step; no parameter has been changed")
        self._collect(self._vector, self.own, buffer)
        for i, w in enumerate(self._params):
            w.reshape(-1)[...] = self._vector.whole(buffer, i)

    def _collect(self, vector: Vector, own: Sequence[Array], buffer: Array) -> None:
        for piece, part in zip(self.pieces, own, strict=True):
            vector.view(buffer, piece)[...] = part
        parts = [vector.part(buffer, *blocks) for blocks in self._parts]
        mine = parts[self._group.rank]
        others = {rank: part for rank, part in enumerate(parts) if rank != self._group.rank}
        send = dict.fromkeys(others, mine) if mine.size else {}
        self._group.transfer(send, {rank: part for rank, part in others.items() if part.size})

    # ---- what goes by all gradients together ----

    def admit(
        self, grads: Sequence[Array | None], options: Options, scale: float, module: Any
    ) -> tuple[float, float | None]:
        """The norm of all gradients, and the scale of the step; None: it is to be left out.

        Args:
            grads: of the worker's elements.
            module: of the backend.
        """
        norm = np.nan
        if options.clip_norm is not None:
            norm = self._norm(grads, scale, module)
            scale = module.clipped_scale(scale, norm, options.clip_norm)
        if options.nonfinite == "propagate" or np.isfinite(norm):
            return norm, scale
        finite = all(g is None or np.isfinite(_widened(g)).all() for g in grads)
        found = self._group.all_gather(np.array([finite]), [1] * self._group.size)
        return norm, scale if all(one[0] for one in found) else None

    def _norm(self, grads: Sequence[Array | None], scale: float, module: Any) -> float:
        sums = [
            np.zeros(0) if g is None else module.block_sums(_widened(g), 1, g.size, 1, True) for g in grads
        ]
        counts = [
            sum(piece.blocks for piece, g in zip(pieces, grads, strict=True) if g is not None)
            for pieces in (self._vector.pieces(*part) for part in self._parts)
        ]
        found = self._group.all_gather(np.concatenate([np.zeros(0), *sums]), counts)
        # In the order of the blocks, which may not be that of the ranks.
        order = sorted(range(self._group.size), key=lambda rank: self._parts[rank])
        blocks = np.concatenate([found[rank] for rank in order])
        totals, at = [], 0
        for i, g in enumerate(grads):
            if g is not None:
                n = len(self._vector.blocks_of(i))
                totals.append(module.pair_sums(blocks[at : at + n].copy(), 1, n, 1)[0])
                at += n
        return float(module.norm_of(np.array(totals, np.float64), scale))


def _widened(g: Array) -> Array:
    return g.astype(np.float32) if is_half(g) else g
