"""Blocks of a step that are computed twice, and the error where the two differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import whole_number
from ..ledger.records import GRADIENT, PARAMETER
from .owner import Owner

MOST_BLOCKS = 2**40  # more than any memory holds, and a number of C


class CorruptionError(RuntimeError):
    """Two threads computed different bits of one step: the processor or the memory fails.

    The step does not count, and parameters and states hold what it wrote. Go on from a checkpoint, on a
    machine that has been tested.
    """


def checks_of(optimizer: Owner, check: Any) -> tuple[Any, ...]:
    """The further arguments of a plan's step for so many checked blocks."""
    if type(check) is int and check == 0:
        return ()
    check = whole_number("check", check, at_least=0)
    if check and optimizer.backend == "cuda":
        raise ValueError(
            "check: got arrays on a GPU, which does not say which of its units computes what, so that no "
            "other one can be made to compute it again; leave it out"
        )
    return (None, min(check, MOST_BLOCKS))


def tell_mismatch(optimizer: Owner) -> str:
    """Which element of which array differs, with both values."""
    i, kind, element, *bits = optimizer._plan.mismatch
    param = optimizer._params[i]
    arrays = {GRADIENT: param.array, PARAMETER: param.array, **param.states}
    name = list(arrays)[kind]
    array = arrays[name]
    where = f"element {element} in the order of memory"
    if array.flags.c_contiguous:
        where = f"element {[int(k) for k in np.unravel_index(element, array.shape)]}"
    values = [np.array([b], np.uint64).astype(f"u{array.itemsize}").view(array.dtype)[0] for b in bits]
    told = [f"{value} ({b:0{2 * array.itemsize}x})" for value, b in zip(values, bits, strict=True)]
    return (
        f"{param.name}: {where} of the {name} was stepped to {told[0]}, and another thread computed "
        f"{told[1]}; the step does not count, and what it wrote stays: go on from a checkpoint, on a machine "
        "that has been tested"
    )
