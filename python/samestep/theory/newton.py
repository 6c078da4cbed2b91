"""Newton's step, and what is done where the Hessian cannot be inverted."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ..problems import Float64s, Floats
from .checks import check_not_negative
from .curvature import check_symmetric

Mode = Literal["newton", "saddle_free"]


def newton_step(g: Floats, H: Floats, damping: float = 0.0, mode: Mode = "newton") -> Floats:
    """d = -H^-1 g, the step to the critical point of the second-order model.

    With H = Q diag(lambda) Q' the step is d = -Q diag(f) Q'g:

    ===============  =========================  ================================================
    mode             f                          where H has a curvature below 0
    ===============  =========================  ================================================
    ``newton``       1/(lambda + damping)       the step climbs along it: saddles attract
    ``saddle_free``  1/(|lambda| + damping)     the step descends along it
    ===============  =========================  ================================================

    A singular H has no inverse: f is 0 where the denominator is 0 by the measure of rounding, which
    makes H^-1 the pseudo-inverse and d the shortest step to a minimum of the model. Along such a
    direction the model has no minimum if g has a component there, and d has none.
    Damping above -lambda_min makes H + damping I positive definite and d a descent direction.

    Args:
        g: the gradient, shape (p,).
        H: the Hessian, symmetric, shape (p, p).
        damping: alpha >= 0, added to every curvature.
        mode: one of the table.

    Returns:
        A new float64 array, shape (p,): add it to w.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, an H that is not symmetric, a damping that
            is negative or not finite, an unknown mode.

    Source:
        The notes' delta = -H^-1 grad f; Goodfellow, Bengio and Courville, eqs. 4.12, 8.27 and 8.28;
        Dauphin et al. (2014) for the saddle-free step.

    Example:
        >>> import numpy as np, samestep as ss
        >>> H = np.array([[2.0, 1.0], [1.0, 2.0]])
        >>> ss.theory.newton_step(np.array([-5.0, -6.0]), H).round(9)
        array([1.33333333, 2.33333333])
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode: got {mode!r}, expected one of {', '.join(map(repr, get_args(Mode)))}")
    check_not_negative(damping=damping)
    H = check_symmetric("H", H)
    g = np.asarray(g, dtype=np.float64)
    if g.shape != H.shape[:1]:
        raise ValueError(f"g: got shape {g.shape}, expected {H.shape[:1]} for H of shape {H.shape}")
    if not np.isfinite(g).all():
        raise ValueError("g: got NaN or infinity, expected finite numbers")
    curvatures: Float64s
    curvatures, Q = np.linalg.eigh(H)
    damped = (np.abs(curvatures) if mode == "saddle_free" else curvatures) + damping
    invertible = np.abs(damped) > len(H) * np.finfo(np.float64).eps * np.abs(curvatures).max()
    inverse = np.divide(1.0, damped, out=np.zeros_like(damped), where=invertible)
    return -(Q @ (inverse * (Q.T @ g)))
