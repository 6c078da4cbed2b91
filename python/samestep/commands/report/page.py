"""The report as one HTML page that needs nothing else. Measures nothing."""

from __future__ import annotations

import html
import re
from pathlib import Path
from string import Template

from ...backends import cpu
from ..table import Table, counted, left_out
from .items import Check, Numbers, Row
from .pictures import Drawn

_HERE = Path(__file__).parent


_LEAD = """<p>Every formula of the lecture notes (A) and of the slides (B) beside what samestep's own
kernels do. Every picture and every figure in the table was measured when the page was made, with fixed
seeds.</p>"""


def page(pictures: list[Drawn], rows: list[Row], quick: bool, table: Table | None = None) -> str:
    """The whole page, from pictures that are drawn and rows that are measured, on the table if given."""
    checks = [check for row in rows for check in row.checks]
    failed, checked = sum(not row.passed for row in rows), sum(bool(row.checks) for row in rows)
    tally = f"{checked - failed} of {checked} items {_verdict(True)}"
    if failed:
        tally += f", {failed} {_verdict(False)}"
    info = cpu.info()
    made = f"{len(checks)} checks by samestep {info['version']}, bit contract {info['contract']}."
    if quick:
        made += " Made with --quick: fewer particles, steps and draws than the full report."
    footer = "Made by <code>samestep report</code>. Sources stand with each function in its documentation."
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        css=(_HERE / "page.css").read_text(encoding="utf-8"),
        js=(_HERE / "sliders.js").read_text(encoding="utf-8"),
        lead=_LEAD if table is None else _lead(table),
        heading="Every item of the notes and slides" if table is None else "What the texts say of any table",
        tally=tally,
        made=made,
        pictures="\n".join(map(_figure, pictures)),
        rows="\n".join(map(_row, rows)),
        footer=footer,
    )


def _lead(table: Table) -> str:
    name, target = (html.escape(text, quote=False) for text in (table.name, table.target))
    told = "".join(f"<br>{html.escape(line, quote=False)}." for line in left_out(table))
    return (
        f"<p><b>{name}</b>: {counted(len(table.y), 'row')}, {counted(len(table.columns), 'column')} to "
        f"predict {target}; the columns centred and scaled to length 1, {target} centred.{told}</p>\n"
        "<p>Those formulas of the lecture notes (A) and of the slides (B) that hold for every least-squares "
        "problem, beside what samestep's own kernels do with this table. Every picture and every figure was "
        "measured on it when the page was made; the sliders below are about a problem of two weights. What "
        "the texts say of other problems is on the page that <code>samestep report</code> makes without "
        "<code>--csv</code>.</p>"
    )


def _figure(drawn: Drawn) -> str:
    return (
        f'<figure id="{drawn.name}"><h3>{prose(drawn.title)}</h3>\n{drawn.svg}\n'
        f"<figcaption>{prose(drawn.caption)}</figcaption></figure>"
    )


def _row(row: Row) -> str:
    item = row.item
    remark = f'<p class="remark">{prose(item.remark)}</p>' if item.remark else ""
    checks = "\n".join(map(_check, row.checks))
    verdict = _verdict(row.passed) if row.checks else "–"
    return (
        f'<tr><td class="item"><span class="key">{item.key.replace("-", "–")}</span> '
        f"<b>{prose(item.title)}</b>{remark}</td>\n"
        f'<td class="formula">{formula(item.formula)}</td>\n'
        f'<td><ul class="checks">\n{checks}\n</ul></td>\n<td>{verdict}</td></tr>'
    )


def _check(check: Check) -> str:
    one = len(set(check.expected)) == 1
    expected = f"{check.relation} {_joined(check.expected[:1] if one else check.expected)}"
    room = max(check.tolerance)
    if room > 0:
        expected += f" ± {_number(room, digits=1)}"
    attribute = "" if check.passed else ' class="fail"'
    return (
        f"<li{attribute}>{prose(check.what)}: "
        f'<span class="number">{_joined(check.measured)} {expected}</span></li>'
    )


def _joined(numbers: Numbers) -> str:
    return ", ".join(map(_number, numbers))


def _number(x: float, digits: int = 7) -> str:
    small = 0 < abs(x) < 1e-3
    text = f"{x:.{min(digits, 4)}g}" if small or abs(x) >= 1e7 else f"{x:.{digits}g}"
    if small and "e" not in text:
        text = f"{x:.{min(digits, 4) - 1}e}"
    mantissa, e, exponent = text.partition("e")
    mantissa = mantissa.replace("-", "−").replace("inf", "∞")
    if not e:
        return mantissa
    power = f"10<sup>{str(int(exponent)).replace('-', '−')}</sup>"
    return power if mantissa == "1" else f"{mantissa}·{power}"


def _verdict(passed: bool) -> str:
    return '<span class="verdict pass">PASS</span>' if passed else '<span class="verdict fail">FAIL</span>'


def formula(text: str) -> str:
    """``w_{t+1} = w_t^2`` as HTML: sub- and superscripts, letters slanted but for those of words.

    Example:
        >>> from samestep.commands.report.page import formula
        >>> formula("g_{t+1} < 2/β")
        '<i>g</i><sub><i>t</i>+1</sub> &lt; 2/β'
    """
    text = html.escape(text, quote=False)
    text = re.sub(r"(?<![A-Za-z&])(?!tr\b)([A-Za-z]{1,2})(?![A-Za-z])", r"<i>\1</i>", text)
    return _raised(text)


def prose(text: str) -> str:
    """The same within sentences, where a and I may be words; between backticks stands a formula.

    Example:
        >>> from samestep.commands.report.page import prose
        >>> prose("a step of 1/L, with `a` = ½")
        'a step of 1/<i>L</i>, with <i>a</i> = ½'
    """
    words, *rest = text.split("`", 2)
    if len(rest) == 2:
        return prose(words) + formula(rest[0]) + prose(rest[1])
    text = html.escape(text, quote=False)
    text = re.sub(r"(?<![A-Za-z&.'’-])([B-HJ-Zb-z])(?![A-Za-z'’-])", r"<i>\1</i>", text)
    text = re.sub(r"\ba(?= = )|(?<=[+(])a\b|(?<=\d)a(?=\))", "<i>a</i>", text)
    return _raised(text)


def _raised(text: str) -> str:
    for _ in range(2):  # one may stand in the other
        for mark, tag in (("_", "sub"), (r"\^", "sup")):
            text = re.sub(mark + r"\{([^{}]*)\}", rf"<{tag}>\1</{tag}>", text)
            text = re.sub(mark + r"(<i>.</i>|[^\s{<])", rf"<{tag}>\1</{tag}>", text)
    return text
