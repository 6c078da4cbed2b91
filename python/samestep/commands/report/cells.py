"""A check as the cells of a row: measured, expected and tolerance, one number a line."""

from __future__ import annotations

from math import floor, isfinite, log10

from .items import Check

SHOWN = 7  # significant digits of a number that passed
IN_FULL = 15  # of one that did not, where two numbers may look alike


def cells(check: Check) -> tuple[str, str, str]:
    """The three cells as HTML. A line that is the same for every number stands once.

    Example:
        >>> from samestep.commands.report.items import near
        >>> cells(near("their mean energy", -0.009781373, 0.02, abs=0.1))
        ('−0.0098', '0.02', '± 0.1')
    """
    digits = SHOWN if check.passed else IN_FULL
    sign = "" if check.relation == "=" else f"{check.relation} "
    measured = [
        _rounded(x, room, check.relation, digits)
        for x, room in zip(check.measured, check.tolerance, strict=True)
    ]
    expected = [
        sign + (number(x, digits) if sign else _rounded(x, room, "=", digits))
        for x, room in zip(check.expected, check.tolerance, strict=True)
    ]
    tolerance = [_tolerance(room, check.relation) for room in check.tolerance]
    return "<br>".join(measured), _lines(expected), _lines(tolerance)


def _lines(texts: list[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else "<br>".join(texts)


def _rounded(x: float, room: float, relation: str, digits: int) -> str:
    """To one decimal beyond the tolerance; to four digits where the expected number is a limit."""
    if digits == IN_FULL or (relation == "=" and room == 0.0) or not isfinite(x) or not isfinite(room):
        return number(x, digits)
    if relation != "=":
        return number(x, 4)
    decimals = 1 - floor(log10(room))
    if abs(x) < 10.0**-decimals:
        return number(x, 2)
    return number(x, max(1, min(digits, floor(log10(abs(x))) + 1 + decimals)))


def _tolerance(room: float, relation: str) -> str:
    if relation != "=":
        return "limit"
    return f"± {number(room, 1)}" if room > 0.0 else "exact"


def number(x: float, digits: int) -> str:
    """So many significant digits; very small and very large numbers as a multiple of a power of ten."""
    text = f"{x:.{digits}g}"
    if 0 < abs(float(text)) < 1e-3 or 1e7 <= abs(x) < float("inf"):
        text = f"{x:.{min(digits - 1, 3) if digits < IN_FULL else digits}e}"
    mantissa, e, exponent = text.partition("e")
    mantissa = mantissa.replace("-", "−").replace("inf", "∞").replace("nan", "no number")
    if not e:
        return mantissa
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    power = f"10<sup>{str(int(exponent)).replace('-', '−')}</sup>"
    return power if mantissa == "1" else f"{mantissa}·{power}"
