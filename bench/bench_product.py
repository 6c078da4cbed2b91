"""Times matrix products beside NumPy's, which are OpenBLAS's, and PyTorch's.

    python bench/bench_product.py [--threads N] [--seconds S] [--json] [--quick] [--case 1024] [--float64]

Each case is timed hot and right after a backward pass of torch (without torch: NumPy's work), with the call
from Python; results are allocated, or written to an array that is there, with ``out=``. NT: the second matrix
is a transposed view; TN: the first one. What the environment forces on OpenBLAS, such as OPENBLAS_CORETYPE,
is taken out, and named: it is to run its best kernel for this processor. threadpoolctl, which scikit-learn
brings, sets its threads. Before each turn is a pause, until the threads of the one before have stopped
spinning: OpenBLAS's do for a tenth of a second.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import samestep as ss
from samestep.commands.bench.compare import Comparison, compare
from samestep.commands.bench.situations import OPENBLAS_PAUSE, Situation
from table import Table, both_situations, parse, parser_of

Calls = dict[str, Callable[[], Any]]

# N, K, J of (N, K) times (K, J), and the goal for NumPy's time over ours.
CASES = {
    (1024, 1024, 1024): 0.85,
    (2048, 1024, 2048): 0.85,
    (256, 256, 256): 0.7,
    (65536, 64, 64): 0.7,
    (64, 64, 64): 0.6,
    (32, 784, 128): 0.6,
    (1, 1024, 1024): None,
}
FORMS = ("NN", "NT", "TN")
FORCED = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


def products(sizes: tuple[int, int, int], form: str, dtype: str, threads: int) -> Calls:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (sizes[:2], sizes[1:]))
    if form == "TN":
        x = np.ascontiguousarray(x.T).T
    if form == "NT":
        w = np.ascontiguousarray(w.T).T
    out = np.empty((sizes[0], sizes[2]), dtype)
    calls: Calls = {
        "samestep": lambda: ss.linear(x, w),
        "out=": lambda: ss.linear(x, w, out=out),
        "NumPy": lambda: x @ w,
    }
    try:
        import torch
    except ImportError:
        return calls
    torch.set_num_threads(threads)
    tx, tw = torch.from_numpy(x), torch.from_numpy(w)
    return calls | {"torch": lambda: tx @ tw}


def free_openblas() -> None:
    """Starts this script anew without what the environment forces on OpenBLAS, which has read it by now."""
    if forced := [name for name in FORCED if name in os.environ]:
        print(f"taken out of the environment: {', '.join(forced)}", file=sys.stderr)
        free = {name: value for name, value in os.environ.items() if name not in forced}
        os.execve(sys.executable, [sys.executable, *sys.argv], free)


def compared(
    options: argparse.Namespace,
    situation: Situation,
    dtypes: Iterable[str],
    more: dict[str, None],
    part: str = "",
) -> Iterator[list[Comparison]]:
    """Each case with ``part`` in its name, beside NumPy with its goal, and beside ``more``."""
    for dtype in dtypes:
        for full, goal in CASES.items():
            sizes = tuple(min(size, 64) for size in full) if options.quick else full
            for form in FORMS:
                case = f"{'x'.join(map(str, sizes))} {form} {dtype}"
                if part not in case:
                    continue
                # Transposed forms are to reach what the smaller sizes are.
                least = goal if form == "NN" or goal is None else min(goal, 0.7)
                yield compare(
                    case,
                    products(sizes, form, dtype, options.threads),
                    {"NumPy": least, **more},
                    replace(situation, pause=0.0 if options.quick else OPENBLAS_PAUSE),
                    seconds=options.seconds,
                    rounds=options.rounds,
                )


def main() -> None:
    parser = parser_of(__doc__, seconds=4.0)
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--float64", action="store_true", help="float64 as well")
    options = parse(parser)
    free_openblas()
    table = Table(options)
    dtypes = ("float32", "float64") if options.float64 else ("float32",)
    with threadpool_limits(options.threads):
        for situation in both_situations():
            for rows in compared(options, situation, dtypes, {"torch": None, "out=": None}, options.case):
                table.add(rows)
    table.close()


if __name__ == "__main__":
    main()
