"""The distance of two runs as a grid: a row for each tensor, a column for one step or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from .compare import STEPPED, Diff
from .elements import most_ulps

# Given a step, a tensor and a kind: the arrays of A and B, or None where they are not known.
Values = Callable[[int, str, str], tuple[NDArray[Any], NDArray[Any]] | None]

MOST_BITS = 32.0  # a distance of 2^32 units of last place or more is the largest that is shown


@dataclass(frozen=True)
class Picture:
    """How far apart two runs are, over steps and tensors.

    Attributes:
        columns: the first and the last step of each.
        rows: by tensor, in the order of A, a level for each column: 0 for equal, 1 for as far as can be.
        is_in_ulps: the level is the logarithm of the largest distance in units of last place; otherwise, the
            share of the kinds that differ.
        lit: the tensor and the column where the runs part; None: they do not, or in no tensor.
    """

    columns: tuple[tuple[int, int], ...]
    rows: Mapping[str, tuple[float, ...]]
    is_in_ulps: bool
    lit: tuple[str, int] | None

    def nearest_the_parting(self, n: int) -> list[str]:
        """The n tensors that part first, in the order of the rows."""
        order = list(self.rows)

        def parts_at(name: str) -> tuple[int, int]:
            levels = self.rows[name]
            parted = (column for column, level in enumerate(levels) if level > 0.0)
            return next(parted, len(levels)), order.index(name)

        return sorted(sorted(order, key=parts_at)[:n], key=order.index)


def picture(found: Diff, columns: int, values: Values | None = None) -> Picture:
    """Draws how far apart two runs are.

    A cell has the largest level of its steps. Without all values, that of a step is the share of the kinds in
    which the tensor differs. With them it is ``log2(1 + d)/32``, at most 1, with d the largest distance of
    two elements in units of last place.

    Args:
        found: the comparison.
        columns: the most columns; where there are more steps, each column is for several.
        values: the arrays of both runs, where they can be had.
    """
    n = len(found.steps)
    edges = [n * i // min(n, columns) for i in range(min(n, columns) + 1)]
    spans = [found.steps[first:last] for first, last in pairwise(edges)]
    column_of = {step: column for column, span in enumerate(spans) for step in span}
    try:
        rows = _rows(found, column_of, len(spans), values)
    except LookupError:  # a replay knows those of one step
        values = None
        rows = _rows(found, column_of, len(spans), None)
    first = found.first
    has_tensor = first is not None and first.name in rows and first.what not in ("extra", "hyper", "scale")
    return Picture(
        tuple((span[0], span[-1]) for span in spans),
        {name: tuple(levels) for name, levels in rows.items()},
        values is not None,
        (first.name, column_of[first.step]) if first is not None and has_tensor else None,
    )


def _rows(
    found: Diff, column_of: Mapping[int, int], columns: int, values: Values | None
) -> dict[str, list[float]]:
    """Of each tensor the levels of all columns; LookupError where a value is not known."""
    rows = {name: [0.0] * columns for name in found.shared.tensors}
    for a, b in found.pairs():
        for name, kinds in found.shared.parted(a, b).items():
            level = _level(found, a.step, name, kinds, values)
            column = column_of[a.step]
            rows[name][column] = max(rows[name][column], level)
    return rows


def _level(found: Diff, step: int, name: str, kinds: tuple[str, ...], values: Values | None) -> float:
    if values is None or kinds == (STEPPED,):
        return 1.0 if kinds == (STEPPED,) else len(kinds) / len(found.shared.kinds)
    known = [pair for kind in kinds if (pair := values(step, name, kind)) is not None]
    if not known:
        raise LookupError(f"{name}: no values of step {step}")
    ulps = max(most_ulps(*pair) for pair in known)
    return min(1.0, math.log2(1 + max(ulps, 1)) / MOST_BITS)
