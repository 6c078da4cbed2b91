"""What numbers the formulas ask for, said in one way by all of them."""

from __future__ import annotations


def check_positive(**values: float) -> None:
    """ValueError that names the first value that is not positive and finite."""
    for name, value in values.items():
        if not 0.0 < value < float("inf"):
            raise ValueError(f"{name}: got {value}, expected a positive finite number")


def check_not_negative(**values: float) -> None:
    """ValueError that names the first value that is negative or not finite."""
    for name, value in values.items():
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{name}: got {value}, expected a finite number, 0 or more")


def check_momentum(momentum: float) -> None:
    """ValueError unless 0 <= momentum < 1."""
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum: got {momentum}, expected a number in [0, 1)")
