"""The base class of problems that are a formula in a few weights. Each formula has a file of its own."""

from __future__ import annotations

import math
import numbers
from typing import Any, ClassVar

import numpy as np

from ..arguments import finite_number
from .examples import Float64s, Floats, Integers


class Smooth:
    """A loss in ``dimension`` weights, float64, without data: N = 1, and every batch is the whole.

    A subclass sets ``dimension`` and defines ``loss``, ``gradient`` and, if known, ``hessian``.
    """

    dimension: int
    size: int = 1
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)

    def loss(self, w: Floats) -> float:
        """L(w)."""
        raise NotImplementedError

    def gradient(self, w: Floats, rows: Integers | None = None) -> Float64s:
        """The gradient of L at w, a new array of shape (dimension,); ``rows`` has no effect."""
        raise NotImplementedError

    def _check_weights(self, w: Floats) -> None:
        if not isinstance(w, np.ndarray):
            raise TypeError(f"w: got {type(w).__name__}, expected a numpy array of {self.dtype}")
        if w.dtype != self.dtype:
            raise TypeError(
                f"w: got {w.dtype}, expected {self.dtype}; convert it with w.astype(numpy.float64)"
            )
        if w.shape != (self.dimension,):
            raise ValueError(f"w: got shape {w.shape}, expected {(self.dimension,)}")


def finite(name: str, value: Any, *, at_least: float = -math.inf) -> float:
    """``value`` as a float, if it is a real number and finite. Bools and arrays are refused."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a number")
    return finite_number(name, value, at_least=at_least)
