"""The comparison of two ledgers as one HTML page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby
from os import PathLike
from pathlib import Path
from string import Template

from ...ledger import Diff, Picture, Records, Values, picture
from ..report import write_whole
from ..report.page import CSS
from ..table import counted
from .text import element_of, noun_of, place, sentence

_HERE = Path(__file__).parent
_COLUMNS = 240
_WIDTH, _ROW, _LETTER = 960, 15, 6.4  # of the picture: units of all columns, of a row, of a letter of a name


def write_page(found: Diff, path: str | PathLike[str], values: Values | None = None) -> None:
    """Writes the page: all of it or nothing.

    Args:
        found: the comparison.
        path: of the page.
        values: the arrays of both runs, where they can be had: the page then shows the first element that
            differs and lights the first bit of it; without, the fingerprints.

    Raises:
        OSError: the file cannot be written.
    """
    drawn = picture(found, _COLUMNS, values)
    shown = _shown(found, values)
    first = found.first
    write_whole(
        path,
        Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
            css=CSS.read_text(encoding="utf-8"),
            verdict='<span class="verdict pass">✓ EQUAL</span> '
            f"in all of {counted(len(found.steps), 'step')} that both recorded"
            if first is None
            else f'<span class="verdict fail">✗ PARTED</span> {_text(sentence(first))}',
            after="" if first is None or first.after is None else f"Equal up to step {first.after}.",
            sides="\n".join(
                _side(name, side, shown and shown[i])
                for i, (name, side) in enumerate(zip("AB", (found.a, found.b), strict=True))
            ),
            counts=_counts(found),
            picture=_grid(drawn),
            caption="Grey: equal. The redder, the "
            + ("larger the distance in units of last place." if drawn.is_in_ulps else "more kinds differ.")
            + ("" if drawn.lit is None else " The ring is where the runs part."),
            options=_table(
                "Options that differ",
                ("option", "A", "B"),
                [
                    (name, *("as by default" if value is None else str(value) for value in both))
                    for name, both in found.options.items()
                ],
            ),
            left_out=_table("Not compared", (), [(line,) for line in found.left_out]),
        ),
    )


def _shown(found: Diff, values: Values | None) -> tuple[str, str] | None:
    """What stands in the two panels of the first difference, as HTML."""
    first = found.first
    if first is None:
        return None
    x, y = map(str, first.values)
    element = element_of(first, values)
    lines = [f"<p>step {first.step}, line {line}: <b>{_text(noun_of(first))}</b></p>" for line in first.lines]
    if element is None:
        told = [_lit(x, y), _lit(y, x)]
    else:
        more = f"<p>{_text(place(first, element))}</p>"
        lines = [line + more for line in lines]
        bits = element.bits
        told = [
            f"{value!r}<br>{_lit(*pair)}"
            for value, pair in zip(element.values, (bits, bits[::-1]), strict=True)
        ]
    a, b = (f'{line}<p class="value">{value}</p>' for line, value in zip(lines, told, strict=True))
    return a, b


def _lit(text: str, other: str) -> str:
    """The text with the letters that differ from the other's marked, the first of them most."""
    parts, kind = [], ' class="first"'
    for i, letter in enumerate(text):
        if letter == other[i : i + 1]:
            parts.append(_text(letter))
        else:
            parts.append(f"<mark{kind}>{_text(letter)}</mark>")
            kind = ""
    return "".join(parts)


def _side(name: str, side: Records, shown: str | None) -> str:
    header = side.header
    steps = [record.step for record in side.records]
    return (
        f'<section class="side"><h2>{name}: {_text(side.path)}</h2>\n'
        f"<p>{_text(header.rule)}, contract {header.contract}, {counted(len(header.tensors), 'tensor')}, "
        f"{counted(len(steps), 'record')} of steps {min(steps)} to {max(steps)}</p>\n"
        f'<p class="soft digest">sha256 {side.digest}</p>\n{shown or ""}</section>'
    )


def _counts(found: Diff) -> str:
    if found.first is None:
        return ""
    rows = [(kind, str(n)) for kind, n in found.first.counts.items()]
    return _table(
        f"Tensors that differ at step {found.first.step}, of {len(found.shared.tensors):,}",
        ("in", "tensors"),
        rows,
    )


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f'<h2>{_text(title)}</h2>\n<table class="facts">{head}\n<tbody>\n{body}\n</tbody></table>'


def _grid(drawn: Picture) -> str:
    """The picture: in each row one rectangle for every run of cells of one level."""
    left = int(_LETTER * max(map(len, drawn.rows))) + 12
    cell = min(24, _WIDTH // len(drawn.columns))
    width, height = left + cell * len(drawn.columns) + 12, _ROW * (len(drawn.rows) + 1) + 4
    parts = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" ']
    parts.append(
        'aria-label="How far apart the two runs are, a row for each tensor, steps from left to right">'
    )
    for i, (name, levels) in enumerate(drawn.rows.items()):
        y = _ROW * (i + 1)
        parts.append(f'<text x="0" y="{y + 11}">{_text(name)}</text>')
        column = 0
        for level, cells in groupby(levels):
            n = len([*cells])
            color = (
                f'fill="var(--bad)" fill-opacity="{0.15 + 0.85 * level:.2f}"'
                if level
                else 'fill="var(--line)"'
            )
            x = left + cell * column
            parts.append(f'<rect x="{x}" y="{y}" width="{cell * n}" height="{_ROW - 3}" {color}/>')
            column += n
        if drawn.lit is not None and drawn.lit[0] == name:
            x = left + cell * drawn.lit[1] + cell // 2
            parts.append(
                f'<circle cx="{x}" cy="{y + 6}" r="7" fill="none" stroke="var(--momentum)" stroke-width="2"/>'
            )
    ends = ((left, "start", drawn.columns[0][0]), (width - 12, "end", drawn.columns[-1][1]))
    parts += (f'<text x="{x}" y="11" text-anchor="{anchor}">step {step}</text>' for x, anchor, step in ends)
    return "\n".join([*parts, "</svg>"])


def _text(text: str) -> str:
    return html.escape(text, quote=False)
