"""Sums of numbers as integers, for engines that offer a sum in an order of their own and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import finite_number
from ..backends.arrays import Array

_LARGEST = 2.0**62  # whole steps of the grid, in magnitude
_WORD = 32  # bits of the lower of two words: so neither overflows for 2^31 values


def grid_sum(values: Any, all_reduce: Callable[[Array], Any], *, grid: float = 2.0**-20) -> float:
    """The sum of all workers' values, each rounded to a grid: for an engine that can only add, such as NCCL.

        sum = (rint(x_0/grid) + rint(x_1/grid) + ...)*grid

    Integers have one sum in whatever order they are added. So the result does not show how many workers there
    are, nor who holds which value; it is off by at most ``grid/2`` for each value, and by one rounding to
    float64. Give every value by itself, such as the loss of every leaf: what a worker adds up before, in
    floating point, does show.

    Args:
        values: this worker's, any number of them: float32, float64, or what NumPy turns into float64.
        all_reduce: called once, on every worker, with an int64 array of shape (3,). Returns that of all
            workers added up, as anything that NumPy reads.
        grid: the step of the grid: a power of two, such as 2.0**-20, the same on every worker.

    Returns:
        The sum, the same on every worker.

    Raises:
        TypeError, ValueError: ``grid`` is no power of two, or ``values`` are no numbers.
        ValueError: a value on any worker is infinite, NaN, or 2^62 steps of the grid or more; raised on all.

    Source:
        Demmel & Nguyen, Fast reproducible floating-point summation (2013), for rounding before adding.

    Example:
        >>> import numpy as np, samestep as ss
        >>> def all_reduce(words):  # on NCCL: torch.distributed.all_reduce of a tensor on the GPU
        ...     return words
        >>> ss.parallel.grid_sum([0.1, 0.2, 0.3], all_reduce)
        0.6000003814697266
    """
    grid = finite_number("grid", grid, at_least=0.0)
    if np.frexp(grid)[0] != 0.5:
        raise ValueError(f"grid: got {grid}, expected a power of two, such as 2.0**-20")
    x = np.asarray(values)
    if x.dtype.kind not in "fiu":
        raise TypeError(f"values: got {x.dtype}, expected numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(x.astype(np.float64) / grid).reshape(-1)  # the quotient is exact
        is_bad = ~(np.abs(steps) < _LARGEST)
    whole = np.where(is_bad, 0, steps).astype(np.int64)
    low, high = whole & ((1 << _WORD) - 1), whole >> _WORD
    words = np.array([low.sum(), high.sum(), is_bad.sum()], np.int64)
    found = [int(word) for word in np.asarray(all_reduce(words)).reshape(3)]
    if found[2]:
        raise ValueError(
            f"values: {found[2]} of all workers' are infinite, NaN or beyond {_LARGEST * grid:g}, expected "
            "finite ones; a larger grid reaches further"
        )
    return float((found[1] << _WORD) + found[0]) * grid
