"""Times exp, log and tanh beside NumPy's, and softmax with cross-entropy beside PyTorch's.

    python bench/bench_functions.py [--threads N] [--seconds S] [--json] [--quick] [--case exp]

Each case is timed hot and right after a backward pass of torch (without torch: NumPy's work). Functions write
into existing arrays; NumPy's run on one thread. torch's cross_entropy is timed with its backward pass, since
samestep's call returns the gradient with the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import samestep as ss
from samestep.commands.bench.compare import compare
from table import Table, both_situations, parse, parser_of

Calls = dict[str, Callable[[], Any]]

FUNCTIONS = {("exp", "float32", 1_000_000): 1.0}  # and the goals for NumPy's time over ours
SOFTMAX = {("float32", 4096, 1000): 1.0}  # for torch's


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


def main() -> None:
    parser = parser_of(__doc__, seconds=4.0)
    parser.add_argument("--case", default="", help="only cases with this in their name")
    options = parse(parser)
    scale = 100 if options.quick else 1
    cases: dict[str, tuple[Calls, dict[str, float | None]]] = {}
    for name in ("exp", "log", "tanh"):
        for dtype in ("float32", "float64"):
            for n in (1000, 1_000_000):
                goal = FUNCTIONS.get((name, dtype, n))
                cases[f"{name} {dtype} {n // scale}"] = functions(name, dtype, n // scale), {"NumPy": goal}
    for dtype in ("float32", "float64"):
        for rows, columns in ((32, 10), (4096, 1000)):
            goal = SOFTMAX.get((dtype, rows, columns))
            calls = softmax(dtype, max(1, rows // scale), columns, options.threads)
            cases[f"softmax {dtype} {rows}x{columns}"] = calls, {"torch": goal}
    table = Table(options)
    for situation in both_situations():
        for case, (calls, beside) in cases.items():
            if options.case in case:
                how = {"seconds": options.seconds, "rounds": options.rounds}
                table.add(compare(case, calls, beside, situation, **how))
    table.close()


if __name__ == "__main__":
    main()
