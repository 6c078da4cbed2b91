"""Checks of the arguments of batch norm, and where an array that passes has its channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...arguments import finite_number, number
from ...backends import arrays
from ...backends.arrays import Array
from ...backends.face import Sizes


class ChannelLayout(NamedTuple):
    """Where an array has its channels.

    Attributes:
        to_c_order: a function that returns the view in C order, of this array and of others like it.
        sizes: (N, C, S), samples, channels and positions of that view.
        channels_last: whether that view is (N, S, C), not (N, C, S).
    """

    to_c_order: Callable[[Array], Array]
    sizes: Sizes
    channels_last: bool

    @property
    def channels(self) -> int:
        return self.sizes[1]


def check_eps(eps: Any) -> float:
    return finite_number("eps", eps, at_least=0.0)


def check_momentum(momentum: Any) -> float:
    value = number("momentum", momentum)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"momentum: got {value}, expected a number from 0 to 1")
    return value


def check_axis(axis: Any) -> int:
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool) or axis not in (1, -1):
        raise ValueError(f"axis: got {axis!r}, expected 1 or -1, the axis of the channels")
    return int(axis)


def check_input(x: Any, axis: int, min_values: int) -> ChannelLayout:
    """The layout of ``x``, or an error that says why kernels cannot read it.

    Args:
        x: (N, C), (N, C, ...) or, for axis -1, (N, ..., C).
        axis: 1 or -1.
        min_values: how many values each channel must have.
    """
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
    if values < min_values:
        raise ValueError(
            f"x: shape {x.shape} has {values} values a channel, expected at least 2 in training: "
            "one value has no variance; use eval() or batchnorm_inference for a single sample"
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
        return ChannelLayout(as_is, (1, 1, values), False)
    # With S = 1 both layouts are the same. Rows of channels are the faster one.
    if channels_last(x).flags.c_contiguous:
        return ChannelLayout(channels_last, (values, C, 1), True)
    if channels_first(x).flags.c_contiguous:
        return ChannelLayout(channels_first, (N, C, values // N), False)
    raise ValueError(
        f"x: strides {x.strides} for shape {x.shape} leave gaps or have the channels neither first nor last; "
        "pass np.ascontiguousarray(x)"
    )


def _move_axis(a: Array, axis: int, to: int) -> Array:
    axes = [i for i in range(a.ndim) if i != axis % a.ndim]
    axes.insert(to, axis % a.ndim)
    return a.transpose(axes)
