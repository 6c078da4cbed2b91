"""Numbers kept in 16 bits, in NumPy; twin of csrc/contract/storage.h."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array

Floats = NDArray[np.float32]
Words = NDArray[np.uint32]
Halves = NDArray[np.uint16]


def is_bfloat16(a: Array) -> bool:
    """Whether the dtype is called bfloat16. NumPy, which has no such type, takes long to form the name."""
    return a.itemsize == 2 and a.dtype.name == "bfloat16"


def widen(a: Array) -> Array:
    """16-bit values in float32, which holds them exactly; other arrays as they are."""
    if is_bfloat16(a):
        wide: Floats = (a.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
        return wide
    return a.astype(np.float32) if a.dtype == np.float16 else a


def widened(w: Array, low: Array | None = None) -> Array:
    """A copy of a parameter in the type of the arithmetic; ``low``: its lower halves."""
    if low is not None:
        return np.asarray(join(w, low))  # without axes it is a number
    return w.copy() if w.dtype.itemsize > 2 else np.asarray(widen(w))


def narrow(x: Array, like: Array) -> Array:
    """``x`` in the dtype of ``like``, rounded to nearest even."""
    if not is_bfloat16(like):
        return x.astype(like.dtype)
    bits = np.asarray(x, order="K").view(np.uint32)
    return _rounded(bits, np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))).view(like.dtype)


def narrow_at_random(x: Floats, like: Array, seed: int, step: int, tensor: int) -> Array:
    """``x`` in bfloat16, rounded away from zero with the probability d/u and else towards it.

    d is the part of ``x`` below the last digit of bfloat16, u the unit of that digit.
    """
    random = random_bits(seed, step, tensor, x.size).reshape(x.shape).astype(np.uint32)
    return _rounded(x.view(np.uint32), random).view(like.dtype)


def _rounded(bits: Words, bias: Words) -> Halves:
    """The upper halves of bits + bias; every NaN becomes the quiet one."""
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    rounded = (bits + bias) >> np.uint32(16)
    halves: Halves = np.where(is_nan, np.uint32(0x7FC0), rounded).astype(np.uint16)
    return halves


def random_bits(seed: int, step: int, tensor: int, size: int) -> Halves:
    """16 random bits for each element.

    Element k has the 16 bits from bit 16 (k mod 4) of word k div 4. Word i is element i mod 4 of
    Philox4x64-10 at counter (i div 4 + 1, tensor, step, 0) with key (seed, 0).
    """
    generator = np.random.Philox(counter=[0, tensor, step, 0], key=np.array([seed, 0], np.uint64))
    words = generator.random_raw(-(-size // 16) * 4).astype("<u8")
    return words.view("<u2")[:size].astype(np.uint16)


def join(upper: Array, lower: Array) -> Floats:
    """float32 values of their upper halves, bfloat16, and their lower ones, uint16."""
    bits = (upper.view(np.uint16).astype(np.uint32) << np.uint32(16)) | lower.astype(np.uint32)
    return bits.view(np.float32)


def split(x: Floats, like: Array) -> tuple[Array, Halves]:
    """The upper half of each float32, in the dtype of ``like``, and the lower one, uint16."""
    bits = np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))
    return (bits >> np.uint32(16)).astype(np.uint16).view(like.dtype), bits.astype(np.uint16)
