"""Other forms of momentum, the heavy ball's step after many equal gradients, and Nesterov's momenta.

The optimizers have the heavy ball, v = a v - lr g, w = w + v, and torch's form.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from ..arguments import switch
from ..problems import Floats
from .checks import check_momentum


def polyak_step(w: Floats, previous: Floats, g: Floats, lr: float, momentum: float) -> Floats:
    """x+ = x - lr g + a (x - x_prev): the heavy ball without a velocity.

    The same as Momentum, since v = x - x_prev, also where lr and a change from step to step; torch's form
    differs then, as its buffer holds gradients that are scaled by the new lr.

    Args:
        w, previous: x and the iterate before it, the same array at the start; shape (p,).
        g: the gradient at w, shape (p,).
        lr, momentum: of this step.

    Returns:
        A new array: the next iterate.

    Source:
        Polyak (1964), as given by Pedregosa, Gradient descent (notes).

    Example:
        >>> import numpy as np, samestep as ss
        >>> x = np.array([1.0])
        >>> ss.theory.polyak_step(x, np.array([2.0]), np.array([4.0]), lr=0.25, momentum=0.5)
        array([-0.5])
    """
    T = w.dtype.type
    d = w - previous
    step: Floats = (w - (T(lr) * g)) + (T(momentum) * d)
    return step


def ema_step(w: Floats, v: Floats, g: Floats, alpha: float, decay: float) -> tuple[Floats, Floats]:
    """v = b v + (1 - b) g, w = w - alpha v: momentum as a true running average, whose weights sum to 1.

    The same iterates as the heavy ball with lr = alpha (1 - b) and a = b, for constant ones.

    Args:
        w: the weights, shape (p,).
        v: the average so far, zeros at the start; shape (p,).
        g: the gradient at w, shape (p,).
        alpha: the step size, lr/(1 - b) of the heavy ball.
        decay: b, in [0, 1).

    Returns:
        New arrays: the next w and v.

    Source:
        Liquet, Moka and Nazarathy, Mathematical Engineering of Deep Learning, the accompanying code.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.theory.ema_step(np.array([1.0]), np.zeros(1), np.array([4.0]), alpha=0.5, decay=0.75)
        (array([0.5]), array([1.]))
    """
    T = w.dtype.type
    v = (T(decay) * v) + (T(1.0 - decay) * g)
    return w - (T(alpha) * v), v


def terminal_step(lr: float, momentum: float, g: float, alternating: bool = False) -> float:
    """-lr g/(1 - a): the heavy ball's step after many equal gradients; of alternating ones -lr g/(1 + a).

    The weights of the old gradients sum to 1/(1 - a): the notes' "average" is a sum.

    Args:
        lr: the step size.
        momentum: a, in [0, 1).
        g: the gradient, the same at every step; if alternating, the last one.
        alternating: whether its sign changes at every step.

    Returns:
        The change of the weight in one step, with its sign.

    Raises:
        ValueError: the momentum is not in [0, 1).

    Source:
        Goodfellow, Bengio and Courville, eq. 8.17.

    Example:
        >>> import samestep as ss
        >>> ss.theory.terminal_step(lr=0.25, momentum=0.5, g=2.0)
        -1.0
    """
    check_momentum(momentum)
    return -lr * g / (1.0 + momentum if switch("alternating", alternating) else 1.0 - momentum)


def nesterov_momenta() -> Iterator[float]:
    """a_k = (t_k - 1)/t_{k+1} for k = 1, 2, ..., t_1 = 1, t_{k+1} = (1 + sqrt(1 + 4 t_k^2))/2.

    The momenta with which Nesterov's rule meets accelerated_gap_bound on a convex L, with lr = 1/beta.

    Yields:
        0, 0.2818..., 0.4340..., towards 1. The look-ahead form wants them in pairs: at step k
        ``momentum`` is a_{k-1} (0 at first) and ``momentum_next`` a_k. As schedules, of a list that
        begins with that 0: ``NAG(w, lr, momentum=lambda t: a[t - 1], momentum_next=lambda t: a[t])``.

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
