"""Checks of arguments that are numbers, switches, paths or one of a few names."""

from __future__ import annotations

import math
import operator
import os
from typing import Any

import numpy as np


def number(name: str, value: Any) -> float:
    """``value`` as a float. Text and arrays of several elements are refused."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: got {value!r}, expected a number") from None
    except OverflowError:
        raise ValueError(f"{name}: got a number beyond those of float64, expected a smaller one") from None


def finite_number(name: str, value: Any, *, at_least: float = -math.inf) -> float:
    """``value`` as a float that is neither infinite nor NaN."""
    found = number(name, value)
    if not (math.isfinite(found) and found >= at_least):
        least = "" if at_least == -math.inf else f", {at_least:g} or more"
        raise ValueError(f"{name}: got {found}, expected a finite number{least}")
    return found


def whole_number(name: str, value: Any, *, at_least: int) -> int:
    """``value`` as Python's int, which never overflows. Bools and floats are refused."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {value!r}, expected a whole number")
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, expected a whole number") from None
    if found < at_least:
        raise ValueError(f"{name}: got {found}, expected {at_least} or more")
    return found


def switch(name: str, value: Any) -> bool:
    """``value`` as a bool; only True, False, 1 and 0 are accepted."""
    if not isinstance(value, (bool, int, np.bool_, np.integer)) or value not in (True, False):
        raise TypeError(f"{name}: got {value!r}, expected True or False")
    return bool(value)


def file_path(name: str, value: Any) -> str:
    """``value`` as the text of a path. Paths of bytes are refused."""
    if isinstance(value, (str, os.PathLike)) and isinstance(found := os.fspath(value), str):
        return found
    raise TypeError(f"{name}: got {value!r}, expected a str or os.PathLike")


def check_choice(name: str, value: Any, expected: tuple[str | None, ...]) -> None:
    """Raises ValueError unless ``value`` is one of the expected names."""
    # An array is refused by its type: `in` would compare each of its elements.
    if not (value is None or isinstance(value, str)) or value not in expected:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(str, expected))}")


def check_rounded(
    name: str, value: float, dtype: Any, *, below: float = math.inf, may_vanish: bool = False
) -> None:
    """Raises if rounding to ``dtype``, in which ``value`` is used, changes what it means.

    That is so if it becomes 0 (unless it ``may_vanish``), or if ``below``, such as 1 for a momentum or
    infinity, no longer lies above it.
    """
    with np.errstate(over="ignore"):
        rounded = float(np.dtype(dtype).type(value))
    if abs(rounded) >= below > abs(value) or (rounded == 0.0 and value != 0.0 and not may_vanish):
        raise ValueError(
            f"{name}: got {value!r}, which is {rounded:g} in {np.dtype(dtype)}, where it is used; expected a "
            f"number that {np.dtype(dtype)} tells from {rounded:g}"
        )
