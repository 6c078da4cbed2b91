"""The canonical sum in NumPy; twin of csrc/contract/sums.h. The order of additions fixes the bits.

The terms are cut into blocks of 1024. Term i of a block is added to lane i mod 32, in increasing order;
lanes start at +0.0. The 32 lanes are added half to half, and the sums of the blocks in pairs. The order of
``np.sum`` differs between memory layouts and NumPy versions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array

SUM_BLOCK = 1024
LANES = 32

Doubles = NDArray[np.float64]


def pair(sums: Doubles) -> Doubles:
    """The total over the first axis, by levels: row 2i + row 2i+1; an odd last row goes up as it is."""
    while len(sums) > 1:
        even, odd = sums[0::2], sums[1::2]
        sums = np.concatenate([even[: len(odd)] + odd, even[len(odd) :]])
    return sums[0] if len(sums) else np.zeros(sums.shape[1:])


def block_totals(terms: Doubles) -> Doubles:
    """The sums of the blocks of float64 terms along the first axis."""
    assert terms.dtype == np.float64
    blocks = -(-len(terms) // SUM_BLOCK)
    padded = np.zeros((blocks * SUM_BLOCK, *terms.shape[1:]))
    padded[: len(terms)] = terms
    steps = padded.reshape(blocks, SUM_BLOCK // LANES, LANES, *terms.shape[1:])
    lanes = np.zeros((blocks, LANES, *terms.shape[1:]))
    for step in range(SUM_BLOCK // LANES):
        lanes = lanes + steps[:, step]
    half = LANES // 2
    while half:
        lanes = lanes[:, :half] + lanes[:, half : 2 * half]
        half //= 2
    return lanes[:, 0]


def csum(terms: Doubles) -> Doubles:
    """The canonical sum over the first axis of float64 terms."""
    return pair(block_totals(terms))


def block_sums(x: Array, outer: int, n: int, inner: int, squares: bool) -> Doubles:
    """The sums of the blocks along n of x seen as (outer, n, inner), or those of the squares, flat."""
    with np.errstate(all="ignore"):
        terms = np.moveaxis(x.reshape(outer, n, inner).astype(np.float64), 1, 0)
        return np.moveaxis(block_totals(terms * terms if squares else terms), 0, 1).reshape(-1)


def pair_sums(sums: Doubles, outer: int, blocks: int, inner: int) -> Doubles:
    """The totals of block sums seen as (outer, blocks, inner): shape (outer*inner,)."""
    with np.errstate(all="ignore"):
        return pair(np.moveaxis(sums.reshape(outer, blocks, inner), 1, 0)).reshape(-1)


def canonical_sum(x: Array, outer: int, n: int, inner: int) -> Doubles:
    """The sums over n of x seen as (outer, n, inner): shape (outer*inner,)."""
    blocks = -(-n // SUM_BLOCK)
    return pair_sums(block_sums(x, outer, n, inner, False), outer, blocks, inner)


def norm_of(sums: Doubles, scale: float = 1.0) -> float:
    """|scale| times the root of the total of the sums; 0 of none."""
    with np.errstate(all="ignore"):
        return float(abs(scale) * np.sqrt(pair(sums)))


def global_norm(arrays: Sequence[Array]) -> float:
    """The root of the sum of all squares: a canonical sum for each array, then these sums in pairs."""
    with np.errstate(all="ignore"):
        sums = [csum(x * x) for x in (a.reshape(-1).astype(np.float64) for a in arrays)]
        return norm_of(np.array(sums, np.float64).reshape(len(sums)))
