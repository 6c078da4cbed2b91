"""The mean loss over the examples of training, and over held-out examples."""

from __future__ import annotations

from .examples import Floats
from .mse import MSE


def empirical_risk(problem: MSE, w: Floats) -> float:
    """(1/N) sum_i (y_i - Phi_i w)^2 over the problem's examples, to which w is fitted, for every scale.

    Args:
        problem: the examples.
        w: the weights, shape (p,), the problem's dtype.

    Raises:
        TypeError: the problem is no problems.MSE, or w has another dtype.
        ValueError: w has another shape.

    Source:
        The slides' supervised learning: w^ = argmin (1/N) sum_i l(G(x_i), g(x_i, w)).

    Example:
        >>> import numpy as np, samestep as ss
        >>> problem = ss.problems.MSE(np.array([[1.0], [1.0]]), np.array([1.0, 3.0]), scale="half_sum")
        >>> ss.problems.empirical_risk(problem, np.array([2.0]))
        1.0
    """
    if not isinstance(problem, MSE):
        raise TypeError(
            f"problem: got {type(problem).__name__}, expected problems.MSE; another's risk is its loss(w)"
        )
    return 2.0 * MSE.loss(problem, w) / (problem.c * problem.size)


def test_risk(w: Floats, Phi: Floats, y: Floats) -> float:
    """(1/N) sum_i (y_i - Phi_i w)^2 over held-out examples: an estimate of the expected loss E l.

    Args:
        w: the weights, shape (p,).
        Phi: the features of examples to which w was not fitted, shape (N, p), the dtype of w.
        y: their targets, shape (N,), the dtype of w.

    Raises:
        TypeError, ValueError: as problems.MSE.

    Source:
        The slides' testing: argmin E l(G(x), g(x, w)).

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.problems.test_risk(np.array([2.0]), np.array([[1.0], [2.0]]), np.array([1.0, 4.0]))
        0.5
    """
    return MSE(Phi, y, scale="mean").loss(w)
