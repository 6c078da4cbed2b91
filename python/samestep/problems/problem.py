"""The attributes that minimize() and the theory read of every problem."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from .examples import Floats, Integers


class Problem(Protocol):
    """A loss L(w) of p weights, the mean or sum of N examples; problems.MSE is one."""

    @property
    def size(self) -> int:
        """N, the number of examples."""

    @property
    def dimension(self) -> int:
        """p, the number of weights."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the weights and the gradient: float32 or float64."""

    def loss(self, w: Floats) -> float:
        """L(w) over all examples; w has shape (p,)."""

    def gradient(self, w: Floats, rows: Integers | None = None) -> Floats:
        """The gradient at w, shape (p,), over the examples ``rows``, int64 of shape (m,), or over all."""
