"""The page docs/guide/torch-tools.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .areas import TITLES, cases
from .cases import DIFFERS, Case, judge
from .sides import KINDS

HEAD = """# PyTorch's tools

"""


def row(case: Case) -> tuple[tuple[str, ...], list[str]]:
    """The cells of a case, by running it, and why a verdict is "differs"."""
    cells, reasons = [f"`{case.tool}`"], []
    for kind in KINDS:
        verdict, reason = judge(case, kind) if kind in case.kinds else ("", "")
        cells.append(verdict)
        if verdict == DIFFERS:
            reasons.append(f"{case.tool}, {kind}: {reason}")
    return tuple(cells), reasons


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def in_order() -> list[Case]:
    """The cases, area by area."""
    return [case for area in TITLES for case in cases() if case.area == area]


def page(words: Sequence[str] = ()) -> str:
    """The page, or of it the tools whose names hold one of ``words``."""
    lines = [HEAD]
    for area, title in TITLES.items():
        lines += [f"## {title}", "", "| tool | layer | layer with relu=True | optimizers |", "|---|---|---|---|"]
        for case in in_order():
            if case.area == area and (not words or any(word in f"{area} {case.tool}" for word in words)):
                cells, reasons = row(case)
                sys.stderr.writelines(f"{reason}\n" for reason in reasons)
                lines.append(line(cells))
        lines.append("")
    return "\n".join(lines)
