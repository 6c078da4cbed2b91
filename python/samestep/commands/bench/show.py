"""Shows rows as text and as a figure. It measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from ...optional import require
from .compare import OURS, ROOF
from .run import Row
from .situations import HOT

HEADER = (
    f"{'rule':9} {'case':>12} {'threads':>7}  {'just before':14} {'us, min':>10} {'median':>10} {'GB/s':>6} "
    f"{'of roof':>7}   {'times faster than, and 95 %':44}others (us, median)"
)


def line(row: Row) -> str:
    """One row of the table under ``HEADER``."""
    best = "" if row.ratio is None else f"{row.best_peer} {row.ratio}"
    others = ", ".join(f"{name} {1e6 * s.median:.4g}" for name, s in row.samples.items() if name != OURS)
    own = row.samples[OURS]
    return (
        f"{row.rule:9} {row.case:>12} {row.threads:7}  {row.just_before:14} {1e6 * own.minimum:10.2f} "
        f"{1e6 * own.median:10.2f} {row.gb_per_s:6.1f} {row.share_of_roof.median:7.2f}   {best:44}{others}"
    )


def save_figure(rows: Sequence[Row], path: str | PathLike[str]) -> None:
    """Draws median time over size: a panel a rule, a line a contender, a dashed one for the roof.

    Only rows of one array with the largest number of threads are drawn, after other work.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
        ValueError: there is no row of one array, or the ending of the name is that of no format.
    """
    threads = max((row.threads for row in rows), default=0)
    drawn = [row for row in rows if row.tensors == 1 and row.threads == threads and row.situation != HOT.name]
    if not drawn:
        raise ValueError("rows: none has a single array, so there is no size to draw time against")
    names = list(dict.fromkeys(row.rule for row in drawn))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = require("matplotlib.figure", "a figure").Figure(
        figsize=(1.5 + 4 * columns, 1 + 3.2 * lines), layout="constrained"
    )
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True).flat
    contenders = list(dict.fromkeys(name for row in drawn for name in row.samples))
    for panel, rule in zip(panels, names, strict=False):
        for i, name in enumerate(contenders):
            points = [
                (row.elements, 1e6 * row.samples[name].median)
                for row in drawn
                if row.rule == rule and name in row.samples
            ]
            style = {OURS: "k-o", ROOF: "k--"}.get(name, f"C{i}-")
            panel.plot(
                *zip(*sorted(points), strict=True), style, label=name, markersize=4
            ) if points else None
        panel.set(xscale="log", yscale="log", title=rule, xlabel="float32 parameters")
        panel.set_ylabel("microseconds a step")
        panel.grid(which="major", color="#f1f3f5")
    figure.legend(
        *_labels(figure), loc="outside right upper", title=f"{threads} threads,\nafter {drawn[0].just_before}"
    )
    figure.savefig(path, dpi=160)


def _labels(figure: object) -> tuple[list[object], list[str]]:
    """Handle and label of each contender, once, from all panels."""
    found: dict[str, object] = {}
    for panel in figure.axes:  # type: ignore[attr-defined]
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
