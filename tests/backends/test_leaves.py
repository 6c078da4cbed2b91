"""Leaves: kernels against the twin bit for bit, against the formulas in NumPy, any cut, thread and place."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from bits import ISAS, same_bits, special
from samestep.backends import cpu, reference

# Around vectors, and around work items of 16384 elements and what is rounded at a time, 2048.
SIZES = (0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 65, 1023, 1024, 1025, 2047, 2049, 16383, 16385, 100_003)
WEIGHTS = (1.0, 0.0, -0.0, 0.3, -2.0, 1e300, 2.0**-140)
DTYPES = ("float32", "float64")
HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
MODULES = [pytest.param(cpu, id="cpu"), pytest.param(reference, id="reference")]


def halves(n, dtype, seed):
    """Every kind of 16-bit value, by its bits."""
    return np.random.default_rng(seed).integers(0, 2**16, n, np.uint16).view(dtype)


def weighed(module, g, weight, dtype):
    out = np.full(len(g), 7, dtype)
    module.weigh_leaf(g, weight, out)
    return out


def averaged(module, total, weight, dtype):
    out = np.full(len(total), 7, dtype)
    module.average_leaves(total, weight, out)
    return out


def added(module, a, b):
    total = a.copy()
    module.add_leaves(total, b)
    return total


def everything(module, n, dtype):
    """All that is done with leaves of n elements, with every weight."""
    a, b = (special(n, dtype, seed, finite=False) for seed in (1, 2))
    results = [added(module, a, b), *(weighed(module, a, weight, dtype) for weight in WEIGHTS)]
    results += [averaged(module, a, weight, dtype) for weight in (1.0, 13.0, 0.3, 1e300)]
    if dtype == "float32":
        for half in HALVES:
            given = halves(n, half, 3)
            results += [weighed(module, given, weight, dtype) for weight in WEIGHTS]
            found = [averaged(module, x, weight, half) for x in (a, b) for weight in (1.0, 13.0)]
            # Which NaN a half holds is the storage's; as float32 they are compared as all others.
            results += [x.astype(np.float32) for x in found]
    return results


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_equal_the_twin(dtype, settings):
    for n in SIZES:
        expected = everything(reference, n, dtype)
        for isa, threads in itertools.product(ISAS, (1, 8)):
            ss.set_isa(isa)
            ss.set_num_threads(threads)
            same_bits(everything(cpu, n, dtype), expected)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_formulas(module, dtype):
    """One rounding for each product, sum and quotient, of weights that are rounded to the type first."""
    a, b = (special(3000, dtype, seed, finite=False) for seed in (1, 2))
    T = np.dtype(dtype).type
    with np.errstate(all="ignore"):
        same_bits([weighed(module, a, 0.3, dtype)], [T(0.3) * a])
        same_bits([weighed(module, a, 1.0, dtype)], [a])
        same_bits([added(module, a, b)], [a + b])
        same_bits([averaged(module, a, 0.3, dtype)], [a / T(0.3)])
        for half in HALVES if dtype == "float32" else ():
            given = halves(3000, half, 3)
            same_bits([weighed(module, given, 0.3, dtype)], [T(0.3) * given.astype(dtype)])
            rounded = averaged(module, a, 3.0, half)
            same_bits([rounded.astype(dtype)], [(a / T(3)).astype(half).astype(dtype)])


@pytest.mark.parametrize("module", MODULES)
def test_weight_zero_is_positive_zero_and_reads_nothing(module):
    for given in (np.full(70, np.nan, np.float32), np.full(70, -1.0, np.float32), halves(70, HALVES[1], 1)):
        for weight in (0.0, -0.0):
            same_bits([weighed(module, given, weight, np.float32)], [np.zeros(70, np.float32)])
    out = np.full(70, np.nan)
    module.weigh_leaf(None, 0.0, out)
    same_bits([out], [np.zeros(70)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place(machine, dtype):
    for n in (1, 33, 40_000):
        a = special(n, dtype, 1, finite=False)
        for weight in (0.0, 1.0, 0.3):
            out = a.copy()
            cpu.weigh_leaf(out, weight, out)
            same_bits([out], [weighed(reference, a, weight, dtype)])
        out = a.copy()
        cpu.average_leaves(out, 13.0, out)
        same_bits([out], [averaged(reference, a, 13.0, dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_offset_and_nothing_outside_is_touched(dtype, isa):
    """Cuts begin at any element; a vector that is cut has the bits of one that is not."""
    n, room = 1100, 1140
    a, b = (special(room, dtype, seed, finite=False) for seed in (1, 2))
    for at, other in itertools.product(range(17), (0, 1, 5)):
        total, out, mean = a.copy(), a.copy(), a.copy()
        cpu.add_leaves(total[at : at + n], b[other : other + n])
        cpu.weigh_leaf(b[other : other + n], 0.3, out[at : at + n])
        cpu.average_leaves(b[other : other + n], 3.0, mean[at : at + n])
        for found, inside in (
            (total, added(reference, a[at : at + n], b[other : other + n])),
            (out, weighed(reference, b[other : other + n], 0.3, dtype)),
            (mean, averaged(reference, b[other : other + n], 3.0, dtype)),
        ):
            same_bits([found[at : at + n]], [inside])
            same_bits([found[:at], found[at + n :]], [a[:at], a[at + n :]])
    for half, at in itertools.product(HALVES if dtype == "float32" else (), range(9)):
        given, out, small = halves(room, half, 3), a.copy(), halves(room, half, 4)
        before = small.copy()
        cpu.weigh_leaf(given[at : at + n], 0.3, out[5 : 5 + n])
        cpu.average_leaves(a[5 : 5 + n], 3.0, small[at : at + n])
        same_bits([out[5 : 5 + n]], [weighed(reference, given[at : at + n], 0.3, dtype)])
        same_bits([out[:5], out[5 + n :]], [a[:5], a[5 + n :]])
        assert (
            small[:at].tobytes() + small[at + n :].tobytes()
            == before[:at].tobytes() + before[at + n :].tobytes()
        )


def paired(arrays):
    """Neighbours are added, an odd last one is carried up, until one is left."""
    level = [a.copy() for a in arrays]
    while len(level) > 1:
        sums = [added(cpu, *level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = sums + level[2 * len(sums) :]
    return level[0]


def test_cuts_do_not_show(machine):
    """Workers that each add a slice of the vectors have the bits of one that adds all."""
    leaves = [special(20_000, "float32", seed, finite=False) for seed in range(7)]
    whole = averaged(cpu, paired(leaves), 7.0, np.float32)
    for cuts in ([0, 1, 20_000], [0, 4999, 5000, 12_345, 20_000]):
        parts = [
            averaged(cpu, paired([leaf[i:j] for leaf in leaves]), 7.0, np.float32)
            for i, j in itertools.pairwise(cuts)
        ]
        same_bits([np.concatenate(parts)], [whole])


READ_ONLY = np.zeros(4, np.float32)
READ_ONLY.flags.writeable = False
F, D, H = (np.zeros(4, dtype) for dtype in (np.float32, np.float64, np.float16))
SHARED = np.zeros(5, np.float32)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cpu.weigh_leaf(None, 1.0, F), "g: got None"),
        (lambda: cpu.weigh_leaf(F[:3], 1.0, F), "g: expected as many elements"),
        (lambda: cpu.weigh_leaf(F, 1.0, D), "g: expected the dtype of out"),
        (lambda: cpu.weigh_leaf(H, 1.0, D), "g: expected the dtype of out"),
        (lambda: cpu.weigh_leaf(F[::2], 1.0, F[:2]), "g: .*without gaps"),
        (lambda: cpu.weigh_leaf(F, 1.0, READ_ONLY), "out: .*that can be written"),
        (lambda: cpu.weigh_leaf(SHARED[1:], 1.0, SHARED[:4]), "out: overlaps"),
        (lambda: cpu.add_leaves(F, D), "other: expected the dtype"),
        (lambda: cpu.add_leaves(F, F[:3].copy()), "other: expected the dtype"),
        (lambda: cpu.add_leaves(SHARED[:4], SHARED[1:]), "out: overlaps"),
        (lambda: cpu.add_leaves(F, F), "out: overlaps"),
        (lambda: cpu.add_leaves(READ_ONLY, F), "to: .*that can be written"),
        (lambda: cpu.average_leaves(D, 2.0, H), "out: expected the dtype of total"),
        (lambda: cpu.average_leaves(F, 2.0, D), "out: expected the dtype of total"),
        (lambda: cpu.average_leaves(F, 2.0, F[:3]), "out: expected as many elements"),
        (lambda: cpu.average_leaves(SHARED[1:], 2.0, SHARED[:4]), "out: overlaps"),
    ],
)
def test_what_does_not_fit(call, says):
    with pytest.raises(ValueError, match=says):
        call()
    assert not any(a.any() for a in (F, D, H, SHARED, READ_ONLY))
