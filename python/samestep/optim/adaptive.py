"""The optimizers that divide each weight's step by the size of its past gradients; see optimizers.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..arguments import finite_number, number, switch
from ..backends.options import OptionArguments
from .hyper import Hyper, Rate, pair
from .optimizer import Optimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AdaGrad(Optimizer):
    """AdaGrad: each weight's step shrinks with the sum of its squared gradients.

    ``r = r + g^2``, ``w = w - lr/(sqrt(r) + eps) * g``, or ``lr/sqrt(r + eps)`` with eps inside.
    With ``lr_decay`` the step size is ``lr/(1 + (t - 1)*lr_decay)``.

    Args:
        params: what to optimize; see ``samestep.optimizers``.
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
        initial = {"r": finite_number("initial_accumulator", initial_accumulator, at_least=0.0)}
        hyper = {"lr": lr, "eps": eps, "lr_decay": lr_decay}
        super().__init__(params, form=eps_placement, initial=initial, backend=backend, hyper=hyper, **options)


class RMSProp(Optimizer):
    """RMSProp: each weight's step is divided by a running root mean square of its gradients.

    ``r = rho*r + (1 - rho)*g^2``, ``w = w - lr/sqrt(r + eps) * g``, or ``lr/(sqrt(r) + eps)`` with
    eps outside. r starts at 0 without correction: the first steps are up to 1/sqrt(1 - rho) times lr.
    ``centered``: ``c = rho*c + (1 - rho)*g``, and r - c^2 replaces r.
    ``momentum``: ``b = momentum*b + g/sqrt(r + eps)``, ``w = w - lr*b``.

    Args:
        params: what to optimize; see ``samestep.optimizers``.
        lr: step size in units of w, >= 0.
        rho: decay of the running mean, in [0, 1).
        eps: keeps the division finite, >= 0.
        eps_placement: "inside" or "outside" the root.
        centered: divide by the deviation about the mean gradient. Rounding may leave r - c^2 below 0,
            and w becomes NaN; an eps inside the root that is well above the rounding of r prevents it.
        momentum: share of the last step that is kept, >= 0; 0: none, and no buffer.
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
        "centered": {"centered": True},
        "momentum": {"momentum": 0.9},
        "centered_momentum": {"centered": True, "momentum": 0.9},
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
        centered, has_momentum = switch("centered", centered), bool(number("momentum", momentum))
        if has_momentum:
            hyper["momentum"] = momentum
        variant = rmsprop_variant(centered, has_momentum)
        super().__init__(params, form=eps_placement, variant=variant, backend=backend, hyper=hyper, **options)


class Adam(Optimizer):
    """Adam: momentum divided by a running root mean square, both corrected for their start at 0.

    ``m = beta1*m + (1 - beta1)*g``, ``v = beta2*v + (1 - beta2)*g^2``,
    ``w = w - lr*m'/(sqrt(v') + eps)`` with ``m' = m/(1 - beta1^t)`` and ``v' = v/(1 - beta2^t)``, or
    ``lr*m'/sqrt(v' + eps)`` with eps inside. With ``amsgrad`` the largest v so far, h,
    replaces v in the last line (Reddi, Kale & Kumar 2018).

    Args:
        params: what to optimize; see ``samestep.optimizers``.
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
    variants: ClassVar = {"amsgrad": {"amsgrad": True}}
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
        params: what to optimize; see ``samestep.optimizers``.
        lr: step size in units of w, >= 0.
        betas: decay of the two running means, each in [0, 1).
        eps: keeps the division finite, >= 0.
        weight_decay: >= 0.
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


def rmsprop_variant(centered: bool, momentum: bool) -> str | None:
    """The third token of RMSProp's row, which names the states that it has in addition to r."""
    if momentum:
        return "centered_momentum" if centered else "momentum"
    return "centered" if centered else None


# One for each family of rules; AdamW is Adam with an option set.
ADAPTIVE = (AdaGrad, RMSProp, Adam)
