"""The report's items: what a text says, what is measured for it, and whether that holds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Relation = Literal["=", "≤", "≥"]
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Check:
    """One measured number, or a few, with what theory expects.

    Attributes:
        what: the name of the quantity.
        measured: the numbers.
        relation: "=" means within the tolerance, number by number.
        expected: one for each measured number.
        tolerance: of "=", absolute, one for each; otherwise 0.
    """

    what: str
    measured: Numbers
    relation: Relation
    expected: Numbers
    tolerance: Numbers

    @property
    def passed(self) -> bool:
        """Whether the relation holds; never with NaN."""
        x, e, room = (np.array(numbers) for numbers in (self.measured, self.expected, self.tolerance))
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is near nothing
            holds = {"=": abs(x - e) <= room, "≤": x <= e, "≥": x >= e}[self.relation]
        return bool(np.all(holds))


def near(what: str, measured: Any, expected: Any, rel: float = 0.0, abs: float = 0.0) -> Check:
    """measured = expected, within rel times |expected| plus abs; without either, to the bit."""
    wanted = _numbers(expected)
    got = _numbers(measured)
    if len(got) != len(wanted):
        raise ValueError(f"{what}: got {len(got)} numbers, expected {len(wanted)}")
    return Check(what, got, "=", wanted, tuple(rel * np.abs(wanted) + abs))


def at_most(what: str, measured: Any, bound: float) -> Check:
    """measured ≤ bound, for each of them."""
    got = _numbers(measured)
    return Check(what, got, "≤", (float(bound),) * len(got), (0.0,) * len(got))


def at_least(what: str, measured: Any, bound: float) -> Check:
    """measured ≥ bound, for each of them."""
    got = _numbers(measured)
    return Check(what, got, "≥", (float(bound),) * len(got), (0.0,) * len(got))


def never(what: str, violations: Any) -> Check:
    """The number of true comparisons is 0."""
    return near(what, float(np.count_nonzero(violations)), 0.0)


def _numbers(values: Any) -> Numbers:
    return tuple(map(float, np.ravel(values)))


Checks = Sequence[Check]
Measure = Callable[[bool], Checks]


@dataclass(frozen=True)
class Item:
    """A statement of the texts.

    Attributes:
        key: its place in the texts: A the notes, B the slides.
        title: its subject.
        formula: in the markup of markup.py; "" where the text has none.
        remark: what the text says and what is right.
        measure: called with ``quick``; returns the checks.
        quick: what ``--quick`` measures instead, in words; "" where it measures the same.
    """

    key: str
    title: str
    formula: str
    remark: str
    measure: Measure
    quick: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """What sorts items in the order of the texts."""
        return self.key[0], int(re.findall(r"\d+", self.key)[0])


@dataclass(frozen=True)
class Row:
    """An item and its checks."""

    item: Item
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all its checks passed."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts."""
        return {
            "item": self.item.key,
            "title": self.item.title,
            "formula": self.item.formula,
            "checks": [{**vars(check), "passed": check.passed} for check in self.checks],
            "passed": self.passed,
        }


ITEMS: list[Item] = []  # as the modules that measure are imported


def item(key: str, title: str, formula: str = "", quick: str = "") -> Callable[[Measure], Measure]:
    """Adds an item: the decorated function measures, its docstring is the remark."""

    def add(measure: Measure) -> Measure:
        ITEMS.append(Item(key, title, formula, inspect.getdoc(measure) or "", measure, quick))
        return measure

    return add


def measured(item: Item, quick: bool) -> Row:
    """Measures an item."""
    return Row(item, tuple(item.measure(quick)))
