"""Sums and products of float64 with what their rounding loses, in NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .sums import Doubles


class Two(NamedTuple):
    """high + low, |low| some 2^-53 of |high|."""

    high: Doubles
    low: Doubles


def two_sum(a: Any, b: Any) -> Two:
    """a + b exactly: the rounded sum and its error."""
    s = a + b
    t = s - a
    return Two(s, (a - (s - t)) + (b - t))


def two_product(a: Doubles, b: Doubles) -> Two:
    """a*b exactly, unless numbers are very large or small: by halves of 26 bits, whose products are exact."""
    p, c, d = a * b, 134217729.0 * a, 134217729.0 * b  # 2^27 + 1
    a1, b1 = c - (c - a), d - (d - b)
    a2, b2 = a - a1, b - b1
    return Two(p, (((a1 * b1) - p) + ((a1 * b2) + (a2 * b1))) + (a2 * b2))


def odd_sum(a: Doubles, b: Doubles) -> Doubles:
    """a + b; where that is no float64, the one of its two neighbours whose last bit is set.

    Rounding such a sum once more, to 51 bits or fewer, gives what rounding a + b would have given.
    """
    s, e = two_sum(a, b)
    inexact = (e < 0) | (e > 0)
    bits = s.view(np.uint64)
    towards_zero = bits - (inexact & (np.signbit(s) != np.signbit(e)))
    odd: Doubles = (towards_zero | inexact).view(np.float64)
    return odd
