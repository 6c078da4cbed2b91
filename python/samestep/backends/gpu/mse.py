"""The mean squared error on a GPU. The formulas are in reference/mse.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import get_cupy
from .kernels import MSE, SUM_BLOCK, TILE, ceil_div, run_kernel, struct_of, threads, warps
from .sums import pair, sum_terms


class Mse:
    """As ``face.Mse``."""

    def __init__(self, Phi: Any, y: Any, factor: float, per_row: bool) -> None:
        self._Phi = Phi
        self._rows, self._columns = Phi.shape  # as bound: the array's own shape can be set later
        self._y = y
        self._factor = factor
        self._per_row = per_row

    def evaluate(self, w: Any, rows: NDArray[np.int64] | None, r: Any | None, g: Any | None) -> Any:
        """Writes residuals to r and the gradient to g, each unless None; returns the loss if both are."""
        cupy = get_cupy()
        Phi = self._Phi
        with Phi.device:
            count, p = self._rows if rows is None else len(rows), self._columns
            indices = None if rows is None else cupy.asarray(rows)
            residuals = cupy.empty(count, Phi.dtype) if r is None else r
            argument = struct_of(MSE, Phi=Phi, y=self._y, w=w, count=count, p=p, r=residuals)
            argument["factor"], argument["per_row"] = self._factor, self._per_row
            argument["rows"] = 0 if indices is None else indices.data.ptr
            self._launch("residuals", warps(count), argument)
            if g is not None:
                blocks = ceil_div(count, SUM_BLOCK)
                sums = cupy.empty(blocks * p, np.float64)
                argument["sums"], argument["g"] = sums.data.ptr, g.data.ptr
                self._launch("gradient_blocks", blocks * ceil_div(p, TILE), argument)
                pair(sums, 1, blocks, p)
                self._launch("gradient", threads(p), argument)
            if r is not None or g is not None:
                return None
            squares, loss = sum_terms("squares", residuals, 1, count, 1), cupy.empty(1, np.float64)
            argument["squares"], argument["loss"] = squares.data.ptr, loss.data.ptr
            run_kernel("MSE_KERNELS()", "mse_loss_float64", 1, argument)
            return loss.get()[0]

    def _launch(self, name: str, grid: int, argument: NDArray[Any]) -> None:
        run_kernel("MSE_KERNELS()", f"mse_{name}_{self._Phi.dtype}", grid, argument)
