"""The optimizers: names, defaults, formulas. The arithmetic is in csrc/contract/rules.h and its NumPy twin.

Those that divide a step by the size of past gradients are in adaptive.py.

Every class takes ``params``, an array or nested lists, tuples and dicts of arrays, float32, float64,
float16 or bfloat16, and updates them in place; or a list of groups, ``{"params": arrays, "lr": ..., ...}``,
each with hyper-parameters of its own. ``backend`` is "auto" (by where the arrays live), "cpu", "reference"
(the NumPy twin: the same bits, slowly) or "cuda" (arrays on an NVIDIA GPU). ``lr``, and the momentum of
Momentum and NAG, may be a callable of the step number, see ``samestep.schedules``. The ``options`` are
those of ``samestep.options``: weight decay, clipping, maximizing, a running average of the parameters and
others, in the same pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..arguments import number
from ..backends.arrays import Array
from ..backends.options import OptionArguments
from .adaptive import ADAPTIVE, AdaGrad, Adam, AdamW, RMSProp
from .hyper import Hyper, Rate
from .optimizer import Optimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NAG", "OPTIMIZERS", "SGD", "AdaGrad", "Adam", "AdamW", "Momentum", "RMSProp"]


class SGD(Optimizer):
    """Gradient descent; stochastic when the gradient is that of a batch.

    ``w = w - lr*g``

    Args:
        params: what to optimize; see the module.
        lr: step size, >= 0. On a loss with curvature at most beta, steps shrink the loss for
            lr < 2/beta.
        backend: "auto", "cpu", "reference" or "cuda".
        options: see ``samestep.options``.

    Raises:
        TypeError, ValueError: an array cannot be updated in place, or a value is out of range.

    Source:
        Goodfellow, Bengio & Courville, Deep Learning (2016), eq. 4.5 and alg. 8.1.

    Example:
        >>> import numpy as np, samestep as ss
        >>> w = np.array([1.0, -2.0])
        >>> opt = ss.SGD(w, lr=0.25)
        >>> opt.step(np.array([4.0, 4.0]))
        >>> w
        array([ 0., -3.])
    """

    family = "sgd"
    lr = Hyper(at_least=0.0, scheduled=True)

    def __init__(
        self, params: Any, lr: Rate, backend: str = "auto", **options: Unpack[OptionArguments]
    ) -> None:
        super().__init__(params, form=None, backend=backend, hyper={"lr": lr}, **options)


class Momentum(Optimizer):
    """Gradient descent with momentum, in two forms that agree for a constant lr.

    ``heavy_ball``: ``v = momentum*v - lr*g``, ``w = w + v``. The velocity holds steps: a new lr
    leaves the old ones as they are.
    ``torch``: ``b = momentum*b + g`` (``b = g`` at the first step), ``w = w - lr*b``. The buffer
    holds gradients: a new lr scales the old ones as well.

    Args:
        params: what to optimize; see the module.
        lr: step size, >= 0.
        momentum: share of the last step that is kept, >= 0; below 1 to be stable. On a quadratic
            the steps are stable for lr < 2*(1 + momentum)/beta. May be a callable of the step number, as lr.
        form: "heavy_ball" or "torch".
        dampening: torch only, in [0, 1]: gradients after the first enter the buffer times
            1 - dampening.
        backend: "auto", "cpu", "reference" or "cuda".
        options: see ``samestep.options``.

    Raises:
        TypeError, ValueError: an array cannot be updated in place, or a value is out of range.

    Source:
        Polyak (1964); Goodfellow, Bengio & Courville, Deep Learning (2016), eqs. 8.15-8.16;
        PyTorch's documentation of SGD.

    Example:
        >>> import numpy as np, samestep as ss
        >>> w = np.array([1.0])
        >>> opt = ss.Momentum(w, lr=0.25, momentum=0.5)
        >>> opt.step(np.array([4.0]))
        >>> opt.step(np.array([0.0]))
        >>> w, opt.state["v"][0]
        (array([-0.5]), array([-0.5]))
    """

    family = "momentum"
    forms = ("heavy_ball", "torch")
    variants: ClassVar = {"dampened": {"dampening": 0.1}}
    lr = Hyper(at_least=0.0, scheduled=True)
    momentum = Hyper(at_least=0.0, scheduled=True)
    dampening = Hyper(at_least=0.0, at_most=1.0)

    def __init__(
        self,
        params: Any,
        lr: Rate,
        momentum: Rate = 0.9,
        form: str = "heavy_ball",
        dampening: float = 0.0,
        backend: str = "auto",
        **options: Unpack[OptionArguments],
    ) -> None:
        hyper: dict[str, Any] = {"lr": lr, "momentum": momentum}
        variant = None
        if number("dampening", dampening):
            if form != "torch":
                raise ValueError(f"dampening: got {dampening}, but only the torch form has it")
            hyper["dampening"] = dampening
            variant = "dampened"
        super().__init__(params, form=form, variant=variant, backend=backend, hyper=hyper, **options)


class NAG(Optimizer):
    """Nesterov's accelerated gradient, in two forms.

    ``look_ahead``: ``v = momentum*v - lr*g``, ``w = w + (momentum_next*v - lr*g)``. The stored w is
    the look-ahead point, where the gradient is evaluated; the iterate of the textbook form is
    ``w - momentum_next*v``, which ``iterate`` returns.
    ``torch``: ``b = momentum*b + g``, ``w = w - lr*(g + momentum*b)``.

    Args:
        params: what to optimize; see the module.
        lr: step size, >= 0.
        momentum: >= 0; below 1 to be stable. On a quadratic the steps are stable for
            lr < (2 + 2*momentum)/((1 + 2*momentum)*beta), which is below 2/beta. May be a callable of
            the step number, as lr.
        form: "look_ahead" or "torch".
        momentum_next: the momentum of the next step, for schedules (look_ahead only): of a schedule ``a``
            as momentum it is ``lambda t: a(t + 1)``; None: the same as ``momentum``, whatever that is.
        backend: "auto", "cpu", "reference" or "cuda".
        options: see ``samestep.options``.

    Raises:
        TypeError, ValueError: an array cannot be updated in place, or a value is out of range.

    Source:
        Nesterov (1983); Sutskever et al. (2013); Goodfellow, Bengio & Courville, Deep Learning
        (2016), eqs. 8.21-8.22; PyTorch's documentation of SGD.

    Example:
        >>> import numpy as np, samestep as ss
        >>> w = np.array([1.0])
        >>> opt = ss.NAG(w, lr=0.25, momentum=0.5)
        >>> opt.step(np.array([4.0]))
        >>> w, opt.state["v"][0]
        (array([-0.5]), array([-1.]))
    """

    family = "nag"
    forms = ("look_ahead", "torch")
    lr = Hyper(at_least=0.0, scheduled=True)
    momentum = Hyper(at_least=0.0, scheduled=True)
    momentum_next = Hyper(at_least=0.0, scheduled=True, follows="momentum")

    def __init__(
        self,
        params: Any,
        lr: Rate,
        momentum: Rate = 0.9,
        form: str = "look_ahead",
        momentum_next: Rate | None = None,
        backend: str = "auto",
        **options: Unpack[OptionArguments],
    ) -> None:
        hyper: dict[str, Any] = {"lr": lr, "momentum": momentum}
        if form == "look_ahead":
            hyper["momentum_next"] = momentum_next
        elif momentum_next is not None:
            raise ValueError(f"momentum_next: got {momentum_next}, but only look_ahead has one")
        super().__init__(params, form=form, backend=backend, hyper=hyper, **options)

    @property
    def iterate(self) -> list[Array]:
        """The iterate x of the textbook form, one array for each parameter, all of them copies.

        ``x = w - momentum_next*v`` in the look-ahead form, whose stored w is the point of the next gradient;
        the parameters themselves in torch's form.

        Example:
            >>> import numpy as np, samestep as ss
            >>> opt = ss.NAG(np.array([1.0]), lr=0.25, momentum=0.5)
            >>> opt.step(np.array([4.0]))
            >>> opt.params[0], opt.iterate[0]
            (array([-0.5]), array([0.]))
        """
        iterates = super().iterate
        if self.form == "look_ahead":
            params = [(group, param) for group in self.groups for param in group.params]
            for x, (group, param) in zip(iterates, params, strict=True):
                x -= x.dtype.type(group["momentum_next"]) * param.states["v"].astype(x.dtype)
        return iterates


# One for each family of rules; AdamW is Adam with an option set.
OPTIMIZERS = (SGD, Momentum, NAG, *ADAPTIVE)
