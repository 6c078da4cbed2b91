"""The canonical sum: kernels against the NumPy twin bit for bit, against exact sums, and its errors."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

import samestep as ss
from samestep.backends import cpu, reference

SHAPES = [
    (0,),
    (1,),
    (31,),
    (32,),
    (33,),
    (1023,),
    (1024,),
    (1025,),
    (5000,),
    (70001,),
    (0, 3),
    (3, 0),
    (3, 700),
    (2500, 5),
    (1057, 257),
    (300, 300),
    (2, 3000, 17),
    (5, 40, 1),
    (9000, 16),
]


def special(shape, dtype, seed=0):
    """Any bits: values of all sizes, zeros of both signs, subnormals; finite."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-60, 60, shape)
    some = rng.integers(0, 12, shape)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    for i, value in enumerate((0.0, -0.0, tiny, -7 * tiny)):
        x = np.where(some == i, value, x)
    return x.astype(dtype)


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    if ss.digest(a) != ss.digest(b):
        i = np.flatnonzero(a.reshape(-1).view(f"u{a.itemsize}") != b.reshape(-1).view(f"u{a.itemsize}"))[0]
        u, v = a.reshape(-1)[i], b.reshape(-1)[i]
        pytest.fail(f"element {i}: {u!r} {u.tobytes().hex()} and {v!r} {v.tobytes().hex()}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_equal_the_twin(machine, dtype):
    for shape in SHAPES:
        x = special(shape, dtype)
        for axis in (None, *range(x.ndim)):
            same(ss.canonical_sum(x, axis), ss.canonical_sum(x, axis, backend="reference"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inf_and_nan_go_where_they_belong(machine, dtype):
    x = special((3000, 20), dtype)
    x[5, 3] = np.inf
    x[2999, 4] = np.nan
    x[[7, 1500], [6, 6]] = np.inf, -np.inf
    sums = ss.canonical_sum(x, 0)
    same(sums, ss.canonical_sum(x, 0, backend="reference"))
    assert np.flatnonzero(~np.isfinite(sums)).tolist() == [3, 4, 6]
    assert sums[3] == np.inf
    assert np.isnan(sums[[4, 6]]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_alignment_and_layout_do_not_matter(machine, dtype):
    x = special((4000,), dtype)
    expected = ss.canonical_sum(x)
    room = np.empty(x.size + 16, dtype)
    for offset in range(16):
        shifted = room[offset : offset + x.size]
        shifted[:] = x
        same(ss.canonical_sum(shifted), expected)
    # A column of a matrix is summed as the same terms in a row are.
    for columns in (2, 8, 33, 400):
        matrix = special((x.size, columns), dtype, seed=columns)
        matrix[:, 1] = x
        same(ss.canonical_sum(matrix, 0)[1], expected[()])
        same(ss.canonical_sum(np.ascontiguousarray(matrix.T), 1), ss.canonical_sum(matrix, 0))


PARTS = [  # (outer, n, inner): around blocks, items and the columns summed at a time
    (1, 0, 1),
    (0, 5, 3),
    (3, 5, 0),
    *((1, n, 1) for n in (1, 31, 32, 33, 1023, 1024, 1025, 70_001)),
    (2, 4097, 1),
    (1, 2500, 5),
    (2, 3000, 17),
    (1, 1057, 257),
    (3, 1, 700),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_in_parts(machine, dtype):
    """Block sums are the twin's, and are the sums of blocks alone; paired they are the canonical sum."""
    for outer, n, inner in PARTS:
        x = special((outer, n, inner), dtype)
        blocks = -(-n // 1024)
        for squares in (False, True):
            found = cpu.block_sums(x, outer, n, inner, squares)
            same(found, reference.block_sums(x, outer, n, inner, squares))
            assert found.shape == (outer * blocks * inner,)
            totals = cpu.pair_sums(found, outer, blocks, inner)
            same(totals, reference.pair_sums(found, outer, blocks, inner))
            wide = x.astype(np.float64)
            terms = wide * wide if squares else wide
            same(totals, ss.canonical_sum(terms, 1).reshape(-1))
            for block in range(blocks):
                alone = np.ascontiguousarray(terms[:, 1024 * block : 1024 * (block + 1)])
                seen = found.reshape(outer, blocks, inner)[:, block]
                same(np.ascontiguousarray(seen), ss.canonical_sum(alone, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranges_of_blocks_are_summed_where_they_lie(machine, dtype):
    """Cut at multiples of 1024 terms, wherever these lie in memory, block sums are those of the whole."""
    x = special((9 * 1024 + 77, 3), dtype)
    whole = cpu.block_sums(x, 1, len(x), 3, False)
    room = np.empty(x.size + 16, dtype)
    for cuts in ([0, 1024, len(x)], [0, 3072, 3072, 8192, len(x)]):
        parts = []
        for offset, (i, j) in enumerate(pairwise(cuts)):
            part = room[offset : offset + 3 * (j - i)].reshape(j - i, 3)
            part[:] = x[i:j]
            parts.append(cpu.block_sums(part, 1, j - i, 3, False))
        same(np.concatenate(parts), whole)


def test_sums_are_not_overwritten_by_their_pairing(machine):
    sums = special((7, 3), np.float64)
    before = sums.copy()
    cpu.pair_sums(sums, 1, 7, 3)
    cpu.norm_of(sums.reshape(-1), 1.0)
    same(sums, before)


@pytest.mark.parametrize("module", [cpu, reference], ids=["cpu", "reference"])
def test_a_norm_of_sums(machine, module):
    tensors = [special((n,), np.float32, seed=n) for n in (3, 5000, 17)]
    squares = [
        module.pair_sums(module.block_sums(t, 1, t.size, 1, True), 1, -(-t.size // 1024), 1) for t in tensors
    ]
    norm = ss.global_norm(tensors)
    assert module.norm_of(np.concatenate(squares), 1.0) == norm
    assert module.norm_of(np.concatenate(squares), -0.3) == 0.3 * norm
    assert module.norm_of(np.zeros(0), 1.0) == 0.0
    # (1 + tiny) + (tiny + tiny): only the pairing of the last two lets them count.
    assert module.norm_of(np.array([1.0, 0.0, 2.0**-53, 2.0**-53]), 1.0) == math.sqrt(1 + 2.0**-52)
    assert math.isnan(module.norm_of(np.array([1.0, np.nan]), 1.0))
    assert module.norm_of(np.array([1.0, np.inf]), 2.0) == np.inf


@pytest.mark.parametrize("module", [cpu, reference], ids=["cpu", "reference"])
def test_a_clipped_scale(module, isa):
    assert module.clipped_scale(0.3, 11.0, 1.1) == 0.3 * (1.1 / 11.0)
    assert 0.3 * (1.1 / 11.0) != (0.3 * 1.1) / 11.0
    assert module.clipped_scale(0.3, 1.1, 1.1) == 0.3
    assert module.clipped_scale(0.3, math.nan, 1.1) == 0.3
    assert module.clipped_scale(-0.5, math.inf, 1.1) == 0.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cpu.block_sums(np.zeros(6), 2, 2, 2, False), "x: expected a contiguous array"),
        (lambda: cpu.block_sums(np.zeros((4, 4))[:, ::2], 4, 2, 1, False), "x: expected a contiguous array"),
        (lambda: cpu.pair_sums(np.zeros(6), 2, 2, 2), "sums: expected a contiguous array"),
    ],
)
def test_parts_that_do_not_fit(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_the_order_is_the_contracts():
    """Blocks, lanes, halving and pairing, written out one addition at a time."""
    x = special((7 * 1024 + 45,), np.float64)
    level = []
    for start in range(0, x.size, 1024):
        lanes = [0.0] * 32
        for k, term in enumerate(x[start : start + 1024].tolist()):
            lanes[k % 32] += term
        for half in (16, 8, 4, 2, 1):
            lanes = [lanes[j] + lanes[j + half] for j in range(half)]
        level.append(lanes[0])
    while len(level) > 1:
        level = [sum(level[i : i + 2]) for i in range(0, len(level), 2)]
    same(ss.canonical_sum(x), np.float64(level[0]))


def test_negative_zeros_give_positive_zero(machine):
    for n in range(70):
        assert math.copysign(1.0, ss.canonical_sum(np.full(n, -0.0))) == 1.0


def test_the_error_is_small():
    x = special((100_000,), np.float32)
    exact = sum(map(Fraction, x.tolist()))
    size = sum(map(Fraction, np.abs(x).tolist()))
    assert abs(Fraction(float(ss.canonical_sum(x))) - exact) <= size * Fraction(50, 2**53)


@pytest.mark.more
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_global_norm(machine, dtype):
    tensors = [special((n,), dtype, seed=n) for n in (3, 5000, 0, 17, 70001)]
    norm = ss.global_norm(tensors)
    assert norm == ss.global_norm(tensors, backend="reference")
    assert norm == ss.global_norm({i: t for i, t in enumerate(tensors)})
    exact = sum(Fraction(v) ** 2 for t in tensors for v in t.tolist())
    assert abs(norm / float(exact) ** 0.5 - 1) < 1e-14
    assert ss.global_norm([]) == 0.0
    assert ss.global_norm([np.float32([3]), np.float64([[4]])]) == 5.0


def test_global_norm_pairs_in_the_order_of_the_list():
    # (1 + tiny) + (tiny + tiny): only the pairing of the last two lets them count.
    tiny = 2.0**-53
    tensors = [np.float64([v**0.5]) for v in (1.0, 0.0, tiny * 1.0, tiny * 1.0)]
    squares = [float(t[0] * t[0]) for t in tensors]
    expected = (squares[0] + squares[1]) + (squares[2] + squares[3])
    assert expected != ((squares[0] + squares[1]) + squares[2]) + squares[3]
    assert ss.global_norm(tensors) == math.sqrt(expected)


@pytest.mark.parametrize(
    ("x", "axis", "error", "says"),
    [
        ([1.0, 2.0], None, TypeError, "x: got list"),
        (np.zeros(3, np.float16), None, TypeError, "x: got dtype float16"),
        (np.zeros(3, ">f4"), None, TypeError, "x: got dtype >f4"),
        (np.zeros((4, 4))[:, ::2], 0, ValueError, "ascontiguousarray"),
        (np.zeros((3, 4), order="F"), 0, ValueError, "ascontiguousarray"),
        (
            np.frombuffer(bytes(25), np.uint8)[1:].view(np.float64),
            None,
            ValueError,
            "multiple of 8",
        ),
        (np.zeros((3, 4)), 2, ValueError, "axis: got 2"),
        (np.zeros((3, 4)), -3, ValueError, "axis: got -3"),
        (np.float64(3.0), 0, TypeError, "x: got float64"),
    ],
)
def test_errors(x, axis, error, says):
    for backend in ("cpu", "reference"):
        with pytest.raises(error, match=says):
            ss.canonical_sum(x, axis, backend=backend)
    if axis is None:
        with pytest.raises(error, match=r"arrays\[1\]"):
            ss.global_norm([np.zeros(3), x])


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: got 'gpu'"):
        ss.canonical_sum(np.zeros(3), backend="gpu")


class Odd(np.ndarray):
    """Calculates otherwise than NumPy."""

    def reshape(self, *shape, **how):
        raise NotImplementedError

    __mul__ = reshape


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", [np.matrix, np.recarray, Odd, np.memmap])
def test_subclasses_are_seen_as_arrays(kind, backend):
    x = special((5, 7), "float32")
    x[~np.isfinite(x)] = 1
    seen = x.view(kind)
    for axis in (None, 0, 1):
        same(ss.canonical_sum(seen, axis, backend=backend), ss.canonical_sum(x, axis))
    assert ss.global_norm([seen, seen], backend=backend) == ss.global_norm([x, x])


@pytest.mark.parametrize(
    ("x", "axis", "error", "says"),
    [
        ([1.0], None, TypeError, r"got list, expected a NumPy array; make one of it with np\.array"),
        (np.float64(1), None, TypeError, r"got float64, .*; it is a scalar, of which np\.array"),
        (
            np.ma.ones(3),
            None,
            TypeError,
            r"got MaskedArray, .*\.filled\(value\), with a value for what is masked",
        ),
        (np.zeros(2, [("a", "f8")]), None, TypeError, r"got dtype .*; pass its fields one by one, such as"),
        (np.ones(2), True, TypeError, r"got True, expected a whole number or None"),
        (np.ones(2), np.False_, TypeError, r"got .*False.*, expected a whole number or None"),
        (np.ones(2), np.array([0]), TypeError, r"got array\(\[0\]\), expected a whole number or None"),
        (np.ones(2), (0,), TypeError, r"got \(0,\), expected a whole number or None"),
    ],
)
def test_what_is_no_array_or_no_axis(x, axis, error, says):
    name = "x" if axis is None else "axis"
    with pytest.raises(error, match=f"^{name}: {says}"):
        ss.canonical_sum(x, axis)
    if axis is None and not isinstance(x, list):  # there a list is a nested one
        with pytest.raises(error, match=rf"^arrays\[1\]: {says}"):
            ss.global_norm([np.ones(2), x])


def test_an_axis_of_numpy_s_own():
    same(ss.canonical_sum(np.ones((2, 3)), np.array(1)), np.full(2, 3.0))
    with pytest.raises(ValueError, match=r"^backend: got array"):
        ss.canonical_sum(np.ones(2), backend=np.array(["cpu", "cpu"]))
