"""Softmax with cross-entropy: the twin's bits, the true value, its derivative, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from function_cases import truth

DTYPES = (np.float32, np.float64)
SHAPES = [
    (1, 1),
    (1, 2),
    (3, 31),
    (2, 33),
    (64, 10),
    (5, 127),
    (7, 1000),
    (3, 1024),
    (4, 1025),
    (1000, 3),
    (2, 70001),
]

pytestmark = pytest.mark.usefixtures("settings")


def logits(shape, dtype, seed=1):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 2, shape)).astype(dtype)


def labels_of(shape, seed=2):
    return np.random.default_rng(seed).integers(0, shape[1], shape[0])


def results(z, labels, **how):
    loss, dz = ss.softmax_cross_entropy(z, labels, **how)
    return [np.array([loss]), dz]


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_equal_the_twin(dtype, machine):
    for shape in SHAPES:
        z, labels = logits(shape, dtype), labels_of(shape)
        same_bits(results(z, labels), results(z, labels, backend="reference"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_and_nan_stay_in_their_rows(dtype, isa):
    nan, infinity = np.nan, np.inf
    z = logits((9, 130), dtype)
    plain = results(z, labels_of(z.shape))[1]
    z[1, 0], z[2, 7], z[3, 129], z[4, 5], z[5, 66] = nan, nan, nan, infinity, -infinity
    z[6] = -infinity
    z[7, ::2] = -0.0
    z[7, 1::2] = 0.0
    found = results(z, labels_of(z.shape))
    same_bits(found, results(z, labels_of(z.shape), backend="reference"))
    assert np.isnan(found[0]).all()
    assert [bool(np.isnan(row).all()) for row in found[1]] == [i in (1, 2, 3, 4, 6) for i in range(9)]
    same_bits([found[1][[0, 8]]], [plain[[0, 8]]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_offset_and_in_place(dtype, isa):
    z, labels = logits((6, 77), dtype), labels_of((6, 77))
    expected = results(z, labels)
    for offset in range(17):
        room = np.full(z.size + 40, 7, dtype)
        taken = room[offset : offset + z.size].reshape(z.shape)
        taken[...] = z
        same_bits(results(taken, labels, out=taken), expected)
        assert (room[:offset] == 7).all()
        assert (room[offset + z.size :] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_each_other(dtype):
    """The gradient of 8 rows is that of each row alone, divided by 8."""
    z, labels = logits((8, 500), dtype), labels_of((8, 500))
    together = results(z, labels)[1]
    alone = [results(z[i : i + 1], labels[i : i + 1])[1] for i in range(8)]
    same_bits([together], [(np.concatenate(alone) / 8).astype(dtype)])


@pytest.mark.parametrize(("dtype", "digits"), [(np.float32, 2e-6), (np.float64, 2e-14)])
def test_the_loss_is_true(dtype, digits):
    z = (np.random.default_rng(3).standard_normal((3, 40)) * 4).astype(dtype)
    labels = labels_of(z.shape)
    exact = Fraction(0)
    for row, label in zip(z.tolist(), labels.tolist(), strict=True):
        total = sum(truth("exp", v) for v in row)
        exact += Fraction(math.log(total)) - Fraction(row[label])
    assert ss.softmax_cross_entropy(z, labels)[0] == pytest.approx(float(exact / 3), rel=digits)


def test_the_gradient_is_the_derivative():
    z, labels, h = logits((4, 6), np.float64) / 30, labels_of((4, 6)), 1e-6
    _, dz = ss.softmax_cross_entropy(z, labels)
    for i in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[i] += h
        down[i] -= h
        slope = (ss.softmax_cross_entropy(up, labels)[0] - ss.softmax_cross_entropy(down, labels)[0]) / (
            2 * h
        )
        assert dz[i] == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("kind", ["i1", "u1", "<i2", ">i4", "i8", "u8"])
def test_labels_of_any_integer_type(kind):
    z, labels = logits((5, 9), np.float32), labels_of((5, 9))
    strided = np.repeat(labels.astype(kind), 2)[::2]
    same_bits(results(z, strided), results(z, labels))


Z = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("z", "labels", "out", "error", "says"),
    [
        ([[1.0]], [0], None, TypeError, r"z: got list, expected a NumPy array"),
        (Z[0], np.array([0]), None, ValueError, r"z: got shape \(3,\), expected at least one row"),
        (Z[:0], np.zeros(0, int), None, ValueError, r"z: got shape \(0, 3\), expected at least one row"),
        (Z[:, :0], np.zeros(2, int), None, ValueError, r"z: got shape \(2, 0\), expected at least one row"),
        (Z.T, np.zeros(3, int), None, ValueError, r"z: strides .*ascontiguousarray"),
        (Z, [0, 1], None, TypeError, r"labels: got list, expected an array of whole numbers"),
        (Z, np.zeros(2), None, TypeError, r"labels: got dtype float64, .*astype"),
        (Z, np.zeros(2, bool), None, TypeError, r"labels: got dtype bool, expected whole numbers"),
        (Z, np.zeros((2, 3), int), None, ValueError, r"labels: got shape \(2, 3\), expected \(2,\)"),
        (Z, np.array([0, 3]), None, ValueError, r"labels\[1\]: got 3, expected a column of z, 0 to 2"),
        (Z, np.array([-1, 0]), None, ValueError, r"labels\[0\]: got -1, expected a column of z, 0 to 2"),
        (Z, np.array([2**64 - 1, 0], "u8"), None, ValueError, r"labels\[0\]: got 18446744073709551615"),
        (Z, np.array([0, 1]), np.zeros((2, 3)), TypeError, r"out: got dtype float64"),
        (Z, np.array([0, 1]), np.zeros((3, 2), np.float32), ValueError, r"out: got shape \(3, 2\)"),
    ],
)
def test_errors(z, labels, out, error, says):
    for backend in ("auto", "reference"):
        with pytest.raises(error, match=f"^{says}"):
            ss.softmax_cross_entropy(z, labels, out=out, backend=backend)
    assert not Z.any()


def test_an_out_that_overlaps_the_labels():
    room = np.zeros(6, np.int64)
    with pytest.raises(ValueError, match="out: overlaps labels"):
        ss.softmax_cross_entropy(np.zeros((2, 3)), room[:2], out=room.view(np.float64).reshape(2, 3))
