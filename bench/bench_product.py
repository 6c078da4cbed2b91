"""Times matrix products beside NumPy's, which are OpenBLAS's, and PyTorch's, in one run.

    python bench/bench_product.py [--threads 2] [--seconds 4] [--json] [--case 1024] [--float64]

The calls of a case take turns, so that a slow phase of the machine slows all of them; the median of each
counts, and with it the call from Python and the allocation of the result. What the environment forces on
OpenBLAS, such as OPENBLAS_CORETYPE, is taken out first and named in the output: it is to run its best kernel
for this processor. NT: the second matrix is a transposed view; TN: the first one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from typing import Any

# N, K, J of (N, K) times (K, J), and the goal: NumPy's time over ours.
CASES = {
    (1024, 1024, 1024): 0.85,
    (2048, 1024, 2048): 0.85,
    (256, 256, 256): 0.7,
    (65536, 64, 64): 0.7,
    (64, 64, 64): 0.6,
    (32, 784, 128): 0.6,
    (1, 1024, 1024): None,
}
CONTENDERS = ("samestep", "samestep, out=", "numpy", "torch")
FORMS = ("NN", "NT", "TN")
FORCED = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_VERBOSE",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OMP_NUM_THREADS",
)


def calls(sizes: tuple[int, int, int], form: str, dtype: str, threads: int) -> dict[str, Callable[[], Any]]:
    import numpy as np

    import samestep as ss

    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (sizes[:2], sizes[1:]))
    if form == "TN":
        x = np.ascontiguousarray(x.T).T
    if form == "NT":
        w = np.ascontiguousarray(w.T).T
    out = np.empty((sizes[0], sizes[2]), dtype)
    found: dict[str, Callable[[], Any]] = {
        "samestep": lambda: ss.linear(x, w),
        "samestep, out=": lambda: ss.linear(x, w, out=out),
        "numpy": lambda: x @ w,
    }
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(threads)
    tx, tw = torch.from_numpy(x), torch.from_numpy(w)
    return {**found, "torch": lambda: tx @ tw}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case and form")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--float64", action="store_true", help="float64 as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    forced = {name: os.environ.pop(name) for name in FORCED if name in os.environ}
    os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)  # read when NumPy is imported

    import numpy as np

    import samestep as ss
    from samestep.commands.bench.turns import take_turns

    ss.set_num_threads(options.threads)
    rows = []
    for dtype in ("float32", "float64") if options.float64 else ("float32",):
        for sizes, goal in CASES.items():
            for form in FORMS:
                name = f"{'x'.join(map(str, sizes))} {form}"
                if options.case not in name:
                    continue
                times = take_turns(calls(sizes, form, dtype, options.threads), options.seconds)
                us = {who: 1e6 * time.median for who, time in times.items()}
                # Transposed forms are to reach what the smaller sizes are.
                least = goal if form == "NN" or goal is None else min(goal, 0.7)
                gigaflops = 2e-3 * float(np.prod(sizes)) / us["samestep"]
                ratio = us["numpy"] / us["samestep"]
                rows.append(
                    {"case": name, "dtype": dtype, **us, "gflops": gigaflops, "ratio": ratio, "goal": least}
                )
    about = {
        "cpu": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "taken out of the environment": forced,
        **ss.info(),
    }
    if options.json:
        print(json.dumps({"about": about, "rows": rows}, indent=1))
        return
    print(f"isa {about['isa']}, {about['threads']} threads, NumPy {np.__version__}; microseconds, median")
    print(f"taken out of the environment: {', '.join(f'{k}={v}' for k, v in forced.items()) or 'nothing'}")
    print("| case | dtype | samestep | out= | NumPy | torch | GFLOP/s | times NumPy | must reach |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        us = " | ".join(f"{r[who]:.1f}" if who in r else "" for who in CONTENDERS)
        print(
            f"| {r['case']} | {r['dtype']} | {us} "
            f"| {r['gflops']:.0f} | {r['ratio']:.2f} | {r['goal'] or ''} |"
        )


if __name__ == "__main__":
    main()
