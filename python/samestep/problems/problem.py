"""What a problem is to those that minimize it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from .mse import Floats, Integers


class Problem(Protocol):
    """What minimize() asks of a problem; problems.MSE is one."""

    @property
    def size(self) -> int:
        """N, the number of examples."""

    @property
    def dimension(self) -> int:
        """p, the number of weights."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""

    def loss(self, w: Floats) -> float:
        """L(w), over all examples."""

    def gradient(self, w: Floats, rows: Integers | None = None) -> Floats:
        """The gradient of L at w, over a batch of examples or over all."""
