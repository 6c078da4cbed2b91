"""The arguments of an optimizer in JAX: numbers, schedules and what the program computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backends.options import Options
from ..optim.optimizer import Optimizer
from .packages import jax

# In the place of a number that the program computes, while the arguments beside it are checked: every range
# has it.
ANY_NUMBER = 0.5
LEAST = math.ulp(0.0)


class Bounds(NamedTuple):
    """Of a number that the program computes: ``at_least <= number < below`` and ``number <= at_most``."""

    at_least: float
    below: float
    at_most: float


# The options that are numbers: their bounds, and their values while off.
OPTIONS = {
    "clip_norm": (Bounds(LEAST, math.inf, math.inf), math.inf),
    "clip_value": (Bounds(LEAST, math.inf, math.inf), math.inf),
    "ema": (Bounds(LEAST, 1.0, 1.0), 0.0),
}


class Resolved(NamedTuple):
    """The arguments at one step.

    Attributes:
        rule: its name.
        options: those that are no numbers.
        numbers: the rule's hyper-parameters in its order, weight_decay, and those of ``OPTIONS``: floats, or
            arrays of one number that the program computes.
        bounds: of those that are arrays.
        state_names: in the order of ``Optimizer.state``.
        initial: what a state starts at, by its name; the others start at 0.
        needs_params: whether a step does more with a parameter than to add to it.
    """

    rule: str
    options: Options
    numbers: dict[str, Any]
    bounds: dict[str, Bounds]
    state_names: list[str]
    initial: dict[str, Any]
    needs_params: bool

    def state_dtype(self, name: str, dtype: Any) -> np.dtype[Any]:
        """The type of a state of a parameter of this type."""
        is_half = dtype.itemsize == 2
        wide = is_half and (self.options.state_dtype == "float32" or name in ("ema", "master"))
        return np.dtype(np.float32) if wide else np.dtype(dtype)


class Arguments:
    """The arguments of an optimizer of samestep, of which some may depend on the step."""

    def __init__(self, kind: type[Optimizer], arguments: Mapping[str, Any]) -> None:
        self.kind = kind
        self.given = {name: value for name, value in arguments.items() if value is not None}
        betas = self.given.get("betas")
        if isinstance(betas, (tuple, list)):
            self.given["betas"] = tuple(as_number("betas", beta) for beta in betas)
        for name, value in self.given.items():
            if callable(value) and not getattr(getattr(kind, name, None), "scheduled", False):
                raise TypeError(
                    f"{name}: got a callable, expected a number; optax.inject_hyperparams makes one of it"
                )

    def resolve(self, dtypes: Sequence[Any], count: Any) -> Resolved:
        """The arguments of the step after ``count`` steps, checked by the optimizer itself.

        Args:
            dtypes: of the parameters.
            count: what schedules are called with; None: not yet.
        """
        computed: dict[str, Any] = {}

        def plain(name: str, value: Any) -> Any:
            if isinstance(value, jax.Array):
                computed[name] = value
                return ANY_NUMBER
            return value

        arguments: dict[str, Any] = {}
        for name, value in self.given.items():
            if callable(value):
                value = ANY_NUMBER if count is None else value(count)
            if name == "betas" and isinstance(value, tuple):
                arguments[name] = tuple(plain(f"beta{i}", beta) for i, beta in enumerate(value, 1))
            else:
                arguments[name] = plain(name, as_number(name, value))
        # An optimizer of no elements, whose constructor knows the ranges and what goes together.
        is_half = not {"master", "stochastic_rounding"}.isdisjoint(arguments)
        kinds = dict.fromkeys(dtypes) or [jax.numpy.bfloat16 if is_half else np.float64]
        like = self.kind([np.empty(0, dtype) for dtype in kinds], **arguments)
        group, options = like.groups[0], like.options
        numbers: dict[str, Any] = {name: group[name] for name in (*like._hyper_names, "weight_decay")}
        bounds = {}
        for name in numbers:
            hyper = like._hyper_of(name)
            if hyper.follows in computed and name not in self.given:
                computed[name] = computed[hyper.follows]
            bounds[name] = Bounds(hyper.at_least, hyper.below, hyper.at_most)
        for name, (bound, off) in OPTIONS.items():
            value = getattr(options, name)
            numbers[name] = off if value is None else value
            bounds[name] = bound
        initial: dict[str, Any] = dict(like._store.initial)
        if "initial_accumulator" in computed:
            initial = dict.fromkeys(initial, computed.pop("initial_accumulator"))
        numbers.update(computed)
        needs_params = "weight_decay" in computed or numbers["weight_decay"] != 0.0
        return Resolved(
            like.rule,
            options,
            numbers,
            bounds,
            list(like._store.names),
            initial,
            needs_params or options.ema is not None or options.master is not None,
        )


def as_number(name: str, value: Any) -> Any:
    """A number of JAX as one float32 or float64, one of NumPy as a float, anything else as it is."""
    if isinstance(value, jax.Array):
        if value.shape != ():
            raise ValueError(f"{name}: got an array of shape {value.shape}, expected one number")
        return value if value.dtype in (np.float32, np.float64) else value.astype(np.float32)
    if isinstance(value, np.ndarray) and value.shape == ():
        return value.item()
    return value
