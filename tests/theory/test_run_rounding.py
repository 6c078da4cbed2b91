"""check_run at the borders of the dtype: lr rounded to float32, and a loss that overflows at w0."""

from functools import partial

import numpy as np
import pytest

import samestep as ss
from samestep import theory


def normal_table(seed, dtype=np.float32):
    """A least-squares problem of random numbers, 8 rows and 3 columns."""
    rng = np.random.default_rng(seed)
    return ss.problems.MSE(rng.standard_normal((8, 3)).astype(dtype), rng.standard_normal(8).astype(dtype))


def bowl(loss, dtype=np.float64, optimum=0.0):
    return ss.problems.Function(
        loss,
        lambda w: w.copy(),
        3,
        beta=1.0,
        mu=1.0,
        optimum=optimum,
        minimizer=np.zeros(3),
        convex=True,
        dtype=dtype,
    )


class TestRoundedStepSize:
    """The float32 nearest to 1/beta lies above 1/beta for every second beta."""

    @pytest.mark.parametrize(
        ("make", "times_beta", "bounds"),
        [
            (ss.SGD, 1.0, ["gap LD2/(4t+2)", "gradient", "descent"]),
            (ss.SGD, 2.0, ["descent"]),
            (partial(ss.Momentum, momentum=0.99), 2 * (1 - 0.99), ["start"]),
            (partial(ss.NAG, momentum=0.9), 1.0, ["start"]),
        ],
    )
    def test_the_limit_itself_is_promised(self, make, times_beta, bounds):
        above = 0
        for seed in range(30):
            problem = normal_table(seed)
            lr = times_beta / problem.beta
            above += float(np.float32(lr)) > lr
            done = ss.minimize(problem, np.zeros(3, np.float32), partial(make, lr=lr), steps=60)
            check = theory.check_run(problem, done)
            assert check.ok is True, str(check)
            for name in bounds:
                assert check[name].missing == ""
        assert 5 < above < 25

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_a_little_above_it_is_not(self, dtype):
        problem = normal_table(0, dtype)
        lr = (1.0 + 4.0 * float(np.finfo(dtype).eps)) / problem.beta
        done = ss.minimize(problem, np.zeros(3, dtype), partial(ss.SGD, lr=lr), steps=5)
        assert theory.check_run(problem, done)["gradient"].missing == "lr <= 1/beta"


MAKERS = [
    partial(ss.SGD, lr=0.5),
    partial(ss.Momentum, lr=0.5, momentum=0.3),
    partial(ss.NAG, lr=0.5, momentum=0.3),
    partial(ss.Adam, lr=0.5),
]


class TestLossThatOverflowsAtTheStart:
    @pytest.mark.parametrize("make", MAKERS)
    @pytest.mark.parametrize(("dtype", "far"), [(np.float32, 1e25), (np.float64, 1e200)])
    def test_infinity_promises_nothing(self, dtype, far, make):
        with np.errstate(over="ignore"):
            problem = bowl(lambda w: 0.5 * np.dot(w, w), dtype)
            done = ss.minimize(problem, np.full(3, far, dtype), make, steps=50)
        check = theory.check_run(problem, done)
        assert done.losses[0] == np.inf
        assert check.ok is None
        assert all("a finite loss at w0" in bound.missing for bound in check.bounds)
        assert str(check)

    @pytest.mark.parametrize("make", MAKERS)
    def test_nan_promises_nothing(self, make):
        problem = bowl(lambda w: float("nan") if w[0] > 10 else 0.5 * float(w @ w))
        done = ss.minimize(problem, np.full(3, 20.0), make, steps=50)
        check = theory.check_run(problem, done)
        assert np.isnan(done.losses[0])
        assert check.ok is None

    @pytest.mark.parametrize("make", MAKERS)
    def test_from_just_below_it_the_bounds_hold(self, make):
        problem = bowl(lambda w: 0.5 * float(w @ w))
        done = ss.minimize(problem, np.full(3, 1e153), make, steps=50)
        assert np.isfinite(done.losses[0])
        assert theory.check_run(problem, done).ok is True
