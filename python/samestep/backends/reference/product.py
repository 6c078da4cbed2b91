"""The matrix product in NumPy; twin of csrc/contract/product.h. The order of operations fixes the bits.

C = A B, with A (m, k) and B (k, n). An element's k terms are added in increasing order, in blocks of 256::

    block    s = fma(a_p, b_p, s) from s = +0, each rounded once
    product  c = the first block's s, then c = c + s for each later one;  +0 where k = 0

``fma(a, b, c)`` is a*b + c rounded once. NumPy has none, and so it is composed of other operations here, all
of them exact but the last.

Source: Boldo & Melquiond, Emulation of a FMA and correctly rounded sums (2008); Dekker (1971) for the exact
product, Knuth for the exact sum.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ..arrays import Array
from .exact import odd_sum, two_product, two_sum
from .sums import Doubles, csum

PRODUCT_BLOCK = 256


def _fused_exactly(a: float, b: float, c: float) -> float:
    """fma of finite numbers: division of whole numbers is rounded once in Python."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


def _fused64(a: Doubles, b: Doubles, c: Doubles) -> Doubles:
    a, b, c = np.broadcast_arrays(a, b, c)
    p, low = two_product(a, b)
    t, t_low = two_sum(c, low)
    s, s_low = two_sum(p, t)
    result: Doubles = s + odd_sum(t_low, s_low)
    # With a factor of zero, or an infinite or NaN one, the product is exact; an infinite or NaN c stays.
    simple = (a == 0) | (b == 0) | ~np.isfinite(a) | ~np.isfinite(b)
    result = np.where(simple, (a * b) + c, np.where(np.isfinite(c), result, c))
    # Beyond this range, the exact product and its error are no float64 numbers.
    size_a, size_b, size_c, size = np.abs(a), np.abs(b), np.abs(c), np.abs(p)
    inside = (size >= 2.0**-900) & (size <= 2.0**900) & (size_c <= 2.0**900)
    inside &= (size_a <= 2.0**900) & (size_b <= 2.0**900)
    for i in zip(*np.nonzero(~(inside | simple) & np.isfinite(c)), strict=True):
        result[i] = _fused_exactly(float(a[i]), float(b[i]), float(c[i]))
    return result


def fused(a: Array, b: Array, c: Array) -> Array:
    """a*b + c, rounded once."""
    if c.dtype == np.float64:
        return _fused64(a, b, c)
    # The product is exact in float64; the sum is rounded to odd there, then to float32.
    wide: Doubles = a.astype(np.float64) * b.astype(np.float64)
    return odd_sum(wide, c.astype(np.float64)).astype(np.float32)


def product(a: Array, b: Array) -> Array:
    """A B, of A (m, k) and B (k, n)."""
    c = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for start in range(0, a.shape[1], PRODUCT_BLOCK):
        s = np.zeros_like(c)
        for p in range(start, min(start + PRODUCT_BLOCK, a.shape[1])):
            s = fused(a[:, p, np.newaxis], b[p], s)
        c = s if start == 0 else c + s
    return c


def linear(x: Array, w: Array, bias: Array | None, relu: bool, out: Array | None) -> Array:
    """y = product(x, w) + bias, then ReLU: a <= 0 becomes +0, so NaN passes."""
    with np.errstate(all="ignore"):
        y = product(x, w)
        if bias is not None:
            y = y + bias
        if relu:
            y = np.where(y <= 0, y.dtype.type(0), y)
    return _written(y, out)


def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    y: Array | None,
    input_gradient: bool,
    dx: Array | None,
    dw: Array | None,
    dbias: Array | None,
) -> tuple[Array | None, Array, Array]:
    """dx = product(dy, w^T) unless it is not wanted, dw = product(x^T, dy), dbias = T(csum(dy)).

    Where y, if it is given, is <= 0, dy is +0.
    """
    with np.errstate(all="ignore"):
        if y is not None:
            dy = np.where(y <= 0, dy.dtype.type(0), dy)
        dx = _written(product(dy, w.T), dx) if input_gradient else None
        dw = _written(product(x.T, dy), dw)
        dbias = _written(csum(dy.astype(np.float64)).astype(dy.dtype), dbias)
    return dx, dw, dbias


def _written(values: Array, out: Array | None) -> Array:
    if out is None:
        return values
    assert values.dtype == out.dtype
    out[...] = values
    return out
