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
from .tree import Node, Sums, nodes_of

T = TypeVar("T")
Doubles = NDArray[np.float64]


class Workers(Protocol):
    """What is needed of a group; every worker calls the same functions in the same order."""

    rank: int
    size: int

    def transfer(self, send: dict[int, Array], receive: dict[int, Array]) -> None:
        """Sends an array to each rank of ``send``, and fills that of each rank of ``receive``."""

    def all_gather(self, mine: Array, counts: Sequence[int]) -> list[Array]:
        """The arrays of all workers, in order of rank; worker r gives counts[r] elements of one dtype."""

    def all_or_none(self, error: Exception | None, facts: Any = None) -> list[Any]:
        """What each worker gives, in order of rank: numbers, texts, lists and dicts; or an error on all."""


def check_workers(group: Any) -> Workers:
    """The group, if it is one; all further errors are then raised on every worker."""
    if not all(hasattr(group, name) for name in ("rank", "size", "transfer", "all_gather", "all_or_none")):
        raise TypeError(
            f"group: got {type(group).__name__}, expected a group of samestep.parallel, such as mpi() returns"
        )
    workers: Workers = group
    return workers


def do_together(
    group: Workers, do: Callable[[], T], facts_of: Callable[[T], Any] = lambda _: None
) -> tuple[T, list[Any]]:
    """What ``do`` returns here, and the facts of that on every worker, in order of rank.

    Raises:
        Exception: as ``Group.all_or_none`` with what ``do`` raised.
    """
    found = facts = error = None
    try:
        found = do()
        facts = facts_of(found)
    except Exception as raised:
        error = raised
    return found, group.all_or_none(error, facts)  # type: ignore[return-value]  # no error: it has returned


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


def held_nodes(holders: NDArray[np.int64]) -> list[tuple[int, Node]]:
    """The fewest nodes of the tree over the blocks that one worker holds whole, each with its holder."""
    blocks = len(holders)
    cuts = [0, *(np.flatnonzero(np.diff(holders)) + 1).tolist(), blocks] if blocks else []
    return [
        (int(holders[first]), node)
        for first, last in pairwise(cuts)
        for node in nodes_of(first, last, blocks)
    ]


def total(group: Workers, module: Any, spreads: Sequence[Spread]) -> list[Doubles]:
    """The canonical sum of each of ``spreads`` over the terms of all workers: outer*inner numbers.

    ``module`` is that of a backend in main memory. The sums of all travel in one exchange.
    """
    nodes = [held_nodes(spread.holders) for spread in spreads]
    widths = [spread.sums.shape[0] * spread.sums.shape[2] for spread in spreads]
    mine = [np.zeros(0)]
    for spread, own in zip(spreads, nodes, strict=True):
        outer, _, inner = spread.sums.shape
        before = np.cumsum(spread.holders == group.rank)  # blocks of this worker up to and with each block
        for node in (node for holder, node in own if holder == group.rank):
            last = min(node.last, len(before))
            blocks = np.ascontiguousarray(spread.sums[:, before[node.first] - 1 : before[last - 1]])
            mine.append(module.pair_sums(blocks.reshape(-1), outer, last - node.first, inner))
    counts = [0] * group.size
    for own, width in zip(nodes, widths, strict=True):
        for holder, _ in own:
            counts[holder] += width
    came = group.all_gather(np.concatenate(mine), counts)
    taken = [0] * group.size
    totals: list[Doubles] = []
    for spread, own, width in zip(spreads, nodes, widths, strict=True):
        blocks_in_all = len(spread.holders)
        sums = Sums[Doubles](blocks_in_all, module.add_leaves)
        for holder, node in own:
            at = taken[holder]
            sums.put(node, came[holder][at : at + width])
            taken[holder] += width
        totals += sums.take(nodes_of(0, blocks_in_all, blocks_in_all)) if own else [np.zeros(width)]
    return totals
