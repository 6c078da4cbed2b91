"""Shows rows as text and as a figure. It measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from ...optional import require
from .run import OURS, ROOF, Row

HEADER = (
    f"{'rule':9} {'case':>14} {'threads':>7} {'us':>11} {'GB/s':>6} {'of roof':>7}   {'times faster than':28}"
    "others (us)"
)


def line(row: Row) -> str:
    """One row of the table under ``HEADER``."""
    best = "" if row.ratio is None else f"{row.ratio:.2f}x {row.best_peer}"
    others = ", ".join(f"{name} {us:.4g}" for name, us in row.us.items() if name != OURS)
    return (
        f"{row.rule:9} {row.case:>14} {row.threads:7} {row.us[OURS]:11.2f} {row.gb_per_s:6.1f} "
        f"{row.share_of_roof:7.2f}   {best:28}{others}"
    )


def save_figure(rows: Sequence[Row], path: str | PathLike[str]) -> None:
    """Draws time over size: a panel for each rule, a line for each contender, a dashed one for the roof.

    Only rows of one array with the largest number of threads are drawn.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
        ValueError: there is no row of one array, or the ending of the name is that of no format.
    """
    threads = max((row.threads for row in rows), default=0)
    drawn = [row for row in rows if row.tensors == 1 and row.threads == threads]
    if not drawn:
        raise ValueError("rows: none has a single array, so there is no size to draw time against")
    names = list(dict.fromkeys(row.rule for row in drawn))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = require("matplotlib.figure", "a figure").Figure(
        figsize=(1.5 + 4 * columns, 1 + 3.2 * lines), layout="constrained"
    )
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True).flat
    contenders = list(dict.fromkeys(name for row in drawn for name in row.us))
    for panel, rule in zip(panels, names, strict=False):
        for i, name in enumerate(contenders):
            points = [(row.elements, row.us[name]) for row in drawn if row.rule == rule and name in row.us]
            style = {OURS: "k-o", ROOF: "k--"}.get(name, f"C{i}-")
            panel.plot(
                *zip(*sorted(points), strict=True), style, label=name, markersize=4
            ) if points else None
        panel.set(xscale="log", yscale="log", title=rule, xlabel="float32 parameters")
        panel.set_ylabel("microseconds a step")
        panel.grid(which="major", color="#f1f3f5")
    figure.legend(*_labels(figure), loc="outside right upper", title=f"{threads} threads")
    figure.savefig(path, dpi=160)


def _labels(figure: object) -> tuple[list[object], list[str]]:
    """Handle and label of each contender, once, from all panels."""
    found: dict[str, object] = {}
    for panel in figure.axes:  # type: ignore[attr-defined]
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
