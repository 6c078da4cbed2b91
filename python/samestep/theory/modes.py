"""A quadratic, one eigenvalue of its Hessian at a time: how a step changes the error along each.

Along the eigenvector of a curvature lambda, with s = lr lambda and a the momentum, the error e = w - w*
and the velocity v obey a linear recursion of their own:

    gradient descent    e = (1 - s) e
    heavy ball          v = a v - s e,  e = e + v
    look-ahead (NAG)    v = a v - s e,  e = e + (a' v - s e)

The look-ahead e is that of the stored point, where the gradient is taken; a' is the momentum of the next
step, a unless a schedule says otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..problems import Float64s
from ..problems.mse import claimed
from .checks import Method, check_method, check_number, is_problem
from .curvature import check_symmetric


def mode_factors(problem_or_H: Any, lr: float) -> Float64s:
    """1 - lr lambda_i: the factor of the error along each eigenvector in a step of gradient descent.

    A negative factor flips the sign at every step: that is the zigzag in steep directions. Beyond -1,
    that is for lr > 2/lambda_i, it grows.

    Args:
        problem_or_H: a problem that knows its eigenvalues, as problems.MSE does, or a symmetric Hessian,
            shape (p, p).
        lr: the step size.

    Returns:
        A new float64 array, shape (p,), in the order of increasing lambda.

    Raises:
        TypeError: a problem that does not know its eigenvalues.
        ValueError: H is not square, not symmetric or not finite.

    Source:
        w_t - w* = (I - lr H)^t (w_0 - w*); Goh, Why momentum really works (Distill, 2017).

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.theory.mode_factors(np.array([[2.0, 1.0], [1.0, 2.0]]), 0.6).round(12)
        array([ 0.4, -0.8])
    """
    if is_problem(problem_or_H):
        eigenvalues = _eigenvalues(problem_or_H, "problem_or_H")
    else:
        eigenvalues = np.linalg.eigvalsh(check_symmetric("H", problem_or_H)).astype(np.float64)
    with np.errstate(over="ignore"):
        return 1.0 - lr * eigenvalues


def mode_matrices(
    family: Method,
    curvatures: Any,
    lr: float,
    momentum: float = 0.0,
    momentum_next: float | None = None,
) -> Float64s:
    """The matrix by which a step multiplies (e, v), for every curvature: the module's recursions.

    Args:
        family: "sgd"; "momentum" or "heavy_ball"; "nag", "nesterov" or "look_ahead". The torch forms are
            these with v = -lr b.
        curvatures: lambda, shape (p,), or a problem that knows its eigenvalues.
        lr, momentum, momentum_next: the hyper-parameters; the last for "nag" alone, None: as momentum.

    Returns:
        A new float64 array, shape (p, 2, 2).

    Raises:
        TypeError: a problem that does not know its eigenvalues.
        ValueError: an unknown family.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.theory.mode_matrices("momentum", np.array([4.0]), lr=0.25, momentum=0.5)
        array([[[ 0. ,  0.5],
                [-1. ,  0.5]]])
    """
    name = check_method("family", family)
    if is_problem(curvatures):
        curvatures = _eigenvalues(curvatures, "curvatures")
    check_number("curvatures", curvatures)
    with np.errstate(over="ignore"):
        s, a = lr * np.asarray(curvatures, dtype=np.float64), momentum
    ahead = a if momentum_next is None else momentum_next
    zero, one = np.zeros_like(s), np.ones_like(s)
    rows = {
        "sgd": ((1 - s, zero), (zero, zero)),
        "momentum": ((1 - s, a * one), (-s, a * one)),
        "nag": ((1 - s - ahead * s, ahead * a * one), (-s, a * one)),
    }[name]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def spectral_radius(family: Method, curvatures: Any, lr: float, momentum: float = 0.0) -> float:
    """The factor by which |w - w*| shrinks a step in the long run: the largest |z| over all modes.

    The z solve z = 1 - s; z^2 - (1 + a - s) z + a = 0 for the heavy ball, where complex z have
    |z| = sqrt(a); z^2 - (1 + a)(1 - s) z + a (1 - s) = 0 for the look-ahead form.

    Args:
        family, curvatures, lr, momentum: as for mode_matrices. Leave out curvatures of 0: nothing moves
            along them; those of a problem are left out.

    Returns:
        The radius: the run converges where it is below 1.

    Raises:
        TypeError: as mode_matrices.
        ValueError: an unknown family; no curvature.

    Source:
        Goh, Why momentum really works (Distill, 2017), whose 2 sqrt(a) for complex z is a slip: the
        product of the roots is a.

    Example:
        >>> import numpy as np, samestep as ss
        >>> round(ss.theory.spectral_radius("momentum", np.array([1.0, 9.0]), lr=0.2, momentum=0.49), 12)
        0.7
    """
    if is_problem(curvatures):
        curvatures = _eigenvalues(curvatures, "curvatures")
        curvatures = curvatures[curvatures > 0.0]
    if np.size(curvatures) == 0:
        raise ValueError("curvatures: got none, expected at least one that is not 0")
    with np.errstate(over="ignore", invalid="ignore"):
        M = mode_matrices(family, curvatures, lr, momentum)
    # A step beyond the dtype is one that LAPACK refuses.
    return float(np.abs(np.linalg.eigvals(M)).max()) if np.isfinite(M).all() else float("inf")


def _eigenvalues(problem: Any, argument: str) -> Float64s:
    found = claimed(problem, "eigenvalues")
    if found is None:
        raise TypeError(
            f"{argument}: got {type(problem).__name__} without eigenvalues, expected problems.MSE, or the "
            "curvatures at one w, those of theory.hessian_fd(problem.gradient, w)"
        )
    eigenvalues: Float64s = np.asarray(found, dtype=np.float64)
    return eigenvalues
