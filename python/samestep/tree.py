"""The tree of additions over numbered leaves, which may be blocks of a sum, and how it is cut.

Leaves 0..M-1 are added as neighbours, 0+1, 2+3, ...; then the sums likewise, an odd last one going up as it
is, until one is left. The node at height h and place i is the sum of leaves i*2^h .. (i + 1)*2^h - 1, as far
as there are so many. Whoever has two neighbours may add them: who, and when, cannot be seen in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Node(NamedTuple):
    """The sum of leaves ``place*2^height`` and up."""

    height: int
    place: int

    @property
    def parent(self) -> Node:
        return Node(self.height + 1, self.place // 2)

    @property
    def first(self) -> int:
        """Its first leaf."""
        return self.place << self.height

    @property
    def last(self) -> int:
        """The leaf after its last one, as far as there are so many."""
        return (self.place + 1) << self.height


def nodes_of(first: int, last: int, leaves: int) -> list[Node]:
    """The fewest nodes that have leaves ``first`` to ``last - 1`` of ``leaves`` below them, in order."""
    nodes = []
    while first < last:
        height = 0
        while first % (2 << height) == 0 and (first + (1 << height) < leaves):
            if min(first + (2 << height), leaves) > last:
                break
            height += 1
        nodes.append(Node(height, first >> height))
        first += 1 << height
    return nodes


def ranges(leaves: int, workers: int) -> list[range]:
    """The leaves of each worker: ranges in order, of much the same length, of at most three nodes each.

    Where both numbers are powers of two, each range is one node.
    """
    unit = max(1, 1 << (leaves // workers).bit_length() >> 2)  # a quarter to half of a worker's share
    cuts = [min(leaves, (2 * rank * leaves // (workers * unit) + 1) // 2 * unit) for rank in range(workers)]
    return [range(begin, end) for begin, end in zip(cuts, [*cuts[1:], leaves], strict=True)]


class Sums(Generic[T]):
    """The sums of leaves that came in any order, as few as possible: neighbours are added once both are here.

    Of leaves that come in order it keeps one sum for each bit of their number: a binary counter.

    Args:
        leaves: how many leaves there are in all.
        add: adds its second argument to the first, in place. The first is the one of lower leaves.
        free: takes back the second after that.
    """

    def __init__(
        self, leaves: int, add: Callable[[T, T], None], free: Callable[[T], object] = lambda _: None
    ) -> None:
        self._leaves, self._add, self._free = leaves, add, free
        self._sums: dict[Node, T] = {}

    def put(self, node: Node, value: T) -> None:
        """Takes over the sum of a node, and adds up what has come together."""
        root = (self._leaves - 1).bit_length()  # its height
        while node.height < root:
            lower = Node(node.height, node.place & ~1)
            upper = Node(node.height, node.place | 1)
            if upper.first < self._leaves:  # else an odd last one, which goes up as it is
                other = upper if node == lower else lower
                if other not in self._sums:
                    break
                partner = self._sums.pop(other)
                left, right = (value, partner) if node == lower else (partner, value)
                self._add(left, right)
                self._free(right)
                value = left
            node = lower.parent
        self._sums[node] = value

    def take(self, nodes: list[Node]) -> Iterator[T]:
        """Hands out the sums of these nodes, in order, and forgets them.

        A last node that goes up alone is the same sum at every height.
        """
        for node in nodes:
            while node not in self._sums:
                assert Node(node.height, node.place | 1).first >= self._leaves, "the leaves are not all here"
                node = node.parent
            yield self._sums.pop(node)

    def __len__(self) -> int:
        return len(self._sums)
