"""Sums in the canonical order: the same bits on every machine, at memory speed."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backends
from .backends import arrays as front_door
from .backends.arrays import Array


def canonical_sum(x: Array, axis: int | None = None, *, backend: str = "auto") -> NDArray[np.float64]:
    """The sum of ``x`` over one axis (or all of it) in float64, in one fixed order of additions.

    Unlike ``np.sum`` it does not depend on the memory layout, the instruction set, the number of
    threads or the NumPy version. Its error is that of a pairwise sum.

    Args:
        x: float32 or float64, contiguous (C order); on a GPU, the result is there, too.
        axis: the axis to sum over; None sums over all elements in C order.
        backend: "auto" (by where the array lives), "cpu", "reference" (the NumPy twin: the same bits,
            slowly) or "cuda".

    Returns:
        float64 array with the shape of ``x`` without ``axis``; 0-d for None. No terms give +0.0.

    Raises:
        TypeError, ValueError: ``x`` or ``axis`` does not fit.

    Source:
        The bit contract, section 3: blocks of 1024 terms, 32 lanes, halving, pairing.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.canonical_sum(np.float32([[1, 2, 3], [4, 5, 6]]), axis=0)
        array([5., 7., 9.])
        >>> float(ss.canonical_sum(np.full(10, 0.1)))
        1.0
    """
    backend, (x,) = backends.enter(backend, {"x": x})
    run = backends.module(backend)
    x = front_door.plain(front_door.check_readable("x", x))
    if axis is None:
        total: NDArray[np.float64] = run.canonical_sum(x, 1, x.size, 1)
        return total.reshape(())
    try:
        if isinstance(axis, (bool, np.bool_)):
            raise TypeError
        at = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: got {axis!r}, expected a whole number or None") from None
    if not -x.ndim <= at < x.ndim:
        raise ValueError(f"axis: got {axis}, expected one of the {x.ndim} axes of x with shape {x.shape}")
    at %= x.ndim
    before, after = x.shape[:at], x.shape[at + 1 :]
    sums: NDArray[np.float64] = run.canonical_sum(x, math.prod(before), x.shape[at], math.prod(after))
    return sums.reshape(before + after)


def global_norm(arrays: Any, *, backend: str = "auto") -> float:
    """The Euclidean norm of all elements of all ``arrays`` together.

    ``sqrt(sum of g*g)``: the canonical sum for each array (terms in float64), the arrays' sums
    paired in the order of the list, then the root.

    Args:
        arrays: an array, or nested lists, tuples and dicts of them; float32 or float64, contiguous.
        backend: "auto", "cpu", "reference" or "cuda".

    Returns:
        The norm; 0.0 of nothing.

    Raises:
        TypeError, ValueError: an array does not fit.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.global_norm([np.float32([3.0]), np.float64([4.0])])
        5.0
    """
    given, names = front_door.flatten(arrays, "arrays")
    backend, items = backends.enter(backend, dict(zip(names, given, strict=True)))
    seen = [
        front_door.plain(front_door.check_readable(name, a)) for a, name in zip(items, names, strict=True)
    ]
    return float(backends.module(backend).global_norm(seen))
