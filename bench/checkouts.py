"""Compares the calls of two checkouts of this package: a process for each, which take turns.

In a turn one process makes the call in a hot loop while the other waits: some batches that are not timed,
then as many that are. What ran just before a timed call is therefore the same call. A pair is a turn of each
side; who comes first alternates. Where its memory lies changes a process's times by some percent, so that
several processes of each side are started, one pair of them after the other: each pair gives one ratio.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samestep.commands.bench.ratios import Ratio, median_of

OWN = Path(__file__).resolve().parents[1]

Pair = tuple[list[float], list[float]]  # seconds of a call in each batch: here, and in the other checkout


class Change(NamedTuple):
    """Times here over times there, paired by processes."""

    seconds: float  # here, the median
    median: Ratio
    tenth_percentile: Ratio

    @property
    def verdict(self) -> str:
        """By the medians."""
        return "faster" if self.median.high < 1.0 else "slower" if self.median.low > 1.0 else "inconclusive"

    def as_dict(self) -> dict[str, Any]:
        return {
            "us_here": 1e6 * self.seconds,
            "median": self.median.as_dict(),
            "tenth_percentile": self.tenth_percentile.as_dict(),
            "verdict": self.verdict,
            "just_before": "itself",
        }


def compare_with(
    command: Sequence[str], other: Path, names: Sequence[str], processes: int, pairs: int
) -> dict[str, Change]:
    """Compares this checkout with another.

    Args:
        command: arguments of Python, with which a process serves calls as torch_calls.py does.
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
        encoding="utf-8",
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


def _summary(of_processes: list[list[Pair]]) -> Change:
    return Change(
        statistics.median(t for pairs in of_processes for own, _ in pairs for t in own),
        median_of([_median_ratio(pairs) for pairs in of_processes]),
        median_of([_tenth_percentile_ratio(pairs) for pairs in of_processes]),
    )


def _median_ratio(pairs: list[Pair]) -> float:
    return statistics.median(statistics.median(own) / statistics.median(other) for own, other in pairs)


def _tenth_percentile_ratio(pairs: list[Pair]) -> float:
    here, there = (sorted(t for pair in pairs for t in pair[side]) for side in (0, 1))
    return here[len(here) // 10] / there[len(there) // 10]
