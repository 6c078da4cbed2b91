"""Batch norm in NumPy; twin of csrc/contract/batchnorm.h. The order of operations fixes the bits.

Arguments as those of ``_core``: arrays in C order, results written into the arrays given, ``sizes``
the samples N, channels C and positions S, ``channels_last`` whether x is (N, S, C), not (N, C, S).
"""

from __future__ import annotations

import numpy as np

from ..arrays import Array
from .sums import Doubles, csum

Sizes = tuple[int, int, int]


def _columns(x: Array, sizes: Sizes, channels_last: bool) -> Array:
    """A column for each channel, its values in logical order: sample by sample, position by position."""
    N, C, S = sizes
    return x.reshape(N * S, C) if channels_last else x.reshape(N, C, S).transpose(0, 2, 1).reshape(N * S, C)


def _put(out: Array, columns: Array, sizes: Sizes, channels_last: bool) -> None:
    N, C, S = sizes
    assert columns.dtype == out.dtype
    if channels_last:
        out.reshape(N * S, C)[...] = columns
    else:
        out.reshape(N, C, S)[...] = columns.reshape(N, S, C).transpose(0, 2, 1)


def _relu(a: Array) -> Array:
    return np.where(a <= 0, a.dtype.type(0), a)


def batchnorm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    out: Array,
    mean: Array,
    inv: Array,
    mean64: Doubles,
    var64: Doubles,
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None:
    with np.errstate(all="ignore"):
        v = _columns(x, sizes, channels_last)
        M = float(len(v))
        K = np.where(v[0] - v[0] == 0, v[0], v.dtype.type(0))
        d = (v - K).astype(np.float64)
        S1, S2 = csum(d), csum(d * d)
        mean64[...] = K.astype(np.float64) + (S1 / M)
        var = (S2 - ((S1 * S1) / M)) / M
        var64[...] = np.where(var <= 0.0, 0.0, var)
        mean[...] = mean64
        inv[...] = 1.0 / np.sqrt(var64 + eps)
        y = (gamma * ((v - mean) * inv)) + beta
        _put(out, _relu(y) if relu else y, sizes, channels_last)


def batchnorm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    inv: Array,
    out: Array,
    dgamma: Array,
    dbeta: Array,
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
) -> None:
    with np.errstate(all="ignore"):
        v, g = _columns(x, sizes, channels_last), _columns(dy, sizes, channels_last)
        M = float(len(v))
        xc = v - mean
        if relu:
            a = (gamma * (xc * inv)) + beta
            g = np.where(a <= 0, g.dtype.type(0), g)
        terms = g.astype(np.float64)
        S1, S2 = csum(terms), csum(terms * xc.astype(np.float64))
        inv64 = inv.astype(np.float64)
        dbeta[...] = S1
        dgamma[...] = S2 * inv64
        T = v.dtype
        c1 = (gamma.astype(np.float64) * inv64).astype(T)
        c2 = (S1 / M).astype(T)
        c3 = (((S2 * inv64) * inv64) / M).astype(T)
        _put(out, c1 * ((g - c2) - (xc * c3)), sizes, channels_last)


def batchnorm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    out: Array,
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None:
    with np.errstate(all="ignore"):
        v = _columns(x, sizes, channels_last)
        scale = gamma.astype(np.float64) / np.sqrt(running_var.astype(np.float64) + eps)
        y = ((v - running_mean) * scale.astype(v.dtype)) + beta
        _put(out, _relu(y) if relu else y, sizes, channels_last)


def update_running(
    running_mean: Array,
    running_var: Array,
    mean64: Doubles,
    var64: Doubles,
    values: int,
    momentum: float,
    batches: int,
) -> None:
    """``values`` a channel; ``batches`` > 0: the average over so many, else ``momentum`` of the new."""
    with np.errstate(all="ignore"):
        M = float(values)
        p = 1.0 / batches if batches > 0 else momentum
        running_mean[...] = ((1.0 - p) * running_mean.astype(np.float64)) + (p * mean64)
        running_var[...] = ((1.0 - p) * running_var.astype(np.float64)) + (p * (var64 * (M / (M - 1.0))))
