"""What a ledger costs: the size of its file, and the time in which two of them are compared.

    python bench/bench_ledger.py [--steps 1000] [--rounds 15] [--quick] [--json]

The tensors are those of GPT-2 small, 148 of them, with Adam: gradient, parameter and two states. The
fingerprints are drawn at random, as fingerprints look, and so cannot be compressed below 8 bytes each. The
two ledgers part in the last tenth. Exits with 1 where a goal is missed by the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from samestep.commands.bench import machine
from samestep.ledger import Header, Ledger, diff, read_ledger

KINDS = ("gradient", "parameter", "m", "v")
HYPER = [{"lr": 6e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}]
WIDTH, LAYERS = 768, 12
GOALS = {"plain": 60.0, "compressed": 6.0, "diff": 5.0, "diff, compressed": 5.0}  # MB, MB, s, s


def gpt2_small() -> dict[str, dict[str, Any]]:
    """The tensors by name, as a header has them."""
    layer = {
        "ln_1.weight": [WIDTH],
        "ln_1.bias": [WIDTH],
        "attn.c_attn.weight": [WIDTH, 3 * WIDTH],
        "attn.c_attn.bias": [3 * WIDTH],
        "attn.c_proj.weight": [WIDTH, WIDTH],
        "attn.c_proj.bias": [WIDTH],
        "ln_2.weight": [WIDTH],
        "ln_2.bias": [WIDTH],
        "mlp.c_fc.weight": [WIDTH, 4 * WIDTH],
        "mlp.c_fc.bias": [4 * WIDTH],
        "mlp.c_proj.weight": [4 * WIDTH, WIDTH],
        "mlp.c_proj.bias": [WIDTH],
    }
    shapes = {
        "wte.weight": [50257, WIDTH],
        "wpe.weight": [1024, WIDTH],
        **{f"h.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()},
        "ln_f.weight": [WIDTH],
        "ln_f.bias": [WIDTH],
    }
    return {name: {"dtype": "float32", "shape": shape, "group": 0} for name, shape in shapes.items()}


def write(path: Path, steps: int, parted_from: int) -> float:
    """Writes a ledger; returns the seconds a line took, of which drawing is no part."""
    tensors = gpt2_small()
    rng = np.random.default_rng(1)
    seconds = 0.0
    with Ledger(path, Header(2, "adam_outside", {}, 1, KINDS, tensors)) as ledger:
        for step in range(steps + 1):
            rows = rng.integers(0, 2**64, (len(tensors), len(KINDS)), dtype=np.uint64)
            if step >= parted_from:
                rows[5:] ^= np.uint64(1)
            start = time.perf_counter()
            if step == 0:
                ledger.start(0, rows)
            else:
                ledger.add(step, rows, HYPER)
            seconds += time.perf_counter() - start
    return seconds / (steps + 1)


def timed(call: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """The minimum and the median, in seconds."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found), statistics.median(found)


def measure(folder: Path, steps: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for end, size, compare in (("jsonl", "plain", "diff"), ("jsonl.gz", "compressed", "diff, compressed")):
        a, b = folder / f"a.{end}", folder / f"b.{end}"
        per_line = write(a, steps, steps + 1)
        write(b, steps, steps - steps // 10)
        megabytes = a.stat().st_size / 1e6
        rows.append({"what": f"file, {size}", "unit": "MB", "median": megabytes, "goal": GOALS[size]})
        rows.append({"what": f"a line, {size}", "unit": "ms", "median": 1e3 * per_line, "goal": None})
        for what, goal, call in (
            (f"read, {size}", None, lambda a=a: read_ledger(a)),
            (compare, GOALS[compare], lambda a=a, b=b: diff(a, b)),
        ):
            least, median = timed(call, rounds)
            rows.append({"what": what, "unit": "s", "minimum": least, "median": median, "goal": goal})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="few steps and rounds, to see that it runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.rounds = 20, 3
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.steps, options.rounds)
    about = machine.about(1)
    if options.json:
        print(json.dumps({"about": about, "steps": options.steps, "rows": rows}, indent=1))
    else:
        print(f"{machine.in_words(about)}\n\nGPT-2 small, Adam, {options.steps} steps\n")
        print("| what | minimum | median | goal |\n|---|---|---|---|")
        for row in rows:
            least = f"{row['minimum']:.2f} {row['unit']}" if "minimum" in row else ""
            goal = "" if row["goal"] is None else f"<= {row['goal']:g} {row['unit']}"
            print(f"| {row['what']} | {least} | {row['median']:.2f} {row['unit']} | {goal} |")
    missed = [row for row in rows if row["goal"] is not None and row["median"] > row["goal"]]
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
