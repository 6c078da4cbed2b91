"""The result of minimize(): final weights, recorded losses, and what the theory needs to check the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .backends import in_main_memory
from .optim.optimizer import Optimizer
from .problems import Floats

Stopped = Literal["steps", "epochs", "deadline", "callback"]


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a run of minimize().

    Attributes:
        w: the final weights, a copy: shape (p,), the problem's dtype. With NAG's look-ahead form they are the
            point at which the next gradient would be taken.
        loss: L(w).
        losses: L at every recorded step, float64; the first is L(w0), the last ``loss``.
        recorded: the numbers of these steps, int64; the first is 0, the last ``steps``.
        steps: the number of steps. It includes the steps that ``nonfinite="skip"`` skipped, which
            ``optimizer.t`` does not count.
        seconds: the duration of the run, by its clock.
        stopped: the rule that ended the run: ``"steps"``, ``"epochs"``, ``"deadline"`` or ``"callback"``.
        optimizer: the optimizer with its state. To continue the run, pass it and w to minimize() again.
        w0: the weights at the start, a copy.
        start: the optimizer's state_dict() at the start, but with a number for each hyper-parameter that
            follows another.
        batch_size: rows a step; None: all of them.
        ws: the weights at every recorded step, one a row: shape (len(recorded), p), the problem's dtype.
            None without ``record_w``.

    Where the run was on a GPU, ``w`` and ``w0`` are CuPy's arrays on it, and ``ws`` lies in main memory.

    Example:
        >>> import numpy as np, samestep as ss
        >>> problem = ss.problems.MSE(np.array([[1.0], [1.0]]), np.array([1.0, 3.0]))
        >>> run = ss.minimize(problem, np.zeros(1), lambda w: ss.SGD(w, lr=0.25), steps=2)
        >>> run.w, run.losses, run.recorded, run.diverged
        (array([1.5]), array([5.  , 2.  , 1.25]), array([0, 1, 2]), False)
    """

    w: Floats
    loss: float
    losses: npt.NDArray[np.float64]
    recorded: npt.NDArray[np.int64]
    steps: int
    seconds: float
    stopped: Stopped
    optimizer: Optimizer
    w0: Floats
    start: dict[str, Any]
    batch_size: int | None
    ws: Floats | None = None

    @property
    def diverged(self) -> bool:
        """Whether the final loss exceeds the first, or is NaN, or a weight is infinite or NaN."""
        return not (self.loss <= self.losses[0] and bool(np.isfinite(in_main_memory(self.w)).all()))
