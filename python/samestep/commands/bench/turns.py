"""Contenders take turns in one process, so that a slow phase of the machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

ROUNDS = 15  # the fewest where a figure counts
QUICK_ROUNDS = 3  # to see that it runs

Turn = Callable[[], float]  # does its contender's work and returns the seconds of one call


class Sample(NamedTuple):
    """Seconds of one call, round by round."""

    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def summary(self) -> dict[str, float]:
        """Microseconds, for people and JSON."""
        return {"minimum_us": 1e6 * self.minimum, "median_us": 1e6 * self.median}


def take_turns(turns: Mapping[str, Turn], seconds: float, rounds: int = ROUNDS) -> dict[str, Sample]:
    """Takes one turn of each contender a round; every other round begins with the last of them.

    So what makes the machine faster or slower from turn to turn favours nobody.

    Args:
        turns: by contender; ``Situation.turn`` makes one of a call, ``Situation.sample`` of many.
        seconds: about how long all rounds take together.
        rounds: the fewest that are made.

    Returns:
        Of each contender as many times as there were rounds: those of one round are pairs.

    Example:
        >>> from samestep.commands.bench.situations import HOT
        >>> from samestep.commands.bench.turns import take_turns
        >>> calls = {"few": lambda: sum(range(10)), "many": lambda: sum(range(10_000))}
        >>> samples = take_turns({name: HOT.turn(call) for name, call in calls.items()}, 0.0, rounds=3)
        >>> samples["few"].median < samples["many"].median, len(samples["few"].seconds)
        (True, 3)
    """
    found: dict[str, list[float]] = {name: [] for name in turns}
    names = list(turns)
    end = time.perf_counter() + seconds
    done = 0
    while done < rounds or time.perf_counter() < end:
        for name in names if done % 2 == 0 else reversed(names):
            found[name].append(turns[name]())
        done += 1
    return {name: Sample(tuple(times)) for name, times in found.items()}
