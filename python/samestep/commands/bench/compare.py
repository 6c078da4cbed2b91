"""Compares a contender with another one, in one situation, against a goal; all benchmarks print its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .ratios import Ratio, Verdict, times_faster, verdict
from .turns import Sample

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


def fastest(samples: Mapping[str, Sample]) -> str | None:
    """The name of the contender whose median is the least, if there is any.

    Example:
        >>> from samestep.commands.bench.compare import fastest
        >>> from samestep.commands.bench.turns import Sample
        >>> fastest({"loop": Sample((2.0, 3.0)), "fused": Sample((1.0, 9.0))})
        'loop'
    """
    return min(samples, key=lambda name: samples[name].median, default=None)
