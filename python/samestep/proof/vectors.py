"""Inputs of the golden programs: sets of hyper-parameters and options, and arrays that are computed in
integer arithmetic, so that a program in any language can compute the same ones.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..backends.arrays import Array

# Sets of hyper-parameters; a rule uses those that it has. "default": the optimizer's own, and this lr.
HYPER: dict[str, dict[str, float]] = {
    "default": {"lr": 0.01},
    "other": {
        "lr": 0.3,
        "momentum": 0.5,
        "momentum_next": 0.25,
        "dampening": 0.25,
        "rho": 0.6,
        "beta1": 0.7,
        "beta2": 0.8,
        "eps": 0.01,
    },
    "zero": {
        "lr": 1.0,
        "momentum": 0.0,
        "momentum_next": 0.0,
        "dampening": 0.0,
        "rho": 0.0,
        "beta1": 0.0,
        "beta2": 0.0,
        "eps": 0.0,
    },
}

# Sets of options, each with the scale of the gradients.
OPTIONS: dict[str, tuple[dict[str, Any], float]] = {
    "coupled": ({"weight_decay": 0.1}, 1.0),
    "decoupled": ({"weight_decay": 0.1, "decoupled_weight_decay": True}, 1.0),
    "all": (
        {
            "weight_decay": 0.25,
            "decoupled_weight_decay": True,
            "maximize": True,
            "clip_norm": 10.0,
            "clip_value": 0.25,
            "ema": 0.9,
            "flush_subnormals": True,
            "zero_grads": True,
        },
        0.7,
    ),
}

# Forms of storage in 16 bits: the dtype of parameters and gradients, and options.
STORAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "float32_state": ("bfloat16", {}),
    "bfloat16_state": (
        "bfloat16",
        {"state_dtype": "param", "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    "at_random": ("bfloat16", {"stochastic_rounding": 7}),
    "master": ("bfloat16", {"master": "float32", "flush_subnormals": True}),
    "half_master": ("float16", {"master": "float32"}),
    "float16_state": ("float16", {"state_dtype": "param"}),
}


@functools.lru_cache(maxsize=32)  # more than all of them: some 20, and 20 MB
def inputs_of(kind: str, size: int, steps: int, dtype: np.dtype[Any]) -> tuple[Array, list[Array]]:
    """A parameter and a gradient for every step: "exact", "random" or "finite" values."""
    if kind == "exact":
        return exact_inputs(dtype)
    make = random_values if kind == "random" else finite_values
    # Seven gradients in turn: drawing thousands would take longer than the steps.
    turns = [make(size, dtype, 3 + 2 * t) for t in range(min(steps, 7))]
    return make(size, dtype, 1), [turns[t % 7] for t in range(steps)]


def exact_inputs(dtype: np.dtype[Any]) -> tuple[Array, list[Array]]:
    """Parameters and five gradients that are exact in both types."""
    i = np.arange(1000)
    w = ((37 * i % 101 - 50) / 64).astype(dtype)
    return w, [(((53 * i + 29 * t) % 97 - 48) / 128).astype(dtype) for t in range(5)]


@functools.lru_cache(maxsize=64)  # every program draws its inputs again for every configuration
def _quotients(size: int, a: int, b: int, m: int, s: int, d: float) -> Array:
    i = np.arange(size, dtype=np.int64)
    return _shared(((i * a + i // 7 * b) % m - s) / d)


def integer_values(
    shape: tuple[int, ...], a: int, b: int, m: int, s: int, d: float, dtype: np.dtype[Any]
) -> Array:
    """``(((i*a + (i div 7)*b) mod m) - s)/d`` over the flat index i, in float64, then rounded."""
    return _quotients(math.prod(shape), a, b, m, s, d).astype(dtype).reshape(shape)


@functools.lru_cache(maxsize=16)
def random_words(size: int, seed: int) -> Array:
    """Words 1, 2, ... of the splitmix64 generator from state ``seed * 2^32``; not to be written."""
    z = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed << 32)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return _shared(z ^ (z >> np.uint64(31)))


def _shared(values: Array) -> Array:
    values.flags.writeable = False
    return values


def finite_values(size: int, dtype: np.dtype[Any], seed: int) -> Array:
    """Values in [-1, 1), uniform on a grid of 2^-23, which is exact in both types."""
    return ((random_words(size, seed) >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0).astype(dtype)


def random_values(size: int, dtype: np.dtype[Any], seed: int) -> Array:
    """finite_values, one in eight replaced by any bit pattern: infinities, NaN, every exponent; one in
    four of these without its sign and exponent: a subnormal or zero.
    """
    values = finite_values(size, dtype, seed)
    bits = values.view(f"u{dtype.itemsize}")
    words, patterns = random_words(size, seed), random_words(size, seed + 1)
    mantissa = bits.dtype.type((1 << np.finfo(dtype).nmant) - 1)
    any_bits = patterns.astype(bits.dtype)
    any_bits = np.where(patterns >> np.uint64(62) == 0, any_bits & mantissa, any_bits)
    bits[:] = np.where(words & np.uint64(7) == 0, any_bits, bits)
    return values
