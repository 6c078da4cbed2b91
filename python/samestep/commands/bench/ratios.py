"""How many times as fast: the ratio of two contenders' times in the same rounds, its interval, a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

from .turns import Sample

ONE_IN = 20  # of the intervals, not more, may miss the true median: they hold it with 95 %
Verdict = Literal["met", "missed", "inconclusive"]


class Ratio(NamedTuple):
    """The median of paired ratios, and the interval that holds the true one with 95 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{self.median:.2f}x (too few rounds)"
        return f"{self.median:.2f}x ({self.low:.2f} to {self.high:.2f})"

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which has no infinity: without an interval, ``low`` and ``high`` are None."""
        low, high = (None, None) if self.high == math.inf else (self.low, self.high)
        return {"median": self.median, "low": low, "high": high}


def median_of(values: Sequence[float]) -> Ratio:
    """The median of n values and the interval between their k-th least and k-th largest.

    Each value lies below the true median with probability 1/2. So it lies outside the interval with
    probability 2 P(B < k), where B is binomial (n, 1/2); k is the largest with which that is 5 % at most.
    Nothing is drawn at random. Below six values even the least and the largest are not enough, and the
    interval is 0 to infinity.

    Example:
        >>> from samestep.commands.bench.ratios import median_of
        >>> median_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
        Ratio(median=5.0, low=2.0, high=8.0)
        >>> median_of([1.0, 2.0, 3.0])
        Ratio(median=2.0, low=0.0, high=inf)
    """
    ordered, n = sorted(values), len(values)
    k, below = 0, 1  # below: of 2**n equal cases, those with at most k values below the true median
    while 2 * below * ONE_IN <= 2**n:
        k += 1
        below += math.comb(n, k)
    low, high = (ordered[k - 1], ordered[n - k]) if k else (0.0, math.inf)
    return Ratio(statistics.median(ordered), low, high)


def times_faster(own: Sample, other: Sample) -> Ratio:
    """The other's time over one's own, paired by rounds."""
    return median_of([b / a for a, b in zip(own.seconds, other.seconds, strict=True)])


def verdict(ratio: Ratio, goal: float) -> Verdict:
    """Whether the ratio is at least the goal: by the whole interval, or else it is inconclusive.

    Example:
        >>> from samestep.commands.bench.ratios import Ratio, verdict
        >>> [verdict(Ratio(1.1, 1.05, 1.2), goal) for goal in (1.05, 1.1, 1.25)]
        ['met', 'inconclusive', 'missed']
    """
    if ratio.low >= goal:
        return "met"
    return "missed" if ratio.high < goal else "inconclusive"
