"""Random symmetric matrices as Hessians: how rarely all eigenvalues are positive, and how they spread.

The slides toss a coin for each eigenvalue. But eigenvalues of one matrix keep away from each other, and
so all of them are positive far more rarely than 2^-d. GOE: the Gaussian orthogonal ensemble, symmetric
matrices of independent normal numbers whose law no rotation changes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arguments import whole_number
from ...problems import Float64s
from ..checks import check_number, check_positive


def coin_minimum_probability(d: Any) -> Any:
    """2^-d: the probability that d fair coins all show heads.

    Args:
        d: 1 or more, a whole number or an array of them.

    Raises:
        TypeError: d is no whole number.
        ValueError: d below 1.

    Example:
        >>> import samestep as ss
        >>> ss.theory.landscape.coin_minimum_probability(3)
        0.125
    """
    if np.ndim(d) == 0:
        return 2.0 ** -whole_number("d", d, at_least=1)
    each = [coin_minimum_probability(one) for one in np.ravel(d)]
    return np.reshape(each, np.shape(d))


def goe_minimum_probability(d: Any) -> Any:
    """The probability that all d eigenvalues of a GOE matrix are positive: exact for d = 1, 2, 3.

    1/2, (2 - sqrt 2)/4, (pi - 2 sqrt 2)/(4 pi). For large d about exp(-(ln 3)/4 d^2).

    Args:
        d: 1, 2 or 3, or an array of these.

    Raises:
        ValueError: another d; goe_minimum_frequency counts instead.

    Source:
        Dean and Majumdar, Large deviations of extreme eigenvalues of random matrices (2006), for the law
        of large d.

    Example:
        >>> import samestep as ss
        >>> [round(ss.theory.landscape.goe_minimum_probability(d), 7) for d in (1, 2, 3)]
        [0.5, 0.1464466, 0.0249209]
    """
    if np.ndim(d) > 0:
        return np.reshape([goe_minimum_probability(one) for one in np.ravel(d)], np.shape(d))
    exact = {
        1: 1 / 2,
        2: (2 - math.sqrt(2)) / 4,
        3: (math.pi - 2 * math.sqrt(2)) / (4 * math.pi),
    }
    if d not in exact:
        raise ValueError(f"d: got {d}, expected 1, 2 or 3; count with goe_minimum_frequency")
    return exact[d]


def goe_minimum_frequency(d: int, count: int, seed: int = 0) -> float:
    """The share of ``count`` random GOE matrices, d x d, whose eigenvalues are all positive.

    Args:
        d: their size, 1 or more.
        count: how many, 1 or more.
        seed: of NumPy's RandomState, whose stream is frozen.

    Raises:
        ValueError: d or count below 1.

    Example:
        >>> import samestep as ss
        >>> abs(ss.theory.landscape.goe_minimum_frequency(1, 10_000) - 0.5) < 0.02
        True
    """
    random, chunk = np.random.RandomState(seed), 50_000
    minima = 0
    for first in range(0, whole_number("count", count, at_least=1), chunk):
        M = random.standard_normal((min(chunk, count - first), whole_number("d", d, at_least=1), d))
        minima += int((np.linalg.eigvalsh(M + M.swapaxes(1, 2))[:, 0] > 0).sum())
    return minima / count


def goe_eigenvalues(n: int, seed: int = 0) -> Float64s:
    """The eigenvalues, increasing, of S = (M + M')/sqrt(2n), M n x n standard normal numbers.

    For large n they fill the semicircle on [-2, 2]: second moment 1, fourth 2.

    Args:
        n: 1 or more.
        seed: of NumPy's RandomState, whose stream is frozen.

    Raises:
        ValueError: n below 1.

    Example:
        >>> import samestep as ss
        >>> float(ss.theory.landscape.goe_eigenvalues(200).var().round(1))
        1.0
    """
    M = np.random.RandomState(seed).standard_normal((whole_number("n", n, at_least=1), n))
    eigenvalues = np.linalg.eigvalsh((M + M.T) / math.sqrt(2 * n))
    return eigenvalues.astype(np.float64, copy=False)


def semicircle_density(x: npt.ArrayLike, radius: float = 2.0) -> Float64s:
    """2 sqrt(R^2 - x^2) / (pi R^2) within [-R, R], 0 outside.

    Raises:
        ValueError: a radius that is not positive and finite.

    Source:
        Wigner (1958).

    Example:
        >>> import samestep as ss
        >>> ss.theory.landscape.semicircle_density([0.0, 3.0]).round(6).tolist()
        [0.31831, 0.0]
    """
    check_positive(radius=radius)
    squares = np.maximum(radius**2 - np.asarray(x, dtype=np.float64) ** 2, 0.0)
    density: Float64s = 2.0 * np.sqrt(squares) / (math.pi * radius**2)
    return density


def semicircle_fraction(u: Any) -> Any:
    """F(u) = 1/2 + (u sqrt(1 - u^2) + asin u)/pi: how much of a semicircle shifted by u radii is positive.

    The slides' weighted coin: the lower the loss at a critical point, the further its spectrum is
    shifted to the right.

    Args:
        u: shift/radius, a number or an array.

    Returns:
        F(u), a float or an array of u's shape; 0 where u <= -1, 1 where u >= 1, NaN where u is.

    Source:
        Bray and Dean, Statistics of critical points of Gaussian fields on large-dimensional spaces
        (2007), for the shift.

    Example:
        >>> import samestep as ss
        >>> [round(ss.theory.landscape.semicircle_fraction(u), 4) for u in (-2, -0.5, 0, 0.5)]
        [0.0, 0.1955, 0.5, 0.8045]
    """
    check_number("u", u)
    if np.ndim(u) > 0:
        u = np.clip(np.asarray(u, dtype=np.float64), -1.0, 1.0)
        return 0.5 + (u * np.sqrt(1.0 - u * u) + np.arcsin(u)) / math.pi
    u = min(max(float(u), -1.0), 1.0)  # in this order NaN stays NaN
    return 0.5 + (u * math.sqrt(1.0 - u * u) + math.asin(u)) / math.pi
