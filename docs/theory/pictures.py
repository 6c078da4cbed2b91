"""The pictures of the chapters: ``python docs/theory/pictures.py`` writes each as NAME.svg beside this file.

Every picture is drawn from what samestep computes. It brings its own background and colours, light and dark,
so that it can be read on any page.
"""

# ruff: noqa: RUF001 (the labels have minus signs and Greek letters)

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import samestep as ss
from samestep.commands.report import svg
from samestep.commands.report.svg import ACCENT, COLORS, FAINT, INK
from samestep.theory import flows, landscape

LIGHT = {
    "paper": "#fdfdfb", "ink": "#1d2328", "faint": "#8b949c", "accent": "#b3472f", "good": "#2c7a4b",
    "bad": "#c0262d", "sgd": "#6b747c", "momentum": "#2368b5", "nag": "#18794e", "adagrad": "#9a5b00",
    "rmsprop": "#8a3fa8", "adam": "#cb3a3a",
}  # fmt: skip
DARK = {
    "paper": "#15181b", "ink": "#e3e6e8", "faint": "#7d8790", "accent": "#f08a6c", "good": "#5fc48a",
    "bad": "#ff7b7b", "sgd": "#a3adb6", "momentum": "#6aa9f0", "nag": "#5cc596", "adagrad": "#f0b04a",
    "rmsprop": "#c78ae6", "adam": "#ff8080",
}  # fmt: skip
SGD, BALL, NAG = COLORS["sgd"], COLORS["momentum"], COLORS["nag"]
STYLE = {  # smaller letters than the report's: a chapter's picture is wider
    "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "legend.fontsize": 9,
    "xtick.labelsize": 9.5, "ytick.labelsize": 9.5,
}  # fmt: skip
PICTURES: dict[str, Callable[[], Any]] = {}


def picture(draw: Callable[[], Any]) -> Callable[[], Any]:
    """Lists a function that returns a figure; its docstring is the picture's label."""
    PICTURES[draw.__name__.replace("_", "-")] = draw
    return draw


def end_label(axes: Any, x: Any, y: Any, text: str, color: str, up: float = 0.0) -> None:
    """Writes a line's name to the right of its last point."""
    axes.annotate(
        text, (x[-1], y[-1]), xytext=(4, up), textcoords="offset points", color=color, va="center", fontsize=9
    )


def gaps(problem: Any, w0: Any, lr: float, steps: int) -> Any:
    """L - L* of gradient descent after 0, 1, ... steps."""
    run = ss.minimize(problem, np.array(w0, float), lambda w: ss.SGD(w, lr=lr), steps=steps)
    return run.losses - problem.optimum


@picture
def descent_lemma() -> Any:
    """The loss along the gradient and the parabola of the descent lemma above it."""
    figure, axes = svg.figure()
    w, lr = 1.6, np.linspace(0.0, 2.5, 100)
    g = np.tanh(w)  # of L = log cosh, whose beta is 1
    axes.plot(lr, np.log(np.cosh(w)) - lr * (1 - lr / 2) * g**2, color=ACCENT, label="the bound")
    axes.plot(lr, np.log(np.cosh(w - lr * g)), color=BALL, label="L(w − lr g)")
    axes.axhline(np.log(np.cosh(w)), color=FAINT, linewidth=0.8, linestyle=":")
    axes.set_xticks([0, 1, 2], ["0", "1/β", "2/β"])
    axes.set(xlabel="lr", ylabel="loss")
    axes.legend(loc="upper center")
    return figure


@picture
def step_edge() -> Any:
    """L - L* over 40 steps for five step sizes around the edge."""
    figure, axes = svg.figure()
    problem = ss.problems.MSE(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([1.0, 2.0, 4.0]))
    for share, color in ((0.5, SGD), (1.0, BALL), (1.9, NAG), (2.0, INK), (2.05, COLORS["bad"])):
        y = gaps(problem, [0, 0], share / problem.beta, 40)
        y = y[y > 1e-7]
        axes.semilogy(range(len(y)), y, color=color)
        end_label(axes, range(len(y)), y, f"{share:g}/β", color)
    axes.set(xlabel="steps", ylabel="L − L*", xlim=(0, 45))
    svg.decades(axes.yaxis, 2)
    return figure


@picture
def zigzag() -> Any:
    """The path of gradient descent over the level sets of a quadratic."""
    figure, axes = svg.figure(height=2.4)
    problem = ss.problems.MSE(np.diag([1.0, 3.0]), np.zeros(2))
    x, y = np.meshgrid(np.linspace(-1, 4.3, 80), np.linspace(-1.4, 1.4, 60))
    axes.contour(x, y, (x**2 + 9 * y**2) / 2, levels=[0.2, 1, 2.5, 5, 8], colors=FAINT, linewidths=0.7)
    run = ss.minimize(problem, np.array([4.0, 1.2]), lambda w: ss.SGD(w, lr=0.2), steps=25, record_w=True)
    axes.plot(*run.ws.T, color=BALL, marker="o", markersize=2.5, linewidth=1.1)
    axes.plot(0, 0, marker="x", color=ACCENT)
    axes.set(xlabel="curvature 1: factor 0.8", ylabel="curvature 9: −0.8", aspect="equal")
    return figure


@picture
def gap_bounds() -> Any:
    """The gap of a Huber loss and three bounds, on logarithmic axes; they meet at t = 100."""
    figure, axes = svg.figure()
    kink, t = 1 / 201, np.arange(1, 151)
    huber = ss.problems.Function(
        lambda w: float(min(w[0] ** 2 / 2, kink * abs(w[0]) - kink**2 / 2)),
        lambda w: np.clip(w, -kink, kink),
        1,
        beta=1.0,
        optimum=0.0,
    )
    names, colors = ("2βD²/(t + 1)", "2βD²/(t + 4)", "βD²/(4t + 2)"), (SGD, COLORS["adagrad"], ACCENT)
    for bound, name, color in zip(ss.theory.gap_bounds(t, 1.0, 1.0), names, colors, strict=True):
        axes.loglog(t, bound, color=color, linestyle="--", label=name)
    axes.loglog(t, gaps(huber, [1.0], 1.0, 150)[1:], color=BALL, label="the gap of a Huber loss")
    axes.set(xlabel="steps t", ylabel="L − L*")
    svg.decades(axes.xaxis)
    svg.decades(axes.yaxis)
    axes.legend(loc="upper right")
    return figure


@picture
def pl_rate() -> Any:
    """The loss of a model that is not convex, below the line of its PL rate."""
    figure, axes = svg.figure()
    Phi = np.array([[1.0, 0, 2, 0, 1], [0, 1, 0, 1, 1], [1, 1, 0, 0, -1]])
    y, w = np.array([3.0, -2.0, 1.0]), np.zeros(5)
    eigenvalues = np.linalg.eigvalsh(ss.theory.tangent_kernel(Phi))
    mu, beta = 0.25 * eigenvalues[0], (2.25 + 0.5 * np.sqrt(14.0)) * eigenvalues[-1]
    optimizer, losses = ss.SGD(w, lr=1 / beta), []
    for _ in range(301):
        z = Phi @ w
        residual = z + 0.5 * np.sin(z) - y
        losses.append(residual @ residual / 2)
        optimizer.step(Phi.T @ ((1 + 0.5 * np.cos(z)) * residual))
    t = np.arange(301)
    bound = losses[0] * ss.theory.pl_rate(beta, mu) ** t
    axes.semilogy(t, bound, color=ACCENT, linestyle="--")
    axes.semilogy(t, losses, color=BALL)
    end_label(axes, t, bound, "(1 − μ/β)ᵗ L₀", ACCENT)
    end_label(axes, t, losses, "the loss", BALL)
    axes.set(xlabel="steps t", ylabel="L", xlim=(0, 375))
    svg.decades(axes.yaxis, 3)
    return figure


@picture
def momentum_edges() -> Any:
    """The largest stable step size over the momentum, for three methods."""
    figure, axes = svg.figure()
    a = np.linspace(0.0, 0.999, 100)
    for edge, name, color in (
        (ss.theory.heavy_ball_edge(1.0, a), "heavy ball", BALL),
        (np.full_like(a, ss.theory.sgd_edge(1.0)), "without momentum", SGD),
        (ss.theory.look_ahead_edge(1.0, a), "Nesterov", NAG),
    ):
        axes.plot(a, edge, color=color)
        end_label(axes, a, edge, name, color)
    axes.set_yticks([0, 4 / 3, 2, 3, 4], ["0", "4/(3β)", "2/β", "3/β", "4/β"])
    axes.set(xlabel="momentum a", ylabel="edge of lr", xlim=(0, 1.35), ylim=(0, 4.2), xticks=[0, 0.5, 1])
    return figure


@picture
def momentum_rates() -> Any:
    """The distance from the minimum over 120 steps, by four tunings."""
    figure, axes = svg.figure()
    problem, t = ss.problems.MSE(np.diag(np.sqrt(np.linspace(1, 100, 20))), np.zeros(20)), np.arange(121)
    for tune, make, name, color in (
        (ss.theory.tune_sgd, None, "gradient descent", SGD),
        (ss.theory.tune_nesterov, ss.NAG, "Nesterov", NAG),
        (ss.theory.tune_look_ahead, ss.NAG, "… for quadratics", COLORS["adagrad"]),
        (ss.theory.tune_heavy_ball, ss.Momentum, "heavy ball", BALL),
    ):
        best = tune(problem)
        hyper = (best.lr, best.momentum)[: 2 if make else 1]
        run = ss.minimize(
            problem,
            np.ones(20),
            lambda w, make=make, hyper=hyper: (make or ss.SGD)(w, *hyper),
            steps=120,
            record_w=True,
        )
        y = np.linalg.norm(run.ws, axis=1) / np.sqrt(20)
        axes.semilogy(t, y, color=color)
        end_label(axes, t, y, name, color)
    axes.set(
        xlabel="steps", ylabel="distance, as a share of the first", xlim=(0, 165), xticks=[0, 40, 80, 120]
    )
    svg.decades(axes.yaxis, 2)
    return figure


@picture
def lessard() -> Any:
    """The weight over 40 steps by the heavy ball, which cycles, and by Nesterov's rule."""
    figure, axes = svg.figure(height=2.6)

    def gradient(w: Any) -> Any:
        return np.where(w < 1, 25 * w, np.where(w < 2, w + 24, 25 * w - 24))

    best, t = ss.theory.tune_heavy_ball(25.0, 1.0), np.arange(41)
    for optimizer, name, color, up in (
        (ss.Momentum(np.array([3.3]), best.lr, best.momentum), "heavy ball", BALL, 0.0),
        (ss.NAG(np.array([3.3]), 1 / 25, 2 / 3), "Nesterov", NAG, 3.0),
    ):
        seen = [3.3]
        for _ in t[1:]:
            optimizer.step(gradient(optimizer.params[0]))
            seen.append(float(optimizer.params[0][0]))
        axes.plot(t, seen, color=color, marker="o", markersize=2, linewidth=1)
        end_label(axes, t, seen, name, color, up)
    axes.set(xlabel="steps", ylabel="w", xlim=(0, 49), xticks=[0, 10, 20, 30, 40])
    return figure


def noisy(lr: Callable[[int], float], steps: int, runs: int = 2000) -> Any:
    """E w^2 after 1, 2, ... steps on w^2/2 from w = 3, with noise of variance 1."""
    random, w = np.random.RandomState(0), np.full(runs, 3.0)
    optimizer, seen = ss.SGD(w, lr=lr), []
    for _ in range(steps):
        optimizer.step(w + random.standard_normal(runs))
        seen.append(float(np.mean(w**2)))
    return np.array(seen)


@picture
def noise_floor() -> Any:
    """The mean squared distance over steps for three constant step sizes, and the floor of each."""
    figure, axes = svg.figure()
    t = np.arange(1, 201)
    for lr, color in ((0.2, COLORS["adagrad"]), (0.1, BALL), (0.05, NAG)):
        floor, seen = ss.theory.stationary_variance(lr, 1, 1.0, 1.0), noisy(lambda _, lr=lr: lr, 200)
        axes.semilogy(t, seen, color=color)
        axes.axhline(floor, color=color, linestyle="--", linewidth=0.8)
        end_label(axes, t, seen, f"lr {lr}", color, 6)
    axes.set(xlabel="steps", ylabel="mean of w²", xlim=(0, 230))
    svg.decades(axes.yaxis)
    return figure


@picture
def adaptive_steps() -> Any:
    """Step lengths along a constant gradient by five rules."""
    figure, axes = svg.figure()
    t = np.arange(1, 3001)
    rules = [
        (ss.AdaGrad(np.zeros(1), lr=1.0, eps=0.0), "AdaGrad", COLORS["adagrad"]),
        (ss.RMSProp(np.zeros(1), lr=1.0, rho=0.9, eps=0.0), "RMSProp", COLORS["rmsprop"]),
        (ss.Adam(np.zeros(1), lr=1.0, eps=0.0), "Adam", COLORS["adam"]),
    ]
    for optimizer, name, color in rules:
        w = [0.0]
        for _ in t:
            optimizer.step(np.ones(1))
            w.append(float(optimizer.params[0][0]))
        steps = -np.diff(w)
        axes.loglog(t, steps, color=color)
        end_label(axes, t, steps, name, color, 5 if name == "RMSProp" else -5 if name == "Adam" else 0)
    v = 0.001 * (1 - 0.9**t) / 0.1  # decayed by the first rate, as the notes have it
    notes = 1 / np.sqrt(v / (1 - 0.999**t))
    slide = 0.1 / (1 - 0.9**t) / np.sqrt(0.001 / (1 - 0.999**t))
    for steps, name in ((notes, "Adam, notes"), (slide, "Adam, slide")):
        axes.loglog(t, steps, color=COLORS["adam"], linestyle="--", linewidth=1)
        end_label(axes, t, steps, name, COLORS["adam"])
    axes.set(xlabel="steps", ylabel="step length / lr", xlim=(1, 50_000))
    svg.decades(axes.xaxis)
    svg.decades(axes.yaxis)
    axes.set_xticks([1, 10, 100, 1000])
    return figure


@picture
def schedules() -> Any:
    """Three schedules: above, the step sizes; below, the distance under noise."""
    figure, (above, below) = svg.figure(2, 1, height=4.4, sharex=True)
    t = np.arange(1, 2001)
    few = np.unique(np.geomspace(1, 2000, 120).astype(int)) - 1
    for lr, name, color, up in (
        (ss.schedules.constant(0.3), "constant", SGD, 7),
        (ss.schedules.inverse_time(0.3, decay=0.3), "1/t", NAG, 0),
        (lambda step: 0.3 * 0.85 ** (step - 1), "geometric", COLORS["adagrad"], -5),
    ):
        sizes, seen = np.array([lr(int(step)) for step in t]), np.sqrt(noisy(lr, 2000, runs=500))
        shown = few[sizes[few] > 1e-4]
        above.loglog(t[shown], sizes[shown], color=color)
        below.loglog(t[few], seen[few], color=color)
        end_label(above, t[shown], sizes[shown], name, color)
        end_label(below, t[few], seen[few], name, color, up)
    above.set(ylabel="lr", xlim=(1, 12_000))
    below.set(xlabel="steps t", ylabel="distance from the minimum")
    for axis in (above.yaxis, below.yaxis, below.xaxis):
        svg.decades(axis)
    below.set_xticks([1, 10, 100, 1000])
    return figure


@picture
def sam() -> Any:
    """The paths of gradient descent and of SAM in the valley w1 w2 = 1."""
    figure, axes = svg.figure()
    problem, x = ss.problems.Hyperbola(), np.linspace(0.2, 4.6, 200)
    axes.plot(x, 1 / x, color=FAINT, linewidth=5, alpha=0.35)
    for rho, name, color in ((0.1, "SAM", BALL), (0.0, "gradient descent", COLORS["bad"])):
        w = np.array([4.0, 0.3])
        optimizer, path = ss.SGD(w, lr=0.05), [w.copy()]
        for _ in range(8000):
            ss.theory.sam_step(optimizer, problem.gradient, rho)
            path.append(w.copy())
        axes.plot(*np.array(path[::20]).T, color=color, linewidth=1.6)
        axes.plot(*w, color=color, marker="o", markersize=5)
        axes.annotate(
            f"{name}: sharpness {problem.sharpness(w):.1f}",
            w,
            xytext=(0, 12) if rho else (-20, -14),
            textcoords="offset points",
            color=color,
            fontsize=9,
            ha="left" if rho else "center",
        )
    axes.set(xlabel="w₁", ylabel="w₂", xlim=(0.5, 4.8), ylim=(0, 1.8))
    return figure


@picture
def double_well() -> Any:
    """Above, a loss with a sharp deep well and a wide shallow one; below, two densities."""
    figure, (above, below) = svg.figure(2, 1, height=4.0, sharex=True)
    well, w = ss.theory.DoubleWell(), np.linspace(-1.4, 3.4, 200)
    above.plot(w, well.value(w), color=INK)
    for T, color in ((0.06, BALL), (0.3, COLORS["adagrad"])):
        density = np.exp(-well.value(w) / T)
        density /= density.sum() * (w[1] - w[0])
        below.plot(w, density, color=color, label=f"T = {T}: {well.boltzmann(T):.0%} in the wide well")
        below.fill_between(w, density, color=color, alpha=0.15, linewidth=0)
    above.set(ylabel="V(w)", ylim=(-0.1, 1.6))
    below.set(xlabel="w", ylabel="density", ylim=(0, None))
    below.legend(loc="upper right")
    return figure


def flow_errors(count: int) -> Iterable[float]:
    """Of three flows at time 1 and of the moves on the manifold at time 0.4, for steps of 1/count."""
    problem, u0, lr, a = ss.problems.Quartic(), np.array([1.0, -1.0]), 1 / count, 0.5
    end = np.array([1.0])
    for v0, exact in (
        (np.zeros(2), flows.rescaled(problem, u0, end, a)),
        (-2 * lr * problem.gradient(u0), flows.modified(problem, u0, end, lr, a, "heavy_ball")),
        (
            flows.manifold_move(problem, u0, lr, a, "heavy_ball"),
            flows.manifold(problem, u0, end, lr, a, "heavy_ball"),
        ),
    ):
        run = flows.steps(problem, u0, lr, a, count, "heavy_ball", v0)
        yield float(np.linalg.norm(run.u[-1] - exact[-1]))
    n = round(0.4 * count)
    run = flows.steps(problem, u0, lr, a, n + 1, "heavy_ball", np.zeros(2))
    move = flows.manifold_move(problem, run.u[n], lr, a, "heavy_ball")
    yield float(np.linalg.norm(run.v[n + 1] - move))


@picture
def flow_orders() -> Any:
    """The error of four approximations over the step size, on logarithmic axes."""
    figure, axes = svg.figure()
    counts = np.array([800, 400, 200, 100, 50])
    errors = np.array([list(flow_errors(int(count))) for count in counts])
    names = ("flow, order 1", "with a mass, 2", "modified loss, 2", "moves, 3")
    for error, name, color, up in zip(
        errors.T, names, (SGD, BALL, COLORS["adagrad"], NAG), (0, -5, 5, 0), strict=True
    ):
        axes.loglog(1 / counts, error, color=color, marker="o", markersize=3)
        end_label(axes, 1 / counts, error, name, color, up)
    axes.set(xlabel="lr", ylabel="error", xlim=(1e-3, 0.09))
    svg.decades(axes.xaxis)
    svg.decades(axes.yaxis)
    return figure


@picture
def spin_glass() -> Any:
    """The index of critical points over their energy, and the law."""
    figure, axes = svg.figure()
    found = [landscape.pspin_critical_points(n=12, seed=seed) for seed in range(2)]
    E = np.linspace(-1.7, 1.7, 100)
    axes.plot(
        np.concatenate([f.energy for f in found]),
        np.concatenate([f.index for f in found]),
        "o",
        color=BALL,
        markersize=2,
        alpha=0.5,
        label="found by Newton's method",
    )
    axes.plot(E, landscape.pspin_index(E), color=ACCENT, label="F(E/E∞)")
    ends = landscape.pspin_descent(n=12, starts=30)
    axes.plot(ends, np.zeros_like(ends), "v", color=NAG, markersize=4, label="where descent ends")
    axes.set(xlabel="energy E", ylabel="index")
    axes.legend(loc="upper left")
    return figure


@picture
def modes() -> Any:
    """The strength of three modes over time: steps, and the sigmoids."""
    figure, axes = svg.figure()
    strengths, lr = np.array([3.0, 2.0, 1.0]), 0.01
    network, t = landscape.DeepLinear(strengths), np.arange(0, 701, 20)
    W, seen = np.sqrt(0.001) * np.stack([np.eye(3), np.eye(3)]), [[0.001] * 3]
    for before, after in pairwise(t):
        W = landscape.deep_linear(network, W, lr=lr, steps=int(after - before))
        seen.append(np.diag(W[1] @ W[0]).tolist())
    for s, points, color in zip(strengths, np.array(seen).T, (BALL, NAG, COLORS["adagrad"]), strict=True):
        axes.plot(t * lr, points, "o", color=color, markersize=3)
        axes.plot(t * lr, landscape.mode_strength(t * lr, s, 0.001), color=color)
        end_label(axes, t * lr, points, f"s = {s:g}", color)
    axes.set(xlabel="time, lr × steps", ylabel="a(t)", xlim=(0, 7.9))
    return figure


def standalone(element: str) -> str:
    """A file of an inline ``<svg>``: its colours for light and dark, its letters and a background."""
    width, height = element.split('viewBox="0 0 ')[1].split('"')[0].split()
    size = f'width="{1.4 * float(width):.0f}" height="{1.4 * float(height):.0f}"'
    light, dark = (";".join(f"--{name}:{color}" for name, color in each.items()) for each in (LIGHT, DARK))
    style = (
        f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        "text{font-family:system-ui,sans-serif}</style>"
        '<rect width="100%" height="100%" rx="4" fill="var(--paper)"/>'
    )
    opening, rest = " ".join(element.split()).split(">", 1)
    opening = opening.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{opening} {size}>\n{style}\n{rest}\n"


def main() -> None:
    """Writes the pictures that the command line names, or all of them."""
    parser = argparse.ArgumentParser(description="Writes the chapters' pictures as SVG beside this file.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {', '.join(PICTURES)}")
    names = parser.parse_args().names
    for name in names:
        if name not in PICTURES:
            parser.error(f"{name}: expected one of {', '.join(PICTURES)}")
    for name in names or PICTURES:
        draw = PICTURES[name]
        file = Path(__file__).with_name(f"{name}.svg")
        file.write_text(standalone(svg.draw(name, draw.__doc__ or "", draw, STYLE)), encoding="utf-8")


if __name__ == "__main__":
    main()
