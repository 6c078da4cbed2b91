"""The parts of the parameters that the workers step, and how they come together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import backends
from ..backends.arrays import Array, check_inplace, is_half
from ..backends.options import Options
from ..optim.optimizer import Optimizer
from ..optim.recorded import StepSums
from .groups import Group
from .vector import Piece, Vector


class Parts:
    """Which elements each worker steps.

    Args:
        params: all parameters, in C order.
        backend: whose arrays these are.
        parts: the blocks of each worker: first, last.
        group: the worker's place among all.

    Attributes:
        own: copies of the worker's elements, one flat array a parameter, some of them empty.
    """

    def __init__(
        self, params: Sequence[Array], backend: str, parts: Sequence[tuple[int, int]], group: Group
    ) -> None:
        self._params, self._parts, self._group = params, parts, group
        self._module = backends.module(backend)
        self._vector = self._vector_of([w.dtype for w in params])
        self.pieces = self._vector.pieces(*parts[group.rank])
        self._own_bytes, self.own = self._own_part(self._vector, self.cut(params))

    def _vector_of(self, dtypes: Sequence[np.dtype[Any]]) -> Vector:
        sizes = [w.size for w in self._params]
        return Vector(sizes, dtypes, self._module, next(iter(self._params), None))

    def _own_part(self, vector: Vector, own: Sequence[Array]) -> tuple[Array, list[Array]]:
        """The worker's elements as they lie in its part of a vector: as bytes, and as arrays in these."""
        first, last = self._parts[self._group.rank]
        part = vector.memory(vector.byte(last) - vector.byte(first))
        views = [vector.view(part, piece, first) for piece in self.pieces]
        for view, values in zip(views, own, strict=True):
            self._module.assign(view, values)
        return part, views

    def cut(self, whole: Sequence[Array]) -> list[Array]:
        """The worker's elements of arrays like the parameters."""
        return _cut(whole, self.pieces)

    def cut_state(self, state: Mapping[str, list[Array]]) -> dict[str, list[Array]]:
        """The worker's elements of state arrays that are like the parameters."""
        for name, whole in state.items():
            kinds = {type(a).__name__ for a in whole if not isinstance(a, np.ndarray)}
            if kinds:
                raise TypeError(f"state[{name!r}]: got {', '.join(kinds)}, expected NumPy arrays")
            shapes, expected = [a.shape for a in whole], [w.shape for w in self._params]
            if shapes != expected:
                raise ValueError(f"state[{name!r}]: got arrays of shape {shapes}, expected {expected}")
        return {name: self.cut(whole) for name, whole in state.items()}

    def gather(self, own: Sequence[Array]) -> list[Array]:
        """Arrays like the parameters, of which each worker gives its elements."""
        if not own:
            return []
        vector = self._vector_of([part.dtype for part in own])
        part, _ = self._own_part(vector, own)
        buffer = vector.buffer()
        self._module.assign(vector.part(buffer, *self._parts[self._group.rank]), part)
        self._receive_others(vector, part, buffer)
        return [vector.whole(buffer, i).reshape(w.shape) for i, w in enumerate(self._params)]

    def step(
        self,
        optimizer: Optimizer,
        grads: list[Any],
        scale: float,
        following: Any,
        buffer: Array,
        sums: StepSums | None,
    ) -> None:
        """Steps the worker's elements. The parameters change once those of all workers have come.

        Args:
            following: the hyper-parameters of this step.
            buffer: has room for all parameters; it may be where the gradients lie.
            sums: that take those of all workers, which go with what the workers tell each other anyway.
        """
        for own, now in zip(self.own, self.cut(self._params), strict=True):
            self._module.assign(own, now)  # the caller may have changed it
        error: Exception | None = None
        try:
            optimizer._step_flat(grads, scale, following)
        except Exception as found:  # the others must not wait for this worker
            error = found
        mine = np.zeros(0, np.uint64) if sums is None or not sums.are_wanted else sums.rows.ravel()
        told = np.concatenate([np.array([error is not None], np.uint64), mine])
        everyone = self._group.all_gather(told, [told.size] * self._group.size)
        if error is not None:
            raise error
        failed = [bool(one[0]) for one in everyone]
        if any(failed):
            rank = failed.index(True)
            raise RuntimeError(f"worker {rank} could not step; no parameter has been changed")
        self._receive_others(self._vector, self._own_bytes, buffer)
        for rank, part in enumerate(self._parts):
            pieces = self._vector.pieces(*part)
            is_own = rank == self._group.rank
            new = self.own if is_own else [self._vector.view(buffer, piece) for piece in pieces]
            for w, values in zip(_cut(self._params, pieces), new, strict=True):
                self._module.assign(w, values)
        if sums is not None:
            sums.total = np.add.reduce(everyone)[1:]

    def _receive_others(self, vector: Vector, mine: Array, buffer: Array) -> None:
        """Sends the bytes of the worker's part to all others, and fills their parts of the buffer."""
        parts = {rank: vector.part(buffer, *blocks) for rank, blocks in enumerate(self._parts)}
        del parts[self._group.rank]
        send = dict.fromkeys(parts, mine) if mine.size else {}
        self._group.carry(send, {rank: part for rank, part in parts.items() if part.size})

    # ---- what goes by all gradients together ----

    def admit(
        self, grads: Sequence[Array | None], options: Options, scale: float, backend: str
    ) -> tuple[float, float | None]:
        """The norm of all gradients, and the scale of the step; None: it is to be left out.

        Args:
            grads: of the worker's elements.
            backend: of the optimizer, which computes.
        """
        norm, module = np.nan, backends.module(backend)
        if options.clip_norm is not None:
            norm = self._norm(grads, scale, backend)
            scale = backends.host_module(backend).clipped_scale(scale, norm, options.clip_norm)
        if options.nonfinite == "propagate" or np.isfinite(norm):
            return norm, scale
        finite = all(g is None or _is_finite(g, module) for g in grads)
        found = self._group.all_gather(np.array([finite]), [1] * self._group.size)
        return norm, scale if all(one[0] for one in found) else None

    def _norm(self, grads: Sequence[Array | None], scale: float, backend: str) -> float:
        module, host = backends.module(backend), backends.host_module(backend)
        sums = [np.zeros(0) if g is None else _squares(g, module) for g in grads]
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
                totals.append(host.pair_sums(blocks[at : at + n].copy(), 1, n, 1)[0])
                at += n
        return float(host.norm_of(np.array(totals, np.float64), scale))


def check_param(name: str, w: Any) -> Array:
    """The parameter as a plain array, or the error that it cannot be overwritten, or cut."""
    check_inplace(name, w, halves=True)
    if not w.flags.c_contiguous:
        raise ValueError(
            f"{name}: its elements are not in C order, in which they are cut for the workers; pass a copy "
            f'that is, such as {name}.copy(order="C"), and use that as the parameter'
        )
    return np.asarray(w) if isinstance(w, np.ndarray) else w


def _squares(g: Array, module: Any) -> Array:
    """The sums of squares of blocks, in main memory."""
    terms = module.widened(g) if is_half(g) else g
    squares: Array = backends.in_main_memory(module.block_sums(terms, 1, g.size, 1, True))
    return squares


def _is_finite(g: Array, module: Any) -> bool:
    """Whether all elements are finite: so they are if the sums of their squares are."""
    if np.isfinite(_squares(g, module)).all():
        return True
    overflows = g.dtype.itemsize == 8  # the square of a finite float64 may
    return overflows and bool(np.isfinite(backends.in_main_memory(g)).all())


def _cut(whole: Sequence[Array], pieces: Sequence[Piece]) -> list[Array]:
    return [array.reshape(-1)[piece.begin : piece.end] for piece, array in zip(pieces, whole, strict=True)]
