"""Optimizers with every option and every form of storage, over arrays of any bits."""

import ml_dtypes
import numpy as np

from samestep.backends.reference import storage
from samestep.proof import golden, vectors

F32, BF16, F16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
CASES = golden.cases()
CASES32 = [case for case in CASES if case.dtype == F32]
STORED = {
    "float32": (F32, {}),
    "bfloat16": (BF16, {}),
    "float16": (F16, {}),
    "all bfloat16": (BF16, {"state_dtype": "param"}),
    "all float16": (F16, {"state_dtype": "param"}),
    "bfloat16 master": (BF16, {"master": "float32"}),
    "float16 master": (F16, {"master": "float32"}),
    "split": (BF16, {"master": "split"}),
    "stochastic": (BF16, {"stochastic_rounding": 7}),
    "all stochastic": (BF16, {"state_dtype": "param", "stochastic_rounding": 7}),
    "copy in bfloat16": (F32, {"copy_dtype": "bfloat16"}),
    "copy in float16": (F32, {"copy_dtype": "float16"}),
}
OPTIONS = {
    "plain": {},
    "coupled": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "scale": {"scale": 0.7},
    "decoupled and scaled": {"weight_decay": 0.1, "decoupled_weight_decay": True, "scale": 0.7},
    "clip_value": {"clip_value": 0.125},
    "clip_norm": {"clip_norm": 3.0},
    "maximize": {"maximize": True},
    "ema": {"ema": 0.75},
    "zero_grads": {"zero_grads": True},
    "decoupled and zero_grads": {"weight_decay": 0.1, "decoupled_weight_decay": True, "zero_grads": True},
    "flush_subnormals": {"flush_subnormals": True},
    "all": {
        "weight_decay": 0.1,
        "scale": 3.0,
        "clip_value": 0.5,
        "clip_norm": 3.0,
        "maximize": True,
        "ema": 0.75,
        "zero_grads": True,
        "flush_subnormals": True,
    },
}


def values(size, dtype, seed):
    """Any bit patterns among values in [-1, 1): NaNs with payloads, -0, subnormals."""
    if dtype.itemsize > 2:
        return vectors.random_values(size, dtype, seed)
    with np.errstate(all="ignore"):
        found = storage.narrow(vectors.finite_values(size, F32, seed), np.zeros(0, dtype))
    found.view(np.uint16)[3::16] = vectors.random_words(size, seed)[3::16].astype(np.uint16)
    return found


def made(case, sizes, dtype, **options):
    params = [values(n, dtype, 10 + i) for i, n in enumerate(sizes)]
    optimizer = case.make(params, **options)
    for states in optimizer.state.values():
        for i, s in enumerate(states):
            if s.dtype.kind == "f" and s.dtype.itemsize > 2:
                s[...] = vectors.random_values(s.size, s.dtype, 50 + i)
    return optimizer


def combinations():
    """Every option with every form of storage, each with another rule."""
    pairs = [(form, name) for form in STORED for name in OPTIONS]
    pairs += [("float64", name) for name in OPTIONS if name != "plain"]
    return [(i, *pair) for i, pair in enumerate(pairs)]


def share_of(machine):
    """A third of them for each number of threads, so that every instruction set sees all."""
    return combinations()[machine[1] % 3 :: 3]


def of_combination(i, form, name, sizes, **more):
    dtype, stored = STORED.get(form, (np.dtype(np.float64), {}))
    chosen = CASES32 if dtype.itemsize < 8 else [case for case in CASES if case.dtype == dtype]
    options = {k: v for k, v in OPTIONS[name].items() if k != "scale"}
    optimizer = made(chosen[i % len(chosen)], sizes, dtype, **stored, **options, **more)
    grads = [values(n, dtype, 90 + j) for j, n in enumerate(sizes)]
    return optimizer, grads, OPTIONS[name].get("scale", 1.0)
