"""The tree of additions: nodes, ranges, and sums of leaves that come in any order."""

import random

import pytest

from samestep.tree import Node, Sums, nodes_of, ranges

LEAVES = [*range(1, 34), 63, 64, 65, 96, 100, 255, 1000]


class Term:
    """A sum that remembers how it was made."""

    def __init__(self, made_of):
        self.made_of = made_of


def add(to, other):
    to.made_of = (to.made_of, other.made_of)


def sums(leaves):
    return Sums(leaves, add, lambda term: None)


def by_levels(leaves):
    """Neighbours, then neighbours of these, as the contract says it."""
    row = list(range(leaves))
    while len(row) > 1:
        row = [tuple(row[i : i + 2]) if i + 1 < len(row) else row[i] for i in range(0, len(row), 2)]
    return row[0]


@pytest.mark.parametrize("leaves", LEAVES)
def test_any_order_of_leaves_makes_one_tree(leaves):
    order = list(range(leaves))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        tree = sums(leaves)
        for leaf in order:
            tree.put(Node(0, leaf), Term(leaf))
        (total,) = tree.take(nodes_of(0, leaves, leaves))
        assert total.made_of == by_levels(leaves)
        assert len(tree) == 0


@pytest.mark.parametrize("leaves", LEAVES)
def test_ranges_of_workers_make_the_same_tree(leaves):
    for workers in range(1, 20):
        whole = sums(leaves)
        for own in ranges(leaves, workers):
            part = sums(leaves)
            for leaf in own:
                part.put(Node(0, leaf), Term(leaf))
            nodes = nodes_of(own.start, own.stop, leaves)
            assert len(part) == len(nodes) <= 3
            for node, term in zip(nodes, part.take(nodes), strict=True):
                whole.put(node, term)
        (total,) = whole.take(nodes_of(0, leaves, leaves))
        assert total.made_of == by_levels(leaves)


def test_ranges_are_fair_and_single_nodes_where_both_are_powers_of_two():
    for leaves in LEAVES:
        for workers in range(1, 20):
            found = ranges(leaves, workers)
            assert [leaf for own in found for leaf in own] == list(range(leaves))
            assert max(map(len, found)) <= 1.5 * -(-leaves // workers)
            if leaves >= workers:
                assert min(map(len, found)) >= 1
            share, rest = divmod(leaves, workers)
            if rest == 0 and share & (share - 1) == 0:
                assert [len(nodes_of(own.start, own.stop, leaves)) for own in found] == [1] * workers


def test_leaves_in_order_keep_a_sum_for_each_bit_of_their_number():
    tree, most = sums(1 << 10), 0
    for leaf in range(1 << 10):
        tree.put(Node(0, leaf), Term(leaf))
        assert len(tree) == (leaf + 1).bit_count()
        most = max(most, len(tree))
    assert most == 10
