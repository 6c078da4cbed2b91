"""Arrays for batch norm: what a test passes in, and how it compares what comes out."""

from __future__ import annotations

import numpy as np
import pytest

import samestep as ss

X4, G3 = np.zeros((2, 3, 4, 5), np.float32), np.ones(3, np.float32)
GOOD = {"x": X4, "gamma": G3, "beta": G3, "mean": G3, "inv": G3, "dy": X4}


def same(a, b, what=""):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    if ss.digest(a) != ss.digest(b):
        flat = np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)
        u, v = (f.view(f"u{a.itemsize}") for f in flat)
        i = np.flatnonzero((u != v) & ~(np.isnan(flat[0]) & np.isnan(flat[1])))[0]
        pytest.fail(f"{what}: element {i}: {flat[0][i]!r} {u[i]:x} and {flat[1][i]!r} {v[i]:x}")


def passes(x, dy, gamma, beta, **how):
    """Everything that the two passes and inference return."""
    y, mean, inv = ss.batchnorm_forward(x, gamma, beta, **how)
    dx, dgamma, dbeta = ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, **how)
    z = ss.batchnorm_inference(x, gamma, beta, mean, inv * inv, eps=0.5, **how)
    return {"y": y, "mean": mean, "inv": inv, "dx": dx, "dgamma": dgamma, "dbeta": dbeta, "inference": z}


def special(shape, dtype, seed, finite=True):
    """Values of all sizes, zeros of both signs, subnormals; some channels with inf and NaN unless finite."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-20, 20, shape)
    some = rng.integers(0, 40, shape)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    values = [0.0, -0.0, tiny, -9 * tiny] + ([] if finite else [np.inf, -np.inf, np.nan])
    for i, value in enumerate(values):
        odds = i if i < 4 else 40 - 1 if rng.random() < 0.3 else 99
        x = np.where(some == odds, value, x)
    return x.astype(dtype)


def misaligned(a):
    return np.frombuffer(bytes(a.nbytes + 1), np.uint8)[1:].view(a.dtype).reshape(a.shape)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a
