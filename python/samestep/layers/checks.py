"""Checks of arrays that a function reads or writes beside its first argument."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backends import arrays
from ..backends.arrays import Array

Like = tuple[str, Array]  # an argument whose dtype others have, and its name


def reshape_hint(name: str, a: Array, shape: tuple[int, ...] | None = None) -> str:
    """The call that gives an array the right shape, or "" if it has another number of elements."""
    if shape is not None and a.size != math.prod(shape):
        return ""
    to = a.size if shape is None else shape[0] if len(shape) == 1 else shape
    return f"; pass {f'np.asarray({name})' if isinstance(a, np.ndarray) else name}.reshape({to})"


def check_dtype(name: str, a: Any, like: Like) -> None:
    """Raises unless ``a`` is an aligned array of the dtype of ``like``."""
    arrays.check_aligned_array(name, a)
    other, dtype = like[0], like[1].dtype
    if a.dtype != dtype:
        raise TypeError(
            f"{name}: got dtype {a.dtype}, expected {other}'s {dtype}; use {name}.astype(np.{dtype})"
        )


def check_vector(name: str, a: Any, like: Like, n: int, what: str) -> None:
    """Raises unless ``a`` has shape (n,), one for each ``what``, the dtype of ``like`` and no gaps."""
    check_dtype(name, a, like)
    if a.shape != (n,):
        fix = reshape_hint(name, a, (n,))
        raise ValueError(f"{name}: got shape {a.shape}, expected ({n},), one for each {what}{fix}")
    if not a.flags.c_contiguous:
        raise ValueError(f"{name}: strides {a.strides} leave gaps; pass np.ascontiguousarray({name})")


def check_same_layout(name: str, a: Any, x: Array) -> None:
    """Raises unless ``a`` has the dtype, shape and layout of ``x``."""
    check_dtype(name, a, ("x", x))
    if a.shape != x.shape:
        fix = reshape_hint(name, a, x.shape)
        raise ValueError(f"{name}: got shape {a.shape}, expected x's {x.shape}{fix}")
    if a.size and not arrays.same_layout(a, x):
        raise ValueError(
            f"{name}: strides {a.strides} differ from x's {x.strides}, expected the layout of x; "
            f"copy it into that: a = np.empty_like(x); a[...] = {name}"
        )


def check_out(
    module: Any, out: Any, x: Array, read: Mapping[str, Array], may_be: tuple[str, Array] | None = None
) -> Array:
    """The array for the result: ``out``, checked, or a new one if that is None.

    Args:
        module: the backend.
        out: the caller's array, or None.
        x: the array whose dtype, shape and layout the result has.
        read: arrays that must not overlap ``out``, by name.
        may_be: name and array of the one that ``out`` may be; it may not overlap a part of it.
    """
    if out is None:
        new: Array = module.empty_like(x)
        return new
    arrays.check_inplace("out", out)
    check_same_layout("out", out, x)
    if may_be is not None:
        name, a = may_be
        if arrays.address(out) != arrays.address(a) and arrays.may_overlap(out, a):
            raise ValueError(f"out: overlaps a part of {name}; pass {name} itself, or a separate array")
    for name, a in read.items():
        if arrays.may_overlap(out, a):
            raise ValueError(
                f"out: overlaps {name} in memory, which is read after out is written; pass a separate array"
            )
    result: Array = np.asarray(out) if isinstance(out, np.ndarray) else out
    return result
