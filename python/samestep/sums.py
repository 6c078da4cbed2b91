"""Sums in the canonical order: the same bits on every machine, at memory speed."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backends
from .backends.arrays import Array, as_plain, check_readable, flatten


def canonical_sum(x: Array, axis: int | None = None, *, backend: str = "auto") -> NDArray[np.float64]:
    """The sum of ``x`` over one axis (or all of it) in float64, in one fixed order of additions.

    The terms are cut into blocks of 1024. Term i of a block is added to lane i mod 32, which starts at +0;
    the 32 lanes are added half to half; the sums of the blocks are added in pairs. Unlike that of ``np.sum``,
    this order does not depend on the memory layout, the instruction set, the number of threads or the NumPy
    version. The rounding error is that of a pairwise sum.

    Args:
        x: float32 or float64, any shape, C order. If it is on a GPU, so is the result.
        axis: the axis to sum over; None sums over all elements in C order.
        backend: "auto" (by the memory in which the array lives), "cpu", "reference" (the NumPy twin: the same
            bits, slowly) or "cuda".

    Returns:
        float64 array with the shape of ``x`` without ``axis``; 0-d for None. A sum of no terms is +0.0.

    Raises:
        TypeError: ``x`` is no array of float32 or float64, or ``axis`` no whole number.
        ValueError: ``x`` is not in C order or not aligned, or has no such axis; an unknown backend.

    Source:
        Higham, The accuracy of floating point summation (1993), for the error of pairwise sums.
        docs/numerics.md and csrc/contract/sums.h for the order.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.canonical_sum(np.float32([[1, 2, 3], [4, 5, 6]]), axis=0)
        array([5., 7., 9.])
        >>> float(ss.canonical_sum(np.full(10, 0.1)))
        1.0
    """
    backend, (x,) = backends.choose_backend(backend, {"x": x})
    module = backends.module(backend)
    x = as_plain(check_readable("x", x))
    if axis is None:
        total: NDArray[np.float64] = module.canonical_sum(x, 1, x.size, 1)
        return total.reshape(())
    try:
        if isinstance(axis, (bool, np.bool_)):
            raise TypeError
        index = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: got {axis!r}, expected a whole number or None") from None
    if not -x.ndim <= index < x.ndim:
        raise ValueError(f"axis: got {axis}, expected one of the {x.ndim} axes of x with shape {x.shape}")
    index %= x.ndim
    before, after = x.shape[:index], x.shape[index + 1 :]
    sums: NDArray[np.float64] = module.canonical_sum(x, math.prod(before), x.shape[index], math.prod(after))
    return sums.reshape(before + after)


def global_norm(arrays: Any, *, backend: str = "auto") -> float:
    """The Euclidean norm of all elements of all ``arrays`` together.

    ``sqrt(s_1 + s_2 + ...)`` with ``s_k = canonical_sum(g_k*g_k)``, the products in float64. The sums s_k are
    added in pairs, in the order of the list.

    Args:
        arrays: an array, or nested lists, tuples and dicts of arrays; float32 or float64, any shape, C order.
        backend: as in :func:`canonical_sum`.

    Returns:
        The norm; 0.0 without arrays.

    Raises:
        TypeError: an entry is no array of float32 or float64.
        ValueError: an array is not in C order or not aligned; an unknown backend.

    Source:
        As :func:`canonical_sum`.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.global_norm([np.float32([3.0]), np.float64([4.0])])
        5.0
    """
    given, names = flatten(arrays, "arrays")
    backend, items = backends.choose_backend(backend, dict(zip(names, given, strict=True)))
    checked = [as_plain(check_readable(name, a)) for a, name in zip(items, names, strict=True)]
    return float(backends.module(backend).global_norm(checked))
