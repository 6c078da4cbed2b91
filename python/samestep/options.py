"""What every optimizer takes beside its own hyper-parameters, all done in the one pass of the step.

Each is off unless asked for. A gradient g goes through them in this order, each rounded once:

==================== ==========================================================================
scale                ``g = scale*g``, the argument of ``step``: loss scaling
clip_norm            the same factor shortens all gradients together to this norm
clip_value           ``g`` is held within ``[-clip_value, clip_value]``
maximize             ``g = -g``
weight_decay         ``g = g + weight_decay*w``: coupled, the gradient of an L2 penalty
==================== ==========================================================================

Then comes the rule. With ``decoupled_weight_decay=True`` the weight decay takes no part in the gradient and
the state; instead the step also takes away ``lr*weight_decay*w`` (Loshchilov & Hutter 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from .arrays import Array

if TYPE_CHECKING:
    from typing_extensions import Unpack  # noqa: F401

NONFINITE = ("propagate", "skip", "raise")


class OptionArguments(TypedDict, total=False):
    """The keyword arguments that all optimizers share."""

    weight_decay: float
    decoupled_weight_decay: bool
    maximize: bool
    clip_norm: float | None
    clip_value: float | None
    nonfinite: str
    zero_grads: bool
    ema: float | None
    flush_subnormals: bool


class Options(NamedTuple):
    """The checked options, and the arrays and groups that they need, as the backends read them.

    Args:
        decoupled: weight decay acts on the parameter, not on the gradient.
        maximize: climb instead of descend.
        zero_grads: set the gradients to +0 once they are read.
        flush_subnormals: state below 2^-126 in magnitude becomes +0 after the step.
        nonfinite: "propagate", "skip" or "raise", what an infinity or NaN in a gradient does.
        clip_norm: the largest norm of all gradients together; infinity: any.
        clip_value: the largest magnitude of one element; infinity: any.
        ema: decay of the running average of the parameters; 0: none is kept.
        groups: the group of each parameter.
        averages: the running averages, or none.
    """

    decoupled: bool = False
    maximize: bool = False
    zero_grads: bool = False
    flush_subnormals: bool = False
    nonfinite: str = "propagate"
    clip_norm: float = math.inf
    clip_value: float = math.inf
    ema: float = 0.0
    groups: tuple[int, ...] = ()
    averages: tuple[Array, ...] = ()


def check_options(
    decoupled_weight_decay: Any = False,
    maximize: Any = False,
    clip_norm: Any = None,
    clip_value: Any = None,
    nonfinite: Any = "propagate",
    zero_grads: Any = False,
    ema: Any = None,
    flush_subnormals: Any = False,
) -> Options:
    """The options, or TypeError or ValueError that names the one that does not fit."""
    if nonfinite not in NONFINITE:
        raise ValueError(f"nonfinite: got {nonfinite!r}, expected one of {', '.join(NONFINITE)}")
    return Options(
        decoupled=_switch("decoupled_weight_decay", decoupled_weight_decay),
        maximize=_switch("maximize", maximize),
        zero_grads=_switch("zero_grads", zero_grads),
        flush_subnormals=_switch("flush_subnormals", flush_subnormals),
        nonfinite=nonfinite,
        clip_norm=_within("clip_norm", clip_norm, math.inf, lambda x: x > 0, "a number > 0 or None"),
        clip_value=_within("clip_value", clip_value, math.inf, lambda x: x > 0, "a number > 0 or None"),
        ema=_within("ema", ema, 0.0, lambda x: 0 < x < 1, "a number in (0, 1) or None"),
    )


def number(name: str, value: Any) -> float:
    """``value`` as a float; text and arrays of several elements are a TypeError."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: got {value!r}, expected a number") from None


def _switch(name: str, value: Any) -> bool:
    if value not in (True, False):
        raise TypeError(f"{name}: got {value!r}, expected True or False")
    return bool(value)


def _within(name: str, value: Any, absent: float, fits: Callable[[float], bool], expected: str) -> float:
    if value is None:
        return absent
    found = number(name, value)
    if not fits(found):
        raise ValueError(f"{name}: got {found}, expected {expected}")
    return found
