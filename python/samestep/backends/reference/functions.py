"""exp, log, tanh and sigmoid in NumPy; twin of csrc/contract/functions.h, which tells the method.

``out = function(x)`` for arrays of one shape and type, float32 or float64; ``out`` may be ``x``. Powers of
two are made and taken apart by integers. ``x + WHOLE`` is x rounded to a whole number, which its lowest bits
are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from .exact import Two, odd_sum, two_product, two_sum
from .sums import Doubles

SIGN, ONE, ROOT_HALF, TWO_52 = (
    np.uint64(bits) for bits in (1 << 63, 0x3FF0000000000000, 0x3FE6A09E667F3BCD, 0x4330000000000000)
)
MANTISSA, EXPONENT = np.uint64((1 << 52) - 1), np.uint64(52)
WHOLE = float.fromhex("0x1.8p52")
LN2_HIGH, LN2_LOW = float.fromhex("0x1.62e42fefa38p-1"), float.fromhex("0x1.ef35793c7673p-45")
PER_LN2 = float.fromhex("0x1.71547652b82fep+0")
INFINITY, NAN = float("inf"), float("nan")


def _bits(x: Doubles) -> NDArray[np.uint64]:
    return x.view(np.uint64)


def _double(bits: NDArray[np.uint64]) -> Doubles:
    return bits.view(np.float64)


def _magnitude(x: Doubles) -> Doubles:
    return _double(_bits(x) & ~SIGN)


def _with_sign_of(x: Doubles, y: Doubles) -> Doubles:
    return _double(_bits(y) | (_bits(x) & SIGN))


def _at_most(limit: float, x: Doubles) -> Doubles:
    return np.where(limit < x, limit, x)


def _power_of_2(whole: Doubles) -> Doubles:
    return _double((_bits(whole) << EXPONENT) + ONE)


def _scaled(x: Doubles, n: Doubles) -> Doubles:
    """2^n * x, rounded once, in two factors: 2^n itself may be no float64."""
    half = ((n * 0.5) + WHOLE) - WHOLE
    return (x * _power_of_2(half + WHOLE)) * _power_of_2((n - half) + WHOLE)


def _quotient(a: Two, b: Two) -> Doubles:
    """a/b: the quotient of the high parts, and its remainder divided once more."""
    q = a.high / b.high
    p = two_product(q, b.high)
    return q + ((((a.high - p.high) - p.low) + (a.low - (q * b.low))) / b.high)


class Reduced(NamedTuple):
    """x = n*ln 2 + r + rest."""

    whole: Doubles
    n: Doubles
    r: Doubles
    rest: Doubles


def _reduced(x: Doubles) -> Reduced:
    whole = (x * PER_LN2) + WHOLE
    n = whole - WHOLE
    a, b = x - (n * LN2_HIGH), n * LN2_LOW
    r = a - b
    return Reduced(whole, n, r, (a - r) - b)


# Coefficients of q and R, the highest power first.
EVEN32, ODD32, EVEN64, ODD64, LOG = (
    [float.fromhex(c) for c in text.split()]
    for text in (
        "0x1.27dc5e7fe801dp-22 0x1.a01a79346277dp-16 0x1.6c16c13565d86p-10 0x1.5555555564c30p-5 "
        "0x1.fffffffffffbep-2",
        "0x1.72da740f91794p-19 0x1.a0199bd6a9e9bp-13 0x1.111111213e468p-7 0x1.555555555223cp-3",
        "0x1.1ee887ccb6cacp-29 0x1.27e5364392edfp-22 0x1.a01a017bb06b7p-16 0x1.6c16c16c1f0e4p-10 "
        "0x1.555555555553ep-5 0x1p-1",
        "0x1.af5ea87385a81p-26 0x1.71ddf863a3050p-19 0x1.a01a01afdd984p-13 0x1.111111110f6c4p-7 "
        "0x1.5555555555559p-3",
        "0x1.0c05166ec4148p-3 0x1.0fbe71ad855c9p-3 0x1.3b1c36b445cebp-3 0x1.745cf8fe328f9p-3 "
        "0x1.c71c720168526p-3 0x1.2492492476c42p-2 0x1.9999999999a38p-2 0x1.5555555555555p-1",
    )
)


def _polynomial(coefficients: list[float], z: Doubles) -> Doubles:
    p: Doubles = (coefficients[0] * z) + coefficients[1]
    for c in coefficients[2:]:
        p = (p * z) + c
    return p


def _q32(r: Doubles, z: Doubles) -> Doubles:
    return _polynomial(EVEN32, z) + (_polynomial(ODD32, z) * r)


def _q64(r: Doubles, z: Doubles) -> Doubles:
    return _polynomial(EVEN64, z) + (_polynomial(ODD64, z) * r)


def _exp_of(x: Reduced) -> Two:
    """exp(r + rest)."""
    z = x.r * x.r
    p = (_q64(x.r, z) * z) + (x.rest + (x.rest * x.r))
    high = 1.0 + x.r
    return Two(high, (x.r - (high - 1.0)) + p)


def _exp_less(x: Doubles, less: float) -> Doubles:
    """exp(x) - less."""
    a = _reduced(x)
    z, power = a.r * a.r, _power_of_2(a.whole)
    return (power * ((_q32(a.r, z) * z) + a.r)) + (power - less)


def _exp32(x: Doubles) -> Doubles:
    x = _at_most(128.0, x)
    a = _reduced(np.where(x < -128.0, -128.0, x))
    z = a.r * a.r
    p = ((_q32(a.r, z) * z) + a.r) + 1.0
    return _double(_bits(p) + (_bits(a.whole) << EXPONENT))


def _exp64(x: Doubles) -> Doubles:
    x = _at_most(710.0, x)
    a = _reduced(np.where(x < -746.0, -746.0, x))
    y = _exp_of(a)
    return _scaled(y.high + y.low, a.n)


def _tanh32(x: Doubles) -> Doubles:
    E = _exp_less(2.0 * _at_most(10.0, _magnitude(x)), 1.0)
    return _with_sign_of(x, E / (E + 2.0))


def _tanh64(x: Doubles) -> Doubles:
    a = _reduced(2.0 * _at_most(20.0, _magnitude(x)))
    power, y = _power_of_2(a.whole), _exp_of(a)
    less = two_sum(power * y.high, -1.0)
    E = two_sum(less.high, (power * y.low) + less.low)
    D = two_sum(E.high, 2.0)
    return _with_sign_of(x, _quotient(E, Two(D.high, D.low + E.low)))


def _sigmoid32(x: Doubles) -> Doubles:
    a = _magnitude(x)
    E = _exp_less(-_at_most(128.0, a), 0.0)
    y = np.where(x < 0.0, E, 1.0) / (1.0 + E)
    near = 0.5 + (x * float.fromhex("0x1.ffffffcp-3"))
    return np.where(a < float.fromhex("0x1p-12"), near, y)


def _sigmoid64(x: Doubles) -> Doubles:
    a = _reduced(-_at_most(746.0, _magnitude(x)))
    y = _exp_of(a)
    e = two_sum(y.high, y.low)
    D = two_sum(1.0, _scaled(e.high, a.n))
    top = Two(np.where(x < 0.0, e.high, 1.0), np.where(x < 0.0, e.low, 0.0))
    q = _quotient(top, Two(D.high, D.low + _scaled(e.low, a.n)))
    return _scaled(q, np.where(x < 0.0, a.n, 0.0))


def _log_parts(x: Doubles, more: Any) -> Two:
    """log(x) + more*ln 2 for normal x > 0: high = n*ln 2 but for its last bits, or 0."""
    i = _bits(x) + (ONE - ROOT_HALF)
    n = (_double((i >> EXPONENT) | TWO_52) - float(2**52 + 1023)) + more
    f = _double((i & MANTISSA) + ROOT_HALF) - 1.0
    s = f / (2.0 + f)
    h, z = (0.5 * f) * f, s * s
    return Two(n * LN2_HIGH, f - (h - ((s * (h + (_polynomial(LOG, z) * z))) + (n * LN2_LOW))))


def _or_limit(x: Doubles, y: Doubles) -> Doubles:
    """y where x is positive and finite; else what the limit is, or NaN."""
    return np.where(x > 0.0, np.where(x < INFINITY, y, x), np.where(x == 0.0, -INFINITY, NAN))


def _log32(x: Doubles) -> Doubles:
    return _or_limit(x, odd_sum(*_log_parts(x, 0.0)))


def _log64(x: Doubles) -> Doubles:
    subnormal = x < float.fromhex("0x1p-1022")
    y = _log_parts(np.where(subnormal, x * float(2**54), x), np.where(subnormal, -54.0, 0.0))
    return _or_limit(x, y.high + y.low)


def _by_type(of32: Callable[[Doubles], Doubles], of64: Callable[[Doubles], Doubles]) -> Callable[..., None]:
    def function(x: Array, out: Array) -> None:
        with np.errstate(all="ignore"):
            wide = x.astype(np.float64).reshape(-1)
            found = of32(wide) if x.dtype == np.float32 else of64(wide)
            out[...] = found.reshape(x.shape)

    return function


exp = _by_type(_exp32, _exp64)
log = _by_type(_log32, _log64)
tanh = _by_type(_tanh32, _tanh64)
sigmoid = _by_type(_sigmoid32, _sigmoid64)
