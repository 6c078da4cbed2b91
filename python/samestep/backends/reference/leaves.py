"""Leaves in NumPy, weighed, added and averaged; twin of csrc/contract/leaves.h."""

from __future__ import annotations

import numpy as np

from ..arrays import Array
from .storage import narrow, widen


def weigh_leaf(g: Array | None, weight: float, out: Array) -> None:
    """T(weight)*g; +0 with weight 0."""
    with np.errstate(all="ignore"):
        out[...] = 0 if g is None or weight == 0.0 else out.dtype.type(weight) * widen(g)


def add_leaves(to: Array, other: Array) -> None:
    """to = to + other."""
    with np.errstate(all="ignore"):
        to += other


def average_leaves(total: Array, weight: float, out: Array) -> None:
    """total/T(weight), rounded once more where ``out`` has 16 bits."""
    with np.errstate(all="ignore"):
        out[...] = narrow(total / total.dtype.type(weight), out)
