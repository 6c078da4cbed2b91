"""The checks of examples: features, targets, and which rows of them are in use."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .. import backends
from ..backends import arrays

Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]
Scale = Literal["half_sum", "half_mean", "mean", "sum"]


def check_examples(
    Phi: Floats, y: Floats, scale: str, backend: str, *, are_spread: bool = False
) -> tuple[str, Floats, Floats]:
    """The backend, the features and the targets, checked; a worker's share may be empty."""
    if scale not in get_args(Scale):
        expected = ", ".join(repr(name) for name in get_args(Scale))
        raise ValueError(f"scale: got {scale!r}, expected one of {expected}")
    backend, (Phi, y) = backends.choose_backend(backend, {"Phi": Phi, "y": y})
    if are_spread and backend == "cuda":
        raise TypeError(
            "Phi: lives on a GPU, expected main memory, where rows are spread over workers; pass copies, for "
            "example cupy.asnumpy(Phi)"
        )
    _check_floats("Phi", Phi, 2)
    _check_floats("y", y, 1)
    if y.dtype != Phi.dtype:
        raise TypeError(f"y: got {y.dtype}, expected {Phi.dtype} as Phi; convert one of them with .astype")
    if 0 in Phi.shape[are_spread:]:
        raise ValueError(f"Phi: got shape {Phi.shape}, expected at least one row and one column")
    if len(y) != len(Phi):
        turned = "; Phi looks transposed: pass Phi.T" if len(y) == Phi.shape[1] else ""
        raise ValueError(
            f"y: got {len(y)} targets for the {len(Phi)} rows of Phi, expected one for each row" + turned
        )
    module = backends.module(backend)
    _check_finite("Phi", module.to_host(Phi))
    _check_finite("y", module.to_host(y))
    return backend, Phi, y


def check_rows(rows: Integers, size: int) -> Integers:
    """The indices, checked, as an int64 copy: another thread may change the caller's during the kernels."""
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iu":
        got = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
        raise TypeError(f"rows: got {got}, expected a numpy array of integers")
    if rows.ndim != 1 or len(rows) == 0:
        raise ValueError(f"rows: got shape {rows.shape}, expected (m,) with m >= 1")
    rows = np.array(rows, order="C")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= size:
        raise IndexError(f"rows: got index {low if low < 0 else high}, expected 0 to {size - 1}")
    return rows.astype(np.int64, copy=False)


def _check_floats(name: str, array: Floats, ndim: int) -> None:
    if not arrays.is_array(array) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got {type(array).__name__}, expected a numpy array; "
            f"make one with numpy.asarray({name}, dtype=numpy.float64)"
        )
    if array.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(
            f"{name}: got dtype {array.dtype}, expected float32 or float64; "
            f"convert it with {name}.astype(numpy.float64)"
        )
    if array.ndim != ndim:
        shape = "(N, p), one example a row" if ndim == 2 else "(N,)"
        column = ndim == 1 <= array.ndim and array.size == len(array)
        flat = f"; flatten it with {name}.ravel()" if column else ""
        raise ValueError(f"{name}: got shape {array.shape}, expected {shape}{flat}")


def _check_finite(name: str, array: Floats) -> None:
    if np.isfinite(array).all():
        return
    place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    raise ValueError(
        f"{name}: got {array[place]} at [{', '.join(map(str, place))}], expected finite numbers; "
        "remove the example or fill the gap"
    )
