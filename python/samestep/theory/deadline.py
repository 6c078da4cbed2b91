"""The slides' algorithms 3.4 to 3.6, line by line: one example a step until the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..backends.reference.sampling import Sampler
from ..optim.optimizer import Optimizer
from ..optim.optimizers import NAG, SGD, Momentum
from ..problems import Floats, Problem
from ..problems.function import check_returned_gradient
from .checks import Method, check_method, check_problem

PerStep = float | Callable[[int], float]


class DeadlineRun(NamedTuple):
    """Where a run was when its time was up.

    Attributes:
        x: x_k, an array of its own; with Nesterov's rule the iterate, not the look-ahead point.
        v: v_k; zeros for "sgd", which has none.
        steps: k.
    """

    x: Floats
    v: Floats
    steps: int


def run_until(
    problem: Problem,
    x0: Floats,
    algorithm: Method,
    *,
    deadline: float,
    lr: PerStep,
    momentum: PerStep | None = None,
    v0: Floats | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> DeadlineRun:
    """Until the deadline: draw an example i, choose lr_k and a_k, step.

    ============  =========  ================================================================
    algorithm     on slides  step, g_i the gradient of example i alone
    ============  =========  ================================================================
    ``sgd``       3.4        x = x - lr_k g_i(x)
    ``momentum``  3.5        v = a_k v - lr_k g_i(x),            x = x + v
    ``nesterov``  3.6        v = a_k v - lr_k g_i(x + a_k v),    x = x + v
    ============  =========  ================================================================

    The steps are those of SGD, Momentum and NAG. The deadline is tested before each step, so a
    deadline of 0 allows none. minimize() has batches, other sampling and a record of the loss.

    Args:
        problem: such as problems.MSE; with scale ``mean`` or ``half_mean`` the loss is the mean of its
            examples, as on the slides.
        x0: the start, shape (p,), the problem's dtype.
        algorithm: one of the table; "heavy_ball" is another name of "momentum", "nag" and "look_ahead" are
            other names of "nesterov".
        deadline: seconds.
        lr: lr_k, a constant or a function of k = 0, 1, ... The run converges in spite of the noise if the
            sum of lr_k is infinite and that of lr_k^2 finite.
        momentum: a_k likewise, for the two algorithms that have one.
        v0: the velocity at the start, shape (p,), for the same two; None: zeros.
        seed: of the draws, as in minimize().
        clock: a function that returns seconds; its first call is the start.

    Returns:
        DeadlineRun: x_k, v_k and k.

    Raises:
        TypeError, ValueError: arguments of another type or range, or that do not go together.

    Source:
        The slides; 3.6 with the index of v_k that is missing there.

    Example:
        >>> import itertools, numpy as np, samestep as ss
        >>> problem = ss.problems.MSE(np.array([[1.0], [1.0]]), np.array([2.0, 2.0]), scale="half_mean")
        >>> ticks = itertools.count()
        >>> run = ss.theory.run_until(problem, np.zeros(1), "sgd", deadline=5.0, lr=lambda k: 0.5,
        ...                           clock=lambda: next(ticks))
        >>> run.x, run.steps
        (array([1.875]), 4)
    """
    check_problem(problem, "gradient", "size")
    family = check_method("algorithm", algorithm)
    if not 0.0 <= deadline < float("inf"):
        raise ValueError(f"deadline: got {deadline}, expected seconds, 0 or more and finite")
    if (family == "sgd") != (momentum is None):
        raise ValueError(f"momentum: got {momentum} for algorithm {algorithm!r}; only 'sgd' has none")
    if family == "sgd" and v0 is not None:
        raise ValueError("v0: got a velocity for algorithm 'sgd', which has none; leave it out")
    lr_of, a_of = _of_k(lr), _of_k(0.0 if momentum is None else momentum)
    x0 = np.array(x0, order="C")
    v = np.zeros_like(x0)
    if v0 is not None:
        if np.shape(v0) != x0.shape:
            raise ValueError(f"v0: got shape {np.shape(v0)}, expected {x0.shape} as x0")
        v[...] = v0

    sampler = Sampler(seed)
    ahead = family == "nag"
    w = x0 + a_of(0) * v if ahead else x0
    opt: Optimizer
    if family == "sgd":
        opt = SGD(w, lr=lr_of(0))
    else:
        opt = (NAG if ahead else Momentum)(w, lr=lr_of(0), momentum=a_of(0))
        opt.state["v"][0][...] = v
        v = opt.state["v"][0]

    group = opt.groups[0]
    k = 0
    start = clock()
    while clock() - start < deadline:
        i = sampler.draws(1, problem.size)
        values = {"lr": lr_of(k), "momentum": a_of(k), "momentum_next": a_of(k + 1)}
        group.update((name, value) for name, value in values.items() if name in group)
        opt.step(check_returned_gradient(problem.gradient(w, i), w))
        k += 1
    # NAG's w is the look-ahead point x + a_k v.
    return DeadlineRun(w - a_of(k) * v if ahead else w, v, k)


def _of_k(schedule: PerStep) -> Callable[[int], float]:
    return schedule if callable(schedule) else lambda k: schedule
