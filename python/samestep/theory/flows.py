"""Momentum methods in continuous time: three differential equations that their steps follow.

Both methods are u+ = u + a (u - u_prev) + lr f(u + b (u - u_prev)) with f = -grad L, step size lr and
momentum a: the heavy ball with b = 0, Nesterov's with b = a. l = 1/(1 - a) is their speed relative to
gradient descent.

    steps            the methods' own steps: Steps
    rescaled         u' = -l grad L(u), of order 1
    modified         lr c u'' + u' = -l grad L(u), of order 2
    manifold         u' = -l grad(L + (lr/2) l c |grad L|^2), of order 2
    manifold_move    the move on the invariant manifold, of order 3
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from ..optim.optimizer import Optimizer
from ..optim.optimizers import NAG, Momentum
from ..optional import require
from ..problems import Float64s, Floats
from ..problems.function import check_returned_gradient
from ..problems.mse import is_least_squares
from . import checks
from .checks import check_method, check_momentum, check_positive, check_problem

Method = checks.Method


_FAMILIES = ("momentum", "nag")  # gradient descent is either with a momentum of 0


class TwiceSmooth(Protocol):
    """What a flow uses of a problem."""

    def gradient(self, w: Floats) -> Floats:
        """The gradient at w."""

    def hessian(self, w: Floats) -> Floats:
        """The Hessian at w."""


class Steps(NamedTuple):
    """The steps of a method.

    Attributes:
        u: the iterates u_0, u_1, ..., one a row.
        v: the moves u_n - u_{n-1} that led there; the first is the one given.
    """

    u: Float64s
    v: Float64s


def steps(
    problem: TwiceSmooth, u0: Floats, lr: float, momentum: float, count: int, method: Method, v0: Floats
) -> Steps:
    """``count`` steps of the package's own Momentum or NAG.

    Args:
        problem: whose gradient to follow.
        u0: the start, shape (p,), float64.
        lr: the step size.
        momentum: a.
        count: how many steps.
        method: "heavy_ball" or "momentum"; "nesterov", "nag" or "look_ahead".
        v0: u_0 - u_{-1}, the move that led to the start: zeros for a start at rest, or
            ``manifold_move`` to be on the invariant manifold at once.

    Raises:
        ValueError: an unknown method, shapes that do not fit, hyper-parameters that NAG or Momentum refuses.

    Example:
        >>> import numpy as np, samestep as ss
        >>> from samestep.theory import flows
        >>> quartic, u0 = ss.problems.Quartic(), np.array([1.0, -1.0])
        >>> run = flows.steps(quartic, u0, 0.1, 0.5, 1, "heavy_ball", v0=np.zeros(2))
        >>> run.u.round(12).tolist(), run.v.round(12).tolist()
        ([[1.0, -1.0], [0.85, -0.85]], [[0.0, 0.0], [-0.15, 0.15]])
    """
    check_problem(problem, "gradient")
    b = _ahead(method, momentum)
    if np.shape(v0) != np.shape(u0):
        raise ValueError(f"v0: got shape {np.shape(v0)}, expected {np.shape(u0)} as u0")
    w = np.array(u0, dtype=np.float64) + b * np.asarray(v0)
    kind = NAG if check_method("method", method, *_FAMILIES) == "nag" else Momentum
    opt: Optimizer = kind(w, lr=lr, momentum=momentum)
    v = opt.state["v"][0]
    v[...] = v0
    u, moves = [w - b * v], [v.copy()]
    for _ in range(count):
        opt.step(check_returned_gradient(problem.gradient(w), w))
        u.append(w - b * v)  # NAG holds the look-ahead point
        moves.append(v.copy())
    return Steps(np.array(u), np.array(moves))


def rescaled(problem: TwiceSmooth, u0: Floats, times: Floats, momentum: float) -> Float64s:
    """u' = -l grad L(u): the gradient flow, l = 1/(1 - momentum) times as fast: |u_n - u(n lr)| = O(lr).

    Args:
        problem: L, with its ``gradient``.
        u0: the start, shape (p,), float64.
        times: increasing, from 0 on; t = n lr after n steps.
        momentum: a; with 0 the steps are Euler's method for the gradient flow, as those of a residual
            network are for its own.

    Returns:
        u at these times, one a row.

    Raises:
        ValueError: momentum outside [0, 1), times that do not increase from 0 on, numbers that are not
            finite.
        ArithmeticError: the solution cannot be followed so far.
        ImportError: without SciPy.

    Source:
        Kovachki and Stuart, Continuous time analysis of momentum methods (2021).

    Example:
        >>> import numpy as np, samestep as ss
        >>> from samestep.theory import flows
        >>> parabola = ss.problems.MSE(np.ones((1, 1)), np.zeros(1))  # u^2/2: u(t) = e^(-l t)
        >>> flows.rescaled(parabola, np.ones(1), np.array([0.0, 1.0]), momentum=0.5).round(6).tolist()
        [[1.0], [0.135335]]
    """
    check_problem(problem, "gradient")
    speed = _speed(momentum)
    return _solve(lambda u: -speed * problem.gradient(u), u0, times)


def modified(
    problem: TwiceSmooth, u0: Floats, times: Floats, lr: float, momentum: float, method: Method
) -> Float64s:
    """lr c u'' + u' = -l grad L(u), c = (1 + a - 2b (1 - a))/(2 (1 - a)): O(lr^2) if started consistently.

    A consistent start has u'(0) = -l grad L(u0) and a first move of lr u'(0). After a start at rest, the
    O(lr) offset of the first steps remains.

    Args:
        problem, u0, times, momentum: as for ``rescaled``.
        lr: the step size, positive and finite.
        method: as for ``steps``.

    Returns, raises:
        As ``rescaled``; ValueError also for another lr or method.

    Source:
        Kovachki and Stuart (2021); the constant is derived by Taylor expansion.

    Example:
        >>> import numpy as np, samestep as ss
        >>> from samestep.theory import flows
        >>> parabola = ss.problems.MSE(np.ones((1, 1)), np.zeros(1))
        >>> flows.modified(parabola, np.ones(1), np.array([1.0]), 0.1, 0.0, "heavy_ball").round(6)
        array([[0.349023]])
    """
    check_problem(problem, "gradient")
    check_positive(lr=lr)
    speed, b = _speed(momentum), _ahead(method, momentum)
    mass = lr * (1.0 + momentum - 2.0 * b * (1.0 - momentum)) / (2.0 * (1.0 - momentum))
    p = len(u0)

    def rate(z: Floats) -> Floats:
        u, velocity = z[:p], z[p:]
        return np.concatenate([velocity, (-speed * problem.gradient(u) - velocity) / mass])

    start = np.concatenate([u0, -speed * problem.gradient(np.asarray(u0))])
    return _solve(rate, start, times)[:, :p]


def manifold(
    problem: TwiceSmooth, u0: Floats, times: Floats, lr: float, momentum: float, method: Method
) -> Float64s:
    """u' = -l grad(L + (lr/2) l c |grad L|^2), c = (1 + a) l/2 - b: the flow on the invariant manifold.

    Of second order in lr as ``modified``, but of first order in time: gradient flow of a modified loss.

    Args, returns, raises, source:
        As ``modified``; the problem with its ``hessian(u)`` too.

    Example:
        >>> import numpy as np, samestep as ss
        >>> from samestep.theory import flows
        >>> parabola = ss.problems.MSE(np.ones((1, 1)), np.zeros(1))  # u(t) = e^(-(1 + lr/2) t)
        >>> flows.manifold(parabola, np.ones(1), np.array([1.0]), 0.1, 0.0, "heavy_ball").round(6)
        array([[0.349938]])
    """
    check_positive(lr=lr)
    coefficient = (1.0 + momentum) * _speed(momentum) / 2.0 - _ahead(method, momentum)
    return _solve(lambda u: _modified_descent(problem, u, lr, momentum, coefficient), u0, times)


def manifold_move(problem: TwiceSmooth, u: Floats, lr: float, momentum: float, method: Method) -> Floats:
    """lr G(u), the move u_{n+1} - u_n once n is large: the invariant manifold, up to O(lr^3).

    G = -l grad(L + (lr/2) l c |grad L|^2), c = a l - b. The distance of a run from it shrinks by a factor
    of about a in each step. The coefficient differs from that of the flow by gradient descent's own l/2.

    Args, source: as ``modified``.

    Example:
        >>> import numpy as np, samestep as ss
        >>> from samestep.theory import flows
        >>> flows.manifold_move(ss.problems.Quartic(), np.array([1.0, 0.0]), 0.0, 0.5, "heavy_ball")
        array([-0., -0.])
    """
    coefficient = momentum * _speed(momentum) - _ahead(method, momentum)
    return lr * _modified_descent(problem, u, lr, momentum, coefficient)


def _modified_descent(
    problem: TwiceSmooth, u: Floats, lr: float, momentum: float, coefficient: float
) -> Floats:
    """-l grad(L + (lr/2) l c |grad L|^2); the gradient of |grad L|^2 is 2 H grad L."""
    check_problem(problem, "gradient")
    speed = _speed(momentum)
    g = problem.gradient(u)
    descent: Floats = -speed * (g + lr * speed * coefficient * (_hessian(problem, u) @ g))
    return descent


def _hessian(problem: TwiceSmooth, u: Floats) -> Floats:
    if is_least_squares(problem):
        return problem.hessian()  # the same everywhere
    if not callable(getattr(problem, "hessian", None)):
        raise TypeError(
            f"problem: got {type(problem).__name__} without a hessian, expected one with hessian(w); set one "
            "that is right to some ten digits by problem.hessian = lambda w: hessian_fd(problem.gradient, w)"
        )
    return problem.hessian(u)


def _speed(momentum: float) -> float:
    check_momentum(momentum)
    return 1.0 / (1.0 - momentum)


def _ahead(method: Method, momentum: float) -> float:
    """b: how far ahead the gradient is taken."""
    return momentum if check_method("method", method, *_FAMILIES) == "nag" else 0.0


def _solve(rate: Callable[[Floats], Floats], start: Floats, times: Floats) -> Float64s:
    """Of an autonomous equation, far below the errors that are looked for."""
    integrate = require("scipy.integrate", "a flow's solution")
    times = np.asarray(times, dtype=np.float64)
    if (
        times.ndim != 1
        or len(times) == 0
        or not (times[0] >= 0 and np.isfinite(times).all() and (np.diff(times) > 0).all())
    ):
        raise ValueError(f"times: got {times}, expected increasing finite numbers from 0 on")
    first: Float64s = np.asarray(start, dtype=np.float64)
    # SciPy seeks its first step for ever where the rate is NaN.
    with np.errstate(all="ignore"):
        if not (np.isfinite(first).all() and np.isfinite(rate(first)).all()):
            raise ValueError("u0: got NaN or infinity, in it or in the gradient there, expected finite ones")
    if times[-1] == 0.0:  # SciPy wants an interval
        return first[np.newaxis].copy()
    found = integrate.solve_ivp(
        lambda t, z: rate(z),
        (0.0, times[-1]),
        first,
        method="DOP853",
        rtol=1e-12,
        atol=1e-14,
        t_eval=times,
    )
    if not found.success:
        raise ArithmeticError(f"the flow could not be followed: {found.message}")
    solution: Float64s = found.y.T
    return solution
