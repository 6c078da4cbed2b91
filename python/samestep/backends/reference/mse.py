"""The mean squared error of a linear model in NumPy; twin of csrc/contract/mse.h.

``L(w) = (c/2) |Phi w - y|^2`` for Phi of shape (N, p), y of (N,) and w of (p,). The sums are canonical sums
in float64; residuals and gradient are rounded once, to the type of the arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from .sums import csum


def residual(Phi: Array, y: Array, w: Array) -> Array:
    """``r_i = T(csum_j(Phi_ij*w_j) - y_i)``: shape (N,), T the type of the arrays."""
    terms = Phi.astype(np.float64) * w.astype(np.float64)
    r: Array = (csum(terms.T) - y.astype(np.float64)).astype(Phi.dtype)
    return r


def gradient(Phi: Array, r: Array, c: float) -> Array:
    """``g_j = T(c*csum_i(r_i*Phi_ij))``: shape (p,)."""
    terms = r.astype(np.float64)[:, np.newaxis] * Phi.astype(np.float64)
    g: Array = (np.float64(c) * csum(terms)).astype(Phi.dtype)
    return g


def loss(r: Array, c: float) -> float:
    """``L = (c/2)*csum_i(r_i*r_i)``."""
    squares = r.astype(np.float64) * r.astype(np.float64)
    return float(np.float64(c / 2.0) * csum(squares))


class Mse:
    """As ``face.Mse``: c is ``factor``, or with ``per_row`` that divided by the number of rows in use."""

    def __init__(self, Phi: Array, y: Array, factor: float, per_row: bool) -> None:
        self._Phi = Phi
        self._y = y
        self._factor = factor
        self._per_row = per_row

    def evaluate(self, w: Array, rows: NDArray[np.int64] | None, r: Array | None, g: Array | None) -> float:
        """Writes the residuals to r and the gradient to g, each unless it is None; returns the loss."""
        Phi = self._Phi if rows is None else self._Phi[rows]
        y = self._y if rows is None else self._y[rows]
        c = self._factor / len(y) if self._per_row else self._factor
        with np.errstate(all="ignore"):
            residuals = residual(Phi, y, w)
            if r is not None:
                r[...] = residuals
            if g is not None:
                g[...] = gradient(Phi, residuals, c)
            return loss(residuals, c)
