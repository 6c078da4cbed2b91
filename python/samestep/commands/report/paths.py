"""Pictures of paths: five optimizers over level lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...optim.optimizers import NAG, SGD, Adam, Momentum, RMSProp
from ...problems import MSE, Rosenbrock
from .pictures import picture
from .runs import Make, walk
from .svg import COLORS, FAINT, INK, figure

Contestants = dict[str, tuple[str, Make]]

# Drawn in this order, the widest first, so that a path shows beneath those that run over it.
LINES: dict[str, tuple[float, Any]] = {
    "sgd": (4.0, "-"),
    "momentum": (2.6, "-"),
    "nag": (1.8, (0, (5, 1.2))),
    "rmsprop": (1.8, (0, (1, 1))),
    "adam": (1.4, (0, (6, 2, 1, 2))),
}


def _draw(problem: Any, contestants: Contestants, steps: int, start: Any, view: Any, levels: Any) -> Any:
    drawing, axes = figure(height=3.9)
    left, right, low, high = view
    x, y = np.meshgrid(np.linspace(left, right, 121), np.linspace(low, high, 121))
    losses = np.array([problem.loss(w) for w in np.stack([x.ravel(), y.ravel()], axis=1)]).reshape(x.shape)
    axes.contour(x, y, losses, levels=levels, colors=FAINT, linewidths=0.7)
    for color, (name, make) in contestants.items():
        path = walk(problem, make, steps, start)
        width, style = LINES[color]
        axes.plot(*path.T, color=COLORS[color], label=name, linewidth=width, linestyle=style)
        axes.plot(*path[-1], "o", color=COLORS[color], markersize=width + 3)
    axes.plot(*start, "s", color=INK, markersize=5)
    axes.set(xlim=(left, right), ylim=(low, high), xlabel="w₁", ylabel="w₂")
    drawing.legend(loc="outside upper left", ncols=3)
    return drawing, axes


@picture(
    "paths-quadratic",
    "Paths on a quadratic, κ = 15",
    "Level lines of a long, tilted valley with the paths of gradient descent, heavy ball, NAG, RMSProp "
    "and Adam",
)
def quadratic(quick: bool) -> Any:
    """Gradient descent zigzags across the valley and crawls along it; momentum swings through, and the
    adaptive rules cut across whatever the slope's length. The square is the start, a dot the last of 40
    steps, the cross w*."""
    c, s = np.cos(0.35), np.sin(0.35)
    Phi = np.diag([1.0, 15.0**0.5]) @ np.array([[c, s], [-s, c]])
    beta = 15.0
    contestants: Contestants = {
        "sgd": ("GD", lambda w: SGD(w, lr=1.8 / beta)),
        "momentum": ("heavy ball", lambda w: Momentum(w, lr=0.6 / beta, momentum=0.8)),
        "nag": ("NAG", lambda w: NAG(w, lr=0.6 / beta, momentum=0.8)),
        "rmsprop": ("RMSProp", lambda w: RMSProp(w, lr=0.1)),
        "adam": ("Adam", lambda w: Adam(w, lr=0.25)),
    }
    levels = np.geomspace(0.03, 60, 11)
    drawing, axes = _draw(
        MSE(Phi, np.zeros(2)), contestants, 40, (-2.6, 0.55), (-3.0, 1.3, -1.95, 1.3), levels
    )
    axes.plot(0, 0, "+", color=INK, markersize=8)
    return drawing


@picture(
    "paths-rosenbrock",
    "Paths in Rosenbrock's valley",
    "Level lines of Rosenbrock's function with the paths of gradient descent, heavy ball, NAG, RMSProp "
    "and Adam",
)
def rosenbrock(quick: bool) -> Any:
    """The velocity carries heavy ball and NAG along the curved valley to the minimum at (1, 1), the cross, in
    1000 steps. Gradient descent with the same step size is still on its way then (dots), and so are RMSProp
    and Adam with theirs."""
    contestants: Contestants = {
        "sgd": ("GD", lambda w: SGD(w, lr=0.001)),
        "momentum": ("heavy ball", lambda w: Momentum(w, lr=0.001, momentum=0.9)),
        "nag": ("NAG", lambda w: NAG(w, lr=0.001, momentum=0.9)),
        "rmsprop": ("RMSProp", lambda w: RMSProp(w, lr=0.003)),
        "adam": ("Adam", lambda w: Adam(w, lr=0.02)),
    }
    levels = np.geomspace(0.03, 300, 12)
    drawing, axes = _draw(Rosenbrock(), contestants, 1000, (-1.1, 0.4), (-1.45, 1.3, -0.62, 1.65), levels)
    axes.plot(1, 1, "+", color=INK, markersize=8)
    return drawing
