"""Times a step of a thousand to a billion parameters, on each number of threads.

Beyond the caches, where the fixed cost of a call no longer counts, the cost of one parameter must not grow
with their number. If memory does not hold a billion float32 parameters and their state, the arrays are many
windows onto one block of memory ("aliased"). Then as many bytes are read and written as for a billion
parameters, but the results mean nothing.

Each size is timed hot and right after 8 MB of NumPy's work; the figures are medians.

    python bench/bench_scaling.py [--rule Adam] [--threads 1 2] [--seconds S] [--json] [--plot FILE] [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
from typing import Any

import numpy as np

import samestep as ss
from samestep.backends import cpu
from samestep.backends.face import Tensor
from samestep.commands.bench import machine
from samestep.commands.bench.cases import RULES
from samestep.commands.bench.peers import STATES
from samestep.commands.bench.situations import HOT, Situation, after_numpy
from samestep.commands.bench.turns import QUICK_ROUNDS, ROUNDS

SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9)
BLOCK = 2**26  # parameters of one mapped window: 256 MB an array


def available_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def whole(rule: str, size: int) -> Any:
    """One array of each kind, in memory."""
    optimizer = RULES[rule](np.ones(size, np.float32))
    g = np.full(size, 1e-3, np.float32)
    return lambda: optimizer.step(g)


def aliased(rule: str, size: int, file: int) -> Any:
    """Windows onto one block of memory, as many as the parameters would fill, stepped by one plan."""
    kinds = 2 + STATES[rule]
    os.ftruncate(file, kinds * BLOCK * 4)
    blocks = [min(BLOCK, size - i) for i in range(0, size, BLOCK)]
    windows = [mmap.mmap(file, kinds * BLOCK * 4) for _ in blocks]
    arrays = [np.frombuffer(w, np.float32).reshape(kinds, BLOCK) for w in windows]
    arrays[0][:] = 1e-3
    columns = [[a[k, :n] for a, n in zip(arrays, blocks, strict=True)] for k in range(kinds)]
    params, grads, *states = columns
    tensors = [Tensor(w, own) for w, *own in zip(params, *states, strict=True)]
    plan = cpu.Plan(optimizer_rule(rule), tensors, np.zeros(len(params) + 1, np.int64))
    hyper = RULES[rule](np.zeros(1, np.float32))._hyper_values
    return lambda: plan.step(grads, hyper)


def optimizer_rule(rule: str) -> str:
    return RULES[rule](np.zeros(1, np.float32)).rule


def measure(
    rule: str, size: int, threads: int, situation: Situation, seconds: float, rounds: int, share: float
) -> dict[str, Any]:
    ss.set_num_threads(threads)
    fits = size * 4 * (2 + STATES[rule]) < share * available_bytes()
    file = os.memfd_create("block")
    try:
        step = whole(rule, size) if fits else aliased(rule, size, file)
        sample = situation.sample({"step": step}, seconds, rounds)["step"]
    finally:
        os.close(file)
    return {
        "rule": rule,
        "parameters": size,
        "threads": threads,
        "just_before": situation.just_before,
        "memory": "whole" if fits else "aliased",
        **sample.summary(),
        "ns_per_parameter": 1e9 * sample.median / size,
        "gb_per_s": 4 * size * (3 + 2 * STATES[rule]) / sample.median / 1e9,
    }


def save_figure(rows: list[dict[str, Any]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for threads, before in dict.fromkeys((row["threads"], row["just_before"]) for row in rows):
        points = [
            (r["parameters"], r["ns_per_parameter"])
            for r in rows
            if (r["threads"], r["just_before"]) == (threads, before)
        ]
        axes.plot(*zip(*points, strict=True), "-o", label=f"{threads} threads, after {before}", markersize=4)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="parameters",
        ylabel="nanoseconds a parameter",
        title=rows[0]["rule"],
    )
    axes.legend()
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rule", choices=tuple(RULES), default="Adam")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each size")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="the fewest")
    parser.add_argument("--share", type=float, default=0.5, help="of the free memory that arrays may take")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        global BLOCK
        BLOCK, options.sizes, options.seconds, options.rounds = 1024, (1000, 10_000), 0.0, QUICK_ROUNDS
    about = machine.about(max(options.threads))
    if not options.json:
        print(machine.in_words(about))
    rows = []
    for threads, size, situation in itertools.product(options.threads, options.sizes, (HOT, after_numpy())):
        share = 0.0 if options.quick and size == 10_000 else options.share
        rows.append(measure(options.rule, size, threads, situation, options.seconds, options.rounds, share))
        if not options.json:
            row = rows[-1]
            print(
                f"{row['rule']} {size:>13,} parameters  {threads} threads  after {row['just_before']:14} "
                f"{row['ns_per_parameter']:8.3f} ns each  {row['gb_per_s']:6.1f} GB/s  us a step: "
                f"{row['minimum_us']:.4g} at least, {row['median_us']:.4g} median  {row['memory']}",
                flush=True,
            )
    if options.plot:
        save_figure(rows, options.plot)
    if options.json:
        print(json.dumps({"about": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
