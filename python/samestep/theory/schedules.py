"""Step sizes and momenta that change from step to step, as the convergence proofs have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt


def inverse_time(first: float, decay: float) -> Callable[[int], float]:
    """lr_k = first/(1 + decay k): the C/t law, whose sum is infinite and whose squares' sum is not.

    Under the noise of batches a constant step ends in a neighbourhood of the minimum as wide as the
    step; this one converges. A geometric decay, lr^k, does not: its sum is finite, and so is the way
    that it can go.

    Args:
        first: lr_0, positive.
        decay: 0 or more; 0 is the constant step.

    Returns:
        A function of the step number k = 0, 1, ...: set ``optimizer.lr`` to its value before each step.

    Raises:
        ValueError: an argument out of range or not finite.

    Source:
        Robbins and Monro (1951); Goodfellow, Bengio and Courville, eqs. 8.12 and 8.13; Pedregosa,
        Stochastic gradient (notes).

    Example:
        >>> import samestep as ss
        >>> lr = ss.theory.inverse_time(0.5, decay=0.25)
        >>> lr(0), lr(4)
        (0.5, 0.25)
    """
    if not 0.0 < first < float("inf"):
        raise ValueError(f"first: got {first}, expected a positive finite number")
    if not 0.0 <= decay < float("inf"):
        raise ValueError(f"decay: got {decay}, expected a finite number, 0 or more")
    return lambda k: first / (1.0 + decay * k)


def nesterov_momenta() -> Iterator[float]:
    """a_k = (t_k - 1)/t_{k+1} for k = 1, 2, ..., t_1 = 1, t_{k+1} = (1 + sqrt(1 + 4 t_k^2))/2.

    The momenta with which Nesterov's rule meets accelerated_gap_bound on a convex L, with lr = 1/beta.

    Yields:
        0, 0.2818..., 0.4340..., towards 1. The look-ahead form wants them in pairs: at step k
        ``momentum`` is a_{k-1} (0 at first) and ``momentum_next`` a_k.

    Source:
        Beck and Teboulle (2009), eqs. 4.2 and 4.3 (recalled).

    Example:
        >>> import samestep as ss
        >>> from itertools import islice
        >>> [round(a, 4) for a in islice(ss.theory.nesterov_momenta(), 3)]
        [0.0, 0.2818, 0.434]
    """
    t = 1.0
    while True:
        following = (1.0 + sqrt(1.0 + 4.0 * t * t)) / 2.0
        yield (t - 1.0) / following
        t = following
