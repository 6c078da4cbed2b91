"""What a run has come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .optim.optimizer import Optimizer
from .problems import Floats

Stopped = Literal["steps", "epochs", "deadline", "callback"]


@dataclass(frozen=True, eq=False)
class Result:
    """What a run has come to.

    Attributes:
        w: the weights at the end, a copy. With NAG's look-ahead form this is the point where the next
            gradient would be taken.
        loss: L(w).
        losses: L at every recorded step, float64; the first is L(w0), the last ``loss``.
        recorded: the numbers of these steps, int64; the first is 0, the last ``steps``.
        steps: how many steps were taken, those among them that ``nonfinite="skip"`` left out:
            ``optimizer.t`` counts without them.
        seconds: how long the run took, by its clock.
        stopped: which rule ended it: ``"steps"``, ``"epochs"``, ``"deadline"`` or ``"callback"``.
        optimizer: the optimizer, with its state: another minimize() from w goes on with it.
        w0: the weights at the start, a copy.
        start: the optimizer's state_dict() at the start; a hyper-parameter that follows another stands in it
            as the number that it was.
        batch_size: rows a step; None: all of them.
        ws: the weights at every recorded step, one a row: shape (len(recorded), p), the problem's dtype.
            None without ``record_w``.
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
        """Whether the run ended worse than it began: a larger loss, or infinity or NaN anywhere."""
        return not (self.loss <= self.losses[0] and bool(np.isfinite(self.w).all()))
