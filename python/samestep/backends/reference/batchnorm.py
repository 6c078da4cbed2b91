"""Batch norm in NumPy; twin of csrc/contract/batchnorm.h. The order of operations fixes the bits.

x is (N, C, S): N samples of C channels of S positions. In memory it lies so, or with ``channels_last`` as
(N, S, C). Either way one channel has the M = N*S values x_0 .. x_{M-1}, sample by sample and position by
position. Per channel::

    forward    K = x_0 (+0 if not finite),  d = T(x - K),  S1 = csum(d),  S2 = csum(d*d)
               mean = K + S1/M,  var = (S2 - S1^2/M)/M,  inv = 1/sqrt(var + eps)
               y = gamma*((x - mean)*inv) + beta
    backward   S1 = csum(dy),  S2 = csum(dy*(x - mean));   dbeta = S1,  dgamma = S2*inv
               dx = c1*((dy - c2) - (x - mean)*c3),  c1 = gamma*inv,  c2 = S1/M,  c3 = S2*inv^2/M
    inference  s = gamma/sqrt(running_var + eps);   y = (x - running_mean)*s + beta
    ReLU       a <= 0 becomes +0, so NaN passes; backward recomputes y to know where dy is cut off

T is the type of the arrays, float32 or float64. Sums, and what follows from them for a channel, are float64
and rounded once to T. The formulas below read x, dy and y as columns, shape (M, C), one a channel: NumPy
broadcasts the (C,) arrays to that.

Arguments are those of ``face.Backend``: arrays in C order, ``sizes`` = (N, C, S), results written into the
arrays given.

Source: Ioffe & Szegedy (2015), alg. 1 and 2 and section 3; Chan, Golub & LeVeque (1983) for the shift K.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Array
from ..face import Sizes
from .sums import Doubles, csum


def _to_columns(x: Array, sizes: Sizes, channels_last: bool) -> Array:
    """(N, C, S), or (N, S, C) with channels_last, as (N*S, C)."""
    N, C, S = sizes
    return x.reshape(N * S, C) if channels_last else x.reshape(N, C, S).transpose(0, 2, 1).reshape(N * S, C)


def _write_columns(out: Array, columns: Array, sizes: Sizes, channels_last: bool) -> None:
    """Writes (N*S, C) to ``out``, which is (N, C, S), or (N, S, C) with channels_last."""
    N, C, S = sizes
    assert columns.dtype == out.dtype
    if channels_last:
        out.reshape(N * S, C)[...] = columns
    else:
        out.reshape(N, C, S)[...] = columns.reshape(N, S, C).transpose(0, 2, 1)


def _relu(a: Array) -> Array:
    return np.where(a <= 0, a.dtype.type(0), a)


def batchnorm_forward(
    x: Array,  # (N, C, S) or (N, S, C)
    gamma: Array,  # (C,)
    beta: Array,  # (C,)
    out: Array,  # y, as x
    mean: Array,  # (C,)
    inv: Array,  # (C,)
    mean64: Doubles,  # (C,), before rounding to T
    var64: Doubles,  # (C,)
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None:
    with np.errstate(all="ignore"):
        x = _to_columns(x, sizes, channels_last)
        M = float(len(x))
        # K = x_0 (+0 if not finite),  d = T(x - K),  S1 = csum(d),  S2 = csum(d*d): no cancellation
        K = np.where(x[0] - x[0] == 0, x[0], x.dtype.type(0))
        d = (x - K).astype(np.float64)
        S1, S2 = csum(d), csum(d * d)
        # mean = K + S1/M,  var = (S2 - S1^2/M)/M,  inv = 1/sqrt(var + eps)
        mean64[...] = K.astype(np.float64) + (S1 / M)
        var = (S2 - ((S1 * S1) / M)) / M
        var64[...] = np.where(var <= 0.0, 0.0, var)
        mean[...] = mean64
        inv[...] = 1.0 / np.sqrt(var64 + eps)
        # y = gamma*((x - mean)*inv) + beta
        y = (gamma * ((x - mean) * inv)) + beta
        _write_columns(out, _relu(y) if relu else y, sizes, channels_last)


def batchnorm_backward(
    dy: Array,  # (N, C, S) or (N, S, C)
    x: Array,  # as dy
    gamma: Array,  # (C,)
    beta: Array,  # (C,)
    mean: Array,  # (C,)
    inv: Array,  # (C,)
    out: Array,  # dx, as x
    dgamma: Array,  # (C,)
    dbeta: Array,  # (C,)
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
) -> None:
    with np.errstate(all="ignore"):
        x, dy = _to_columns(x, sizes, channels_last), _to_columns(dy, sizes, channels_last)
        T = x.dtype
        M = float(len(x))
        xc = x - mean
        if relu:  # dy = +0 where y <= 0
            y = (gamma * (xc * inv)) + beta
            dy = np.where(y <= 0, T.type(0), dy)
        # S1 = csum(dy),  S2 = csum(dy*(x - mean))
        dy64, inv64 = dy.astype(np.float64), inv.astype(np.float64)
        S1, S2 = csum(dy64), csum(dy64 * xc.astype(np.float64))
        # dbeta = S1,  dgamma = S2*inv
        dbeta[...] = S1
        dgamma[...] = S2 * inv64
        # c1 = gamma*inv,  c2 = S1/M,  c3 = S2*inv^2/M
        c1 = (gamma.astype(np.float64) * inv64).astype(T)
        c2 = (S1 / M).astype(T)
        c3 = (((S2 * inv64) * inv64) / M).astype(T)
        # dx = c1*((dy - c2) - (x - mean)*c3)
        dx = c1 * ((dy - c2) - (xc * c3))
        _write_columns(out, dx, sizes, channels_last)


def batchnorm_inference(
    x: Array,  # (N, C, S) or (N, S, C)
    gamma: Array,  # (C,)
    beta: Array,  # (C,)
    running_mean: Array,  # (C,)
    running_var: Array,  # (C,)
    out: Array,  # y, as x
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None:
    with np.errstate(all="ignore"):
        x = _to_columns(x, sizes, channels_last)
        # s = gamma/sqrt(running_var + eps)
        s = (gamma.astype(np.float64) / np.sqrt(running_var.astype(np.float64) + eps)).astype(x.dtype)
        # y = (x - running_mean)*s + beta
        y = ((x - running_mean) * s) + beta
        _write_columns(out, _relu(y) if relu else y, sizes, channels_last)


def update_running(
    running_mean: Array,  # (C,)
    running_var: Array,  # (C,)
    mean64: Doubles,  # (C,)
    var64: Doubles,  # (C,)
    values: int,
    momentum: float,
    batches: int,
) -> None:
    """Adds the statistics of a batch, with M = ``values`` of each channel, to the running ones.

    p = 1/``batches``, the plain average over so many batches, if ``batches`` > 0, else p = ``momentum``.
    """
    with np.errstate(all="ignore"):
        M = float(values)
        p = 1.0 / batches if batches > 0 else momentum
        # running_mean = (1 - p)*running_mean + p*mean
        running_mean[...] = ((1.0 - p) * running_mean.astype(np.float64)) + (p * mean64)
        # running_var = (1 - p)*running_var + p*(var*M/(M - 1)): unbiased, as PyTorch keeps it
        running_var[...] = ((1.0 - p) * running_var.astype(np.float64)) + (p * (var64 * (M / (M - 1.0))))
