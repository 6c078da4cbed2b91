"""What a run records: losses, the numbers of their steps and, on request, the weights."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backends import choose_backend, module
from ..backends.arrays import is_array, lives_on_gpu
from ..problems import Floats, Problem

Callback = Callable[[int, Floats, float], object]


class Records:
    """Evaluates the loss of the full problem at the optimizer's weights ``w``, and keeps it."""

    def __init__(self, problem: Problem, w: Floats, callback: Callback | None, keep_w: bool) -> None:
        self._problem = problem
        self._w = w
        self._module = module("cuda" if lives_on_gpu(w) else "cpu")
        self._callback = callback
        self.losses: list[float] = []
        self.steps: list[int] = []
        self.ws: list[Floats] | None = [] if keep_w else None

    def add(self, step: int) -> bool:
        """Records the weights after so many steps; returns whether the callback ends the run."""
        loss = evaluate_loss(self._problem, self._w)
        self.losses.append(loss)
        self.steps.append(step)
        if self.ws is not None:
            self.ws.append(self._module.to_host(self._w))
        return self._callback is not None and bool(
            self._callback(step, self._module.read_only_copy(self._w), loss)
        )


def evaluate_loss(problem: Problem, w: Floats) -> float:
    """L(w) as a float of Python's, checked: a problem of the user's own may return anything."""
    loss: Any = problem.loss(w)
    if lives_on_gpu(loss) and loss.shape == ():
        _, [loss] = choose_backend("cuda", {"problem.loss": loss})
        loss = module("cuda").to_host(loss)
    if isinstance(loss, np.ndarray) and loss.shape == ():
        loss = loss[()]
    if isinstance(loss, (bool, np.bool_)) or not isinstance(loss, numbers.Real):
        found: Any = loss
        shape = f" of shape {found.shape}" if is_array(found) else ""
        raise TypeError(f"problem.loss: returned {type(found).__name__}{shape}, expected a number")
    return float(loss)
