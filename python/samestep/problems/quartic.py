"""A convex function that is no quadratic: its curvature changes along a path, which a flow must follow."""

from __future__ import annotations

import numpy as np

from .examples import Float64s, Floats, Integers
from .smooth import Smooth


class Quartic(Smooth):
    """L(w) = w1^4/4 + w1^2/2 + w2^2 + w1 w2/2, with its minimum 0 at w = 0.

    Example:
        >>> import numpy as np, samestep as ss
        >>> problem, w = ss.problems.Quartic(), np.array([1.0, -1.0])
        >>> problem.loss(w), problem.gradient(w)
        (1.25, array([ 1.5, -1.5]))
        >>> problem.hessian(w)
        array([[4. , 0.5],
               [0.5, 2. ]])
    """

    dimension = 2

    def loss(self, w: Floats) -> float:
        """L(w); w has shape (2,), float64."""
        self._check_weights(w)
        u, v = w.tolist()
        return float(u * u * u * u / 4 + u * u / 2 + v * v + u * v / 2)

    def gradient(self, w: Floats, rows: Integers | None = None) -> Float64s:
        """g(w) = (w1^3 + w1 + w2/2, 2 w2 + w1/2); w has shape (2,), float64."""
        self._check_weights(w)
        u, v = w.tolist()
        return np.array([u * u * u + u + v / 2, 2 * v + u / 2])

    def hessian(self, w: Floats) -> Float64s:
        """H(w), shape (2, 2)."""
        self._check_weights(w)
        u, _ = w.tolist()
        return np.array([[3 * u * u + 1, 0.5], [0.5, 2.0]])
