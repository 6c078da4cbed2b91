"""Numbers kept in 16 bits on a GPU. The formulas are those of reference/storage.py."""

from __future__ import annotations

from typing import Any

from ..arrays import is_half
from .device import get_cupy
from .kernels import CONVERT, run_kernel, struct_of, threads
from .tables import storage_of


def convert(to: Any, values: Any, low: Any = None) -> None:
    """Overwrites an array with the values of another of the same layout, each kept in any way.

    ``low``: the lower halves of ``values``.
    """
    with to.device:
        argument = struct_of(CONVERT, to=to, n=values.size, from_storage=storage_of(values))
        argument["from"], argument["to_storage"] = values.data.ptr, storage_of(to)
        argument["low"] = 0 if low is None else low.data.ptr
        run_kernel("STORAGE_KERNELS()", "convert_float32", threads(values.size), argument)


def widened(w: Any, low: Any = None) -> Any:
    """A copy in the type of the arithmetic; ``low``: the lower halves of w."""
    with w.device:
        if not is_half(w):
            return w.copy()
        out = get_cupy().zeros_like(w, "float32")
        convert(out, w, low)
        return out
