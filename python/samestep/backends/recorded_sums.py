"""The array in which a step leaves the block sums of fingerprints."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_sums(sums: Any, tensors: int) -> None:
    """Raises ValueError unless a step can leave its sums there; None: it makes none."""
    if sums is None:
        return
    is_array = isinstance(sums, np.ndarray) and sums.dtype == np.uint64 and sums.dtype.isnative
    if not is_array or sums.ndim != 2 or len(sums) != tensors or not sums.flags.carray:
        raise ValueError("sums: expected a writeable uint64 array in C order, with a row for every parameter")
