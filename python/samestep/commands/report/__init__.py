"""``samestep report``: the theory of the notes and slides, measured, as one page to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from os.path import realpath
from pathlib import Path
from typing import Any

from ..table import Table

# Four of them are imported for the items that they add to the list.
from . import descent, items, kernel, landscapes, methods, networks, own, paths, rates, slides, surfaces  # noqa: F401
from .items import Row, measured
from .page import page
from .pictures import Drawn, drawn

PICTURES = (
    rates.bounds,
    rates.modes,
    paths.quadratic,
    paths.rosenbrock,
    rates.edge,
    rates.momentum_flows,
    kernel.polyak_lojasiewicz,
    landscapes.basins,
    landscapes.sam,
    landscapes.semicircle,
    landscapes.rare_minima,
    landscapes.spin_glass,
    networks.deep_linear_modes,
    networks.higham_cost,
)
ITEMS = sorted(items.ITEMS, key=lambda item: item.place)
STAGES = len(PICTURES) + len(ITEMS)
OWN_STAGES = own.STAGES


class ReportError(ValueError):
    """A file that no report can be written to; the message says why."""


@dataclass(frozen=True)
class Report:
    """The pictures and items of a report.

    Attributes:
        pictures: in the order of the page.
        rows: in the order of the texts.
        quick: whether ``--quick`` was given.
        table: the user's table; None: the problems of the texts.
    """

    pictures: list[Drawn]
    rows: list[Row]
    quick: bool
    table: Table | None = None

    @property
    def passed(self) -> bool:
        """Whether every item passed."""
        return all(row.passed for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The rows as plain numbers, strings, lists and dicts."""
        return {
            "quick": self.quick,
            **({} if self.table is None else {"table": self.table.as_dict()}),
            "items": [row.as_dict() for row in self.rows],
            "passed": self.passed,
        }

    def write(self, path: str | PathLike[str]) -> None:
        """Writes the page: all of it or nothing.

        Raises:
            OSError: the file cannot be written.
        """
        write_whole(path, page(self.pictures, self.rows, self.quick, self.table))


def write_whole(path: str | PathLike[str], text: str) -> None:
    """Writes a file: all of it or nothing.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(realpath(path))
    _unfinished(path).write_text(text, encoding="utf-8")
    _unfinished(path).replace(path)


def check_out(path: str | PathLike[str], argument: str = "out") -> None:
    """Raises at once the error that write_whole would raise after the work.

    Raises:
        ReportError: the path is a folder or a device, or lies where nothing can be written.
    """
    path = Path(realpath(path))
    if path.exists() and not path.is_file():
        raise ReportError(f"{argument}: got {path}, which is no file; name one, such as report.html")
    try:
        _unfinished(path).touch()
        _unfinished(path).unlink()
    except OSError as error:
        raise ReportError(
            f"{argument}: {path} cannot be written: {error.strerror}; "
            f"is {path.parent} a folder that you may write to?"
        ) from error


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def run_report(quick: bool = False, announce: Callable[[str], None] = lambda stage: None) -> Report:
    """Draws every picture and measures every item.

    Args:
        quick: fewer particles, steps, draws and seeds: under half a minute instead of under three.
        announce: called with the name of each of the STAGES before it starts.

    Raises:
        ImportError: scikit-learn, SciPy or matplotlib is not installed.
    """
    pictures = []
    for picture in PICTURES:
        announce(picture.name)
        pictures.append(drawn(picture, quick))
    rows = []
    for item in ITEMS:
        announce(item.key)
        rows.append(measured(item, quick))
    return Report(pictures, rows, quick)


def report_on(
    table: Table, quick: bool = False, announce: Callable[[str], None] = lambda stage: None
) -> Report:
    """Draws and measures on a user's table what holds for every least-squares problem.

    Args:
        table: the rows, columns and target.
        quick: fewer step sizes and steps.
        announce: called with the name of each of the OWN_STAGES before it starts.

    Raises:
        TableError: the table gives no problem that could be solved in float64.
        ImportError: matplotlib is not installed.
    """
    pictures, own_items = own.parts(table)
    finished = []
    for picture in pictures:
        announce(picture.name)
        finished.append(drawn(picture, quick))
    rows = []
    for item in own_items:
        announce(item.key)
        rows.append(measured(item, quick))
    return Report(finished, rows, quick, table)
