"""Items on gradient descent: loss, Hessian, step sizes, how many steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...optim.optimizers import NAG, SGD, Momentum
from ...problems import MSE
from ...theory import (
    backtracking,
    beta,
    cauchy_step,
    check_run,
    check_step_size,
    descent_ok,
    gap_bounds,
    gradient_bound,
    hessian_fd,
    iterations_bound,
    max_step,
    mode_factors,
    newton_step,
    step_bound,
)
from ...train import minimize
from .items import Checks, at_least, at_most, item, near, never
from .rates import curves, edge_scan
from .runs import Bent, Wells, gaps, gradients, norms, patients, small, walk, wide


@item("A1-A2", "Loss and gradient", "L = (c/2)|Φw − y|^2, g = cΦ′(Φw − y)")
def loss(quick: bool) -> Checks:
    """The notes predict Φ′w; the gradient they print needs Φw."""
    problem = small()
    w, h = np.array([0.3, -0.7]), 1e-6
    shift = h * np.eye(2)
    slopes = [(problem.loss(w + e) - problem.loss(w - e)) / (2 * h) for e in shift]
    return [
        near("L(0) of three rows", problem.loss(np.zeros(2)), 10.5),
        near("g(0)", problem.gradient(np.zeros(2)), [-5, -6]),
        near("w*", problem.minimizer(), [4 / 3, 7 / 3], rel=1e-12),
        near("g, expected: finite differences of L", problem.gradient(w), slopes, rel=1e-7),
        near("diabetes: β", patients().beta, 4.0242107502, rel=1e-9),
        near("diabetes: L*", patients().optimum, 631992.892817, rel=1e-11),
    ]


@item("A3", "Gradient descent", "w_{t+1} = w_t − lr g(w_t)")
def descent(quick: bool) -> Checks:
    """The notes step along grad(Φ′Φw − Φ′y): that is the matrix H, not the gradient."""
    path = walk(small(), lambda w: SGD(w, lr=0.25), 4)
    literal = np.shape(np.zeros(2) - 0.25 * small().hessian())
    return [
        near("three rows, lr = ¼: w_4", path[4], [1.484375, 2.16796875]),
        near("shape of the notes' literal step, two weights", literal, [2, 2]),
    ]


@item("A4-A5", "Hessian", "H_{ij} = ∂^2L/(∂w_i∂w_j) = cΦ′Φ")
def hessian(quick: bool) -> Checks:
    """The notes leave out the square; and only for a linear model H is the same at every w."""
    problem, bent, far = small(), Bent(wide()), np.array([7.0, -3.0])
    change = hessian_fd(bent.gradient, np.ones(5)) - hessian_fd(bent.gradient, np.zeros(5))
    return [
        near(
            "H at w = 0, from differences of g",
            hessian_fd(problem.gradient, np.zeros(2)),
            [2, 1, 1, 2],
            abs=1e-8,
        ),
        near(
            "H far from 0, from differences of g", hessian_fd(problem.gradient, far), [2, 1, 1, 2], abs=1e-8
        ),
        at_least("largest change of H, model z + ½ sin z", np.abs(change).max(), 0.1),
    ]


@item("A6-A7", "Taylor, one step", "L(w^+) = L − lr g′g + ½ lr^2g′Hg; lr ≤ 2g′g/(g′Hg)")
def one_step(quick: bool) -> Checks:
    """An equation for quadratics only, and without a bound where `g′Hg` ≤ 0; the best step is half of it."""
    problem = patients()
    w = np.zeros(problem.dimension)
    g, H = problem.gradient(w), problem.hessian()
    after = problem.loss(w - 0.3 * g)
    model = problem.loss(w) - 0.3 * g @ g + 0.045 * g @ H @ g
    few = small()
    g0 = few.gradient(np.zeros(2))
    bound = step_bound(g, H)
    return [
        near("three rows: upper bound of lr", step_bound(g0, few.hessian()), 122 / 182, rel=1e-15),
        near("three rows: best lr", cauchy_step(g0, few.hessian()), 61 / 182, rel=1e-15),
        near("diabetes, lr = 0.3: L, expected: the formula", after, model, rel=1e-12),
        near(
            "diabetes: relative change of L, lr at its bound",
            problem.loss(w - bound * g) / problem.loss(w) - 1,
            0,
            abs=1e-12,
        ),
    ]


def _saddle_ends(mode: Any) -> list[float]:
    """y after 60 steps on x^2/2 - y^2/2 + y^4/4 from (1, y0), for four y0."""
    ends = []
    for y0 in (0.1, 0.3, 0.5, 0.8):
        w = np.array([1.0, y0])
        for _ in range(60):
            g = np.array([w[0], w[1] ** 3 - w[1]])
            w += newton_step(g, np.diag([1.0, 3 * w[1] ** 2 - 1]), mode=mode)
        ends.append(float(w[1]))
    return ends


@item("A8", "Newton", "δ = −H^{−1}g")
def newton(quick: bool) -> Checks:
    """Right; solved, never inverted. Without damping it goes to saddles."""
    few, flat = small(), np.array([[1.0, 1], [2, 2], [3, 3]])
    line = MSE(flat, np.array([1.0, 2, 4]))
    zero = np.zeros(2)
    return [
        near(
            "three rows: w after one step from 0",
            newton_step(few.gradient(zero), few.hessian()),
            [4 / 3, 7 / 3],
            rel=1e-12,
        ),
        near(
            "singular H: the shortest step",
            newton_step(line.gradient(zero), line.hessian()),
            [17 / 28] * 2,
            rel=1e-9,
        ),
        near(
            "singular H: the step damped by 10^{−3}",
            newton_step(line.gradient(zero), line.hessian(), damping=1e-3),
            [0.60712117] * 2,
            abs=1e-8,
        ),
        near(
            "Newton's steps from y_0 = 0.1, 0.3, 0.5, 0.8 end at y",
            _saddle_ends("newton"),
            [0, 0, -1, 1],
            abs=1e-6,
        ),
        near("saddle-free steps from these end at y", _saddle_ends("saddle_free"), [1, 1, 1, 1], abs=1e-6),
    ]


@item("A9", "The edge 2/β", "lr < 2/β; best lr = 2/(β + μ)")
def edge(quick: bool) -> Checks:
    """The notes' conclusion is reversed: lr ≤ 2/β suffices for every step, but a single step may be
    longer."""
    few, problem = small(), patients()
    steps, e = 2000, np.array([1.0, -1.0])
    w = few.minimizer() + e
    g = few.gradient(w)
    ends = [
        gaps(
            problem,
            minimize(
                problem, np.zeros(10), partial(SGD, lr=s / problem.beta), steps=steps, record_every=steps
            ).w[None],
        )[0]
        for s in (1.99, 2.01)
    ]
    at_edge = walk(few, lambda w: SGD(w, lr=2 / 3), 200)
    kinds = (
        (SGD(np.zeros(10), lr=0.1), 2.0),
        (Momentum(np.zeros(10), lr=0.1, momentum=0.9), 3.8),
        (NAG(np.zeros(10), lr=0.1, momentum=0.9), 1.357143),
    )
    edges = [(check_step_size(problem, opt).edge or np.nan) * problem.beta for opt, _ in kinds]
    return [
        near("diabetes: 2/β", max_step(problem), 0.4969918635, rel=1e-9),
        near("diabetes: β by 100 power iterations", beta(problem, "power"), problem.beta, rel=1e-12),
        at_most("diabetes: gap after 2000 steps of 1.99/β, share of the first", ends[0], 1e-3),
        at_least("diabetes: gap after 2000 steps of 2.01/β, share of the first", ends[1], 1e20),
        near("three rows: gap after 200 steps of 2/β", gaps(few, at_edge)[-1], 121 / 12, rel=1e-9),
        near(
            "three rows: the upper bound of lr at a point of low curvature",
            step_bound(g, few.hessian()),
            2.0,
            rel=1e-12,
        ),
        near(
            "change of L there, lr = 1.9 and 2.1",
            [few.loss(w - s * g) - few.loss(w) for s in (1.9, 2.1)],
            [-0.19, 0.21],
            abs=1e-12,
        ),
        near(
            "``check_step_size``: edges times β of SGD, heavy ball, NAG, a = 0.9",
            edges,
            [at for _, at in kinds],
            abs=1e-6,
        ),
    ]


@item("A10-A11", "How many steps?", "min_{s<t} |g_s|^2 ≤ 2β(L_0 − L*)/t")
def iterations(quick: bool) -> Checks:
    """The notes' bracket is off, and δ bounds the square. |g_t| ≤ βD/(t + 1) holds for convex L."""
    problem, wells = patients(), Wells()
    D, first = float(np.linalg.norm(problem.minimizer())), gaps(problem, np.zeros((1, 10)))[0]
    g = norms(gradients(problem, walk(problem, lambda w: SGD(w, lr=1 / problem.beta), 1500)))
    t = np.arange(len(g))
    start = np.array([3.0, -2.0, 1.5])
    w = walk(wells, lambda w: SGD(w, lr=0.5), 3000, start)
    squares = norms(gradients(wells, w)) ** 2
    best = np.minimum.accumulate(squares)[:-1]
    bound = 2 * wells.beta * wells.loss(start) / np.arange(1, 3001)
    seen = [int(np.argmax(g**2 <= delta)) for delta in (1e4, 1e2, 1)]
    return [
        near("diabetes: first t with |g|^2 ≤ 10^4, 10^2, 1", seen, [8, 25, 1043]),
        near(
            "diabetes: the bound of t for |g|^2 ≤ 1",
            iterations_bound(problem.beta, first, 1),
            5460947.9,
            rel=1e-7,
        ),
        at_most("diabetes: largest |g_t|(t + 1)/(βD)", (g / gradient_bound(t, problem.beta, D)).max(), 1),
        never("a loss that is not convex: steps at which the bound fails", best > bound),
        at_least("the same loss: steps at which |g| grows", np.count_nonzero(np.diff(squares) > 0), 1),
    ]


@item("A14", "Oscillation", "e_i ← (1 − lr λ_i)e_i")
def oscillation(quick: bool) -> Checks:
    """The gradient is orthogonal to the level set; steep directions flip because 1 − lr λ < 0."""
    few = small()
    e = walk(few, lambda w: SGD(w, lr=0.6), 5) - few.minimizer()
    steep, flat = e @ [1, 1], e @ [1, -1]
    return [
        near("factors 1 − lr λ for lr = 0.6", mode_factors(few, 0.6), [0.4, -0.8], abs=1e-12),
        near("measured factors along (1, 1), five steps", steep[1:] / steep[:-1], [-0.8] * 5, rel=1e-9),
        near("measured factors along (1, −1), five steps", flat[1:] / flat[:-1], [0.4] * 5, rel=1e-9),
    ]


@item("A22-A23", "Descent lemma", "L(w^+) ≤ L − lr (1 − lr β/2)|g|^2")
def descent_lemma(quick: bool) -> Checks:
    """The notes leave it open; at lr = 1/β the gain is |g|^2/(2β), and none only where g = 0."""
    wells = Wells()
    path = walk(wells, lambda w: SGD(w, lr=0.5), 3000, [3.0, -2.0, 1.5])
    losses = [wells.loss(w) for w in path]
    held = [
        descent_ok(a, b, wells.gradient(w), 0.5, wells.beta)
        for a, b, w in zip(losses[:-1], losses[1:], path[:-1], strict=True)
    ]
    problem = patients()
    w, tried = np.zeros(10), []
    opt = SGD(w, lr=1.0)
    for _ in range(100):
        g = problem.gradient(w)
        opt.lr = backtracking(problem.loss, w, g, 4 / problem.beta)
        tried.append(opt.lr * problem.beta)
        opt.step(g)
    return [
        never("a loss that is not convex, 3000 steps of 1/β: steps that break the lemma", ~np.array(held)),
        at_least("diabetes, backtracking from 4/β: smallest lr found, times β", min(tried), 0.5),
        at_most(
            "gap after 100 steps with backtracking, share of the first",
            gaps(problem, w[None])[0] / gaps(problem, np.zeros((1, 10)))[0],
            0.005,
        ),
    ]


@item(
    "A24-A26",
    "Optimality gap",
    "L(w_t) − L* ≤ 2βD^2/(t + 4), sharp: βD^2/(4t + 2)",
    quick="2000 steps instead of 5000 for the first two rows",
)
def gap(quick: bool) -> Checks:
    """The notes' final bound lacks the square of D = |w_0 − w*| and fails at once."""
    problem = patients()
    steps = 2000 if quick else 5000
    path = walk(problem, lambda w: SGD(w, lr=1 / problem.beta), steps)
    found, away = gaps(problem, path), norms(path - problem.minimizer())
    bounds = gap_bounds(np.arange(steps + 1), problem.beta, float(away[0]))
    worst = [float((found / bound).max()) for bound in bounds]
    run = minimize(problem, np.zeros(10), lambda w: SGD(w, lr=1 / problem.beta), steps=1000)
    checked = check_run(problem, run)
    rounding = 1e-20 * found[0]  # of w, squared
    above = [
        np.any(c.bounded > bound * (1 + 1e-9) + rounding)
        for c in curves(problem).values()
        for bound in c.bounds
    ]
    return [
        near(
            "largest gap over 2βD^2/(t + 1), 2βD^2/(t + 4), βD^2/(4t + 2)",
            worst,
            [0.0444, 0.1776, 0.2242],
            abs=1e-4,
        ),
        never("steps at which |w_t − w*| grows", np.diff(away) > 1e-12 * away[0]),
        never("six optimizers: bounds of the first picture that broke", above),
        at_least("gap_0 over the notes' 2βD", found[0] / (2 * problem.beta * away[0]), 1),
        never(
            "``check_run``: promised bounds that broke",
            [b.promised and not b.holds for b in checked.bounds],
        ),
    ]


@item("A27", "Is 1/β best?", "β = sup_w |H(w)|_2")
def pessimistic(quick: bool) -> Checks:
    """No: it is the worst direction's; with least squares it costs one eigenvalue."""
    scan = edge_scan(patients(), "sgd", np.array([1.0, 1.9]), 0.0, 2000)
    first = gaps(patients(), np.zeros((1, 10)))[0]
    return [
        near("diabetes: gap after 2000 steps of 1/β", scan[0] * first, 0.988323, rel=1e-5),
        near("diabetes: gap after 2000 steps of 1.9/β", scan[1] * first, 4.557e-4, rel=1e-3),
    ]
