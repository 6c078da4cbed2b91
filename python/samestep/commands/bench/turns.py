"""Times contenders in turns in one process, so that a slow phase of the machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

BATCH_SECONDS = 2e-4  # length of a batch of calls: thousands of times what reading the clock takes
ROUNDS = 3  # the fewest


class Timing(NamedTuple):
    """Seconds of one call: minimum and median over the batches."""

    minimum: float
    median: float


def take_turns(contenders: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    """Times each contender in rounds.

    A turn is one call that is not timed, and two batches that are. The first call replaces the data of the
    contender before in the caches: in a training, too, the caches have the data of the step before.

    Args:
        contenders: functions without arguments, by name.
        seconds: about how long all of it takes; at least three rounds are made.

    Returns:
        The times by name.

    Example:
        >>> from samestep.commands.bench.turns import take_turns
        >>> times = take_turns({"few": lambda: sum(range(10)), "many": lambda: sum(range(10_000))}, 0.01)
        >>> times["few"].minimum < times["many"].minimum
        True
    """
    repeats = {name: _calls_in_a_batch(call) for name, call in contenders.items()}
    batches: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < ROUNDS or time.perf_counter() < end:
        for name, call in contenders.items():
            call()
            batches[name] += [_time(call, repeats[name]) for _ in range(2)]
        rounds += 1
    return {name: Timing(min(times), statistics.median(times)) for name, times in batches.items()}


def _calls_in_a_batch(call: Callable[[], Any]) -> int:
    call()  # warm-up: pages, caches, threads, compilers
    once = min(_time(call, 1) for _ in range(3))
    return max(1, round(BATCH_SECONDS / max(once, 1e-9)))


def _time(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
