"""The golden program of leaves; tests/native/leaves.h makes the same steps without Python."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import backends
from ..backends.arrays import Array
from .vectors import integer_values


class LeavesProgram(NamedTuple):
    """The mean of M leaves of 1000 elements, in the order of additions of any number of workers."""

    dtype: np.dtype[Any]
    leaves: int  # M
    what: str  # "mean", or "weighted": weights 0, 1/3, 2/3, 1, 4/3, 0, 1/3, ...

    def __str__(self) -> str:
        return f"leaves {self.dtype} 1000 {self.leaves} {self.what}"

    def run(self, **options: Any) -> list[Array]:
        """The mean; ``backend``: "cpu", if it is not named."""
        backend = backends.module(options.get("backend", "cpu"))
        thirds = [leaf % 5 if self.what == "weighted" else 3 for leaf in range(self.leaves)]
        level = [
            backend.from_host(integer_values((1000,), 53, 29 + leaf, 907, 450, 331.1, self.dtype))
            for leaf in range(self.leaves)
        ]
        for g, weight in zip(level, thirds, strict=True):
            backend.weigh_leaf(g, weight / 3, g)
        while len(level) > 1:  # neighbours are added; an odd last one is carried up
            for left, right in zip(level[0::2], level[1::2], strict=False):
                backend.add_leaves(left, right)
            level = level[0::2]
        backend.average_leaves(level[0], sum(thirds) / 3, level[0])
        return [backend.to_host(level[0])]


def leaves_programs(dtype: np.dtype[Any]) -> list[LeavesProgram]:
    return [LeavesProgram(dtype, leaves, what) for leaves in (6, 8, 13) for what in ("mean", "weighted")]
