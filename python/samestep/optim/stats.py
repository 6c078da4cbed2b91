"""What a step cost: bytes moved, seconds, GB/s. Recorded on request only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..backends.face import STEPPED


class Trial(NamedTuple):
    """A way to cut and spread a step that its plan tried; the choice changes no bit.

    Attributes:
        item: elements of a work item, at most.
        threads: threads that take part, at most.
        seconds: of the steps that tried it.
        kept: whether further steps go this way.
    """

    item: int
    threads: int
    seconds: tuple[float, ...]
    kept: bool


class StepStats(NamedTuple):
    """What the last recorded call cost.

    Attributes:
        bytes: what it had to move at least: of each parameter that took part the gradient once, the
            parameter and its states twice (read and written), and what options keep with them.
        seconds: from the call of the kernels to their return, the check of the arrays included.
        steps: how many steps that were; more than one where a whole loop is compiled.
        copied: bytes of gradients that ``copy_grads`` copied into their parameters' layout before it.
        trials: what the first steps on the CPU tried, the default first; none is kept until all are tried.

    Example:
        >>> from samestep.optim.stats import StepStats
        >>> StepStats(bytes=28_000_000, seconds=0.001, steps=1).gb_per_s
        28.0
    """

    bytes: int
    seconds: float
    steps: int
    copied: int = 0
    trials: tuple[Trial, ...] = ()

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes a second. Beside the speed of the memory it says what bounds the step."""
        return self.bytes / self.seconds / 1e9 if self.seconds > 0 else float("inf")


class TimedPlan:
    """A plan whose calls are timed; the same face as ``_core.Plan``."""

    def __init__(self, plan: Any, nbytes: Sequence[int]) -> None:
        self.plan = plan
        self.stats: StepStats | None = None
        self._nbytes = nbytes  # that a step of each parameter moves

    @property
    def norm(self) -> float:
        norm: float = self.plan.norm
        return norm

    @property
    def mismatch(self) -> tuple[int, int, int, int, int]:
        mismatch: tuple[int, int, int, int, int] = self.plan.mismatch
        return mismatch

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        self.plan.set_weight_decay(weight_decay)

    def step(self, grads: Sequence[Any], hyper: Sequence[float], scale: float = 1.0, *more: Any) -> int:
        start = time.perf_counter()
        status: int = self.plan.step(grads, hyper, scale, *more)
        seconds = time.perf_counter() - start
        if status == STEPPED:
            moved = sum(n for g, n in zip(grads, self._nbytes, strict=True) if g is not None)
            self.stats = StepStats(moved, seconds, 1, trials=self._trials())
        return status

    def train(self, trainer: Any, hyper: Sequence[float], steps: int) -> int:
        start = time.perf_counter()
        status: int = self.plan.train(trainer, hyper, steps)
        seconds = time.perf_counter() - start
        if status == STEPPED:
            self.stats = StepStats(steps * sum(self._nbytes), seconds, steps, trials=self._trials())
        return status

    def _trials(self) -> tuple[Trial, ...]:
        trials = getattr(self.plan, "trials", ())  # the reference has one way
        return tuple(Trial(item, threads, tuple(seconds), kept) for item, threads, seconds, kept in trials)
