"""The comparison of two ledgers for a terminal, and as plain values."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ...ledger import Diff, Difference, Element, Picture, Records, Values, first_element, picture
from ..render import Style, grid
from ..table import counted

ROWS = 24  # tensors that are shown, at most
_BARS = "▁▂▃▄▅▆▇█"


def diff_as_text(found: Diff, style: Style, width: int, values: Values | None = None) -> str:
    """The comparison in lines of at most ``width`` characters, if names and paths leave room.

    Args:
        found: the comparison.
        style: of the terminal.
        width: of the terminal.
        values: the arrays of both runs, where they can be had: the first element that differs is then shown.
    """
    parts = [
        [style.bold("samestep · where two runs part")],
        grid(
            [["A", *_row(found.a)], ["B", *_row(found.b)]],
            "<<<<",
            style,
        ),
        [_verdict(found, style), *_first(found, style, values)],
        _options(found, style),
        *([] if found.is_equal else [list(_picture(found, style, width - 2, values))]),
        [
            line
            for left_out in found.left_out
            for line in textwrap.wrap(f"not compared: {left_out}", width - 2, subsequent_indent="  ")
        ],
    ]
    lines = [line for part in parts if part for line in ("", *part)]
    text = style.letters("\n".join(f"  {line}".rstrip() for line in lines)) + "\n"
    # Names come from a file of somebody else's: of what steers a terminal, the style's own colours remain.
    steering = r"\033(?!\[[\d;]*m)" if style.color else r"\033"
    return re.sub(rf"{steering}|[\x00-\x09\x0b-\x1a\x1c-\x1f\x7f-\x9f]", "?", text)


def _row(side: Records) -> tuple[str, str, str]:
    header = side.header
    return (
        side.path,
        f"{header.rule}, {counted(len(header.tensors), 'tensor')}, {counted(len(side.records), 'record')}",
        f"sha256 {side.digest[:16]}",
    )


def sentence(first: Difference) -> str:
    """Where two runs part, with a capital."""
    told = str(first)
    return told[0].upper() + told[1:]


def _verdict(found: Diff, style: Style) -> str:
    """What came out, in one line."""
    first = found.first
    if first is None:
        if len(found.steps) == 1:
            return style.bold(f"Equal in the only step that both recorded, {found.steps[0]}.")
        steps = counted(len(found.steps), "step")
        return style.bold(
            f"Equal in all of {steps} that both recorded, {found.steps[0]} to {found.steps[-1]}."
        )
    return style.bold(f"{sentence(first)}.")


def _first(found: Diff, style: Style, values: Values | None) -> Iterator[str]:
    first = found.first
    if first is None:
        return
    told = "No record before it is in both." if first.after is None else f"Equal up to step {first.after}."
    yield style.dim(told)
    yield ""
    element = element_of(first, values)
    yield from grid(
        [
            ["", "A", "B"],
            [noun_of(first), *map(str, first.values)],
            *([] if element is None else [["value", *map(repr, element.values)], ["bits", *element.bits]]),
            ["line", *map(str, first.lines)],
        ],
        "<<<",
        style,
    )
    if element is not None:
        yield ""
        yield f"{place(first, element)}."
    if first.counts:
        total = counted(len(found.shared.tensors), "tensor")
        counts = ", ".join(f"{kind} of {n}" for kind, n in first.counts.items())
        yield ""
        yield f"At step {first.step} differ, of {total}: {counts}."


def element_of(first: Difference, values: Values | None) -> Element | None:
    """The first element that differs, where both arrays can be had."""
    pair = values(first.step, first.name, first.kind) if values is not None and first.kind else None
    return None if pair is None else first_element(*pair)


def place(first: Difference, element: Element) -> str:
    """Which element it is and how far apart its values are."""
    index = f"[{', '.join(map(str, element.index))}]" if element.index else ""
    which = (
        "the only element that differs"
        if element.differing == 1
        else f"the first of {element.differing:,} elements that differ"
    )
    far = (
        "one is no number" if element.ulps is None else f"{counted(element.ulps, 'unit')} of last place apart"
    )
    return f"{first.name}{index}, {which}: {far}"


def noun_of(first: Difference) -> str:
    """What two values are of."""
    return {"stepped": "has a gradient"}.get(first.what, first.kind or first.name)


def _options(found: Diff, style: Style) -> list[str]:
    if not found.options:
        return []
    rows = [
        [name, *("as by default" if value is None else str(value) for value in values)]
        for name, values in found.options.items()
    ]
    return grid([["option", "A", "B"], *rows], "<<<", style)


def _picture(found: Diff, style: Style, width: int, values: Values | None) -> Iterator[str]:
    """A line for each tensor, up to ROWS of them; where the runs part is lit."""
    names = max(map(len, ("step", *found.shared.tensors)))
    mark = "  ← first"
    equal = "·" if style.unicode else " "  # ASCII has other letters for the bars and none to spare
    drawn = picture(found, max(8, width - names - 4 - len(mark)), values)
    yield f"{'step':{names}}  {_axis(drawn)}"
    shown = drawn.nearest_the_parting(ROWS)
    for name in shown:
        cells = [equal if level == 0.0 else _BARS[min(7, int(8 * level))] for level in drawn.rows[name]]
        is_lit = drawn.lit is not None and drawn.lit[0] == name
        if drawn.lit is not None and is_lit:
            cells[drawn.lit[1]] = style.lit(cells[drawn.lit[1]])
        yield f"{name:{names}}  {''.join(cells)}{mark if is_lit else ''}"
    if len(shown) < len(drawn.rows):
        rest = counted(len(drawn.rows) - len(shown), "more tensor")
        yield style.dim(f"{rest}, which part{'s' if rest.startswith('1 ') else ''} later or not at all")
    told = equal if style.unicode else "blank"
    meaning = (
        "1 to 2^32 units of last place apart" if drawn.is_in_ulps else "the share of the kinds that differ"
    )
    yield style.dim(f"{told}: equal; {_BARS[0]} to {_BARS[-1]}: {meaning}")


def _axis(drawn: Picture) -> str:
    first, last = str(drawn.columns[0][0]), str(drawn.columns[-1][1])
    return f"{first}{last:>{max(len(drawn.columns) - len(first), len(last) + 1)}}"


def diff_as_dict(found: Diff, values: Values | None = None) -> dict[str, Any]:
    """The comparison as plain numbers, strings, lists and dicts; with values, the first element, too."""
    first = found.first
    element = None if first is None else element_of(first, values)
    return {
        "equal": found.is_equal,
        "a": _side(found.a),
        "b": _side(found.b),
        "steps": {"compared": len(found.steps), "first": found.steps[0], "last": found.steps[-1]},
        "options": {name: list(values) for name, values in found.options.items()},
        "left_out": list(found.left_out),
        "first": None
        if first is None
        else {
            "told": str(first),
            "step": first.step,
            "after": first.after,
            "what": first.what,
            "name": first.name,
            "kind": first.kind,
            "group": first.group,
            "values": list(first.values),
            "lines": list(first.lines),
            "counts": dict(first.counts),
            "element": None if element is None else asdict(element),
        },
    }


def _side(side: Records) -> Mapping[str, Any]:
    return {"path": side.path, "digest": side.digest, "lines": len(side.digests)}
