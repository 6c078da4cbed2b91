"""Pictures of rates: gaps under their bounds, errors by mode, edges of lr, the limit of small lr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from ...optim.optimizer import Optimizer
from ...optim.optimizers import NAG, SGD, AdaGrad, Adam, Momentum, RMSProp
from ...problems import MSE, Float64s, Quartic
from ...theory import (
    accelerated_gap_bound,
    check_step_size,
    flows,
    gap_bounds,
    heavy_ball_edge,
    look_ahead_edge,
    mode_matrices,
    nesterov_momenta,
    pl_constant,
    pl_rate,
    sgd_edge,
    tune_heavy_ball,
)
from ...train import minimize
from ..demo import steep_curvatures
from .pictures import picture
from .runs import gaps, gradients, norms, patients, walk
from .svg import ACCENT, COLORS, DASHED, DOTTED, FAINT, INK, LETTERS, decades, figure, legend_above

FIGURE_STEPS = 1500


def accelerated(problem: MSE, steps: int) -> Float64s:
    """The iterates x_t of Nesterov's rule with lr = 1/beta and his momenta."""
    w = np.zeros(problem.dimension)
    momenta: Iterator[float] = nesterov_momenta()
    opt = NAG(w, lr=1.0 / problem.beta, momentum=0.0)
    x = np.empty((steps + 1, len(w)))
    x[0], now = w, next(momenta)
    for t in range(1, steps + 1):
        after = next(momenta)
        opt.momentum, opt.momentum_next = now, after
        opt.step(problem.gradient(w))
        x[t] = w - after * opt.state["v"][0]
        now = after
    return x


def heavy_ball_bound(problem: MSE, lr: float, momentum: float, steps: int) -> Float64s:
    """gap_t/gap_0 for every quadratic with these beta and mu: max over lambda of (M(lambda)^t)_11^2.

    mu is the smallest curvature but 0: where there is none, w stays.
    """
    own = problem.eigenvalues[problem.eigenvalues > 0.0]
    curvatures = np.concatenate([np.linspace(own[0], problem.beta, 400), own])
    M = mode_matrices("momentum", curvatures, lr, momentum)
    power = np.broadcast_to(np.eye(2), M.shape)
    bound = np.empty(steps + 1)
    for t in range(steps + 1):
        bound[t] = np.abs(power[:, 0, 0]).max() ** 2
        power = power @ M
    return bound


def adagrad_bound(problem: MSE, path: Float64s, opt: Optimizer) -> Float64s:
    """Of the best gap before step t: (D^2/(2 lr) + lr)/t sum_j |g_{1:t,j}|, D = max_s |w_s - w*|_inf.

    L convex, g'(w - w*) >= gap. A step gives g'(w - w*) = h (d^2 - d+^2)/(2 lr) + lr g^2/(2h) for each
    weight, d its distance and h = eps + sqrt(r) its denominator, which never shrinks; over the steps
    the first terms sum up to less than D^2 h/(2 lr) and the others to less than lr |g_{1:t}|.
    """
    hyper = opt.state_dict()["hyper"]
    lengths = np.sqrt(np.cumsum(gradients(problem, path[:-1]) ** 2, axis=0))
    D = np.maximum.accumulate(np.abs(path[:-1] - problem.minimizer()).max(axis=1))
    lr, t = hyper["lr"], np.arange(1, len(path))
    total = D**2 / (2 * lr) * (lengths + hyper["eps"]).sum(axis=1) + lr * lengths.sum(axis=1)
    bound: Float64s = total / t
    return bound


def capped_bound(problem: MSE, opt: Optimizer, first: float, t: Any) -> Float64s:
    """(sqrt G_0 + sqrt(p beta/2) t cap lr)^2, for steps of at most cap lr in each weight."""
    check = check_step_size(problem, opt)
    cap = np.inf if check.cap is None else check.cap
    climbed = np.sqrt(problem.dimension * problem.beta / 2) * t * cap * check.lr
    bound: Float64s = (np.sqrt(first) + climbed) ** 2
    return bound


class Curve(NamedTuple):
    """One optimizer's run on a problem.

    Attributes:
        title: the optimizer and its lr.
        gap: L(w_t) - L*.
        bounds: each at every step.
        bounded: the bounded numbers: the gap, or the smallest gap so far.
    """

    title: str
    gap: Float64s
    bounds: list[Float64s]
    bounded: Float64s


@cache
def curves(problem: MSE, steps: int = FIGURE_STEPS) -> dict[str, Curve]:
    """The runs of the six optimizers from w = 0."""
    t = np.arange(steps + 1)
    beta, mu, w0 = problem.beta, pl_constant(problem), np.zeros(problem.dimension)
    D, first = float(norms(problem.minimizer())), float(gaps(problem, w0[None])[0])
    size = D / problem.dimension**0.5
    sgd = partial(SGD, lr=1 / beta)
    ball = tune_heavy_ball(beta, float(steep_curvatures(problem)[0]))
    momentum = partial(Momentum, lr=ball.lr, momentum=ball.momentum)
    adagrad, rmsprop, adam = (
        partial(AdaGrad, lr=size),
        partial(RMSProp, lr=0.03 * size),
        partial(Adam, lr=0.3 * size),
    )
    w_adagrad = walk(problem, adagrad, steps)

    best = np.minimum.accumulate(gaps(problem, w_adagrad))

    def of(title: str, path: Any, *bounds: Any, bounded: Any = None) -> Curve:
        gap = gaps(problem, path)
        return Curve(title, gap, list(bounds), gap if bounded is None else bounded)

    sharp, linear = gap_bounds(t, beta, D).sharp, first * pl_rate(beta, mu) ** t
    slowest = first * heavy_ball_bound(problem, ball.lr, ball.momentum, steps)
    regret = np.append(np.inf, adagrad_bound(problem, w_adagrad, adagrad(w0.copy())))
    return {
        "sgd": of("SGD, lr = 1/β", walk(problem, sgd, steps), sharp, linear),
        "momentum": of("Momentum, tuned", walk(problem, momentum, steps), slowest),
        "nag": of("NAG, lr = 1/β", accelerated(problem, steps), accelerated_gap_bound(t, beta, D)),
        "adagrad": of("AdaGrad", w_adagrad, regret, bounded=best),
        "rmsprop": of(
            "RMSProp", walk(problem, rmsprop, steps), capped_bound(problem, rmsprop(w0.copy()), first, t)
        ),
        "adam": of("Adam", walk(problem, adam, steps), capped_bound(problem, adam(w0.copy()), first, t)),
    }


@picture(
    "bounds",
    "Loss against its bounds: the diabetes data, six optimizers",
    "Six small charts of the gap against the steps on logarithmic axes, with the bounds of each method "
    "above its curve",
)
def bounds(quick: bool) -> Any:
    """The bounds that are proved for each method lie above its gap: βD^2/(4t+2) for GD, and (1 − μ/β)^t
    (dotted); the slowest mode for the heavy ball; 2βD^2/(t+1)^2 for NAG; for AdaGrad its regret, which bounds
    the best gap so far. Of RMSProp and Adam only that steps of limited length cannot climb fast: this bound
    soon leaves the picture. The curves begin after the first step, which may lead uphill."""
    return bounds_of(patients(), FIGURE_STEPS)


def bounds_of(problem: MSE, steps: int) -> Any:
    """The same picture for any problem."""
    drawing, grid = figure(3, 2, height=7.4, sharex=True, sharey=True)
    t = np.arange(1, steps + 1)
    for axes, (color, curve) in zip(grid.flat, curves(problem, steps).items(), strict=True):
        first = curve.gap[0]
        for bound, style in zip(curve.bounds, (DASHED, DOTTED), strict=False):
            axes.plot(t, bound[1:] / first, color=ACCENT, linewidth=1.4, linestyle=style)
        axes.plot(t, curve.gap[1:] / first, color=COLORS[color])
        axes.set_title(curve.title, color=COLORS[color])
        axes.set(xscale="log", yscale="log", xlim=(1, steps), ylim=(1e-9, 300))
        decades(axes.xaxis)
        decades(axes.yaxis, every=2)
    for axes in grid[-1]:
        axes.set_xlabel("steps")
    drawing.supylabel("gap L(w) − L*, as a share of the first", fontsize=LETTERS, color=INK)
    lines = {"gap": (INK, "-"), "bound": (ACCENT, DASHED), "GD: (1 − μ/β)ᵗ": (ACCENT, DOTTED)}
    legend_above(drawing, lines)
    return drawing


@picture(
    "modes",
    "The error, one eigenvalue at a time",
    "The error along the ten eigenvectors of the Hessian against the steps, for gradient descent and for "
    "the heavy ball",
)
def modes(quick: bool) -> Any:
    """Along each eigenvector uᵢ of H the error shrinks by a factor of its own, |1 − lr λ| for GD: after 400
    steps the steep directions are done and the flattest has hardly begun. The tuned heavy ball makes all ten
    about equally fast, though not at once: some errors grow first."""
    problem, steps = patients(), 400
    curvatures, directions = np.linalg.eigh(problem.hessian())
    ball = tune_heavy_ball(problem.beta, problem.mu)
    makers = {
        "GD, lr = 1/β": lambda w: SGD(w, lr=1 / problem.beta),
        "heavy ball, tuned": lambda w: Momentum(w, lr=ball.lr, momentum=ball.momentum),
    }
    drawing, grid = figure(1, 2, height=3.5, sharey=True)
    for axes, (title, make) in zip(grid, makers.items(), strict=True):
        error = np.abs((walk(problem, make, steps) - problem.minimizer()) @ directions)
        for i in reversed(range(len(curvatures))):
            color, alpha = (COLORS["momentum"], 0.3 + 0.07 * i) if i else (ACCENT, 1.0)
            axes.plot(error[:, i] / error[0, i], color=color, alpha=alpha, linewidth=1.2 if i else 2.0)
        axes.set(yscale="log", ylim=(1e-8, 30), xlim=(0, steps), xlabel="steps", title=title)
        axes.set_xticks([0, 200, 400])
        decades(axes.yaxis, every=2)
    grid[0].set_ylabel("share of the first error")
    lines = {
        f"flattest, λ = {curvatures[0]:.4f}": (ACCENT, "-"),
        f"others, λ up to {curvatures[-1]:.2f}": (COLORS["momentum"], "-"),
    }
    legend_above(drawing, lines)
    return drawing


def edge_scan(problem: MSE, family: str, times_beta: Float64s, momentum: float, steps: int) -> Float64s:
    """The gap after so many steps as a share of the first, for each lr = times_beta/beta."""
    makers: dict[str, Callable[..., Optimizer]] = {
        "sgd": SGD,
        "momentum": partial(Momentum, momentum=momentum),
        "nag": partial(NAG, momentum=momentum),
    }
    make, w0 = makers[family], np.zeros(problem.dimension)
    ends = []
    for times in times_beta:
        run = minimize(problem, w0, partial(make, lr=times / problem.beta), steps=steps, record_every=steps)
        ends.append(run.w)
    found = gaps(problem, np.array([w0, *ends]))
    shares: Float64s = found[1:] / found[0]
    return shares


@picture(
    "edge",
    "Each method has its edge",
    "The gap after 300 steps against the step size times beta for three methods, each with a cliff at its "
    "stability edge",
    full="135 step sizes.",
    quick="68 step sizes, half of the full report's.",
)
def edge(quick: bool) -> Any:
    """The gap after 300 steps for every step size lr. Below its edge (dashed) a method ends lower than it
    started, above it the gap grows without bound. The edge lies at 2/β for GD, at 2(1+a)/β = 3/β for the
    heavy ball, at (2+2a)/((1+2a)β) = 1.5/β for NAG, a = ½."""
    return edge_of(patients(), 300, quick)


def edge_of(problem: MSE, steps: int, quick: bool) -> Any:
    """The same picture for any problem."""
    drawing, axes = figure(height=3.3)
    times_beta = np.linspace(0.05, 3.4, 68 if quick else 135)
    edges = {
        "nag": ("NAG", look_ahead_edge(1.0, 0.5), "-", 2.0),
        "sgd": ("GD", sgd_edge(1.0), "-", 2.0),
        "momentum": ("heavy ball", heavy_ball_edge(1.0, 0.5), "-", 1.4),
    }
    for color, (name, at, style, width) in edges.items():
        with np.errstate(over="ignore"):
            gap = edge_scan(problem, color, times_beta, 0.5, steps)
        axes.plot(
            times_beta, np.clip(gap, 1e-12, 1e12), color=COLORS[color], linestyle=style, linewidth=width
        )
        axes.axvline(at, color=COLORS[color], linewidth=1.2, linestyle=DASHED)
        axes.annotate(
            f"{name}\n{at:g}/β", (at, 2e6), xytext=(-4, 0), textcoords="offset points", ha="right",
            color=COLORS[color], va="top",
        )  # fmt: skip
    axes.axhline(1, color=FAINT, linewidth=0.8)
    axes.annotate("at the start", (0.05, 1), xytext=(0, 3), textcoords="offset points")
    axes.set(yscale="log", ylim=(1e-9, 1e7), xlim=(0, 3.4), xlabel="lr times β")
    axes.set_ylabel("gap, as a share of the first")
    decades(axes.yaxis, every=2)
    return drawing


START = np.array([1.0, -1.0])
FLOW_MOMENTUM = 0.5
METHODS: tuple[flows.Method, ...] = ("heavy_ball", "nesterov")


@cache
def flow_errors(quick: bool) -> tuple[Float64s, dict[str, dict[str, Float64s]]]:
    """Step sizes lr = h, and |u_n - u(1)| for each equation and method, n = 1/h."""
    counts = np.array([100, 200, 400] if quick else [100, 200, 400, 800, 1600])
    problem, one = Quartic(), np.array([1.0])
    found: dict[str, dict[str, Float64s]] = {}
    for method in METHODS:
        errors: dict[str, list[float]] = {"rescaled": [], "modified": [], "manifold": []}
        for n in counts:
            h = 1.0 / n
            consistent = -h / (1 - FLOW_MOMENTUM) * problem.gradient(START)
            rest = flows.steps(problem, START, h, FLOW_MOMENTUM, n, method, np.zeros(2)).u[-1]
            moving = flows.steps(problem, START, h, FLOW_MOMENTUM, n, method, consistent).u[-1]
            flow = flows.rescaled(problem, START, one, FLOW_MOMENTUM)[-1]
            errors["rescaled"].append(float(np.linalg.norm(rest - flow)))
            for name, solve in (("modified", flows.modified), ("manifold", flows.manifold)):
                solution = solve(problem, START, one, h, FLOW_MOMENTUM, method)[-1]
                errors[name].append(float(np.linalg.norm(moving - solution)))
        found[method] = {name: np.array(values) for name, values in errors.items()}
    return 1.0 / counts, found


def order(h: Float64s, errors: Float64s) -> float:
    """The slope of the errors over h, both logarithmic, between the two smallest h."""
    return float(np.log(errors[-2] / errors[-1]) / np.log(h[-2] / h[-1]))


@picture(
    "flows",
    "Momentum as a differential equation: error against lr",
    "Errors of three differential equations against the step size, for heavy ball and Nesterov, with "
    "slopes 1, 2 and 2",
    full="Five step sizes.",
    quick="Three step sizes; the full report has five.",
)
def momentum_flows(quick: bool) -> Any:
    """Halving lr halves the distance of the steps from the rescaled gradient flow, and quarters that from the
    modified equation and from the flow on the invariant manifold: the numbers are the measured orders."""
    h, found = flow_errors(quick)
    equations = {
        "rescaled": ("rescaled flow", "-"),
        "manifold": ("manifold", (0, (5, 2))),
        "modified": ("modified", (0, (1, 1))),
    }
    drawing, grid = figure(1, 2, height=3.6, sharey=True)
    titles = ("heavy ball", "Nesterov")
    for axes, method, title, color in zip(grid, METHODS, titles, ("momentum", "nag"), strict=True):
        for equation, (_, style) in equations.items():
            errors = found[method][equation]
            axes.plot(h, errors, color=COLORS[color], linestyle=style, marker="o", markersize=3.5)
            label = f"{order(h, errors):.2f}"
            axes.annotate(label, (h[0], errors[0]), xytext=(6, 0), textcoords="offset points", va="center")
        axes.set(xscale="log", yscale="log", xlabel="lr", title=title, ylim=(2e-8, 0.1))
        axes.set_xlim(h[-1] / 1.5, h[0] * (4 if quick else 8))
        decades(axes.xaxis)
        axes.set_xticks([h[-1], h[0]], [f"1/{1 / h[-1]:.0f}", f"1/{1 / h[0]:.0f}"], minor=False)
        axes.set_xticks(h, minor=True)
        decades(axes.yaxis, every=2)
    legend_above(drawing, {name: (INK, style) for name, style in equations.values()})
    grid[0].set_ylabel("error at time 1")
    return drawing
