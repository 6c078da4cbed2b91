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
# Exact products formed at once: of small matrices, a call costs more than its arithmetic.
AT_ONCE = 1 << 16


def _fused_exactly(a: float, b: float, c: float) -> float:
    """fma of finite numbers: division of whole numbers is rounded once in Python."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


def _rounded_once(p: Doubles, low: Doubles, c: Doubles) -> Doubles:
    """p + low + c, where p + low is an exact product."""
    t, t_low = two_sum(c, low)
    s, s_low = two_sum(p, t)
    result: Doubles = s + odd_sum(t_low, s_low)
    return result


def _fused64(a: Doubles, b: Doubles, c: Doubles) -> Doubles:
    a, b, c = np.broadcast_arrays(a, b, c)
    p, low = two_product(a, b)
    result = _rounded_once(p, low, c)
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
    return _rounded_to_float32(a.astype(np.float64) * b.astype(np.float64), c)


def _rounded_to_float32(p: Doubles, c: Array) -> Array:
    """p + c, where p is the exact product of two of float32; the sum is rounded to odd in float64 first."""
    return odd_sum(p, c.astype(np.float64)).astype(np.float32)


def _are_ordinary(a: Doubles) -> bool:
    """Whether products of such numbers, and sums of a block of them, are where ``_rounded_once`` is right."""
    size = np.abs(a)
    return bool(((size == 0) | ((size >= 2.0**-450) & (size <= 2.0**450))).all())


def _block(a: Array, b: Array) -> Array:
    """s = fma(a_p, b_p, s) over a block's p, from s = +0."""
    s = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    at_once = max(1, AT_ONCE // max(1, s.size))
    single = a.dtype == np.float32
    ordinary = not single and _are_ordinary(a) and _are_ordinary(b)
    for start in range(0, a.shape[1], at_once):
        columns, rows = a.T[start : start + at_once, :, np.newaxis], b[start : start + at_once, np.newaxis]
        if single:
            for p in columns.astype(np.float64) * rows.astype(np.float64):
                s = _rounded_to_float32(p, s)
        elif ordinary:
            for p, low in zip(*two_product(columns, rows), strict=True):
                s = _rounded_once(p, low, s)
        else:
            for column, row in zip(columns, rows, strict=True):
                s = fused(column, row, s)
    return s


def product(a: Array, b: Array) -> Array:
    """A B, of A (m, k) and B (k, n)."""
    c = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for start in range(0, a.shape[1], PRODUCT_BLOCK):
        s = _block(a[:, start : start + PRODUCT_BLOCK], b[start : start + PRODUCT_BLOCK])
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
