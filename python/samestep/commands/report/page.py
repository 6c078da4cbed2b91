"""The report as one HTML page that needs nothing else. Measures nothing."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from ...backends import cpu
from ..table import Table, counted, left_out
from .cells import cells
from .items import Check, Row
from .markup import formula, prose
from .pictures import Drawn

_HERE = Path(__file__).parent
CSS = _HERE / "page.css"
_LEAD = """<p>Every formula of the lecture notes (A) and of the slides (B) beside what samestep's own
kernels do. Every picture was drawn and every number measured when the page was made, with fixed
seeds.</p>"""


def page(pictures: list[Drawn], rows: list[Row], quick: bool, table: Table | None = None) -> str:
    """The whole page of drawn pictures and measured items, on the user's table if given."""
    checks = [check for row in rows for check in row.checks]
    failed, checked = sum(not row.passed for row in rows), sum(bool(row.checks) for row in rows)
    tally = f"{checked - failed} of {checked} items {_verdict(True)}"
    if failed:
        tally += f", {failed} {_verdict(False)}"
    if unmeasured := len(rows) - checked:
        tally += f"; {unmeasured} without a formula to measure"
    info = cpu.info()
    made = f"{len(checks)} checks by samestep {info['version']}, bit contract {info['contract']}."
    if quick:
        made += (
            " Made with <code>--quick</code>: some pictures and items have fewer particles, steps, draws or "
            "seeds than the full report; they say so."
        )
    footer = "Made by <code>samestep report</code>. Sources stand with each function in its documentation."
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        css=CSS.read_text(encoding="utf-8"),
        js=(_HERE / "sliders.js").read_text(encoding="utf-8"),
        lead=_LEAD if table is None else _lead(table),
        heading="Every item of the notes and slides" if table is None else "What the texts say of any table",
        tally=tally,
        made=made,
        pictures="\n".join(map(_figure, pictures)),
        contents=_contents(rows),
        rows="\n".join(_item(row, quick) for row in rows),
        footer=footer,
    )


def _lead(table: Table) -> str:
    name, target = (html.escape(text, quote=False) for text in (table.name, table.target))
    omitted = "".join(f"<br>{html.escape(line, quote=False)}." for line in left_out(table))
    return (
        f"<p><b>{name}</b>: {counted(len(table.y), 'row')}, {counted(len(table.columns), 'column')} to "
        f"predict {target}; the columns centred and scaled to length 1, {target} centred.{omitted}</p>\n"
        "<p>Those formulas of the lecture notes (A) and of the slides (B) that hold for every least-squares "
        "problem, beside what samestep's own kernels do with this table. Every picture was drawn and every "
        "number measured with it when the page was made; the sliders below are about a problem of two "
        "weights. What the texts say of other problems is on the page that <code>samestep report</code> "
        "makes without <code>--csv</code>.</p>"
    )


def _figure(drawn: Drawn) -> str:
    return (
        f'<figure id="{drawn.name}"><h3>{prose(drawn.title)}</h3>\n{drawn.svg}\n'
        f"<figcaption>{prose(drawn.caption)}</figcaption></figure>"
    )


def _contents(rows: list[Row]) -> str:
    """A link to every item, with its verdict."""
    return "\n".join(
        f'<li><a href="#{_name(row)}">{_key(row)} {prose(row.item.title)}</a> {_mark(row)}</li>'
        for row in rows
    )


def _item(row: Row, quick: bool) -> str:
    item = row.item
    verdict = _verdict(row.passed) if row.checks else ""
    written = f'<p class="formula">{formula(item.formula)}</p>' if item.formula else ""
    remark = f'<p class="remark">{prose(item.remark)}</p>' if item.remark else ""
    if quick and item.quick:
        remark += f'<p class="remark">Quick: {prose(item.quick)}.</p>'
    return (
        f'<article class="item" id="{_name(row)}">\n'
        f"<header><h3>{_key(row)} {prose(item.title)} {verdict}</h3>{written}{remark}</header>\n"
        f"{_checks(row.checks)}\n"
        '<p class="up"><a href="#contents">↑ all items</a></p></article>'
    )


def _checks(checks: Sequence[Check]) -> str:
    if not checks:
        return '<p class="none">Nothing to measure.</p>'
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("quantity", "measured", "expected", "tolerance", "verdict")
    )
    rows = "\n".join(map(_check, checks))
    return f'<table class="checks"><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>'


def _check(check: Check) -> str:
    numbers = "".join(f"<td>{cell}</td>" for cell in cells(check))
    kind = "pass" if check.passed else "fail"
    return (
        f'<tr class="{kind}"><th scope="row">{prose(check.what)}</th>{numbers}'
        f'<td class="mark {kind}">{_WORDS[check.passed]}</td></tr>'
    )


def _name(row: Row) -> str:
    return "item-" + re.sub(r"[^A-Za-z0-9]+", "-", row.item.key)


def _key(row: Row) -> str:
    return f'<span class="key">{row.item.key.replace("-", "–")}</span>'


def _mark(row: Row) -> str:
    if not row.checks:
        return ""
    return f'<span class="mark {"pass" if row.passed else "fail"}">{_WORDS[row.passed]}</span>'


_WORDS = {True: "✓ pass", False: "✗ fail"}


def _verdict(passed: bool) -> str:
    return (
        '<span class="verdict pass">✓ PASS</span>' if passed else '<span class="verdict fail">✗ FAIL</span>'
    )
