"""The texts' claims against runs: bounds, edges, rates, traces and their figures (A3–A27, B20)."""

import functools
import math

import numpy as np
import pytest

import samestep as ss
from samestep.problems import MSE
from samestep.theory import max_step, step_bound, tune_heavy_ball, tune_look_ahead, tune_sgd
from samestep.train import minimize
from text_problems import diabetes, fixed

BACKENDS = pytest.mark.parametrize("backend", ["cpu", "reference"])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def gap(problem, w):
    """L(w) - L*, without the cancellation."""
    d = problem.Phi @ (w - problem.minimizer())
    return problem.c / 2 * float(d @ d)


def descend(problem, lr, steps, w0=None):
    """The weights after so many steps of gradient descent."""
    w0 = np.zeros(problem.dimension) if w0 is None else w0
    return minimize(problem, w0, lambda w: ss.SGD(w, lr=lr), steps=steps, record_every=steps).w


def trace(problem, make, steps):
    """w after each step from 0."""
    seen = []
    w0 = np.zeros(problem.dimension, problem.dtype)
    minimize(problem, w0, make, steps=steps, callback=lambda step, w, loss: seen.append(w.tolist()))
    return seen[1:]


class TestTraces:
    """On the fixed problem, from 0. Dyadic numbers: exact in both types, whatever adds them up."""

    @BACKENDS
    @DTYPES
    def test_gradient_descent(self, dtype, backend):
        assert trace(fixed(dtype), lambda w: ss.SGD(w, lr=0.25, backend=backend), 4) == [
            [1.25, 1.5],
            [1.5, 1.9375],
            [1.515625, 2.09375],
            [1.484375, 2.16796875],
        ]

    @BACKENDS
    @DTYPES
    @pytest.mark.parametrize("form", ["heavy_ball", "torch"])
    def test_momentum(self, dtype, form, backend):
        def make(w):
            return ss.Momentum(w, lr=0.25, momentum=0.5, form=form, backend=backend)

        assert trace(fixed(dtype), make, 4) == [
            [1.25, 1.5],
            [2.125, 2.6875],
            [2.078125, 2.90625],
            [1.5390625, 2.54296875],
        ]

    @BACKENDS
    @DTYPES
    @pytest.mark.parametrize("form", ["look_ahead", "torch"])
    def test_nesterov_at_the_look_ahead_points(self, dtype, form, backend):
        def make(w):
            return ss.NAG(w, lr=0.25, momentum=0.5, form=form, backend=backend)

        assert trace(fixed(dtype), make, 4) == [
            [1.875, 2.25],
            [1.8125, 2.484375],
            [1.490234375, 2.35546875],
            [1.341796875, 2.313232421875],
        ]

    @DTYPES
    def test_nesterov_at_the_iterates(self, dtype):
        w, seen = np.zeros(2, dtype), []
        opt = ss.NAG(w, lr=0.25, momentum=0.5)
        for _ in range(4):
            opt.step(fixed(dtype).gradient(w))
            seen.append((w - dtype(0.5) * opt.state["v"][0]).tolist())
        assert seen == [
            [1.25, 1.5],
            [1.625, 2.15625],
            [1.53515625, 2.2890625],
            [1.40625, 2.30517578125],
        ]

    @BACKENDS
    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (
                functools.partial(ss.AdaGrad, lr=0.5, eps=1e-7),
                [
                    [0.49999999000000017, 0.49999999166666675],
                    [0.7867311590415014, 0.7999999888044445],
                    [0.9843801826789637, 1.0170129947483408],
                ],
            ),
            (
                functools.partial(ss.RMSProp, lr=0.1, rho=0.9, eps=1e-6),
                [
                    [0.31622770277130374, 0.3162277220963241],
                    [0.521602836934586, 0.5261246279722029],
                    [0.6802002468115356, 0.6914048431206965],
                ],
            ),
            (
                functools.partial(ss.Adam, lr=0.1),
                [
                    [0.09999999980000002, 0.09999999983333334],
                    [0.19979104951430432, 0.1998335140527855],
                    [0.2992135606616547, 0.29937664884832527],
                ],
            ),
        ],
        ids=["adagrad", "rmsprop", "adam"],
    )
    def test_adaptive_rules(self, make, expected, backend):
        got = trace(fixed(), functools.partial(make, backend=backend), 3)
        assert np.array(got) == pytest.approx(np.array(expected), abs=1e-12)


class TestStepBound:
    """A6, A7: along the gradient L(w - lr g) = L - lr g'g + lr^2/2 g'Hg."""

    def test_fixed_problem(self):
        g, H = fixed().gradient(np.zeros(2)), fixed().hessian()
        bound = step_bound(g, H)
        assert bound == 122 / 182
        assert bound / 2 == pytest.approx(0.33516484, abs=5e-9)
        first = fixed().loss(np.zeros(2))
        assert fixed().loss(-bound * g) == pytest.approx(first, rel=1e-14)
        assert fixed().loss(-0.999 * bound * g) < first < fixed().loss(-1.001 * bound * g)
        lowest = fixed().loss(-bound / 2 * g)
        assert lowest < min(fixed().loss(-0.49 * bound * g), fixed().loss(-0.51 * bound * g))

    def test_diabetes(self):
        problem, w = diabetes(), np.zeros(10)
        g, H = problem.gradient(w), problem.hessian()
        assert step_bound(g, H) == pytest.approx(0.5570774914, rel=1e-9)
        assert step_bound(g, H) > max_step(problem)
        model = problem.loss(w) - 0.3 * (g @ g) + 0.3**2 / 2 * (g @ H @ g)
        assert model == pytest.approx(781129.3213520566, rel=1e-10)
        assert problem.loss(-0.3 * g) == pytest.approx(781129.3213520566, rel=1e-10)

    def test_without_curvature_there_is_no_bound(self):
        assert step_bound(np.array([1.0, 0.0]), np.diag([0.0, 1.0])) == math.inf
        assert step_bound(np.array([1.0, 0.0]), np.diag([-1.0, 1.0])) == math.inf
        assert math.isnan(step_bound(np.zeros(2), np.eye(2)))
        for value in (np.nan, np.inf):
            assert math.isnan(step_bound(np.array([value, 1.0]), np.eye(2)))

    @pytest.mark.parametrize("length", [1e-200, 1e200])
    def test_it_does_not_depend_on_the_length_of_g(self, length):
        g = np.array([-5.0, -6.0])
        assert step_bound(length * g, fixed().hessian()) == pytest.approx(122 / 182, rel=1e-14)

    @pytest.mark.parametrize(
        ("message", "g", "H"),
        [
            (r"H: got shape \(2, 3\), expected \(p, p\)", np.zeros(2), np.zeros((2, 3))),
            (r"H: got shape \(4,\)", np.zeros(2), np.zeros(4)),
            (r"H: got shape \(0, 0\)", np.zeros(0), np.zeros((0, 0))),
            (r"H: got NaN or infinity", np.ones(2), np.array([[1.0, np.nan], [np.nan, 1.0]])),
            (r"H: got a matrix that is not symmetric", np.ones(2), np.array([[1.0, 5.0], [0.0, 1.0]])),
            (r"g: got shape \(3,\), expected \(2,\)", np.zeros(3), np.eye(2)),
        ],
    )
    def test_what_does_not_fit(self, message, g, H):
        for function in (step_bound, ss.theory.cauchy_step):
            with pytest.raises(ValueError, match=message):
                function(g, H)


class TestEdge:
    """A9: 2/beta is the edge for convergence from a generic start; below it every step descends."""

    def test_max_step(self):
        assert max_step(fixed()) == pytest.approx(2 / 3, rel=1e-14)
        assert max_step(fixed().hessian()) == pytest.approx(2 / 3, rel=1e-14)
        assert max_step(diabetes()) == pytest.approx(0.4969918635, rel=1e-9)
        assert max_step(np.diag([-3.0, 1.0])) == pytest.approx(2.0)
        assert max_step(np.diag([-3.0, -1.0])) == math.inf
        assert max_step(MSE(np.zeros((2, 1)), np.ones(2))) == math.inf

    @pytest.mark.parametrize(
        ("message", "H"),
        [
            (r"H: got shape \(2, 3\)", np.zeros((2, 3))),
            (r"not symmetric", np.array([[1.0, 2.0], [0.0, 1.0]])),
            (r"NaN or infinity", np.array([[np.nan, 0.0], [0.0, 1.0]])),
        ],
    )
    def test_matrices_that_are_no_hessian(self, message, H):
        with pytest.raises(ValueError, match=message):
            max_step(H)

    def test_fixed_problem(self):
        def distance(lr):
            return np.linalg.norm(descend(fixed(), lr, 200) - fixed().minimizer())

        assert distance(1 / 3) < 5e-15
        assert gap(fixed(), descend(fixed(), 0.66, 200)) == pytest.approx(3.119e-3, rel=1e-3)
        # At the edge itself the steepest component keeps its length for ever.
        assert gap(fixed(), descend(fixed(), 2 / 3, 200)) == pytest.approx(121 / 12, rel=1e-10)
        assert distance(2 / 3) == pytest.approx(11 / (3 * math.sqrt(2)), rel=1e-10)
        assert gap(fixed(), descend(fixed(), 0.67, 200)) == pytest.approx(539.7, rel=1e-3)

    @pytest.mark.parametrize(
        ("times_beta", "expected"),
        [(1.0, 0.988323), (1.9, 4.557e-4), (1.99, 2.112e-4), (2.0, 4.04e5), (2.01, 7.8e22)],
    )
    def test_diabetes(self, times_beta, expected):
        w = descend(diabetes(), times_beta / diabetes().beta, 2000)
        assert gap(diabetes(), w) == pytest.approx(expected, rel=1e-2)

    def test_the_reversed_conclusion_is_false(self):
        """A step above 2/beta can descend at one point: the bound there does not imply eps <= 2/beta."""
        w = fixed().minimizer() + np.array([1.0, -1.0])
        g, first = fixed().gradient(w), fixed().loss(w)
        assert step_bound(g, fixed().hessian()) == pytest.approx(3 * max_step(fixed()), rel=1e-12)
        assert fixed().loss(w - 1.9 * g) - first == pytest.approx(-0.19, rel=1e-9)
        assert fixed().loss(w - 2.1 * g) - first == pytest.approx(0.21, rel=1e-9)

    def test_one_over_beta_is_pessimistic(self):
        """A27."""
        beta = diabetes().beta
        slow, fast = (gap(diabetes(), descend(diabetes(), c / beta, 2000)) for c in (1.0, 1.9))
        assert fast < slow / 2000

    def test_modes_beyond_half_the_edge_change_sign(self):
        """A14: lr 0.6 multiplies the component along (1, 1) by -0.8, the one along (1, -1) by 0.4."""
        start = fixed().minimizer() + np.array([3.0, 1.0])
        d = descend(fixed(), 0.6, 1, start) - fixed().minimizer()
        assert d == pytest.approx([2 * -0.8 + 0.4, 2 * -0.8 - 0.4], rel=1e-12)


@functools.cache
def descent():
    """Weights along 5000 steps of 1/beta on diabetes, from 0."""
    problem, seen = diabetes(), []
    minimize(
        problem,
        np.zeros(10),
        lambda w: ss.SGD(w, lr=1 / problem.beta),
        steps=5000,
        callback=lambda step, w, loss: seen.append(w.copy()),
    )
    return np.array(seen)


class TestRates:
    """A10, A11, A24 - A26 on diabetes with lr = 1/beta."""

    @pytest.fixture
    def gradient_norms(self):
        return np.array([np.linalg.norm(diabetes().gradient(w)) for w in descent()])

    @pytest.fixture
    def gaps(self):
        return np.array([gap(diabetes(), w) for w in descent()])

    @pytest.mark.parametrize(
        ("delta", "bound", "seen"), [(1e4, 546.1, 8), (1e2, 54609.5, 25), (1.0, 5460947.9, 1043)]
    )
    def test_iteration_bound(self, delta, bound, seen, gradient_norms, gaps):
        """|g|^2 <= delta for the best of t >= 2 beta gap_0 / delta steps."""
        assert 2 * diabetes().beta * gaps[0] / delta == pytest.approx(bound, rel=1e-4)
        first = int(np.argmax(gradient_norms**2 <= delta))
        assert first == pytest.approx(seen, abs=1)
        assert first <= bound

    def test_the_gradient_norm_falls_as_one_over_t(self, gradient_norms):
        """|g_t| <= beta D / (t + 1), the literal claim: true for a convex L and the last iterate."""
        D = np.linalg.norm(diabetes().minimizer())
        shares = gradient_norms * np.arange(1, 5002) / (diabetes().beta * D)
        assert shares.max() == pytest.approx(0.35267, abs=5e-6)
        assert (np.diff(gradient_norms) <= 1e-9 * gradient_norms[0]).all()

    def test_gaps(self, gaps):
        assert gaps[0] == pytest.approx(678511.669400, rel=1e-10)
        assert gaps[[1, 10, 100, 1000]] == pytest.approx(
            [152170.22, 6516.9979, 3234.4604, 69.923327], rel=1e-7
        )

    @pytest.mark.parametrize(
        ("bound", "worst"),
        [
            (lambda LD2, t: 2 * LD2 / (t + 1), 0.0444),
            (lambda LD2, t: 2 * LD2 / (t + 4), 0.1776),
            (lambda LD2, t: LD2 / (4 * t + 2), 0.2242),
        ],
        ids=["t+1", "t+4", "4t+2"],
    )
    def test_gap_bounds(self, bound, worst, gaps):
        """gap_t <= bound(beta D^2, t); worst is the closest that a gap comes to it."""
        LD2 = diabetes().beta * np.linalg.norm(diabetes().minimizer()) ** 2
        shares = gaps / bound(LD2, np.arange(5001))
        assert shares.max() == pytest.approx(worst, abs=1e-4)

    def test_the_gap_bound_without_the_square_is_false(self, gaps):
        unsquared = 2 * diabetes().beta * np.linalg.norm(diabetes().minimizer())
        assert unsquared == pytest.approx(11089.4, rel=1e-5)
        assert gaps[0] > unsquared

    def test_the_distance_never_grows(self):
        distances = np.linalg.norm(descent() - diabetes().minimizer(), axis=1)
        assert (np.diff(distances) <= 1e-12 * distances[0]).all()


class TestTuning:
    """A9, A15, A16: the best settings for a quadratic, and the steps that they take."""

    def test_figures(self):
        beta, mu = diabetes().beta, diabetes().mu
        assert tune_heavy_ball(beta, mu) == pytest.approx(
            (0.908267960722, 0.831418564090, 0.911821563734), rel=1e-8
        )
        assert tune_look_ahead(beta, mu).rate == pytest.approx(0.946760927554, rel=1e-8)
        kappa = diabetes().kappa
        assert tune_sgd(beta, mu) == pytest.approx(
            (2 / (beta + mu), 0.0, (kappa - 1) / (kappa + 1)), rel=1e-12
        )

    @pytest.mark.parametrize("tune", [tune_sgd, tune_heavy_ball, tune_look_ahead])
    def test_the_rate_is_the_spectral_radius_of_a_step(self, tune):
        """Of z^2 - (1 + a)(1 - s) z + a (1 - s) or z^2 - (1 + a - s) z + a, s = lr lambda."""
        beta, mu = 5.0, 0.01
        lr, a, rate = tune(beta, mu)
        radius = 0.0
        for s in lr * np.linspace(mu, beta, 2001):
            ahead = tune is tune_look_ahead
            b, c = ((1 + a) * (1 - s), a * (1 - s)) if ahead else (1 + a - s, a)
            radius = max(radius, *np.abs(np.roots([1.0, -b, c])))
        assert radius == pytest.approx(rate, abs=1e-7)  # double roots hold half the digits

    @pytest.mark.parametrize("tune", [tune_sgd, tune_heavy_ball, tune_look_ahead])
    @pytest.mark.parametrize(("beta", "mu"), [(1.0, 0.0), (1.0, 2.0), (math.inf, 1.0), (math.nan, 1.0)])
    def test_curvatures_that_are_none(self, tune, beta, mu):
        with pytest.raises(ValueError, match=r"beta, mu: got .*, expected finite numbers 0 < mu <= beta"):
            tune(beta, mu)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("GD 1/beta", 6371),
            ("GD 2/(beta+mu)", 3208),
            ("heavy ball", 203),
            ("NAG 1/beta", 348),
            ("NAG tuned", 300),
        ],
    )
    def test_steps_to_a_millionth_of_the_distance(self, name, expected):
        problem = diabetes()
        beta, mu, root = problem.beta, problem.mu, math.sqrt(problem.kappa)
        ball, ahead = tune_heavy_ball(beta, mu), tune_look_ahead(beta, mu)
        w = np.zeros(10)
        opt = {
            "GD 1/beta": lambda: ss.SGD(w, lr=1 / beta),
            "GD 2/(beta+mu)": lambda: ss.SGD(w, lr=tune_sgd(beta, mu).lr),
            "heavy ball": lambda: ss.Momentum(w, lr=ball.lr, momentum=ball.momentum),
            "NAG 1/beta": lambda: ss.NAG(w, lr=1 / beta, momentum=(root - 1) / (root + 1)),
            "NAG tuned": lambda: ss.NAG(w, lr=ahead.lr, momentum=ahead.momentum),
        }[name]()
        w_star = problem.minimizer()
        close = 1e-6 * np.linalg.norm(w_star)

        def arrived(step, w, loss):
            # NAG holds the look-ahead point x + a v; the count is of x.
            x = w - opt.momentum * opt.state["v"][0] if isinstance(opt, ss.NAG) else w
            return np.linalg.norm(x - w_star) <= close

        result = minimize(problem, w.copy(), opt, steps=7000, callback=arrived)
        assert result.stopped == "callback"
        assert result.steps == pytest.approx(expected, abs=1)

    @pytest.mark.parametrize("a", [0.0, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize(
        ("rule", "edge"),
        [(ss.Momentum, lambda a: 2 * (1 + a)), (ss.NAG, lambda a: (2 + 2 * a) / (1 + 2 * a))],
        ids=["heavy ball", "look ahead"],
    )
    def test_momentum_moves_the_edge(self, rule, edge, a):
        """To 2 (1 + a)/beta for the heavy ball, down to (2 + 2a)/((1 + 2a) beta) for the look-ahead."""

        def largest(share):
            problem = MSE(np.ones((1, 1)), np.zeros(1))  # one weight, beta = 1: the edge mode alone
            lr = share * edge(a)
            return abs(minimize(problem, np.ones(1), lambda w: rule(w, lr=lr, momentum=a), steps=2000).w[0])

        assert largest(0.995) < 1e-3
        assert largest(1.005) > 1e3
