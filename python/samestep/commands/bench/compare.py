"""Compares a contender with another one, in one situation, against a goal; all benchmarks print its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .ratios import Ratio, Verdict, times_faster, verdict
from .roof import Roof
from .situations import ROOF, Situation
from .turns import ROUNDS, Sample

OURS, BEST = "samestep", "torch best"
__all__ = ["BEST", "OURS", "ROOF", "TABLE", "Comparison", "compare", "fastest"]

TABLE = (
    "| case | just before | us, min | us, median | beside | its median | times faster | goal | verdict |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Comparison:
    """Of one case: the other's time over one's own, in the same rounds."""

    case: str
    just_before: str  # what ran just before each timed call
    own: Sample
    other: Sample
    other_name: str
    goal: float | None = None  # for the ratio

    @property
    def ratio(self) -> Ratio:
        return times_faster(self.own, self.other)

    @property
    def verdict(self) -> Verdict | None:
        return None if self.goal is None else verdict(self.ratio, self.goal)

    def row(self) -> str:
        """Its row of ``TABLE``."""
        own, other = self.own.summary(), self.other.summary()
        goal = "" if self.goal is None else f"{self.goal:.3g}x"
        return (
            f"| {self.case} | {self.just_before} | {own['minimum_us']:.4g} | {own['median_us']:.4g} | "
            f"{self.other_name} | {other['median_us']:.4g} | {self.ratio} | {goal} | {self.verdict or ''} |"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "just_before": self.just_before,
            "rounds": len(self.own.seconds),
            "own": self.own.summary(),
            "other": {"name": self.other_name, **self.other.summary()},
            "times_faster": self.ratio.as_dict(),
            "goal": self.goal,
            "verdict": self.verdict,
        }


def compare(
    case: str,
    contenders: Mapping[str, Callable[[], Any]],
    beside: Mapping[str, float | None],
    situation: Situation,
    *,
    roof: Roof | None = None,
    seconds: float = 0.0,
    rounds: int = ROUNDS,
) -> list[Comparison]:
    """Compares "samestep" with others that take turns with it.

    Args:
        case: what is called.
        contenders: "samestep" and others. Those that nobody is compared with are not called.
        beside: the others' names, with the goal for each. "torch best" stands for that one of torch's
            contenders whose median is the least, unless that one is named as well; "roof" for the roof. A
            name that there is not is left out.
        situation: what runs just before each timed call.
        roof: of the arrays of "samestep".
        seconds, rounds: see ``take_turns``.

    Example:
        >>> from samestep.commands.bench.compare import compare
        >>> from samestep.commands.bench.situations import HOT
        >>> calls = {"samestep": lambda: sum(range(100)), "numpy": lambda: sum(range(10_000))}
        >>> (found,) = compare("a sum", calls, {"numpy": 2.0, "torch best": 1.0}, HOT, rounds=6)
        >>> found.other_name, found.goal, found.just_before
        ('numpy', 2.0, 'itself')
    """
    of_torch = {name for name in contenders if name.startswith("torch")}
    wanted = {OURS} | set(beside) | (of_torch if BEST in beside else set())
    called = {name: call for name, call in contenders.items() if name in wanted}
    samples = situation.sample(called, seconds, rounds, roof if ROOF in beside else None)
    best = fastest({name: sample for name, sample in samples.items() if name in of_torch})
    goals = {best if name == BEST and best else name: goal for name, goal in beside.items()}
    goals |= {name: goal for name, goal in beside.items() if name in samples}
    return [
        Comparison(case, situation.just_before, samples[OURS], samples[name], name, goal)
        for name, goal in goals.items()
        if name in samples
    ]


def fastest(samples: Mapping[str, Sample]) -> str | None:
    """The name of the contender whose median is the least, if there is any.

    Example:
        >>> from samestep.commands.bench.compare import fastest
        >>> from samestep.commands.bench.turns import Sample
        >>> fastest({"loop": Sample((2.0, 3.0)), "fused": Sample((1.0, 9.0))})
        'loop'
    """
    return min(samples, key=lambda name: samples[name].median, default=None)
