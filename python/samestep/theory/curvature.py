"""The curvature of a loss: its largest value, and the Hessian from gradients alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from ..optional import require
from ..problems import Float64s, Floats
from ..problems.mse import is_least_squares, rows_in_memory
from .checks import check_function, check_positive, is_problem, known

Method = Literal["exact", "power", "lanczos"]


def beta(problem_or_H: Any, method: Method = "exact", steps: int = 100) -> float:
    """lambda_max(H), the smoothness of a convex L.

    ===========  =============================================================================
    method       how
    ===========  =============================================================================
    ``exact``    all eigenvalues: p^3 operations
    ``power``    v = H v/|H v|, ``steps`` times from (1, ..., 1), then v'Hv: a product with H each. It
                 finds the eigenvalue of largest size, and so lambda_max only where none is as far
                 below 0, as for every loss of problems.MSE; a start without a share of its direction
                 misses it
    ``lanczos``  SciPy's eigsh: some tens of products with H, whatever the signs
    ===========  =============================================================================

    The two that multiply never form the Hessian of a problem: H v = c Phi'(Phi v).

    Args:
        problem_or_H: a problem that knows its beta, or a symmetric Hessian, shape (p, p).
        method: one of the table; a problem other than problems.MSE has "exact" alone, the beta that it knows.
        steps: the number of multiplications of "power" before its v'Hv.

    Returns:
        lambda_max in float64; below 0 for a concave function.

    Raises:
        TypeError: a problem that knows no beta, or has no Hessian to multiply with.
        ValueError: H is not square, not symmetric or not finite; an unknown method; steps below 1.
        ImportError: "lanczos" without SciPy.

    Source:
        The notes' beta-smoothness; Golub and Van Loan, Matrix Computations, for both iterations.

    Example:
        >>> import numpy as np, samestep as ss
        >>> H = np.array([[2.0, 1.0], [1.0, 2.0]])
        >>> [round(ss.theory.beta(H, method), 9) for method in ("exact", "power")]
        [3.0, 3.0]
    """
    if method not in get_args(Method):
        raise ValueError(f"method: got {method!r}, expected one of {', '.join(map(repr, get_args(Method)))}")
    if steps < 1:
        raise ValueError(f"steps: got {steps}, expected 1 or more")
    if is_least_squares(problem_or_H):
        if method == "exact":
            return problem_or_H.beta
        c, Phi = problem_or_H.c, rows_in_memory(problem_or_H)[0].astype(np.float64)
        p = problem_or_H.dimension

        def product(v: Any) -> Any:
            return c * (Phi.T @ (Phi @ v))
    elif is_problem(problem_or_H):
        if method != "exact":
            raise TypeError(
                f"problem_or_H: got {type(problem_or_H).__name__}, expected problems.MSE or a Hessian for "
                f"method={method!r}; leave the method out for the problem's own beta"
            )
        return known(problem_or_H, "beta", "problem_or_H")
    else:
        H = check_symmetric("H", problem_or_H)
        if method == "exact":
            return float(np.linalg.eigvalsh(H)[-1])
        p = len(H)

        def product(v: Any) -> Any:
            return H @ v

    if method == "power":
        return _power_iteration(product, p, steps)
    if p == 1:  # ARPACK wants more columns than eigenvalues
        return float(product(np.ones(1))[0])
    linalg = require("scipy.sparse.linalg", "method='lanczos'")
    operator = linalg.LinearOperator((p, p), matvec=product, dtype=np.float64)
    # ARPACK draws its start from NumPy's global generator unless it is given one.
    start = np.random.RandomState(0).standard_normal(p)
    if not product(start).any():  # H = 0, which ARPACK takes for an error
        return 0.0
    return float(linalg.eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False)[0])


def _power_iteration(product: Callable[[Any], Any], p: int, steps: int) -> float:
    v = np.ones(p) / np.sqrt(p)
    for _ in range(steps):
        Hv = product(v)
        length = float(np.linalg.norm(Hv))
        if length == 0.0:
            return 0.0
        v = Hv / length
    return float(v @ product(v))


def hessian_fd(gradient: Callable[[Floats], Floats], w: Floats, h: float | None = None) -> Floats:
    """H from 2p gradients: column j is (g(w + h e_j) - g(w - h e_j))/(2h), then (H + H')/2.

    Args:
        gradient: g, called with float64 arrays of the shape of w.
        w: where, shape (p,).
        h: the shift of w; None: eps^(1/3) max(1, |w_j|), which balances rounding and truncation.

    Returns:
        A new float64 array, shape (p, p), right to some ten digits for a smooth g.

    Raises:
        TypeError: g is no function.
        ValueError: w is not of one dimension or not finite, h is not positive, g has another shape.

    Source:
        H_ij = d^2 L/(dw_i dw_j): the notes print it without the square.

    Example:
        >>> import numpy as np, samestep as ss
        >>> problem = ss.problems.MSE(np.array([[1.0], [2.0]]), np.zeros(2))
        >>> ss.theory.hessian_fd(problem.gradient, np.zeros(1)).round(6)
        array([[5.]])
    """
    check_function("gradient", gradient)
    w = np.array(w, dtype=np.float64)
    if w.ndim != 1 or len(w) == 0:
        raise ValueError(f"w: got shape {w.shape}, expected (p,) with p >= 1")
    if not np.isfinite(w).all():
        raise ValueError("w: got NaN or infinity, expected finite numbers")
    if h is not None:
        check_positive(h=h)
    H = np.empty((len(w), len(w)))
    for j in range(len(w)):
        shift = h if h is not None else float(np.finfo(np.float64).eps ** (1 / 3) * max(1.0, abs(w[j])))
        ahead, behind = w.copy(), w.copy()
        ahead[j] += shift
        behind[j] -= shift
        rise = np.asarray(gradient(ahead)) - np.asarray(gradient(behind))
        if rise.shape != w.shape:
            raise ValueError(f"gradient: returned shape {rise.shape}, expected {w.shape} as w")
        H[:, j] = rise / (ahead[j] - behind[j])
    symmetric: Floats = (H + H.T) / 2
    return symmetric


def check_symmetric(name: str, matrix: Floats) -> Float64s:
    """The matrix in float64, if it can be a Hessian or a kernel."""
    if np.asarray(matrix).dtype.kind not in "biuf":
        fix = "; pass its Hessian, such as problem.hessian()" if hasattr(matrix, "hessian") else ""
        raise TypeError(f"{name}: got {type(matrix).__name__}, expected a symmetric matrix of numbers{fix}")
    H: Float64s = np.asarray(matrix, dtype=np.float64)
    if H.ndim != 2 or H.shape[0] != H.shape[1] or H.shape[0] == 0:
        raise ValueError(f"{name}: got shape {H.shape}, expected (p, p) with p >= 1")
    if not np.isfinite(H).all():
        raise ValueError(f"{name}: got NaN or infinity, expected finite numbers")
    if not np.allclose(H, H.T, rtol=1e-6, atol=1e-6 * float(np.abs(H).max())):
        raise ValueError(f"{name}: got a matrix that is not symmetric, expected a symmetric one")
    return H
