"""Tables to learn from: features and a target, checked and scaled. No optimisation here.

Sums are canonical, so that a table has the same bits on every machine.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from .optional import require
from .problems import Float64s
from .sums import canonical_sum, global_norm

_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none"))


class TableError(ValueError):
    """A table that cannot be used; the message says where and why."""


@dataclass(frozen=True, eq=False)
class Table:
    """The features and the target of a linear model without a constant term.

    Attributes:
        name: what to call it.
        columns: the names of the features, p of them.
        target: the name of the target.
        Phi: shape (N, p), float64: every column with mean 0 and Euclidean norm 1.
        y: shape (N,), float64, mean 0.
        left_out: columns of the file that are constant, and so carry nothing.
    """

    name: str
    columns: tuple[str, ...]
    target: str
    Phi: Float64s
    y: Float64s
    left_out: tuple[str, ...] = ()


def diabetes() -> Table:
    """The diabetes data that scikit-learn ships: 442 patients, 10 measurements, target centred.

    Raises:
        ImportError: scikit-learn is not installed.

    Source:
        Efron, Hastie, Johnstone and Tibshirani, Least angle regression (2004).

    Example:
        >>> from samestep.table import diabetes
        >>> table = diabetes()
        >>> table.Phi.shape, table.columns[:3]
        ((442, 10), ('age', 'sex', 'bmi'))
    """
    # Scaled here: the sums of scikit-learn's own scaling are NumPy's, whose last bits vary.
    data = require("sklearn.datasets", "the diabetes data").load_diabetes(scaled=False)
    Phi = np.stack([_unit(column) for column in data.data.T], axis=1)
    y = data.target - _mean(data.target)
    return Table("diabetes", tuple(data.feature_names), "progression", Phi, y)


def read_csv(path: str | PathLike[str], target: str) -> Table:
    """A table from a file of comma-separated numbers, whose first line names the columns.

    Empty lines and lines of spaces count for nothing.

    Args:
        path: the file, UTF-8.
        target: the column to predict; all others are features. They are centred and scaled as Table
            says, the target is centred.

    Raises:
        TableError: the file cannot be read, a cell holds no finite number, a row is shorter or longer
            than the header, the target is not there or constant, no feature varies, or there are
            fewer than two rows.

    Example:
        >>> import pathlib, tempfile
        >>> from samestep.table import read_csv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "houses.csv")
        ...     _ = path.write_text("size,price\\n70,210\\n90,270\\n120,330\\n")
        ...     table = read_csv(path, "price")
        >>> table.y
        array([-60.,   0.,  60.])
    """
    path = Path(path)
    header, rows = _read(path)
    if target not in header:
        raise TableError(f"target: {path} has no column {target!r}; it has {', '.join(map(repr, header))}")
    if len(rows) < 2:
        raise TableError(f"{path}: got {len(rows)} rows below the header, expected at least two")
    values = np.array(rows)
    at = header.index(target)
    varies = values.max(axis=0) > values.min(axis=0)
    if not varies[at]:
        raise TableError(f"{path}: column {target!r} is {values[0, at]:g} in every row; a target must vary")
    kept = [j for j in range(len(header)) if j != at and varies[j]]
    if not kept:
        raise TableError(f"{path}: no column but the target {target!r} varies; nothing to learn from")
    Phi = np.stack([_unit(values[:, j]) for j in kept], axis=1)
    y = values[:, at] - _mean(values[:, at])
    left_out = tuple(header[j] for j in range(len(header)) if j != at and not varies[j])
    return Table(path.name, tuple(header[j] for j in kept), target, Phi, y, left_out)


def _read(path: Path) -> tuple[list[str], list[list[float]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            # The csv module reads an empty line as no cells, and one of spaces as one.
            filled = (cells for cells in lines if len(cells) > 1 or "".join(cells).strip())
            header = [name.strip() for name in next(filled, [])]
            _check_header(path, header)
            rows: list[list[float]] = []
            for cells in filled:
                place = f"{path}: row {len(rows) + 1} (line {lines.line_num})"
                rows.append(_numbers(place, header, cells))
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from error
    except csv.Error as error:
        hint = "; are the cells separated by commas?" if "expected after" in str(error) else ""
        raise TableError(f"{path}: line {lines.line_num} is not CSV: {error}{hint}") from error
    return header, rows


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise TableError(f"{path}: is empty, expected a first line with the names of the columns")
    for separator in (";", "\t"):
        if len(header) == 1 and separator in header[0]:
            raise TableError(
                f"{path}: got one column, {header[0]!r}, whose separator seems to be {separator!r}; "
                "save it with commas between the cells and points in the numbers"
            )
    for name in header:
        if header.count(name) > 1:
            raise TableError(f"{path}: has two columns named {name!r}; rename one")


def _numbers(place: str, header: list[str], cells: list[str]) -> list[float]:
    if len(cells) != len(header):
        raise TableError(f"{place}: got {len(cells)} cells, expected {len(header)} as the header has")
    return [_number(f"{place}, column {name!r}", cell) for name, cell in zip(header, cells, strict=True)]


def _number(place: str, cell: str) -> float:
    if cell.strip().lower() in _MISSING:
        raise TableError(f"{place}: the value is missing; fill it in or remove the row")
    try:
        if "_" in cell:  # 1_000 is a number to Python, and a slip of the pen in a table
            raise ValueError
        number = float(cell)
    except ValueError:
        raise TableError(f"{place}: got {cell.strip()!r}, expected a number") from None
    if not math.isfinite(number):
        raise TableError(f"{place}: got {cell.strip()!r}, expected a finite number")
    return number


def _mean(x: Float64s) -> float:
    # Of numbers near the largest there are, the sum would overflow.
    largest = float(np.abs(x).max())
    return float(canonical_sum(x / largest)) / len(x) * largest if largest > 0 else 0.0


def _unit(x: Float64s) -> Float64s:
    """x with mean 0 and norm 1."""
    x = x / np.abs(x).max()
    x = x - float(canonical_sum(x)) / len(x)
    x = x / np.abs(x).max()
    return x / global_norm(x)
