"""The step sizes and momenta that are best for a quadratic, from its curvatures alone."""

from __future__ import annotations

from math import isfinite, sqrt
from typing import Any, NamedTuple

from .checks import check_number, is_problem, known
from .pl import pl_constant


class Tuning(NamedTuple):
    """Hyper-parameters, and what they achieve.

    Attributes:
        lr: the step size.
        momentum: a; 0 for plain gradient descent.
        rate: the factor by which |w - w*| shrinks a step in the long run.
    """

    lr: float
    momentum: float
    rate: float


def tune_sgd(beta: Any, mu: float | None = None) -> Tuning:
    """lr = 2/(beta + mu); rate (kappa - 1)/(kappa + 1).

    With this step the errors along the steepest and the flattest direction shrink alike.

    Args:
        beta: the largest curvature, positive; or a problem that knows both.
        mu: the smallest one, 0 < mu <= beta; None: the problem's, by pl_constant. Where the smallest is 0
            that is the smallest which is not: along the others nothing moves.

    Returns:
        Tuning: lr, momentum and rate.

    Raises:
        TypeError: beta or mu is no number, or the problem knows no beta or mu.
        ValueError: other curvatures, or a number without a mu.

    Source:
        Goh, Why momentum really works (Distill, 2017).

    Example:
        >>> import samestep as ss
        >>> ss.theory.tune_sgd(3.0, 1.0)
        Tuning(lr=0.5, momentum=0.0, rate=0.5)
    """
    beta, mu = _curvatures(beta, mu)
    return Tuning(2.0 / (beta + mu), 0.0, (beta - mu) / (beta + mu))


def tune_heavy_ball(beta: Any, mu: float | None = None) -> Tuning:
    """lr = (2/(sqrt beta + sqrt mu))^2, a = rate^2; rate (sqrt kappa - 1)/(sqrt kappa + 1).

    For quadratics only: on other strongly convex functions the same numbers can cycle for ever.

    Args:
        beta, mu: as for tune_sgd.

    Returns:
        Tuning: lr, momentum and rate.

    Raises:
        TypeError, ValueError: as tune_sgd.

    Source:
        Polyak's tuning as given by Goh, Why momentum really works (Distill, 2017).

    Example:
        >>> import samestep as ss
        >>> ss.theory.tune_heavy_ball(9.0, 1.0)
        Tuning(lr=0.25, momentum=0.25, rate=0.5)
    """
    beta, mu = _curvatures(beta, mu)
    rate = (sqrt(beta) - sqrt(mu)) / (sqrt(beta) + sqrt(mu))
    return Tuning((2.0 / (sqrt(beta) + sqrt(mu))) ** 2, rate * rate, rate)


def tune_nesterov(beta: Any, mu: float | None = None) -> Tuning:
    """lr = 1/beta, a = (sqrt kappa - 1)/(sqrt kappa + 1); rate 1 - 1/sqrt kappa.

    Nesterov's rule as it is proved for every strongly convex function, not for quadratics alone; the
    rate is that on a quadratic.

    Args:
        beta, mu: as for tune_sgd.

    Returns:
        Tuning: lr, momentum and rate.

    Raises:
        TypeError, ValueError: as tune_sgd.

    Source:
        Nesterov, Introductory Lectures, section 2.2 (recalled).

    Example:
        >>> import samestep as ss
        >>> ss.theory.tune_nesterov(4.0, 1.0)
        Tuning(lr=0.25, momentum=0.3333333333333333, rate=0.5)
    """
    beta, mu = _curvatures(beta, mu)
    root = sqrt(beta / mu)
    return Tuning(1.0 / beta, (root - 1.0) / (root + 1.0), 1.0 - 1.0 / root)


def tune_look_ahead(beta: Any, mu: float | None = None) -> Tuning:
    """lr = 4/(3 beta + mu), a = (s - 2)/(s + 2) with s = sqrt(3 kappa + 1); rate 1 - 2/s.

    Nesterov's rule in its look-ahead form, tuned for quadratics.

    Args:
        beta, mu: as for tune_sgd.

    Returns:
        Tuning: lr, momentum and rate.

    Raises:
        TypeError, ValueError: as tune_sgd.

    Source:
        Lessard, Recht and Packard, Analysis and design of optimization algorithms (2016).

    Example:
        >>> import samestep as ss
        >>> ss.theory.tune_look_ahead(5.0, 1.0)
        Tuning(lr=0.25, momentum=0.3333333333333333, rate=0.5)
    """
    beta, mu = _curvatures(beta, mu)
    s = sqrt(3.0 * (beta / mu) + 1.0)
    return Tuning(4.0 / (3.0 * beta + mu), (s - 2.0) / (s + 2.0), 1.0 - 2.0 / s)


def _curvatures(beta: Any, mu: float | None) -> tuple[float, float]:
    """Two numbers, or those of a problem."""
    if is_problem(beta):
        problem = beta
        beta, mu = known(problem, "beta", "beta"), pl_constant(problem) if mu is None else mu
    check_number("beta", beta, "the largest curvature, or a problem that knows it")
    if mu is None:
        raise ValueError(
            "mu: got None, expected the smallest curvature; or hand in a problem that knows both as beta"
        )
    check_number("mu", mu)
    if not (isfinite(beta) and 0.0 < mu <= beta):
        raise ValueError(f"beta, mu: got {beta}, {mu}, expected finite numbers 0 < mu <= beta")
    return float(beta), float(mu)
