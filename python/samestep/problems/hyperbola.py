"""The smallest over-parameterised problem: two weights, one example, a curve of minima."""

from __future__ import annotations

import numpy as np

from .mse import Float64s, Floats, Integers
from .smooth import Smooth


class Hyperbola(Smooth):
    """L(w) = (w1 w2 - 1)^2 / 2: two linear layers of one weight each, fitted to the target 1.

    The minima are the hyperbola w1 w2 = 1. Just outside it, det H = (1 - p)(3p - 1) with p = w1 w2 is
    negative: L is convex in no neighbourhood of a minimum. It satisfies the Polyak-Lojasiewicz
    inequality there all the same: |g|^2 = 2 K(w) L with the tangent kernel K(w) = w1^2 + w2^2, which
    is at least 2p on the branch with p > 0.

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

    def loss(self, w: Floats) -> float:
        """L(w); w has shape (2,), float64."""
        self._check_weights(w)
        u, v = w.tolist()
        r = u * v - 1
        return float(r * r / 2)

    def gradient(self, w: Floats, rows: Integers | None = None) -> Float64s:
        """g(w) = (w1 w2 - 1) (w2, w1); w has shape (2,), float64."""
        self._check_weights(w)
        u, v = w.tolist()
        return np.array([(u * v - 1) * v, (u * v - 1) * u])

    def hessian(self, w: Floats) -> Float64s:
        """H(w), shape (2, 2)."""
        self._check_weights(w)
        u, v = w.tolist()
        return np.array([[v * v, 2 * u * v - 1], [2 * u * v - 1, u * u]])

    def tangent_kernel(self, w: Floats) -> float:
        """K(w) = |grad (w1 w2)|^2 = w1^2 + w2^2."""
        self._check_weights(w)
        u, v = w.tolist()
        return float(u * u + v * v)

    def sharpness(self, w: Floats) -> float:
        """The largest eigenvalue of H(w); w1^2 + w2^2 at a minimum, so at least 2 there."""
        return float(np.linalg.eigvalsh(self.hessian(w))[-1])
