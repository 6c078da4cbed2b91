"""Sums over terms that are spread over workers: with the bits of one process that has them all.

Each worker adds up its blocks of 1024 terms, and of these what are neighbours in the order of the canonical
sum: complete subtrees of its pairs. Their sums travel, and every worker adds them up to the total. The groups
of workers are those of samestep.parallel; here they are known by what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .backends.arrays import Array
from .backends.reference.sums import SUM_BLOCK

T = TypeVar("T")
Doubles = NDArray[np.float64]

_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (TypeError, ValueError, IndexError, ImportError, MemoryError)
}
_ERRORS["Exception"] = RuntimeError  # of any other kind


class Workers(Protocol):
    """What is needed of a group; every worker calls the same functions in the same order."""

    rank: int
    size: int

    def transfer(self, send: dict[int, Array], receive: dict[int, Array]) -> None:
        """Sends an array to each rank of ``send``, and fills that of each rank of ``receive``."""

    def all_gather(self, mine: Array, counts: Sequence[int]) -> list[Array]:
        """The arrays of all workers, in order of rank; worker r gives counts[r] elements of one dtype."""

    def all_gather_json(self, value: Any) -> list[Any]:
        """What each worker gives, in order of rank: numbers, texts, lists and dicts."""


def check_workers(group: Any) -> Workers:
    """The group, if it is one; all further errors are then raised on every worker."""
    if not all(
        hasattr(group, name) for name in ("rank", "size", "transfer", "all_gather", "all_gather_json")
    ):
        raise TypeError(
            f"group: got {type(group).__name__}, expected a group of samestep.parallel, such as mpi() returns"
        )
    workers: Workers = group
    return workers


def check_together(
    group: Workers, check: Callable[[], T], facts_of: Callable[[T], Any]
) -> tuple[T, list[Any]]:
    """What ``check`` returns here, and the facts of that on every worker, in order of rank.

    Raises:
        Exception: what ``check`` raised, on every worker; of several that of the lowest rank.
    """
    found: T | None = None
    told: dict[str, Any]
    try:
        found = check()
        told = {"facts": facts_of(found)}
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]  # its own first
        told = {"error": next(kind for kind in kinds if kind in _ERRORS), "says": str(error)}
    everywhere = group.all_gather_json(told)
    for rank, each in enumerate(everywhere):
        if "error" in each:
            raise _ERRORS[each["error"]](f"worker {rank} of {group.size}: {each['says']}")
    return found, [each["facts"] for each in everywhere]  # type: ignore[return-value]


def check_same(
    name: str,
    what: str,
    facts: Sequence[Any],
    fix: str = "pass parts of one array that is cut along the terms of the sum",
) -> None:
    """Raises on every worker unless all have the same."""
    for rank, fact in enumerate(facts):
        if fact != facts[0]:
            raise ValueError(
                f"{name}: got {what} {fact} on worker {rank} and {facts[0]} on worker 0, expected the same "
                f"on all {len(facts)}; {fix}"
            )


def check_cut(name: str, counts: Sequence[int], terms: str) -> None:
    """Raises on every worker unless each holds whole blocks, but for the last one that holds any terms."""
    last = max((rank for rank, count in enumerate(counts) if count), default=0)
    for rank, count in enumerate(counts[:last]):
        if count % SUM_BLOCK:
            per_worker = -(-sum(counts) // (SUM_BLOCK * len(counts))) * SUM_BLOCK
            raise ValueError(
                f"{name}: got {count} {terms} on worker {rank} of {len(counts)}, expected a multiple of "
                f"{SUM_BLOCK} on all but the last that holds any; give each {per_worker}, the last the rest"
            )


def blocks_of(counts: Sequence[int]) -> NDArray[np.int64]:
    """Of each block of the terms the worker that holds it; the workers hold ``counts`` terms, in order."""
    return np.repeat(np.arange(len(counts)), [-(-count // SUM_BLOCK) for count in counts])


class Spread(NamedTuple):
    """A sum whose blocks are spread over the workers."""

    holders: NDArray[np.int64]  # of each block of all terms the worker that has added it up
    sums: Doubles  # (outer, blocks of this worker, inner)


class Node(NamedTuple):
    """Blocks first..last-1, whose sum is one of the pairs of a canonical sum at some height."""

    holder: int
    first: int
    last: int


def nodes_of(holders: NDArray[np.int64]) -> list[Node]:
    """The fewest nodes of which each is held by one worker, in order."""
    nodes, blocks = [], len(holders)
    cuts = [0, *(np.flatnonzero(np.diff(holders)) + 1).tolist(), blocks] if blocks else []
    for first, end in pairwise(cuts):
        begin = first
        while begin < end:
            length = 1  # doubled as long as that is a pair of the sum, and held by this worker
            while (
                begin % (2 * length) == 0 and begin + length < end and min(begin + 2 * length, blocks) <= end
            ):
                length *= 2
            nodes.append(Node(int(holders[first]), begin, min(begin + length, end)))
            begin += length
    return nodes


def total(group: Workers, module: Any, spreads: Sequence[Spread]) -> list[Doubles]:
    """The canonical sum of each of ``spreads`` over the terms of all workers: outer*inner numbers.

    ``module`` is that of a backend in main memory. The sums of all travel in one exchange.
    """
    nodes = [nodes_of(spread.holders) for spread in spreads]
    widths = [spread.sums.shape[0] * spread.sums.shape[2] for spread in spreads]
    mine = [np.zeros(0)]
    for spread, own in zip(spreads, nodes, strict=True):
        outer, _, inner = spread.sums.shape
        before = np.cumsum(spread.holders == group.rank)  # blocks of this worker up to and with each block
        for _, first, last in (node for node in own if node.holder == group.rank):
            blocks = np.ascontiguousarray(spread.sums[:, before[first] - 1 : before[last - 1]])
            mine.append(module.pair_sums(blocks.reshape(-1), outer, last - first, inner))
    counts = [0] * group.size
    for own, width in zip(nodes, widths, strict=True):
        for node in own:
            counts[node.holder] += width
    came = group.all_gather(np.concatenate(mine), counts)
    taken, totals = [0] * group.size, []
    for own, width in zip(nodes, widths, strict=True):
        values: dict[int, Doubles] = {}
        for node in own:
            at = taken[node.holder]
            values[node.first] = came[node.holder][at : at + width]
            taken[node.holder] += width
        totals.append(_pair(module, values, width))
    return totals


def _pair(module: Any, values: dict[int, Doubles], width: int) -> Doubles:
    """The total of nodes, each by its first block: neighbours of 1, 2, 4, ... blocks are added.

    A node that is longer than that has no neighbour in ``values`` yet, and waits.
    """
    step = 1
    while len(values) > 1:
        for first in sorted(values):
            if first % (2 * step) == 0 and first + step in values:
                module.add_leaves(values[first], values.pop(first + step))
        step *= 2
    return values[0] if values else np.zeros(width)
