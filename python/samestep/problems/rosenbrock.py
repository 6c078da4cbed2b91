"""Rosenbrock's valley, on which the slides compare optimizers."""

from __future__ import annotations

import numpy as np

from .examples import Float64s, Floats, Integers
from .smooth import Smooth


class Rosenbrock(Smooth):
    """L(w) = (1 - w1)^2 + 100 (w2 - w1^2)^2, with its minimum 0 at w = (1, 1).

    Source:
        Rosenbrock (1960); Liquet, Moka and Nazarathy, Mathematical Engineering of Deep Learning.

    Example:
        >>> import numpy as np, samestep as ss
        >>> problem = ss.problems.Rosenbrock()
        >>> problem.loss(np.array([0.0, 1.0])), problem.gradient(np.array([0.0, 1.0]))
        (101.0, array([ -2., 200.]))
        >>> problem.hessian(np.array([1.0, 1.0]))
        array([[ 802., -400.],
               [-400.,  200.]])
    """

    dimension = 2

    def loss(self, w: Floats) -> float:
        """L(w); w has shape (2,), float64."""
        self._check_weights(w)
        x, y = w.tolist()
        # Products, here and in the other formulas: on overflow ** raises, and they are infinite.
        a, b = 1 - x, y - x * x
        return float(a * a + 100 * (b * b))

    def gradient(self, w: Floats, rows: Integers | None = None) -> Float64s:
        """g(w) = (-2 (1 - w1) - 400 w1 (w2 - w1^2), 200 (w2 - w1^2)); w has shape (2,), float64."""
        self._check_weights(w)
        x, y = w.tolist()
        return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])

    def hessian(self, w: Floats) -> Float64s:
        """H(w), shape (2, 2); indefinite where w2 > w1^2 + 1/200."""
        self._check_weights(w)
        x, y = w.tolist()
        return np.array([[2 - 400 * (y - 3 * x * x), -400 * x], [-400 * x, 200.0]])
