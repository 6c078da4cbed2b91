"""Items on the rules that use earlier gradients: momentum, NAG, AdaGrad, RMSProp, Adam."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...optim.optimizers import NAG, SGD, AdaGrad, Adam, Momentum, RMSProp
from ...problems import MSE
from ...theory import (
    accelerated_gap_bound,
    heavy_ball_edge,
    look_ahead_edge,
    polyak_step,
    spectral_radius,
    terminal_step,
    tune_heavy_ball,
    tune_look_ahead,
)
from .items import Checks, at_least, at_most, item, near
from .rates import accelerated, edge_scan
from .runs import Make, gaps, norms, patients, small, walk


def _steps_to(problem: MSE, make: Make, steps: int, share: float = 1e-6) -> int:
    """The first step with |w - w*| at most that share of the first distance."""
    away = norms(walk(problem, make, steps) - problem.minimizer())
    return int(np.argmax(away <= share * away[0]))


def _lessard(w: Any) -> Any:
    """A strongly convex f' with kinks: curvature 25 but for 1 on [1, 2)."""
    return np.where(w < 1, 25 * w, np.where(w < 2, w + 24, 25 * w - 24))


@item("A15", "Momentum", "v ← av − lr g, w ← w + v; lr < 2(1 + a)/β")
def momentum(quick: bool) -> Checks:
    """A sum of gradients with weights 1, `a`, `a^2`, …, not an average. Tuned for quadratics it may cycle
    elsewhere."""
    problem = patients()
    tuned = tune_heavy_ball(problem.beta, problem.mu)
    path = walk(small(), lambda w: Momentum(w, lr=0.25, momentum=0.5), 4)

    w = np.zeros(1)
    opt = Momentum(w, lr=0.01, momentum=0.9)
    for _ in range(400):
        opt.step(np.full(1, 2.0))
    terminal = opt.state["v"][0][0]

    x: Any = np.zeros(10)
    previous, twin = x, np.zeros(10)
    ball = Momentum(twin, lr=0.2, momentum=0.9)
    for t in range(50):
        ball.lr = 0.2 / (1 + t)
        ball.step(problem.gradient(twin))
        x, previous = polyak_step(x, previous, problem.gradient(x), ball.lr, 0.9), x

    kink, seen = np.array([3.3]), []
    opt = Momentum(kink, lr=1 / 9, momentum=4 / 9)
    for _ in range(3000):
        opt.step(_lessard(kink))
        seen.append(float(kink[0]))

    plain = _steps_to(problem, lambda w: SGD(w, lr=1 / problem.beta), 7000)
    fast = _steps_to(problem, lambda w: Momentum(w, lr=tuned.lr, momentum=tuned.momentum), 400)
    edges = heavy_ball_edge(1.0, 0.5) * np.array([0.999, 1.001])
    radii = [spectral_radius("momentum", np.array([1.0]), lr, 0.5) for lr in edges]
    return [
        near("three rows, a = ½, lr = ¼: w_4", path[4], [1.5390625, 2.54296875]),
        near(
            "terminal step for g = 2, lr = 0.01, a = 0.9",
            terminal,
            terminal_step(0.01, 0.9, 2.0),
            rel=1e-9,
        ),
        near(
            "diabetes: spectral radius, tuned",
            spectral_radius("momentum", problem.eigenvalues, tuned.lr, tuned.momentum),
            tuned.rate,
            abs=1e-6,
        ),
        near(
            "diabetes: steps to 10^{−6} of |w_0 − w*|, GD and tuned heavy ball",
            [plain, fast],
            [6371, 203],
            abs=1,
        ),
        at_most("spectral radius at 0.999 times the edge 3/β, a = ½", radii[0], 1),
        at_least("spectral radius at 1.001 times the edge", radii[1], 1),
        near(
            "relative distance of Polyak's form from the kernel, lr varying",
            norms(x - twin) / norms(x),
            0,
            abs=1e-13,
        ),
        near(
            "the three points of Lessard's cycle, a = 4/9",
            sorted(seen[-3:]),
            [-2208 / 1225, 792 / 1225, 2592 / 1225],
            rel=1e-9,
        ),
    ]


@item(
    "A16",
    "Nesterov",
    "v ← av − lr g(w + av), w ← w + v; lr < (2 + 2a)/((1 + 2a)β)",
    quick="the last row is over 1000 steps instead of 3000",
)
def nesterov(quick: bool) -> Checks:
    """Right; the edge lies below 2/β. O(1/t^2) against O(1/t) for convex L, without noise."""
    problem, few = patients(), small()
    w, x = np.zeros(2), []
    opt = NAG(w, lr=0.25, momentum=0.5)
    for _ in range(4):
        opt.step(few.gradient(w))
        x.append(w - 0.5 * opt.state["v"][0])
    tuned = tune_look_ahead(problem.beta, problem.mu)
    steps = 1000 if quick else 3000
    t = np.arange(1, steps + 1)
    D = float(norms(problem.minimizer()))
    share = gaps(problem, accelerated(problem, steps))[1:] / accelerated_gap_bound(t, problem.beta, D)
    scan = edge_scan(problem, "nag", np.array([0.999, 1.001]) * look_ahead_edge(1.0, 0.9), 0.9, 40_000)
    return [
        near("three rows, a = ½, lr = ¼: x_4", x[3], [1.40625, 2.30517578125]),
        near("w_4, the point of the gradient", w, [1.341796875, 2.313232421875]),
        near("edge times β, a = 0.9", look_ahead_edge(1.0, 0.9), 1.357143, abs=1e-6),
        at_most("gap after 40 000 steps at 0.999 times the edge, share of the first", scan[0], 1e-6),
        at_least("the same at 1.001 times the edge", scan[1], 1e3),
        near(
            "diabetes: spectral radius, tuned",
            spectral_radius("nag", problem.eigenvalues, tuned.lr, tuned.momentum),
            0.946760927554,
            abs=1e-6,
        ),
        at_most("diabetes: largest gap over 2βD^2/(t + 1)^2", share.max(), 1),
    ]


@item("A17", "Not second order", "step(cg) = step(g)")
def scaling(quick: bool) -> Checks:
    """RMSProp and Adam use second moments of g, no second derivatives: the notes' heading misleads."""
    problem = small()
    off = []
    for make in (lambda w: RMSProp(w, lr=0.1, eps=0.0), lambda w: Adam(w, lr=0.1, eps=0.0)):
        one, other = np.zeros(2), np.zeros(2)
        a, b = make(one), make(other)
        for _ in range(100):
            a.step(problem.gradient(one))
            b.step(16 * problem.gradient(other))
        off.append(np.abs(one - other).max())
    return [near("largest difference after 100 steps with g and with 16g: RMSProp, Adam", off, [0, 0])]


def _steps_of(make: Make, gradients: Any) -> Any:
    """The steps of one weight at each of these gradients."""
    w, at = np.zeros(1), [0.0]
    opt = make(w)
    for g in gradients:
        opt.step(np.full(1, g))
        at.append(float(w[0]))
    return -np.diff(at)


@item("A18", "RMSProp", "r ← ρr + (1 − ρ)g^2, w ← w − lr g/√(r + ε)")
def rmsprop(quick: bool) -> Checks:
    """The notes have no lr and step along g^2, which is never negative: down even where g < 0."""
    sizes = _steps_of(lambda w: RMSProp(w, lr=0.1, eps=0.0), [1.0] * 50) / 0.1
    path = walk(small(), lambda w: RMSProp(w, lr=0.1), 3)
    g = -2.0
    literal = -(g**2) / np.sqrt(0.1 * g**2)
    outside = _steps_of(lambda w: RMSProp(w, lr=0.1, eps=1e-3, eps_placement="outside"), [1.0])
    return [
        near(
            "constant g: steps 1 and 50, over lr",
            sizes[[0, 49]],
            [10**0.5, 1 / np.sqrt(1 - 0.9**50)],
            rel=1e-12,
        ),
        near("w_3 of three rows", path[3], [0.6802002468115356, 0.6914048431206965], rel=1e-13),
        near("the first step, ε outside the root", outside[0], 0.1 / (0.1**0.5 + 1e-3), rel=1e-12),
        at_most("the notes' rule for g = −2: the move of w, which should be positive", literal, -6.3),
    ]


def _literal_adam(count: int) -> Any:
    """The notes' rule, v decayed by the other constant, under g = 1: its steps over the step size."""
    m = v = 0.0
    steps = []
    for k in range(1, count + 1):
        m, v = 0.9 * m + 0.1, 0.9 * v + 0.001
        steps.append(m / (1 - 0.9**k) / np.sqrt(v / (1 - 0.999**k)))
    return steps


def _slide_adam(count: int) -> Any:
    """The slides' rule, whose s and r are never updated: only the corrections of 0.1 and 0.001 change."""
    return [0.1 / (1 - 0.9**k) / np.sqrt(0.001 / (1 - 0.999**k)) for k in range(1, count + 1)]


@item(
    "A19, B21",
    "Adam",
    "m ← β_1m + (1 − β_1)g, v ← β_2v + (1 − β_2)g^2, w ← w − lr [m/(1 − β_1^t)]/(√[v/(1 − β_2^t)] + ε)",
)
def adam(quick: bool) -> Checks:
    """The notes decay v by the wrong constant. The slides update the corrected values, never m and v."""
    constant = _steps_of(lambda w: Adam(w, lr=0.1, eps=0.0), [3.0] * 2000) / 0.1
    path = walk(small(), lambda w: Adam(w, lr=0.1), 3)
    tiny = [_steps_of(partial(Adam, lr=0.1, eps_placement=p), [1e-6])[0] / 0.1 for p in ("outside", "inside")]
    sparse = _steps_of(lambda w: Adam(w, lr=0.1), [0.0] * 5000 + [1.0])[-1] / 0.1
    return [
        at_most("constant g: largest |step/lr − 1|", np.abs(constant - 1).max(), 1e-13),
        near("w_3 of three rows", path[3], [0.2992135606616547, 0.29937664884832527], rel=1e-13),
        near("|g| = 10^{−6}: step/lr, ε outside, inside", tiny, [0.990, 0.0100], rel=2e-3),
        at_most("step/lr at the first g after 5000 zeros", sparse, 0.1 / 0.001**0.5),
        near(
            "the notes' rule, constant g: steps 1, 10 and 1000, over lr",
            np.array(_literal_adam(1000))[[0, 9, 999]],
            [1, 1.2363, 7.9518],
            abs=1e-4,
        ),
        near(
            "the slides' rule, constant g: steps 1 to 5, over lr",
            _slide_adam(5),
            [1, 0.744, 0.639, 0.581, 0.545],
            abs=1e-3,
        ),
    ]


@item("B20", "AdaGrad", "r ← r + g^2, w ← w − lr g/(√r + ε)")
def adagrad(quick: bool) -> Checks:
    """Right; ε stands outside the root."""
    path = walk(small(), lambda w: AdaGrad(w, lr=0.5), 3)
    w, at = np.zeros(1), [0.0]
    opt = AdaGrad(w, lr=0.1)
    for _ in range(100):
        opt.step(np.ones(1))
        at.append(float(w[0]))
    steps = -np.diff(at)
    return [
        near("w_3 of three rows", path[3], [0.9843801826789637, 1.0170129947483408], rel=1e-13),
        near("constant g: steps 1, 4, 100", steps[[0, 3, 99]], [0.1, 0.05, 0.01], rel=1e-6),
    ]
