"""Figures as SVG inside a page: in the page's colours and letters, with ids that no other figure has."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

from ...optional import require

# Drawn in these, shown as var(--name) of page.css, which has one set for light and one for dark.
COLORS = {
    "ink": "#000001",
    "faint": "#000002",
    "accent": "#000003",
    "sgd": "#000004",
    "momentum": "#000005",
    "nag": "#000006",
    "adagrad": "#000007",
    "rmsprop": "#000008",
    "adam": "#000009",
    "good": "#00000a",
    "bad": "#00000b",
}
INK, FAINT, ACCENT = (COLORS[name] for name in ("ink", "faint", "accent"))
WIDTH = 4.9  # inches of 72 units: on a phone of 390 pixels a unit is a pixel
LETTERS = 12  # units: the least that is read with ease there
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.3))

_STYLE = {
    "svg.fonttype": "none",  # letters stay letters
    "font.size": LETTERS,
    "axes.titlesize": LETTERS,
    "axes.titlelocation": "left",
    "axes.labelsize": LETTERS,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": LETTERS,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": LETTERS,
    "ytick.labelsize": LETTERS,
}


def draw(name: str, label: str, drawing: Callable[[], Any], style: Mapping[str, Any] | None = None) -> str:
    """Draws a matplotlib figure as an ``<svg>`` element.

    Args:
        name: begins its ids.
        label: what it shows, for those who cannot see it.
        drawing: makes the figure, under the settings of _STYLE.
        style: matplotlib settings that replace those of _STYLE.

    Raises:
        ImportError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "the report")
    with matplotlib.rc_context({**_STYLE, **(style or {}), "svg.hashsalt": name}):
        return inline(drawing(), name, label)


def figure(rows: int = 1, columns: int = 1, height: float = 3.1, **options: Any) -> tuple[Any, Any]:
    """A figure of the page's width and its axes, as matplotlib's ``subplots`` returns them."""
    # Not pyplot: it would look for a window system and keep the figure alive.
    drawing = require("matplotlib.figure", "the report").Figure(figsize=(WIDTH, height), layout="constrained")
    return drawing, drawing.subplots(rows, columns, **options)


def legend_above(figure: Any, lines: dict[str, tuple[str, Any]]) -> None:
    """A legend above all axes, of lines by their text: colour and line style."""
    line = require("matplotlib.lines", "the report").Line2D
    handles = [line([], [], color=color, linestyle=style) for color, style in lines.values()]
    figure.legend(
        handles, list(lines), loc="outside upper left", ncols=len(lines), columnspacing=1.2, handletextpad=0.5
    )


def inline(figure: Any, name: str, label: str) -> str:
    """The figure as an SVG element: no file header, no size but the view box, colours by name."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    (view_box,) = re.findall(r'<svg[^>]* viewBox="([^"]+)"', text)
    opening = f'<svg viewBox="{view_box}" role="img" aria-label="{html.escape(label)}">'
    text = re.sub(r"<svg[^>]*>", opening, text, count=1)
    text = text.replace("xlink:href", "href")
    text = re.sub(r' id="', f' id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"(font: (?:[\w.]+ )*?)([\d.]+px) [^;\"]+", r"font-size: \2", text)
    text = re.sub(r"<[^>]*>", lambda tag: _rounded(tag[0]), text)
    for color, drawn in COLORS.items():
        text = text.replace(drawn, f"var(--{color})")
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _rounded(tag: str) -> str:
    """Coordinates rounded to hundredths of a unit, less than a screen resolves."""
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decades(axis: Any, every: int = 1) -> None:
    """Labels a logarithmic axis at powers of ten, in plain letters."""
    ticker = require("matplotlib.ticker", "the report")
    axis.set_major_locator(ticker.LogLocator(base=10.0**every, numticks=20))
    axis.set_major_formatter(lambda value, _: power_of_ten(value))
    axis.set_minor_formatter(ticker.NullFormatter())


def power_of_ten(value: float) -> str:
    """1000 as 10³."""
    exponent = f"{value:.0e}".partition("e")[2]
    return "1" if int(exponent) == 0 else "10" + str(int(exponent)).translate(_SUPERSCRIPT)
