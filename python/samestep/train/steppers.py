"""Two ways to make steps, with the same bits: one by one in Python, or many in a call of csrc/run/train.cpp.

The compiled loop is the faster by far on small problems. It needs a problem and an optimizer whose methods
are the package's own, and nothing that must be done at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeGuard

from ..backends import cpu
from ..optim.optimizer import Optimizer
from ..optim.plan import like_params
from ..problems import MSE, Integers, Problem
from ..problems.function import can_call_with, check_returned_gradient
from ..problems.mse import is_least_squares
from .batches import Sampling

# How long one call of the compiled loop should last. Ctrl-C and the progress bar are served between calls. A
# single step that lasts longer is a call of its own.
CALL_NANOSECONDS = 10**8


class Stepper(Protocol):
    def advance(self, at_most: int) -> int:
        """Makes one step or more, but not more than ``at_most``; returns how many."""


class PythonStepper:
    """One step a call: any problem, any optimizer. ``waits``: a GPU has made it when the call returns."""

    def __init__(
        self, problem: Problem, optimizer: Optimizer, batches: Iterator[Integers | None], waits: bool
    ) -> None:
        self._problem = problem
        self._optimizer = optimizer
        self._batches = batches
        self._takes_w_alone = can_call_with(problem.gradient, 1)
        self._waits = waits and optimizer.backend == "cuda"

    def advance(self, at_most: int) -> int:
        w, rows = self._optimizer.params[0], next(self._batches)
        if rows is None and self._takes_w_alone:
            g = self._problem.gradient(w)
        else:
            g = self._problem.gradient(w, rows)
        self._optimizer.step(like_params(self._optimizer, check_returned_gradient(g, w)))
        if self._waits:
            self._optimizer._module.to_host(w[:1])
        return 1


class CompiledStepper:
    """Many steps a call, with the bits of as many calls of PythonStepper."""

    def __init__(
        self,
        problem: MSE,
        optimizer: Optimizer,
        sampling: Sampling,
        batch_size: int | None,
        seed: int,
    ) -> None:
        rows = problem.size if batch_size is None else batch_size
        self._optimizer = optimizer
        self._trainer = cpu.Trainer(problem._kernels, sampling, rows, seed)
        self._steps_per_call = max(1, CALL_NANOSECONDS // step_nanoseconds(rows, problem.dimension))

    def advance(self, at_most: int) -> int:
        steps = min(at_most, self._steps_per_call)
        self._optimizer._train(self._trainer, steps)
        return steps


def step_nanoseconds(rows: int, dimension: int) -> int:
    """The time of a step of the compiled loop, within a factor of three or so.

    The terms are a step's own cost, a row, which may come from memory, an element of Phi, and a weight, for
    which Adam takes some 2 ns.
    """
    return 100 + 32 * rows + rows * dimension // 2 + 2 * dimension


def can_run_compiled(problem: Problem, optimizer: Optimizer) -> TypeGuard[MSE]:
    """Whether the compiled loop does what the methods of these two objects would."""
    return (
        is_least_squares(problem)
        and type(problem) is MSE
        and problem.backend == "cpu"
        and problem.group is None
        and optimizer.backend == "cpu"
        and type(optimizer).step is Optimizer.step
        and "step" not in vars(optimizer)
        and not optimizer._has_schedules
        and optimizer._ledger is None
        and optimizer.options.nonfinite == "propagate"
    )
