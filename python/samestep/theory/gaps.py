"""How fast gradient descent closes the gap L(w_t) - L* and lowers |g_t|: the bounds, as numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .checks import as_number, check_not_negative, check_number, check_positive

Steps = int | npt.NDArray[np.integer[Any]]
Bound = Any  # a float, or an array for an array of steps


class GapBounds(NamedTuple):
    """Three bounds of the gap after t steps of lr = 1/beta on a convex L, the loosest first.

    Attributes:
        notes: 2 beta D^2/(t + 1), as in the notes, with the square that they leave out.
        nesterov: 2 beta D^2/(t + 4).
        sharp: beta D^2/(4t + 2); no better one exists.
    """

    notes: Bound
    nesterov: Bound
    sharp: Bound


def gap_bounds(t: Steps, beta: float, distance: float) -> GapBounds:
    """What L(w_t) - L* cannot exceed for gradient descent with lr = 1/beta on a convex L.

    A step lr < 1/beta is the 1/beta of a larger beta, which the loss satisfies as well: pass 1/lr as beta.

    The first two follow from 1/gap_{t+1} >= 1/gap_t + 1/(2 beta D^2) and gap_0 <= beta D^2/2. The third
    is attained, after any t, by a Huber loss with its kink at D/(2t + 1).

    Args:
        t: the number of steps, or an array of them.
        beta: the smoothness of L, positive. It grows with the loss scale c.
        distance: D = |w_0 - w*|.

    Returns:
        GapBounds: three floats, or three arrays of the shape of t.

    Raises:
        ValueError: t below 0 or an array without elements, beta not positive, a distance below 0, any of
            them not finite.

    Source:
        The notes' optimality gap; Nesterov, Introductory Lectures, cor. 2.1.2 (recalled); Drori and
        Teboulle (2014) (recalled).

    Example:
        >>> import samestep as ss
        >>> ss.theory.gap_bounds(0, beta=3.0, distance=2.0)
        GapBounds(notes=24.0, nesterov=6.0, sharp=6.0)
    """
    t = _check(t, beta, distance)
    scale = beta * (distance * distance)
    return GapBounds(2.0 * scale / (t + 1), 2.0 * scale / (t + 4), scale / (4 * t + 2))


def iterations_bound(beta: float, gap: Bound, delta: Bound) -> Bound:
    """t = 2 beta gap_0/delta: after so many steps of lr = 1/beta one |g_s|^2, s < t, was at most delta.

    For every smooth loss, convex or not; since each step lowers L by |g|^2/(2 beta), which cannot
    happen more often than the gap allows. It bounds the *squared* norm of the *best* gradient: |g| falls
    as 1/sqrt(t). The last one can be larger; for a convex loss it is at most gradient_bound.

    Args:
        beta: the smoothness of L, positive.
        gap: L(w_0) - L*, or more; a number or an array.
        delta: the value of |g|^2 to be reached, positive; likewise.

    Returns:
        The bound, not rounded to a whole number.

    Raises:
        ValueError: an argument out of range or not finite.

    Source:
        The notes' t >= 2 beta L(w_0 - L(w*))/delta, read as 2 beta (L(w_0) - L(w*))/delta.

    Example:
        >>> import samestep as ss
        >>> ss.theory.iterations_bound(beta=3.0, gap=10.0, delta=0.5)
        120.0
    """
    check_positive(beta=beta, delta=delta)
    check_not_negative(gap=gap)
    return 2.0 * beta * as_number(gap) / as_number(delta)


def gradient_bound(t: Steps, beta: float, distance: float) -> Bound:
    """beta D/(t + 1), which |g_t| cannot exceed for lr = 1/beta on a convex L.

    The notes' "gradient norm goes to 0 at a rate of 1/t", which needs convexity. A Huber loss with its kink
    at D/(t + 1) attains the bound.

    Args:
        t, beta, distance: as for gap_bounds.

    Raises:
        ValueError: as gap_bounds.

    Source:
        Teboulle and Vaisbourd (2022) (recalled).

    Example:
        >>> import samestep as ss
        >>> ss.theory.gradient_bound(3, beta=2.0, distance=4.0)
        2.0
    """
    t = _check(t, beta, distance)
    return beta * distance / (t + 1)


def accelerated_gap_bound(t: Steps, beta: float, distance: float) -> Bound:
    """2 beta D^2/(t + 1)^2, for Nesterov's rule with lr = 1/beta and the momenta of nesterov_momenta.

    It bounds the gap at the iterates x_t of a convex L, not at the look-ahead points.

    Args:
        t, beta, distance: as for gap_bounds; t from 1.

    Raises:
        ValueError: as gap_bounds.

    Source:
        Beck and Teboulle (2009), theorem 4.4 (recalled).

    Example:
        >>> import samestep as ss
        >>> ss.theory.accelerated_gap_bound(3, beta=2.0, distance=4.0)
        4.0
    """
    t = _check(t, beta, distance)
    return 2.0 * beta * (distance * distance) / ((t + 1) * (t + 1))


def _check(t: Steps, beta: float, distance: float) -> Any:
    """t in float64, in which no formula of it overflows: a float, or an array of that shape."""
    check_positive(beta=beta)
    check_not_negative(distance=distance)
    check_number("t", t)
    steps = np.asarray(t, dtype=np.float64)
    if steps.size == 0:
        raise ValueError(f"t: got shape {steps.shape}, expected at least one number of steps")
    if not (steps >= 0).all() or np.isinf(steps).any():
        raise ValueError(f"t: got {steps.min()} to {steps.max()}, expected finite numbers, 0 or more")
    return steps.item() if steps.ndim == 0 else steps
