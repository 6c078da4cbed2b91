"""How large a gradient step may be."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..problems import Floats
from .curvature import beta, check_symmetric


def step_bound(g: Floats, H: Floats) -> float:
    """2 g'g / (g'Hg): the largest step size that does not raise L at this one point.

    Along the gradient L(w - lr g) = L - lr g'g + (lr^2/2) g'Hg, an equation for a quadratic L and the
    second-order model of any other. It is lowest at half the bound.

    Args:
        g: the gradient, shape (p,).
        H: the Hessian, symmetric, shape (p, p).

    Returns:
        The bound, formed in float64; infinity where g'Hg <= 0, since the model has no minimum there.
        NaN where g is 0, as there is no direction to step in, or not finite.

    Raises:
        ValueError: shapes that do not fit, an H that is not symmetric or not finite.

    Source:
        The notes' one-step bound; Goodfellow, Bengio and Courville, eqs. 4.9 and 4.10.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.theory.step_bound(np.array([-5.0, -6.0]), np.array([[2.0, 1.0], [1.0, 2.0]])) == 122 / 182
        True
    """
    g, H = np.asarray(g, dtype=np.float64), check_symmetric("H", H)
    if g.shape != H.shape[:1]:
        raise ValueError(f"g: got shape {g.shape}, expected {H.shape[:1]} for H of shape {H.shape}")
    # The bound does not depend on the length of g; a tiny one would vanish in its own square.
    length = float(np.abs(g).max(initial=0.0))
    if not 0.0 < length < float("inf"):
        return float("nan")
    g = g / length
    curvature = float(g @ H @ g)
    return float("inf") if curvature <= 0 else 2.0 * float(g @ g) / curvature


def cauchy_step(g: Floats, H: Floats) -> float:
    """g'g / (g'Hg): the step size that lowers the second-order model of L most, half of step_bound.

    At worst, where g lies along the steepest direction, it is 1/lambda_max.

    Args:
        g: the gradient, shape (p,).
        H: the Hessian, symmetric, shape (p, p).

    Returns:
        The step size; infinity where g'Hg <= 0, NaN where g is 0 or not finite.

    Raises:
        ValueError: shapes that do not fit, an H that is not symmetric or not finite.

    Source:
        Goodfellow, Bengio and Courville, eq. 4.10.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.theory.cauchy_step(np.array([-5.0, -6.0]), np.array([[2.0, 1.0], [1.0, 2.0]])) == 61 / 182
        True
    """
    return step_bound(g, H) / 2.0


def max_step(problem_or_H: Any) -> float:
    """2/beta, beta = lambda_max(H): below it gradient descent on a convex quadratic converges.

    A smaller step lowers L at every point, on every loss of that smoothness, since
    2/beta <= step_bound(g, H) for every g. The converse does not hold: at a single point far larger steps
    can lower L. At 2/beta itself the component along the steepest direction keeps its length for ever.

    Args:
        problem_or_H: a problem, which knows its beta, or a symmetric Hessian, shape (p, p).

    Returns:
        2/beta; infinity where beta <= 0.

    Raises:
        TypeError: a problem that knows no beta.
        ValueError: H is not square, not symmetric or not finite.

    Source:
        The notes' bound from beta-smoothness, whose conclusion is reversed there: lr < 2/beta is sufficient
        at every point, and not implied by a step that descends at one.

    Example:
        >>> import numpy as np, samestep as ss
        >>> round(ss.theory.max_step(np.array([[2.0, 1.0], [1.0, 2.0]])), 12)
        0.666666666667
    """
    largest = beta(problem_or_H)
    return 2.0 / largest if largest > 0 else float("inf")
