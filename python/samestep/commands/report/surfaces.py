"""Items on minima: their width, their curves, and how the PL condition leads there."""

from __future__ import annotations

from functools import partial

import numpy as np

from ...optim.optimizers import SGD
from ...problems import MSE, Hyperbola
from ...theory import (
    DoubleWell,
    Well,
    pl_constant,
    pl_radius,
    pl_rate,
    pl_star_constant,
    sam_step,
    sgd_step_interpolation,
    stationary_variance,
    tangent_kernel,
)
from ...train import minimize
from .items import Checks, at_least, at_most, item, near, never
from .landscapes import shares, sharpness
from .runs import Bent, gaps, gradients, norms, patients, walk, wide


@item(
    "A12",
    "Basin width",
    "density e^{−V/T}, T = lr σ^2/(2B); var = lr σ^2/(Bh(2 − lr h))",
    quick="500 particles instead of 2000 in the wells; 2000 particles and 400 steps instead of 4000 and 1000 "
    "on the parabola",
)
def width(quick: bool) -> Checks:
    """lr/B is not the width but the temperature that trades width for depth."""
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
            "smallest rise of the share from one lr/B to the next",
            np.diff([s for _, s in ratios]).min(),
            -0.02,
        ),
        at_most("difference at equal lr/B", np.abs(equal), 0.05 if not quick else 0.1),
        at_most("distance from Boltzmann's shares, lr/B = 0.02 to 0.06", law, 0.05 if not quick else 0.1),
        near(
            "wells of equal depth: Boltzmann's share at T = 0.05 and 0.2",
            [even.boltzmann(T) for T in (0.05, 0.2)],
            [0.7388] * 2,
            abs=5e-4,
        ),
        near("variance on a parabola", np.mean(squares), stationary_variance(0.05, 1, 2.0, 2.0), rel=0.02),
        at_most(
            "no noise, lr = 0.124 < 2/h = 0.125: largest distance from the sharp minimum", away[0], 0.002
        ),
        at_least("no noise, lr = 0.126 > 2/h: largest distance from the sharp minimum", away[1], 0.1),
    ]


@item(
    "A13",
    "Sharpness, SAM",
    "max_{|e|≤ρ} L(w + e) = L + ½ρ^2λ_{max} + …",
    quick="GD and SAM make 4000 steps instead of 20 000",
)
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
        near("w after one step from (2, 1)", w, [1.88374305, 0.77495102], abs=1e-8),
        near(
            "a parabola, h = 3: |w| of the cycle in which SAM ends",
            abs(cycle[0]),
            0.2 * 3 * 0.1 / (2 - 0.2 * 3),
            rel=1e-9,
        ),
        near(
            "largest L within ρ = 0.01 of a minimum, over ½ρ^2λ_{max}",
            worst / (0.5e-4 * problem.sharpness(np.array([2.0, 0.5]))),
            1.0023,
            abs=1e-4,
        ),
        near("curvature where GD ends", plain[-1], 16.03357, abs=1e-4),
        near("curvature after 2000 steps of SAM", flat[2000], 2.21932, abs=1e-4),
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
        near("smallest eigenvalue of H at p = 1.1, 1.01, 1.001", lowest, [-0.1, -0.01, -0.001], rel=1e-9),
        near("least and largest |g|^2/(2|w|^2L) at 1000 points", [min(ratio), max(ratio)], [1, 1], rel=1e-9),
    ]


@item(
    "A28-A30",
    "PL, PL*, tangent kernel",
    "½|g|^2 ≥ μ(L − L*), μ = λ_{min}(K), K = DF DF′",
    quick="2000 random points instead of 20 000",
)
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


@item(
    "A31",
    "The summary theorem",
    "R = 2√(2βL_0)/μ; L_t ≤ (1 − μ/β)^tL_0",
    quick="1000 steps instead of 3000 with z + ½ sin z",
)
def theorem(quick: bool) -> Checks:
    """lr = 2/β does not converge, the rate is linear, not O(β/t), and SGD needs a smaller step."""
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
    bent_path = walk(bent, lambda w: SGD(w, lr=1 / bent.beta), 1000 if quick else 3000)
    bent_losses = np.array([bent.loss(w) for w in bent_path])
    bent_bound = first * pl_rate(bent.beta, bent.mu) ** np.arange(len(bent_losses))
    kernels = [pl_star_constant(tangent_kernel(bent.jacobian(w))) for w in bent_path[::10]]

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
            "length of the path, lr = 1/β and 1.9/β",
            [found[1.0][0], found[1.9][0]],
            [2.21429, 17.908],
            rel=1e-4,
        ),
        at_most("lr = 1/β: L_{400}", found[1.0][1], 1e-28),
        at_least("lr = 2/β: L_{400}", found[2.0][1], 1),
        never("lr = 1/β: steps above (1 − μ/β)^tL_0", losses > bound * (1 + 1e-12)),
        never(
            "model z + ½ sin z, not convex: steps above (1 − μ/β)^tL_0",
            bent_losses > bent_bound * (1 + 1e-12) + 1e-28,
        ),
        at_least("the same model: smallest λ_{min}(K) of the run over μ", min(kernels) / bent.mu, 1),
        at_most(
            "online SGD at its own lr: mean L_{300} of 50 runs over its bound",
            np.mean([online(lr, seed) for seed in range(50)]) / (rate**300 * mean.loss(np.zeros(5))),
            1,
        ),
        at_least("online SGD, lr = 1.9/β: L_{300}", online(1.9 / mean.beta, 0), 1e6),
    ]
