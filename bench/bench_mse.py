"""Times the gradient of the mean squared error beside NumPy, and online descent beside scikit-learn.

    python bench/bench_mse.py [--threads N] [--seconds S] [--json] [--quick]

Each case is timed hot and right after 8 MB of NumPy's work. "reading Phi once" is the roof of a gradient:
np.max of a part of the rows on each thread. threadpoolctl, which scikit-learn brings, sets the threads of
NumPy's BLAS.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import samestep as ss
from samestep.commands.bench.compare import compare
from samestep.commands.bench.situations import HOT, after_numpy
from table import Table, parse, parser_of

Calls = dict[str, Callable[[], Any]]

GRADIENTS = {(1_000_000, 64): 1.8, (200_000, 512): 1.4}  # and the goals for NumPy's time over ours
DESCENTS = {(442, 10): 2.0, (20_000, 64): 2.0}  # for scikit-learn's
EPOCHS = 5
LR = 1e-4
ROOF = "reading Phi once"


def gradient(rows: int, columns: int, threads: int) -> Calls:
    """One gradient over all rows, float32."""
    rng = np.random.default_rng(0)
    Phi = rng.standard_normal((rows, columns), np.float32)
    w = rng.standard_normal(columns, np.float32)
    y = Phi @ w + rng.standard_normal(rows, np.float32)
    problem = ss.problems.MSE(Phi, y)
    parts, pool = np.array_split(Phi, threads), ThreadPoolExecutor(threads)
    return {
        "samestep": lambda: problem.gradient(w),
        "NumPy": lambda: Phi.T @ (Phi @ w - y),
        ROOF: lambda: list(pool.map(np.max, parts)),
    }


def descent(rows: int, columns: int) -> Calls:
    """Epochs of shuffled online descent, float64, from the arrays to the weights."""
    from sklearn.linear_model import SGDRegressor

    rng = np.random.default_rng(0)
    Phi = rng.standard_normal((rows, columns))
    y = Phi @ rng.standard_normal(columns) + rng.standard_normal(rows)
    w0 = np.zeros(columns)

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

    made = ss.problems.MSE(Phi, y)
    return {
        "samestep": samestep,
        "the problem made before": lambda: samestep(made),
        "scikit-learn": sklearn,
    }


def main() -> None:
    options = parse(parser_of(__doc__, seconds=4.0))
    scale = 1000 if options.quick else 1
    table = Table(options)
    with threadpool_limits(options.threads):
        for situation in (HOT, after_numpy()):
            for (rows, columns), goal in GRADIENTS.items():
                rows //= scale
                table.add(
                    compare(
                        f"gradient {rows}x{columns} float32",
                        gradient(rows, columns, options.threads),
                        {"NumPy": goal, ROOF: None},
                        situation,
                        seconds=options.seconds,
                        rounds=options.rounds,
                    )
                )
            for (rows, columns), goal in DESCENTS.items():
                table.add(
                    compare(
                        f"online descent {rows}x{columns} float64, {EPOCHS} epochs",
                        descent(rows, columns),
                        {"scikit-learn": goal, "the problem made before": None},
                        situation,
                        seconds=options.seconds,
                        rounds=options.rounds,
                    )
                )
    table.close()


if __name__ == "__main__":
    main()
