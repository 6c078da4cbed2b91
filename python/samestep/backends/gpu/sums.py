"""Sums in the canonical order on a GPU. The order is that of reference/sums.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .device import get_cupy
from .kernels import (
    BLOCK_SUMS,
    PAIRED_ROWS,
    PAIRS,
    SUM_BLOCK,
    TILE,
    ceil_div,
    run_kernel,
    struct_of,
    warps,
)


def pair(sums: Any, sets: int, n: int, width: int, at_most: int = 1) -> tuple[int, int]:
    """Adds n rows of ``width`` sums in each set in pairs, level by level, until ``at_most`` rows are left.

    Returns:
        The number of rows that are left, and how many rows lie from one of them to the next.
    """
    apart, set_stride = 1, n * width
    while n > at_most:
        runs = ceil_div(n, PAIRED_ROWS)
        argument = struct_of(
            PAIRS, sums=sums, sets=sets, n=n, width=width, stride=apart * width, set_stride=set_stride
        )
        run_kernel("SUM_KERNELS()", "pair_rows", sets * runs * ceil_div(width, TILE), argument)
        n, apart = runs, apart * PAIRED_ROWS
    return n, apart


def _add_blocks(terms: str, x: Any, outer: int, n: int, inner: int) -> Any:
    """The sums of blocks of terms along n of x seen as (outer, n, inner): shape (outer, blocks, inner)."""
    blocks = ceil_div(n, SUM_BLOCK)
    sums = get_cupy().empty((outer, blocks, inner), np.float64)
    argument = struct_of(BLOCK_SUMS, x=x, outer=outer, n=n, inner=inner, out=sums)
    if inner == 1:
        run_kernel("SUM_KERNELS()", f"sum_runs_{terms}_{x.dtype}", warps(outer * blocks), argument)
    else:
        grid = outer * blocks * ceil_div(inner, TILE)
        run_kernel("SUM_KERNELS()", f"sum_columns_{terms}_{x.dtype}", grid, argument)
    return sums


def sum_terms(terms: str, x: Any, outer: int, n: int, inner: int) -> Any:
    """The sums over n of the "values" or "squares" of x seen as (outer, n, inner): shape (outer*inner,)."""
    if outer * n * inner == 0:
        return get_cupy().zeros(outer * inner, np.float64)
    sums = _add_blocks(terms, x, outer, n, inner)
    pair(sums, outer, sums.shape[1], inner)
    return sums[:, 0, :].copy().reshape(outer * inner)


def block_sums(x: Any, outer: int, n: int, inner: int, squares: bool) -> Any:
    """The sums, or with ``squares`` those of the squares, of blocks of terms along n, on the GPU of x."""
    with x.device:
        sums = _add_blocks("squares" if squares else "values", x, outer, n, inner)
        return sums.reshape(sums.size)


def canonical_sum(x: Any, outer: int, n: int, inner: int) -> Any:
    """The sums over n of x seen as (outer, n, inner), on its GPU."""
    with x.device:
        return sum_terms("values", x, outer, n, inner)


def global_norm(arrays: Sequence[Any]) -> float:
    """The root of the sum of all squares; returns when it is known."""
    if not arrays:
        return 0.0
    with arrays[0].device:
        sums = get_cupy().concatenate([sum_terms("squares", a, 1, a.size, 1) for a in arrays])
        pair(sums, 1, len(arrays), 1)
        return math.sqrt(float(sums[:1].get()[0]))
