"""Sums over terms that are spread over workers: one process's bits, however many hold them."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import samestep as ss
from bits import special
from samestep import spread
from samestep.backends import reference
from samestep.parallel import run_threads

WORKERS = (1, 2, 3, 5, 8)
BACKENDS = ("cpu", "reference")


def cuts_of(terms, workers, seed=0):
    """Whole blocks to each worker, some without any, and what is left to the last that has some."""
    blocks = -(-terms // 1024)
    cuts = np.sort(np.random.default_rng(seed).integers(0, blocks + 1, workers - 1)) * 1024
    return [0, *np.minimum(cuts, terms).tolist(), terms]


def on_workers(function, cuts):
    """What function(group, first, last) returns on each worker, which are all alike."""
    found = run_threads(
        len(cuts) - 1, lambda group: function(group, cuts[group.rank], cuts[group.rank + 1]), timeout=20
    )
    assert len({ss.digest([np.asarray(one)]) for one in found}) == 1
    return found[0]


def same(a, b):
    assert (np.shape(a), ss.digest([np.asarray(a)])) == (np.shape(b), ss.digest([np.asarray(b)]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("terms", [0, 1, 1023, 1024, 1025, 5000, 20 * 1024, 37_777])
def test_the_sum_of_all_elements(terms, workers, backend):
    for dtype in (np.float32, np.float64):
        x = special(terms, dtype, 1)
        for seed in range(3):
            found = on_workers(
                lambda group, i, j, x=x: ss.canonical_sum(x[i:j], backend=backend, group=group),
                cuts_of(terms, workers, seed),
            )
            same(found, ss.canonical_sum(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_sum_over_an_axis(axis, workers, backend):
    shape = [2, 3, 4]
    shape[axis] = 7 * 1024 + 5
    x = special(tuple(shape), np.float32, 2, finite=False)

    def part(group, i, j):
        mine = np.ascontiguousarray(np.take(x, np.arange(i, j), axis))
        return ss.canonical_sum(mine, axis, backend=backend, group=group)

    same(on_workers(part, cuts_of(shape[axis], workers, 5)), ss.canonical_sum(x, axis))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("workers", WORKERS)
def test_the_norm_of_arrays(workers, backend):
    arrays = [special(n, dtype, n) for n, dtype in ((3, "float32"), (9000, "float64"), (0, "float32"))]
    arrays.append(special((4096, 3), "float32", 4))
    cuts = [cuts_of(a.size, workers, seed) for seed, a in enumerate(arrays)]

    def norm(group):
        parts = {
            i: a.reshape(-1)[c[group.rank] : c[group.rank + 1]]
            for i, (a, c) in enumerate(zip(arrays, cuts, strict=True))
        }
        return ss.global_norm(parts, backend=backend, group=group)

    assert run_threads(workers, norm, timeout=20) == [ss.global_norm(arrays)] * workers
    assert run_threads(workers, lambda group: ss.global_norm([], group=group)) == [0.0] * workers


def test_only_complete_pairs_travel():
    """Nodes are sums of the tree: each aligned to its length, or ending with the last block; few of them."""
    for blocks, workers in itertools.product((1, 2, 7, 8, 13, 64, 100), WORKERS):
        holders = np.sort(np.random.default_rng(blocks).integers(0, workers, blocks))
        nodes = spread.held_nodes(holders)
        ends = [min(node.last, blocks) for _, node in nodes]
        assert [node.first for _, node in nodes] + [blocks] == [0, *ends]
        for holder, node in nodes:
            assert (holders[node.first : node.last] == holder).all()
        assert len(nodes) <= workers * 2 * max(1, blocks.bit_length())


def test_blocks_may_be_held_in_any_order():
    """The rows of a batch are added by whoever has most of them."""
    x = special(13 * 1024, np.float64, 3).reshape(13, 1024)
    holders = np.array([2, 0, 0, 1, 1, 1, 1, 0, 2, 2, 0, 1, 1])

    def total(group):
        mine = x[holders == group.rank].reshape(-1)
        sums = reference.block_sums(mine, 1, mine.size, 1, False).reshape(1, -1, 1)
        return spread.total(group, reference, [spread.Spread(holders, sums)])[0]

    for found in run_threads(3, total, timeout=20):
        same(found, ss.canonical_sum(x.reshape(1, -1), 1))


def errors_on(workers, function):
    """The type and text of what each worker raises: all alike, and none waits for another."""

    def catch(group):
        with pytest.raises(Exception) as info:
            function(group)
        return type(info.value), str(info.value)

    found = run_threads(workers, catch, timeout=5)
    told = re.compile(r"worker \d+ of \d+ has given up: \w+: ")  # of another worker's error
    (kind,), (text,) = {kind for kind, _ in found}, {told.sub("", text) for _, text in found}
    return kind, text


F = np.zeros(2048, np.float32)


@pytest.mark.parametrize(
    ("part", "axis", "kind", "says"),
    [
        (
            lambda r: F[: 1000 + r],
            None,
            ValueError,
            "x: got 1000 elements on worker 0 of 3.*multiple of 1024",
        ),
        (lambda r: F[: 1024 - 32 * (r == 1)], 0, ValueError, "x: got 992 rows .* on worker 1 of 3"),
        (
            lambda r: F.astype(np.float64) if r == 2 else F,
            None,
            ValueError,
            "x: got the dtype float64 on worker 2",
        ),
        (lambda r: np.zeros((1024, 3 + r)), 0, ValueError, "x: got the shape .*worker 1"),
        (lambda r: [1.0] if r == 1 else F, None, TypeError, "x: got list"),
        (lambda r: np.zeros((2048, 2))[:, r % 2 : r % 2 + 1], 0, ValueError, "x: strides"),
        (lambda r: F, 1, ValueError, "axis: got 1"),
    ],
)
def test_parts_that_do_not_fit(part, axis, kind, says):
    found = errors_on(3, lambda group: ss.canonical_sum(part(group.rank), axis, group=group))
    assert found[0] is kind
    assert re.match(says, found[1]), found[1]


def test_another_axis_on_another_worker():
    x = np.zeros((1024, 1024))
    kind, text = errors_on(2, lambda group: ss.canonical_sum(x, group.rank, group=group))
    assert kind is ValueError
    assert text.startswith("axis: got the axis 1 on worker 1 and 0 on worker 0")


@pytest.mark.parametrize(
    ("parts", "kind", "says"),
    [
        (lambda r: [F] * (1 + r), ValueError, "arrays: got so many arrays: 2 on worker 1 and 1 on worker 0"),
        (lambda r: [F, F[:100]], ValueError, "arrays[1]: got 100 elements on worker 0"),
        (
            lambda r: [F, F.astype("f8") if r else F],
            ValueError,
            "arrays[1]: got the dtype float64 on worker 1",
        ),
        (lambda r: [F, None if r else F], TypeError, "arrays[1]: got NoneType"),
    ],
)
def test_lists_that_do_not_fit(parts, kind, says):
    found = errors_on(3, lambda group: ss.global_norm(parts(group.rank), group=group))
    assert found[0] is kind
    assert found[1].startswith(says), found[1]


def test_what_is_no_group():
    for call in (lambda: ss.canonical_sum(F, group=3), lambda: ss.global_norm([F], group="mpi")):
        with pytest.raises(TypeError, match=r"^group: got .*, expected a group of samestep\.parallel"):
            call()
