"""What a step does besides the rule, in NumPy; twin of csrc/contract/options.h. The order fixes the bits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..options import Options

LEAST_NORMAL = 2.0**-126  # of float32, for every type


class Decayed(NamedTuple):
    """A parameter under decoupled weight decay: a rule's last line also subtracts ``d*w``."""

    w: Array
    d: Any

    def __sub__(self, u: Array) -> Array:
        stepped: Array = self.w - (u + (self.d * self.w))
        return stepped

    def __add__(self, u: Array) -> Array:  # type: ignore[override]
        stepped: Array = self.w + (u - (self.d * self.w))
        return stepped


def prepare_gradient(
    g: Array, w: Array, T: Any, scale: float, weight_decay: float, options: Options
) -> Array:
    """The gradient that is passed to the rule; ``weight_decay`` is the coupled one."""
    clip = T(float("inf") if options.clip_value is None else options.clip_value)
    g = T(-scale if options.maximize else scale) * g
    g = np.where(g > clip, clip, g)
    g = np.where(g < -clip, -clip, g)
    if weight_decay != 0.0:
        g = g + (T(weight_decay) * w)
    return g


def clipped_scale(scale: float, norm: float, clip_norm: float) -> float:
    """The scale that shortens gradients whose norm, times ``scale``, is above ``clip_norm`` to that norm."""
    return scale * (clip_norm / norm) if norm > clip_norm else scale


def average(ema: Array, w: Array, T: Any, decay: float) -> Array:
    """The running average of the parameters."""
    averaged: Array = (T(decay) * ema) + (T(1.0 - decay) * w)
    return averaged


def flush_subnormals(state: Array, T: Any) -> Array:
    """Subnormals of float32, whatever the type, become +0."""
    least = T(LEAST_NORMAL)
    return np.where((state < least) & (state > -least), T(0), state)


def all_finite(g: Array) -> bool:
    """Whether no element is infinite or NaN."""
    return bool(((g - g) == 0).all())
