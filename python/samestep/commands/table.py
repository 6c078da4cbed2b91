"""Tables of features and a target, checked and scaled for the demo and the report. No optimisation here.

All sums are canonical, so that a table has the same bits on every machine.
"""

from __future__ import annotations

import csv
import math
import os
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..optional import require
from ..problems import Float64s
from ..sums import canonical_sum, global_norm

_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none"))


class TableError(ValueError):
    """A table that cannot be used; the message says where and why."""


@dataclass(frozen=True, eq=False)
class Table:
    """The features and the target of a linear model without a constant term.

    Attributes:
        name: the name to show.
        columns: the p names of the features.
        target: the name of the target.
        Phi: shape (N, p), float64: every column with mean 0 and Euclidean norm 1.
        y: shape (N,), float64, mean 0.
        left_out: the columns of the file that are constant, and so have no information.
        text: the columns of the file that have no number in any row, each with its first cell that is not
            empty.
    """

    name: str
    columns: tuple[str, ...]
    target: str
    Phi: Float64s
    y: Float64s
    left_out: tuple[str, ...] = ()
    text: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The names and the number of rows, as plain strings, lists and numbers."""
        return {
            "name": self.name,
            "target": self.target,
            "columns": list(self.columns),
            "left_out": list(self.left_out),
            "text_columns": list(self.text),
            "rows": len(self.y),
        }


def diabetes() -> Table:
    """The diabetes data that scikit-learn ships: 442 patients, 10 measurements, target centred.

    Raises:
        ImportError: scikit-learn is not installed.

    Source:
        Efron, Hastie, Johnstone and Tibshirani, Least angle regression (2004).

    Example:
        >>> from samestep.commands.table import diabetes
        >>> table = diabetes()
        >>> table.Phi.shape, table.columns[:3]
        ((442, 10), ('age', 'sex', 'bmi'))
    """
    # Scaled here: scikit-learn's scaling uses NumPy's sums, whose last bits vary between machines.
    data = require("sklearn.datasets", "the diabetes data").load_diabetes(scaled=False)
    Phi = np.stack([_unit(column) for column in data.data.T], axis=1)
    y = data.target - _mean(data.target)
    return Table("diabetes", tuple(data.feature_names), "progression", Phi, y)


def read_csv(path: str | PathLike[str], target: str, drop: Sequence[str] = ()) -> Table:
    """A table from a file of comma-separated numbers, whose first line names the columns.

    Empty lines and lines of spaces are skipped. A column without a number in any row is text, and left out.

    Args:
        path: the file, UTF-8.
        target: the column to predict; it is centred. All others are features; they are centred and scaled,
            see Table.
        drop: the columns to leave out, whatever is in them.

    Raises:
        TableError: the file cannot be read; its first line has only numbers; a column with numbers has a cell
            without a finite one; a row is shorter or longer than the header; the target or a column to drop
            does not exist; the target is constant or dropped; no feature varies; there are fewer than two
            rows.

    Example:
        >>> import pathlib, tempfile
        >>> from samestep.commands.table import read_csv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "houses.csv")
        ...     rows = "city,size,price\\nUlm,70,210\\nBonn,90,270\\nKiel,120,330\\n"
        ...     _ = path.write_text(rows, encoding="utf-8")
        ...     table = read_csv(path, "price")
        >>> table.y
        array([-60.,   0.,  60.])
        >>> table.columns, table.text
        (('size',), {'city': 'Ulm'})
    """
    path = Path(path)
    header, rows = _read(path)
    _check_there(path, header, "target", target)
    for name in drop:
        _check_there(path, header, "drop", name)
    if target in drop:
        raise TableError(f"drop: got {target!r}, which is the target; name another column")
    if len(rows) < 2:
        raise TableError(f"{path}: got {counted(len(rows), 'row')} below the header, expected at least two")
    at = header.index(target)
    text = {}
    for j, name in enumerate(header):
        if j != at and name not in drop and not any(_is_number(row.cells[j]) for row in rows):
            text[name] = next((row.cells[j].strip() for row in rows if row.cells[j].strip()), "")
    used = [j for j, name in enumerate(header) if name not in drop and name not in text]
    values = np.array([[_number(path, row, header[j], j, j == at) for j in used] for row in rows])
    varies = dict(zip(used, values.max(axis=0) > values.min(axis=0), strict=True))
    column = dict(zip(used, values.T, strict=True))
    if not varies[at]:
        raise TableError(f"{path}: column {target!r} is {column[at][0]:g} in every row; a target must vary")
    kept = [j for j in used if j != at and varies[j]]
    if not kept:
        words = f" (text, and left out: {', '.join(text)})" if text else ""
        raise TableError(f"{path}: no column but the target {target!r} varies{words}; nothing to learn from")
    Phi = np.stack([_unit(column[j]) for j in kept], axis=1)
    y = column[at] - _mean(column[at])
    left_out = tuple(header[j] for j in used if j != at and not varies[j])
    name = os.fsencode(path.name).decode("utf-8", "replace")  # a file's name may be no text in any encoding
    return Table(name, tuple(header[j] for j in kept), target, Phi, y, left_out, text)


def counted(n: int, thing: str) -> str:
    """A number of things in words.

    Example:
        >>> from samestep.commands.table import counted
        >>> counted(1, "row"), counted(1200, "column")
        ('1 row', '1,200 columns')
    """
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def left_out(table: Table) -> list[str]:
    """A note for each kind of columns that are not used."""
    told = []
    if table.left_out:
        told.append(f"left out, being constant: {', '.join(table.left_out)}")
    if table.text:
        examples = (f"{name} ({textwrap.shorten(cell, 24)!r})" for name, cell in table.text.items())
        told.append(f"left out, having no number: {', '.join(examples)}")
    return told


@dataclass(frozen=True)
class _Row:
    """A row of the file: its place, such as "row 3 (line 4)", and the text of its cells."""

    place: str
    cells: list[str]


def _read(path: Path) -> tuple[list[str], list[_Row]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            # The csv module reads an empty line as no cells, and a line of spaces as one cell.
            filled = (cells for cells in lines if len(cells) > 1 or "".join(cells).strip())
            header = [name.strip() for name in next(filled, [])]
            _check_header(path, header)
            rows: list[_Row] = []
            for cells in filled:
                place = f"row {len(rows) + 1} (line {lines.line_num})"
                if len(cells) != len(header):
                    raise TableError(
                        f"{path}: {place}: got {counted(len(cells), 'cell')}, "
                        f"expected {len(header)} as the header has"
                    )
                rows.append(_Row(place, cells))
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from error
    except csv.Error as error:
        hint = "; are the cells separated by commas?" if "expected after" in str(error) else ""
        raise TableError(f"{path}: line {lines.line_num} is not CSV: {error}{hint}") from error
    return header, rows


def _check_there(path: Path, header: list[str], argument: str, name: str) -> None:
    if name in header:
        return
    first = "; is the line with the names of the columns missing?" if any(map(_is_number, header)) else ""
    raise TableError(
        f"{argument}: {path} has no column {name!r}; it has {', '.join(map(repr, header))}{first}"
    )


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise TableError(f"{path}: is empty, expected a first line with the names of the columns")
    for separator in (";", "\t"):
        if len(header) == 1 and separator in header[0]:
            raise TableError(
                f"{path}: got one column, {header[0]!r}, whose separator seems to be {separator!r}; "
                "save it with commas between the cells and points in the numbers"
            )
    if all(map(_is_number, header)):
        names = ["x1", "x2", *(["..."] if len(header) > 3 else [])][: len(header) - 1]
        raise TableError(
            f"{path}: the first line holds numbers alone ({', '.join(header[:3])}"
            f"{', ...' if len(header) > 3 else ''}), expected the names of the columns; put them into a line "
            f"above it, such as {','.join([*names, 'y'])}, or give each a letter if these are the names"
        )
    for name in header:
        if header.count(name) > 1:
            raise TableError(f"{path}: has two columns named {name!r}; rename one")


def _parsed(cell: str) -> float:
    if "_" in cell:  # Python reads 1_000 as a number; in a table it is a typing error
        raise ValueError
    return float(cell)


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in _MISSING


def _is_number(cell: str) -> bool:
    """Whether the cell has a number, finite or not."""
    try:
        _parsed(cell)
    except ValueError:
        return False
    return not _is_missing(cell)


def _number(path: Path, row: _Row, name: str, j: int, needed: bool) -> float:
    cell = row.cells[j]
    place = f"{path}: {row.place}, column {name!r}"
    # A name that begins with a dash must be joined to --drop by "=", or argparse reads it as an option.
    option = f"--drop{'=' if name.startswith('-') else ' '}{shlex.quote(name)}"
    drop = "" if needed else f", or leave the column out: {option}"
    if _is_missing(cell):
        raise TableError(f"{place}: the value is missing; fill it in or remove the row{drop}")
    try:
        number = _parsed(cell)
    except ValueError:
        raise TableError(f"{place}: got {cell.strip()!r}, expected a number; mend the cell{drop}") from None
    if not math.isfinite(number):
        raise TableError(f"{place}: got {cell.strip()!r}, expected a finite number; mend the cell{drop}")
    return number


def _mean(x: Float64s) -> float:
    # Divided by the largest: the sum of numbers near the largest of float64 would overflow.
    largest = float(np.abs(x).max())
    return float(canonical_sum(x / largest)) / len(x) * largest if largest > 0 else 0.0


def _unit(x: Float64s) -> Float64s:
    """x with mean 0 and norm 1."""
    x = x / np.abs(x).max()
    x = x - float(canonical_sum(x)) / len(x)
    x = x / np.abs(x).max()
    return x / global_norm(x)
