"""The picture of two runs through matplotlib."""

from __future__ import annotations

from os import PathLike

from ...ledger import Diff, Values, picture
from ...optional import require

_COLUMNS, _ROWS = 400, 60


def save_diff_figure(found: Diff, path: str | PathLike[str], values: Values | None = None) -> None:
    """Draws how far apart two runs are, a row for each tensor. The ending of the name chooses the format.

    Args:
        found: the comparison.
        path: of the figure.
        values: the arrays of both runs, where they can be had.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
        ValueError: the ending is that of no format.
    """
    drawn = picture(found, _COLUMNS, values)
    names = drawn.nearest_the_parting(_ROWS)
    # Not pyplot, which would look for a window system and keep a reference to the figure.
    height = max(3.0, 1.6 + 0.19 * len(names))
    figure = require("matplotlib.figure", "a figure").Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots()
    cells = axes.imshow(
        [drawn.rows[name] for name in names],
        aspect="auto",
        interpolation="nearest",
        cmap="Reds",
        vmin=0.0,
        vmax=1.0,
    )
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names], fontsize=7)
    ticks = sorted({round(i * (len(drawn.columns) - 1) / 8) for i in range(9)})
    axes.set_xticks(ticks, [str(drawn.columns[tick][0]) for tick in ticks])
    axes.set_xlabel("step")
    if drawn.lit is not None and drawn.lit[0] in names:
        axes.plot(drawn.lit[1], names.index(drawn.lit[0]), "o", color="#1c7ed6", fillstyle="none")
    axes.set_title("equal" if found.first is None else str(found.first).replace("$", r"\$"), loc="left")
    label = "distance, log2(1 + ulps)/32" if drawn.is_in_ulps else "share of the kinds that differ"
    figure.colorbar(cells, ax=axes, label=label)
    figure.savefig(path, dpi=160)
