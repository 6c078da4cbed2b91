"""What runs just before a timed call: its own calls, or other work, as in a training.

In a training a step follows a backward pass or other arrays' work, which has filled the caches and, with
OpenMP, left threads that spin for milliseconds. A loop over steps alone shows neither. What ran before that
is the step itself: of arrays that a large cache holds, something is still there.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .roof import Roof
from .turns import ROUNDS, Sample, Turn, take_turns

ROOF = "roof"

WORK_BYTES = 8 * 2**20  # of the other work
BATCH_SECONDS = 2e-4  # of a batch of hot calls: thousands of times what reading the clock takes
WARM_UPS, WARM_UP_SECONDS = 60, 3.0  # calls before the first turn, and the most that they take
OPENBLAS_PAUSE = 0.15  # after a product OpenBLAS's threads spin for 2^28 ticks: a tenth of a second
WARM_SECONDS = 0.01  # of hot calls before it: the last contender's OpenMP threads spin for up to 8 ms


@dataclass(frozen=True)
class Situation:
    """One of them."""

    name: str
    just_before: str  # as tables say it
    work: Callable[[], Any] | None = None  # None: the call itself
    pause: float = 0.0  # seconds before a turn, in which the threads of the one before it stop spinning

    def turn(self, call: Callable[[], Any], warm_ups: int = 1) -> Turn:
        """A turn that times ``call``: in a batch after its own calls, or in the second of two laps.

        A lap is the other work and the call. The first one takes the caches from the contender before.

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
                _wait(self.pause)
                work()
                call()
                work()
                return _time(call, 1)

            return in_use
        repeats = _in_a_batch(min(_time(call, 1) for _ in range(3)))

        def hot() -> float:
            _wait(self.pause)
            end = time.perf_counter() + WARM_SECONDS
            call()
            while time.perf_counter() < end:
                call()
            return _time(call, repeats)

        return hot

    def sample(
        self,
        contenders: Mapping[str, Callable[[], Any]],
        seconds: float,
        rounds: int = ROUNDS,
        roof: Roof | None = None,
    ) -> dict[str, Sample]:
        """Lets the contenders take turns, and every way of the roof with them.

        Args:
            contenders: the calls by name. They are warmed up, unless the rounds are too few to count.
            seconds, rounds: see ``take_turns``.
            roof: its sample is that of the way whose median is the least.

        Example:
            >>> from samestep.commands.bench.situations import HOT
            >>> samples = HOT.sample({"a sum": lambda: sum(range(100))}, 0.0, rounds=3)
            >>> samples["a sum"].minimum < 1.0
            True
        """
        warm_ups = WARM_UPS if rounds >= ROUNDS else 1
        turns = {name: self.turn(call, warm_ups) for name, call in contenders.items()}
        ways = {} if roof is None else self._turns_of(roof)
        samples = take_turns({**turns, **ways}, seconds, rounds)
        found = {name: samples[name] for name in contenders}
        if ways:
            found[ROOF] = min((samples[way] for way in ways), key=lambda sample: sample.median)
        return found

    def _turns_of(self, roof: Roof) -> dict[str, Turn]:
        """A turn of each way: a pause, since threads of others that spin are none of the machine's limits.

        For the same reason the other work is NumPy's.
        """
        work = None if self.work is None else add_in_place()

        def turn_of(way: int) -> Turn:
            passes = 1 if work else _in_a_batch(roof.seconds(way, 1))

            def turn() -> float:
                time.sleep(2 * WARM_SECONDS)
                if work is not None:
                    work()
                roof.seconds(way, 1)
                if work is not None:
                    work()
                return roof.seconds(way, passes)

            return turn

        return {f"{ROOF}: {name}": turn_of(way) for way, name in enumerate(roof.ways)}


def _wait(seconds: float) -> None:
    """Waits at work, as a training does. Where the caller has slept, the pool's thread often wakes on the
    same processor, and Linux may take 30 ms to part the two.
    """
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


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
