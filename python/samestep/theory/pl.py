"""The Polyak-Lojasiewicz condition |g|^2/2 >= mu (L - L*), and what follows from it.

With the factor 1/2 throughout; the notes' definition leaves it out, and its mu is twice this one.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from ..problems import Float64s, Floats
from ..problems.mse import claimed
from .checks import check_not_negative, check_number, check_positive, is_problem, known
from .curvature import check_symmetric


class InterpolationStep(NamedTuple):
    """What sgd_step_interpolation returns.

    Attributes:
        lr: the step size.
        rate: the factor by which E L shrinks a step.
    """

    lr: float
    rate: float


def pl_constant(problem: Any) -> float:
    """The largest mu with |g|^2/2 >= mu (L - L*) at every w: the smallest curvature of L but for 0.

    It is attained along the flattest direction in which L grows. Where all of y can be fitted it is the
    constant of PL* as well, c lambda_min of the tangent kernel.

    Args:
        problem: a least-squares problem, whose scale c is in the result, or another that knows its ``mu``,
            which is returned.

    Returns:
        mu > 0; infinity where L is constant (Phi = 0): then |g| = 0 = L - L*, and every mu does.

    Raises:
        TypeError: no problem, or one that knows neither its eigenvalues nor a mu.
        ValueError: its mu is 0: the loss is known to be convex, and no constant is known.

    Source:
        Karimi, Nutini and Schmidt (2016) (recalled).

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.theory.pl_constant(ss.problems.MSE(np.array([[2.0, 0.0]]), np.ones(1)))
        4.0
    """
    if not is_problem(problem):
        raise TypeError(
            f"problem: got {type(problem).__name__}, expected a problem such as problems.MSE; of a tangent "
            "kernel it is pl_star_constant"
        )
    eigenvalues = claimed(problem, "eigenvalues")
    if eigenvalues is None:
        mu = known(problem, "mu")
        if mu == 0.0:
            raise ValueError("problem.mu: got 0.0, expected a positive number: a convex loss may have none")
        return mu
    return float(min(eigenvalues[eigenvalues > 0.0], default=float("inf")))


def tangent_kernel(J: Floats) -> Float64s:
    """K = J J', the tangent kernel: how the outputs F(w) change together when w does.

    Args:
        J: DF(w), one output a row: shape (N, p). For a linear model it is Phi.

    Returns:
        A new float64 array, shape (N, N). It is positive definite only if p >= N: an (p, p) result is the
        Hessian J'J of the transposed matrix.

    Raises:
        ValueError: J is no matrix, has no rows or no columns, or is not finite.

    Source:
        The notes' K(w) = DF(w) DF(w)'; Liu, Zhu and Belkin (2022).

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.theory.tangent_kernel(np.array([[1.0, 2.0]]))
        array([[5.]])
    """
    check_number("J", J, "a matrix of numbers")
    J = np.asarray(J, dtype=np.float64)
    if J.ndim != 2 or 0 in J.shape:
        raise ValueError(f"J: got shape {J.shape}, expected (N, p) with at least one row and one column")
    if not np.isfinite(J).all():
        raise ValueError("J: got NaN or infinity, expected finite numbers")
    return J @ J.T


def pl_star_constant(K: Floats, c: float = 1.0) -> float:
    """mu = c lambda_min(K): |g|^2/2 >= mu L for L = (c/2) |F(w) - y|^2 where the tangent kernel is K.

    As g = c DF'(F - y), |g|^2 >= c^2 lambda_min(K) |F - y|^2 = 2 c lambda_min(K) L: the notes' result
    without the 2.

    Args:
        K: the tangent kernel, shape (N, N).
        c: the loss scale, positive.

    Returns:
        mu; 0 where rounding cannot tell it from 0, as it must be for more outputs than weights: such a
        loss need not reach 0.

    Raises:
        ValueError: K is not square, not symmetric or not finite; c is not positive.

    Source:
        The notes' mu = lambda_min(K); Liu, Zhu and Belkin (2022).

    Example:
        >>> import numpy as np, samestep as ss
        >>> round(ss.theory.pl_star_constant(np.array([[2.0, 1.0], [1.0, 2.0]])), 12)
        1.0
    """
    check_positive(c=c)
    eigenvalues = np.linalg.eigvalsh(check_symmetric("K", K))
    rounding = len(eigenvalues) * np.finfo(np.float64).eps * abs(float(eigenvalues[-1]))
    return c * float(eigenvalues[0]) if eigenvalues[0] > rounding else 0.0


def pl_rate(beta: float, mu: float, lr: float | None = None) -> float:
    """rho = 1 - 2 mu lr (1 - lr beta/2): gap_{t+1} <= rho gap_t.

    With lr = 1/beta it is 1 - mu/beta: the convergence is linear, not the O(beta/t) of the notes.

    Args:
        beta: the smoothness of L, positive.
        mu: its PL constant, 0 < mu <= beta.
        lr: the step size, 0 < lr < 2/beta; None: 1/beta.

    Returns:
        The factor, below 1.

    Raises:
        ValueError: an argument out of range: without mu > 0, or from lr = 2/beta on, nothing is proved.

    Source:
        Polyak (1963): PL inserted into the descent lemma.

    Example:
        >>> import samestep as ss
        >>> ss.theory.pl_rate(beta=4.0, mu=1.0), ss.theory.pl_rate(beta=4.0, mu=1.0, lr=0.125)
        (0.75, 0.8125)
    """
    lr = _check_pl(beta, mu, lr)
    return 1.0 - 2.0 * mu * lr * (1.0 - lr * beta / 2.0)


def pl_radius(loss: float, beta: float, mu: float, lr: float | None = None) -> float:
    """R(lr) = sqrt(2 beta L(w_0))/(mu (1 - lr beta/2)): gradient descent never leaves this ball.

    If L is beta-smooth and mu-PL* in the ball of this radius around w_0, the steps sum up to less than R,
    and they end at a w with L(w) = 0. With lr = 1/beta it is 2 sqrt(2 beta L(w_0))/mu, the notes' R. It
    grows without bound towards lr = 2/beta, where nothing converges.

    Args:
        loss: L(w_0), 0 or more; L* has to be 0.
        beta, mu, lr: as for pl_rate.

    Returns:
        The radius.

    Raises:
        ValueError: an argument out of range.

    Source:
        The notes' summary theorem, with its step size <= 2/beta made strict; Liu, Zhu and Belkin (2022).

    Example:
        >>> import samestep as ss
        >>> ss.theory.pl_radius(loss=8.0, beta=4.0, mu=1.0)
        16.0
    """
    lr = _check_pl(beta, mu, lr)
    check_not_negative(loss=loss)
    return sqrt(2.0 * beta * loss) / (mu * (1.0 - lr * beta / 2.0))


def sgd_step_interpolation(mu: float, smooth: float, smooth_one: float, m: int = 1) -> InterpolationStep:
    """lr = alpha m/(lambda (alpha (m - 1) + 2B)), alpha = 2 mu, for batches of m draws; and its rate.

    For L the mean of l_1, ..., l_N that all reach 0 at one w: E L(w_t) <= rate^t L(w_0) with
    rate = 1 - alpha lr/2. Found by putting E|g_m|^2 = E|g_i|^2/m + (m - 1)/m |g|^2 and
    |g_i|^2 <= 2B l_i into the descent lemma. Steps below 2/beta do not suffice: online ones diverge.

    Args:
        mu: the PL constant of L, 0 < mu <= smooth.
        smooth: lambda, the smoothness of L.
        smooth_one: B, that of every l_i: at least lambda.
        m: draws a step, with replacement.

    Returns:
        InterpolationStep: the step size and the rate.

    Raises:
        ValueError: an argument out of range.

    Source:
        Bassily, Belkin and Ma (2018) (recalled), whose PL has no 1/2: alpha is their constant.

    Example:
        >>> import samestep as ss
        >>> ss.theory.sgd_step_interpolation(mu=1.0, smooth=2.0, smooth_one=4.0)
        InterpolationStep(lr=0.125, rate=0.875)
    """
    check_positive(smooth=smooth)
    check_number("mu", mu)
    check_number("smooth_one", smooth_one)
    if not 0.0 < mu <= smooth:
        raise ValueError(f"mu: got {mu}, expected 0 < mu <= smooth = {smooth}")
    if not smooth <= smooth_one < float("inf"):
        raise ValueError(f"smooth_one: got {smooth_one}, expected a finite number, at least smooth, {smooth}")
    if not (1 <= m < float("inf") and m == int(m)):
        raise ValueError(f"m: got {m}, expected a whole number, 1 or more")
    alpha = 2.0 * mu
    lr = alpha * m / (smooth * (alpha * (m - 1) + 2.0 * smooth_one))
    return InterpolationStep(lr, 1.0 - alpha * lr / 2.0)


def _check_pl(beta: float, mu: float, lr: float | None) -> float:
    check_positive(beta=beta)
    check_number("mu", mu)
    if not 0.0 < mu <= beta:
        raise ValueError(f"mu: got {mu}, expected 0 < mu <= beta = {beta}: without PL there is no such bound")
    lr = 1.0 / beta if lr is None else lr
    if not 0.0 < lr < 2.0 / beta:
        raise ValueError(f"lr: got {lr}, expected 0 < lr < 2/beta = {2.0 / beta}")
    return lr
