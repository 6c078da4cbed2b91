"""What recording a run costs: a step that is recorded beside the same step without.

    python bench/bench_recording.py [--threads N] [--seconds S] [--rounds N] [--without CASE] [--json]

Every step is recorded, with all states. *fingerprints* are made in the step's pass and go nowhere; *recorded*
is the whole, the line with its sha256 written to a file as well. Ratios are the plain step's time over the
other's, so that 0.97x costs 3 %. Large cases run right after a backward pass of torch, where torch is
installed, small ones right after 8 MB of NumPy's work, and hot ones right after their own calls.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samestep.commands.bench.cases import RULES, Shapes
from samestep.commands.bench.compare import Comparison
from samestep.commands.bench.situations import HOT, Situation, after_numpy
from table import Table, both_situations, parse, parser_of


class Case(NamedTuple):
    name: str
    shapes: Shapes
    where: str  # "torch", "numpy" or "hot": what runs just before
    goals: dict[str, float]


IN_CACHE = {"fingerprints": 1 / 1.3, "recorded": 1 / 1.3}
CASES = (
    Case("Adam 16,777,216", [(2**24,)], "torch", {"fingerprints": 1 / 1.03, "recorded": 1 / 1.03}),
    Case("Adam 300 x 64", [(64,)] * 300, "hot", IN_CACHE),
    Case("Adam 300 x 64", [(64,)] * 300, "numpy", IN_CACHE),
    Case("Adam 1000 x 1000", [(1000, 1000)], "hot", {}),
)


def step_of(case: Case, way: str, folder: Path) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    params, grads = ([rng.standard_normal(s, dtype=np.float32) for s in case.shapes] for _ in range(2))
    optimizer = RULES["Adam"](params)
    if way == "recorded":
        optimizer.record(folder / f"{case.name}-{case.where}.jsonl")
    if way != "fingerprints":
        return lambda: optimizer.step(grads)
    sums = np.zeros((len(params), 4), np.uint64)
    plan, hyper = optimizer._plan, optimizer._hyper_values
    return lambda: plan.step(grads, hyper, 1.0, sums)


def measure(case: Case, situation: Situation, seconds: float, rounds: int) -> list[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        calls = {way: step_of(case, way, Path(folder)) for way in ("plain", "fingerprints", "recorded")}
        samples = situation.sample(calls, seconds, rounds)
    plain = samples.pop("plain")
    return [
        Comparison(f"{case.name}, {way}", situation.just_before, own, plain, "without", case.goals.get(way))
        for way, own in samples.items()
    ]


def main() -> None:
    parser = parser_of(__doc__, seconds=6.0)
    parser.add_argument("--without", nargs="*", default=(), metavar="CASE", help="cases to leave out")
    options = parse(parser)
    situations = {"hot": HOT, "numpy": after_numpy(), "torch": both_situations()[-1]}
    table = Table(options)
    for case in CASES:
        if any(part in case.name for part in options.without):
            continue
        if options.quick:
            case = case._replace(shapes=[(2**10,)], goals={})
        table.add(measure(case, situations[case.where], options.seconds, options.rounds))
    table.close()


if __name__ == "__main__":
    main()
