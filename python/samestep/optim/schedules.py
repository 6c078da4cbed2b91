"""Schedules: callables of the step number t = 1, 2, ..., to be passed as ``lr`` or as a momentum.

Any callable can be a schedule; these are the usual ones. They refuse arguments out of range, with TypeError
or ValueError, when they are constructed. An optimizer evaluates its schedules on the host in float64 before
the step, so only the value affects the bits of the step. ``cosine`` alone calls libm, whose last bit may
differ between systems; it rounds its factor to a multiple of 2^-40, which is the same on all of them except
at ties. An optimizer with one of these schedules can be pickled.

Example:
    >>> import numpy as np, samestep as ss
    >>> w = np.zeros(1)
    >>> opt = ss.SGD(w, lr=ss.schedules.inverse_time(0.5, decay=1.0))
    >>> for _ in range(3):
    ...     opt.step(np.ones(1))
    ...     print(opt.lr)
    0.5
    0.25
    0.16666666666666666
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from ..arguments import finite_number, whole_number

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """``lr``.

    Example:
        >>> from samestep import schedules
        >>> schedules.constant(0.5)(7)
        0.5
    """
    lr = finite_number("lr", lr, at_least=0.0)
    return partial(_constant, lr)


def _constant(lr: float, t: int) -> float:
    return lr


def step(lr: float, *, every: int, factor: float = 0.1) -> Schedule:
    """``lr * factor^((t - 1) div every)``.

    Example:
        >>> from samestep import schedules
        >>> [schedules.step(1.0, every=2, factor=0.5)(t) for t in (1, 2, 3, 5)]
        [1.0, 1.0, 0.5, 0.25]
    """
    lr, factor = finite_number("lr", lr, at_least=0.0), finite_number("factor", factor, at_least=0.0)
    every = whole_number("every", every, at_least=1)
    return partial(_step, lr, every, factor)


def _step(lr: float, every: int, factor: float, t: int) -> float:
    value = lr
    for _ in range((t - 1) // every):
        value = value * factor
        if value == 0.0:
            break
    return value


def cosine(lr: float, *, steps: int, lowest: float = 0.0) -> Schedule:
    """Half a cosine from ``lr`` at t = 1 down to ``lowest`` at t = steps + 1 and from then on.

    ``lowest + (lr - lowest)*(1 + cos(pi*(t - 1)/steps))/2``

    Source:
        Loshchilov & Hutter, SGDR (2017), eq. 5, without restarts.

    Example:
        >>> from samestep import schedules
        >>> [schedules.cosine(1.0, steps=4)(t) for t in (1, 3, 5, 99)]
        [1.0, 0.5, 0.0, 0.0]
    """
    lr, lowest = finite_number("lr", lr, at_least=0.0), finite_number("lowest", lowest, at_least=0.0)
    steps = whole_number("steps", steps, at_least=1)
    return partial(_cosine, lr, steps, lowest)


def _cosine(lr: float, steps: int, lowest: float, t: int) -> float:
    turn = math.cos(math.pi * (min(t - 1, steps) / steps))
    share = round((1.0 + turn) / 2.0 * 2.0**40) / 2.0**40
    return lowest + (lr - lowest) * share


def warm_up(schedule: Schedule | float, *, steps: int) -> Schedule:
    """``schedule(t)`` times t/steps in the first ``steps`` steps.

    Example:
        >>> from samestep import schedules
        >>> [schedules.warm_up(1.0, steps=4)(t) for t in (1, 2, 4, 9)]
        [0.25, 0.5, 1.0, 1.0]
    """
    steps = whole_number("steps", steps, at_least=1)
    follow = schedule if callable(schedule) else constant(finite_number("schedule", schedule, at_least=0.0))
    return partial(_warm_up, follow, steps)


def _warm_up(follow: Schedule, steps: int, t: int) -> float:
    return follow(t) * (min(t, steps) / steps)


def inverse_time(lr: float, *, decay: float) -> Schedule:
    """``lr / (1 + decay*(t - 1))``, the 1/t schedule; ``decay`` is 0 or more.

    The sum of these step sizes is infinite and the sum of their squares is finite, the condition under which
    gradient descent on noisy batches converges. With a constant step size it stays within a neighbourhood of
    the minimum whose size grows with the step. A geometric decay need not reach the minimum: the sum of its
    steps is finite.

    Source:
        Robbins & Monro (1951); Goodfellow, Bengio and Courville, eqs. 8.12 and 8.13; Pedregosa,
        Stochastic gradient (notes).

    Example:
        >>> from samestep import schedules
        >>> schedules.inverse_time(1.0, decay=0.5)(3)
        0.5
    """
    lr, decay = finite_number("lr", lr, at_least=0.0), finite_number("decay", decay, at_least=0.0)
    return partial(_inverse_time, lr, decay)


def _inverse_time(lr: float, decay: float, t: int) -> float:
    return lr / (1.0 + decay * (t - 1))
