"""Hyper-parameters: their ranges, and how an optimizer shows those of its groups as attributes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..arguments import check_rounded, number

Rate = float | Callable[[int], float]  # a hyper-parameter that may be a callable of the step number


class HasGroups(Protocol):
    """What a hyper-parameter uses of the optimizer whose attribute it is."""

    @property
    def groups(self) -> Sequence[Mapping[str, float]]: ...

    def _set_hyper(self, **values: Any) -> None: ...


class Hyper:
    """A hyper-parameter: settable at any time, refused outside ``[at_least, below)`` or above ``at_most``.

    On the optimizer it is that of all groups: reading it is an error where they differ.
    ``scheduled``: it may be a callable of the step number t. ``optional``: not shown in repr when 0.
    ``follows``: None means "use the value of this other hyper-parameter".
    ``in_float64``: it is never rounded to the type of the parameters.
    """

    def __init__(
        self,
        *,
        at_least: float,
        below: float = math.inf,
        at_most: float = math.inf,
        scheduled: bool = False,
        optional: bool = False,
        follows: str | None = None,
        in_float64: bool = False,
    ) -> None:
        self.at_least = at_least
        self.below = below
        self.at_most = at_most
        self.scheduled = scheduled
        self.optional = optional
        self.follows = follows
        self.in_float64 = in_float64

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: HasGroups | None, owner: type) -> Any:
        if optimizer is None:
            return self
        values = {group[self.name] for group in optimizer.groups}
        if len(values) > 1:
            raise ValueError(f"{self.name}: differs between groups; read groups[i][{self.name!r}]")
        return values.pop()

    def __set__(self, optimizer: HasGroups, value: Any) -> None:
        optimizer._set_hyper(**{self.name: value})

    def check(self, value: Any, is_single: bool = False, may_vanish: bool = False) -> float | None:
        """The value, if it is in range.

        ``is_single``: also after it is rounded to float32, in which some of the parameters are stepped.
        ``may_vanish``: there it may become 0, as the values of a schedule that fades do.
        """
        if value is None and self.follows is not None:
            return None
        found = number(self.name, value)
        if not (self.at_least <= found < self.below and found <= self.at_most):  # NaN fails as well
            end = f"{self.below:g})" if self.at_most == math.inf else f"{self.at_most:g}]"
            raise ValueError(f"{self.name}: got {found}, expected a number in [{self.at_least:g}, {end}")
        if is_single and not self.in_float64:
            check_rounded(self.name, found, np.float32, below=self.below, may_vanish=may_vanish)
        return found


def pair(betas: Any) -> tuple[Any, Any]:
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas: got {betas!r}, expected two numbers, such as (0.9, 0.999)")
    return betas[0], betas[1]
