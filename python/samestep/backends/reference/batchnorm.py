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
from .sums import Doubles, block_totals, csum


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


def _laid_out(sums: list[Doubles], channels_last: bool) -> Doubles:
    """S1 and S2, (..., C) each, as (2, ..., C), or (C, 2, ...) without channels_last."""
    stacked = np.stack(sums)
    return stacked if channels_last else np.moveaxis(stacked, -1, 0)


def _totals(sums: Doubles, channels_last: bool) -> tuple[Doubles, Doubles]:
    S1, S2 = sums.reshape(2, -1) if channels_last else sums.reshape(-1, 2).T
    return S1, S2


def _write_block_totals(
    sums: Doubles, terms: list[Doubles], sizes: Sizes, channels_last: bool, first: int
) -> None:
    blocks = sums.size // (2 * sizes[1])
    found = [block_totals(t[first:])[:blocks] for t in terms]
    sums.reshape(-1)[...] = _laid_out(found, channels_last).reshape(-1)


def _shift(first: Array) -> Array:
    """K = x_0 (+0 if not finite): no cancellation"""
    return np.where(first - first == 0, first, first.dtype.type(0))


def _forward_terms(x: Array, K: Array) -> list[Doubles]:
    """The terms of S1 = csum(d) and S2 = csum(d*d), d = T(x - K), of columns."""
    d = (x - K).astype(np.float64)
    return [d, d * d]


def _backward_terms(
    dy: Array, x: Array, gamma: Array, beta: Array, mean: Array, inv: Array, relu: bool
) -> tuple[Array, Array, list[Doubles]]:
    """dy behind the ReLU, x - mean, and the terms of S1 = csum(dy), S2 = csum(dy*(x - mean)), of columns."""
    xc = x - mean
    if relu:  # dy = +0 where y <= 0
        y = (gamma * (xc * inv)) + beta
        dy = np.where(y <= 0, x.dtype.type(0), dy)
    dy64 = dy.astype(np.float64)
    return dy, xc, [dy64, dy64 * xc.astype(np.float64)]


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
        columns = _to_columns(x, sizes, channels_last)
        terms = _forward_terms(columns, _shift(columns[0]))
        sums = _laid_out([csum(t) for t in terms], channels_last)
        statistics = mean, inv, mean64, var64
        values = len(columns)
        batchnorm_forward_apply(
            x, columns[0], gamma, beta, sums, out, *statistics, sizes, channels_last, relu, eps, values
        )


def batchnorm_forward_blocks(
    x: Array,  # (N, C, S) or (N, S, C)
    shift: Array,  # (C,)
    sums: Doubles,  # (2, blocks, C) or (C, 2, blocks)
    sizes: Sizes,
    channels_last: bool,
    first: int,
) -> None:
    with np.errstate(all="ignore"):
        terms = _forward_terms(_to_columns(x, sizes, channels_last), _shift(shift))
        _write_block_totals(sums, terms, sizes, channels_last, first)


def batchnorm_forward_apply(
    x: Array,  # (N, C, S) or (N, S, C)
    shift: Array,  # (C,)
    gamma: Array,  # (C,)
    beta: Array,  # (C,)
    sums: Doubles,  # (2, C) or (C, 2)
    out: Array,  # y, as x
    mean: Array,  # (C,)
    inv: Array,  # (C,)
    mean64: Doubles,  # (C,), before rounding to T
    var64: Doubles,  # (C,)
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    eps: float,
    values: int,
) -> None:
    with np.errstate(all="ignore"):
        x = _to_columns(x, sizes, channels_last)
        M, K = float(values), _shift(shift)
        S1, S2 = _totals(sums, channels_last)
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
        dy_columns, x_columns = (_to_columns(a, sizes, channels_last) for a in (dy, x))
        channels = gamma, beta, mean, inv
        _, _, terms = _backward_terms(dy_columns, x_columns, *channels, relu)
        sums = _laid_out([csum(t) for t in terms], channels_last)
        values = len(x_columns)
        batchnorm_backward_apply(
            dy, x, *channels, sums, out, dgamma, dbeta, sizes, channels_last, relu, values
        )


def batchnorm_backward_blocks(
    dy: Array,  # (N, C, S) or (N, S, C)
    x: Array,  # as dy
    gamma: Array,  # (C,)
    beta: Array,  # (C,)
    mean: Array,  # (C,)
    inv: Array,  # (C,)
    sums: Doubles,  # (2, blocks, C) or (C, 2, blocks)
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    first: int,
) -> None:
    with np.errstate(all="ignore"):
        dy_columns, x_columns = (_to_columns(a, sizes, channels_last) for a in (dy, x))
        _, _, terms = _backward_terms(dy_columns, x_columns, gamma, beta, mean, inv, relu)
        _write_block_totals(sums, terms, sizes, channels_last, first)


def batchnorm_backward_apply(
    dy: Array,  # (N, C, S) or (N, S, C)
    x: Array,  # as dy
    gamma: Array,  # (C,)
    beta: Array,  # (C,)
    mean: Array,  # (C,)
    inv: Array,  # (C,)
    sums: Doubles,  # (2, C) or (C, 2)
    out: Array,  # dx, as x
    dgamma: Array,  # (C,)
    dbeta: Array,  # (C,)
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    values: int,
) -> None:
    with np.errstate(all="ignore"):
        dy_columns, x_columns = (_to_columns(a, sizes, channels_last) for a in (dy, x))
        dy, xc, _ = _backward_terms(dy_columns, x_columns, gamma, beta, mean, inv, relu)
        T = x.dtype
        M = float(values)
        S1, S2 = _totals(sums, channels_last)
        inv64 = inv.astype(np.float64)
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
