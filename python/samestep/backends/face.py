"""What a backend offers: each backend is a module with the functions and classes of ``Backend``.

A backend checks gradients and nothing else. All other arrays were checked by the caller, with
backends/arrays.py. The formulas are those of backends/reference/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .options import Options

# What Plan.step returns where it is not the index of the first gradient that does not fit: all was stepped; a
# parameter or state has moved since it was bound; a gradient is infinite or NaN and such a step is to be
# skipped or refused; a check found what two threads computed differently. It has written nothing unless it
# returns STEPPED or MISMATCHED, and does not count unless it returns STEPPED.
STEPPED, MOVED, NONFINITE, MISMATCHED = -1, -2, -3, -4


def settle(plan: Any) -> int | None:
    """Waits for what came of a plan's last step, STEPPED or NONFINITE; None if that is known.

    On a GPU ``step`` returns STEPPED before it is known whether the step is left out for a gradient that is
    not finite, and the step counts are those of before.
    """
    settle = getattr(plan, "settle", None)
    return None if settle is None else settle()


Sizes = tuple[int, int, int]  # N samples, C channels, S positions


class Window(NamedTuple):
    """How a convolution's kernel moves over its input; pairs are of rows and columns."""

    stride: tuple[int, int]
    padding: tuple[int, int]  # zeros before the first and behind the last
    dilation: tuple[int, int]
    groups: int


class Tensor(NamedTuple):
    """A parameter and all that a step writes with it; twin of Tensor in csrc/run/pass.h.

    Attributes:
        w: the parameter.
        states: those of the rule, in its order.
        group: whose hyper-parameters are its own.
        ema: its running average; None where the option is not asked for, as for those below.
        master: the parameter in float32, of which w is the rounded one.
        low: the lower halves of float32 parameters, of which w is the upper ones.
        copy: takes the updated parameter in 16 bits.
        first: of the whole array's elements, the first that is here; a multiple of 1024.
    """

    w: Any
    states: Sequence[Any] = ()
    group: int = 0
    ema: Any = None
    master: Any = None
    low: Any = None
    copy: Any = None
    first: int = 0

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
        """Binds the arrays, which must stay where they are.

        Args:
            rule: a name from ``rules()``.
            tensors: P tensors. Parameters have any shape, and are float32, float64, float16 or bfloat16. What
                a step writes with a parameter is like it in shape and layout.
            steps: shape (P + 1,): the steps that each tensor has made, then those of the plan. A step
                increments them in place.
            options: what a step does besides the rule; None: nothing.
        """

    @property
    def norm(self) -> float:
        """The norm of all gradients of the last step, on a GPU an array there; NaN without ``clip_norm``."""

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        """Sets the weight decay of each group."""

    def step(
        self,
        grads: Sequence[Any],
        hyper: Sequence[float],
        scale: float = 1.0,
        sums: NDArray[np.uint64] | None = None,
        checks: int = 0,
    ) -> int:
        """Makes one step of all parameters, in place.

        Args:
            grads: P gradients, each like its parameter in dtype, shape and layout; None skips that parameter.
            hyper: the rule's hyper-parameters, group after group.
            scale: what every gradient is multiplied by first.
            sums: (P, kinds), C order: takes the block sums of fingerprints, of each gradient as it was
                handed in, then of ``Tensor.arrays()``, as far as there are kinds. They are 0 without a
                gradient, and of no use where an array lies in another order than C's.
            checks: blocks of 1024 elements, at least, that are computed a second time by another thread.

        Returns:
            STEPPED, MOVED, NONFINITE, MISMATCHED, or the index of the first gradient that does not fit.
        """

    @property
    def mismatch(self) -> tuple[int, int, int, int, int]:
        """After MISMATCHED: tensor, kind (0: the gradient, then ``Tensor.arrays()``), element, both bits."""


class Mse(Protocol):
    """L(w) = (c/2) |Phi w - y|^2, bound to Phi, shape (N, p), and y, shape (N,)."""

    def __init__(self, Phi: Any, y: Any, factor: float, per_row: bool) -> None:
        """c is ``factor``, or with ``per_row`` that divided by the number of rows in use."""

    def evaluate(self, w: Any, rows: NDArray[np.int64] | None, r: Any | None, g: Any | None) -> float:
        """Writes the residuals to r and the gradient to g, each unless it is None.

        Args:
            w: the weights, shape (p,).
            rows: indices of the m rows in use; None: all N.
            r: shape (m,), or None.
            g: shape (p,), or None.

        Returns:
            The loss if r and g are None, else any number.
        """


class RuleRow(NamedTuple):
    """A row of the registry of rules: FOR_EACH_RULE in csrc/contract/rules.h."""

    name: str  # formed of the next three, there alone
    family: str
    form: str | None
    variant: str | None
    hyper: tuple[str, ...]  # names of the hyper-parameters
    states: tuple[str, ...]


class Backend(Protocol):
    """The module of a backend."""

    Plan: type[Plan]
    Mse: type[Mse]

    def rules(self) -> list[RuleRow]:
        """The registry of rules."""

    # ---- sums ----

    def canonical_sum(self, x: Any, outer: int, n: int, inner: int) -> Any:
        """The sums over n of x seen as (outer, n, inner): outer*inner numbers, float64."""

    def global_norm(self, arrays: Sequence[Any]) -> float:
        """The root of the sum of all squares; an empty list has the norm 0."""

    def block_sums(self, x: Any, outer: int, n: int, inner: int, squares: bool) -> Any:
        """The sums, or those of the squares, of blocks of 1024 along n of x seen as (outer, n, inner).

        Returns:
            outer*blocks*inner numbers, float64, in C order; blocks = ceil(n/1024).
        """

    def fingerprint(self, x: Any) -> int:
        """The fingerprint of x, in C order: float32, float64, 16 bits; uint16, bits that are no numbers."""

    # ---- leaves, the numbered parts of a step ----
    #
    # All arrays are (n,), without gaps. The formulas are those of csrc/contract/leaves.h.

    def weigh_leaf(self, g: Any | None, weight: float, out: Any) -> None:
        """T(weight)*g, to ``out``, which may be g. With weight 0: +0, and g, which may be None, is not read.

        Args:
            g: the dtype T of ``out``; where that is float32 also float16 or bfloat16, which is widened first.
            weight: 1 changes no bit.
            out: float32 or float64.
        """

    def add_leaves(self, to: Any, other: Any) -> None:
        """to + other, to ``to``, the sum of the leaves with the lower numbers; of one dtype, and apart."""

    def average_leaves(self, total: Any, weight: float, out: Any) -> None:
        """total/T(weight), to ``out``, which may be total.

        Args:
            total: float32 or float64, of the type T.
            weight: the number of leaves, or the sum of their weights.
            out: the dtype of ``total``; where that is float32 also float16 or bfloat16: rounded once more, to
                nearest even.
        """

    # ---- batch norm ----
    #
    # x, dy and out are (N, S, C) with channels_last, else (N, C, S), in C order, where sizes = (N, C, S). All
    # other arrays are (C,): mean64 and var64 float64, the others of the dtype of x. Results are written to
    # out, mean, inv, mean64, var64, dgamma and dbeta.

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
    ) -> None:
        """y = gamma*((x - mean)*inv) + beta, to ``out``; mean64 and var64 are of the batch, unrounded."""

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
    ) -> None:
        """dx = gamma*inv*((dy - dbeta/M) - (x - mean)*inv*dgamma/M), to ``out``, with M = N*S."""

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
    ) -> None:
        """y = (x - running_mean)*s + beta with s = gamma/sqrt(running_var + eps), to ``out``."""

    def update_running(
        self,
        running_mean: Any,
        running_var: Any,
        mean64: Any,
        var64: Any,
        values: int,
        momentum: float,
        batches: int,
    ) -> None:
        """running = (1 - p)*running + p*new, where new is mean64, and var64*M/(M - 1) with M = ``values``.

        p is 1/``batches`` where that is above 0, else ``momentum``.
        """

    # ---- the linear layer ----
    #
    # Matrices are read with any strides; what is written is in C order. What is not given to write to is made
    # anew and returned. The CPU's functions check their arguments themselves, in less time than Python could:
    # where one does not fit, they return None and have written nothing.

    def linear(self, x: Any, w: Any, bias: Any | None, relu: bool, out: Any | None) -> Any:
        """y = x w + bias, of x (N, K), w (K, J) and bias (J,); then a ReLU if asked for."""

    def linear_backward(
        self,
        dy: Any,
        x: Any,
        w: Any,
        y: Any | None,
        input_gradient: bool,
        dx: Any | None,
        dw: Any | None,
        dbias: Any | None,
    ) -> Any:
        """dx = dy w^T, or None without ``input_gradient``; dw = x^T dy; dbias = the sums over the rows of dy.

        dy is +0 in these where the forward pass's result y, given if it ended in a ReLU, is <= 0.
        """

    # ---- convolution, which samestep.torch alone uses ----
    #
    # All arrays are in C order and of one dtype: x (N, G*C, H, W), w (G*O, C, R, S), bias (G*O,), y (N, G*O,
    # H', W').

    def conv2d(self, x: Any, w: Any, bias: Any | None, window: Window, relu: bool, out: Any) -> None:
        """y, each sample's w times its patches, + bias, to ``out``; then a ReLU if asked for."""

    def conv2d_backward(
        self,
        dy: Any,
        x: Any | None,
        w: Any | None,
        y: Any | None,
        window: Window,
        dx: Any | None,
        dw: Any | None,
        dbias: Any | None,
    ) -> None:
        """Writes the gradients to dx, for which w is needed, dw, for which x is, and dbias, each unless None.

        x or dx, and w or dw, must be given. dy is +0 wherever y, given if the forward pass ended in a ReLU,
        is <= 0.
        """

    # ---- functions of one value ----
    #
    # x and out are arrays in C order, of one size and dtype; out may be x. float32: correctly rounded. The
    # CPU's functions check that themselves, as the linear layer's do.

    def exp(self, x: Any, out: Any) -> Any:
        """e^x."""

    def log(self, x: Any, out: Any) -> Any:
        """The natural logarithm: -inf of 0, NaN below."""

    def tanh(self, x: Any, out: Any) -> Any:
        """(e^x - e^-x)/(e^x + e^-x)."""

    def sigmoid(self, x: Any, out: Any) -> Any:
        """1/(1 + e^-x)."""

    def softmax_cross_entropy(self, z: Any, labels: Any, dz: Any) -> float:
        """L, the mean over the rows of log(sum_j e^z_ij) - z_i,label; its gradient is written to ``dz``.

        Args:
            z: (N, C), N and C at least 1, C order.
            labels: (N,), int64, from 0 to C - 1, C order.
            dz: like z; it may be z.
        """

    # ---- memory where the backend's arrays live ----

    def zeros_like(self, a: Any, dtype: Any = None) -> Any:
        """Zeros with the layout of ``a``, and with its dtype if none is given."""

    def empty_like(self, a: Any) -> Any:
        """Memory with the layout of ``a``."""

    def gradient_views(self, grads: Sequence[Any], w: Any) -> list[Any]:
        """Gradients of ``w`` as arrays of the backend's kind, if possible; None stays None."""

    def empty(self, n: int, dtype: Any, like: Any) -> Any:
        """Memory for n values, on the device of ``like``."""

    def contiguous(self, a: Any) -> Any:
        """``a`` itself, or a copy in C order."""

    def copy(self, a: Any) -> Any:
        """A copy in C order, on the device of ``a``."""

    def read_only_copy(self, a: Any) -> Any:
        """A copy in C order, read-only in main memory; a GPU has no read-only memory."""

    def from_host(self, a: Array) -> Any:
        """A NumPy array in the backend's memory: itself, or a copy on the current GPU."""

    def widened(self, w: Any, low: Any = None) -> Any:
        """A copy of a parameter in the type of the arithmetic; ``low``: its lower halves."""

    def to_host(self, a: Any) -> Array:
        """A copy as a NumPy array, once all kernels before have run."""

    def assign(self, to: Any, values: Any) -> None:
        """Overwrites an array with the values of another, which may be NumPy's, or with one number."""
