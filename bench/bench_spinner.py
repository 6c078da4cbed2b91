"""Times a step while something else spins on the second processor: what waiting for a preempted thread costs.

A process that only spins is kept on the last processor that this one may use. Adam steps on 2 threads, with
the defaults and tuned, beside the same step on 1 thread, whose processor nobody else wants. Steps take turns
in one process and each is timed alone; right before it ran the step of another contender. The figure is the
median, in brackets the nearest rank to 95 %: the waits are in the tail.

    python bench/bench_spinner.py [--rounds N] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import samestep as ss
from samestep import _core
from samestep.commands.bench import machine

SIZES = (2**14, 2**18, 2**22, 2**24)
SPIN = "import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nprint(flush=True)\nwhile True: pass"


@contextlib.contextmanager
def spinner(on: bool) -> Iterator[None]:
    if not on:
        yield
        return
    processor = str(max(os.sched_getaffinity(0)))
    with subprocess.Popen([sys.executable, "-c", SPIN, processor], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def measure(size: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of each step, by contender."""
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(size, dtype=np.float32) for _ in range(2))
    contenders: dict[str, tuple[int, ss.Adam]] = {}
    for name, threads, tunes in (
        ("1 thread", 1, False),
        ("2 threads", 2, False),
        ("2 threads, tuned", 2, True),
    ):
        ss.set_num_threads(threads)
        before = _core.set_tuning(tunes)
        contenders[name] = threads, ss.Adam(w.copy())
        _core.set_tuning(before)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (threads, optimizer) in contenders.items():
            ss.set_num_threads(threads)
            start = time.perf_counter()
            optimizer.step(g)
            times[name].append(1e6 * (time.perf_counter() - start))
    return {name: us[rounds // 3 :] for name, us in times.items()}  # the tuned one has chosen by then


def shown(us: list[float]) -> str:
    return f"{statistics.median(us):.0f} ({sorted(us)[math.ceil(0.95 * len(us)) - 1]:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--quick", action="store_true", help="few rounds of one size, to see that it runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes, rounds = (SIZES[:1], 3) if options.quick else (SIZES, options.rounds)
    about = machine.about(2)
    found: dict[str, Any] = {}
    for spins in (False, True):
        with spinner(spins):
            for size in sizes:
                found[f"{size:,}{', with a spinner' if spins else ''}"] = measure(size, rounds)
    if options.json:
        print(json.dumps({"about": about, "us": found}, indent=1))
        return
    print(f"{machine.in_words(about)}\n")
    names = list(next(iter(found.values())))
    print(f"| Adam, microseconds | {' | '.join(names)} |")
    print("|---" * (1 + len(names)) + "|")
    for case, times in found.items():
        print(f"| {case} | {' | '.join(shown(times[name]) for name in names)} |", flush=True)


if __name__ == "__main__":
    main()
