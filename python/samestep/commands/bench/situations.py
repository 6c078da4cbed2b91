"""What runs just before a timed call: its own calls, or other work, as in a training.

In a training a step follows a backward pass or other arrays' work, which has filled the caches and, with
OpenMP, left threads that spin for milliseconds. A loop over steps alone shows neither.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .roof import Roof
from .turns import ROUNDS, Turn

ROOF = "roof"

WORK_BYTES = 8 * 2**20  # of the other work
BATCH_SECONDS = 2e-4  # of a batch of hot calls: thousands of times what reading the clock takes
WARM_UPS, WARM_UP_SECONDS = 60, 3.0  # calls before the first turn, and the most that they take
WARM_SECONDS = 0.01  # of hot calls before it: the last contender's OpenMP threads spin for up to 8 ms


@dataclass(frozen=True)
class Situation:
    """One of them."""

    name: str
    just_before: str  # as tables say it
    work: Callable[[], Any] | None = None  # None: the call itself

    def turn(self, call: Callable[[], Any], warm_ups: int = 1) -> Turn:
        """A turn that times ``call``: in a batch after its own calls, or once after the other work.

        Warm-ups, in the same situation, come first: for pages, threads, compilers, and for a step that tunes
        itself, which tries its settings in the first tens of calls.
        """
        work = self.work
        end = time.perf_counter() + WARM_UP_SECONDS
        for done in range(warm_ups):
            if done and time.perf_counter() > end:
                break
            if work is not None:
                work()
            call()
        if work is not None:

            def in_use() -> float:
                work()
                return _time(call, 1)

            return in_use
        repeats = _in_a_batch(min(_time(call, 1) for _ in range(3)))

        def hot() -> float:
            end = time.perf_counter() + WARM_SECONDS
            call()
            while time.perf_counter() < end:
                call()
            return _time(call, repeats)

        return hot

    def turn_of_roof(self, roof: Roof) -> Turn:
        """A turn in which every way of a roof runs; the fastest counts.

        It follows a pause, since threads of other contenders that still spin are none of the machine's
        limits, and for the same reason its other work is NumPy's.
        """
        work = None if self.work is None else add_in_place()
        passes = [1 if work else _in_a_batch(roof.seconds(way, 1)) for way in range(len(roof.ways))]

        def turn() -> float:
            time.sleep(2 * WARM_SECONDS)
            best = np.inf
            for way, n in enumerate(passes):
                if work is None:
                    roof.seconds(way, 1)
                else:
                    work()
                best = min(best, roof.seconds(way, n))
            return float(best)

        return turn

    def turns(
        self, contenders: Mapping[str, Callable[[], Any]], rounds: int, roof: Roof | None = None
    ) -> dict[str, Turn]:
        """A turn of each contender and, last, of the roof; with fewer rounds than count, hardly warmed up."""
        warm_ups = WARM_UPS if rounds >= ROUNDS else 1
        turns = {name: self.turn(call, warm_ups) for name, call in contenders.items()}
        return turns if roof is None else {**turns, ROOF: self.turn_of_roof(roof)}


HOT = Situation("hot", "itself")


def after_numpy() -> Situation:
    """Single calls, each right after an addition in place over 8 MB of NumPy's."""
    return Situation("in use", "8 MB of NumPy", add_in_place())


def after_torch() -> Situation:
    """Single calls, each right after a backward pass of torch over 8 MB of activations.

    Raises:
        ImportError: torch is not installed.
    """
    return Situation("in use", "8 MB of torch backward", backward_pass())


def add_in_place() -> Callable[[], Any]:
    """x = x + 1, x of 8 MB, by NumPy: on one thread."""
    x = np.zeros(WORK_BYTES // 4, np.float32)
    return lambda: np.add(x, np.float32(1), out=x)


def backward_pass() -> Callable[[], Any]:
    """The gradient of relu(x), x of 8 MB, by torch: on its OpenMP threads."""
    torch = importlib.import_module("torch")
    x = torch.linspace(-1, 1, WORK_BYTES // 4, requires_grad=True)
    y, dy = torch.relu(x), torch.ones(WORK_BYTES // 4)
    return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)


def _in_a_batch(seconds: float) -> int:
    return max(1, round(BATCH_SECONDS / max(seconds, 1e-9)))


def _time(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
