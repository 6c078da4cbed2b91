"""Pictures of small networks: Higham and Higham's, and a deep linear one."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ...optim.optimizers import SGD
from ...problems import Float64s, Higham
from ...theory.landscape import DeepLinear, mode_strength
from .pictures import picture
from .svg import COLORS, DASHED, INK, decades, figure, legend_above


@cache
def higham(quick: bool) -> dict[int, tuple[float, int]]:
    """The cost and the number of correct points by step, from seed 5000, one random point a step."""
    problem, random = Higham(), np.random.RandomState(5000)
    steps = 10_000 if quick else 1_000_000
    w = 0.5 * random.standard_normal(problem.dimension)
    rows = random.randint(0, problem.size, size=steps)[:, None]
    recorded = {0, steps, 1000, 10_000, 100_000} | set(
        np.geomspace(100, steps, 120).round().astype(int).tolist()
    )
    costs = {0: (problem.loss(w), problem.correct(w))}
    opt = SGD(w, lr=0.05)
    for step, row in enumerate(rows, 1):
        opt.step(problem.gradient(w, row))
        if step in recorded:
            costs[step] = problem.loss(w), problem.correct(w)
    return costs


@picture(
    "higham",
    "Higham and Higham's network: one point at a time",
    "The cost of a small network against the steps of stochastic gradient descent",
    full="For tens of thousands of steps the cost hardly moves; then the network finds the classes one after "
    "another. After a million steps all ten points are right.",
    quick="In these 10 000 steps the cost hardly moves. The full report makes a million: the network then "
    "finds the classes one after another.",
)
def higham_cost(quick: bool) -> Any:
    """Stochastic gradient descent, one of ten points at a step."""
    costs = higham(quick)
    steps = np.array(sorted(costs))[1:]
    drawing, axes = figure(height=3.3)
    axes.plot(steps, [costs[step][0] for step in steps], color=COLORS["momentum"])
    last = steps[-1]
    axes.annotate(
        f"{costs[last][1]} of 10 right", (last, costs[last][0]), xytext=(-10, -12 if quick else 4),
        textcoords="offset points", ha="right", va="top" if quick else "center",
    )  # fmt: skip
    axes.set(xscale="log", xlabel="steps", ylabel="cost")
    decades(axes.xaxis)
    if quick:  # less than a decade to see
        axes.set_ylim(0, 0.3)
    else:
        axes.set(yscale="log")
        decades(axes.yaxis)
    return drawing


@cache
def modes(lr: float) -> tuple[Float64s, Float64s]:
    """Times, and the strengths of three modes of a balanced deep linear network, learned from 0.001."""
    strengths, steps = np.array([3.0, 2.0, 1.0]), round(8 / lr)
    network = DeepLinear(strengths.tolist())
    W = np.stack([np.eye(3), np.eye(3)]) * 0.001**0.5
    opt = SGD(W, lr=lr)
    learned = np.empty((steps + 1, 3))
    for t in range(steps + 1):
        learned[t] = np.diag(W[1] @ W[0])
        opt.step(network.gradient(W))
    return np.arange(steps + 1, dtype=np.float64) * lr, learned


@picture(
    "deep-linear",
    "A deep linear network learns one mode after another",
    "Three sigmoid curves, rising to 3, 2 and 1 one after another, each on top of its dashed theory curve",
    full="lr = 0.001.",
    quick="lr = 0.005; the full report has lr = 0.001.",
)
def deep_linear_modes(quick: bool) -> Any:
    """L = ½|W_2W_1 − diag(3, 2, 1)|^2 from small weights: each singular value is learned along a sigmoid of
    its own, `a(t) = se^{2st}/(e^{2st} − 1 + s/a_0)` by theory, the strongest first."""
    t, learned = modes(5e-3 if quick else 1e-3)
    drawing, axes = figure(height=3.5)
    every = len(t) // 200
    for j, (s, color) in enumerate(zip((3.0, 2.0, 1.0), ("momentum", "nag", "rmsprop"), strict=True)):
        axes.plot(t[::every], learned[::every, j], color=COLORS[color], linewidth=4, alpha=0.5)
        axes.plot(t[::every], mode_strength(t[::every], s, 0.001), color=INK, linewidth=1.2, linestyle=DASHED)
    axes.set(xlabel="time t: lr times steps", ylabel="strength of the mode", xlim=(0, 8), ylim=(-0.1, 3.3))
    lines = {f"s = {s}": (COLORS[color], "-") for s, color in ((3, "momentum"), (2, "nag"), (1, "rmsprop"))}
    legend_above(drawing, {**lines, "theory": (INK, DASHED)})
    return drawing
