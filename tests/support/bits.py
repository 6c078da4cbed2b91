"""Arrays that must agree to the last bit, and the instruction sets that they are made on."""

import numpy as np

import samestep as ss
from samestep.proof import golden

ISAS = ss.info()["isas"]


def same_bits(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Fails at the first array that differs, with index, values and bit patterns."""
    assert len(got) == len(expected)
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert golden.difference(a, b) is None, f"array {i} (0 is w): {golden.difference(a, b)}"


def arrays(*sizes, dtype=np.float32, seed=1):
    return [golden.random_values(n, np.dtype(dtype), seed + i) for i, n in enumerate(sizes)]


def snapshot(optimizer):
    return [a.copy() for a in (*optimizer.params, *(s for ss in optimizer.state.values() for s in ss))]
