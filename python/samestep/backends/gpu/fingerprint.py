"""Fingerprints on a GPU. The formulas are those of reference/fingerprint.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference.fingerprint import BLOCK, mix
from .device import get_cupy
from .kernels import FINGERPRINT, HASHED_BLOCKS, ceil_div, run_kernel, struct_of


def fingerprint(x: Any) -> int:
    """The fingerprint of x, in C order; returns when it is known."""
    with x.device:
        total = get_cupy().zeros(1, np.uint64)
        blocks = ceil_div(x.nbytes, BLOCK)
        argument = struct_of(FINGERPRINT, x=x, n=x.size, sum=total)
        name = f"fingerprint_{x.dtype.name}"
        run_kernel("FINGERPRINT_KERNELS()", name, ceil_div(blocks, HASHED_BLOCKS), argument)
        return int(mix(total.get() ^ mix(np.array([x.nbytes], np.uint64)))[0])
