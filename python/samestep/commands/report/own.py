"""Pictures and items for a user's table: what the texts say of every least-squares problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from ...optim.optimizer import Optimizer
from ...optim.optimizers import NAG, SGD, AdaGrad, Adam, Momentum, RMSProp
from ...problems import MSE
from ...theory import RunCheck, check_run, tune_heavy_ball, tune_look_ahead
from ...train import minimize
from ..demo import affordable, check_solvable, steep_curvatures, try_edge
from ..table import Table, counted
from . import rates
from .items import Checks, Item, at_least, at_most, near, never
from .pictures import Picture
from .runs import norms

STAGES = 2 + 4  # pictures and items of parts()
SCAN_ELEMENTS = 2**33  # of Phi, read by all runs of the picture of the edge: some seconds


def parts(table: Table) -> tuple[list[Picture], list[Item]]:
    """The pictures and items of a table.

    Raises:
        TableError: the table gives no problem that could be solved in float64.
    """
    problem = MSE(table.Phi, table.y)
    check_solvable(table, problem)

    def scan_steps(quick: bool) -> int:
        runs = 3 * (68 if quick else 135)
        return max(10, min(300, SCAN_ELEMENTS // (runs * problem.Phi.size)))

    bounds = replace(
        rates.bounds,
        title="Loss against its bounds: your table, six optimizers",
        drawing=lambda quick: rates.bounds_of(problem, _picture_steps(problem)),
    )
    edge = replace(
        rates.edge,
        title="Each method has its edge, on your table",
        label=f"The gap after {scan_steps(False)} steps against the step size times beta for "
        "three methods, each with a cliff at its stability edge",
        caption=(
            "The gap for every step size lr. The edge (dashed) lies at 2/β for GD, at 2(1+a)/β = 3/β for the "
            "heavy ball, at (2+2a)/((1+2a)β) = 1.5/β for NAG, a = ½; above it the gap grows without bound."
        ),
        full=f"135 step sizes, {counted(scan_steps(False), 'step')} with each.",
        quick=f"68 step sizes, {counted(scan_steps(True), 'step')} with each; the full report has 135.",
        drawing=lambda quick: rates.edge_of(problem, scan_steps(quick), quick),
    )
    return [bounds, edge], [
        Item(key, title, formula, remark, partial(measure, problem))
        for key, title, formula, remark, measure in (
            (
                "A1-A5",
                "Loss, gradient and Hessian",
                "L = (c/2)|Φw − y|^2, g = cΦ′(Φw − y), H = cΦ′Φ",
                "The loss is a quadratic: its differences, and those of its gradient, are exact.",
                _formulas,
            ),
            ("A9", "The edge 2/β", "lr < 2/β", "The gap falls below the edge and grows above it.", _edge),
            (
                "A24-A26",
                "Optimality gap",
                "L(w_t) − L* ≤ βD^2/(4t + 2)",
                "D = |w_0 − w*|, lr = 1/β. All other bounds that are promised for this run are checked, too.",
                _gap,
            ),
            (
                "A15-A16, B20",
                "Momentum, NAG and the adaptive rules",
                "G_t = ½ Σ λ_i e_{i,t}^2",
                "With momentum the error in every direction has its own recursion. A step of limited length "
                "cannot climb faster than its length allows.",
                _rules,
            ),
        )
    ]


def _picture_steps(problem: MSE) -> int:
    return affordable(problem, rates.FIGURE_STEPS)


def _formulas(problem: MSE, quick: bool) -> Checks:
    w = problem.minimizer() / 2.0
    size = float(norms(w)) or 1.0
    g, H = problem.gradient(w), problem.hessian()
    slopes, directions = [], range(min(problem.dimension, 10))
    for j in directions:
        e = np.zeros(problem.dimension)
        e[j] = size
        slopes.append((problem.loss(w + e) - problem.loss(w - e)) / (2 * size))
    u = np.full(problem.dimension, size / problem.dimension**0.5)
    change = problem.gradient(w + u) - g
    # The largest rounding error of a loss difference over the step.
    loss = problem.loss(np.zeros(problem.dimension))
    room = 1e-12 * (loss / size + problem.beta * size)
    start = float(norms(problem.gradient(np.zeros(problem.dimension))))
    return [
        near(
            "g in ten directions at most, expected: differences of L", slopes, g[: len(directions)], abs=room
        ),
        at_most(
            "`|Hu − (g(w + u) − g(w))|`",
            norms(H @ u - change),
            1e-12 * (start + size * problem.beta),
        ),
        at_most(
            "|g(w*)|", norms(problem.gradient(problem.minimizer())), 1e-9 * (start + 2 * problem.beta * size)
        ),
    ]


def _edge(problem: MSE, quick: bool) -> Checks:
    below, above = (try_edge(problem, times) for times in (1.99, 2.01))
    return [
        at_most(f"gap after {below.steps} steps of 1.99/β, share of the first", below.gap, 1.0),
        at_least(
            f"gap after {above.steps} steps of 2.01/β, share of the first",
            np.inf if np.isnan(above.gap) else above.gap,
            1.0,
        ),
    ]


def _broken(problem: MSE, make: Callable[..., Optimizer], quick: bool) -> tuple[RunCheck, Checks]:
    """check_run of a run from 0, and the number of promised bounds that broke."""
    steps = affordable(problem, 300 if quick else 1000)
    run = minimize(problem, np.zeros(problem.dimension), make, steps=steps)
    check = check_run(problem, run)
    promised = [bound for bound in check.bounds if bound.promised]
    what = f"{type(run.optimizer).__name__}, {steps} steps: broken bounds of the {len(promised)} promised"
    return check, [never(what, [not bound.holds for bound in promised])]


def _gap(problem: MSE, quick: bool) -> Checks:
    check, rows = _broken(problem, partial(SGD, lr=1.0 / problem.beta), quick)
    sharp = check["gap LD2/(4t+2)"]
    allowed = sharp.bound + sharp.rounding
    rounding = 1e-20 * sharp.measured[0]  # of w, squared
    above = [
        np.any(curve.bounded > bound * (1 + 1e-9) + rounding)
        for curve in rates.curves(problem, _picture_steps(problem)).values()
        for bound in curve.bounds
    ]
    return [
        *rows,
        at_most("largest gap over βD^2/(4t + 2)", (sharp.measured / allowed).max(), 1.0),
        never("six optimizers: bounds of the first picture that broke", above),
    ]


def _rules(problem: MSE, quick: bool) -> Checks:
    beta, mu = problem.beta, float(steep_curvatures(problem)[0])
    ball, ahead = tune_heavy_ball(beta, mu), tune_look_ahead(beta, mu)
    size = float(norms(problem.minimizer())) / problem.dimension**0.5
    makers: list[Callable[..., Optimizer]] = [
        partial(Momentum, lr=ball.lr, momentum=ball.momentum),
        partial(NAG, lr=ahead.lr, momentum=ahead.momentum),
        partial(AdaGrad, lr=size),
        partial(RMSProp, lr=0.03 * size),
        partial(Adam, lr=0.3 * size),
    ]
    return [row for make in makers for row in _broken(problem, make, quick)[1]]
