"""Items on data, networks and random landscapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ...backends.reference.sampling import Sampler
from ...layers.batchnorm import BatchNorm, batchnorm_backward, batchnorm_forward
from ...optim.optimizers import SGD, Momentum
from ...optim.schedules import constant, inverse_time
from ...problems import MSE, Quartic, Rosenbrock, empirical_risk, test_risk
from ...theory import backtracking, flows, run_until
from ...theory.landscape import (
    DeepLinear,
    coin_minimum_probability,
    deep_linear,
    goe_minimum_probability,
    mode_strength,
    pspin_index,
    semicircle_fraction,
)
from ...train import minimize
from .items import Checks, at_least, at_most, item, near, never
from .landscapes import critical_points, minima, spectrum
from .networks import higham, modes
from .rates import FLOW_MOMENTUM, METHODS, START, flow_errors, order
from .runs import norms, patients, small, walk


@item("B1-B3", "Training and test risk", "ŵ = argmin (1/N) Σ l(G(x_i), g(x_i, w))")
def risks(quick: bool) -> Checks:
    """Right; the test risk is an aim, estimated on rows outside the training set."""
    whole = patients()
    order = np.random.RandomState(0).permutation(442)
    train, test = order[:300], order[300:]
    problem = MSE(whole.Phi[train], whole.y[train])
    w = problem.minimizer()
    return [
        near("diabetes, 300 rows: training MSE", empirical_risk(problem, w), 2906.0771084, rel=1e-8),
        near(
            "diabetes, the other 142 rows: MSE",
            test_risk(w, whole.Phi[test], whole.y[test]),
            2873.3929527,
            rel=1e-8,
        ),
    ]


@item("B4", "Landscape of the MSE", "l(w) = Σ|y − ŷ|^2, c = 2")
def scales(quick: bool) -> Checks:
    """No mean and no ½: the third scale of the texts. Minimisers agree, gradients and step limits scale
    by c."""
    few = small()
    other = {scale: MSE(few.Phi, few.y, scale) for scale in ("half_sum", "half_mean", "mean", "sum")}
    w = np.array([0.5, -1.0])
    ratios = [(p.gradient(w) / few.gradient(w))[0] / p.c for p in other.values()]
    away = [norms(p.minimizer() - few.minimizer()) for p in other.values()]
    return [
        near("g over c, four scales, as a share of the first", ratios, [1] * 4, rel=1e-12),
        near("β of the sum over β of half the sum", other["sum"].beta / few.beta, 2, rel=1e-12),
        at_most("distance between the minimisers", away, 1e-12),
    ]


@item("B5", "Shallow nets mimic deep ones")
def citation(quick: bool) -> Checks:
    """No formula. The authors are Ba and Caruana (2014), not Carreira: shallow nets trained on the outputs of
    deep ones reach a similar accuracy."""
    return []


@item(
    "B6-B8, B10",
    "Random Hessians",
    "P(minimum) = 2^{−d} for coins; F(u) = ½ + (u√(1 − u^2) + asin u)/π",
    quick="20 000 matrices instead of 100 000, one spin glass instead of six; wider limits in the last row",
)
def random_hessians(quick: bool) -> Checks:
    """Eigenvalues repel: minima are far rarer than coins say, and the index grows with the loss."""
    count = 20_000 if quick else 100_000
    seen = [minima(quick)[d] for d in (1, 2, 3)]
    exact = [goe_minimum_probability(d) for d in (1, 2, 3)]
    spread = [4 * (p * (1 - p) / count) ** 0.5 for p in exact]
    eigenvalues = spectrum()
    shifts = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
    off = [np.mean(eigenvalues + c > 0) - semicircle_fraction(c / 2) for c in shifts]
    energy, index, _ = critical_points(quick)
    inside = [(energy >= low) & (energy < low + 0.4) for low in (-1.0, -0.6, -0.2, 0.2, 0.6)]
    law = [index[i].mean() - np.mean([pspin_index(e) for e in energy[i]]) for i in inside]
    return [
        *(
            near(f"share of {d} × {d} matrices that are minima", s, p, abs=room)
            for d, s, p, room in zip((1, 2, 3), seen, exact, spread, strict=True)
        ),
        at_most("share of 3 × 3 minima over the coins' 2^{−3}", seen[2] / coin_minimum_probability(3), 0.25),
        near(
            "400 × 400: second and fourth moments of the eigenvalues",
            [np.mean(eigenvalues**k) for k in (2, 4)],
            [1.00567, 2.03059],
            abs=1e-5,
        ),
        at_most(
            "400 × 400, shifted by −1.5 to 1.5: distance of the positive share from F", np.abs(off), 0.01
        ),
        at_least("3-spin glass: correlation of energy and index", np.corrcoef(energy, index)[0, 1], 0.9),
        at_most(
            "mean index in five bands of energy: distance from F(E/E_∞)", np.abs(law), 0.05 if quick else 0.03
        ),
    ]


@item("B9", "Deep linear networks", "L = ½|W_2W_1 − T|^2")
def linear_networks(quick: bool) -> Checks:
    """Saddles, and all minima global: right. “Connected” is false in general: det W_1 keeps its sign."""
    network = DeepLinear([3.0, 2.0, 1.0])
    subsets: tuple[list[int], ...] = ([], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2])
    points = [network.critical_point(s) for s in subsets]
    losses = [float(network.loss(W)) for W in points]
    negative = [int(np.count_nonzero(network.hessian_eigenvalues(W) < -1e-9)) for W in points]
    starts = 0.3 * np.random.RandomState(0).standard_normal((50, 2, 3, 3))
    ends = deep_linear(network, starts, lr=0.02, steps=6000)
    signs = np.sign(np.linalg.det(ends[:, 0]))
    errors = []
    for lr in (1e-2, 5e-3):
        t, learned = modes(lr)
        errors.append(np.abs(learned[:, 0] - mode_strength(t, 3.0, 0.001)).max())
    return [
        near("L at the eight critical points", losses, [7, 2.5, 5, 6.5, 0.5, 2, 4.5, 0], abs=1e-12),
        near("number of negative curvatures there", negative, [9, 4, 5, 6, 1, 2, 3, 0]),
        at_most("GD from 50 starts: largest L at the end", network.loss(ends).max(), 1.5e-29),
        near("signs of det W_1 at these ends", sorted(set(signs)), [-1, 1]),
        near("the sigmoid: order of the error in lr", np.log2(errors[0] / errors[1]), 1, abs=0.1),
    ]


@item(
    "B11",
    "Newton and saddles",
    "H(w_c) indefinite: Newton stays",
    quick="one spin glass instead of six, with wider tolerances",
)
def newton_saddles(quick: bool) -> Checks:
    """Newton is drawn to saddles, gradient descent to low minima: on the same landscapes as above."""
    energy, index, ends = critical_points(quick)
    return [
        never("minima among Newton's critical points", index == 0),
        near("mean energy of Newton's critical points", energy.mean(), 0.02, abs=0.1 if quick else 0.01),
        at_most("highest energy at which gradient descent ends", ends.max(), -0.9),
        near("mean energy where gradient descent ends", ends.mean(), -1.417, abs=0.2 if quick else 0.005),
    ]


@item(
    "B12",
    "Higham and Higham's network",
    "Cost = (1/10) Σ ½|y_i − F(x_i)|^2",
    quick="10 000 steps; the full report makes a million",
)
def higham_network(quick: bool) -> Checks:
    """Right; the paper's listing monitors the sum of squares, 20 times this."""
    seen = higham(quick)
    checks = [
        near("cost at the start", seen[0][0], 0.258526716344, rel=1e-9),
        near(
            "cost after 1000 and 10 000 steps",
            [seen[1000][0], seen[10_000][0]],
            [0.249622875585, 0.241057723267],
            rel=1e-9,
        ),
    ]
    if not quick:
        checks += [
            near("cost after 10^5 steps", seen[100_000][0], 0.105304218255, rel=1e-9),
            near("cost after 10^6 steps", seen[1_000_000][0], 2.873837923e-5, rel=1e-9),
            near("correct points after 10^5 and 10^6 steps", [seen[100_000][1], seen[1_000_000][1]], [9, 10]),
        ]
    return checks


@item("B13", "Two ways to draw", "E|g_m − g|^2 = tr S/m, without replacement times (N − m)/(N − 1)")
def drawing(quick: bool) -> Checks:
    """Right: the first shuffles the rows and runs through them, the second draws with replacement."""
    whole, w = patients(), np.linspace(-1, 1, 10)
    problem = MSE(whole.Phi[:6] * 10, whole.y[:6] / 100, "half_mean")
    full = problem.gradient(w)

    def spread(batches: Any) -> float:
        return float(np.mean([np.sum((problem.gradient(w, np.array(rows)) - full) ** 2) for rows in batches]))

    drawn = [spread(itertools.product(range(6), repeat=m)) for m in (1, 2, 3)]
    shuffled = [spread(itertools.combinations(range(6), m)) for m in (1, 2, 3)]
    order = Sampler(3).shuffle(442)
    missed = [len(set(Sampler(seed).draws(442, 442).tolist())) / 442 for seed in range(200)]
    return [
        near(
            "mean |g_m − g|^2 over all batches of 1, 2, 3, with replacement",
            drawn,
            [1.06307086, 0.53153543, 0.35435695],
            rel=1e-7,
        ),
        near(
            "mean |g_m − g|^2 over all batches of 1, 2, 3, without replacement",
            shuffled,
            [1.06307086, 0.42522834, 0.21261417],
            rel=1e-7,
        ),
        near("rows in a shuffled epoch of 442", len(set(order.tolist())), 442),
        near("rows seen in 442 draws, mean of 200", np.mean(missed), 0.632537, abs=0.005),
    ]


def _ticks() -> Callable[[], float]:
    """A clock that shows 0, 1, 2, …"""
    times = itertools.count(0.0)
    return lambda: next(times)


@item("B14-B16", "Algorithms 3.4 to 3.6", "v ← a_kv − lr_k g_i(w + a_kv), w ← w + v")
def deadlines(quick: bool) -> Checks:
    """Algorithm 3.6 lacks the index of v_k. The deadline is tested before each step: a run may have none."""
    problem, x0 = patients(), np.zeros(10)
    steps = [
        run_until(problem, x0, "momentum", deadline=d, lr=0.1, momentum=0.9, clock=_ticks()).steps
        for d in (5.0, 0.0)
    ]
    timed = run_until(problem, x0, "momentum", deadline=101.0, lr=0.1, momentum=0.9, seed=8, clock=_ticks())
    counted = minimize(
        problem,
        x0,
        lambda w: Momentum(w, lr=0.1, momentum=0.9),
        steps=100,
        batch_size=1,
        sampling="with_replacement",
        seed=8,
    )
    return [
        near("clock of 0, 1, 2, …: steps before the deadlines 5 and 0", steps, [4, 0]),
        near("distance of w after 100 such steps from that of ``minimize()``", norms(timed.x - counted.w), 0),
    ]


@item(
    "B17",
    "Backtracking, step schedules",
    "L(w − lr g) ≤ L(w) − (lr/2)|g|^2; lr_t = lr_0/(1 + dt)",
    quick="4000 steps instead of 20 000",
)
def schedules(quick: bool) -> Checks:
    """A constant step ends in a neighbourhood of w*, one that shrinks like 1/t arrives."""
    problem = MSE(patients().Phi, patients().y, "half_mean")
    w_star = problem.minimizer()
    steps, rng = (4000 if quick else 20_000), Sampler(0)
    rows = rng.draws(steps, problem.size)
    ends = []
    for schedule in (constant(20.0), inverse_time(20.0, decay=0.002)):
        w = w_star.copy()
        opt, squares = SGD(w, lr=schedule), []
        for t in range(steps):
            opt.step(problem.gradient(w, rows[t : t + 1]))
            if t >= steps // 2:
                squares.append(problem.loss(w) - problem.optimum)
        ends.append(float(np.mean(squares)))
    lr = backtracking(problem.loss, np.zeros(10), problem.gradient(np.zeros(10)), 64 / problem.beta)
    return [
        at_least("mean gap in the second half: that of a constant lr over that of 1/t", ends[0] / ends[1], 4),
        at_least("backtracking from 64/β: lr found, times β", lr * problem.beta, 0.5),
    ]


@item("B18", "“Do first”: compare optimizers", "f = (1 − w_1)^2 + 100(w_2 − w_1^2)^2")
def comparison(quick: bool) -> Checks:
    """The notebook could not be found; the expected numbers come from its authors' scripts and from a
    straight line."""
    start = np.array([0.4, -0.2])
    ends = [
        walk(Rosenbrock(), partial(Momentum, lr=1e-3, momentum=a), 1000, start)[-1] for a in (0.9, 0.5, 0)
    ]
    random = np.random.RandomState(42)
    x = random.uniform(-1, 1, 200)
    line = MSE(np.column_stack([x, np.ones(200)]), 2 * x - 1 + 0.1 * random.standard_normal(200), "half_mean")
    away = []
    for batch, lr in ((1, lambda k: 0.05), (1, lambda k: 1 / (10 + 0.33 * k)), (16, lambda k: 0.05)):
        w, draws = np.zeros(2), np.random.RandomState(7).randint(0, 200, (5000, batch))
        opt = SGD(w, lr=0.05)
        for k, rows in enumerate(draws):
            opt.lr = lr(k)
            opt.step(line.gradient(w, rows))
        away.append(norms(w - line.minimizer()))
    return [
        near(
            "Rosenbrock from (0.4, −0.2): w after 1000 steps, a = 0.9",
            ends[0],
            [0.99513803, 0.99028019],
            abs=1e-8,
        ),
        near("the same, a = 0.5", ends[1], [0.83385528, 0.69458124], abs=1e-8),
        near("the same, a = 0", ends[2], [0.7044089, 0.49479485], abs=1e-8),
        near(
            "a line through 200 points: |w − w*| after 5000 steps, online, online with 1/t, batches of 16",
            away,
            [0.0292, 0.01146, 0.00125],
            abs=6e-5,
        ),
    ]


@item(
    "B19",
    "Momentum as a flow",
    "u′ = −∇L/(1 − a) + O(lr)",
    quick="the orders from three step sizes instead of five",
)
def momentum_flows(quick: bool) -> Checks:
    """Kovachki and Stuart's three results; the constants derived by Taylor expansion."""
    h, found = flow_errors(quick)
    checks = []
    for method, name in zip(METHODS, ("heavy ball", "Nesterov"), strict=True):
        orders = [order(h, found[method][equation]) for equation in ("rescaled", "modified", "manifold")]
        checks.append(near(f"{name}: orders in lr of the three errors", orders, [1, 2, 2], abs=0.1))
        residuals, sizes = [], np.array([0.005, 0.0025])
        for lr in sizes:
            first = -lr / (1 - FLOW_MOMENTUM) * Quartic().gradient(START)
            run = flows.steps(Quartic(), START, lr, FLOW_MOMENTUM, round(0.4 / lr), method, first)
            move = flows.manifold_move(Quartic(), run.u[-2], lr, FLOW_MOMENTUM, method)
            residuals.append(np.linalg.norm(run.v[-1] - move))
        checks.append(
            near(
                f"{name}: order in lr of the distance from the invariant manifold",
                order(sizes, np.array(residuals)),
                3,
                abs=0.1,
            )
        )
    return checks


@item("B22", "Batch norm and ReLU", "h = max(0, γ(z − μ)/√(σ^2 + ε) + β)")
def batch_norm(quick: bool) -> Checks:
    """Right; inference uses running averages, of the unbiased variance."""
    Z = np.array([[1.0, 2], [3, 6], [5, 4], [7, 8]])
    gamma, beta = np.array([2.0, -1.0]), np.array([-1.0, 0.5])
    dY = np.array([[1.0, -1], [2, 0.5], [-1, 3], [0.5, 1]])
    y, mean, inv = batchnorm_forward(Z, gamma, beta, relu=True)
    dZ, dgamma, dbeta = batchnorm_backward(dY, Z, gamma, beta, mean, inv, relu=True)
    layer = BatchNorm(2, dtype=np.float64)
    for _ in range(3):
        layer.forward(Z)
    moved, _, _ = batchnorm_forward(Z + 7.0, gamma, beta, relu=True)
    scaled, *_ = batchnorm_forward(7 * Z, gamma, beta, eps=0.0)
    plain, *_ = batchnorm_forward(Z, gamma, beta, eps=0.0)
    return [
        near("mean of the batch", mean, [4, 5]),
        near("second column of h", y[:, 1], [1.841639444861, 0.052786851713, 0.947213148287, 0], abs=1e-11),
        near("dγ and dβ", [*dgamma, *dbeta], [0.670819722431, 0.223606574144, 0.5, 2.5], abs=1e-11),
        near("first row of dz", dZ[0], [0.089442227166, 0.693180446927], abs=1e-11),
        at_most("|sum of dz over the rows|", np.abs(dZ.sum(axis=0)), 1e-14),
        near(
            "running mean and variance after three batches",
            [*layer.running_mean, layer.running_var[0]],
            [1.084, 1.355, 2.535666666667],
            rel=1e-11,
        ),
        at_most("largest change of h when a constant is added to z", np.abs(moved - y).max(), 1e-14),
        at_most("largest change of h when z is scaled by 7, ε = 0", np.abs(scaled - plain).max(), 1e-14),
    ]
