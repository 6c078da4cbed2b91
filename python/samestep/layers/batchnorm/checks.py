"""What the functions and the layer ask of their arguments, and how kernels walk an array that fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...arguments import number
from ...backends import arrays
from ...backends.arrays import Array


class Walk(NamedTuple):
    """How kernels go over an array: ``arrange`` gives the view of it in C order."""

    arrange: Callable[[Array], Array]
    sizes: tuple[int, int, int]
    channels_last: bool

    @property
    def channels(self) -> int:
        return self.sizes[1]

    @property
    def values(self) -> int:
        return self.sizes[0] * self.sizes[2]


def check_eps(eps: Any) -> float:
    found = number("eps", eps)
    if not 0.0 <= found < math.inf:  # NaN fails as well
        raise ValueError(f"eps: got {found}, expected a finite number, 0 or more")
    return found


def check_momentum(momentum: Any) -> float:
    found = number("momentum", momentum)
    if not 0.0 <= found <= 1.0:
        raise ValueError(f"momentum: got {found}, expected a number from 0 to 1")
    return found


def check_axis(axis: Any) -> int:
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool) or axis not in (1, -1):
        raise ValueError(f"axis: got {axis!r}, expected 1 or -1, where the channels are")
    return int(axis)


def reshaped(name: str, a: Array, shape: tuple[int, ...] | None = None) -> str:
    """What to do with an array of another shape, if it has the right elements."""
    if shape is not None and a.size != math.prod(shape):
        return ""
    to = a.size if shape is None else shape[0] if len(shape) == 1 else shape
    return f"; pass {f'np.asarray({name})' if isinstance(a, np.ndarray) else name}.reshape({to})"


def check_values(x: Any, axis: int, at_least: int) -> Walk:
    """How to walk ``x``, or an error that says why it cannot be walked."""
    axis = check_axis(axis)
    arrays.check_aligned_array("x", x)
    if x.ndim < 2:
        raise ValueError(
            f"x: got shape {x.shape}, expected samples and channels: (N, C), (N, C, ...) or (N, ..., C)"
        )
    N, C = x.shape[0], x.shape[axis]
    values = (
        math.prod(x.shape) // C if C else math.prod(n for i, n in enumerate(x.shape) if i != axis % x.ndim)
    )
    if values < at_least:
        raise ValueError(
            f"x: shape {x.shape} has {values} values a channel, expected at least 2 in training: "
            "the variance of one value says nothing"
        )
    if C == 0:
        raise ValueError(f"x: shape {x.shape} has no channels, expected at least one")

    def as_is(a: Array) -> Array:
        return a

    def channels_first(a: Array) -> Array:
        return _move_axis(a, axis, 1)

    def channels_last(a: Array) -> Array:
        return _move_axis(a, axis, a.ndim - 1)

    if C == 1 and x.flags.c_contiguous:
        return Walk(as_is, (1, 1, values), False)
    # One position a channel: both walks are the same, and whole rows are the faster.
    if channels_last(x).flags.c_contiguous:
        return Walk(channels_last, (values, C, 1), True)
    if channels_first(x).flags.c_contiguous:
        return Walk(channels_first, (N, C, values // N), False)
    raise ValueError(
        f"x: strides {x.strides} for shape {x.shape} have gaps, or the channels neither first nor last; "
        "pass np.ascontiguousarray(x)"
    )


def _move_axis(a: Array, axis: int, to: int) -> Array:
    axes = [i for i in range(a.ndim) if i != axis % a.ndim]
    axes.insert(to, axis % a.ndim)
    return a.transpose(axes)


def check_like(name: str, a: Any, x: Array) -> None:
    arrays.check_aligned_array(name, a)
    if a.dtype != x.dtype:
        raise TypeError(
            f"{name}: got dtype {a.dtype}, expected x's {x.dtype}; use {name}.astype(np.{x.dtype})"
        )
    if a.shape != x.shape:
        fix = reshaped(name, a, x.shape)
        raise ValueError(f"{name}: got shape {a.shape}, expected x's {x.shape}{fix}")
    if a.size and not arrays.same_layout(a, x):
        raise ValueError(
            f"{name}: strides {a.strides} differ from x's {x.strides}, so the two cannot be walked "
            f"together; lay it out like x: a = np.empty_like(x); a[...] = {name}"
        )


def check_channels(name: str, a: Any, walk: Walk, x: Array) -> None:
    arrays.check_aligned_array(name, a)
    if a.dtype != x.dtype:
        raise TypeError(
            f"{name}: got dtype {a.dtype}, expected x's {x.dtype}; use {name}.astype(np.{x.dtype})"
        )
    if a.shape != (walk.channels,):
        fix = reshaped(name, a, (walk.channels,))
        raise ValueError(
            f"{name}: got shape {a.shape}, expected ({walk.channels},), one for each channel{fix}"
        )
    if not a.flags.c_contiguous:
        raise ValueError(f"{name}: strides {a.strides} leave gaps; pass np.ascontiguousarray({name})")


def result_for(
    run: Any, out: Any, x: Array, read: Mapping[str, Array], may_be: tuple[str, Array] | None = None
) -> Array:
    """``out`` if the result can be written to it while ``read`` is read, or a new array."""
    if out is None:
        new: Array = run.empty_like(x)
        return new
    arrays.check_inplace("out", out)
    check_like("out", out, x)
    if may_be is not None:
        name, a = may_be
        if arrays.address(out) != arrays.address(a) and arrays.may_overlap(out, a):
            raise ValueError(f"out: overlaps a part of {name}; pass {name} itself, or an array of its own")
    for name, a in read.items():
        if arrays.may_overlap(out, a):
            raise ValueError(
                f"out: overlaps {name} in memory, which is still needed; pass an array of its own"
            )
    result: Array = np.asarray(out) if isinstance(out, np.ndarray) else out
    return result
