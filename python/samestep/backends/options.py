"""The options of every optimizer: what a step does besides its rule, in the same pass over memory.

Each is off by default. A gradient g goes through them in this order, each rounded once:

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
tells, and on a GPU waits for it) or "raise". ``state_dir`` is a folder for the state as memory-mapped files:
it may be larger than the memory. A file that is there already is refused, so that no other optimizer's state
is lost; those of a constructor or an ``add_group`` that fails are removed. A gradient that lies in another
memory order than its parameter, as the transpose ``(dY.T @ X).T`` does, is an error; with ``copy_grads`` it
is copied into that order first, and ``stats.copied`` tells how many bytes that were.

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
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

from ..arguments import check_choice, number, switch


def _option(default: Any, check: Callable[[str, Any], Any]) -> Any:
    """A field: its value while off, and a function of (name, value) that returns the value or raises."""
    return field(default=default, metadata={"check": check})


def _one_of(*expected: str | None) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        check_choice(name, value, expected)
        return value

    return check


def _limit(name: str, value: Any) -> float | None:
    """A number > 0; infinity is no limit."""
    found = _number_or_none(name, value, lambda x: x > 0, "a number > 0 or None")
    return None if found == math.inf else found


def _fraction(name: str, value: Any) -> float | None:
    return _number_or_none(name, value, lambda x: 0 < x < 1, "a number in (0, 1) or None")


def _number_or_none(name: str, value: Any, fits: Callable[[float], bool], expected: str) -> float | None:
    if value is None:
        return None
    found = number(name, value)
    if not fits(found):
        raise ValueError(f"{name}: got {found}, expected {expected}")
    return found


def _seed(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: got {value!r}, expected a whole number, the seed, or None")
    if not 0 <= value.__index__() < 2**64:
        raise ValueError(f"{name}: got {value}, expected a seed in [0, 2^64)")
    return int(value.__index__())


@dataclass(frozen=True)
class Options:
    """The options of one optimizer, checked. Each field is a keyword argument of every optimizer.

    The C++ core reads those that its pass needs by the same names: FOR_EACH_OPTION in csrc/run/pass.h.

    Raises:
        TypeError, ValueError: a value does not fit, or two do not go together.
    """

    decoupled_weight_decay: bool = _option(False, switch)
    maximize: bool = _option(False, switch)
    clip_norm: float | None = _option(None, _limit)
    clip_value: float | None = _option(None, _limit)
    nonfinite: str = _option("propagate", _one_of("propagate", "skip", "raise"))
    zero_grads: bool = _option(False, switch)
    ema: float | None = _option(None, _fraction)
    flush_subnormals: bool = _option(False, switch)
    state_dtype: str = _option("float32", _one_of("float32", "param"))
    master: str | None = _option(None, _one_of(None, "float32", "split"))
    stochastic_rounding: int | None = _option(None, _seed)
    copy_dtype: str | None = _option(None, _one_of(None, "bfloat16", "float16"))
    copy_grads: bool = _option(False, switch)

    def __post_init__(self) -> None:
        for option in fields(self):
            checked = option.metadata["check"](option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, checked)
        if self.master is not None and (
            self.state_dtype != "float32" or self.stochastic_rounding is not None
        ):
            raise ValueError(
                f"master: got {self.master!r} with state_dtype={self.state_dtype!r} and stochastic_rounding="
                f"{self.stochastic_rounding!r}; a master has float32 state and nothing to round at random"
            )
        if self.copy_grads and self.zero_grads:
            raise ValueError(
                "copy_grads: got True with zero_grads=True, which would zero the copies; leave one out"
            )

    def arguments(self) -> dict[str, Any]:
        """These options as keyword arguments: bools, strings, numbers and None."""
        return dict(vars(self))


class OptionArguments(TypedDict, total=False):
    """The keyword arguments that all optimizers share, for type checkers: the fields of ``Options``, a
    hyper-parameter and a folder.
    """

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


def check_names(kind: type, names: Iterable[str]) -> None:
    """Raises TypeError for a keyword argument that an optimizer of this class does not have."""
    for name in names:
        if name not in OptionArguments.__annotations__:
            raise TypeError(
                f"{kind.__name__}: got the unknown argument {name!r}, expected some of "
                f"{', '.join((*_own_arguments(kind), *OptionArguments.__annotations__))}"
            )


def _own_arguments(kind: type) -> list[str]:
    """The named arguments of the constructors of a class and of its bases, without the options."""
    import inspect  # here: only an error needs it

    makers = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    parameters = (p for make in makers[:-2] for p in inspect.signature(make).parameters.values())
    names = dict.fromkeys(p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self")
    return [name for name in names if name not in OptionArguments.__annotations__]
