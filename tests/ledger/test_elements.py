"""The first element that differs, and distances in units of last place."""

import numpy as np
import pytest

from samestep.ledger import first_element, most_ulps

FLOATS = (np.float16, np.float32, np.float64)


@pytest.mark.parametrize("dtype", FLOATS)
def test_neighbours_are_one_apart_over_the_whole_range(dtype):
    info = np.finfo(dtype)
    x = np.array([0, 1, -1, info.max / 2, -info.max, info.tiny, info.smallest_subnormal, 1.5, -3], dtype)
    y = np.nextafter(x, dtype(np.inf))
    assert most_ulps(x, y) == most_ulps(y, x) == 1
    for i in range(len(x)):
        assert first_element(x[i:], y[i:]).ulps == 1
    assert most_ulps(x, x) == 0
    assert first_element(x, x.copy()) is None


@pytest.mark.parametrize("dtype", FLOATS)
def test_distances_are_counts_of_numbers(dtype):
    between = np.array([-2, 3], dtype)
    bits = 8 * between.itemsize
    one, minus_one = dtype(1), dtype(-1)
    word = f"u{between.itemsize}"
    apart = int(one.view(word)) + (int(minus_one.view(word)) - (1 << (bits - 1))) + 1  # -0 and 0 are two
    assert most_ulps(np.array([one]), np.array([minus_one])) == apart
    assert most_ulps(np.array([dtype(0.0)]), np.array([dtype(-0.0)])) == 1


def test_the_first_element_is_the_first_in_c_order():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    y = x.copy()
    y[1, 0, 2], y[1, 2, 1] = 100, 101
    found = first_element(x, y)
    assert found.index == (1, 0, 2)
    assert found.values == (14.0, 100.0)
    assert found.differing == 2
    assert [int(bits, 2) for bits in found.bits] == [int(np.float32(v).view("u4")) for v in (14, 100)]
    assert first_element(x.T, y.T).index == (1, 2, 1)
    assert most_ulps(x[:, ::-1], y[:, ::-1]) == most_ulps(x, y) > 1


def test_nan():
    x, y = np.array([np.nan, 1], np.float32), np.array([np.nan, np.nan], np.float32)
    x.view("u4")[0] ^= 1  # another NaN
    found = first_element(x, y)
    assert found.index == (1,)
    assert found.ulps is None
    assert most_ulps(x[:1], y[:1]) == 0
    assert most_ulps(x, y) > 2**23


def test_halves_of_parameters_are_whole_numbers():
    x, y = np.array([5, 0xFFFF], np.uint16), np.array([5, 0], np.uint16)
    assert most_ulps(x, y) == 0xFFFF
    assert first_element(x, y).values == (65535.0, 0.0)


def test_a_number_without_axes():
    found = first_element(np.array(1.0), np.array(2.0))
    assert (found.index, found.values, found.ulps) == ((), (1.0, 2.0), 2**52)


@pytest.mark.parametrize(("shape", "dtype"), [((3,), np.float32), ((2,), np.float64)])
def test_arrays_of_another_form(shape, dtype):
    with pytest.raises(ValueError, match=r"^y: got .*, expected float32 of shape \(2,\)"):
        first_element(np.zeros(2, np.float32), np.zeros(shape, dtype))
    with pytest.raises(ValueError, match=r"^y: got"):
        most_ulps(np.zeros(2, np.float32), np.zeros(shape, dtype))
