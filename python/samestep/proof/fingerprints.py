"""The golden program of fingerprints; tests/native/golden.cpp makes the same ones without Python."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import backends
from ..backends.arrays import Array
from ..fingerprints import fingerprint
from .vectors import integer_values, random_values


class FingerprintProgram(NamedTuple):
    """The fingerprint of an array. Of bfloat16 it needs ml_dtypes, which CuPy may not know."""

    dtype: str
    inputs: str  # "integers", values of float32 whatever the dtype, or "random"
    size: int

    def __str__(self) -> str:
        return f"fingerprint {self.dtype} {self.inputs} {self.size}"

    def run(self, **options: Any) -> list[Array]:
        """The upper and the lower 32 bits, as two numbers."""
        name = options.get("backend", "auto")
        place = backends.module("cpu" if name == "auto" else name).from_host
        found = fingerprint(place(self._array()), **options)
        return [np.array([found >> 32, found & 0xFFFFFFFF], np.float64)]

    def _array(self) -> Array:
        """In uint16: the lower halves of values of float32."""
        if self.inputs == "random":
            x = random_values(self.size, np.dtype("f8" if self.dtype == "float64" else "f4"), 1)
        else:
            x = integer_values((self.size,), 37, 11, 1009, 400, 128.3, np.dtype(np.float32))
        if self.dtype == "uint16":
            return x.view(np.uint32).astype(np.uint16)
        dtype = self.dtype
        if dtype == "bfloat16":
            import ml_dtypes  # NumPy has no bfloat16

            dtype = ml_dtypes.bfloat16
        with np.errstate(all="ignore"):
            return x.astype(dtype)


def fingerprint_programs() -> list[FingerprintProgram]:
    return [
        FingerprintProgram(dtype, *inputs)
        for dtype in ("float32", "float64", "float16", "bfloat16", "uint16")
        for inputs in (("integers", 1000), *(("random", size) for size in (0, 1, 7, 1000, 100_003)))
    ]
