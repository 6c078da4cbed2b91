"""The mean squared error of a linear model in NumPy; twin of csrc/contract/mse.h.

``L(w) = (c/2) |Phi w - y|^2`` for Phi of shape (N, p), y of (N,) and w of (p,). The sums are canonical sums
in float64; residuals and gradient are rounded once, to the type of the arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from .sums import Doubles, block_totals, csum


def residual(Phi: Array, y: Array, w: Array) -> Array:
    """``r_i = T(csum_j(Phi_ij*w_j) - y_i)``: shape (N,), T the type of the arrays."""
    terms = Phi.astype(np.float64) * w.astype(np.float64)
    r: Array = (csum(terms.T) - y.astype(np.float64)).astype(Phi.dtype)
    return r


def square_terms(r: Array) -> Doubles:
    """``r_i*r_i``: shape (N,)."""
    squares: Doubles = r.astype(np.float64) * r.astype(np.float64)
    return squares


def gradient_terms(Phi: Array, r: Array) -> Doubles:
    """``r_i*Phi_ij``: shape (N, p)."""
    terms: Doubles = r.astype(np.float64)[:, np.newaxis] * Phi.astype(np.float64)
    return terms


class Mse:
    """As ``host_face.HostMse``: c is ``factor``, or with ``per_row`` that over the rows in use."""

    def __init__(self, Phi: Array, y: Array, factor: float, per_row: bool) -> None:
        self._Phi = Phi
        self._y = y
        self._factor = factor
        self._per_row = per_row

    def evaluate(self, w: Array, rows: NDArray[np.int64] | None, r: Array | None, g: Array | None) -> float:
        """Writes the residuals to r and the gradient to g, each unless it is None; returns the loss."""
        with np.errstate(all="ignore"):
            Phi, residuals = self._residuals(w, rows)
            if r is not None:
                r[...] = residuals
            sums = None if g is None else csum(gradient_terms(Phi, residuals))
            return self.finish(len(residuals), float(csum(square_terms(residuals))), sums, g)

    def block_sums(
        self, w: Array, rows: NDArray[np.int64] | None, of_gradient: bool
    ) -> tuple[Doubles, Doubles | None]:
        """The block sums of the squares of the residuals, and of the gradient."""
        with np.errstate(all="ignore"):
            Phi, r = self._residuals(w, rows)
            sums = block_totals(gradient_terms(Phi, r)).reshape(-1) if of_gradient else None
            return block_totals(square_terms(r)), sums

    def finish(self, rows: int, squares: float, gradient: Doubles | None, g: Array | None) -> float:
        """``g_j = T(c*csum_i(r_i*Phi_ij))`` from the sums, to g; returns ``L = (c/2)*csum_i(r_i*r_i)``."""
        c = np.float64(self._factor / rows if self._per_row else self._factor)
        with np.errstate(all="ignore"):
            if g is not None and gradient is not None:
                g[...] = (c * gradient).astype(g.dtype)
            return float(c / 2.0 * squares)

    def _residuals(self, w: Array, rows: NDArray[np.int64] | None) -> tuple[Array, Array]:
        """The rows in use, and their residuals."""
        Phi = self._Phi if rows is None else self._Phi[rows]
        y = self._y if rows is None else self._y[rows]
        return Phi, residual(Phi, y, w)
