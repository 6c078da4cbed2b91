"""The problems that are a formula: derivatives, costs and ends (A20, A21, B12), and the risks (B1 - B4)."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import samestep as ss
from samestep import problems
from samestep.problems import MSE, Higham, Hyperbola, Quartic, Rosenbrock
from samestep.proof.vectors import finite_values

ALL = pytest.mark.parametrize("kind", [Higham, Hyperbola, Quartic, Rosenbrock])


def higham(seed, draws):
    """The start of a run and the points it draws, from one frozen stream."""
    random = np.random.RandomState(seed)
    w = 0.5 * random.standard_normal(23)
    return w, random.randint(0, 10, size=draws)


def differences(f, w, h=1e-6):
    """(f(w + h e_j) - f(w - h e_j)) / 2h for each j, stacked along the last axis."""
    return np.stack([(f(w + h * e) - f(w - h * e)) / (2 * h) for e in np.eye(len(w))], axis=-1)


@ALL
def test_the_gradient_is_the_derivative_of_the_loss(kind):
    problem, random = kind(), np.random.RandomState(1)
    for _ in range(5):
        w = random.standard_normal(problem.dimension)
        assert problem.gradient(w) == pytest.approx(differences(problem.loss, w), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kind", [Hyperbola, Quartic, Rosenbrock])
def test_the_hessian_is_the_derivative_of_the_gradient(kind):
    problem, random = kind(), np.random.RandomState(2)
    for _ in range(5):
        w = random.standard_normal(2)
        assert problem.hessian(w) == pytest.approx(differences(problem.gradient, w), rel=1e-6, abs=1e-6)


@ALL
def test_minimize_takes_it(kind):
    problem = kind()
    run = ss.minimize(problem, np.full(problem.dimension, 0.3), lambda w: ss.SGD(w, lr=1e-3), steps=50)
    assert run.loss < run.losses[0]


@ALL
@pytest.mark.parametrize("start", [3.0, 1e200])
def test_a_run_that_diverges_goes_on(kind, start):
    """Without an error, and without a warning, which the tests take for one."""
    w0 = np.full(kind().dimension, start)
    run = ss.minimize(kind(), w0, lambda w: ss.SGD(w, lr=1e3), steps=20)
    assert run.steps == 20
    assert run.diverged or kind is Higham
    if kind is Hyperbola:
        assert kind().tangent_kernel(np.full(2, 1e200)) == np.inf


@ALL
@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (TypeError, "w: got list", lambda n: [0.0] * n),
        (TypeError, "w: got float32, expected float64", lambda n: np.zeros(n, np.float32)),
        (ValueError, r"w: got shape \(1, ", lambda n: np.zeros((1, n))),
    ],
)
def test_weights_that_do_not_fit(kind, error, message, make):
    problem = kind()
    for function in (problem.loss, problem.gradient):
        with pytest.raises(error, match=message):
            function(make(problem.dimension))


class TestHyperbola:
    """Not convex near any minimum, and PL all the same."""

    @pytest.mark.parametrize("e", [0.1, 0.01, 0.001])
    def test_negative_curvature_next_to_the_minima(self, e):
        w = np.sqrt([1 + e, 1 + e])
        p = w[0] * w[1]
        eigenvalues = np.linalg.eigvalsh(Hyperbola().hessian(w))
        assert eigenvalues[0] == pytest.approx(-e, rel=1e-9)
        assert np.prod(eigenvalues) == pytest.approx((1 - p) * (3 * p - 1), rel=1e-9)

    def test_polyak_lojasiewicz(self):
        problem, random = Hyperbola(), np.random.RandomState(3)
        for w in random.standard_normal((1000, 2)) * 2:
            g = problem.gradient(w)
            assert g @ g == pytest.approx(2 * problem.tangent_kernel(w) * problem.loss(w), rel=1e-12)

    def test_descent_keeps_the_difference_of_squares_nearly(self):
        """And so picks one of the minima by where it starts: (4, 0.3) ends at sharpness 16.03357."""
        run = ss.minimize(Hyperbola(), np.array([4.0, 0.3]), lambda w: ss.SGD(w, lr=0.05), steps=2000)
        assert run.w == pytest.approx([3.99637, 0.25023], abs=5e-6)
        assert Hyperbola().sharpness(run.w) == pytest.approx(16.03357, abs=5e-6)

    @pytest.mark.parametrize(("mode", "loss"), [("newton", 0.5), ("saddle_free", 0.0)])
    def test_newton_is_drawn_to_the_saddle_between_the_branches(self, mode, loss):
        """B11: the origin, curvatures 1 and -1. By its absolute value the second one repels."""
        w = np.array([0.3, 0.1])
        for _ in range(30):
            w += ss.theory.newton_step(Hyperbola().gradient(w), Hyperbola().hessian(w), mode=mode)
        assert np.abs(Hyperbola().gradient(w)).max() < 1e-12
        assert Hyperbola().loss(w) == pytest.approx(loss, abs=1e-15)
        descent = ss.minimize(Hyperbola(), np.array([0.3, 0.1]), lambda w: ss.SGD(w, lr=0.1), steps=1000)
        assert descent.loss < 1e-15


class TestHigham:
    """Deep learning: an introduction for applied mathematicians; figures with rtol 1e-9."""

    def test_the_start(self):
        w, _ = higham(5000, 0)
        assert Higham().loss(w) == pytest.approx(0.258526716344, rel=1e-9)
        assert np.linalg.norm(Higham().gradient(w)) == pytest.approx(0.0411355007, rel=1e-8)

    def test_the_gradient_is_the_mean_over_its_rows(self):
        w, _ = higham(0, 0)
        single = [Higham().gradient(w, np.array([i])) for i in range(10)]
        assert Higham().gradient(w) == pytest.approx(np.mean(single, axis=0), rel=1e-12)
        assert Higham().gradient(w, np.array([3, 3, 7])) == pytest.approx(
            (2 * single[3] + single[7]) / 3, rel=1e-12
        )

    def test_saturated_sigmoids_do_not_overflow(self):
        with np.errstate(all="raise"):
            assert Higham().loss(np.full(23, -1e6)) == pytest.approx(0.5)
            assert np.isfinite(Higham().gradient(np.full(23, -1e6))).all()

    @staticmethod
    def descend(seed, steps):
        """One point a step, lr 0.05; yields the weights after so many steps."""
        problem, (w, picks) = Higham(), higham(seed, max(steps))
        opt = ss.SGD(w, lr=0.05)
        for step, point in enumerate(picks[:, None], 1):
            opt.step(problem.gradient(w, point))
            if step in steps:
                yield problem, w

    def test_costs_of_the_first_ten_thousand_steps(self):
        costs = [problem.loss(w) for problem, w in self.descend(5000, (1000, 10_000))]
        assert costs == pytest.approx([0.249622875585, 0.241057723267], rel=1e-9)

    @pytest.mark.usefixtures("isa", "threads")
    def test_one_digest_everywhere(self):
        """Fifty steps with one point, two points and all; every output, slope and sum has its part."""
        problem, w = Higham(), finite_values(23, np.dtype(np.float64), 1)
        opt = ss.SGD(w, lr=0.5)
        for step in range(50):
            for rows in (np.array([step % 10]), np.array([step % 7, 3]), None):
                opt.step(problem.gradient(w, rows))
        assert ss.digest(w)[:16] == "c62f4152cad9261b"
        assert problem.loss(w).hex() == "0x1.01c90cf2cbbc7p-2"

    @pytest.mark.slow
    def test_a_million_steps_tell_all_ten_points_right(self):
        ends = [(problem.loss(w), problem.correct(w)) for problem, w in self.descend(5000, (10**5, 10**6))]
        assert ends[0] == (pytest.approx(0.105304218255, rel=1e-9), 9)
        assert ends[1] == (pytest.approx(2.873837923e-5, rel=1e-9), 10)

    @pytest.mark.parametrize(
        ("error", "message", "rows"),
        [
            (ValueError, r"rows: got shape \(0,\)", np.array([], int)),
            (ValueError, r"rows: got shape \(1, 1\)", np.array([[0]])),
            (IndexError, r"got index -1, expected 0 to 9", np.array([2, -1])),
            (IndexError, r"got index 10, expected 0 to 9", np.array([10])),
            (TypeError, r"rows: got list, expected a numpy array of integers", [0, 1]),
            (TypeError, r"rows: got float64, expected a numpy array of integers", np.array([0.0])),
        ],
    )
    def test_rows_that_do_not_fit(self, error, message, rows):
        with pytest.raises(error, match=message):
            Higham().gradient(np.zeros(23), rows)


class TestRisk:
    """B1 - B4: what training lowers, what it is meant to lower; neither depends on the scale."""

    @pytest.mark.parametrize("scale", ["half_sum", "half_mean", "mean", "sum"])
    def test_diabetes(self, scale):
        X, y = load_diabetes(return_X_y=True)
        y = y - y.mean()
        order = np.random.RandomState(0).permutation(442)
        train, test = order[:300], order[300:]
        problem = MSE(X[train], y[train], scale)
        w = problem.minimizer()
        assert problems.empirical_risk(problem, w) == pytest.approx(2906.0771084, rel=1e-9)
        assert problems.test_risk(w, X[test], y[test]) == pytest.approx(2873.3929527, rel=1e-9)

    def test_the_fit_is_the_least_empirical_risk_and_not_the_least_test_risk(self):
        random = np.random.RandomState(5)
        X, true = random.standard_normal((60, 10)), random.standard_normal(10)
        y = X @ true + random.standard_normal(60)
        problem = MSE(X[:20], y[:20])
        fit = problem.minimizer()
        assert problems.empirical_risk(problem, fit) < problems.empirical_risk(problem, true)
        assert problems.test_risk(fit, X[20:], y[20:]) > problems.test_risk(true, X[20:], y[20:])
