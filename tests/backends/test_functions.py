"""exp, log, tanh, sigmoid: correctly rounded in float32, within 1 ulp in float64, the twin's bits
everywhere."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from function_cases import HARD, SPECIAL, any_bits, nearest_float32, truth
from prove_functions import tried

FUNCTIONS = ("exp", "log", "tanh", "sigmoid")
DTYPES = (np.float32, np.float64)
# None, one, below and above a vector, and more than one work item.
SIZES = (0, 1, 7, 8, 15, 16, 17, 33, 1000, 16384, 16385, 70001)

pytestmark = pytest.mark.usefixtures("settings")


def values(size, dtype, seed=1):
    """Any bits, and as many values where the functions are curved; the special ones first."""
    rng = np.random.default_rng(seed)
    curved = rng.standard_normal(size) * 10.0 ** rng.uniform(-6, 2, size)
    x = np.where(rng.integers(0, 2, size) == 0, any_bits(size, dtype, rng), curved.astype(dtype))
    with np.errstate(over="ignore"):
        special = np.array(SPECIAL).astype(dtype)[:size]
    x[: len(special)] = special
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernels_equal_the_twin(name, dtype, machine):
    function = getattr(ss, name)
    for size in SIZES:
        x = values(size, dtype)
        same_bits([function(x)], [function(x, backend="reference")])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_offset_and_nothing_outside_is_touched(name, dtype, isa):
    function, x = getattr(ss, name), values(1003, dtype)
    expected = function(x)
    for offset in range(17):
        room, taken = (np.full(x.size + 40, 7, dtype) for _ in range(2))
        taken[offset : offset + x.size] = x
        result = function(taken[offset : offset + x.size], out=room[16 - offset :][: x.size])
        same_bits([result], [expected])
        assert (room[: 16 - offset] == 7).all()
        assert (room[16 - offset + x.size :] == 7).all()
        same_bits([taken[offset : offset + x.size]], [x])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_place_and_in_any_layout(name, dtype, isa):
    function, x = getattr(ss, name), values(3 * 40 * 50, dtype).reshape(3, 40, 50)
    expected = function(x)
    for axes in ((0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)):
        turned = np.array(x.transpose(axes), order="C").transpose(np.argsort(axes))
        for backend in ("cpu", "reference"):
            result = function(turned, backend=backend)
            assert result.strides == turned.strides
            same_bits([result], [expected])
        assert function(turned, out=turned) is turned
        same_bits([turned], [expected])
    assert function(x.reshape(-1)[:1].reshape(())).shape == ()


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits(dtype, isa):
    infinity, nan = dtype(np.inf), dtype(np.nan)
    x = np.array([0, -0.0, infinity, -infinity, nan, -nan, -1], dtype)
    for backend in ("cpu", "reference"):
        found = {name: getattr(ss, name)(x, backend=backend) for name in FUNCTIONS}
        for name, expected in {
            "exp": [1, 1, infinity, 0, nan, nan, found["exp"][-1]],
            "log": [-infinity, -infinity, infinity, nan, nan, nan, nan],
            "tanh": [0, -0.0, 1, -1, nan, nan, found["tanh"][-1]],
            "sigmoid": [0.5, 0.5, 1, 0, nan, nan, found["sigmoid"][-1]],
        }.items():
            same_bits([found[name]], [np.array(expected, dtype)])
    assert not ss.log(np.ones(9, dtype)).any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hard_cases_are_rounded_to_the_nearest_float32(name, isa):
    """Those of all 2^32 that lie within 2^-48, relative, of the middle between two float32."""
    x = np.array(HARD[name], np.uint32).view(np.float32)
    assert len(x) >= 15
    found = getattr(ss, name)(x)
    expected = np.array([nearest_float32(truth(name, v)) for v in x.tolist()], np.float32)
    same_bits([found], [expected])
    # They are as hard as is said: the middle to the next float32 is no further away than that.
    for v, nearest in zip(x.tolist(), expected, strict=True):
        exact = truth(name, v)
        side = np.float32(np.inf if exact > Fraction(float(nearest)) else -np.inf)
        middle = (Fraction(float(nearest)) + Fraction(float(np.nextafter(nearest, side)))) / 2
        assert abs(exact - middle) < abs(middle) / 2**47


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_sample_of_all_float32_is_rounded_to_the_nearest(name, isa):
    """Every 1009th of all 2^32, from another start for each instruction set; prove_functions.py tries all."""
    first = ss.info()["isas"].index(isa)
    found = tried(name, np.arange(first, 2**32, 1009, dtype=np.uint64).astype(np.uint32))
    assert found.wrong == []


def test_that_trial_fails_on_the_wrong_float32(monkeypatch):
    x = np.arange(0x3F000000, 0x3F001000, dtype=np.uint32)
    monkeypatch.setattr(
        ss, "exp", lambda v: np.nextafter(np.exp(v.astype(float)).astype(np.float32), np.float32(9))
    )
    assert len(tried("exp", x).wrong) == len(x)
    hard = np.array(HARD["tanh"], np.uint32)
    monkeypatch.setattr(
        ss, "tanh", lambda v: np.nextafter(np.tanh(v.astype(float)).astype(np.float32), np.float32(9))
    )
    assert len(tried("tanh", hard).hard) == len(hard)
    assert len(tried("tanh", hard).wrong) > len(hard) / 2


@pytest.mark.parametrize(
    ("name", "low", "high"), [("exp", -746, 710), ("log", 0, 3), ("tanh", -20, 20), ("sigmoid", -746, 40)]
)
def test_float64_is_within_1_ulp(name, low, high):
    rng = np.random.default_rng(6)
    x = np.concatenate(
        [
            rng.uniform(low, high, 600),
            rng.uniform(-1, 1, 600),
            1 + rng.standard_normal(300) * 10.0 ** -rng.uniform(0, 16, 300),
            rng.standard_normal(300) * 10.0 ** -rng.uniform(0, 17, 300),
            any_bits(300, np.float64, rng),
        ]
    )
    x = x[np.isfinite(x) & ((x > 0) | (name != "log"))]
    found = getattr(ss, name)(x)
    worst = 0.0
    for v, y in zip(x.tolist(), found.tolist(), strict=True):
        if np.isfinite(y):
            exact = truth(name, v)
            worst = max(
                worst, float(abs(Fraction(y) - exact) / Fraction(np.spacing(abs(float(exact))).item()))
            )
    assert 0.5 < worst < 1.0 or name == "log"
    assert worst < 1.0


@pytest.mark.parametrize(
    ("dtype", "largest", "smallest"),
    [(np.float32, 88.72283, -103.972076), (np.float64, 709.782712893384, -745.1332191019411)],
)
def test_where_exp_overflows_and_underflows(dtype, largest, smallest, isa):
    last = np.array([largest, smallest], dtype)
    beyond = np.nextafter(last, last * 2)
    assert np.isfinite(ss.exp(last)).all()
    assert ss.exp(last)[1] == ss.sigmoid(last)[1] == np.finfo(dtype).smallest_subnormal
    assert ss.exp(beyond).tolist() == [np.inf, 0.0]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("x", "out", "error", "says"),
    [
        ([1.0], None, TypeError, r"x: got list, expected a NumPy array; make one of it"),
        (np.zeros(3, np.int64), None, TypeError, r"x: got dtype int64, expected native float32 or float64"),
        (np.ma.ones(3), None, TypeError, r"x: got MaskedArray"),
        (np.zeros((4, 4))[:, ::2], None, ValueError, r"x: strides .* leave gaps .*; pass x\.copy\(\)"),
        (np.broadcast_to(np.zeros(3), (2, 3)), None, ValueError, r"x: strides .* leave gaps or repeat"),
        (np.zeros(3), np.zeros(3, np.float32), TypeError, r"out: got dtype float32, expected x's float64"),
        (np.zeros(3), np.zeros(4), ValueError, r"out: got shape \(4,\), expected x's \(3,\)"),
        (np.zeros((3, 4)), np.zeros((3, 4), order="F"), ValueError, r"out: strides"),
        (np.zeros(3), np.frombuffer(bytes(24)), ValueError, r"out: the array is read-only"),
    ],
)
def test_errors(name, x, out, error, says):
    for backend in ("auto", "reference"):
        with pytest.raises(error, match=f"^{says}"):
            getattr(ss, name)(x, out, backend=backend)


def test_an_out_that_overlaps_a_part_of_x():
    room = np.ones(10)
    with pytest.raises(ValueError, match=r"^out: overlaps a part of x"):
        ss.exp(room[:9], out=room[1:])
    assert (room == 1).all()


def test_subclasses_are_seen_as_arrays():
    x = values(20, np.float64).reshape(4, 5)
    for backend in ("cpu", "reference"):
        same_bits([ss.exp(x.view(np.matrix), backend=backend)], [ss.exp(x)])


def test_the_oracle_knows_what_is_known():
    with localcontext() as context:
        context.prec = 30
        assert abs(Decimal(1).exp() - Decimal("2.71828182845904523536028747135")) < Decimal("1e-28")
    assert nearest_float32(Fraction(1, 3)) == np.float32(1 / 3)
    assert nearest_float32(1 + Fraction(1, 2**24)) == 1.0
    assert nearest_float32(1 + Fraction(3, 2**24)) == np.float32(1 + 2.0**-22)
    assert nearest_float32(Fraction(3, 2**150)) == 2.0**-148
    assert nearest_float32(Fraction(1, 2**150)) == 0
