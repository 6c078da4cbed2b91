"""Pictures of basins and curvatures: noise between two wells, SAM, random Hessians, a spin glass."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ...optim.optimizers import SGD
from ...problems import Float64s, Hyperbola
from ...theory import DoubleWell, double_well, sam_step
from ...theory.landscape import (
    coin_minimum_probability,
    goe_eigenvalues,
    goe_minimum_frequency,
    goe_minimum_probability,
    pspin_critical_points,
    pspin_descent,
    pspin_index,
    semicircle_density,
)
from .pictures import picture
from .svg import ACCENT, COLORS, DASHED, INK, decades, figure

# lr and B; the texts say that the share depends on lr/B alone.
BASINS = ((0.01, 8), (0.01, 1), (0.02, 2), (0.02, 1), (0.04, 2), (0.03, 1), (0.04, 1), (0.06, 1))
NOISE = 4.0  # standard deviation of one example's gradient


@cache
def shares(quick: bool) -> dict[tuple[float, int], float]:
    """The share of particles in the wide basin, for each lr and B."""
    particles = 500 if quick else 2000
    return {(lr, B): double_well(lr, B, noise=NOISE, particles=particles) for lr, B in BASINS}


@picture(
    "basins",
    "Which basin? Width against lr/B",
    "First the potential with a sharp and a wide well, then the share of particles in the wide well "
    "against lr over B",
    full="2000 particles for each mark.",
    quick="500 particles for each mark; the full report has 2000.",
)
def basins(quick: bool) -> Any:
    """All particles start in the sharp well. Marks of equal lr/B lie close together, and the share that ends
    in the wide well grows with lr/B: from 0.02 on it is near the Boltzmann share at the temperature 8 lr/B.
    With less noise few particles have crossed the barrier by the end of the run."""
    well = DoubleWell()
    drawing, (valley, law) = figure(1, 2, height=3.4, width_ratios=[1, 1.3])
    w = np.linspace(-1.25, 2.6, 300)
    valley.plot(w, well.value(w), color=INK)
    valley.plot(well.barrier, well.value(well.barrier), "o", color=ACCENT, markersize=4)
    valley.annotate("barrier", (0.1, 0.76), color=ACCENT)
    valley.annotate("sharp:\nstart", (-0.5, -0.06), ha="center", va="top")
    valley.annotate("wide", (1.0, 0.09), ha="center", va="top")
    valley.set(xlabel="w", ylabel="V(w)", ylim=(-0.5, 1.6), yticks=[0, 0.5, 1, 1.5])
    ratios = np.linspace(0.012, 0.065, 40)
    law.plot(ratios, [well.boltzmann(NOISE**2 / 2 * r) for r in ratios], color=INK, label="Boltzmann")
    for B, color, marker in ((1, "momentum", "o"), (2, "nag", "s"), (8, "rmsprop", "^")):
        points = [(lr / B, share) for (lr, size), share in shares(quick).items() if size == B]
        law.plot(
            *zip(*points, strict=True), marker, color=COLORS[color], label=f"B = {B}", fillstyle="none",
            markeredgewidth=1.6,
        )  # fmt: skip
    law.set(xlabel="lr/B", ylabel="share in the wide well", ylim=(-0.03, 0.85), xlim=(0, 0.066))
    law.set_xticks([0, 0.02, 0.04, 0.06], ["0", "0.02", "0.04", "0.06"])
    law.legend(loc="lower right")
    return drawing


@cache
def sharpness(steps: int) -> tuple[Float64s, Float64s]:
    """w1^2 + w2^2, the curvature across the hyperbola w1 w2 = 1, along GD and along SAM from (4, 0.3)."""
    problem = Hyperbola()
    found = []
    for rho in (0.0, 0.1):
        w = np.array([4.0, 0.3])
        opt = SGD(w, lr=0.05)
        sizes = [float(w @ w)]
        for _ in range(steps):
            sam_step(opt, problem.gradient, rho)
            sizes.append(float(w @ w))
        found.append(np.array(sizes))
    return found[0], found[1]


@picture(
    "sam",
    "Sharpness of GD and SAM",
    "The curvature at the iterate against the steps: constant near 16 for gradient descent, falling to 2 "
    "for SAM",
    full="20 000 steps.",
    quick="4000 steps; the full report makes 20 000.",
)
def sam(quick: bool) -> Any:
    """L = ½(w_1w_2 − 1)^2 has a whole curve of minima. GD stops at one near its start, of curvature 16; SAM,
    ρ = 0.1, keeps sliding along the curve towards the flattest one, of curvature 2 (dashed)."""
    steps = 4000 if quick else 20_000
    drawing, axes = figure(height=3.3)
    gd, flattened = sharpness(steps)
    for values, color, name, at in ((gd, "sgd", "GD", 16.7), (flattened, "adam", "SAM", 8.2)):
        seen = np.unique(np.geomspace(1, steps, 300).round().astype(int))
        axes.plot(seen, values[seen], color=COLORS[color])
        axes.annotate(f"{name}: {values[-1]:.2f} at the end", (1.3, at), color=COLORS[color])
    axes.axhline(2, color=INK, linestyle=DASHED, linewidth=1)
    axes.annotate("the flattest minimum: 2", (1.3, 2.4))
    axes.set(xscale="log", xlim=(1, steps), ylim=(0, 18.5), xlabel="steps", ylabel="curvature |w|²")
    decades(axes.xaxis)
    return drawing


@cache
def spectrum() -> Float64s:
    """The eigenvalues of one random symmetric matrix, 400 x 400."""
    return goe_eigenvalues(400, seed=2024)


@picture(
    "semicircle",
    "Eigenvalues of a random Hessian",
    "A histogram of eigenvalues between minus 2 and 2 under a semicircle",
)
def semicircle(quick: bool) -> Any:
    """The 400 eigenvalues of one random symmetric matrix follow Wigner's semicircle. About half of them are
    negative: a critical point with this Hessian is a saddle."""
    drawing, axes = figure(height=3.3)
    axes.hist(
        spectrum(), bins=32, range=(-2.1, 2.1), density=True, color=COLORS["momentum"], alpha=0.35,
        label="eigenvalues",
    )  # fmt: skip
    x = np.linspace(-2.1, 2.1, 400)
    axes.plot(x, semicircle_density(x), color=INK, label="semicircle")
    axes.set(xlabel="eigenvalue", ylabel="density", xlim=(-2.3, 2.3))
    drawing.legend(loc="outside upper left", ncols=2)
    return drawing


@cache
def minima(quick: bool) -> dict[int, float]:
    """The share of random symmetric matrices, d x d, that are positive definite."""
    return {d: goe_minimum_frequency(d, 20_000 if quick else 100_000) for d in (1, 2, 3, 4, 5)}


@picture(
    "rare-minima",
    "How rare is a minimum?",
    "The probability that all curvatures are positive against the dimension, for coins and random matrices",
    full="100 000 matrices of each dimension.",
    quick="20 000 matrices of each dimension; the full report draws 100 000.",
)
def rare_minima(quick: bool) -> Any:
    """If the signs of d curvatures were d coins, one critical point in 2^d would be a minimum. Of random
    symmetric matrices ever fewer are; up to d = 3 the exact share is known. Where none was
    counted there is no dot."""
    drawing, axes = figure(height=3.3)
    found = {d: share for d, share in minima(quick).items() if share > 0}
    d = np.arange(1, 6)
    coins = [coin_minimum_probability(int(n)) for n in d]
    exact = [goe_minimum_probability(int(n)) for n in d[:3]]
    axes.plot(d, coins, color=INK, linestyle=DASHED, marker="s", markersize=3, label="coins")
    axes.plot(list(found), list(found.values()), "o", color=COLORS["momentum"], label="matrices, counted")
    axes.plot(d[:3], exact, "+", color=ACCENT, markersize=13, markeredgewidth=1.6, label="exact")
    axes.set(yscale="log", xlabel="dimension d", ylabel="share of minima", ylim=(1e-5, 1.2), xticks=d)
    axes.legend(loc="lower left")
    decades(axes.yaxis)
    return drawing


@cache
def critical_points(quick: bool) -> tuple[Float64s, Float64s, Float64s]:
    """Energy and index of the critical points that Newton finds, and the energies at which descent ends."""
    seeds = range(1 if quick else 6)
    points = [pspin_critical_points(12, seed) for seed in seeds]
    ends = [pspin_descent(12, seed) for seed in seeds]
    return (
        np.concatenate([p.energy for p in points]),
        np.concatenate([p.index for p in points]),
        np.concatenate(ends),
    )


@picture(
    "spin-glass",
    "3-spin glass: the higher, the more ways down",
    "Share of negative curvatures against energy for the critical points of random landscapes, with the "
    "theory's curve",
    full="Six random landscapes.",
    quick="One random landscape; the full report has six.",
)
def spin_glass(quick: bool) -> Any:
    """A model of a rough landscape: 12 spins, coupled at random in threes. Every dot is a critical point that
    Newton's method found, none of them a minimum; its share of downward directions grows with its energy for
    each spin, as the shifted semicircle says. Gradient descent ends far below, in minima."""
    energy, index, ends = critical_points(quick)
    drawing, axes = figure(height=3.6)
    axes.plot(
        energy, index, "o", color=COLORS["momentum"], markersize=3, alpha=0.35, markeredgewidth=0,
        label="critical points",
    )  # fmt: skip
    e = np.linspace(-1.64, 1.64, 200)
    axes.plot(e, [pspin_index(x) for x in e], color=INK, label="theory")
    axes.plot(ends, np.full(len(ends), -0.05), "|", color=COLORS["adam"], markersize=9, label="GD ends")
    axes.set(xlabel="energy for each spin", ylabel="share of ways down", xlim=(-1.9, 1.9), ylim=(-0.1, 1.03))
    legend = drawing.legend(loc="outside upper left", ncols=3, markerscale=1.5)
    legend.legend_handles[0].set_alpha(1)
    return drawing
