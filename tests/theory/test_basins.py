"""Where noise takes stochastic gradient descent (A12): lr/B is a temperature, not a width."""

import functools
import itertools
import math

import numpy as np
import pytest

import samestep as ss
from samestep.problems import MSE
from samestep.theory import DoubleWell, Well, batch_gradient_variance, double_well, stationary_variance
from text_problems import small


@functools.cache
def share(lr, batch_size):
    return double_well(lr, batch_size)


def test_the_landscape():
    well = DoubleWell()
    assert well.barrier == pytest.approx(-0.0606, abs=5e-5)
    assert well.value(well.barrier) - well.value(-0.5) == pytest.approx(0.6992, abs=5e-5)
    w = np.linspace(-2, 3, 501)
    slopes = (well.value(w + 1e-6) - well.value(w - 1e-6)) / 2e-6
    assert well.gradient(w) == pytest.approx(slopes, abs=1e-7)
    with np.errstate(over="raise"):
        assert well.gradient(np.array([-100.0, 100.0])) == pytest.approx([-101.0, 99.0])


@pytest.mark.more
@pytest.mark.parametrize(
    ("lr", "batch_size", "expected"),
    [
        (0.01, 8, 0.0),
        (0.01, 1, 0.047),
        (0.02, 2, 0.0415),
        (0.02, 1, 0.555),
        (0.04, 2, 0.5845),
        (0.03, 1, 0.625),
        (0.04, 1, 0.6675),
        (0.06, 1, 0.6975),
    ],
)
def test_shares_in_the_wide_basin(lr, batch_size, expected):
    # A particle or two of the 2000 may cross the barrier at another rounding of exp.
    assert share(lr, batch_size) == pytest.approx(expected, abs=0.002)


@pytest.mark.more
def test_the_share_grows_with_lr_over_batch_size():
    shares = [share(lr, B) for lr, B in [(0.01, 8), (0.01, 1), (0.02, 1), (0.03, 1), (0.04, 1), (0.06, 1)]]
    assert (np.diff(shares) > 0).all()


@pytest.mark.parametrize(("one", "other"), [((0.01, 1), (0.02, 2)), ((0.02, 1), (0.04, 2))])
def test_only_the_ratio_matters(one, other):
    assert share(*one) == pytest.approx(share(*other), abs=0.05)


def test_until_the_steps_grow_too_long_for_the_sharp_well():
    """lr h = 0.64: the steps themselves already add 0.13 to the share."""
    assert share(0.08, 8) - share(0.01, 1) == pytest.approx(0.13, abs=0.01)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.16, 0.5247), (0.24, 0.5998), (0.32, 0.6349), (0.48, 0.6677)]
)
def test_boltzmann(temperature, expected):
    """T = lr s^2/(2B) = 8 lr/B: what the shares tend to."""
    assert DoubleWell().boltzmann(temperature) == pytest.approx(expected, abs=5e-5)
    assert share(temperature / 8, 1) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.2])
def test_between_equally_deep_wells_the_temperature_does_not_matter(temperature):
    even = DoubleWell(Well(-1.0, 16.0), Well(1.0, 2.0), 0.15)
    assert even.boltzmann(temperature) == pytest.approx(0.7388, abs=5e-4)
    assert 1 / (1 + math.sqrt(2 / 16)) == pytest.approx(0.7388, abs=5e-5)


@pytest.mark.parametrize(("lr", "end"), [(0.124, -1.0), (0.126, None), (0.5, 1.0)])
def test_without_noise_it_stays_where_it_starts_up_to_2_over_the_curvature(lr, end):
    """2/16 = 0.125: below it even a sharp minimum holds, above it the steps leave."""
    well = DoubleWell(Well(-1.0, 16.0), Well(1.0, 2.0, 0.3), 0.15)
    w = np.array([-1.0 + 1e-3])
    opt, farthest = ss.SGD(w, lr=lr), 0.0
    for _ in range(2000):
        opt.step(well.gradient(w))
        farthest = max(farthest, abs(w[0] + 1.0))
    if end is None:
        assert farthest > 0.1
    else:
        assert w[0] == pytest.approx(end, abs=1e-3)


@pytest.mark.parametrize(
    ("lr", "batch_size", "momentum"), [(0.05, 1, 0.0), (0.2, 4, 0.0), (0.05, 1, 0.5), (0.1, 2, 0.9)]
)
def test_stationary_variance(lr, batch_size, momentum):
    h, noise_variance = 2.0, 2.0
    expected = stationary_variance(lr, batch_size, h, noise_variance, momentum)
    w = np.zeros(4000)
    opt, random, squares = ss.Momentum(w, lr=lr, momentum=momentum), np.random.RandomState(0), []
    for step in range(1000):
        opt.step(h * w + math.sqrt(noise_variance / batch_size) * random.standard_normal(4000))
        if step >= 300:
            squares.append(np.mean(w * w))
    assert np.mean(squares) == pytest.approx(expected, rel=0.01)


def test_variance_formula():
    assert stationary_variance(0.05, 1, 2.0, 2.0) == pytest.approx(0.0263158, abs=5e-8)
    # Noise as large as the curvature: E L / Tr H = h var/2 / h -> lr/(4B).
    assert stationary_variance(1e-6, 3, 2.0, 2.0) / 2 == pytest.approx(1e-6 / 12, rel=1e-5)
    assert stationary_variance(1.0, 1, 2.0, 2.0) == math.inf
    assert stationary_variance(1.4, 1, 2.0, 2.0, momentum=0.5) < math.inf
    assert stationary_variance(1.5, 1, 2.0, 2.0, momentum=0.5) == math.inf


def test_the_variance_is_that_of_least_squares_under_one_row_at_a_time():
    """E[L - L*] = h var/2 with s^2 the variance of a row's gradient: minimize() has the same noise."""
    random = np.random.RandomState(3)
    y = random.standard_normal(50)
    problem = MSE(np.ones((50, 1)), y, "half_mean")
    run = ss.minimize(
        problem,
        np.array([y.mean()]),
        lambda w: ss.SGD(w, lr=0.1),
        steps=40_000,
        batch_size=1,
        sampling="with_replacement",
        record_every=4,
    )
    expected = stationary_variance(0.1, 1, 1.0, float(np.var(y))) / 2
    assert np.mean(run.losses[50:]) - problem.optimum == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("scale", ["half_mean", "mean", "half_sum", "sum"])
def test_the_variance_of_a_batch_is_that_of_all_batches(scale):
    """B13 by enumeration; a batch of the sums' scales is m times the mean of its rows."""
    whole, w = small()
    problem = MSE(whole.Phi, whole.y, scale)
    rows = np.stack([problem.gradient(w, np.array([i])) for i in range(6)])
    for m in (1, 2, 3):
        times = m * m if "sum" in scale else 1
        for replacement, batches in (
            (True, itertools.product(range(6), repeat=m)),
            (False, itertools.combinations(range(6), m)),
        ):
            drawn = np.array([problem.gradient(w, np.array(batch)) for batch in batches])
            expected = np.mean(np.sum((drawn - drawn.mean(axis=0)) ** 2, axis=1))
            found = batch_gradient_variance(rows, m, replacement)
            assert type(found) is float
            assert times * found == pytest.approx(expected, rel=1e-12)


def test_the_variance_of_a_batch_of_the_texts():
    problem, w = small()
    rows = np.stack([problem.gradient(w, np.array([i])) for i in range(6)])
    found = batch_gradient_variance(rows, np.array([1, 2, 3]))
    assert found == pytest.approx([1.06307086, 0.53153543, 0.35435695], abs=5e-9)
    found = batch_gradient_variance(rows, np.array([1, 2, 3, 6]), replacement=False)
    assert found == pytest.approx([1.06307086, 0.42522834, 0.21261417, 0.0], abs=5e-9)
    assert batch_gradient_variance(np.ones((1, 2)), 1, replacement=False) == 0.0


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"gradients: got shape \(3,\), expected \(N, p\)", lambda: batch_gradient_variance(np.ones(3), 1)),
        ("gradients: got NaN", lambda: batch_gradient_variance(np.full((2, 2), np.nan), 1)),
        ("m: got 0, expected a whole number, 1 or more", lambda: batch_gradient_variance(np.eye(2), 0)),
        (r"m: got 1\.5", lambda: batch_gradient_variance(np.eye(2), 1.5)),
        ("m: got 3, expected a whole number, 1 to 2, ", lambda: batch_gradient_variance(np.eye(2), 3, False)),
        (r"sharp, wide: got centers 1.0, -1.0", lambda: DoubleWell(Well(1.0, 1.0), Well(-1.0, 1.0))),
        (r"softness: got 0\.0", lambda: DoubleWell(softness=0.0)),
        (r"wide\.curvature: got -1\.0", lambda: DoubleWell(wide=Well(1.0, -1.0))),
        (r"wide: got Well\(.*no second well", lambda: DoubleWell(wide=Well(1.0, 1.0, 9.5))),
        (r"sharp: got Well\(.*no second well", lambda: DoubleWell(sharp=Well(-0.5, 8.0, math.nan))),
        (r"temperature: got 0\.0", lambda: DoubleWell().boltzmann(0.0)),
        (r"temperature: got inf", lambda: DoubleWell().boltzmann(math.inf)),
        (r"lr: got -0\.1", lambda: double_well(-0.1, 1)),
        (r"lr: got inf", lambda: double_well(math.inf, 1)),
        (r"batch_size: got 0", lambda: double_well(0.1, 0)),
        (r"noise: got nan", lambda: double_well(0.1, 1, noise=math.nan)),
        (r"momentum: got 1\.0", lambda: stationary_variance(0.1, 1, 1.0, 1.0, 1.0)),
        (r"curvature: got 0\.0", lambda: stationary_variance(0.1, 1, 0.0, 1.0)),
        (r"noise_variance: got -1\.0", lambda: stationary_variance(0.1, 1, 1.0, -1.0)),
    ],
)
def test_bad_arguments(message, call):
    with pytest.raises(ValueError, match=message):
        call()
