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


class TestOtherSizes:
    """p spins that interact, targets that are not square, layers between of any width."""

    @pytest.mark.parametrize("p", [2, 3, 4, 5])
    def test_spin_glass_derivatives(self, p):
        glass, h = SpinGlass(5, seed=3, p=p), 1e-6
        x = glass.starts(2)
        assert glass.J.shape == (5,) * p
        assert np.allclose(glass.J, glass.J.swapaxes(0, -1))
        assert (glass.gradient(x) * x).sum(axis=1) == pytest.approx(p * 5 * glass.energy(x))  # Euler
        for i, e in enumerate(np.eye(5)):
            slope = (glass.energy(x + h * e) - glass.energy(x - h * e)) * 5 / (2 * h)
            assert glass.gradient(x)[:, i] == pytest.approx(slope, abs=1e-7)
            column = (glass.gradient(x + h * e) - glass.gradient(x - h * e)) / (2 * h)
            assert glass.hessian(x)[:, i] == pytest.approx(column, abs=1e-7)

    def test_the_energy_is_that_of_the_sum(self):
        glass = SpinGlass(4, seed=1, p=4)
        x = glass.starts(1)
        H = np.einsum("ijkl,i,j,k,l->", glass.J, *[x[0]] * 4) / 4**1.5
        assert 4 * glass.energy(x)[0] == pytest.approx(H, rel=1e-12)

    def test_the_law_of_four_spins(self):
        """E_inf = 2 sqrt((p-1)/p): the index of what Newton finds grows with the energy, along it."""
        assert pspin_index(-2 * np.sqrt(3 / 4), p=4) == pytest.approx(0.0, abs=1e-12)
        assert pspin_index(-0.5, p=4) > pspin_index(-0.5, p=3)
        found = [pspin_critical_points(8, seed, starts=100, p=4) for seed in range(3)]
        energy, index = (np.concatenate([getattr(f, name) for f in found]) for name in ("energy", "index"))
        assert len(energy) > 100
        assert np.corrcoef(energy, index)[0, 1] > 0.9
        assert np.mean(index - pspin_index(energy, p=4)) == pytest.approx(0.0, abs=0.04)
        assert pspin_descent(8, starts=20, steps=800, lr=0.02, p=4).max() < -0.5

    def test_two_spins_are_a_matrix(self):
        """Its critical points are the eigenvectors, k negative directions at the k-th."""
        glass = SpinGlass(6, seed=2, p=2)
        eigenvalues, vectors = np.linalg.eigh(glass.J)
        x = np.sqrt(6) * vectors.T
        assert glass.energy(x) == pytest.approx(eigenvalues / np.sqrt(6), rel=1e-10)
        assert glass.index(x) == pytest.approx(np.arange(6) / 5)

    @pytest.mark.parametrize(
        ("error", "message", "call"),
        [
            (ValueError, "p: got 1, expected 2 or more", lambda: SpinGlass(5, p=1)),
            (TypeError, r"p: got 3\.0, expected a whole number", lambda: SpinGlass(5, p=3.0)),
            (ValueError, "p: got 0", lambda: pspin_index(0.1, p=0)),
            (TypeError, "energy: got str", lambda: pspin_index("low")),
            (TypeError, r"d: got 2\.5, expected a whole number", lambda: coin_minimum_probability(2.5)),
            (ValueError, "hidden: got 0, expected 1 or more", lambda: DeepLinear([1.0], hidden=0)),
            (TypeError, r"hidden: got 2\.0", lambda: DeepLinear([1.0], hidden=2.0)),
            (ValueError, "different ones", lambda: DeepLinear(np.eye(2))),
            (ValueError, "not all of them 0", lambda: DeepLinear(np.zeros((2, 3)))),
            (ValueError, "at most the 1 hidden units", lambda: narrow().critical_point([0, 1])),
            (ValueError, r"expected \(\.\.\., 5\): W1, 1 x 3", lambda: narrow().loss(np.zeros(4))),
            (
                ValueError,
                r"W2: got shape \(1, 1\), expected \(\.\.\., 2, 1\)",
                lambda: narrow().join(np.ones((1, 3)), np.ones((1, 1))),
            ),
        ],
    )
    def test_sizes_that_are_none(self, error, message, call):
        with pytest.raises(error, match=message):
            call()

    @pytest.mark.parametrize(
        ("shape", "hidden"), [((2, 3), 1), ((2, 3), 2), ((3, 2), 4), ((3, 3), 5), ((3, 3), None)]
    )
    def test_rectangular_networks(self, shape, hidden):
        random = np.random.RandomState(4)
        network = DeepLinear(random.standard_normal(shape), hidden)
        hidden = network.hidden
        W = network.join(
            random.standard_normal((hidden, shape[1])), random.standard_normal((shape[0], hidden))
        )
        assert all(a.base is W or a.base is W.base for a in network.layers(W))
        size = hidden * sum(shape)
        assert W.size == size
        g, h = network.gradient(W), 1e-6
        steps = h * np.eye(size).reshape(size, *W.shape)
        slopes = [(network.loss(W + e) - network.loss(W - e)) / (2 * h) for e in steps]
        assert g.ravel() == pytest.approx(np.array(slopes), abs=1e-7)
        rows = [(network.gradient(W + e) - network.gradient(W - e)).ravel() / (2 * h) for e in steps]
        assert network.hessian_eigenvalues(W) == pytest.approx(np.linalg.eigvalsh(rows), abs=1e-6)
        assert network.imbalance(W).shape == (hidden, hidden)
        batch = network.loss(np.stack([W, 2 * W]))
        assert batch == pytest.approx([network.loss(W), network.loss(2 * W)], rel=1e-12)

    @pytest.mark.parametrize("hidden", [1, 2, 3])
    def test_descent_ends_at_the_best_fit_of_that_rank(self, hidden):
        """Of every mode there is room for: saddles elsewhere, no other minima."""
        T = np.array([[1.5, 0.2, 0.0], [0.1, -1.0, 0.3]])
        network, sigma = DeepLinear(T, hidden), np.linalg.svd(T, compute_uv=False)
        for modes in ([], [1], [0]):
            W = network.critical_point(modes)
            assert np.abs(network.gradient(W)).max() < 1e-14
            assert network.loss(W) == pytest.approx(np.sum(np.delete(sigma, modes) ** 2) / 2, abs=1e-14)
            best = modes == [0] and hidden == 1
            assert bool(network.hessian_eigenvalues(W)[0] > -1e-9) is best
        starts = 0.3 * np.random.RandomState(0).standard_normal((20, hidden * 5))
        ends = deep_linear(network, starts, lr=0.05, steps=4000)
        assert network.loss(ends) == pytest.approx(np.sum(sigma[hidden:] ** 2) / 2, abs=1e-9)

    def test_the_diagonal_may_come_as_a_matrix(self):
        W = np.random.RandomState(0).standard_normal((4, 2, 3, 3))
        network = DeepLinear(np.diag([3.0, 2.0, 1.0]))
        assert network.loss(W).tolist() == NETWORK.loss(W).tolist()
        assert network.strengths == (3.0, 2.0, 1.0)


def narrow():
    return DeepLinear(np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), hidden=1)
