"""Every update rule in NumPy, once; twin of csrc/contract/rules.h. The order of operations fixes the bits.

A rule takes the parameter, the gradient and its states, then by keyword the working type ``T``
(``np.float32`` or ``np.float64``), the step number ``t`` = 1, 2, ... and its hyper-parameters as
Python floats, and returns the new parameter and states. Scalars are formed in float64 and rounded
once to ``T``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..arrays import Array

Float = type[np.float32] | type[np.float64]


class Rule(NamedTuple):
    """A rule and the names of its arguments, as they stand in its signature."""

    update: Callable[..., tuple[Array, ...]]
    hyper: tuple[str, ...]
    states: tuple[str, ...]


RULES: dict[str, Rule] = {}


def _rule(update: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    parameters = inspect.signature(update).parameters.values()
    states = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][2:]
    hyper = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY][2:]
    RULES[update.__name__] = Rule(update, tuple(hyper), tuple(states))
    return update


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


@_rule
def sgd(w: Array, g: Array, *, T: Float, t: int, lr: float) -> tuple[Array, ...]:
    u = T(lr) * g
    w = w - u
    return (w,)


@_rule
def momentum_heavy_ball(
    w: Array, g: Array, v: Array, *, T: Float, t: int, lr: float, momentum: float
) -> tuple[Array, ...]:
    v = (T(momentum) * v) - (T(lr) * g)
    w = w + v
    return w, v


@_rule
def momentum_torch(
    w: Array, g: Array, b: Array, *, T: Float, t: int, lr: float, momentum: float
) -> tuple[Array, ...]:
    b = g if t == 1 else (T(momentum) * b) + g
    w = w - (T(lr) * b)
    return w, b


@_rule
def momentum_torch_dampened(
    w: Array, g: Array, b: Array, *, T: Float, t: int, lr: float, momentum: float, dampening: float
) -> tuple[Array, ...]:
    b = g if t == 1 else (T(momentum) * b) + (T(1.0 - dampening) * g)
    w = w - (T(lr) * b)
    return w, b


@_rule
def nag_look_ahead(
    w: Array, g: Array, v: Array, *, T: Float, t: int, lr: float, momentum: float, momentum_next: float
) -> tuple[Array, ...]:
    s = T(lr) * g
    v = (T(momentum) * v) - s
    u = (T(momentum_next) * v) - s
    w = w + u
    return w, v


@_rule
def nag_torch(
    w: Array, g: Array, b: Array, *, T: Float, t: int, lr: float, momentum: float
) -> tuple[Array, ...]:
    b = (T(momentum) * b) + g
    d = g + (T(momentum) * b)
    w = w - (T(lr) * d)
    return w, b


@_rule
def adagrad_outside(
    w: Array, g: Array, r: Array, *, T: Float, t: int, lr: float, eps: float, lr_decay: float
) -> tuple[Array, ...]:
    lr_t = T(lr / (1.0 + float(t - 1) * lr_decay))
    r = r + (g * g)
    q = lr_t / (np.sqrt(r) + T(eps))
    w = w - (q * g)
    return w, r


@_rule
def adagrad_inside(
    w: Array, g: Array, r: Array, *, T: Float, t: int, lr: float, eps: float, lr_decay: float
) -> tuple[Array, ...]:
    lr_t = T(lr / (1.0 + float(t - 1) * lr_decay))
    r = r + (g * g)
    q = lr_t / np.sqrt(r + T(eps))
    w = w - (q * g)
    return w, r


@_rule
def rmsprop_outside(
    w: Array, g: Array, r: Array, *, T: Float, t: int, lr: float, rho: float, eps: float
) -> tuple[Array, ...]:
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    q = T(lr) / (np.sqrt(r) + T(eps))
    w = w - (q * g)
    return w, r


@_rule
def rmsprop_inside(
    w: Array, g: Array, r: Array, *, T: Float, t: int, lr: float, rho: float, eps: float
) -> tuple[Array, ...]:
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    q = T(lr) / np.sqrt(r + T(eps))
    w = w - (q * g)
    return w, r


@_rule
def rmsprop_outside_centered(
    w: Array, g: Array, r: Array, c: Array, *, T: Float, t: int, lr: float, rho: float, eps: float
) -> tuple[Array, ...]:
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    c = (T(rho) * c) + (T(1.0 - rho) * g)
    var = r - (c * c)
    q = T(lr) / (np.sqrt(var) + T(eps))
    w = w - (q * g)
    return w, r, c


@_rule
def rmsprop_outside_momentum(
    w: Array,
    g: Array,
    r: Array,
    b: Array,
    *,
    T: Float,
    t: int,
    lr: float,
    rho: float,
    eps: float,
    momentum: float,
) -> tuple[Array, ...]:
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    q = g / (np.sqrt(r) + T(eps))
    b = (T(momentum) * b) + q
    w = w - (T(lr) * b)
    return w, r, b


@_rule
def rmsprop_outside_centered_momentum(
    w: Array,
    g: Array,
    r: Array,
    c: Array,
    b: Array,
    *,
    T: Float,
    t: int,
    lr: float,
    rho: float,
    eps: float,
    momentum: float,
) -> tuple[Array, ...]:
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    c = (T(rho) * c) + (T(1.0 - rho) * g)
    var = r - (c * c)
    q = g / (np.sqrt(var) + T(eps))
    b = (T(momentum) * b) + q
    w = w - (T(lr) * b)
    return w, r, c, b


@_rule
def rmsprop_inside_centered(
    w: Array, g: Array, r: Array, c: Array, *, T: Float, t: int, lr: float, rho: float, eps: float
) -> tuple[Array, ...]:
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    c = (T(rho) * c) + (T(1.0 - rho) * g)
    var = r - (c * c)
    q = T(lr) / np.sqrt(var + T(eps))
    w = w - (q * g)
    return w, r, c


@_rule
def rmsprop_inside_momentum(
    w: Array,
    g: Array,
    r: Array,
    b: Array,
    *,
    T: Float,
    t: int,
    lr: float,
    rho: float,
    eps: float,
    momentum: float,
) -> tuple[Array, ...]:
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    q = g / np.sqrt(r + T(eps))
    b = (T(momentum) * b) + q
    w = w - (T(lr) * b)
    return w, r, b


@_rule
def rmsprop_inside_centered_momentum(
    w: Array,
    g: Array,
    r: Array,
    c: Array,
    b: Array,
    *,
    T: Float,
    t: int,
    lr: float,
    rho: float,
    eps: float,
    momentum: float,
) -> tuple[Array, ...]:
    r = (T(rho) * r) + (T(1.0 - rho) * (g * g))
    c = (T(rho) * c) + (T(1.0 - rho) * g)
    var = r - (c * c)
    q = g / np.sqrt(var + T(eps))
    b = (T(momentum) * b) + q
    w = w - (T(lr) * b)
    return w, r, c, b


@_rule
def adam_outside(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    T: Float,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> tuple[Array, ...]:
    k = T(1.0 / root(1.0 - power(beta2, t)))
    step = T(lr / (1.0 - power(beta1, t)))
    m = (T(beta1) * m) + (T(1.0 - beta1) * g)
    v = (T(beta2) * v) + (T(1.0 - beta2) * (g * g))
    den = (np.sqrt(v) * k) + T(eps)
    q = m / den
    w = w - (step * q)
    return w, m, v


@_rule
def adam_inside(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    T: Float,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> tuple[Array, ...]:
    k = T(1.0 / (1.0 - power(beta2, t)))
    step = T(lr / (1.0 - power(beta1, t)))
    m = (T(beta1) * m) + (T(1.0 - beta1) * g)
    v = (T(beta2) * v) + (T(1.0 - beta2) * (g * g))
    den = np.sqrt((v * k) + T(eps))
    q = m / den
    w = w - (step * q)
    return w, m, v


@_rule
def adam_outside_amsgrad(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    h: Array,
    *,
    T: Float,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> tuple[Array, ...]:
    k = T(1.0 / root(1.0 - power(beta2, t)))
    step = T(lr / (1.0 - power(beta1, t)))
    m = (T(beta1) * m) + (T(1.0 - beta1) * g)
    v = (T(beta2) * v) + (T(1.0 - beta2) * (g * g))
    h = np.where(v > h, v, h)
    den = (np.sqrt(h) * k) + T(eps)
    q = m / den
    w = w - (step * q)
    return w, m, v, h


@_rule
def adam_inside_amsgrad(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    h: Array,
    *,
    T: Float,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> tuple[Array, ...]:
    k = T(1.0 / (1.0 - power(beta2, t)))
    step = T(lr / (1.0 - power(beta1, t)))
    m = (T(beta1) * m) + (T(1.0 - beta1) * g)
    v = (T(beta2) * v) + (T(1.0 - beta2) * (g * g))
    h = np.where(v > h, v, h)
    den = np.sqrt((h * k) + T(eps))
    q = m / den
    w = w - (step * q)
    return w, m, v, h


def rules() -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """(name, hyper-parameters, states) of every rule, as ``_core.rules`` lists them."""
    return [(name, rule.hyper, rule.states) for name, rule in RULES.items()]
