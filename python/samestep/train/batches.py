"""Which rows of the problem each step reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from ..arguments import whole_number
from ..backends.reference.sampling import Sampler
from ..problems import Integers, Problem

Sampling = Literal["full", "shuffle", "with_replacement"]

LARGEST_BATCH = 2**31 - 1  # rows; their indices alone fill 16 GiB


def check_batch_size(problem: Problem, sampling: Sampling, batch_size: int | None) -> int | None:
    """The rows of a step; None for all of them, which are not drawn."""
    if sampling not in get_args(Sampling):
        expected = ", ".join(repr(name) for name in get_args(Sampling))
        raise ValueError(f"sampling: got {sampling!r}, expected one of {expected}")
    if sampling == "full":
        if batch_size is not None:
            raise ValueError(
                f"batch_size: got {batch_size} with sampling='full', which takes every row; "
                "add sampling='shuffle' or 'with_replacement', or leave batch_size out"
            )
        return None
    if batch_size is None:
        raise ValueError(f"batch_size: got None, expected the rows a step for sampling={sampling!r}")
    batch_size = whole_number("batch_size", batch_size, at_least=1)
    if sampling == "shuffle" and batch_size > problem.size:
        there = "one row there is" if problem.size == 1 else f"{problem.size} rows there are"
        raise ValueError(f"batch_size: got {batch_size}, expected at most the {there}")
    if batch_size > LARGEST_BATCH:
        raise ValueError(f"batch_size: got {batch_size}, expected at most {LARGEST_BATCH} (2^31 - 1)")
    return batch_size


def draw_batches(
    size: int, sampling: Sampling, batch_size: int | None, sampler: Sampler
) -> Iterator[Integers | None]:
    """The rows of step 1, 2, ..., without end; None for all rows."""
    while sampling == "full" or batch_size is None:
        yield None
    while sampling == "with_replacement":
        yield sampler.draws(batch_size, size)
    while True:
        order = sampler.shuffle(size)
        for first in range(0, size, batch_size):
            yield order[first : first + batch_size]
