"""The step sizes and momenta that are best for a quadratic, from its curvatures alone."""

from __future__ import annotations

from math import isfinite, sqrt
from typing import NamedTuple


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


def tune_sgd(beta: float, mu: float) -> Tuning:
    """lr = 2/(beta + mu); rate (kappa - 1)/(kappa + 1).

    The step for which the steepest and the flattest direction shrink alike.

    Args:
        beta: the largest curvature, positive.
        mu: the smallest one, 0 < mu <= beta. Where it is 0 and w starts at 0, hand in the smallest
            one that is not: the gradient never leaves the directions that have a curvature.

    Raises:
        ValueError: other curvatures.

    Source:
        Goh, Why momentum really works (Distill, 2017).

    Example:
        >>> import samestep as ss
        >>> ss.theory.tune_sgd(3.0, 1.0)
        Tuning(lr=0.5, momentum=0.0, rate=0.5)
    """
    _check_curvatures(beta, mu)
    return Tuning(2.0 / (beta + mu), 0.0, (beta - mu) / (beta + mu))


def tune_heavy_ball(beta: float, mu: float) -> Tuning:
    """lr = (2/(sqrt beta + sqrt mu))^2, a = rate^2; rate (sqrt kappa - 1)/(sqrt kappa + 1).

    For quadratics only: on other strongly convex functions the same numbers can cycle for ever.

    Args:
        beta, mu: as for tune_sgd.

    Raises:
        ValueError: other curvatures.

    Source:
        Polyak's tuning as given by Goh, Why momentum really works (Distill, 2017).

    Example:
        >>> import samestep as ss
        >>> ss.theory.tune_heavy_ball(9.0, 1.0)
        Tuning(lr=0.25, momentum=0.25, rate=0.5)
    """
    _check_curvatures(beta, mu)
    rate = (sqrt(beta) - sqrt(mu)) / (sqrt(beta) + sqrt(mu))
    return Tuning((2.0 / (sqrt(beta) + sqrt(mu))) ** 2, rate * rate, rate)


def tune_nesterov(beta: float, mu: float) -> Tuning:
    """lr = 1/beta, a = (sqrt kappa - 1)/(sqrt kappa + 1); rate 1 - 1/sqrt kappa.

    Nesterov's rule as it is proved for every strongly convex function, not for quadratics alone; the
    rate is that on a quadratic.

    Args:
        beta, mu: as for tune_sgd.

    Raises:
        ValueError: other curvatures.

    Source:
        Nesterov, Introductory Lectures, section 2.2 (recalled).

    Example:
        >>> import samestep as ss
        >>> ss.theory.tune_nesterov(4.0, 1.0)
        Tuning(lr=0.25, momentum=0.3333333333333333, rate=0.5)
    """
    _check_curvatures(beta, mu)
    root = sqrt(beta / mu)
    return Tuning(1.0 / beta, (root - 1.0) / (root + 1.0), 1.0 - 1.0 / root)


def tune_look_ahead(beta: float, mu: float) -> Tuning:
    """lr = 4/(3 beta + mu), a = (s - 2)/(s + 2) with s = sqrt(3 kappa + 1); rate 1 - 2/s.

    Nesterov's rule in its look-ahead form, tuned for quadratics.

    Args:
        beta, mu: as for tune_sgd.

    Raises:
        ValueError: other curvatures.

    Source:
        Lessard, Recht and Packard, Analysis and design of optimization algorithms (2016).

    Example:
        >>> import samestep as ss
        >>> ss.theory.tune_look_ahead(5.0, 1.0)
        Tuning(lr=0.25, momentum=0.3333333333333333, rate=0.5)
    """
    _check_curvatures(beta, mu)
    s = sqrt(3.0 * (beta / mu) + 1.0)
    return Tuning(4.0 / (3.0 * beta + mu), (s - 2.0) / (s + 2.0), 1.0 - 2.0 / s)


def _check_curvatures(beta: float, mu: float) -> None:
    if not (isfinite(beta) and 0.0 < mu <= beta):
        raise ValueError(f"beta, mu: got {beta}, {mu}, expected finite numbers 0 < mu <= beta")
