"""Every update rule in NumPy, once; twin of csrc/contract/rules.h. The order of operations fixes the bits.

A rule takes the parameter, the gradient and its states, then by keyword the working type ``T``
(``np.float32`` or ``np.float64``), the step number ``t`` = 1, 2, ..., where it has one the placement of
eps, and its hyper-parameters as Python floats. It returns the new parameter and states. Scalars are
formed in float64 and rounded once to ``T``. Each is the twin of the struct of the same name in rules.h,
where formula and source stand above it, and both files have them in the same order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from .. import cpu
from ..arrays import Array
from ..face import RuleRow

Float = type[np.float32] | type[np.float64]
Arrays = tuple[Array, ...]
Update = Callable[..., Arrays]


class Rule(NamedTuple):
    """A row of the registry and its formula."""

    row: RuleRow
    update: Update

    @property
    def hyper(self) -> tuple[str, ...]:
        return self.row.hyper


RULES: dict[str, Rule] = {}


def _add(formula: Update, family: str, form: str | None, variant: str | None) -> None:
    """Adds a row; the names of its states and hyper-parameters are read off the formula's signature."""
    parameters = inspect.signature(formula).parameters.values()
    states = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][2:]
    hyper = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("T", "t", "placement")]
    name = cpu.rule(family, form, variant).name
    RULES[name] = Rule(RuleRow(name, family, form, variant, tuple(hyper), tuple(states)), formula)


def _rule(family: str, form: str | None = None, variant: str | None = None) -> Callable[[Update], Update]:
    """Registers a formula as the rule of these tokens."""

    def register(formula: Update) -> Update:
        _add(formula, family, form, variant)
        return formula

    return register


def _rule_by_placement(family: str, variant: str | None = None) -> Callable[[Update], Update]:
    """Registers a formula as two rules, whose forms are the placements of eps."""

    def register(formula: Update) -> Update:
        for placement in ("outside", "inside"):
            _add(partial(formula, placement=placement), family, placement, variant)
        return formula

    return register


def rules() -> list[RuleRow]:
    """The registry of rules, row by row as ``_core.rules`` has it."""
    return [rule.row for rule in RULES.values()]


def power(base: float, t: int) -> float:
    """``base**t`` by right-to-left binary powering: the bits of libm's pow differ between systems."""
    result = 1.0
    while t > 0:
        if t & 1:
            result = result * base
        base = base * base
        t >>= 1
    return result


def root(x: float) -> float:
    """Square root in float64."""
    return float(np.sqrt(np.float64(x)))


def denominator(r: Array, eps: np.float32 | np.float64, placement: str) -> Array:
    """What AdaGrad and RMSProp divide by."""
    root_of_r: Array = np.sqrt(r) + eps if placement == "outside" else np.sqrt(r + eps)
    return root_of_r


# ---- gradient descent, with and without momentum ----


@_rule("sgd")
def sgd(w: Array, g: Array, *, T: Float, t: int, lr: float) -> Arrays:
    """Gradient descent."""
    u = T(lr) * g
    w = w - u
    return (w,)


@_rule("momentum", "heavy_ball")
def heavy_ball(w: Array, g: Array, v: Array, *, T: Float, t: int, lr: float, momentum: float) -> Arrays:
    """Polyak's heavy ball (1964)."""
    v = (T(momentum) * v) - (T(lr) * g)
    w = w + v
    return w, v


@_rule("momentum", "torch")
def torch_momentum(w: Array, g: Array, b: Array, *, T: Float, t: int, lr: float, momentum: float) -> Arrays:
    """Momentum as PyTorch's SGD has it."""
    b = g if t == 1 else (T(momentum) * b) + g
    w = w - (T(lr) * b)
    return w, b


@_rule("momentum", "torch", "dampened")
def dampened_momentum(
    w: Array, g: Array, b: Array, *, T: Float, t: int, lr: float, momentum: float, dampening: float
) -> Arrays:
    """The same with PyTorch's dampening."""
    b = g if t == 1 else (T(momentum) * b) + (T(1.0 - dampening) * g)
    w = w - (T(lr) * b)
    return w, b


@_rule("nag", "look_ahead")
def look_ahead(
    w: Array, g: Array, v: Array, *, T: Float, t: int, lr: float, momentum: float, momentum_next: float
) -> Arrays:
    """Nesterov's accelerated gradient (1983); w is the look-ahead point."""
    s = T(lr) * g
    v = (T(momentum) * v) - s
    u = (T(momentum_next) * v) - s
    w = w + u
    return w, v


@_rule("nag", "torch")
def torch_nesterov(w: Array, g: Array, b: Array, *, T: Float, t: int, lr: float, momentum: float) -> Arrays:
    """Nesterov's momentum as PyTorch's SGD has it."""
    b = (T(momentum) * b) + g
    d = g + (T(momentum) * b)
    w = w - (T(lr) * d)
    return w, b


# ---- steps divided by the size of past gradients ----


@_rule_by_placement("adagrad")
def ada_grad(
    w: Array, g: Array, r: Array, *, T: Float, t: int, placement: str, lr: float, eps: float, lr_decay: float
) -> Arrays:
    """AdaGrad (Duchi et al. 2011), with PyTorch's decay of the learning rate."""
    lr_t = T(lr / (1.0 + float(t - 1) * lr_decay))
    r = r + (g * g)
    q = lr_t / denominator(r, T(eps), placement)
    w = w - (q * g)
    return w, r


@_rule_by_placement("rmsprop")
def rms_prop(
    w: Array, g: Array, r: Array, *, T: Float, t: int, placement: str, lr: float, rho: float, eps: float
) -> Arrays:
    """RMSProp (Hinton 2012)."""
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    q = T(lr) / denominator(r, T(eps), placement)
    w = w - (q * g)
    return w, r


@_rule_by_placement("rmsprop", "centered")
def centered_rms_prop(
    w: Array,
    g: Array,
    r: Array,
    c: Array,
    *,
    T: Float,
    t: int,
    placement: str,
    lr: float,
    rho: float,
    eps: float,
) -> Arrays:
    """Centered RMSProp (Graves 2013)."""
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    c = (T(rho) * c) + (T(1.0 - rho) * g)
    var = r - (c * c)
    q = T(lr) / denominator(var, T(eps), placement)
    w = w - (q * g)
    return w, r, c


@_rule_by_placement("rmsprop", "momentum")
def rms_prop_momentum(
    w: Array,
    g: Array,
    r: Array,
    b: Array,
    *,
    T: Float,
    t: int,
    placement: str,
    lr: float,
    rho: float,
    eps: float,
    momentum: float,
) -> Arrays:
    """RMSProp with momentum as PyTorch has it."""
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    q = g / denominator(r, T(eps), placement)
    b = (T(momentum) * b) + q
    w = w - (T(lr) * b)
    return w, r, b


@_rule_by_placement("rmsprop", "centered_momentum")
def centered_rms_prop_momentum(
    w: Array,
    g: Array,
    r: Array,
    c: Array,
    b: Array,
    *,
    T: Float,
    t: int,
    placement: str,
    lr: float,
    rho: float,
    eps: float,
    momentum: float,
) -> Arrays:
    """RMSProp centered and with momentum, likewise as PyTorch has it."""
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    c = (T(rho) * c) + (T(1.0 - rho) * g)
    var = r - (c * c)
    q = g / denominator(var, T(eps), placement)
    b = (T(momentum) * b) + q
    w = w - (T(lr) * b)
    return w, r, c, b


def adam_denominator(v: Array, beta2: float, eps: float, T: Float, t: int, placement: str) -> Array:
    """What Adam and AMSGrad divide by: the root of v, or of h, corrected for its start at 0."""
    c2 = 1.0 - power(beta2, t)
    k = T(1.0 / root(c2)) if placement == "outside" else T(1.0 / c2)
    return (np.sqrt(v) * k) + T(eps) if placement == "outside" else np.sqrt((v * k) + T(eps))


@_rule_by_placement("adam")
def adam(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    T: Float,
    t: int,
    placement: str,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> Arrays:
    """Adam (Kingma & Ba 2015, alg. 1)."""
    step = T(lr / (1.0 - power(beta1, t)))
    m = (T(beta1) * m) + (T(1.0 - beta1) * g)
    v = (T(beta2) * v) + (T(1.0 - beta2) * (g * g))
    den = adam_denominator(v, beta2, eps, T, t, placement)
    q = m / den
    w = w - (step * q)
    return w, m, v


@_rule_by_placement("adam", "amsgrad")
def ams_grad(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    h: Array,
    *,
    T: Float,
    t: int,
    placement: str,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> Arrays:
    """AMSGrad (Reddi et al. 2018) as PyTorch has it."""
    step = T(lr / (1.0 - power(beta1, t)))
    m = (T(beta1) * m) + (T(1.0 - beta1) * g)
    v = (T(beta2) * v) + (T(1.0 - beta2) * (g * g))
    h = np.where(v > h, v, h)
    den = adam_denominator(h, beta2, eps, T, t, placement)
    q = m / den
    w = w - (step * q)
    return w, m, v, h
