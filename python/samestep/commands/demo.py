"""The measurements of ``samestep demo``: six optimizers on one problem, and the largest stable step size.

The final weights of a run have the same bits on every machine. The table, the gradients and the steps are in
the bit contract. Curvatures and w* come from LAPACK, whose last bits vary, so step sizes that depend on them
are rounded to SIGNIFICANT digits. No clock ends a run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import Context
from functools import partial
from typing import Any

import numpy as np

from ..backends.arrays import digest
from ..optim.optimizer import Optimizer
from ..optim.optimizers import NAG, SGD, AdaGrad, Adam, Momentum, RMSProp
from ..problems import MSE, Float64s, Floats
from ..proof.golden import difference
from ..theory import max_step, tune_heavy_ball, tune_look_ahead, tune_sgd
from ..train import minimize
from .table import Table, TableError

GOAL = 1e-6  # the gap at which a run ends, as a share of the first gap
LIMIT_STEPS = 20_000
LIMIT_ELEMENTS = 2**30  # elements of Phi that the gradients of a run may read: some seconds
EDGE_STEPS = 2_000
FEWEST_STEPS = 50  # that a run may always make
SIGNIFICANT = 6  # digits: few enough to hide LAPACK's last bits, enough for 2/(beta + mu) up to kappa 1e5
STAGES = 8  # the number of stages that run_demo announces
FLAT = 1e-6  # step sizes are not chosen for curvatures below FLAT beta

Gap = Callable[[Floats], float]


@dataclass(frozen=True, eq=False)
class Run:
    """One optimizer's run.

    Attributes:
        optimizer: the class's name.
        form: the form or the eps placement; None for a rule that has one form.
        hyper: its hyper-parameters by name; ``lr`` is the step size.
        lr_source: where the step size comes from.
        reached: whether the gap fell to GOAL.
        gaps: the gap L(w) - L* after 0, 1, 2, ... steps, as a share of the first one.
        microseconds: the time of a step without its gradient: the median over the run.
        differs_at: the first step after which the weights or the state differed from the reference's in a
            bit; None: they never did.
        digest: the digest of the final weights, the same on every machine.
    """

    optimizer: str
    form: str | None
    hyper: dict[str, float]
    lr_source: str
    reached: bool
    gaps: Float64s
    microseconds: float
    differs_at: int | None
    digest: str

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.gaps) - 1


@dataclass(frozen=True)
class Edge:
    """Gradient descent on one side of 2/beta.

    Attributes:
        times_beta: the step size times beta: 1.99 or 2.01.
        lr: the step size.
        steps: the number of steps.
        gap: the final gap, as a share of the first one.
    """

    times_beta: float
    lr: float
    steps: int
    gap: float

    @property
    def passed(self) -> bool:
        """Whether the gap fell below 2/beta, or rose above it."""
        return self.gap < 1.0 if self.times_beta < 2.0 else not self.gap <= 1.0


@dataclass(frozen=True, eq=False)
class Demo:
    """All that ``samestep demo`` shows."""

    table: Table
    problem: MSE
    runs: list[Run]
    edges: list[Edge]

    @property
    def limit(self) -> int:
        """The most steps that a run may make."""
        return affordable(self.problem, LIMIT_STEPS)

    @property
    def passed(self) -> bool:
        """Whether both sides of the edge are as predicted, and all bits equal to the reference's."""
        return all(edge.passed for edge in self.edges) and all(run.differs_at is None for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts."""
        problem = self.problem
        return {
            "problem": {
                **self.table.as_dict(),
                "dtype": str(problem.dtype),
                "scale": problem.scale,
                "beta": problem.beta,
                "mu": problem.mu,
                "kappa": problem.kappa,
                "max_step": max_step(problem),
                "first_loss": problem.loss(np.zeros(problem.dimension)),
                "optimum": problem.optimum,
            },
            "goal": GOAL,
            "optimizers": [
                {
                    "optimizer": run.optimizer,
                    "form": run.form,
                    "hyper": run.hyper,
                    "lr_source": run.lr_source,
                    "reached": run.reached,
                    "steps": run.steps,
                    "gap": float(run.gaps[-1]),
                    "microseconds_per_step": run.microseconds,
                    "bits_equal": run.differs_at is None,
                    "differs_at": run.differs_at,
                    "digest": run.digest,
                }
                for run in self.runs
            ],
            "edge": [{**asdict(edge), "passed": edge.passed} for edge in self.edges],
            "passed": self.passed,
        }


def run_demo(table: Table, announce: Callable[[str], None] = lambda stage: None) -> Demo:
    """Runs the six optimizers on a table, then tries 2/beta from both sides.

    Args:
        table: see table.py.
        announce: called with the name of each of the STAGES before it starts.

    Raises:
        TableError: the table gives no problem that could be solved in float64.
    """
    problem = MSE(table.Phi, table.y)
    check_solvable(table, problem)
    gap = gap_to(problem)
    runs = []
    for name, lr_source, make in _contestants(problem):
        announce(name)
        runs.append(_run_beside_reference(problem, gap, name, lr_source, make))
    edges = []
    for times_beta in (1.99, 2.01):
        announce(f"{times_beta}/beta")
        edges.append(try_edge(problem, times_beta))
    return Demo(table, problem, runs, edges)


def check_solvable(table: Table, problem: MSE) -> None:
    """Raises TableError for a table that gives no problem that could be solved in float64."""
    first = problem.loss(np.zeros(problem.dimension))
    if not 1e-250 < first < 1e250:
        raise TableError(
            f"{table.name}: the squares of column {table.target!r} add up to {2 * first:g}, "
            "too far from 1 for float64; give it in another unit"
        )
    if gap_to(problem)(np.zeros(problem.dimension)) <= 1e-24 * first:
        raise TableError(
            f"{table.name}: no column tells anything of {table.target!r}: w = 0 is the best there is"
        )


def gap_to(problem: MSE) -> Gap:
    """L(w) - L* = (c/2) |Phi (w - w*)|^2 as a function of w, without the cancellation of the difference.

    It is the loss for the target 0 at w - w*. Since w* differs between machines in its last bits, the gap
    does so, too, near GOAL by some 1e-11 of itself. The number of steps differs only if a gap lies so near to
    GOAL.
    """
    w_star = problem.minimizer()
    distance = MSE(problem.Phi, np.zeros(problem.size, problem.dtype), problem.scale)
    return lambda w: distance.loss(w - w_star)


def _significant(x: float) -> float:
    return float(Context(prec=SIGNIFICANT).create_decimal_from_float(x))


def _significant_below_1(x: float) -> float:
    """x with 1 - x rounded to SIGNIFICANT digits: the effect of a momentum depends on 1/(1 - x)."""
    return float(1 - Context(prec=SIGNIFICANT).create_decimal_from_float(1.0 - x))


def affordable(problem: MSE, steps: int) -> int:
    """The most steps, by the size of the table. A limit in seconds would differ between machines."""
    return max(FEWEST_STEPS, min(steps, LIMIT_ELEMENTS // problem.Phi.size))


def steep_curvatures(problem: MSE) -> Float64s:
    """The curvatures above FLAT beta, increasing: those for which step sizes are chosen."""
    return problem.eigenvalues[problem.eigenvalues > FLAT * problem.beta]


def _contestants(problem: MSE) -> list[tuple[str, str, Callable[..., Optimizer]]]:
    """Name, source of the step size, and maker of every optimizer.

    The first three have a best setting on a quadratic. It is that for the curvatures from beta down to FLAT
    beta: along flatter directions no gradient method moves far within the limit. The other three move each
        weight
    by about lr a step, whatever the size of the gradient. So their lr is a share of s = |w*|/sqrt(p), the
    root mean square of the weights of w*, also without the flatter directions. RMSProp needs a small share:
    its steps do not shrink, and it stays about one step away from w*.
    """
    beta, mu = problem.beta, float(steep_curvatures(problem)[0])
    plain, ball, ahead = (tune(beta, mu) for tune in (tune_sgd, tune_heavy_ball, tune_look_ahead))
    best = "best for these curvatures"
    # rcond is that of singular values, the roots of the curvatures.
    w_star = np.linalg.lstsq(problem.Phi, problem.y, rcond=FLAT**0.5)[0]
    s = float(np.linalg.norm(w_star)) / problem.dimension**0.5
    # eps must be small compared to the gradient, whatever the unit of y.
    unit = min(1.0, float(np.abs(problem.gradient(np.zeros(problem.dimension))).max()))
    lr, a, eps = _significant, _significant_below_1, _significant
    return [
        ("SGD", "2/(β + μ)", partial(SGD, lr=lr(plain.lr))),
        ("Momentum", best, partial(Momentum, lr=lr(ball.lr), momentum=a(ball.momentum))),
        ("NAG", best, partial(NAG, lr=lr(ahead.lr), momentum=a(ahead.momentum))),
        ("AdaGrad", "|w*|/√p", partial(AdaGrad, lr=lr(s), eps=eps(1e-7 * unit))),
        ("RMSProp", "0.0003 |w*|/√p", partial(RMSProp, lr=lr(3e-4 * s), eps=eps(1e-6 * unit * unit))),
        ("Adam", "0.3 |w*|/√p", partial(Adam, lr=lr(0.3 * s), eps=eps(1e-8 * unit))),
    ]


def _run_beside_reference(
    problem: MSE, gap: Gap, name: str, lr_source: str, make: Callable[..., Optimizer]
) -> Run:
    """Steps an optimizer and its reference twin on the same gradients, and compares every bit."""
    w, twin_w = np.zeros(problem.dimension), np.zeros(problem.dimension)
    opt, twin = make(w), make(twin_w, backend="reference")
    first = gap(w)
    gaps = [1.0]
    ticks = []
    differs_at = None
    limit = affordable(problem, LIMIT_STEPS)
    while gaps[-1] > GOAL and opt.t < limit:
        g = problem.gradient(w)
        tick = time.perf_counter_ns()
        opt.step(g)
        ticks.append(time.perf_counter_ns() - tick)
        twin.step(g)
        if differs_at is None and not _same_bits(opt, twin):
            differs_at = opt.t
        gaps.append(gap(w) / first)
    return Run(
        optimizer=name,
        form=opt.form,
        hyper=opt.state_dict()["hyper"],
        lr_source=lr_source,
        reached=gaps[-1] <= GOAL,
        gaps=np.array(gaps),
        microseconds=statistics.median(ticks) / 1000.0,
        differs_at=differs_at,
        digest=digest(w),
    )


def _same_bits(a: Optimizer, b: Optimizer) -> bool:
    # The bytes come first: nearly always they are equal, and comparing them takes a tenth of the time.
    return all(
        x.tobytes() == y.tobytes() or difference(x, y) is None
        for x, y in zip(
            [*a.params, *(s for states in a.state.values() for s in states)],
            [*b.params, *(s for states in b.state.values() for s in states)],
            strict=True,
        )
    )


def try_edge(problem: MSE, times_beta: float) -> Edge:
    """Gradient descent with lr = times_beta/beta.

    The two sides differ only along the steepest direction: there a step multiplies the distance from w* by
    1 - lr beta, which is -0.99 or -1.01. The start is |w*| along that direction, on the side away from w*. So
    at least half of the gap is along it, and 35 steps show the growth for every table.
    """
    w_star, gap = problem.minimizer(), gap_to(problem)
    steepest = np.linalg.eigh(problem.hessian())[1][:, -1]
    side = -1.0 if float(steepest @ w_star) > 0 else 1.0
    w0 = side * float(np.linalg.norm(w_star)) * steepest
    lr = times_beta / problem.beta
    steps = affordable(problem, EDGE_STEPS)
    result = minimize(problem, w0, partial(SGD, lr=lr), steps=steps, record_every=steps)
    return Edge(times_beta, lr, result.steps, gap(result.w) / gap(w0))
