"""The bounds of each rule, computed from the facts of a run and compared with its gaps.

One function a bound, its formula first. check_run's docstring has the table and the sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, sqrt
from typing import Any

import numpy as np

from ..backends import in_main_memory
from ..problems.function import can_call_with, check_returned_gradient
from .bound_check import BoundCheck, Condition, bound_check
from .gaps import gap_bounds, gradient_bound
from .modes import mode_factors, mode_matrices
from .run_facts import RunFacts
from .step_size import step_cap


def bounds_of(run: RunFacts) -> Iterator[BoundCheck]:
    """Every bound of the run's rule that can be computed from the problem's numbers."""
    rules = {"sgd": _sgd, "momentum": _momentum, "nag": _nag}
    return rules.get(run.family, _adaptive)(run)


def _sgd(run: RunFacts) -> Iterator[BoundCheck]:
    yield _descent(run)
    if run.knows("optimum", "minimizer"):
        if run.lr > 0.0:
            yield from _three_gaps(run)
        yield _any_gap(run)
    if run.knows("optimum", "mu") and run.mu is not None and 0.0 < run.mu < inf:
        yield _pl(run, run.mu)
    if run.quadratic:
        yield _spectrum(run)
    if run.lr > 0.0 and run.knows("minimizer"):
        yield _gradient(run)
    if run.quadratic:
        yield _modes(run)


def _momentum(run: RunFacts) -> Iterator[BoundCheck]:
    yield _heavy_ball_start(run)
    if run.quadratic:
        yield _modes(run)


def _nag(run: RunFacts) -> Iterator[BoundCheck]:
    if run.knows("optimum"):
        yield _look_ahead_start(run)
    if run.quadratic:
        yield _modes(run)


def _adaptive(run: RunFacts) -> Iterator[BoundCheck]:
    if run.knows("optimum"):
        yield _reach(run)


def _gap_name(run: RunFacts) -> str:
    """G, or L where L* is not known: what falls is the same."""
    return "G" if run.optimum is not None else "L"


def _descent(run: RunFacts) -> BoundCheck:
    """G_t <= G at the recorded step before, for lr <= 2/beta."""
    before = np.concatenate([run.gaps[:1], run.gaps[:-1]])
    before = before + np.concatenate([run.rounding[:1], run.rounding[:-1]])
    G = _gap_name(run)
    conditions = [*run.plain, run.at_most("2/beta", lambda a: 2.0)]
    return _upper(run, "descent", f"{G}_t <= {G} before", conditions, before)


def _three_gaps(run: RunFacts) -> Iterator[BoundCheck]:
    """G_t <= 2 L D^2/(t+1), 2 L D^2/(t+4), L D^2/(4t+2) with L = 1/lr, for lr <= 1/beta and a convex loss."""
    conditions = [*run.plain, run.convex, run.at_most("1/beta", lambda a: 1.0)]
    names = ("gap 2LD2/(t+1)", "gap 2LD2/(t+4)", "gap LD2/(4t+2)")
    bounds = gap_bounds(run.t, 1.0 / run.lr, run.distance or 0.0)
    for name, bound in zip(names, bounds, strict=True):
        yield _upper(run, name, f"G_t <= {name[4:]}, L = 1/lr", conditions, bound, since=0)


def _any_gap(run: RunFacts) -> BoundCheck:
    """1/G_t >= 1/G_0 + t lr (1 - lr beta/2)/D^2, for lr < 2/beta and a convex loss."""
    D, s = run.distance or 0.0, run.lr * run.beta
    slope = max(0.0, run.lr * (1.0 - s / 2.0)) / (D * D) if D > 0.0 else 0.0
    bound = run.gap0 / (1.0 + run.t * slope * run.gap0)
    conditions = [*run.plain, run.convex, run.below("2/beta", 2.0)]
    return _upper(run, "gap, any lr", "1/G_t >= 1/G_0 + t lr(1-lr beta/2)/D2", conditions, bound)


def _pl(run: RunFacts, mu: float) -> BoundCheck:
    """G_t <= (1 - 2 mu lr (1 - lr beta/2))^t G_0, for lr < 2/beta."""
    rate = 1.0 - 2.0 * mu * run.lr * (1.0 - run.lr * run.beta / 2.0)
    conditions = [*run.plain, run.below("2/beta", 2.0)]
    return _upper(run, "PL", "G_t <= (1-2mu lr(1-lr beta/2))^t G_0", conditions, rate**run.t * run.gap0)


def _spectrum(run: RunFacts) -> BoundCheck:
    """G_t <= max_i (1 - lr lambda_i)^(2t) G_0, for every lr on a quadratic."""
    curved = run.problem.eigenvalues > 0.0
    factor = float(np.abs(mode_factors(run.problem, run.lr)[curved]).max(initial=0.0))
    # G_0 is known up to its rounding, which grows as G does.
    bound = factor ** (2.0 * run.t) * (run.gap0 + run.rounding[0])
    return _upper(run, "spectrum", "G_t <= max(1-lr lambda)^2t G_0", run.plain, bound)


def _gradient(run: RunFacts) -> BoundCheck:
    """|g_T| <= D/(lr (T + 1)) at the end T, for lr <= 1/beta and a convex loss; a run keeps no gradients."""
    T = run.t[-1:]
    gradient, w = run.problem.gradient, run.result.w
    g = gradient(w) if can_call_with(gradient, 1) else gradient(w, None)
    g = in_main_memory(check_returned_gradient(g, w))
    measured = np.array([float(np.linalg.norm(g.astype(np.float64)))])
    bound = np.asarray(gradient_bound(T, 1.0 / run.lr, run.distance or 0.0))
    # The rounding of g: its terms are as large as |Phi| |r|, and |r|^2 = 2 L/c.
    eps = float(np.finfo(run.problem.dtype).eps)
    rounding = np.array([sqrt(2.0 * run.beta * float(run.rounding[-1]) * 8.0 * eps)])
    held = measured <= bound + rounding
    conditions = [*run.plain, run.convex, run.at_most("1/beta", lambda a: 1.0)]
    formula = "|g_T| <= D/(lr(T+1))"
    return bound_check("gradient", formula, conditions, T, measured, bound, rounding, held)


def _heavy_ball_start(run: RunFacts) -> BoundCheck:
    """G_t <= G_0, for lr <= 2(1 - a)/beta and a start at rest."""
    limit = run.at_most("2(1-a)/beta", lambda a: 2.0 * (1.0 - a))
    G = _gap_name(run)
    return _upper(run, "start", f"{G}_t <= {G}_0", [*run.plain, run.at_rest, limit], run.gap0)


def _look_ahead_start(run: RunFacts) -> BoundCheck:
    """G_t <= (1 + a^2 lr beta) G_0 at the look-ahead points, for lr <= 1/beta, a <= 1, a convex loss, a start
    at rest and momentum_next = momentum = a."""
    ahead = run.hyper.get("momentum_next", run.a)
    conditions = [
        *run.plain,
        run.at_rest,
        run.convex,
        run.at_most("1/beta", lambda a: 1.0),
        ("a <= 1", run.a <= 1.0),
        ("one momentum", ahead == run.a),
    ]
    bound = (1.0 + ahead * ahead * run.lr * run.beta) * run.gap0
    return _upper(run, "start", "G_t <= (1+a2 lr beta) G_0", conditions, bound)


def _reach(run: RunFacts) -> BoundCheck:
    """sqrt G_t <= sqrt G_0 + sqrt(p beta/2) t cap lr, for every lr of a rule with a cap, see step_cap."""
    cap = step_cap(run.family, run.hyper)
    farthest = inf if cap is None else run.t * cap * run.lr
    root = sqrt(run.gap0) + sqrt(run.problem.dimension * run.beta / 2.0) * farthest
    formula = "sqrt G_t <= sqrt G_0 + sqrt(p beta/2) t cap lr"
    conditions = [("a cap on steps", cap is not None), run.constant, *run.finite]
    return _upper(run, "reach", formula, conditions, np.asarray(root) ** 2)


def _modes(run: RunFacts) -> BoundCheck:
    """G_t = sum_i lambda_i e_{i,t}^2/2, where (e_i, v_i) after t steps is M(lambda_i)^t (e_i, v_i)."""
    momenta = {name: value for name, value in run.hyper.items() if name != "lr"}
    M = mode_matrices(run.family, run.curvatures, run.lr, **momenta)  # type: ignore[arg-type]
    start = np.stack([run.error, run.velocity], axis=-1)[..., None]
    expected, growth = np.empty(len(run.t)), np.empty(len(run.t))
    step, power, largest = 0, np.broadcast_to(np.eye(2), M.shape), 1.0
    for i, t in enumerate(run.t):
        power = np.linalg.matrix_power(M, int(t) - step) @ power
        step = int(t)
        expected[i] = 0.5 * float(run.curvatures @ (power @ start)[:, 0, 0] ** 2)
        # The start is known up to its rounding, which grows as the error does.
        growth[i] = largest = max(largest, float((power[:, 0] ** 2).max(initial=0.0)))
    eps = float(np.finfo(run.problem.dtype).eps)
    allowed = run.rounding + sqrt(eps) * np.abs(expected) + growth * run.rounding[0]
    # A run that diverges may leave the dtype; from there on nothing is compared.
    held = (np.abs(run.gaps - expected) <= allowed) | ~(expected <= run.largest)
    formula = "G_t = sum lambda_i e_i,t^2/2"
    return bound_check("modes", formula, run.plain, run.t, run.gaps, expected, allowed, held)


def _upper(
    run: RunFacts, name: str, formula: str, conditions: list[Condition], bound: Any, since: int = 1
) -> BoundCheck:
    """The check that G_t <= bound + rounding, from the recorded step number ``since`` on.

    At 0 the bounds by G_0 hold by definition.
    """
    bound = np.broadcast_to(np.asarray(bound, np.float64), run.gaps.shape)[since:]
    t, gaps, rounding = run.t[since:], run.gaps[since:], run.rounding[since:]
    held = (gaps <= bound + rounding) | ~(bound <= run.largest)
    return bound_check(name, formula, conditions, t, gaps, bound, rounding, held)
