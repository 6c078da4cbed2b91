"""Checks of arguments, shared by the formulas: numbers, functions, problems, names of methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from ..problems.mse import claimed

Method = Literal["sgd", "momentum", "heavy_ball", "nag", "nesterov", "look_ahead"]

# The optimizer's family of every spelling of every method.
FAMILIES: dict[str, str] = {
    "sgd": "sgd",
    "momentum": "momentum",
    "heavy_ball": "momentum",
    "nag": "nag",
    "nesterov": "nag",
    "look_ahead": "nag",
}
assert set(FAMILIES) == set(get_args(Method))


def check_method(argument: str, name: Any, *families: str) -> str:
    """The family of a method's name, or a ValueError that lists the names."""
    spellings = {s: family for s, family in FAMILIES.items() if not families or family in families}
    if not isinstance(name, str) or name not in spellings:
        expected = ", ".join(map(repr, spellings))
        raise ValueError(
            f"{argument}: got {name!r}, expected one of {expected}"
            " ('momentum' is 'heavy_ball'; 'nag', 'nesterov' and 'look_ahead' are one)"
        )
    return spellings[name]


def check_positive(**values: Any) -> None:
    """TypeError or ValueError that names the first value that is not positive and finite."""
    _check_all(values, lambda a: (a > 0.0) & (a < np.inf), "a positive finite number")


def check_not_negative(**values: Any) -> None:
    """TypeError or ValueError that names the first value that is negative or not finite."""
    _check_all(values, lambda a: (a >= 0.0) & (a < np.inf), "a finite number, 0 or more")


def check_momentum(momentum: Any, expected: str = "a number in [0, 1)") -> None:
    """TypeError or ValueError unless 0 <= momentum < 1."""
    _check_all({"momentum": momentum}, lambda a: (a >= 0.0) & (a < 1.0), expected)


def _check_all(values: dict[str, Any], good: Callable[[Any], Any], expected: str) -> None:
    """Checks a number, or each element of an array where a formula takes arrays."""
    for name, value in values.items():
        check_number(name, value, expected)
        passed = good(np.asarray(value))
        if not passed.all():
            first = value if passed.ndim == 0 else np.asarray(value)[~passed].flat[0]
            raise ValueError(f"{name}: got {first}, expected {expected}")


def check_number(name: str, value: Any, expected: str = "a number") -> None:
    """TypeError unless value is a real number or an array of them; it names what to pass instead."""
    if np.asarray(value).dtype.kind not in "iuf":
        last = name.rpartition(".")[2]
        owns = isinstance(getattr(value, last, None), (int, float))
        fix = f"; pass its number, such as problem.{last}" if owns else ""
        raise TypeError(f"{name}: got {_kind(value)}, expected {expected}{fix}")


def as_number(value: Any) -> Any:
    """A scalar unchanged, so that a formula of Python's floats returns one; a list as an array."""
    return value if np.ndim(value) == 0 else np.asarray(value, dtype=np.float64)


def check_function(name: str, value: Any) -> None:
    """TypeError unless value can be called; of a problem it names the method to pass."""
    if not callable(value):
        fix = f"; pass its method, such as problem.{name}" if callable(getattr(value, name, None)) else ""
        raise TypeError(f"{name}: got {_kind(value)}, expected a function of w{fix}")


def known(problem: Any, name: str, argument: str = "problem") -> float:
    """A number of a problem, such as its beta, or a TypeError that says how to give it one."""
    value = claimed(problem, name)
    if value is None:
        raise TypeError(
            f"{argument}: got {_kind(problem)} without a {name} of its own, expected a problem that knows "
            f"its {name}, such as problems.MSE; pass problems.Function(..., {name}=...)"
        )
    check_number(f"{argument}.{name}", value)
    number = float(value)
    check_not_negative(**{f"{argument}.{name}": number})
    return number


def check_problem(problem: Any, *names: str) -> None:
    """TypeError that names the first attribute that a problem lacks."""
    for name in names:
        if not hasattr(problem, name):
            raise TypeError(
                f"problem: got {_kind(problem)} without {name!r}, expected a problem such as problems.MSE; "
                "make one of your loss and its gradient by problems.Function(loss, gradient, dimension)"
            )


def is_problem(value: Any) -> bool:
    """Whether it has a loss or a beta: a number or a matrix has none."""
    return callable(getattr(value, "loss", None)) or hasattr(value, "beta")


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__
