"""The optimizers of samestep as functions that return gradient transformations of optax.

Formulas, arguments, defaults and errors are those of the classes of samestep after which they are named. Each
number may be an array of JAX, which the program computes, and ``lr``, and the momentum of ``momentum`` and
``nag``, a callable of the number of steps made so far, 0 at first, as schedules of optax are. What the
program computes is checked when the step runs. None is 0, or off.

The ``options`` are those of ``samestep.options`` that name no memory: ``weight_decay``,
``decoupled_weight_decay``, ``maximize``, ``clip_norm``, ``clip_value``, ``nonfinite`` ("propagate" or
"skip"), ``ema``, ``flush_subnormals``, ``state_dtype``, ``master`` (None or "float32") and
``stochastic_rounding``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

from ..arguments import check_choice
from ..optim import optimizers as classes
from .transformation import Transformation, transformation

if TYPE_CHECKING:
    from typing_extensions import Unpack

Number = Any  # a float, an array of JAX, or where that is said a callable


class DecoupledOptions(TypedDict, total=False):
    """The keyword arguments that all these functions share, but for weight_decay."""

    decoupled_weight_decay: bool
    maximize: bool
    clip_norm: Number
    clip_value: Number
    nonfinite: str
    ema: Number
    flush_subnormals: bool
    state_dtype: str
    master: str | None
    stochastic_rounding: int | None


class StepOptions(DecoupledOptions, total=False):
    """The keyword arguments that all these functions share."""

    weight_decay: Number


def _with_options(function: Callable[..., Transformation]) -> Callable[..., Transformation]:
    """The function with its options in its signature, by which optax.inject_hyperparams goes, and checked."""
    own = inspect.signature(function)
    named = {p.name: p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD}
    for name in StepOptions.__annotations__:
        named.setdefault(name, inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None))

    @functools.wraps(function)
    def checked(*args: Any, **arguments: Any) -> Transformation:
        for name in arguments:
            if name not in named:
                raise TypeError(
                    f"{function.__name__}: got the unknown argument {name!r}, expected some of "
                    f"{', '.join(named)}"
                )
        check_choice("nonfinite", arguments.get("nonfinite"), (None, "propagate", "skip"))
        check_choice("master", arguments.get("master"), (None, "float32"))
        return function(*args, **arguments)

    checked.__signature__ = own.replace(parameters=list(named.values()))  # type: ignore[attr-defined]
    return checked


@_with_options
def sgd(lr: Number, **options: Unpack[StepOptions]) -> Transformation:
    """Gradient descent, as ``samestep.SGD``.

    ``w = w - lr*g``

    Args:
        lr: step size, >= 0; may be a schedule.
        options: see the module.

    Raises:
        TypeError, ValueError: a value is of the wrong kind or out of range, or an argument is unknown.

    Source:
        Goodfellow, Bengio & Courville, Deep Learning (2016), eq. 4.5 and alg. 8.1.

    Example:
        >>> import jax.numpy as jnp, optax, samestep.jax
        >>> optimizer = samestep.jax.sgd(lr=0.25)
        >>> w = jnp.array([1.0, -2.0])
        >>> updates, state = optimizer.update(jnp.array([4.0, 4.0]), optimizer.init(w), w)
        >>> optax.apply_updates(w, updates)
        Array([ 0., -3.], dtype=float32)
    """
    return transformation(classes.SGD, {"lr": lr, **options})


@_with_options
def momentum(
    lr: Number,
    momentum: Number = 0.9,
    form: str = "heavy_ball",
    dampening: Number | None = None,
    **options: Unpack[StepOptions],
) -> Transformation:
    """Gradient descent with momentum, as ``samestep.Momentum``.

    ``heavy_ball``: ``v = momentum*v - lr*g``, ``w = w + v``. ``torch``: ``b = momentum*b + g`` (``b = g`` at
    the first step), ``w = w - lr*b``.

    Args:
        lr: step size, >= 0; may be a schedule.
        momentum: share of the last step that is kept, >= 0; may be a schedule.
        form: "heavy_ball" or "torch".
        dampening: torch only, in [0, 1]: gradients after the first enter the buffer times 1 - dampening.
        options: see the module.

    Raises:
        TypeError, ValueError: a value is of the wrong kind or out of range, or an argument is unknown.

    Source:
        Polyak (1964); PyTorch's documentation of SGD.

    Example:
        >>> import jax.numpy as jnp, samestep.jax
        >>> optimizer = samestep.jax.momentum(lr=0.25, momentum=0.5)
        >>> w = jnp.array([1.0])
        >>> w, state = optimizer.step(jnp.array([4.0]), w, optimizer.init(w))
        >>> optimizer.step(jnp.array([0.0]), w, state)[0], state.states["v"]
        (Array([-0.5], dtype=float32), Array([-1.], dtype=float32))
    """
    return transformation(
        classes.Momentum, {"lr": lr, "momentum": momentum, "form": form, "dampening": dampening, **options}
    )


@_with_options
def nag(
    lr: Number,
    momentum: Number = 0.9,
    form: str = "look_ahead",
    momentum_next: Number | None = None,
    **options: Unpack[StepOptions],
) -> Transformation:
    """Nesterov's accelerated gradient, as ``samestep.NAG``.

    ``look_ahead``: ``v = momentum*v - lr*g``, ``w = w + (momentum_next*v - lr*g)``. ``torch``:
    ``b = momentum*b + g``, ``w = w - lr*(g + momentum*b)``.

    Args:
        lr: step size, >= 0; may be a schedule.
        momentum: >= 0; may be a schedule.
        form: "look_ahead" or "torch".
        momentum_next: look_ahead only: the momentum of the next step, of a schedule ``a`` as momentum
            ``lambda count: a(count + 1)``; None: the same as ``momentum``.
        options: see the module.

    Raises:
        TypeError, ValueError: a value is of the wrong kind or out of range, or an argument is unknown.

    Source:
        Nesterov (1983); Sutskever et al. (2013); PyTorch's documentation of SGD.

    Example:
        >>> import jax.numpy as jnp, samestep.jax
        >>> optimizer = samestep.jax.nag(lr=0.25, momentum=0.5)
        >>> w = jnp.array([1.0])
        >>> optimizer.step(jnp.array([4.0]), w, optimizer.init(w))[0]
        Array([-0.5], dtype=float32)
    """
    return transformation(
        classes.NAG, {"lr": lr, "momentum": momentum, "form": form, "momentum_next": momentum_next, **options}
    )


@_with_options
def adagrad(
    lr: Number,
    eps: Number = 1e-7,
    eps_placement: str = "outside",
    lr_decay: Number = 0.0,
    initial_accumulator: Number = 0.0,
    **options: Unpack[StepOptions],
) -> Transformation:
    """AdaGrad, as ``samestep.AdaGrad``.

    ``r = r + g^2``, ``w = w - lr/(sqrt(r) + eps) * g``, or ``lr/sqrt(r + eps)`` with eps inside. With
    ``lr_decay`` the step size is ``lr/(1 + (t - 1)*lr_decay)``.

    Args:
        lr: step size in units of w, >= 0; may be a schedule.
        eps: keeps the division finite, >= 0.
        eps_placement: "outside" or "inside" the root.
        lr_decay: >= 0.
        initial_accumulator: what r starts at, >= 0.
        options: see the module.

    Raises:
        TypeError, ValueError: a value is of the wrong kind or out of range, or an argument is unknown.

    Source:
        Duchi, Hazan & Singer (2011); Goodfellow, Bengio & Courville, Deep Learning (2016), alg. 8.4.

    Example:
        >>> import jax.numpy as jnp, samestep.jax
        >>> optimizer = samestep.jax.adagrad(lr=0.5, eps=0.0)
        >>> w = jnp.array([1.0])
        >>> optimizer.step(jnp.array([3.0]), w, optimizer.init(w))[0]
        Array([0.5], dtype=float32)
    """
    return transformation(
        classes.AdaGrad,
        {
            "lr": lr,
            "eps": eps,
            "eps_placement": eps_placement,
            "lr_decay": lr_decay,
            "initial_accumulator": initial_accumulator,
            **options,
        },
    )


@_with_options
def rmsprop(
    lr: Number,
    rho: Number = 0.9,
    eps: Number = 1e-6,
    eps_placement: str = "inside",
    centered: bool = False,
    momentum: Number | None = None,
    **options: Unpack[StepOptions],
) -> Transformation:
    """RMSProp, as ``samestep.RMSProp``.

    ``r = rho*r + (1 - rho)*g^2``, ``w = w - lr/sqrt(r + eps) * g``, or ``lr/(sqrt(r) + eps)`` with eps
    outside. ``centered``: ``c = rho*c + (1 - rho)*g``, and r - c^2 replaces r. With ``momentum``
    ``b = momentum*b + g/sqrt(r + eps)``, ``w = w - lr*b``.

    Args:
        lr: step size in units of w, >= 0; may be a schedule.
        rho: decay of the running mean, in [0, 1).
        eps: keeps the division finite, >= 0.
        eps_placement: "inside" or "outside" the root.
        centered: divide by the deviation about the mean gradient.
        momentum: share of the last step that is kept, >= 0; None or 0: none, and no buffer.
        options: see the module.

    Raises:
        TypeError, ValueError: a value is of the wrong kind or out of range, or an argument is unknown.

    Source:
        Hinton's lecture 6e (2012); Goodfellow, Bengio & Courville, Deep Learning (2016), alg. 8.5.

    Example:
        >>> import jax.numpy as jnp, samestep.jax
        >>> optimizer = samestep.jax.rmsprop(lr=0.5, rho=0.75, eps=0.0)
        >>> w = jnp.array([1.0])
        >>> optimizer.step(jnp.array([2.0]), w, optimizer.init(w))[0]
        Array([0.], dtype=float32)
    """
    return transformation(
        classes.RMSProp,
        {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "eps_placement": eps_placement,
            "centered": centered,
            "momentum": momentum,
            **options,
        },
    )


@_with_options
def adam(
    lr: Number = 1e-3,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    eps_placement: str = "outside",
    amsgrad: bool = False,
    **options: Unpack[StepOptions],
) -> Transformation:
    """Adam, as ``samestep.Adam``.

    ``m = beta1*m + (1 - beta1)*g``, ``v = beta2*v + (1 - beta2)*g^2``, ``w = w - lr*m'/(sqrt(v') + eps)``
    with ``m' = m/(1 - beta1^t)`` and ``v' = v/(1 - beta2^t)``, or ``lr*m'/sqrt(v' + eps)`` with eps inside.

    Args:
        lr: step size in units of w, >= 0; may be a schedule.
        betas: decay of the two running means, each in [0, 1).
        eps: keeps the division finite, >= 0.
        eps_placement: "outside" or "inside" the root.
        amsgrad: the largest v so far replaces v in the last line.
        options: see the module.

    Raises:
        TypeError, ValueError: a value is of the wrong kind or out of range, or an argument is unknown.

    Source:
        Kingma & Ba (2015), alg. 1; Reddi, Kale & Kumar (2018).

    Example:
        >>> import jax.numpy as jnp, samestep.jax
        >>> optimizer = samestep.jax.adam(lr=0.125, eps=0.0)
        >>> params = {"weight": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
        >>> grads = {"weight": jnp.full((2, 3), 7.0), "bias": jnp.full(3, -7.0)}
        >>> params, state = optimizer.step(grads, params, optimizer.init(params))
        >>> params["weight"][0], params["bias"]
        (Array([0.875, 0.875, 0.875], dtype=float32), Array([0.125, 0.125, 0.125], dtype=float32))
    """
    return transformation(
        classes.Adam,
        {"lr": lr, "betas": betas, "eps": eps, "eps_placement": eps_placement, "amsgrad": amsgrad, **options},
    )


@_with_options
def adamw(
    lr: Number = 1e-3,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.01,
    eps_placement: str = "outside",
    amsgrad: bool = False,
    **options: Unpack[DecoupledOptions],
) -> Transformation:
    """Adam with decoupled weight decay, as ``samestep.AdamW``: a step also takes ``lr*weight_decay*w`` away.

    Args:
        lr: step size in units of w, >= 0; may be a schedule.
        betas: decay of the two running means, each in [0, 1).
        eps: keeps the division finite, >= 0.
        weight_decay: >= 0.
        eps_placement: "outside" or "inside" the root.
        amsgrad: the largest v so far replaces v.
        options: see the module.

    Raises:
        TypeError, ValueError: a value is of the wrong kind or out of range, or an argument is unknown.

    Source:
        Loshchilov & Hutter, Decoupled weight decay regularization (2019), alg. 2.

    Example:
        >>> import jax.numpy as jnp, samestep.jax
        >>> optimizer = samestep.jax.adamw(lr=0.125, eps=0.0, weight_decay=0.5)
        >>> w = jnp.array([2.0])
        >>> optimizer.step(jnp.array([3.0]), w, optimizer.init(w))[0]  # 2 - 0.125*(1 + 0.5*2)
        Array([1.75], dtype=float32)
    """
    return transformation(
        classes.AdamW,
        {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "eps_placement": eps_placement,
            "amsgrad": amsgrad,
            **options,
        },
    )
