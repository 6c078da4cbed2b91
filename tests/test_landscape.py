"""What high-dimensional losses look like (B6 - B11): random Hessians, spin glass, deep linear networks."""

import functools
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.optimize import brentq

import samestep as ss
from samestep.theory.landscape import (
    DeepLinear,
    SpinGlass,
    coin_minimum_probability,
    deep_linear,
    goe_eigenvalues,
    goe_minimum_frequency,
    goe_minimum_probability,
    mode_strength,
    pspin_critical_points,
    pspin_descent,
    pspin_index,
    semicircle_density,
    semicircle_fraction,
)


class TestRandomHessians:
    @pytest.mark.parametrize(("d", "exact"), [(1, 0.5), (2, 0.1464466), (3, 0.0249209)])
    def test_a_minimum_is_rarer_than_coins_say(self, d, exact):
        count = 100_000
        assert goe_minimum_probability(d) == pytest.approx(exact, abs=5e-8)
        spread = (exact * (1 - exact) / count) ** 0.5
        assert goe_minimum_frequency(d, count) == pytest.approx(exact, abs=4 * spread)
        assert (goe_minimum_probability(d) < coin_minimum_probability(d)) == (d > 1)

    @pytest.mark.parametrize(("d", "expected"), [(4, 0.00247), (5, 1.45e-4)])
    def test_and_ever_rarer(self, d, expected):
        count = 100_000
        band = 4 * (expected / count) ** 0.5
        assert goe_minimum_frequency(d, count) == pytest.approx(expected, abs=band)
        assert expected + band < coin_minimum_probability(d) / 20

    def test_the_spectrum_fills_a_semicircle(self):
        eigenvalues = goe_eigenvalues(400, seed=2024)
        assert eigenvalues[[0, -1]] == pytest.approx([-1.9556, 2.0140], abs=5e-5)
        assert np.mean(eigenvalues**2) == pytest.approx(1.00567, abs=5e-6)
        assert np.mean(eigenvalues**4) == pytest.approx(2.03059, abs=5e-6)
        x = np.linspace(-2, 2, 100_001)
        density = semicircle_density(x)
        for power, moment in ((0, 1.0), (2, 1.0), (4, 2.0)):
            assert trapezoid(density * x**power, x) == pytest.approx(moment, abs=1e-6)

    @pytest.mark.parametrize(
        ("shift", "expected", "theory"),
        [
            (-1.5, 0.0750, 0.0721),
            (-1.0, 0.2000, 0.1955),
            (-0.5, 0.3450, 0.3425),
            (0.0, 0.5025, 0.5),
            (0.5, 0.6600, 0.6575),
            (1.0, 0.8075, 0.8045),
            (1.5, 0.9275, 0.9279),
        ],
    )
    def test_the_weighted_coin(self, shift, expected, theory):
        fraction = np.mean(goe_eigenvalues(400, seed=2024) + shift > 0)
        assert fraction == pytest.approx(expected, abs=1e-9)
        assert semicircle_fraction(shift / 2) == pytest.approx(theory, abs=5e-5)
        assert fraction == pytest.approx(semicircle_fraction(shift / 2), abs=0.01)

    def test_beyond_the_semicircle_all_or_none_are_positive(self):
        assert semicircle_fraction(-1.0) == semicircle_fraction(-7.0) == 0.0
        assert semicircle_fraction(1.0) == semicircle_fraction(7.0) == 1.0
        assert np.isnan(semicircle_fraction(np.nan))

    @pytest.mark.parametrize(
        ("message", "call"),
        [
            ("d: got 4, expected 1, 2 or 3", lambda: goe_minimum_probability(4)),
            ("d: got 0", lambda: coin_minimum_probability(0)),
            ("count: got 0", lambda: goe_minimum_frequency(2, 0)),
            ("n: got 0", lambda: goe_eigenvalues(0)),
            ("radius: got 0", lambda: semicircle_density(0.0, radius=0)),
        ],
    )
    def test_counts_that_are_none(self, message, call):
        with pytest.raises(ValueError, match=message):
            call()


@functools.cache
def newton_points():
    """Energies and indices that Newton finds in six landscapes of 12 spins."""
    found = [pspin_critical_points(12, seed) for seed in range(6)]
    return np.concatenate([f.energy for f in found]), np.concatenate([f.index for f in found])


class TestSpinGlass:
    def test_the_index_grows_with_the_energy(self):
        energy, index = newton_points()
        # Which starts converge in time is decided by rounding for a few of them.
        assert len(energy) == pytest.approx(986, abs=5)
        assert np.corrcoef(energy, index)[0, 1] == pytest.approx(0.935, abs=0.01)

    @pytest.mark.parametrize(
        ("low", "expected", "theory"),
        [
            (-1.0, 0.240, 0.228),
            (-0.6, 0.376, 0.362),
            (-0.2, 0.499, 0.500),
            (0.2, 0.627, 0.646),
            (0.6, 0.762, 0.782),
        ],
    )
    def test_as_the_shifted_semicircle_says(self, low, expected, theory):
        energy, index = newton_points()
        inside = (energy >= low) & (energy < low + 0.4)
        assert index[inside].mean() == pytest.approx(expected, abs=0.01)
        law = np.mean([pspin_index(e) for e in energy[inside]])
        assert law == pytest.approx(theory, abs=0.005)
        assert index[inside].mean() == pytest.approx(law, abs=0.03)

    def test_newton_finds_saddles_and_gradient_descent_low_minima(self):
        """B10, B11."""
        energy, index = newton_points()
        assert (index > 0).all()
        assert energy.mean() == pytest.approx(0.02, abs=0.01)
        ends = np.concatenate([pspin_descent(12, seed) for seed in range(6)])
        assert ends.mean() == pytest.approx(-1.417, abs=0.005)
        assert [ends.max(), ends.min()] == pytest.approx([-0.963, -1.783], abs=0.002)

    def test_gradient_descent_ends_at_minima(self):
        glass = SpinGlass(12)
        x = glass.starts(20)
        opt = ss.SGD(x, lr=0.05)
        for _ in range(3000):
            g = glass.gradient(x)
            opt.step(g - (g * x).sum(axis=1, keepdims=True) / 12 * x)
            x[...] = glass.on_sphere(x)
        assert np.abs(glass.gradient(x) - 3 * glass.energy(x)[:, None] * x).max() < 1e-6
        assert (glass.index(x) == 0).all()


def test_spin_glass_derivatives():
    glass, h = SpinGlass(5, seed=3), 1e-6
    x = glass.starts(1)
    for i, e in enumerate(np.eye(5)):
        slope = (glass.energy(x + h * e) - glass.energy(x - h * e)) * 5 / (2 * h)
        assert glass.gradient(x)[:, i] == pytest.approx(slope, abs=1e-8)
        column = (glass.gradient(x + h * e) - glass.gradient(x - h * e)) / (2 * h)
        assert glass.hessian(x)[:, i] == pytest.approx(column, abs=1e-8)
    with pytest.raises(ValueError, match="n: got 1"):
        SpinGlass(1)
    with pytest.raises(ValueError, match=r"x: got shape \(5,\), expected \(rows, 5\)"):
        glass.energy(x[0])


NETWORK = DeepLinear([3.0, 2.0, 1.0])


@functools.cache
def starts_and_minima():
    starts = 0.3 * np.random.RandomState(0).standard_normal((50, 2, 3, 3))
    return starts, deep_linear(NETWORK, starts, lr=0.02, steps=6000)


class TestDeepLinear:
    def test_the_gradient_is_the_derivative_of_the_loss(self):
        W, h = np.random.RandomState(1).standard_normal((2, 3, 3)), 1e-6
        g = NETWORK.gradient(W)
        for i in np.ndindex(W.shape):
            e = np.zeros_like(W)
            e[i] = h
            assert g[i] == pytest.approx((NETWORK.loss(W + e) - NETWORK.loss(W - e)) / (2 * h), abs=1e-7)

    def test_the_hessian_is_the_derivative_of_the_gradient(self):
        W, h = np.random.RandomState(2).standard_normal((2, 3, 3)), 1e-6
        rows = [
            (NETWORK.gradient(W + e) - NETWORK.gradient(W - e)).ravel() / (2 * h)
            for e in h * np.eye(18).reshape(-1, 2, 3, 3)
        ]
        assert NETWORK.hessian_eigenvalues(W) == pytest.approx(np.linalg.eigvalsh(rows), abs=1e-7)

    @pytest.mark.parametrize(
        ("modes", "loss", "negative", "lowest"),
        [
            ([], 7.0, 9, -3),
            ([0], 2.5, 4, -2),
            ([1], 5.0, 5, -3),
            ([2], 6.5, 6, -3),
            ([0, 1], 0.5, 1, -1),
            ([0, 2], 2.0, 2, -2),
            ([1, 2], 4.5, 3, -3),
            ([0, 1, 2], 0.0, 0, 0),
        ],
    )
    def test_critical_points(self, modes, loss, negative, lowest):
        W = NETWORK.critical_point(modes)
        assert NETWORK.loss(W) == pytest.approx(loss, abs=1e-14)
        assert np.abs(NETWORK.gradient(W)).max() < 1e-14
        eigenvalues = NETWORK.hessian_eigenvalues(W)
        assert (eigenvalues < -1e-9).sum() == negative
        assert eigenvalues[0] == pytest.approx(lowest, abs=1e-12)
        if len(modes) == 3:  # along the minima: W1 -> A W1, W2 -> W2 A^-1
            assert (np.abs(eigenvalues) < 1e-9).sum() == 9

    def test_descent_ends_at_a_global_minimum_from_anywhere(self):
        _, ends = starts_and_minima()
        assert NETWORK.loss(ends).max() < 1.5e-29

    def test_the_minima_are_not_connected(self):
        """Both signs of det W1 occur; on the way from one to the other W1 is singular, and L >= 1/2."""
        _, ends = starts_and_minima()
        signs = np.sign(np.linalg.det(ends[:, 0]))
        assert set(signs) == {-1.0, 1.0}
        one, other = ends[signs < 0][0, 0], ends[signs > 0][0, 0]
        share = brentq(lambda s: np.linalg.det((1 - s) * one + s * other), 0, 1)
        W1 = (1 - share) * one + share * other
        best_W2 = (np.linalg.pinv(W1.T, rcond=1e-9) @ NETWORK.target).T
        assert NETWORK.loss(np.stack([W1, best_W2])) >= 0.5 - 1e-9

    def test_a_mode_is_learned_along_a_sigmoid(self):
        """a' = 2a (s - a); the steps follow it to order 1."""
        network, errors = DeepLinear([3.0]), []
        for lr in (1e-3, 5e-4):
            W, a, steps = np.full((2, 1, 1), 0.001**0.5), [], round(3 / lr)
            opt = ss.SGD(W, lr=lr)
            for _ in range(steps):
                a.append(W[0, 0, 0] * W[1, 0, 0])
                opt.step(network.gradient(W))
            errors.append(np.abs(a - mode_strength(lr * np.arange(steps), 3.0, 0.001)).max())
        assert errors == pytest.approx([6.71e-3, 3.35e-3], rel=2e-3)

    def test_the_imbalance_is_conserved_to_order_1(self):
        starts, _ = starts_and_minima()
        drifts = []
        for lr in (0.01, 0.005, 0.0025):
            ends = deep_linear(NETWORK, starts, lr, round(10 / lr))
            change = NETWORK.imbalance(ends) - NETWORK.imbalance(starts)
            drifts.append(np.linalg.norm(change, axis=(1, 2)).mean())
        assert drifts[0] < 0.02
        assert [a / b for a, b in pairwise(drifts)] == pytest.approx([2.0, 2.0], abs=0.02)

    @pytest.mark.parametrize("strengths", [[], [1.0, 1.0], [1.0, 0.0], [-1.0], [np.nan, 1.0], [np.inf]])
    def test_strengths_that_are_none(self, strengths):
        with pytest.raises(
            ValueError, match=r"strengths: got .*, expected different positive finite numbers"
        ):
            DeepLinear(strengths)

    def test_shapes_that_do_not_fit(self):
        for function in (NETWORK.loss, NETWORK.gradient, NETWORK.hessian_eigenvalues, NETWORK.imbalance):
            with pytest.raises(ValueError, match=r"W: got shape \(2, 2, 2\), expected \(\.\.\., 2, 3, 3\)"):
                function(np.zeros((2, 2, 2)))

    def test_curves_that_are_none(self):
        with pytest.raises(ValueError, match=r"strength, start: got 3\.0, 0\.0"):
            mode_strength(1.0, 3.0, 0.0)
