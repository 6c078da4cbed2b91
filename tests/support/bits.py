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
