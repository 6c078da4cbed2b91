"""The roof: the least time in which this machine reads and writes the arrays of a step (csrc/run/roof.h)."""

from __future__ import annotations

from collections.abc import Sequence

from ..._core import Roof
from ...backends.arrays import Array

__all__ = ["Roof", "roof_of"]


def roof_of(
    grads: Sequence[Array], params: Sequence[Array], states: Sequence[Sequence[Array]], threads: int
) -> Roof:
    """The roof of a step of these arrays, measured on these arrays, which keep their values.

    Args:
        grads: what a step reads, float32, of one block each.
        params: what it reads and writes, in shapes like these.
        states: by name of the state, what it reads and writes besides.
        threads: the most that move them.

    Example:
        >>> import numpy as np
        >>> from samestep.commands.bench.roof import roof_of
        >>> g, w, m = (np.full((2, 3), x, np.float32) for x in (1, 2, 3))
        >>> roof = roof_of([g], [w], [[m]], threads=1)
        >>> roof.ways
        ['one thread', 'one thread, fetched ahead']
        >>> roof.seconds(0) < 1.0
        True
    """
    written = zip(params, *states, strict=True)
    return Roof(
        [(g.reshape(-1), [a.reshape(-1) for a in arrays]) for g, arrays in zip(grads, written, strict=True)],
        threads,
    )
