"""Compares the calls of two checkouts of this package: a process for each, which take turns.

In a turn one process makes the call in a hot loop while the other waits: BATCHES batches that are not timed
(fewer of long calls), then as many that are. What ran just before a timed call is therefore the same call. A
pair is a turn of each side; who comes first alternates. Where its memory lies changes a process's times by a
few percent, so that several processes of each side are started, one pair of them after the other.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import samestep

BATCHES = 10
BATCH_SECONDS = 3e-4
TURN_SECONDS = 0.1  # the most, if that holds a batch that is timed and one that is not
RESAMPLES = 2000
OWN = Path(__file__).resolve().parents[1]

Pair = tuple[list[float], list[float]]  # seconds of a call in each batch: here, and in the other checkout


class Comparison(NamedTuple):
    """Times here over times there, each with the interval that holds 95 % of the resampled ones."""

    seconds: float  # here, the median
    median: tuple[float, float, float]
    tenth_percentile: tuple[float, float, float]

    @property
    def verdict(self) -> str:
        """By the median."""
        _, low, high = self.median
        return "faster" if high < 1.0 else "slower" if low > 1.0 else "level"


def serve(call_of: Callable[[str], Callable[[], Any]]) -> None:
    """What a process of one side does: for every name on stdin a turn, whose times it prints.

    Args:
        call_of: makes the call of a name. Only the last one is kept.
    """
    print(json.dumps(samestep.__file__), flush=True)
    last, repeats, batches = "", 0, 0
    call: Callable[[], Any] = int
    for name in map(str.strip, sys.stdin):
        if name != last:
            last, call = name, call_of(name)
            call()
            once = min(_time(call, 1) for _ in range(5))
            repeats = max(1, round(BATCH_SECONDS / once))
            batches = min(BATCHES, max(1, round(TURN_SECONDS / 2 / once)))
        times = [_time(call, repeats) for _ in range(2 * batches)]
        print(json.dumps(times[batches:]), flush=True)


def compare(
    command: Sequence[str], other: Path, names: Sequence[str], processes: int, pairs: int
) -> dict[str, Comparison]:
    """Compares this checkout with another.

    Args:
        command: arguments of Python, with which a process ends in ``serve``.
        other: the other checkout, built.
        names: of the calls that it serves.
        processes: how many are started of each side.
        pairs: of turns, for each name and process.
    """
    found: dict[str, list[list[Pair]]] = {name: [] for name in names}
    for _ in range(processes):
        sides = [_start(command, checkout) for checkout in (OWN, other)]
        for name in names:
            found[name].append([])
            for i in range(pairs):
                order = sides if i % 2 == 0 else sides[::-1]
                times = [_ask(side, name) for side in order]
                own, others = times if i % 2 == 0 else times[::-1]
                found[name][-1].append((own, others))
        for side in sides:
            side.communicate()
    return {name: _summary(of_processes) for name, of_processes in found.items()}


def _start(command: Sequence[str], checkout: Path) -> subprocess.Popen[str]:
    folder = checkout.resolve() / "python"
    side = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert side.stdout is not None
    path = json.loads(side.stdout.readline() or '""')
    if not Path(path).is_relative_to(folder):
        raise RuntimeError(
            f"samestep: got {path or 'none'}, expected the package of {folder}, which must be built there; "
            "if Python finds an installed one first, use an environment without it"
        )
    return side


def _ask(side: subprocess.Popen[str], name: str) -> list[float]:
    assert side.stdin is not None
    assert side.stdout is not None
    print(name, file=side.stdin, flush=True)
    times: list[float] = json.loads(side.stdout.readline())
    return times


def _time(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _summary(of_processes: list[list[Pair]]) -> Comparison:
    # A pair's ratio is that of its medians. Processes are drawn again, and from each its pairs.
    draw = random.Random(0)
    resampled = [
        [
            pair
            for pairs in draw.choices(of_processes, k=len(of_processes))
            for pair in draw.choices(pairs, k=len(pairs))
        ]
        for _ in range(RESAMPLES)
    ]
    everything = [pair for pairs in of_processes for pair in pairs]
    ratios = [
        _with_interval(ratio(everything), sorted(map(ratio, resampled)))
        for ratio in (_median_ratio, _tenth_percentile_ratio)
    ]
    return Comparison(statistics.median(t for own, _ in everything for t in own), *ratios)


def _median_ratio(pairs: list[Pair]) -> float:
    return statistics.median(statistics.median(own) / statistics.median(other) for own, other in pairs)


def _tenth_percentile_ratio(pairs: list[Pair]) -> float:
    here, there = (sorted(t for pair in pairs for t in pair[side]) for side in (0, 1))
    return here[len(here) // 10] / there[len(there) // 10]


def _with_interval(value: float, resampled: list[float]) -> tuple[float, float, float]:
    return value, resampled[len(resampled) // 40], resampled[-len(resampled) // 40]
