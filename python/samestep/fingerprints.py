"""Fingerprints of arrays: 64 bits by which two runs are compared, at the speed of the memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import backends
from .backends.arrays import DTYPES, HALVES, is_array
from .backends.cpu import finish_fingerprints as finish

__all__ = ["fingerprint", "finish"]


def fingerprint(x: Any, *, backend: str = "auto") -> int:
    """64 bits of an array: arrays that differ in any bit have, but for a chance of some 2^-32, other ones.

    With words ``x_i`` of 32 bits, keys ``k_i`` and ``mix`` the step of splitmix64, a block b of 1024 bytes is

        h_b = sum over i of (x_2i + k_2i)*(x_2i+1 + k_2i+1)

    with the sums in brackets modulo 2^32 and the others modulo 2^64, and the array of n bytes is
    ``mix((sum over b of mix(h_b ^ mix(b))) ^ mix(n))``. Blocks may be added in any order, so that threads and
    workers cannot show. It finds accidents, not forgers: for those there is ``digest``.

    Args:
        x: float32, float64, float16, bfloat16 or uint16, any shape and layout. Its bytes are those that
            ``digest`` takes: little-endian, in C order, every NaN as one. An array on a GPU is read there.
        backend: "auto" (by the memory in which the array lives), "cpu", "reference" (the NumPy twin: the same
            bits, slowly) or "cuda".

    Returns:
        A whole number from 0 to 2^64 - 1.

    Raises:
        TypeError: ``x`` is no array, or of another dtype; it is on a GPU for a backend of main memory, or the
            other way round.
        ValueError: an unknown backend.

    Source:
        Black et al., UMAC: fast and secure message authentication (1999), for the products; Steele et al.,
        Fast splittable pseudorandom number generators (2014), for mix. docs/numerics.md, "Fingerprints".

    Example:
        >>> import numpy as np, samestep as ss
        >>> [f"{ss.fingerprint(x):016x}" for x in (np.zeros(3, np.float32), -np.zeros(3, np.float32))]
        ['b7f2a444b2956e4b', '10281dba730901ea']
    """
    backend, (x,) = backends.choose_backend(backend, {"x": x})
    is_known = is_array(x) and not isinstance(x, np.ma.MaskedArray)
    if not is_known or not (x.dtype.newbyteorder("=") in (*DTYPES, np.uint16) or x.dtype.name in HALVES):
        got = x.dtype if is_known else type(x).__name__
        raise TypeError(f"x: got {got}, expected a float32, float64, float16, bfloat16 or uint16 array")
    module = backends.module(backend)
    if backend == "cuda":
        x = module.contiguous(x)
    else:
        x = np.asarray(np.require(x, x.dtype.newbyteorder("="), ("C", "A")))
    return int(module.fingerprint(x))
