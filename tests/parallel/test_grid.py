"""Sums on a grid: exact, and one result for every order and for every way of handing values to workers."""

from fractions import Fraction

import numpy as np
import pytest

from samestep.parallel import grid_sum, run_threads


def by_threads(values, size, order, **options):
    """What each of so many workers finds; worker r has values r, r + size, ... in a drawn order."""
    values = np.asarray(values)[np.random.default_rng(order).permutation(len(values))]

    def one(group):
        def all_reduce(words):
            return sum(group.all_gather(words, [3] * group.size))

        try:
            return grid_sum(values[group.rank :: group.size], all_reduce, **options)
        except ValueError as error:
            return str(error)

    return run_threads(size, one)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e9])
@pytest.mark.parametrize("grid", [2.0**-20, 2.0**-10, 1.0])
def test_one_exact_sum_for_any_order_and_number_of_workers(grid, scale):
    values = np.random.default_rng(0).standard_normal(1000) * scale
    exact = Fraction(grid) * sum(round(Fraction(v) / Fraction(grid)) for v in values)  # to even, as rint
    found = {x for size in (1, 2, 3, 8) for x in by_threads(values, size, size, grid=grid)}
    assert found == {float(exact)}
    assert abs(exact - sum(map(Fraction, values))) <= len(values) * Fraction(grid) / 2
    assert len({float(np.sum(np.random.default_rng(i).permutation(values))) for i in range(20)}) > 1


def test_ties_go_to_even_and_halves_of_the_grid_are_lost():
    for values, expected in (([0.5], 0.0), ([1.5], 2.0), ([-0.5, -1.5], -2.0), ([0.25] * 8, 0.0), ([], 0.0)):
        assert grid_sum(values, lambda words: words, grid=1.0) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_types_of_values(dtype):
    assert grid_sum(np.array([[3, -5], [7, 100]], dtype), lambda words: words) == 105.0


def test_no_word_overflows():
    largest = np.nextafter(2.0**62, 0)
    values = np.array([largest] * 1000 + [-largest] * 999 + [-1.0, -3.0])
    assert by_threads(values, 3, 0, grid=1.0) == [float(int(largest) - 4)] * 3
    assert by_threads(np.full(999, -largest), 2, 0, grid=1.0) == [float(-999 * int(largest))] * 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**42, -(2.0**42)])
def test_what_does_not_fit_is_an_error_on_every_worker(bad):
    values = np.ones(9)
    values[4] = bad
    found = by_threads(values, 3, 0)
    assert found == [found[0]] * 3
    assert found[0].startswith("values: 1 of all workers' are infinite, NaN or beyond 4.39805e+12")
    assert isinstance(by_threads(values, 3, 0, grid=1.0)[0], float) == (np.abs(bad) < np.inf)


@pytest.mark.parametrize(
    ("values", "grid", "error", "message"),
    [
        ([1.0], 0.1, ValueError, "grid: got 0.1, expected a power of two"),
        ([1.0], 0.0, ValueError, "grid: got 0.0, expected a power of two"),
        ([1.0], -1.0, ValueError, "grid: got -1.0, expected a finite number, 0 or more"),
        (["a"], 1.0, TypeError, "values: got <U1, expected numbers"),
        ([True], 1.0, TypeError, "values: got bool, expected numbers"),
        ([1j], 1.0, TypeError, "values: got complex128, expected numbers"),
    ],
)
def test_arguments(values, grid, error, message):
    with pytest.raises(error, match=message):
        grid_sum(values, lambda words: words, grid=grid)
