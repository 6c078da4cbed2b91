"""Times the gradient of the mean squared error beside NumPy, and online descent beside scikit-learn.

All contenders take turns in one process; the figure is the minimum. The roof of a gradient is the time of
reading its features once, measured in the same turns: np.max of one part of the rows on each thread.

    python bench/bench_mse.py [--threads N] [--seconds S] [--scale X] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

GRADIENTS = ((1_000_000, 64), (200_000, 512))
DESCENTS = ((442, 10), (20_000, 64))
EPOCHS = 5
LR = 1e-4


def measure(contenders: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Seconds of each, the minimum."""
    return {name: t.minimum for name, t in take_turns(contenders, seconds).items()}


def gradient(rows: int, columns: int, threads: int, seconds: float) -> dict[str, Any]:
    """One gradient over all rows, float32."""
    rng = np.random.default_rng(0)
    Phi = rng.standard_normal((rows, columns), np.float32)
    w = rng.standard_normal(columns, np.float32)
    y = Phi @ w + rng.standard_normal(rows, np.float32)
    problem = ss.problems.MSE(Phi, y)
    parts = np.array_split(Phi, threads)
    with ThreadPoolExecutor(threads) as pool:
        best = measure(
            {
                "samestep": lambda: problem.gradient(w),
                "numpy": lambda: Phi.T @ (Phi @ w - y),
                "read once": lambda: list(pool.map(np.max, parts)),
            },
            seconds,
        )
    return {
        "case": f"gradient {rows}x{columns} float32",
        "milliseconds": {name: 1e3 * seconds for name, seconds in best.items()},
        "gigabytes_per_second": Phi.nbytes / best["samestep"] / 1e9,
        "times_faster": best["numpy"] / best["samestep"],
        "share_of_roof": best["read once"] / best["samestep"],
    }


def descent(rows: int, columns: int, seconds: float) -> dict[str, Any]:
    """Epochs of shuffled online descent, float64, from the arrays to the weights."""
    from sklearn.linear_model import SGDRegressor

    rng = np.random.default_rng(0)
    Phi = rng.standard_normal((rows, columns))
    y = Phi @ rng.standard_normal(columns) + rng.standard_normal(rows)
    w0 = np.zeros(columns)

    made = ss.problems.MSE(Phi, y)

    def samestep(problem: Any = None) -> Any:
        return ss.minimize(
            problem or ss.problems.MSE(Phi, y),  # copies the arrays, and is timed with the steps
            w0,
            lambda w: ss.SGD(w, LR),
            epochs=EPOCHS,
            sampling="shuffle",
            batch_size=1,
            record_every=sys.maxsize,
        )

    def sklearn() -> Any:
        return SGDRegressor(
            penalty=None,
            fit_intercept=False,
            learning_rate="constant",
            eta0=LR,
            max_iter=EPOCHS,
            tol=None,
            random_state=0,
        ).fit(Phi, y)

    best = measure(
        {"samestep": samestep, "problem made": lambda: samestep(made), "scikit-learn": sklearn}, seconds
    )
    return {
        "case": f"online descent {rows}x{columns} float64, {EPOCHS} epochs",
        "milliseconds": {name: 1e3 * seconds for name, seconds in best.items()},
        "nanoseconds_per_step": 1e9 * best["problem made"] / (EPOCHS * rows),
        "times_faster": best["scikit-learn"] / best["samestep"],
    }


def show(result: dict[str, Any]) -> None:
    times = ", ".join(f"{name} {t:.3g} ms" for name, t in result["milliseconds"].items())
    rest = ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}" for name, value in result.items() if isinstance(value, float)
    )
    print(f"{result['case']}: {times}; {rest}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each case")
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks the rows of the gradients' cases")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for library in ("OPENBLAS", "OMP", "MKL"):  # read when NumPy is imported
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)

    import numpy as np

    import samestep as ss
    from samestep.commands.bench.turns import take_turns

    ss.set_num_threads(options.threads)
    results = [
        gradient(int(rows * options.scale), columns, options.threads, options.seconds)
        for rows, columns in GRADIENTS
    ]
    results += [descent(rows, columns, options.seconds) for rows, columns in DESCENTS]
    if options.json:
        print(json.dumps({"isa": ss.info()["isa"], "threads": options.threads, "results": results}, indent=1))
    else:
        for result in results:
            show(result)
