"""The smallest over-parameterised problem: two weights, one example, a curve of minima."""

from __future__ import annotations

import numpy as np

from .examples import Float64s, Floats, Integers
from .smooth import Smooth, finite


class Hyperbola(Smooth):
    """L(w) = (w1 w2 - T)^2 / 2: two linear layers of one weight each, fitted to the target T, 1 by default.

    The minima are the hyperbola w1 w2 = T. Just outside it, det H = (T - p)(3p - T) with p = w1 w2 is
    negative: L is convex in no neighbourhood of a minimum. It still satisfies the Polyak-Lojasiewicz
    inequality there: |g|^2 = 2 K(w) L with the tangent kernel K(w) = w1^2 + w2^2, which is at least 2|p|. For
    T = 0 the minima are the two axes, and near their crossing the inequality holds with no constant.

    Args:
        target: T, finite.

    Raises:
        TypeError: the target is no number.
        ValueError: the target is infinite or NaN.

    Source:
        The slides' over-parameterised landscape; Liu, Zhu and Belkin, Loss landscapes and optimization
        in over-parameterized non-linear systems (2020).

    Example:
        >>> import numpy as np, samestep as ss
        >>> problem, w = ss.problems.Hyperbola(), np.array([2.0, 1.0])
        >>> problem.loss(w), problem.gradient(w), problem.tangent_kernel(w)
        (0.5, array([1., 2.]), 5.0)
        >>> float(np.linalg.det(problem.hessian(w)).round(12))
        -5.0
    """

    dimension = 2

    def __init__(self, target: float = 1.0) -> None:
        self.target = finite("target", target)

    def loss(self, w: Floats) -> float:
        """L(w); w has shape (2,), float64."""
        self._check_weights(w)
        u, v = w.tolist()
        r = u * v - self.target
        return float(r * r / 2)

    def gradient(self, w: Floats, rows: Integers | None = None) -> Float64s:
        """g(w) = (w1 w2 - T) (w2, w1); w has shape (2,), float64."""
        self._check_weights(w)
        u, v = w.tolist()
        return np.array([(u * v - self.target) * v, (u * v - self.target) * u])

    def hessian(self, w: Floats) -> Float64s:
        """H(w), shape (2, 2)."""
        self._check_weights(w)
        u, v = w.tolist()
        mixed = 2 * u * v - self.target
        return np.array([[v * v, mixed], [mixed, u * u]])

    def tangent_kernel(self, w: Floats) -> float:
        """K(w) = |grad (w1 w2)|^2 = w1^2 + w2^2."""
        self._check_weights(w)
        u, v = w.tolist()
        return float(u * u + v * v)

    def sharpness(self, w: Floats) -> float:
        """The largest eigenvalue of H(w); w1^2 + w2^2 at a minimum, so at least 2|T| there."""
        return float(np.linalg.eigvalsh(self.hessian(w))[-1])
