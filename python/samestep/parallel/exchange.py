"""The exchange of a step: sums of leaves travel, until each worker has its part of the sum of all.

Where the number of workers and of leaves for each are powers of two, every worker holds one node of the tree.
It then adds its sum to that of rank XOR 1, 2, 4, ..., half as much each time: these additions are the tree's.
Otherwise each worker sends the nodes that it holds, at most three, to whom they are due, part by part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..backends.arrays import Array
from ..tree import Sums, nodes_of, ranges
from .groups import Group
from .vector import Vector

# Where workers hold up to three nodes, large parts travel in rounds: each needs an eighth of the memory.
_ROUNDS = 8
_LARGE = 1 << 20  # bytes of the vector from which on memory counts for more than the time of a message


class Exchange:
    """Who holds which leaves, and which blocks of the vector each worker ends with.

    Args:
        vector: of the sums.
        add: ``add(to, other, first, last)`` adds blocks of the vector to others.

    Attributes:
        ranges: the leaves of each worker.
        parts: the blocks that each worker ends with: first, last.
    """

    def __init__(
        self, group: Group, leaves: int, vector: Vector, add: Callable[[Array, Array, int, int], None]
    ) -> None:
        self._group, self._leaves, self._vector, self._add = group, leaves, vector, add
        self.ranges = ranges(leaves, group.size)
        self.nodes = [nodes_of(own.start, own.stop, leaves) for own in self.ranges]
        cuts = [vector.blocks * i // group.size for i in range(group.size + 1)]
        self._halves = _is_power(group.size) and leaves % group.size == 0 and _is_power(leaves // group.size)
        order = (
            [_reversed(rank, group.size) for rank in range(group.size)] if self._halves else range(group.size)
        )
        self._cuts = cuts
        self.parts = [(cuts[i], cuts[i + 1]) for i in order]

    def sum(
        self, sums: list[Array], spare: Callable[[], Array], free: Callable[[list[Array]], None]
    ) -> Array:
        """The worker's part of the sum of all leaves.

        Args:
            sums: of this worker's nodes, whole vectors; they are overwritten.
            spare: gives a buffer of the vector for what comes.
            free: takes back all of these but the one that is returned.

        Returns:
            A buffer in which the blocks of the worker's part have their sum.
        """
        if self._group.size == 1:
            return sums[0]
        if self._halves:
            received = spare()
            self._by_halves(sums[0], received)
            free([received])
            return sums[0]
        total = sums[0] if sums else spare()
        self._by_nodes(sums, total)
        free(sums[1:])
        return total

    def _by_halves(self, total: Array, received: Array) -> None:
        """Half of what is left at a time, to ``total``. Which of two is added to the other changes no sum."""
        group, vector = self._group, self._vector
        low, high, bit = 0, group.size, 1  # the parts of which this worker's sum is still of use
        while bit < group.size:
            middle = (low + high) // 2
            halves = (low, middle), (middle, high)
            kept, given = halves[::-1] if group.rank & bit else halves
            keeps, gives = ((self._cuts[begin], self._cuts[end]) for begin, end in (kept, given))
            own, came = vector.part(total, *keeps), vector.part(received, *keeps)
            partner = group.rank ^ bit
            group.carry(_not_empty({partner: vector.part(total, *gives)}), _not_empty({partner: came}))
            self._add(own, came, *keeps)
            (low, high), bit = kept, 2 * bit

    def _by_nodes(self, sums: list[Array], total: Array) -> None:
        """Round by round, a piece of every worker's part, to ``total``."""
        group, vector = self._group, self._vector
        others = [rank for rank in range(group.size) if rank != group.rank]
        rounds = _ROUNDS if vector.nbytes >= _LARGE else 1
        for k in range(rounds):
            pieces = [_cut(part, k, rounds) for part in self.parts]
            mine = pieces[group.rank]
            own = [vector.part(held, *mine) for held in sums]
            send = {rank: self._joined(sums, *pieces[rank]) for rank in others}
            receive, came = {}, {group.rank: own}
            for rank in others:
                receive[rank], came[rank] = vector.parts(len(self.nodes[rank]), *mine)
            group.carry(_not_empty(send), _not_empty(receive))
            if not vector.part(total, *mine).size:
                continue
            tree = Sums[Array](self._leaves, functools.partial(self._add_mine, mine))
            for rank, nodes in enumerate(self.nodes):
                for node, value in zip(nodes, came[rank], strict=True):
                    tree.put(node, value)
            (found,) = tree.take(nodes_of(0, self._leaves, self._leaves))
            vector.module.assign(vector.part(total, *mine), found)

    def _joined(self, sums: list[Array], first: int, last: int) -> Array:
        """Blocks ``first`` to ``last - 1`` of each, for one message."""
        message, parts = self._vector.parts(len(sums), first, last)
        for part, held in zip(parts, sums, strict=True):
            self._vector.module.assign(part, self._vector.part(held, first, last))
        return message

    def _add_mine(self, mine: tuple[int, int], to: Array, other: Array) -> None:
        self._add(to, other, *mine)


def _cut(part: tuple[int, int], k: int, rounds: int) -> tuple[int, int]:
    """The blocks of a part that travel in round k."""
    first, last = part
    return first + (last - first) * k // rounds, first + (last - first) * (k + 1) // rounds


def _not_empty(arrays: dict[int, Array]) -> dict[int, Array]:
    return {rank: array for rank, array in arrays.items() if array.size}


def _is_power(n: int) -> bool:
    return n & (n - 1) == 0


def _reversed(rank: int, size: int) -> int:
    """The bits of a rank in reverse: the part that is left after the halves are handed out from bit 0 up."""
    bits = size.bit_length() - 1
    return sum(1 << (bits - 1 - i) for i in range(bits) if rank >> i & 1)
