"""The descent lemma: what one gradient step gains at least; and backtracking, which finds such a step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..problems import Floats
from .checks import check_function, check_not_negative, check_positive


def descent_ok(before: float, after: float, g: Floats, lr: float, beta: float) -> bool:
    """Whether L(w - lr g) <= L(w) - lr (1 - lr beta/2) |g|^2, the descent lemma.

    It holds at every step of gradient descent on a loss whose gradient is Lipschitz with constant
    beta, convex or not; where it fails, beta is too small. The gain is largest, |g|^2/(2 beta), for
    lr = 1/beta, and is 0 only where g is: at a critical point, which need not be a minimum.

    Args:
        before: L(w).
        after: L(w - lr g).
        g: the gradient at w, shape (p,).
        lr: the step size.
        beta: the Lipschitz constant of the gradient.

    Returns:
        Whether it holds, up to the rounding of the two losses (4 units in the last place).
        False where one of them is NaN.

    Raises:
        ValueError: lr or beta is negative or not finite.

    Source:
        The notes' alpha = 1/L, whose inequality they leave open; Nesterov, Introductory Lectures,
        lemma 1.2.3 (recalled).

    Example:
        >>> import numpy as np, samestep as ss
        >>> g = np.array([2.0])  # of L = w^2/2 at 2
        >>> ss.theory.descent_ok(2.0, 0.0, g, lr=1.0, beta=1.0), ss.theory.descent_ok(2.0, 0.0, g, 1.0, 0.5)
        (True, False)
    """
    check_not_negative(lr=lr, beta=beta)
    g = np.asarray(g, dtype=np.float64)
    with np.errstate(all="ignore"):  # a run that diverges is a False, and no warning
        gain = lr * (1.0 - lr * beta / 2.0) * float(np.vdot(g, g))
        rounding = 4.0 * float(np.spacing(max(abs(before), abs(after))))
    return bool(after <= before - gain + rounding)


def backtracking(
    loss: Callable[[Floats], float],
    w: Floats,
    g: Floats,
    lr: float = 1.0,
    shrink: float = 0.5,
    most: int = 40,
) -> float:
    """The first of lr, lr shrink, lr shrink^2, ... with L(w - lr g) <= L(w) - (lr/2) |g|^2.

    Every lr <= 1/beta passes, so the result is above shrink/beta, or lr itself, without beta being
    known.

    Args:
        loss: L.
        w: where, shape (p,).
        g: the gradient there, shape (p,).
        lr: the first one tried, positive.
        shrink: the factor after a failure, between 0 and 1.
        most: how many step sizes are tried; 40 halvings are twelve decades.

    Returns:
        A step size; lr where g is 0.

    Raises:
        TypeError: loss is no function.
        ValueError: an argument out of range; no lr passed, as where g is no gradient of L or L at w is
            not finite.

    Source:
        Pedregosa, Gradient descent (notes); Armijo (1966).

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.theory.backtracking(lambda w: 1.5 * float(w @ w), np.ones(1), np.full(1, 3.0))
        0.25
    """
    check_function("loss", loss)
    check_positive(lr=lr)
    if not 0.0 < shrink < 1.0:
        raise ValueError(f"shrink: got {shrink}, expected a number between 0 and 1")
    before = loss(w)
    with np.errstate(all="ignore"):  # the first steps tried may go beyond the dtype, and do not pass
        squared = float(np.vdot(g, g))
        rounding = 4.0 * float(np.spacing(abs(before)))
    for _ in range(most):
        with np.errstate(all="ignore"):
            tried = w - w.dtype.type(lr) * g
        # Near a minimum the gain is below the rounding of L.
        if loss(tried) <= before - lr / 2.0 * squared + rounding:
            return lr
        lr *= shrink
    raise ValueError(
        f"g: no step along it lowered the loss {before} enough in {most} tries, the last with lr {lr:g}; "
        "expected the gradient of the loss at w"
    )
