"""Fingerprints in NumPy; twin of csrc/contract/fingerprint.h, which has the formulas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array

BLOCK = 1024  # bytes
# Of the bits of each type: the largest magnitude that is no NaN, and the one NaN.
_INFINITY_AND_NAN = {
    "float32": (0x7F800000, 0x7FC00000),
    "float64": (0x7FF0000000000000, 0x7FF8000000000000),
    "float16": (0x7C00, 0x7E00),
    "bfloat16": (0x7F80, 0x7FC0),
}

Words = NDArray[np.uint64]


def mix(z: Words) -> Words:
    """splitmix64's step, modulo 2^64."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


KEYS = mix(np.arange(BLOCK // 4, dtype=np.uint64)).astype(np.uint32)


def fingerprint(x: Array) -> int:
    """The fingerprint of an array: float32, float64 or 16 bits; uint16: bits as they are."""
    total = np.array([block_sum(x)], np.uint64)
    return int(mix(total ^ mix(np.array([x.nbytes], np.uint64)))[0])


def block_sum(x: Array, first: int = 0) -> int:
    """The sum over the blocks of an array, of which element ``first`` of the whole array is its first."""
    bits = x.reshape(-1).view(f"u{x.itemsize}")
    if x.dtype.name in _INFINITY_AND_NAN:
        infinity, nan = _INFINITY_AND_NAN[x.dtype.name]
        magnitude = bits & ((1 << (8 * x.itemsize - 1)) - 1)
        bits = np.where(magnitude > infinity, bits.dtype.type(nan), bits)
    data = np.zeros(-(-x.nbytes // BLOCK) * BLOCK, np.uint8)
    data[: x.nbytes] = bits.astype(f"<u{x.itemsize}").view(np.uint8)
    words = data.view("<u4").reshape(-1, BLOCK // 4) + KEYS
    products = words[:, 0::2].astype(np.uint64) * words[:, 1::2]
    h = np.zeros(len(words), np.uint64)
    for i in range(BLOCK // 8):
        h = h + products[:, i]
    begin = first * x.itemsize // BLOCK
    blocks = mix(h ^ mix(np.arange(begin, begin + len(words), dtype=np.uint64)))
    return int(sum(blocks.tolist())) & 0xFFFFFFFFFFFFFFFF
