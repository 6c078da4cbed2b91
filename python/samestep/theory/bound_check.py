"""What check_run finds: a BoundCheck for each bound, and the RunCheck that holds them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from ..problems import Float64s

Condition = tuple[str, bool]  # in words, and whether the run meets it


@dataclass(frozen=True, eq=False)
class BoundCheck:
    """One bound, compared with a run.

    Attributes:
        name: short, such as ``"descent"``.
        formula: the bound as text.
        condition: when theory promises the bound, item by item.
        promised: whether the run meets the condition.
        steps: the step numbers of the comparison, int64.
        measured: the run's value at each of them: the gap L - L*, or |g|.
        bound: the largest value that the bound allows; for the check "modes", the exact value.
        rounding: by how much ``measured`` may be off.
        held: whether the bound held at each step, up to rounding.
        missing: the items of the condition that the run does not meet; empty where the bound is promised.
    """

    name: str
    formula: str
    condition: str
    promised: bool
    steps: npt.NDArray[np.int64]
    measured: Float64s
    bound: Float64s
    rounding: Float64s
    held: npt.NDArray[np.bool_]
    missing: str = ""

    @property
    def holds(self) -> bool:
        """Whether the bound held at every step."""
        return bool(self.held.all())

    @property
    def first_failure(self) -> int | None:
        """The first step at which the bound did not hold; None: it always held."""
        return None if self.holds else int(self.steps[np.argmin(self.held)])

    @property
    def tightness(self) -> float:
        """The largest (measured - rounding)/bound: 1 is attained, above 1 broken; 0 without any step."""
        return float(np.max(self._shares, initial=0.0))

    @property
    def tightest(self) -> int | None:
        """The step of the largest share; None without any step."""
        return int(self.steps[np.argmax(self._shares)]) if len(self.steps) else None

    @property
    def _shares(self) -> Float64s:
        with np.errstate(all="ignore"):
            certain = self.measured - self.rounding
            shares: Float64s = np.where(certain > 0.0, certain / self.bound, 0.0)
        return np.nan_to_num(shares, nan=0.0, posinf=inf)

    def __str__(self) -> str:
        verdict = "held" if self.holds else f"broken at step {self.first_failure}"
        promise = "promised" if self.promised else f"not promised (needs {self.missing})"
        return (
            f"{self.name}: {self.formula}: {verdict}, {promise}; tightest at step {self.tightest}: "
            f"{self.tightness:.4g} of the bound"
        )


def bound_check(
    name: str,
    formula: str,
    conditions: Sequence[Condition],
    steps: npt.NDArray[np.int64],
    measured: Float64s,
    bound: Float64s,
    rounding: Float64s,
    held: npt.NDArray[np.bool_],
) -> BoundCheck:
    """The check of a bound that is promised where the run meets every condition."""
    condition = ", ".join(text for text, _ in conditions)
    missing = ", ".join(text for text, met in conditions if not met)
    return BoundCheck(name, formula, condition, not missing, steps, measured, bound, rounding, held, missing)


@dataclass(frozen=True, eq=False)
class RunCheck:
    """What check_run found.

    Attributes:
        rule: the optimizer's rule.
        bounds: one BoundCheck for each bound of the rule that can be computed from the problem's numbers.
        diverged: whether the run ended worse than it began. No bound need be broken then: there may be no
            promise, or the theory itself may say that the run diverges.
        unknown: the numbers that the problem lacks for the bounds that are left out.
    """

    rule: str
    bounds: tuple[BoundCheck, ...]
    diverged: bool = False
    unknown: tuple[str, ...] = ()

    @property
    def ok(self) -> bool | None:
        """Whether every promised bound held; None where nothing is promised."""
        promised = [check.holds for check in self.bounds if check.promised]
        return all(promised) if promised else None

    def __getitem__(self, name: str) -> BoundCheck:
        """The bound of that name."""
        for check in self.bounds:
            if check.name == name:
                return check
        raise KeyError(f"{name!r}; there are {', '.join(repr(check.name) for check in self.bounds)}")

    def __str__(self) -> str:
        promised = [check.holds for check in self.bounds if check.promised]
        verdict = f"promised bounds that held: {promised.count(True)} of {len(promised)}"
        if not promised:
            verdict = "nothing was promised"
        lines = [f"{self.rule}: {'diverged; ' if self.diverged else ''}{verdict}"]
        lines += [f"  {check}" for check in self.bounds]
        if self.unknown:
            handed = ", ".join(f"{name}=..." for name in self.unknown)
            lines.append(f"  more with what the problem does not know: problems.Function(..., {handed})")
        return "\n".join(lines)
