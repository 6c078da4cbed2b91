"""Curvatures: beta three ways, the Hessian by differences, the factors of the modes (A4, A5, A9, A14)."""

import numpy as np
import pytest

import samestep as ss
from samestep import theory
from samestep.problems import MSE
from text_functions import Sine
from text_problems import diabetes, fixed

METHODS = pytest.mark.parametrize("method", ["exact", "power", "lanczos"])


class TestBeta:
    @METHODS
    def test_of_a_problem_and_of_its_hessian(self, method):
        problem = diabetes()
        assert theory.beta(problem, method) == pytest.approx(4.0242107502, rel=1e-10)
        assert theory.beta(problem, method) == pytest.approx(problem.beta, rel=1e-13)
        assert theory.beta(problem.hessian(), method) == pytest.approx(problem.beta, rel=1e-13)

    @METHODS
    def test_the_loss_scale_is_in_it(self, method):
        assert theory.beta(diabetes("half_mean"), method) == pytest.approx(0.0091045492, rel=1e-8)
        assert theory.beta(diabetes("sum"), method) == pytest.approx(2 * diabetes().beta, rel=1e-13)

    def test_a_hundred_products_give_fourteen_digits(self):
        assert theory.beta(diabetes(), "power", steps=100) == pytest.approx(diabetes().beta, rel=1e-14)
        assert theory.beta(diabetes(), "power", steps=5) < (1 - 1e-6) * diabetes().beta

    def test_signs(self):
        H = np.diag([-3.0, 1.0, 0.5])
        assert theory.beta(H) == pytest.approx(1.0)
        assert theory.beta(H, "lanczos") == pytest.approx(1.0)
        assert theory.beta(H, "power") == pytest.approx(-3.0)  # of largest size, as documented

    def test_small_and_flat(self):
        for method in ("exact", "power", "lanczos"):
            assert theory.beta(np.array([[4.0]]), method) == 4.0
            assert theory.beta(np.zeros((3, 3)), method) == 0.0

    def test_a_large_problem_without_its_hessian(self):
        """40 x 3000: the Hessian alone would be 72 MB."""
        problem = MSE(np.random.RandomState(1).standard_normal((40, 3000)), np.zeros(40), "half_mean")
        largest = np.linalg.norm(problem.Phi, 2) ** 2 / 40
        assert theory.beta(problem, "lanczos") == pytest.approx(largest, rel=1e-12)

    @METHODS
    @pytest.mark.parametrize(
        ("message", "H"),
        [
            (r"H: got NaN or infinity", np.array([[np.nan, 0.0], [0.0, 1.0]])),
            (r"H: got shape \(2, 3\), expected \(p, p\)", np.zeros((2, 3))),
            (r"H: got shape \(0, 0\)", np.zeros((0, 0))),
            (r"H: got a matrix that is not symmetric", np.array([[1.0, 2.0], [0.0, 1.0]])),
        ],
    )
    def test_what_is_no_hessian(self, message, H, method):
        with pytest.raises(ValueError, match=message):
            theory.beta(H, method)

    def test_other_arguments(self):
        with pytest.raises(ValueError, match=r"method: got 'svd', expected one of 'exact', 'power'"):
            theory.beta(np.eye(2), "svd")
        with pytest.raises(ValueError, match=r"steps: got 0"):
            theory.beta(np.eye(2), "power", steps=0)


class TestHessian:
    def test_is_the_same_at_every_w_for_a_linear_model(self):
        for w in ([0.0, 0.0], [3.0, -7.0]):
            H = theory.hessian_fd(fixed().gradient, np.array(w))
            assert np.allclose(H, [[2, 1], [1, 2]], atol=1e-9)
            assert np.allclose(H, fixed().hessian(), atol=1e-9)

    def test_moves_with_w_for_another_model(self):
        """A network's H is DF'DF + sum r_k D^2 F_k: 'not a function of the weights' is false for it."""
        problem = Sine()
        at = [np.zeros(5), np.linspace(-1, 1, 5)]
        found = [theory.hessian_fd(problem.gradient, w) for w in at]
        for H, w in zip(found, at, strict=True):
            assert np.allclose(H, problem.hessian(w), atol=1e-8)
            assert (H == H.T).all()
        assert np.abs(found[0] - found[1]).max() > 1

    def test_a_mixed_derivative_is_not_its_root(self):
        """dL/(dw_i dw_j), as printed, would have the units of L/w^2 only with the square put in."""
        H = theory.hessian_fd(lambda w: 3.0 * fixed().gradient(w), np.zeros(2))
        assert np.allclose(H, 3 * fixed().hessian(), atol=1e-8)

    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            (r"w: got shape \(2, 1\)", (lambda w: w, np.zeros((2, 1)))),
            (r"w: got NaN", (lambda w: w, np.array([np.nan]))),
            (r"h: got 0.0", (lambda w: w, np.zeros(2), 0.0)),
            (r"gradient: returned shape \(2, 2\), expected \(2,\)", (lambda w: np.eye(2), np.zeros(2))),
        ],
    )
    def test_bad_arguments(self, message, arguments):
        with pytest.raises(ValueError, match=message):
            theory.hessian_fd(*arguments)


class TestModes:
    def test_factors(self):
        for of in (fixed(), fixed().hessian()):
            assert theory.mode_factors(of, 0.6) == pytest.approx([0.4, -0.8], abs=1e-14)
        # The larger loss takes the smaller step.
        assert theory.mode_factors(fixed(scale="sum"), 0.3) == pytest.approx([0.4, -0.8], abs=1e-14)

    def test_steps_flip_the_steep_direction_and_shrink_the_flat_one(self):
        w, w_star, seen = fixed().minimizer() + np.array([3.0, 1.0]), fixed().minimizer(), []
        opt = ss.SGD(w, lr=0.6)
        for _ in range(6):
            seen.append([(w - w_star) @ [1, 1], (w - w_star) @ [1, -1]])
            opt.step(fixed().gradient(w))
        seen = np.array(seen)
        assert seen[1:, 0] / seen[:-1, 0] == pytest.approx(-0.8, rel=1e-10)
        assert seen[1:, 1] / seen[:-1, 1] == pytest.approx(0.4, rel=1e-10)

    @pytest.mark.parametrize(
        ("family", "rule", "hyper"),
        [
            ("sgd", ss.SGD, {"lr": 0.3}),
            ("momentum", ss.Momentum, {"lr": 0.3, "momentum": 0.7}),
            ("nag", ss.NAG, {"lr": 0.3, "momentum": 0.7}),
            ("nag", ss.NAG, {"lr": 0.3, "momentum": 0.7, "momentum_next": 0.4}),
        ],
    )
    def test_matrices_are_the_kernels_steps(self, family, rule, hyper):
        curvature = 2.5
        M = theory.mode_matrices(family, np.array([curvature]), **hyper)[0]
        w, x = np.array([1.0]), np.array([1.0, 0.0])
        opt = rule(w, **hyper)
        for _ in range(20):
            opt.step(curvature * w)
            x = M @ x
            assert w[0] == pytest.approx(x[0], abs=1e-14)

    @pytest.mark.parametrize("a", [0.3, 0.81])
    def test_complex_modes_of_the_heavy_ball_shrink_by_the_root_of_a(self, a):
        assert theory.spectral_radius("momentum", np.array([1.0]), 1.0, a) == pytest.approx(a**0.5, rel=1e-12)

    def test_an_unknown_family(self):
        with pytest.raises(ValueError, match="family: got 'adam', expected one of 'sgd'"):
            theory.mode_matrices("adam", np.ones(1), 0.1)
