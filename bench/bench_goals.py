"""Measures each case that has a goal, and prints the result beside the goal, with a verdict.

    python bench/bench_goals.py [--threads N] [--seconds S] [--rounds N] [--without CASE] [--json] [--quick]

Each call is timed in use: right after a backward pass of torch over 8 MB of activations, through
samestep.torch, or right after 8 MB of NumPy's work, through samestep. Ratios are the other's time over ours,
paired by rounds; a goal is met where the whole interval of 95 % reaches it, missed where none of it does.
GPT-2 small takes 7 GB of memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from threadpoolctl import threadpool_limits

import bench_batchnorm
import bench_mse
import bench_options
import bench_torch
import samestep as ss
from samestep.commands.bench import run
from samestep.commands.bench.cases import LISTS, Shapes
from samestep.commands.bench.compare import Comparison, compare
from samestep.commands.bench.roof import Roof
from samestep.commands.bench.situations import after_numpy, after_torch
from samestep.commands.bench.turns import Sample
from table import Table, parse, parser_of
from torch_calls import Calls, steps

LARGE, CACHED = 2**24, 2**14
IMPORT_SECONDS = 0.05

Contenders = tuple[Calls, Roof | None]


class Goal(NamedTuple):
    case: str
    beside: dict[str, float | None]  # whom, and the goal for its time over ours
    make: Callable[[int], Contenders]  # of a number of threads
    after_torch: bool = True  # or after NumPy's work


def of_torch(rule: str, shapes: Shapes) -> Callable[[int], Contenders]:
    def make(threads: int) -> Contenders:
        calls, optimizer = steps(rule, shapes, threads)
        return calls, bench_torch.roof_of_step(optimizer, threads)

    return make


def of_numpy(rule: str, shapes: Shapes) -> Callable[[int], Contenders]:
    return lambda threads: run.contenders_of(rule, shapes, ("torch",), threads)


def of_batchnorm(name: str, what: str, samples: int | None) -> Callable[[int], Contenders]:
    def make(threads: int) -> Contenders:
        arrays = bench_batchnorm.inputs(name, samples)
        own, theirs = bench_batchnorm.ours(*arrays), bench_batchnorm.torchs(*arrays, threads)
        return {"samestep": own[what], "torch": theirs[what]}, None

    return make


def of_gradient(rows: int, columns: int) -> Callable[[int], Contenders]:
    return lambda threads: (bench_mse.gradient(rows, columns, threads), None)


def of_threads(shapes: Shapes) -> Callable[[int], Contenders]:
    """A step on all threads, beside the same step on one."""

    def make(threads: int) -> Contenders:
        step = run.contenders_of("Adam", shapes, (), threads)[0]["samestep"]

        def on(n: int) -> Callable[[], None]:
            def call() -> None:
                ss.set_num_threads(n)
                step()

            return call

        return {"samestep": on(threads), "one thread": on(1)}, None

    return make


def goals(quick: bool) -> list[Goal]:
    large, samples, scale = (1000, 2, 1000) if quick else (LARGE, None, 1)
    lists = (
        {"tiny list": [(10,)] * 3} if quick else {name: LISTS[name] for name in ("ResNet-50", "GPT-2 small")}
    )
    best = {"SGD": 1.0, "Momentum": 1.1, "NAG": 1.1, "AdaGrad": 1.05, "Adam": 1.1}
    found = [
        Goal(f"{rule} {large:,}", {"torch best": goal, "roof": 0.95}, of_torch(rule, [(large,)]))
        for rule, goal in best.items()
    ]
    found += [
        Goal(f"RMSProp {large:,}", {"torch best": 5.0, "roof": None}, of_torch("RMSProp", [(large,)])),
        *(
            Goal(f"Adam {name}", {"torch fused": goal}, of_numpy("Adam", shapes), after_torch=False)
            for name, shapes, goal in (
                (f"1 x {CACHED:,}", [(CACHED,)], 4.0),
                ("1 x 64", [(64,)], 12.0),
                ("300 x 64", LISTS["300 x 64"], 20.0),
                ("1000 x 1000", LISTS["1000 x 1000"], 10.0),
            )
        ),
        *(
            Goal(f"Adam {name}", {"torch fused": 1.2, "roof": None}, of_torch("Adam", shapes))
            for name, shapes in lists.items()
        ),
        *(
            Goal(f"batch norm {name} {what}", {"torch": goal}, of_batchnorm(name, what, samples))
            for (name, what), goal in bench_batchnorm.GOALS.items()
        ),
        *(
            Goal(
                f"MSE gradient {rows // scale} x {columns}",
                {"NumPy": goal, bench_mse.ROOF: None},
                of_gradient(rows // scale, columns),
                after_torch=False,
            )
            for (rows, columns), goal in bench_mse.GRADIENTS.items()
        ),
        Goal(
            f"AdamW, all bfloat16, {large:,}",
            bench_options.GOALS["AdamW, all bfloat16"],
            lambda threads: (bench_options.contenders("AdamW, all bfloat16", large), None),
        ),
        Goal(f"Adam {large:,}", {"one thread": 1.7}, of_threads([(large,)]), after_torch=False),
    ]
    return found


def import_time(rounds: int) -> Comparison:
    """``import samestep`` after that of NumPy, in processes of their own.

    An installed package keeps its bytecode, and so does this: the first process compiles it, and is not
    counted.
    """
    code = "import numpy, time; t = time.perf_counter(); import samestep; print(time.perf_counter() - t)"
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        seconds = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code],
                    capture_output=True,
                    encoding="utf-8",
                    check=True,
                    env=environment,
                ).stdout
            )
            for _ in range(1 + rounds)
        ]
    own, limit = Sample(tuple(seconds[1:])), Sample((IMPORT_SECONDS,) * rounds)
    return Comparison("import samestep", "import numpy", own, limit, "50 ms", 1.0)


def main() -> None:
    parser = parser_of(__doc__, seconds=5.0)
    parser.add_argument("--without", nargs="*", default=(), metavar="CASE", help="cases to leave out")
    options = parse(parser)
    table = Table(options)
    with threadpool_limits(options.threads, "blas"):
        for goal in goals(options.quick):
            if any(part in goal.case for part in options.without):
                continue
            calls, roof = goal.make(options.threads)
            situation = after_torch() if goal.after_torch else after_numpy()
            table.add(
                compare(
                    goal.case,
                    calls,
                    goal.beside,
                    situation,
                    roof=roof,
                    seconds=options.seconds,
                    rounds=options.rounds,
                )
            )
            ss.set_num_threads(options.threads)
            del calls, roof
    table.add([import_time(options.rounds)])
    table.close()


if __name__ == "__main__":
    main()
