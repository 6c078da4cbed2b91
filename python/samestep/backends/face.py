"""What a backend offers, once. Each backend is a module with these functions and classes.

They check nothing but gradients: arrays come checked from whoever is called by the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .options import Options

# What Plan.step returns, else the number of the first gradient that does not fit. But for STEPPED nothing
# has been written.
STEPPED, MOVED, NONFINITE = -1, -2, -3

Sizes = tuple[int, int, int]  # samples, channels, positions


class Tensor(NamedTuple):
    """A parameter and all that a step writes with it; twin of Tensor in csrc/run/plan.h.

    Attributes:
        w: the parameter.
        states: those of the rule, in its order.
        group: whose hyper-parameters are its own.
        ema: its running average; None where the option is not asked for, as for those below.
        master: the parameter in float32, of which w is the rounded one.
        low: the lower halves of float32 parameters, of which w is the upper ones.
        copy: takes the updated parameter in 16 bits.
    """

    w: Any
    states: Sequence[Any] = ()
    group: int = 0
    ema: Any = None
    master: Any = None
    low: Any = None
    copy: Any = None

    def arrays(self) -> list[Any]:
        """All that a step writes, the parameter first."""
        stored = (self.ema, self.master, self.low, self.copy)
        return [self.w, *self.states, *(a for a in stored if a is not None)]


class Plan(Protocol):
    """A rule bound to a list of tensors, stepped by one call."""

    def __init__(
        self,
        rule: str,
        tensors: Sequence[Tensor],
        steps: NDArray[np.int64],
        options: Options | None = None,
    ) -> None:
        """``steps``: those that each tensor has made, then those of the plan; counted on in place.

        ``options``: None asks for nothing.
        """

    @property
    def norm(self) -> float:
        """The norm of all gradients of the last step; NaN without ``clip_norm``."""

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        """One for each group."""

    def step(self, grads: Sequence[Any], hyper: Sequence[float], scale: float = 1.0) -> int:
        """STEPPED, MOVED, NONFINITE or a gradient's number. ``hyper``: the rule's, group by group."""


class Mse(Protocol):
    """A mean squared error bound to its rows."""

    def __init__(self, Phi: Any, y: Any, factor: float, per_row: bool) -> None: ...

    def evaluate(self, w: Any, rows: NDArray[np.int64] | None, r: Any | None, g: Any | None) -> float:
        """Writes residuals to r and the gradient to g, each unless None; returns the loss if both are."""


class RuleRow(NamedTuple):
    """A row of the registry of rules: FOR_EACH_RULE in csrc/contract/rules.h."""

    name: str  # formed of the next three, there alone
    family: str
    form: str | None
    variant: str | None
    hyper: tuple[str, ...]  # names of the hyper-parameters
    states: tuple[str, ...]


class Backend(Protocol):
    """The module itself."""

    Plan: type[Plan]
    Mse: type[Mse]

    def rules(self) -> list[RuleRow]:
        """The registry of rules."""

    # ---- sums ----

    def canonical_sum(self, x: Any, outer: int, n: int, inner: int) -> Any:
        """x as (outer, n, inner): the sums over n, in float64."""

    def global_norm(self, arrays: Sequence[Any]) -> float:
        """The root of the sum of all squares."""

    # ---- batch norm ----

    def batchnorm_forward(
        self,
        x: Any,
        gamma: Any,
        beta: Any,
        out: Any,
        mean: Any,
        inv: Any,
        mean64: Any,
        var64: Any,
        sizes: Sizes,
        channels_last: bool,
        relu: bool,
        eps: float,
    ) -> None: ...

    def batchnorm_backward(
        self,
        dy: Any,
        x: Any,
        gamma: Any,
        beta: Any,
        mean: Any,
        inv: Any,
        out: Any,
        dgamma: Any,
        dbeta: Any,
        sizes: Sizes,
        channels_last: bool,
        relu: bool,
    ) -> None: ...

    def batchnorm_inference(
        self,
        x: Any,
        gamma: Any,
        beta: Any,
        running_mean: Any,
        running_var: Any,
        out: Any,
        sizes: Sizes,
        channels_last: bool,
        relu: bool,
        eps: float,
    ) -> None: ...

    def update_running(
        self,
        running_mean: Any,
        running_var: Any,
        mean64: Any,
        var64: Any,
        values: int,
        momentum: float,
        batches: int,
    ) -> None: ...

    # ---- memory where the backend's arrays live ----

    def zeros_like(self, a: Any, dtype: Any = None) -> Any:
        """Zeros with the layout of ``a``, and with its dtype if none is given."""

    def empty_like(self, a: Any) -> Any:
        """Memory with the layout of ``a``."""

    def gradient_views(self, grads: Sequence[Any], w: Any) -> list[Any]:
        """Gradients of ``w`` as arrays of the backend's kind, where they can be; None stays None."""

    def empty(self, n: int, dtype: Any, beside: Any) -> Any:
        """Memory for n values, where ``beside`` is."""

    def contiguous(self, a: Any) -> Any:
        """``a`` itself, or a copy in C order."""

    def frozen(self, a: Any) -> Any:
        """A copy in C order, read-only where memory can be."""

    def place(self, a: Array) -> Any:
        """A NumPy array where the backend's arrays live."""

    def to_host(self, a: Any) -> Array:
        """A copy as a NumPy array."""

    def assign(self, to: Any, values: Any) -> None:
        """Overwrites an array with a NumPy array's values, or with one number."""
