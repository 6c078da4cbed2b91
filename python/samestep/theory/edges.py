"""The stability edges: from which step size on a method diverges on a quadratic."""

from __future__ import annotations

from typing import Any

from .checks import as_number, check_momentum, check_not_negative, check_positive, is_problem, known

Number = Any  # a float, or an array of them, and then so is the result


def sgd_edge(beta: Number) -> Number:
    """2/beta: from this step size on gradient descent diverges on a quadratic, |1 - lr beta| >= 1.

    Args:
        beta: the largest curvature, positive; or a problem that knows it, or an array of curvatures.

    Returns:
        The step size; an array where an argument is one.

    Raises:
        TypeError: beta is neither a number nor a problem that knows one.
        ValueError: beta is not positive or not finite.

    Example:
        >>> import samestep as ss
        >>> ss.theory.sgd_edge(4.0)
        0.5
    """
    return 2.0 / _curvature(beta)


def heavy_ball_edge(beta: Number, momentum: Number) -> Number:
    """2 (1 + a)/beta for the heavy ball: up to twice the edge of gradient descent.

    The roots of z^2 - (1 + a - s) z + a, s = lr beta, lie inside the unit circle iff 0 < s < 2 (1 + a)
    and a < 1 (Jury's test).

    Args:
        beta: as for sgd_edge.
        momentum: a, 0 <= a < 1, a number or an array; from 1 on no step size is stable.

    Returns:
        The step size; an array where an argument is one.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument out of range or not finite.

    Source:
        Goh, Why momentum really works (Distill, 2017).

    Example:
        >>> import samestep as ss
        >>> ss.theory.heavy_ball_edge(4.0, momentum=0.5)
        0.75
    """
    beta = _curvature(beta)
    return 2.0 * (1.0 + _stable(momentum)) / beta


def look_ahead_edge(beta: Number, momentum: Number, momentum_next: Number | None = None) -> Number:
    """(2 + 2a)/((1 + 2a) beta) for Nesterov's rule: below 2/beta, towards 4/(3 beta).

    There a root of z^2 - (1 + a)(1 - s) z + a (1 - s), s = lr beta, reaches -1. With another momentum
    a' for the next step, kept so, it is (2 + 2a)/((1 + a + a') beta).

    Args:
        beta, momentum: as for heavy_ball_edge.
        momentum_next: a', 0 or more; None: a.

    Returns:
        The step size; an array where an argument is one.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument out of range or not finite.

    Source:
        Derived from the recursion of one mode.

    Example:
        >>> import samestep as ss
        >>> ss.theory.look_ahead_edge(4.0, momentum=0.5)
        0.375
    """
    beta = _curvature(beta)
    momentum = _stable(momentum)
    ahead = momentum if momentum_next is None else momentum_next
    check_not_negative(momentum_next=ahead)
    return (2.0 + 2.0 * momentum) / ((1.0 + momentum + as_number(ahead)) * beta)


def _curvature(beta: Any) -> Any:
    """A number, or that of a problem."""
    if is_problem(beta):
        beta = known(beta, "beta", "beta")
    check_positive(beta=beta)
    return as_number(beta)


def _stable(momentum: Any) -> Any:
    check_momentum(momentum, "0 <= momentum < 1: beyond, no step is stable")
    return as_number(momentum)
