"""The stability edges: from which step size on a method diverges on a quadratic."""

from __future__ import annotations

from .checks import check_not_negative, check_positive


def sgd_edge(beta: float) -> float:
    """2/beta for gradient descent: |1 - lr beta| = 1.

    Args:
        beta: the largest curvature, positive.

    Raises:
        ValueError: beta is not positive or not finite.

    Example:
        >>> import samestep as ss
        >>> ss.theory.sgd_edge(4.0)
        0.5
    """
    _check(beta, 0.0)
    return 2.0 / beta


def heavy_ball_edge(beta: float, momentum: float) -> float:
    """2 (1 + a)/beta for the heavy ball: up to twice as far as without momentum.

    The roots of z^2 - (1 + a - s) z + a, s = lr beta, lie inside the unit circle iff 0 < s < 2 (1 + a)
    and a < 1 (Jury's test).

    Args:
        beta: the largest curvature, positive.
        momentum: a, 0 <= a < 1; from 1 on no step size is stable.

    Raises:
        ValueError: an argument out of range or not finite.

    Source:
        Goh, Why momentum really works (Distill, 2017).

    Example:
        >>> import samestep as ss
        >>> ss.theory.heavy_ball_edge(4.0, momentum=0.5)
        0.75
    """
    _check(beta, momentum)
    return 2.0 * (1.0 + momentum) / beta


def look_ahead_edge(beta: float, momentum: float, momentum_next: float | None = None) -> float:
    """(2 + 2a)/((1 + 2a) beta) for Nesterov's rule: below 2/beta, towards 4/(3 beta).

    Where the root of z^2 - (1 + a)(1 - s) z + a (1 - s), s = lr beta, reaches -1. With another momentum
    a' for the next step, kept so, it is (2 + 2a)/((1 + a + a') beta).

    Args:
        beta, momentum: as for heavy_ball_edge.
        momentum_next: a', 0 or more; None: a.

    Raises:
        ValueError: an argument out of range or not finite.

    Source:
        Derived from the recursion of one mode.

    Example:
        >>> import samestep as ss
        >>> ss.theory.look_ahead_edge(4.0, momentum=0.5)
        0.375
    """
    _check(beta, momentum)
    ahead = momentum if momentum_next is None else momentum_next
    check_not_negative(momentum_next=ahead)
    return (2.0 + 2.0 * momentum) / ((1.0 + momentum + ahead) * beta)


def _check(beta: float, momentum: float) -> None:
    check_positive(beta=beta)
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum: got {momentum}, expected 0 <= momentum < 1: beyond, no step is stable")
