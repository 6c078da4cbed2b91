"""What a step that tunes itself finds, beside each setting kept from the start, and what its trials cost.

    python bench/bench_tuner.py [--threads N] [--seconds S] [--rounds N] [--without CASE] [--json] [--quick]

First the table: a step after its trials beside the fastest of the fixed settings, by the median; the goal of
0.98 says that it loses 2 % at most. Then the trials: the first 50 steps of a new optimizer over the same 50
with the default kept, which take turns with them, and the slowest of each over the default's median. Then
what the tuner saw: of each setting the medians of its trials, and which it kept. Large cases run right after
a backward pass of torch, where torch is installed, and small ones right after 8 MB of NumPy's work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from samestep.commands.bench.cases import LISTS, RULES, Shapes
from samestep.commands.bench.compare import OURS, Comparison, fastest
from samestep.commands.bench.situations import Situation, after_numpy
from table import Table, both_situations, parse, parser_of

GOAL = 0.98
FIRST_STEPS = 50


class Case(NamedTuple):
    name: str
    rule: str
    shapes: Shapes
    after_torch: bool = True  # where torch is installed; or after NumPy's work


CASES = (
    *(Case(f"{rule} 16,777,216", rule, [(2**24,)]) for rule in RULES),
    Case("Adam ResNet-50", "Adam", LISTS["ResNet-50"]),
    Case("Adam 1000 x 1000", "Adam", LISTS["1000 x 1000"], False),
    Case("Adam 262,144", "Adam", [(2**18,)], False),
    Case("Adam 1 x 16,384", "Adam", [(2**14,)], False),
)


class Step:
    """A step of a new optimizer, with one of its settings kept or, without, tuned."""

    def __init__(self, case: Case, setting: int | None = None) -> None:
        rng = np.random.default_rng(0)
        params, self.grads = (
            [rng.standard_normal(shape, dtype=np.float32) for shape in case.shapes] for _ in range(2)
        )
        self.optimizer = RULES[case.rule](params)
        self.plan = self.optimizer._plan
        if setting is not None:
            self.plan.keep(setting)

    def __call__(self) -> None:
        self.optimizer.step(self.grads)

    @property
    def settings(self) -> list[str]:
        return [f"{item:,} on {threads}" for item, threads, *_ in self.plan.trials]


def measure(case: Case, situation: Situation, seconds: float, rounds: int) -> Comparison:
    tuned = Step(case)
    calls: dict[str, Callable[[], Any]] = {OURS: tuned}
    for index, name in enumerate(tuned.settings):
        calls[f"kept: {name}"] = Step(case, index)
    samples = situation.sample(calls, seconds, rounds)
    own = samples.pop(OURS)
    best = fastest(samples)
    assert best is not None
    return Comparison(case.name, situation.just_before, own, samples[best], best, GOAL)


def first_steps(case: Case, situation: Situation, steps: int) -> tuple[list[float], list[float], Step]:
    """Seconds of each: tuned, and with the default kept; the tuned step. The very first waits for pages."""
    both = Step(case), Step(case, 0)
    times: tuple[list[float], list[float]] = ([], [])
    work = situation.work
    for k in range(1 + steps):
        for step, found in list(zip(both, times, strict=True))[:: 1 if k % 2 else -1]:
            if work is not None:
                work()
            start = time.perf_counter()
            step()
            found.append(time.perf_counter() - start)
    return times[0][1:], times[1][1:], both[0]


def main() -> None:
    parser = parser_of(__doc__, seconds=4.0)
    parser.add_argument("--without", nargs="*", default=(), metavar="CASE", help="cases to leave out")
    options = parse(parser)
    wanted = [case for case in CASES if not any(part in case.name for part in options.without)]
    if options.quick:
        wanted = [case._replace(shapes=[(2**13,)]) for case in wanted]
    large = both_situations()[-1]
    small = after_numpy()
    table = Table(options)
    trials = []
    for case in wanted:
        situation = large if case.after_torch else small
        table.add([measure(case, situation, options.seconds, options.rounds)])
        tuned, default, step = first_steps(case, situation, 3 if options.quick else FIRST_STEPS)
        usual = statistics.median(default)
        trials.append(
            {
                "case": case.name,
                "first_steps_over_the_defaults": sum(tuned) / sum(default),
                "slowest_over_the_defaults_median": max(tuned) / usual,
                "slowest_default_over_its_median": max(default) / usual,
                "log": [
                    {"setting": name, "trials_us": [1e6 * s for s in seconds], "kept": kept}
                    for name, (*_, seconds, kept) in zip(step.settings, step.plan.trials, strict=True)
                ],
            }
        )
    if not options.json:
        show(trials)
    table.close(trials=trials)


def show(trials: list[dict[str, Any]]) -> None:
    print(
        f"\n| case | its first {FIRST_STEPS} steps, over the default's | slowest, over the default's median "
        "| slowest default | medians of the trials, us | kept |\n|---|---|---|---|---|---|"
    )
    for row in trials:
        log, shares = row["log"], [value for key, value in row.items() if "over" in key]
        medians = [
            f"{one['setting']}: {statistics.median(one['trials_us']):.4g}" for one in log if one["trials_us"]
        ]
        kept = [one["setting"] for one in log if one["kept"]]
        print(
            f"| {row['case']} | {' | '.join(f'{share:.2f}' for share in shares)} "
            f"| {'; '.join(medians) or 'one setting'} | {''.join(kept)} |"
        )


if __name__ == "__main__":
    main()
