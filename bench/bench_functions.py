"""Times exp, log and tanh beside NumPy's, and softmax with cross-entropy beside PyTorch's.

    python bench/bench_functions.py [--threads N] [--seconds S] [--json] [--quick] [--case exp]

Each case is timed hot and right after a backward pass of torch (without torch: NumPy's work). Functions write
into existing arrays; NumPy's run on one thread. torch's cross_entropy is timed with its backward pass, since
samestep's call returns the gradient with the loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import samestep as ss
from samestep.commands.bench.compare import Comparison, compare
from samestep.commands.bench.situations import Situation
from table import Table, both_situations, parse, parser_of

Calls = dict[str, Callable[[], Any]]
Wants = Callable[[str, float | None], bool]

# The goals: for NumPy's time over ours, and for torch's.
FUNCTIONS = {("exp", dtype, 1_000_000): 1.0 for dtype in ("float32", "float64")}
SOFTMAX = {(dtype, 4096, 1000): 1.0 for dtype in ("float32", "float64")}


def functions(name: str, dtype: str, n: int) -> Calls:
    x = np.random.default_rng(0).standard_normal(n).astype(dtype)
    x = abs(x) if name == "log" else x
    out = np.empty_like(x)
    ours, theirs = getattr(ss, name), getattr(np, name)
    return {"samestep": lambda: ours(x, out), "NumPy": lambda: theirs(x, out=out)}


def softmax(dtype: str, rows: int, columns: int, threads: int) -> Calls:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, columns)).astype(dtype)
    labels = rng.integers(0, columns, rows)
    calls: Calls = {"samestep": lambda: ss.softmax_cross_entropy(z, labels)}
    try:
        import torch
    except ImportError:
        return calls
    torch.set_num_threads(threads)
    tz, tlabels = torch.from_numpy(z).requires_grad_(), torch.from_numpy(labels)

    def theirs() -> None:
        tz.grad = None
        torch.nn.functional.cross_entropy(tz, tlabels).backward()

    return calls | {"torch": theirs}


def compared(options: argparse.Namespace, situation: Situation, wants: Wants) -> Iterator[list[Comparison]]:
    """The cases whose name and goal ``wants`` accepts."""
    scale = 100 if options.quick else 1
    cases: list[tuple[str, str, float | None, Callable[[], Calls]]] = []
    for name in ("exp", "log", "tanh"):
        for dtype in ("float32", "float64"):
            for n in (1000, 1_000_000):
                goal = FUNCTIONS.get((name, dtype, n))
                make = partial(functions, name, dtype, n // scale)
                cases.append((f"{name} {dtype} {n // scale}", "NumPy", goal, make))
    for dtype in ("float32", "float64"):
        for rows, columns in ((32, 10), (4096, 1000)):
            goal = SOFTMAX.get((dtype, rows, columns))
            make = partial(softmax, dtype, max(1, rows // scale), columns, options.threads)
            cases.append((f"softmax {dtype} {rows}x{columns}", "torch", goal, make))
    for case, beside, goal, make in cases:
        if wants(case, goal):
            how = {"seconds": options.seconds, "rounds": options.rounds}
            yield compare(case, make(), {beside: goal}, situation, **how)


def main() -> None:
    parser = parser_of(__doc__, seconds=4.0)
    parser.add_argument("--case", default="", help="only cases with this in their name")
    options = parse(parser)
    table = Table(options)
    for situation in both_situations():
        for rows in compared(options, situation, lambda case, _: options.case in case):
            table.add(rows)
    table.close()


if __name__ == "__main__":
    main()
