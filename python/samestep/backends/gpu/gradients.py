"""What a step asks of its gradients before it begins: their norm, and whether all are finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..face import Tensor
from .device import get_cupy
from .kernels import GRADIENT, NORM, RUN, Launch, ceil_div, ready_kernel, struct_of
from .tables import items_of, on_device


class Gradients:
    """Launches that read all gradients of a step once.

    Args:
        tensors: of a plan.
        rows, given: addresses of their tables.
        bad: address of the word that takes a step's stamp where an element is infinite or NaN.
        clips: whether the norm is wanted; else only whether all elements are finite.
    """

    def __init__(self, tensors: Sequence[Tensor], rows: Any, given: Any, bad: int, clips: bool) -> None:
        self._clips = clips
        names = dict.fromkeys(t.w.dtype.name for t in tensors)
        of_type = {name: [i for i, t in enumerate(tensors) if t.w.dtype.name == name] for name in names}
        items = {name: items_of(tensors, numbers, RUN) for name, numbers in of_type.items()}
        self._runs = {name: (on_device(found), len(found)) for name, found in items.items() if len(found)}
        cupy = get_cupy()
        runs = sum(ceil_div(t.w.size, RUN) for t in tensors)
        self._sums = cupy.empty(max(runs, 1), np.float64)
        self._squares = cupy.empty(len(tensors), np.float64)
        self._tensors = len(tensors)
        self._argument = struct_of(GRADIENT, rows=rows, given=given, sums=self._sums, bad=bad)
        self._norm = struct_of(NORM, rows=rows, given=given, sums=self._sums, squares=self._squares)
        # The norm goes by the elements in C order: others are copied first.
        self._in_order = {
            i: cupy.empty(t.w.shape, np.dtype(f"u{t.w.itemsize}"))
            for i, t in enumerate(tensors)
            if clips and not t.w.flags.c_contiguous
        }

    def in_order(self, i: int) -> Any:
        """The array that takes the elements of gradient i in C order; None where they lie so already."""
        return self._in_order.get(i)

    def copy_in_order(self, grads: Sequence[Any]) -> None:
        for i, to in self._in_order.items():
            if grads[i] is not None:
                to[...] = grads[i].view(to.dtype)

    def launches(self, stamp: int, scale: float, given: int, norm: Any) -> list[Launch]:
        """The launches for a step with so many gradients; ``norm`` takes theirs, times the scale."""
        name = "square_gradients" if self._clips else "check_gradients"
        self._argument["stamp"] = stamp
        out: list[Launch] = []
        for dtype, (runs, count) in self._runs.items():
            argument = self._argument.copy()
            argument["runs"] = runs.data.ptr
            out.append((ready_kernel("GRADIENT_KERNELS()", f"{name}_{dtype}"), count, argument))
        if self._clips:
            argument = self._norm.copy()
            argument["gradients"], argument["scale"], argument["norm"] = given, scale, norm.data.ptr
            for name, blocks in (("pair_squares", self._tensors), ("norm_float64", 1)):
                out.append((ready_kernel("GRADIENT_KERNELS()", name), blocks, argument))
        return out
