"""What every optimizer takes beside its own hyper-parameters, all done in the one pass of the step.

Each is off unless asked for. A gradient g goes through them in this order, each rounded once:

==================== ==========================================================================
scale                ``g = scale*g``, the argument of ``step``: loss scaling
clip_norm            the same factor shortens all gradients together to this norm
clip_value           ``g`` is held within ``[-clip_value, clip_value]``
maximize             ``g = -g``
weight_decay         ``g = g + weight_decay*w``: coupled, the gradient of an L2 penalty
==================== ==========================================================================

``ema`` keeps a running average of the parameters, ``e = ema*e + (1 - ema)*w``; ``zero_grads`` sets the
gradients to +0 once they are read; ``flush_subnormals`` sets state below 2^-126 to +0, the same on every
machine: a multiplication by a subnormal number takes about a hundred times as long as any other, and the
state of a weight whose gradient stays 0 decays into them. ``nonfinite`` says what an infinity or NaN in a
gradient does: "propagate", "skip" (the step is left out, with every byte and count as it was; ``skipped``
tells) or "raise". ``state_dir`` is a folder for the state as memory-mapped files: it may be larger than
the memory. A file that is there already is refused, so that no other optimizer's state is lost; those of a
constructor or an ``add_group`` that fails are removed. A gradient that lies in another memory order than its
parameter, as the transpose ``(dY.T @ X).T`` does, is an error; with ``copy_grads`` it is copied into that
order first, and ``stats.copied`` tells how many bytes that were.

Parameters and gradients may be kept in 16 bits: float16, or bfloat16 (ml_dtypes, the extra ``bfloat16``). The
arithmetic and its scalars are float32 all the same, and so is the state unless ``state_dtype="param"``.
``master="float32"`` keeps the parameters in float32 beside them; ``master="split"`` keeps the lower halves,
bfloat16 parameters being the upper ones. ``stochastic_rounding=seed`` rounds bfloat16 parameters up or
down with the probability of what is cut off, by a generator that is keyed by (seed, step, array, element):
the array by its place in the list, the step by its own count. ``copy_dtype`` writes a 16-bit copy of
float32 parameters.

Then comes the rule. With ``decoupled_weight_decay=True`` the weight decay takes no part in the gradient and
the state; instead the step also takes away ``lr*weight_decay*w`` (Loshchilov & Hutter 2019).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypedDict

from ..arguments import check_choice, number, switch
from ..backends.options import Options

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
    state_dir: str | os.PathLike[str] | None
    state_dtype: str
    master: str | None
    stochastic_rounding: int | None
    copy_dtype: str | None
    copy_grads: bool


def check_options(
    decoupled_weight_decay: Any = False,
    maximize: Any = False,
    clip_norm: Any = None,
    clip_value: Any = None,
    nonfinite: Any = "propagate",
    zero_grads: Any = False,
    ema: Any = None,
    flush_subnormals: Any = False,
    state_dtype: Any = "float32",
    master: Any = None,
    stochastic_rounding: Any = None,
    copy_dtype: Any = None,
    copy_grads: Any = False,
) -> Options:
    """The options, or TypeError or ValueError that names the one that does not fit."""
    for name, value, expected in (
        ("nonfinite", nonfinite, NONFINITE),
        ("state_dtype", state_dtype, ("float32", "param")),
        ("master", master, (None, "float32", "split")),
        ("copy_dtype", copy_dtype, (None, "bfloat16", "float16")),
    ):
        check_choice(name, value, expected)
    if master is not None and (state_dtype != "float32" or stochastic_rounding is not None):
        raise ValueError(
            f"master: got {master!r} with state_dtype={state_dtype!r} and stochastic_rounding="
            f"{stochastic_rounding!r}; a master has float32 state and nothing to round at random"
        )
    if switch("copy_grads", copy_grads) and switch("zero_grads", zero_grads):
        raise ValueError(
            "copy_grads: got True with zero_grads=True, which would zero the copies; leave one out"
        )
    return Options(
        decoupled=switch("decoupled_weight_decay", decoupled_weight_decay),
        maximize=switch("maximize", maximize),
        zero_grads=switch("zero_grads", zero_grads),
        flush_subnormals=switch("flush_subnormals", flush_subnormals),
        nonfinite=nonfinite,
        clip_norm=_within("clip_norm", clip_norm, math.inf, lambda x: x > 0, "a number > 0 or None"),
        clip_value=_within("clip_value", clip_value, math.inf, lambda x: x > 0, "a number > 0 or None"),
        state_dtype=state_dtype,
        master=master,
        stochastic_rounding=_seed(stochastic_rounding),
        copy_dtype=copy_dtype,
        copy_grads=bool(copy_grads),
        ema=_within("ema", ema, 0.0, lambda x: 0 < x < 1, "a number in (0, 1) or None"),
    )


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"stochastic_rounding: got {value!r}, expected a whole number, the seed, or None")
    if not 0 <= value.__index__() < 2**64:
        raise ValueError(f"stochastic_rounding: got {value}, expected a seed in [0, 2^64)")
    return int(value.__index__())


def _within(name: str, value: Any, absent: float, fits: Callable[[float], bool], expected: str) -> float:
    if value is None:
        return absent
    found = number(name, value)
    if not fits(found):
        raise ValueError(f"{name}: got {found}, expected {expected}")
    return found


def check_names(kind: type, names: Iterable[str]) -> None:
    """Raises TypeError for a keyword argument that an optimizer of this class does not take."""
    for name in names:
        if name not in OptionArguments.__annotations__:
            raise TypeError(
                f"{kind.__name__}: got the unknown argument {name!r}, expected some of "
                f"{', '.join((*_own_arguments(kind), *OptionArguments.__annotations__))}"
            )


def _own_arguments(kind: type) -> list[str]:
    """What the constructors of a class and of its bases take by name, options left out."""
    import inspect  # here: only an error needs it

    makers = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    parameters = (p for make in makers[:-2] for p in inspect.signature(make).parameters.values())
    names = dict.fromkeys(p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self")
    return [name for name in names if name not in OptionArguments.__annotations__]
