"""Leaves on a GPU: weighed, added and averaged. The formulas are in csrc/contract/leaves.h."""

from __future__ import annotations

from typing import Any

from .kernels import ITEM, LEAF, ceil_div, run_kernel, struct_of
from .tables import storage_of


def _run(name: str, dtype: Any, from_: Any, to: Any, weight: float = 1.0) -> None:
    with to.device:
        argument = struct_of(LEAF, to=to, n=to.size, to_storage=storage_of(to), weight=weight, per_block=ITEM)
        if from_ is not None:
            argument["from"], argument["from_storage"] = from_.data.ptr, storage_of(from_)
        run_kernel("LEAF_KERNELS()", f"{name}_{dtype}", ceil_div(to.size, ITEM), argument)


def weigh_leaf(g: Any | None, weight: float, out: Any) -> None:
    """T(weight)*g; +0 with weight 0."""
    _run("weigh_leaf", out.dtype, g, out, weight)


def add_leaves(to: Any, other: Any) -> None:
    """to = to + other."""
    _run("add_leaves", to.dtype, other, to)


def average_leaves(total: Any, weight: float, out: Any) -> None:
    """total/T(weight), rounded once more where ``out`` has 16 bits."""
    _run("average_leaves", total.dtype, total, out, weight)
