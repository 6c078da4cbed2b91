"""What steps gain and how fast gaps close, convex or not (A10, A11, A22 - A26, B17)."""

import functools
import itertools

import numpy as np
import pytest

import samestep as ss
from samestep import theory
from text_functions import huber, path, rosenbrock, wells
from text_problems import diabetes, fixed


@functools.cache
def descent_of_wells():
    """3000 steps of 1/beta = 1/2 on a loss that is not convex."""
    w = path(wells(), lambda w: ss.SGD(w, lr=0.5), 3000, [3.0, -2.0, 1.5])
    losses = np.array([wells().loss(x) for x in w])
    squared = np.array([wells().gradient(x) @ wells().gradient(x) for x in w])
    return w, losses, squared


class TestUpdate:
    """A3: w - lr g. The notes print w - lr grad(Phi'Phi w - Phi'y), the gradient of the gradient: lr H."""

    def test_the_printed_update_is_a_matrix(self):
        problem, w = diabetes(), np.zeros(10)
        literal = w - 0.1 * problem.hessian()
        assert literal.shape == (10, 10)  # NumPy broadcasts without a word
        with pytest.raises(ValueError, match=r"grads: .*\(10, 10\)"):
            ss.SGD(w, lr=0.1).step(problem.hessian())
        assert not w.any()
        # One weight hides it: 1 x 1 broadcasts to a step that does not depend on y at all.
        for y in (1.0, 7.0):
            one = ss.problems.MSE(np.array([[2.0]]), np.array([y]))
            assert (np.zeros(1) - 0.1 * one.hessian()[0])[0] == -0.4
            assert (np.zeros(1) - 0.1 * one.gradient(np.zeros(1)))[0] == pytest.approx(0.2 * y)

    @pytest.mark.parametrize("t", [1, 2, 17])
    def test_errors_are_multiplied_by_a_power_of_a_matrix(self, t):
        """w_t - w* = (I - lr H)^t (w_0 - w*)."""
        problem, w0 = diabetes(), np.linspace(-1, 1, 10)
        error = path(problem, lambda w: ss.SGD(w, lr=0.3), t, w0)[-1] - problem.minimizer()
        M = np.linalg.matrix_power(np.eye(10) - 0.3 * problem.hessian(), t)
        assert error == pytest.approx(M @ (w0 - problem.minimizer()), rel=1e-10)


class TestIterationsBound:
    @pytest.mark.parametrize(("delta", "bound"), [(1e4, 546.1), (1e2, 54609.5), (1.0, 5460947.9)])
    def test_diabetes(self, delta, bound):
        """The steps that it bounds are counted in test_theory.py."""
        assert theory.iterations_bound(diabetes().beta, 678511.669400, delta) == pytest.approx(
            bound, rel=1e-4
        )

    def test_the_scale_of_the_loss_cancels_out(self):
        """c scales beta and the gap, c^2 the squared gradient."""
        once, twice = (
            theory.iterations_bound(p.beta, p.loss(np.zeros(2)) - p.optimum, delta)
            for p, delta in ((fixed(), 1.0), (fixed(scale="sum"), 4.0))
        )
        assert once == pytest.approx(twice, rel=1e-13)

    def test_not_convex(self):
        _, losses, squared = descent_of_wells()
        assert losses[0] == pytest.approx(2.3923076923, rel=1e-10)
        t = np.arange(1, 3001)
        assert (np.minimum.accumulate(squared)[:-1] <= 2 * 2 * losses[0] / t).all()
        assert squared[:3] == pytest.approx([0.10987, 0.14710, 0.20742], abs=1e-5)  # the last can grow
        assert theory.iterations_bound(2.0, losses[0], 1e-2) == pytest.approx(956.9, abs=0.05)
        assert int(np.argmax(squared <= 1e-2)) == 12

    def test_the_literal_bracket_is_no_number(self):
        """2 beta L(w0 - L*)/delta: L at the point w0 - L*, and another bound altogether."""
        literal = 2 * 3 * fixed().loss(np.zeros(2) - fixed().optimum) / 1.0
        right = theory.iterations_bound(3.0, fixed().loss(np.zeros(2)) - fixed().optimum, 1.0)
        assert literal != pytest.approx(right, rel=1e-2)

    @pytest.mark.parametrize("arguments", [(0.0, 1, 1), (1, -1.0, 1), (1, 1, 0.0), (np.nan, 1, 1)])
    def test_bad_arguments(self, arguments):
        with pytest.raises(ValueError, match=r"(beta|gap|delta): got .*, expected a"):
            theory.iterations_bound(*arguments)


class TestGapBounds:
    def test_three_of_them_on_diabetes(self):
        """Each against the run is in test_theory.py; here the functions against the formulas' figures."""
        beta, D = diabetes().beta, 1377.841039
        t = np.arange(5001)
        bounds = theory.gap_bounds(t, beta, D)
        assert bounds.sharp[0] == pytest.approx(beta * D * D / 2)
        assert (bounds.sharp <= bounds.nesterov * (1 + 1e-15)).all()
        assert (bounds.nesterov < bounds.notes).all()
        run = ss.minimize(diabetes(), np.zeros(10), lambda w: ss.SGD(w, lr=1 / beta), steps=5000)
        gaps = run.losses - diabetes().optimum
        worst = [float((gaps / bound).max()) for bound in bounds]
        assert worst == pytest.approx([0.0444, 0.1776, 0.2242], abs=5e-5)
        assert int((gaps / bounds.sharp).argmax()) == 234

    @pytest.mark.parametrize("N", [1, 10, 100])
    def test_huber_attains_the_sharp_one(self, N):
        problem = huber(1 / (2 * N + 1))
        last = problem.loss(path(problem, lambda w: ss.SGD(w, lr=1.0), N, [1.0])[-1])
        assert last == pytest.approx(theory.gap_bounds(N, 1.0, 1.0).sharp, rel=1e-12)

    @pytest.mark.parametrize("N", [1, 10, 100])
    def test_huber_attains_the_bound_of_the_gradient(self, N):
        problem = huber(1 / (N + 1))
        last = problem.gradient(path(problem, lambda w: ss.SGD(w, lr=1.0), N, [1.0])[-1])
        assert abs(last[0]) == pytest.approx(theory.gradient_bound(N, 1.0, 1.0), rel=1e-12)

    @pytest.mark.parametrize(
        "bound", [theory.gap_bounds, theory.gradient_bound, theory.accelerated_gap_bound]
    )
    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            ("beta: got 0.0", (1, 0.0, 1.0)),
            ("distance: got -1.0", (1, 1.0, -1.0)),
            ("t: got -1", (-1, 1.0, 1.0)),
            ("distance: got nan", (1, 1.0, np.nan)),
            (r"t: got nan", (np.nan, 1.0, 1.0)),
            (r"t: got 1\.0 to inf", (np.array([1.0, np.inf]), 1.0, 1.0)),
            (r"t: got shape \(0,\)", (np.array([], int), 1.0, 1.0)),
        ],
    )
    def test_bad_arguments(self, bound, message, arguments):
        with pytest.raises(ValueError, match=message):
            bound(*arguments)

    @pytest.mark.parametrize(
        "bound", [theory.gap_bounds, theory.gradient_bound, theory.accelerated_gap_bound]
    )
    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
    def test_no_width_of_the_steps_overflows(self, bound, dtype):
        t = min(np.iinfo(dtype).max, 4 * 10**9)
        assert (
            np.ravel(bound(np.array([t], dtype), 1.0, 1.0)).tolist() == np.ravel(bound(t, 1.0, 1.0)).tolist()
        )
        assert (np.array(bound(np.array([t], dtype), 1.0, 1.0)) > 0).all()
        assert type(np.ravel(bound(dtype(t), 1.0, 1.0)).tolist()[0]) is float

    def test_far_away_every_bound_is_infinite(self):
        assert theory.gap_bounds(1, 1.0, 1e200) == (np.inf, np.inf, np.inf)
        assert theory.accelerated_gap_bound(1, 1.0, 1e200) == np.inf


class TestDescent:
    def test_holds_at_every_step_of_a_loss_that_is_not_convex(self):
        w, losses, _ = descent_of_wells()
        for before, after, x in zip(losses, losses[1:], w, strict=False):
            assert theory.descent_ok(before, after, wells().gradient(x), lr=0.5, beta=2.0)

    def test_fails_for_a_beta_that_is_too_small(self):
        w, losses, _ = descent_of_wells()
        assert not all(
            theory.descent_ok(before, after, wells().gradient(x), lr=0.5, beta=0.2)
            for before, after, x in zip(losses, losses[1:], w, strict=False)
        )

    def test_is_an_equality_along_the_steepest_direction(self):
        w, lr = fixed().minimizer() + np.array([1.0, 1.0]), 0.2
        g = fixed().gradient(w)
        before, after = fixed().loss(w), fixed().loss(w - lr * g)
        assert theory.descent_ok(before, after, g, lr, beta=3.0)
        assert not theory.descent_ok(before, after, g, lr, beta=2.99)
        assert not theory.descent_ok(before, float("nan"), g, lr, beta=3.0)

    def test_one_over_beta_gains_most(self):
        """The guaranteed gain lr (1 - lr beta/2)|g|^2 has its maximum, |g|^2/(2 beta), at 1/beta."""
        lr = np.linspace(0, 1, 2001)
        gain = lr * (1 - lr * 2.0 / 2)
        assert lr[gain.argmax()] == 0.5
        assert gain.max() == 1 / (2 * 2.0)

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match=r"beta: got -1\.0"):
            theory.descent_ok(1.0, 0.0, np.ones(1), 0.1, -1.0)


class TestBacktracking:
    @pytest.mark.parametrize("first", [1.0, 7.3])
    def test_every_step_lies_above_half_of_one_over_beta(self, first):
        problem, w = diabetes(), np.zeros(10)
        opt = ss.SGD(w, lr=first)
        for _ in range(50):
            g, before = problem.gradient(w), problem.loss(w)
            opt.lr = theory.backtracking(problem.loss, w, g, lr=first)
            assert opt.lr > 0.5 / problem.beta
            opt.step(g)
            assert problem.loss(w) <= before - opt.lr / 2 * (g @ g) * (1 - 1e-9)
        assert problem.loss(w) - problem.optimum < 5000

    def test_one_over_beta_passes_at_once(self):
        for w in (np.zeros(10), np.linspace(-500, 500, 10)):
            lr = 1 / diabetes().beta
            assert theory.backtracking(diabetes().loss, w, diabetes().gradient(w), lr) == lr

    def test_descends_where_beta_is_not_known(self):
        problem, w = rosenbrock(), np.array([-1.2, 1.0])
        opt = ss.SGD(w, lr=1.0)
        for _ in range(2000):
            g = problem.gradient(w)
            opt.lr = theory.backtracking(problem.loss, w, g)
            opt.step(g)
        assert problem.loss(w) < 1e-3

    def test_at_a_minimum(self):
        assert theory.backtracking(lambda w: float(w @ w), np.zeros(2), np.zeros(2), lr=3.0) == 3.0

    @pytest.mark.parametrize(
        ("message", "options"),
        [
            ("lr: got 0.0", {"lr": 0.0}),
            ("shrink: got 1.0", {"shrink": 1.0}),
            ("g: no step along it lowered the loss", {"g": -np.ones(2)}),
            ("g: no step along it lowered the loss nan", {"loss": lambda w: float("nan")}),
        ],
    )
    def test_bad_arguments(self, message, options):
        arguments = {"loss": lambda w: float(w @ w), "w": np.ones(2), "g": 2 * np.ones(2)} | options
        with pytest.raises(ValueError, match=message):
            theory.backtracking(**arguments)


class TestSchedules:
    def test_a_constant_step_stays_away_and_one_over_t_arrives(self):
        """B17. f = E (w - x)^2/2 over x = -1, 1: noise that does not die at the minimum, 0."""

        def distances(schedule):
            rng, w = np.random.RandomState(3), np.full(200, 2.0)
            opt = ss.SGD(w, lr=schedule)
            for _ in range(2000):
                opt.step(w - rng.choice([-1.0, 1.0], 200))
            return np.sqrt(np.mean(w**2))

        constant = distances(ss.schedules.constant(0.1))
        assert constant == pytest.approx(np.sqrt(0.1 / 1.9), rel=0.15)  # lr sigma^2/(2 - lr)
        assert distances(ss.schedules.inverse_time(1.0, decay=1.0)) == pytest.approx(
            1 / np.sqrt(2000), rel=0.15
        )

    def test_a_step_that_shrinks_too_fast_stops_short(self):
        """w+ = (1 - lr_k) w: the product stays above 0 when the sum of lr_k is finite."""
        w = np.array([1.0])
        opt = ss.SGD(w, lr=0.5)
        for k in range(2000):
            opt.lr = 0.5 * 0.5**k
            opt.step(w.copy())
        assert w[0] > 0.28

    def test_nesterovs_momenta(self):
        momenta = list(itertools.islice(theory.nesterov_momenta(), 1000))
        assert momenta[0] == 0
        assert (np.diff(momenta) > 0).all()
        assert 1 - momenta[-1] == pytest.approx(3 / 1002, rel=1e-2)

    def test_only_one_thing_is_called_inverse_time(self):
        assert ss.schedules.inverse_time(1.0, decay=1.0)(1) == 1.0
        assert not hasattr(theory, "inverse_time")

    @pytest.mark.parametrize(
        ("error", "message", "make"),
        [
            (ValueError, "lr: got nan, expected a finite", lambda s: s.constant(np.nan)),
            (TypeError, "lr: got 'a', expected a number", lambda s: s.constant("a")),
            (ValueError, "lr: got -1.0", lambda s: s.step(-1.0, every=2)),
            (ValueError, "factor: got nan", lambda s: s.step(1.0, every=2, factor=np.nan)),
            (TypeError, "every: got 2.5, expected a whole number", lambda s: s.step(1.0, every=2.5)),
            (ValueError, "lr: got inf", lambda s: s.cosine(np.inf, steps=2)),
            (ValueError, "lowest: got -0.5", lambda s: s.cosine(1.0, steps=2, lowest=-0.5)),
            (TypeError, "steps: got nan, expected a whole number", lambda s: s.cosine(1.0, steps=np.nan)),
            (TypeError, "steps: got nan, expected a whole number", lambda s: s.warm_up(1.0, steps=np.nan)),
            (ValueError, "schedule: got -1.0", lambda s: s.warm_up(-1.0, steps=2)),
            (ValueError, "lr: got nan", lambda s: s.inverse_time(np.nan, decay=1.0)),
            (ValueError, "decay: got -1.0, expected a finite", lambda s: s.inverse_time(1.0, decay=-1)),
        ],
    )
    def test_bad_arguments(self, error, message, make):
        with pytest.raises(error, match=message):
            make(ss.schedules)

    def test_whole_numbers_of_numpy(self):
        assert ss.schedules.step(1.0, every=np.int64(2))(3) == 0.1
