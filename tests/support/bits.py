"""Arrays that must agree to the last bit, and the instruction sets that they are made on."""

import numpy as np

import samestep as ss
from samestep.proof import golden, vectors

ISAS = ss.info()["isas"]


def same_bits(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Fails at the first array that differs, with index, values and bit patterns."""
    assert len(got) == len(expected)
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert golden.difference(a, b) is None, f"array {i} (0 is w): {golden.difference(a, b)}"


def arrays(*sizes, dtype=np.float32, seed=1):
    return [vectors.random_values(n, np.dtype(dtype), seed + i) for i, n in enumerate(sizes)]


def snapshot(optimizer):
    return [a.copy() for a in (*optimizer.params, *(s for ss in optimizer.state.values() for s in ss))]


def special(shape, dtype, seed, finite=True):
    """Values of all sizes, zeros of both signs, subnormals; unless ``finite`` some infinities and NaN."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-20, 20, shape)
    some = rng.integers(0, 40, shape)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    for i, value in enumerate((0.0, -0.0, tiny, -9 * tiny, float(np.finfo(dtype).tiny))):
        x = np.where(some == i, value, x)
    if not finite and x.size:
        for value in (np.inf, -np.inf, np.nan, float(np.finfo(dtype).max)):
            x.ravel()[rng.integers(x.size)] = value
    return x.astype(dtype)
