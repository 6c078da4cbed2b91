"""The notes' items, A1 to A31: what is measured for each. The docstrings are the page's remarks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..optimizers import NAG, SGD, Adam, Momentum, RMSProp
from ..problems import MSE, Hyperbola
from ..theory import (
    DoubleWell,
    Well,
    accelerated_gap_bound,
    backtracking,
    beta,
    cauchy_step,
    check_run,
    check_step_size,
    descent_ok,
    gap_bounds,
    gradient_bound,
    heavy_ball_edge,
    hessian_fd,
    iterations_bound,
    look_ahead_edge,
    max_step,
    mode_factors,
    newton_step,
    pl_constant,
    pl_radius,
    pl_rate,
    pl_star_constant,
    polyak_step,
    sam_step,
    sgd_step_interpolation,
    spectral_radius,
    stationary_variance,
    step_bound,
    tangent_kernel,
    terminal_step,
    tune_heavy_ball,
    tune_look_ahead,
)
from ..train import minimize
from .items import Check, Item, at_least, at_most, near, never, register
from .landscapes import shares, sharpness
from .rates import accelerated, edge_scan
from .runs import Bent, Make, Wells, gaps, gradients, norms, patients, small, walk, wide

ITEMS: list[Item] = []
item = partial(register, ITEMS)
Checks = Sequence[Check]


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
        near("g beside finite differences of L", problem.gradient(w), slopes, rel=1e-7),
        near("diabetes: β", patients().beta, 4.0242107502, rel=1e-9),
        near("diabetes: L*", patients().optimum, 631992.892817, rel=1e-11),
    ]


@item("A3", "Gradient descent", "w_{t+1} = w_t − ηg(w_t)")
def descent(quick: bool) -> Checks:
    """The notes step along grad(Φ′Φw − Φ′y): that is the matrix H, not the gradient."""
    path = walk(small(), lambda w: SGD(w, lr=0.25), 4)
    literal = np.shape(np.zeros(2) - 0.25 * small().hessian())
    return [
        near("w_4 for η = ¼", path[4], [1.484375, 2.16796875]),
        near("shape of the notes' literal step, two weights", literal, [2, 2]),
    ]


@item("A4-A5", "Hessian", "H_{ij} = ∂^2L/(∂w_i∂w_j) = cΦ′Φ")
def hessian(quick: bool) -> Checks:
    """The notes leave out the square; and only for a linear model H is the same at every w."""
    problem, bent, far = small(), Bent(wide()), np.array([7.0, -3.0])
    change = hessian_fd(bent.gradient, np.ones(5)) - hessian_fd(bent.gradient, np.zeros(5))
    return [
        near("H at 0 by differences of g", hessian_fd(problem.gradient, np.zeros(2)), [2, 1, 1, 2], abs=1e-8),
        near("H far away", hessian_fd(problem.gradient, far), [2, 1, 1, 2], abs=1e-8),
        at_least("largest change of H, model z + ½ sin z", np.abs(change).max(), 0.1),
    ]


@item("A6-A7", "Taylor, one step", "L(w^+) = L − ηg′g + ½η^2g′Hg; η ≤ 2g′g/(g′Hg)")
def one_step(quick: bool) -> Checks:
    """An equation for quadratics only, and without a bound where g′Hg ≤ 0; the best step is half of it."""
    problem = patients()
    w = np.zeros(problem.dimension)
    g, H = problem.gradient(w), problem.hessian()
    after = problem.loss(w - 0.3 * g)
    model = problem.loss(w) - 0.3 * g @ g + 0.045 * g @ H @ g
    few = small()
    g0 = few.gradient(np.zeros(2))
    bound = step_bound(g, H)
    return [
        near("three rows: bound", step_bound(g0, few.hessian()), 122 / 182, rel=1e-15),
        near("best step", cauchy_step(g0, few.hessian()), 61 / 182, rel=1e-15),
        near("diabetes, η = 0.3: L beside the model", after, model, rel=1e-12),
        near("change of L at the bound", problem.loss(w - bound * g) / problem.loss(w) - 1, 0, abs=1e-12),
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
        near("one step from 0", newton_step(few.gradient(zero), few.hessian()), [4 / 3, 7 / 3], rel=1e-12),
        near(
            "singular H: shortest step",
            newton_step(line.gradient(zero), line.hessian()),
            [17 / 28] * 2,
            rel=1e-9,
        ),
        near(
            "damped by 10^{−3}",
            newton_step(line.gradient(zero), line.hessian(), damping=1e-3),
            [0.60712117] * 2,
            abs=1e-8,
        ),
        near("ends of Newton from y_0 = 0.1, 0.3, 0.5, 0.8", _saddle_ends("newton"), [0, 0, -1, 1], abs=1e-6),
        near("of the saddle-free step", _saddle_ends("saddle_free"), [1, 1, 1, 1], abs=1e-6),
    ]


@item("A9", "The edge 2/β", "η < 2/β; best η = 2/(β + μ)")
def edge(quick: bool) -> Checks:
    """The notes' conclusion is reversed: η ≤ 2/β suffices for every step, but a single step may be
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
        near("β by 100 power iterations", beta(problem, "power"), problem.beta, rel=1e-12),
        at_most("gap after 2000 steps of 1.99/β", ends[0], 1e-3),
        at_least("of 2.01/β", ends[1], 1e20),
        near("η = 2/β, three rows: the gap stays at", gaps(few, at_edge)[-1], 121 / 12, rel=1e-9),
        near("a point where the bound is three times 2/β", step_bound(g, few.hessian()), 2.0, rel=1e-12),
        near(
            "there η = 1.9 and 2.1 change L by",
            [few.loss(w - s * g) - few.loss(w) for s in (1.9, 2.1)],
            [-0.19, 0.21],
            abs=1e-12,
        ),
        near(
            "the check of a step size: edges times β for SGD, heavy ball, NAG, a = 0.9",
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
            "bounds for these",
            [iterations_bound(problem.beta, first, d) for d in (1e4, 1e2, 1)],
            [546.1, 54609.5, 5460947.9],
            rel=1e-4,
        ),
        at_most("largest |g_t|(t + 1)/(βD)", (g / gradient_bound(t, problem.beta, D)).max(), 1),
        never("not convex: steps at which the bound fails", best > bound),
        at_least("and steps at which |g| grows", np.count_nonzero(np.diff(squares) > 0), 1),
    ]


@item("A12", "Basin width", "density e^{−V/T}, T = ησ^2/(2B); var = ησ^2/(Bh(2 − ηh))")
def width(quick: bool) -> Checks:
    """η/B is not the width but the temperature that trades width for depth."""
    found = shares(quick)
    ratios = sorted({lr / B: share for (lr, B), share in found.items() if lr < 0.07}.items())
    particles, steps = (4000, 1000) if not quick else (2000, 400)
    w, random, squares = np.zeros(particles), np.random.RandomState(0), []
    opt = SGD(w, lr=0.05)
    for step in range(steps):
        opt.step(2 * w + 2**0.5 * random.standard_normal(particles))
        if step >= steps // 3:
            squares.append(float(np.mean(w * w)))
    well = DoubleWell(Well(-1.0, 16.0), Well(1.0, 2.0, 0.3), 0.15)
    away = []
    for lr in (0.124, 0.126):
        w = np.array([-0.999])
        opt = SGD(w, lr=lr)
        farthest = 0.0
        for _ in range(2000):
            opt.step(well.gradient(w))
            farthest = max(farthest, abs(float(w[0]) + 1))
        away.append(farthest)
    equal = [found[0.01, 1] - found[0.02, 2], found[0.02, 1] - found[0.04, 2]]
    even = DoubleWell(Well(-1.0, 16.0), Well(1.0, 2.0), 0.15)
    law = [abs(found[lr, 1] - DoubleWell().boltzmann(8 * lr)) for lr in (0.02, 0.03, 0.04, 0.06)]
    return [
        at_least(
            "smallest rise of the share from one η/B to the next",
            np.diff([s for _, s in ratios]).min(),
            -0.02,
        ),
        at_most("difference at equal η/B", np.abs(equal), 0.05 if not quick else 0.1),
        at_most("distance from Boltzmann's shares, η/B = 0.02 to 0.06", law, 0.05 if not quick else 0.1),
        near(
            "equally deep wells: share at T = 0.05 and 0.2",
            [even.boltzmann(T) for T in (0.05, 0.2)],
            [0.7388] * 2,
            abs=5e-4,
        ),
        near("variance on a parabola", np.mean(squares), stationary_variance(0.05, 1, 2.0, 2.0), rel=0.02),
        at_most("without noise, η = 0.124 < 2/h = 0.125: farthest from the sharp minimum", away[0], 0.002),
        at_least("η = 0.126", away[1], 0.1),
    ]


@item("A13", "Sharpness, SAM", "max_{|e|≤ρ} L(w + e) = L + ½ρ^2λ_{max} + …")
def sam(quick: bool) -> Checks:
    """The penalty on λ_{max} is the limit at a minimum; away from one it is ρ|g|."""
    problem = Hyperbola()
    w = np.array([2.0, 1.0])
    sam_step(SGD(w, lr=0.1), problem.gradient, 0.05)
    cycle = np.array([0.3])
    opt = SGD(cycle, lr=0.2)
    for _ in range(500):
        sam_step(opt, lambda w: 3 * w, 0.1)
    angle = np.linspace(0, 2 * np.pi, 100_000)
    around = np.array([2.0, 0.5])[:, None] + 0.01 * np.stack([np.cos(angle), np.sin(angle)])
    worst = ((around[0] * around[1] - 1) ** 2 / 2).max()
    plain, flat = sharpness(4000 if quick else 20_000)
    return [
        near("one step from (2, 1)", w, [1.88374305, 0.77495102], abs=1e-8),
        near("h = 3: it ends by jumping, |w|", abs(cycle[0]), 0.2 * 3 * 0.1 / (2 - 0.2 * 3), rel=1e-9),
        near(
            "worst L near a minimum over ½ρ^2λ_{max}, ρ = 0.01",
            worst / (0.5e-4 * problem.sharpness(np.array([2.0, 0.5]))),
            1.0023,
            abs=1e-4,
        ),
        near("curvature where GD ends", plain[-1], 16.03357, abs=1e-4),
        near("SAM after 2000 steps", flat[2000], 2.21932, abs=1e-4),
    ]


@item("A14", "Oscillation", "e_i ← (1 − ηλ_i)e_i")
def oscillation(quick: bool) -> Checks:
    """The gradient is orthogonal to the level set; steep directions flip because 1 − ηλ < 0."""
    few = small()
    e = walk(few, lambda w: SGD(w, lr=0.6), 5) - few.minimizer()
    steep, flat = e @ [1, 1], e @ [1, -1]
    return [
        near("factors 1 − ηλ for η = 0.6", mode_factors(few, 0.6), [0.4, -0.8], abs=1e-12),
        near("seen along (1, 1)", steep[1:] / steep[:-1], [-0.8] * 5, rel=1e-9),
        near("seen along (1, −1)", flat[1:] / flat[:-1], [0.4] * 5, rel=1e-9),
    ]


def _steps_to(problem: MSE, make: Make, steps: int, share: float = 1e-6) -> int:
    """The first step with |w - w*| at most that share of the first distance."""
    away = norms(walk(problem, make, steps) - problem.minimizer())
    return int(np.argmax(away <= share * away[0]))


def _lessard(w: Any) -> Any:
    """A strongly convex f' with kinks: curvature 25 but for 1 on [1, 2)."""
    return np.where(w < 1, 25 * w, np.where(w < 2, w + 24, 25 * w - 24))


@item("A15", "Momentum", "v ← av − ηg, w ← w + v; η < 2(1 + a)/β")
def momentum(quick: bool) -> Checks:
    """A sum of gradients with weights 1, a, a^2, …, not an average. Tuned for quadratics it may cycle
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
        near("w_4, a = ½, η = ¼", path[4], [1.5390625, 2.54296875]),
        near(
            "the step that g = 2 comes to, η = 0.01, a = 0.9",
            terminal,
            terminal_step(0.01, 0.9, 2.0),
            rel=1e-9,
        ),
        near(
            "spectral radius tuned",
            spectral_radius("momentum", problem.eigenvalues, tuned.lr, tuned.momentum),
            tuned.rate,
            abs=1e-6,
        ),
        near("steps to 10^{−6} of the distance: GD, tuned heavy ball", [plain, fast], [6371, 203], abs=1),
        at_most("radius at 0.999 of the edge 3/β, a = ½", radii[0], 1),
        at_least("at 1.001 of it", radii[1], 1),
        near("Polyak's form beside the kernel, η varying", norms(x - twin) / norms(x), 0, abs=1e-13),
        near(
            "Lessard's cycle, a = 4/9", sorted(seen[-3:]), [-2208 / 1225, 792 / 1225, 2592 / 1225], rel=1e-9
        ),
    ]


@item("A16", "Nesterov", "v ← av − ηg(w + av), w ← w + v; η < (2 + 2a)/((1 + 2a)β)")
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
    scan = edge_scan("nag", np.array([0.999, 1.001]) * look_ahead_edge(1.0, 0.9), 0.9, 40_000)
    return [
        near("x_4, a = ½, η = ¼", x[3], [1.40625, 2.30517578125]),
        near("w_4, where the gradient is taken", w, [1.341796875, 2.313232421875]),
        near("edge times β, a = 0.9", look_ahead_edge(1.0, 0.9), 1.357143, abs=1e-6),
        at_most("gap at 0.999 of the edge, share of the first", scan[0], 1e-6),
        at_least("at 1.001", scan[1], 1e3),
        near(
            "rate tuned for quadratics",
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
    return [near("RMSProp, Adam: 100 steps with g and with 16g differ by", off, [0, 0])]


def _steps_of(make: Make, gradients: Any) -> Any:
    """How far one weight moves at each of these gradients."""
    w, at = np.zeros(1), [0.0]
    opt = make(w)
    for g in gradients:
        opt.step(np.full(1, g))
        at.append(float(w[0]))
    return -np.diff(at)


@item("A18", "RMSProp", "r ← ρr + (1 − ρ)g^2, w ← w − ηg/√(r + ε)")
def rmsprop(quick: bool) -> Checks:
    """The notes have no η and step along g^2, which is never negative: down even where g < 0."""
    sizes = _steps_of(lambda w: RMSProp(w, lr=0.1, eps=0.0), [1.0] * 50) / 0.1
    path = walk(small(), lambda w: RMSProp(w, lr=0.1), 3)
    g = -2.0
    literal = -(g**2) / np.sqrt(0.1 * g**2)
    outside = _steps_of(lambda w: RMSProp(w, lr=0.1, eps=1e-3, eps_placement="outside"), [1.0])
    return [
        near(
            "steps 1 and 50 under a constant g, over η",
            sizes[[0, 49]],
            [10**0.5, 1 / np.sqrt(1 - 0.9**50)],
            rel=1e-12,
        ),
        near("w_3 of three rows", path[3], [0.6802002468115356, 0.6914048431206965], rel=1e-13),
        near("ε outside the root, first step", outside[0], 0.1 / (0.1**0.5 + 1e-3), rel=1e-12),
        at_most("the notes' rule for g = −2, which ought to go up, moves by", literal, -6.3),
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
    "m ← β_1m + (1 − β_1)g, v ← β_2v + (1 − β_2)g^2, w ← w − η[m/(1 − β_1^t)]/(√[v/(1 − β_2^t)] + ε)",
)
def adam(quick: bool) -> Checks:
    """The notes decay v by the wrong constant; the slides put hats on what is to be updated."""
    constant = _steps_of(lambda w: Adam(w, lr=0.1, eps=0.0), [3.0] * 2000) / 0.1
    path = walk(small(), lambda w: Adam(w, lr=0.1), 3)
    tiny = [_steps_of(partial(Adam, lr=0.1, eps_placement=p), [1e-6])[0] / 0.1 for p in ("outside", "inside")]
    sparse = _steps_of(lambda w: Adam(w, lr=0.1), [0.0] * 5000 + [1.0])[-1] / 0.1
    return [
        at_most("largest |step/η − 1| under a constant g", np.abs(constant - 1).max(), 1e-13),
        near("w_3 of three rows", path[3], [0.2992135606616547, 0.29937664884832527], rel=1e-13),
        near("|g| = 10^{−6}: step/η, ε outside, inside", tiny, [0.990, 0.0100], rel=2e-3),
        at_most("the first g after 5000 zeros: step/η", sparse, 0.1 / 0.001**0.5),
        near(
            "the notes' rule, steps 1, 10, 1000",
            np.array(_literal_adam(1000))[[0, 9, 999]],
            [1, 1.2363, 7.9518],
            abs=1e-4,
        ),
        near("the slides' rule, steps 1 to 5", _slide_adam(5), [1, 0.744, 0.639, 0.581, 0.545], abs=1e-3),
    ]


@item("A20-A21", "Over-parameterisation", "L = ½(w_1w_2 − 1)^2: det H = (1 − p)(3p − 1), p = w_1w_2")
def hyperbola(quick: bool) -> Checks:
    """Not convex in any neighbourhood of a minimum, and PL all the same."""
    problem, random = Hyperbola(), np.random.RandomState(0)
    lowest = [np.linalg.eigvalsh(problem.hessian(np.full(2, (1 + e) ** 0.5)))[0] for e in (0.1, 0.01, 0.001)]
    points = 3 * random.standard_normal((1000, 2))
    ratio = [
        float(np.sum(problem.gradient(w) ** 2)) / (2 * problem.tangent_kernel(w) * problem.loss(w))
        for w in points
    ]
    return [
        near("smallest eigenvalue at p = 1.1, 1.01, 1.001", lowest, [-0.1, -0.01, -0.001], rel=1e-9),
        near("least and largest |g|^2/(2|w|^2L) at 1000 points", [min(ratio), max(ratio)], [1, 1], rel=1e-9),
    ]


@item("A22-A23", "Descent lemma", "L(w^+) ≤ L − η(1 − ηβ/2)|g|^2")
def descent_lemma(quick: bool) -> Checks:
    """The notes leave it open; at η = 1/β the gain is |g|^2/(2β), and none only where g = 0."""
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
        never("not convex, 3000 steps of 1/β: steps without it", ~np.array(held)),
        at_least("backtracking from 4/β: smallest step found, times β", min(tried), 0.5),
        at_most(
            "gap after 100 of its steps, share of the first",
            gaps(problem, w[None])[0] / gaps(problem, np.zeros((1, 10)))[0],
            0.005,
        ),
    ]


@item("A24-A26", "Optimality gap", "L(w_t) − L* ≤ 2βD^2/(t + 4), sharp: βD^2/(4t + 2)")
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
    return [
        near(
            "largest gap over 2βD^2/(t + 1), 2βD^2/(t + 4), βD^2/(4t + 2)",
            worst,
            [0.0444, 0.1776, 0.2242],
            abs=1e-4,
        ),
        never("steps at which |w_t − w*| grows", np.diff(away) > 1e-12 * away[0]),
        at_least("gap_0 over the notes' 2βD", found[0] / (2 * problem.beta * away[0]), 1),
        never(
            "the check of a run: promised bounds that broke",
            [b.promised and not b.holds for b in checked.bounds],
        ),
    ]


@item("A27", "Is 1/β best?", "β = sup_w |H(w)|_2")
def pessimistic(quick: bool) -> Checks:
    """No: it is the worst direction's; with least squares it costs one eigenvalue."""
    scan = edge_scan("sgd", np.array([1.0, 1.9]), 0.0, 2000)
    first = gaps(patients(), np.zeros((1, 10)))[0]
    return [
        near("gap after 2000 steps of 1/β", scan[0] * first, 0.988323, rel=1e-5),
        near("of 1.9/β", scan[1] * first, 4.557e-4, rel=1e-3),
    ]


@item("A28-A30", "PL, PL*, tangent kernel", "½|g|^2 ≥ μ(L − L*), μ = λ_{min}(K), K = DF DF′")
def polyak_lojasiewicz(quick: bool) -> Checks:
    """With the ½ that the notes leave out, μ is λ_{min}(K) exactly."""
    problem = wide()
    K = tangent_kernel(problem.Phi)
    u = np.linalg.eigh(K)[1][:, 0]
    flattest = np.linalg.lstsq(problem.Phi, problem.y + u, rcond=None)[0]
    W = np.random.RandomState(0).standard_normal((2000 if quick else 20_000, 5)) * 3
    r = W @ problem.Phi.T - problem.y
    ratios = np.sum((r @ problem.Phi) ** 2, axis=1) / (0.5 * np.sum(r * r, axis=1))
    data = patients()
    path = walk(data, lambda w: SGD(w, lr=1 / data.beta), 2000)[::10]
    tight = norms(gradients(data, path)) ** 2 / (2 * pl_constant(data) * gaps(data, path))
    return [
        near(
            "λ(K) of three rows, five weights", np.linalg.eigvalsh(K), [2.69722436, 3, 6.30277564], abs=1e-8
        ),
        near(
            "|g|^2/L at Φw = y + u_{min}",
            np.sum(problem.gradient(flattest) ** 2) / problem.loss(flattest),
            2 * pl_star_constant(K),
            rel=1e-9,
        ),
        at_least("least |g|^2/L at random points", ratios.min(), 2 * pl_star_constant(K) * (1 - 1e-12)),
        at_least("diabetes, along GD: least |g|^2/(2μ gap)", tight.min(), 1 - 1e-6),
    ]


@item("A31", "The summary theorem", "R = 2√(2βL_0)/μ; L_t ≤ (1 − μ/β)^tL_0")
def theorem(quick: bool) -> Checks:
    """η = 2/β does not converge, the rate is linear, not O(β/t), and SGD needs a smaller step."""
    problem = wide()
    top, mu, first = problem.beta, pl_constant(problem), problem.loss(np.zeros(5))
    found = {}
    for times in (1.0, 1.9, 2.0):
        path = walk(problem, partial(SGD, lr=times / top), 400)
        found[times] = (norms(np.diff(path, axis=0)).sum(), problem.loss(path[-1]), path)
    path = found[1.0][2]
    losses = np.array([problem.loss(w) for w in path[:60]])
    bound = first * pl_rate(top, mu) ** np.arange(60)

    bent = Bent(problem)
    bent_top = 1.5**2 * top + 0.5 * (2 * bent.loss(np.zeros(5))) ** 0.5 * top
    bent_path = walk(bent, lambda w: SGD(w, lr=1 / bent_top), 1000 if quick else 3000)
    bent_losses = np.array([bent.loss(w) for w in bent_path])
    bent_bound = first * (1 - 0.25 * mu / bent_top) ** np.arange(len(bent_losses))

    mean = MSE(problem.Phi, problem.y, "half_mean")
    largest = float(np.max(np.sum(problem.Phi**2, axis=1)))
    lr, rate = sgd_step_interpolation(pl_constant(mean), mean.beta, largest)

    def online(lr: float, seed: int) -> float:
        return minimize(
            mean,
            np.zeros(5),
            lambda w: SGD(w, lr=lr),
            steps=300,
            batch_size=1,
            sampling="with_replacement",
            seed=seed,
            record_every=300,
        ).loss

    return [
        near("R", pl_radius(first, top, mu), 6.965349, abs=1e-6),
        near(
            "length of the path, η = 1/β and 1.9/β",
            [found[1.0][0], found[1.9][0]],
            [2.21429, 17.908],
            rel=1e-4,
        ),
        at_most("L_{400}, η = 1/β", found[1.0][1], 1e-28),
        at_least("η = 2/β", found[2.0][1], 1),
        never("steps above (1 − μ/β)^tL_0", losses > bound * (1 + 1e-12)),
        never("z + ½ sin z, not convex: steps above its rate", bent_losses > bent_bound * (1 + 1e-12)),
        at_most(
            "online SGD at its own step size, mean of 50 runs, over its bound",
            np.mean([online(lr, seed) for seed in range(50)]) / (rate**300 * mean.loss(np.zeros(5))),
            1,
        ),
        at_least("online SGD with 1.9/β: L_{300}", online(1.9 / mean.beta, 0), 1e6),
    ]
