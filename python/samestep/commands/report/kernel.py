"""Picture of the PL condition: a loss that is not convex, its bound, and the tangent kernel behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...optim.optimizers import SGD
from ...theory import pl_rate, pl_star_constant, tangent_kernel
from .pictures import picture
from .runs import Bent, walk, wide
from .svg import ACCENT, COLORS, DASHED, INK, decades, figure, legend_above

STEPS = 400


@picture(
    "pl",
    "PL: a linear rate without convexity",
    "Two charts against the steps of gradient descent: the loss below its bound, both falling, and the "
    "smallest eigenvalue of the tangent kernel, above the constant mu",
)
def polyak_lojasiewicz(quick: bool) -> Any:
    """Gradient descent with lr = 1/β on L = ½|F(w) − y|^2, F = z + ½ sin z, z = Φw, three rows and five
    weights: not convex. First the loss and its bound (1 − μ/β)^tL_0; then the smallest eigenvalue of the
    tangent kernel `K = DF DF′` along the same run. It cannot fall below μ = λ_{min}(ΦΦ′)/4, and so the rate
    holds; here it stays above μ, and the loss falls faster than the bound."""
    problem = Bent(wide())
    path = walk(problem, lambda w: SGD(w, lr=1 / problem.beta), STEPS)
    losses = np.array([problem.loss(w) for w in path])
    smallest = np.array([pl_star_constant(tangent_kernel(problem.jacobian(w))) for w in path])
    t = np.arange(STEPS + 1)
    drawing, (left, right) = figure(1, 2, height=3.4)
    left.plot(t, losses[0] * pl_rate(problem.beta, problem.mu) ** t, color=ACCENT, linestyle=DASHED)
    left.plot(t, losses, color=INK)
    left.set(yscale="log", ylim=(1e-9, 30), xlim=(0, STEPS), xlabel="steps", title="loss")
    decades(left.yaxis, every=2)
    right.axhline(problem.mu, color=COLORS["momentum"], linestyle=DASHED)
    right.plot(t, smallest, color=COLORS["momentum"])
    right.set(ylim=(0, None), xlim=(0, STEPS), xlabel="steps", title="λ of the kernel")
    for axes in (left, right):
        axes.set_xticks([0, STEPS // 2, STEPS])
    lines = {
        "L": (INK, "-"),
        "its bound": (ACCENT, DASHED),
        "smallest λ": (COLORS["momentum"], "-"),
        "μ": (COLORS["momentum"], DASHED),
    }
    legend_above(drawing, lines)
    return drawing
