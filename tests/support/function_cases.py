"""True values of exp, log, tanh and sigmoid, and the float32 values for which they are hard to round."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

# Written by prove_functions.py: for each function the bits of the float32 values whose result lies within
# 2^-48, relative, of the middle between two float32.
FILE = Path(__file__).with_name("hard_functions.txt")
HARD = {
    line.split()[0]: [int(bits, 16) for bits in line.split()[1:]]
    for line in FILE.read_text(encoding="utf-8").splitlines()
}

# Both zeros, infinities, NaN, the least and largest of either type, and where functions over- and underflow.
SPECIAL = (
    0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1.0, -1.0, 0.5, 2.0**-24, 2.0**-25, -(2.0**-25), 2.0**-54,
    1e-45, -1e-45, 5e-324, 1.1754944e-38, 2.2250738585072014e-308, 3.4028234e38, -3.4028234e38,
    1.7976931348623157e308, 88.722839, 88.72284, -87.3365, -103.27893, -103.97208, -103.972084, 128.0, -129.0,
    709.782712893384, 709.7827128933841, -708.3964185322641, -745.1332191019411, -745.1332191019412,
    9.010913, 17.32868, 18.7149738751185, 19.06, 20.5,
    0.34657359027997264, 0.70710678, 0.7071067811865475, 0.7071067811865476, 1.4142135,
    1 - 2.0**-24, 1 + 2.0**-23,
)  # fmt: skip


def any_bits(size: int, dtype: Any, rng: np.random.Generator) -> np.ndarray:
    unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
    return rng.integers(0, np.iinfo(unsigned).max, size, unsigned, endpoint=True).view(dtype)


def truth(name: str, x: float) -> Fraction:
    """function(x) to 60 digits and more; x finite, for log above 0."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 80, -(10**6), 10**6
        v = Decimal(x if name == "log" else max(-20000.0, min(x, 20000.0)))  # no float64 changes beyond
        if name == "exp":
            return Fraction(v.exp())
        if name == "log":
            return Fraction(v.ln())
        if name == "sigmoid":
            return Fraction(1 / (1 + (-v).exp()))
        if abs(v) < Decimal("1e-15"):
            return Fraction(v - v * v * v / 3 + 2 * v * v * v * v * v / 15)
        e = (2 * v).exp()
        return Fraction((e - 1) / (e + 1))


def nearest_float32(value: Fraction) -> float:
    """Ties to even; subnormals have the exponent -149 and less digits."""
    if abs(value) >= 2**128:
        return math.inf if value > 0 else -math.inf
    exponent = max(-149, math.frexp(abs(value))[1] - 24)
    if exponent > -149 and abs(value) < Fraction(2) ** (exponent + 23):  # frexp has rounded it up
        exponent -= 1
    rounded = float(round(value / Fraction(2) ** exponent) * Fraction(2) ** exponent)
    return rounded if abs(rounded) < 2.0**128 else math.copysign(math.inf, rounded)
