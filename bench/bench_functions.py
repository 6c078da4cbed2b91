"""Times exp, log, tanh and sigmoid beside NumPy's, and softmax with cross-entropy beside PyTorch's, in one
run.

    python bench/bench_functions.py [--threads 2] [--seconds 4] [--json] [--case exp]

The calls of a case take turns, so that a slow phase of the machine slows all of them; the minimum of each
counts. All write into existing arrays, but for torch's softmax, which has no such form: its row is the loss
and its gradient by autograd. NumPy computes on one thread, and its results differ between machines in the
last bit.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

import samestep as ss
from samestep.commands.bench.turns import take_turns

Calls = dict[str, Callable[[], Any]]


def functions(name: str, dtype: str, n: int) -> Calls:
    x = np.random.default_rng(0).standard_normal(n).astype(dtype)
    x = abs(x) if name == "log" else x
    out = np.empty_like(x)
    ours, theirs = getattr(ss, name), getattr(np, name, None)
    calls: Calls = {"samestep": lambda: ours(x, out=out)}
    return calls | ({"numpy": lambda: theirs(x, out=out)} if theirs else {})


def softmax(dtype: str, rows: int, columns: int, threads: int) -> Calls:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, columns)).astype(dtype)
    labels, out = rng.integers(0, columns, rows), np.empty_like(z)
    calls: Calls = {"samestep": lambda: ss.softmax_cross_entropy(z, labels, out=out)}
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ss.set_num_threads(options.threads)
    cases: dict[str, Callable[[], Calls]] = {
        f"{name} {dtype} {n:,}": lambda name=name, dtype=dtype, n=n: functions(name, dtype, n)
        for name in ("exp", "log", "tanh", "sigmoid")
        for dtype in ("float32", "float64")
        for n in (1000, 1_000_000)
    }
    cases |= {
        f"softmax {dtype} {n} x {c}": lambda d=dtype, n=n, c=c: softmax(d, n, c, options.threads)
        for dtype in ("float32", "float64")
        for n, c in ((32, 10), (4096, 1000))
    }
    rows = []
    for name, make in cases.items():
        if options.case in name:
            best = {who: 1e6 * t.minimum for who, t in take_turns(make(), options.seconds).items()}
            peer = next((who for who in best if who != "samestep"), None)
            ratio = best[peer] / best["samestep"] if peer else None
            rows.append({"case": name, "us": best["samestep"], "peer": peer, "ratio": ratio})
    about = {"cpu": platform.processor() or platform.machine(), **ss.info()}
    if options.json:
        print(json.dumps({"about": about, "rows": rows}, indent=1))
        return
    print(f"isa {about['isa']}, {about['threads']} threads; microseconds, minimum")
    print("| case | samestep | peer | times faster |")
    print("|---|---|---|---|")
    for r in rows:
        ratio = f"{r['ratio']:.2f}x" if r["ratio"] else ""
        print(f"| {r['case']} | {r['us']:.1f} | {r['peer'] or ''} | {ratio} |")


if __name__ == "__main__":
    main()
