"""PL, PL*, the tangent kernel and the theorem that sums up the notes (A28 - A31)."""

import numpy as np
import pytest

import samestep as ss
from samestep import theory
from samestep.problems import MSE
from text_functions import PHI5, Sine, interpolating, path
from text_problems import diabetes, fixed

MU, BETA = 2.6972243623, 6.3027756377


class TestConstants:
    def test_tangent_kernel(self):
        K = theory.tangent_kernel(PHI5)
        assert K.tolist() == [[6, 1, 0], [1, 3, 0], [0, 0, 3]]
        assert np.linalg.eigvalsh(K) == pytest.approx([2.69722436, 3, 6.30277564], abs=5e-9)
        assert theory.pl_star_constant(K) == pytest.approx(MU, abs=5e-11)

    @pytest.mark.parametrize("scale", ["half_sum", "half_mean", "mean", "sum"])
    def test_pl_and_pl_star_agree_where_everything_is_fitted(self, scale):
        problem = interpolating(scale)
        star = theory.pl_star_constant(theory.tangent_kernel(problem.Phi), c=problem.c)
        assert theory.pl_constant(problem) == pytest.approx(star, rel=1e-12)
        assert problem.mu == 0  # of H, 5 x 5: not what PL asks for

    def test_the_transposed_matrix_has_a_kernel_of_another_shape_and_no_pl_star(self):
        assert theory.tangent_kernel(PHI5.T).shape == (5, 5)
        assert theory.pl_star_constant(theory.tangent_kernel(PHI5.T)) == 0.0

    def test_the_infimum_is_twice_the_eigenvalue(self):
        """|g|^2/L >= 2 mu, attained: the notes' lambda_min without the 2 is half of it."""
        problem = interpolating()
        w = np.random.RandomState(0).standard_normal((20000, 5)) * 3
        r = w @ PHI5.T - problem.y
        shares = np.sum((r @ PHI5) ** 2, axis=1) / (np.sum(r**2, axis=1) / 2)
        assert shares.min() >= 2 * MU
        assert shares.min() == pytest.approx(5.394453, abs=2e-3)
        u = np.linalg.eigh(theory.tangent_kernel(PHI5))[1][:, 0]
        flattest = np.linalg.lstsq(PHI5, problem.y + u, rcond=None)[0]
        g = problem.gradient(flattest)
        assert g @ g / problem.loss(flattest) == pytest.approx(5.39444872, abs=5e-9)

    def test_diabetes(self):
        """Strongly convex: mu is lambda_min(H), and the run comes to meet it."""
        problem = diabetes()
        mu = theory.pl_constant(problem)
        assert mu == pytest.approx(0.0085607298, rel=1e-8)
        shares = []
        for w in path(problem, lambda w: ss.SGD(w, lr=1 / problem.beta), 5000, np.zeros(10)):
            g, d = problem.gradient(w), problem.Phi @ (w - problem.minimizer())
            shares.append(g @ g / (d @ d))
        assert min(shares) / mu == pytest.approx(0.99999999, abs=2e-8)
        assert max(shares) / problem.beta == pytest.approx(0.70, abs=5e-3)

    def test_a_loss_without_curvature(self):
        assert theory.pl_constant(MSE(np.zeros((2, 1)), np.ones(2))) == np.inf

    @pytest.mark.parametrize(
        ("message", "J"),
        [
            (r"J: got shape \(0, 3\), expected \(N, p\)", np.zeros((0, 3))),
            (r"J: got shape \(3,\)", np.zeros(3)),
            (r"J: got NaN or infinity", np.array([[np.nan]])),
        ],
    )
    def test_what_is_no_jacobian(self, message, J):
        with pytest.raises(ValueError, match=message):
            theory.tangent_kernel(J)

    def test_what_is_no_kernel(self):
        with pytest.raises(ValueError, match=r"K: got shape \(3, 5\)"):
            theory.pl_star_constant(PHI5)
        with pytest.raises(ValueError, match="c: got 0"):
            theory.pl_star_constant(np.eye(2), c=0)

    def test_zero_rows(self):
        with pytest.raises(ValueError, match=r"Phi: got shape \(0, 2\), expected at least one row"):
            MSE(np.zeros((0, 2)), np.zeros(0))


class TestTheorem:
    """Phi5, y = (3, -2, 1) from 0: in the ball, at the linear rate, to the nearest solution."""

    def test_figures(self):
        assert interpolating().loss(np.zeros(5)) == 7
        assert interpolating().beta == pytest.approx(BETA, abs=5e-11)
        assert theory.pl_radius(7.0, BETA, MU) == pytest.approx(6.965349, abs=5e-7)
        assert theory.pl_radius(7.0, BETA, MU) == pytest.approx(2 * np.sqrt(2 * BETA * 7) / MU, rel=1e-14)
        assert np.sqrt(2 * 7 / MU) == pytest.approx(2.278272, abs=5e-7)  # of the gradient flow
        nearest = interpolating().minimizer()
        assert np.linalg.norm(nearest) == pytest.approx(2.009780, abs=5e-7)

    @pytest.mark.parametrize(
        ("share", "length", "radius"),
        [(0.5, 2.11749, 4.6436), (1.0, 2.21429, 6.965349), (1.9, 17.908, 69.65)],
    )
    def test_it_stays_in_the_ball_and_arrives(self, share, length, radius):
        problem, lr = interpolating(), share / interpolating().beta
        w = path(problem, lambda w: ss.SGD(w, lr=lr), 2000, np.zeros(5))
        assert np.linalg.norm(np.diff(w, axis=0), axis=1).sum() == pytest.approx(length, rel=1e-4)
        R = theory.pl_radius(7.0, problem.beta, theory.pl_constant(problem), lr)
        assert pytest.approx(radius, rel=1e-4) == R
        assert np.linalg.norm(w, axis=1).max() <= R
        assert w[-1] == pytest.approx(problem.minimizer(), abs=1e-12)  # the one of least norm
        losses = np.array([problem.loss(x) for x in w])
        rho = theory.pl_rate(problem.beta, theory.pl_constant(problem), lr)
        assert (losses <= rho ** np.arange(len(w)) * 7 + 1e-28).all()
        if share == 1.0:
            assert np.linalg.norm(w, axis=1).max() == pytest.approx(2.00978, abs=5e-6)
            assert losses[400] < 1e-30
            assert rho == pytest.approx(1 - MU / BETA, rel=1e-9)

    def test_two_over_beta_does_not_do(self):
        """The notes allow it: at the edge L stays, beyond it the ball is left."""
        problem = interpolating()
        at, beyond = (
            path(problem, lambda w, lr=share / problem.beta: ss.SGD(w, lr=lr), 400, np.zeros(5))
            for share in (2.0, 2.01)
        )
        assert problem.loss(at[-1]) == pytest.approx(2.63, abs=5e-3)
        assert np.linalg.norm(beyond, axis=1).max() == pytest.approx(49.3, rel=2e-2)
        with pytest.raises(ValueError, match=r"lr: got .*, expected 0 < lr < 2/beta"):
            theory.pl_radius(7.0, BETA, MU, 2.0 / BETA)

    def test_the_number_of_steps_is_logarithmic(self):
        """|g|^2 <= delta after (beta/mu) ln(2 beta L0/delta) steps, not O(beta/delta)."""
        problem = interpolating()
        w = path(problem, lambda w: ss.SGD(w, lr=1 / problem.beta), 200, np.zeros(5))
        squared = np.array([np.sum(problem.gradient(x) ** 2) for x in w])
        for delta in (1.0, 1e-4, 1e-12):
            steps = int(np.ceil(BETA / MU * np.log(2 * BETA * 7 / delta)))
            assert squared[steps] <= delta

    def test_a_loss_that_is_not_convex(self):
        problem = Sine()
        K = theory.tangent_kernel(PHI5)
        mu = (1 - 0.5) ** 2 * theory.pl_star_constant(K)
        L0 = problem.loss(np.zeros(5))
        beta = (1.5**2 + 0.5 * np.sqrt(2 * L0)) * theory.beta(K)
        assert (mu, beta) == pytest.approx((0.674306, 25.972659), abs=1e-6)
        R = theory.pl_radius(L0, beta, mu)
        assert pytest.approx(56.5581, abs=5e-5) == R
        w = path(problem, lambda w: ss.SGD(w, lr=1 / beta), 3000, np.zeros(5))
        losses = np.array([problem.loss(x) for x in w])
        g = np.array([problem.gradient(x) for x in w])
        assert losses[-1] < 1e-28
        assert (np.sum(g**2, axis=1) / 2 >= mu * losses).all()
        assert (losses <= theory.pl_rate(beta, mu) ** np.arange(3001) * L0 + 1e-28).all()
        rise, way = np.linalg.norm(np.diff(g, axis=0), axis=1), np.linalg.norm(np.diff(w, axis=0), axis=1)
        assert (rise <= beta * way + 1e-12).all()
        assert np.linalg.norm(w, axis=1).max() == pytest.approx(1.703630, abs=5e-7)

    def test_pl_holds_where_the_curvature_is_far_below_0(self):
        problem, rng = Sine(), np.random.RandomState(0)
        mu = 0.25 * theory.pl_star_constant(theory.tangent_kernel(PHI5))
        lowest = 0.0
        for w in 5 * rng.standard_normal((500, 5)):
            g = problem.gradient(w)
            assert g @ g / 2 >= mu * problem.loss(w)
            lowest = min(lowest, np.linalg.eigvalsh(problem.hessian(w))[0])
        assert lowest < -20

    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            ("mu: got 0.0, expected 0 < mu <= beta", (1.0, 0.0)),
            ("mu: got 2.0, expected 0 < mu <= beta", (1.0, 2.0)),
            ("beta: got inf", (np.inf, 1.0)),
            ("lr: got 0.0, expected 0 < lr < 2/beta", (1.0, 0.5, 0.0)),
        ],
    )
    def test_bad_arguments(self, message, arguments):
        with pytest.raises(ValueError, match=message):
            theory.pl_rate(*arguments)
        with pytest.raises(ValueError, match=message):
            theory.pl_radius(1.0, *arguments)


class TestStochastic:
    """Steps along batches of a problem that can be fitted: L = mean l_i, N = 3, max beta_i = 18."""

    # L as in the theorem above is the mean of l_i = 3/2 (phi_i w - y_i)^2, so B = 3 max |phi_i|^2.
    constants = (theory.pl_constant(interpolating()), interpolating().beta, 3 * 6.0)

    @pytest.mark.parametrize(("m", "lr"), [(1, 0.023775), (2, 0.041353), (3, 0.054877)])
    def test_step_sizes(self, m, lr):
        assert theory.sgd_step_interpolation(*self.constants, m)[0] == pytest.approx(lr, abs=5e-7)

    def online(self, lr, steps, seed, m=1):
        """L of the theorem in the end; half_mean divides by m, so the step is three times as long."""
        problem = interpolating("half_mean")
        run = ss.minimize(
            problem,
            np.zeros(5),
            lambda w: ss.SGD(w, lr=3 * lr),
            steps=steps,
            batch_size=m,
            sampling="with_replacement",
            seed=seed,
            record_every=steps,
        )
        return 3 * run.loss

    @pytest.mark.parametrize("m", [1, 2])
    def test_it_converges_at_the_rate(self, m):
        lr, rate = theory.sgd_step_interpolation(*self.constants, m)
        mean = np.mean([self.online(lr, 300, seed, m) for seed in range(200)])
        assert mean <= 7 * rate**300
        if m == 1:
            assert 7 * rate**300 == pytest.approx(1.6e-8, rel=0.05)
            assert mean < 1e-14

    def test_what_is_stable_for_full_gradients_diverges_online(self):
        assert self.online(1.9 / BETA, 400, 0) > 1e50
        assert self.online(2.1 / 18, 4000, 0) > 1e3
        assert self.online(1.9 / 18, 1000, 0) < 1e-8

    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            ("mu: got 0.0", (0.0, 1.0, 2.0)),
            ("smooth_one: got 0.5, expected a finite number, at least smooth", (0.5, 1.0, 0.5)),
            ("smooth: got -2.0", (1.0, -2.0, 4.0)),
            ("mu: got 3.0, expected 0 < mu <= smooth = 2.0", (3.0, 2.0, 4.0)),
            ("m: got 0", (0.5, 1.0, 2.0, 0)),
            ("m: got inf", (0.5, 1.0, 2.0, np.inf)),
            ("m: got 1.5", (0.5, 1.0, 2.0, 1.5)),
        ],
    )
    def test_bad_arguments(self, message, arguments):
        with pytest.raises(ValueError, match=message):
            theory.sgd_step_interpolation(*arguments)


def test_the_scale_is_in_every_constant():
    once, twice = fixed(), fixed(scale="sum")
    assert theory.pl_constant(twice) == pytest.approx(2 * theory.pl_constant(once), rel=1e-14)
    assert theory.max_step(twice) == pytest.approx(theory.max_step(once) / 2, rel=1e-14)
