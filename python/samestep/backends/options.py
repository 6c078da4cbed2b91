"""What a step does besides the rule, as the backends read it. optim/options.py says what may be asked for."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .arrays import Array


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
        state_dtype: "float32" or "param", what the state of 16-bit parameters is kept in.
        master: None, "float32" or "split", where 16-bit parameters are kept in float32.
        stochastic_rounding: the seed of how bfloat16 parameters are rounded; None: to nearest.
        copy_dtype: "bfloat16" or "float16", for a copy of float32 parameters; None: none is made.
        copy_grads: gradients in another memory layout than their parameter's are copied into that.
        groups: the group of each parameter.
        averages, masters, lows, copies: arrays beside the parameters, or none.
    """

    decoupled: bool = False
    maximize: bool = False
    zero_grads: bool = False
    flush_subnormals: bool = False
    nonfinite: str = "propagate"
    clip_norm: float = math.inf
    clip_value: float = math.inf
    ema: float = 0.0
    state_dtype: str = "float32"
    master: str | None = None
    stochastic_rounding: int | None = None
    copy_dtype: str | None = None
    copy_grads: bool = False
    groups: tuple[int, ...] = ()
    averages: tuple[Array, ...] = ()
    masters: tuple[Array, ...] = ()
    lows: tuple[Array, ...] = ()
    copies: tuple[Array, ...] = ()


def arguments_of(options: Options) -> dict[str, Any]:
    """The arguments that ``check_options`` makes these options from: bools, strings, numbers and None."""
    return {
        "decoupled_weight_decay": options.decoupled,
        "maximize": options.maximize,
        "clip_norm": options.clip_norm if options.clip_norm < math.inf else None,
        "clip_value": options.clip_value if options.clip_value < math.inf else None,
        "nonfinite": options.nonfinite,
        "zero_grads": options.zero_grads,
        "ema": options.ema or None,
        "flush_subnormals": options.flush_subnormals,
        "state_dtype": options.state_dtype,
        "master": options.master,
        "stochastic_rounding": options.stochastic_rounding,
        "copy_dtype": options.copy_dtype,
        "copy_grads": options.copy_grads,
    }
