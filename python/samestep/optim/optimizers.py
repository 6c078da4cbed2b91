"""The optimizers: names, defaults, formulas. The arithmetic is in csrc/contract/rules.h and its NumPy twin.

Every class takes ``params``, an array or nested lists, tuples and dicts of arrays, float32, float64,
float16 or bfloat16, and updates them in place; or a list of groups, ``{"params": arrays, "lr": ..., ...}``,
each with hyper-parameters of its own. ``backend`` is "auto" (by where the arrays live), "cpu", "reference"
(the NumPy twin: the same bits, slowly) or "cuda" (arrays on an NVIDIA GPU). ``lr``, and the momentum of
Momentum and NAG, may be a callable of the step number, see ``samestep.schedules``. The ``options`` are
those of ``samestep.options``: weight decay, clipping, maximizing, a running average of the parameters and
others, in the same pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ..arguments import number, switch
from ..backends.arrays import Array
from ..backends.options import OptionArguments
from .hyper import Hyper, pair
from .optimizer import Optimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    Rate = float | Callable[[int], float]


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
    variants: ClassVar = {"torch_dampened": {"form": "torch", "dampening": 0.1}}
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
    the look-ahead point, where the gradient is taken; the iterate of the textbook form is
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

        ``x = w - momentum_next*v`` in the look-ahead form, whose stored w is where the next gradient is
        taken; the parameters themselves in torch's form.

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


class AdaGrad(Optimizer):
    """AdaGrad: each weight's step shrinks with the sum of its squared gradients.

    ``r = r + g^2``, ``w = w - lr/(sqrt(r) + eps) * g``, or ``lr/sqrt(r + eps)`` with eps inside.
    With ``lr_decay`` the step size is ``lr/(1 + (t - 1)*lr_decay)``.

    Args:
        params: what to optimize; see the module.
        lr: step size in units of w, >= 0.
        eps: keeps the division finite, >= 0.
        eps_placement: "outside" or "inside" the root.
        lr_decay: >= 0.
        initial_accumulator: what r starts at, >= 0.
        backend: "auto", "cpu", "reference" or "cuda".
        options: see ``samestep.options``.

    Raises:
        TypeError, ValueError: an array cannot be updated in place, or a value is out of range.

    Source:
        Duchi, Hazan & Singer (2011); Goodfellow, Bengio & Courville, Deep Learning (2016),
        alg. 8.4 (eps 1e-7, outside).

    Example:
        >>> import numpy as np, samestep as ss
        >>> w = np.array([1.0])
        >>> opt = ss.AdaGrad(w, lr=0.5, eps=0.0)
        >>> opt.step(np.array([3.0]))
        >>> w, opt.state["r"][0]
        (array([0.5]), array([9.]))
    """

    family = "adagrad"
    forms = ("outside", "inside")
    form_argument = "eps_placement"
    lr = Hyper(at_least=0.0, scheduled=True)
    eps = Hyper(at_least=0.0)
    lr_decay = Hyper(at_least=0.0, optional=True, in_float64=True)

    def __init__(
        self,
        params: Any,
        lr: Rate,
        eps: float = 1e-7,
        eps_placement: str = "outside",
        lr_decay: float = 0.0,
        initial_accumulator: float = 0.0,
        backend: str = "auto",
        **options: Unpack[OptionArguments],
    ) -> None:
        initial = {"r": _not_negative("initial_accumulator", initial_accumulator)}
        hyper = {"lr": lr, "eps": eps, "lr_decay": lr_decay}
        super().__init__(params, form=eps_placement, initial=initial, backend=backend, hyper=hyper, **options)


class RMSProp(Optimizer):
    """RMSProp: each weight's step is divided by a running root mean square of its gradients.

    ``r = rho*r + (1 - rho)*g^2``, ``w = w - lr/sqrt(r + eps) * g``, or ``lr/(sqrt(r) + eps)`` with
    eps outside. r starts at 0 without correction: the first steps are up to 1/sqrt(1 - rho) times lr.
    ``centered``: ``c = rho*c + (1 - rho)*g`` and r - c^2 stands in the place of r.
    ``momentum``: ``b = momentum*b + g/sqrt(r + eps)``, ``w = w - lr*b``.

    Args:
        params: what to optimize; see the module.
        lr: step size in units of w, >= 0.
        rho: decay of the running mean, in [0, 1).
        eps: keeps the division finite, >= 0.
        eps_placement: "inside" or "outside" the root.
        centered: divide by the deviation about the mean gradient. Rounding may leave r - c^2 below 0,
            and then w becomes NaN: with eps inside, keep it well above the rounding of r.
        momentum: share of the last step that is kept, >= 0; 0 keeps none and no buffer.
        backend: "auto", "cpu", "reference" or "cuda".
        options: see ``samestep.options``.

    Raises:
        TypeError, ValueError: an array cannot be updated in place, or a value is out of range.

    Source:
        Hinton's lecture 6e (2012); Goodfellow, Bengio & Courville, Deep Learning (2016), alg. 8.5
        (eps 1e-6, inside).

    Example:
        >>> import numpy as np, samestep as ss
        >>> w = np.array([1.0])
        >>> opt = ss.RMSProp(w, lr=0.5, rho=0.75, eps=0.0)
        >>> opt.step(np.array([2.0]))
        >>> w, opt.state["r"][0]
        (array([0.]), array([1.]))
    """

    family = "rmsprop"
    forms = ("inside", "outside")
    form_argument = "eps_placement"
    lr = Hyper(at_least=0.0, scheduled=True)
    variants: ClassVar = {
        f"{form}_{variant}": {"eps_placement": form, **arguments}
        for form in ("inside", "outside")
        for variant, arguments in (
            ("centered", {"centered": True}),
            ("momentum", {"momentum": 0.9}),
            ("centered_momentum", {"centered": True, "momentum": 0.9}),
        )
    }
    rho = Hyper(at_least=0.0, below=1.0)
    eps = Hyper(at_least=0.0)
    momentum = Hyper(at_least=0.0)

    def __init__(
        self,
        params: Any,
        lr: Rate,
        rho: float = 0.9,
        eps: float = 1e-6,
        eps_placement: str = "inside",
        centered: bool = False,
        momentum: float = 0.0,
        backend: str = "auto",
        **options: Unpack[OptionArguments],
    ) -> None:
        hyper = {"lr": lr, "rho": rho, "eps": eps}
        centered, keeps = switch("centered", centered), bool(number("momentum", momentum))
        if keeps:
            hyper["momentum"] = momentum
        variant = "_".join(["centered"] * centered + ["momentum"] * keeps)
        super().__init__(params, form=eps_placement, variant=variant, backend=backend, hyper=hyper, **options)


class Adam(Optimizer):
    """Adam: momentum divided by a running root mean square, both corrected for their start at 0.

    ``m = beta1*m + (1 - beta1)*g``, ``v = beta2*v + (1 - beta2)*g^2``,
    ``w = w - lr*m'/(sqrt(v') + eps)`` with ``m' = m/(1 - beta1^t)`` and ``v' = v/(1 - beta2^t)``, or
    ``lr*m'/sqrt(v' + eps)`` with eps inside. With ``amsgrad`` the largest v so far, h, stands in the
    place of v in the last line (Reddi, Kale & Kumar 2018).

    Args:
        params: what to optimize; see the module.
        lr: step size in units of w, >= 0.
        betas: decay of the two running means, each in [0, 1).
        eps: keeps the division finite, >= 0. Inside the root, 1e-8 acts as 1e-4 does outside.
        eps_placement: "outside" or "inside" the root.
        amsgrad: never let the denominator shrink.
        backend: "auto", "cpu", "reference" or "cuda".
        options: see ``samestep.options``.

    Raises:
        TypeError, ValueError: an array cannot be updated in place, or a value is out of range.

    Source:
        Kingma & Ba (2015), alg. 1; Goodfellow, Bengio & Courville, Deep Learning (2016), alg. 8.7
        (eps 1e-8, outside).

    Example:
        >>> import numpy as np, samestep as ss
        >>> params = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}
        >>> opt = ss.Adam(params, lr=0.125, eps=0.0)
        >>> opt.step({"weight": np.full((2, 3), 7, np.float32), "bias": None})
        >>> params["weight"][0]
        array([0.875, 0.875, 0.875], dtype=float32)
        >>> opt.t, opt.steps
        (1, [1, 0])
    """

    family = "adam"
    forms = ("outside", "inside")
    form_argument = "eps_placement"
    variants: ClassVar = {
        f"{form}_amsgrad": {"eps_placement": form, "amsgrad": True} for form in ("outside", "inside")
    }
    lr = Hyper(at_least=0.0, scheduled=True)
    beta1 = Hyper(at_least=0.0, below=1.0)
    beta2 = Hyper(at_least=0.0, below=1.0)
    eps = Hyper(at_least=0.0)

    def __init__(
        self,
        params: Any,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        eps_placement: str = "outside",
        amsgrad: bool = False,
        backend: str = "auto",
        **options: Unpack[OptionArguments],
    ) -> None:
        beta1, beta2 = pair(betas)
        hyper = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps}
        variant = "amsgrad" if switch("amsgrad", amsgrad) else None
        super().__init__(params, form=eps_placement, variant=variant, backend=backend, hyper=hyper, **options)

    @property
    def betas(self) -> tuple[float, float]:
        """``(beta1, beta2)``; settable."""
        return self.beta1, self.beta2

    @betas.setter
    def betas(self, betas: tuple[float, float]) -> None:
        beta1, beta2 = pair(betas)
        self._set_hyper(beta1=beta1, beta2=beta2)


class AdamW(Adam):
    """Adam with decoupled weight decay: the step also takes ``lr*weight_decay*w`` away.

    Args:
        params: what to optimize; see the module.
        lr: step size in units of w, >= 0.
        betas: decay of the two running means, each in [0, 1).
        eps: keeps the division finite, >= 0.
        weight_decay: >= 0; in the step it counts lr times.
        options: those of ``Adam`` and of ``samestep.options``.

    Raises:
        TypeError, ValueError: an array cannot be updated in place, or a value is out of range.

    Source:
        Loshchilov & Hutter, Decoupled weight decay regularization (2019), alg. 2.

    Example:
        >>> import numpy as np, samestep as ss
        >>> w = np.array([2.0])
        >>> opt = ss.AdamW(w, lr=0.125, eps=0.0, weight_decay=0.5)
        >>> opt.step(np.array([3.0]))
        >>> w  # 2 - 0.125*(1 + 0.5*2)
        array([1.75])
    """

    def __init__(
        self,
        params: Any,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        options = {"decoupled_weight_decay": True, **options}
        super().__init__(params, lr, betas, eps, weight_decay=weight_decay, **options)


def _not_negative(name: str, value: Any) -> float:
    found = number(name, value)
    if not 0.0 <= found < math.inf:
        raise ValueError(f"{name}: got {found}, expected a number >= 0")
    return found


# One for each family of rules; AdamW is Adam with an option set.
OPTIMIZERS = (SGD, Momentum, NAG, AdaGrad, RMSProp, Adam)
