"""Momentum and Nesterov's rule: their forms, rates, edges and traps (A15, A16, B18)."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

import samestep as ss
from samestep import theory
from text_functions import lessard, path, rosenbrock
from text_problems import diabetes


class TestForms:
    @staticmethod
    def schedules(k):
        return 0.2 / (1 + k), 0.9

    def test_the_heavy_ball_is_polyaks_form_also_under_a_schedule_and_torchs_is_not(self):
        problem = diabetes()
        ball, torch, polyak = (np.zeros(10) for _ in range(3))
        previous = polyak
        opts = [ss.Momentum(ball, lr=1.0, form="heavy_ball"), ss.Momentum(torch, lr=1.0, form="torch")]
        for k in range(50):
            lr, a = self.schedules(k)
            for opt in opts:
                opt.lr, opt.momentum = lr, a
                opt.step(problem.gradient(opt.params[0]))
            g = problem.gradient(polyak)
            polyak, previous = theory.polyak_step(polyak, previous, g, lr, a), polyak
        size = np.linalg.norm(ball)
        assert np.linalg.norm(ball - polyak) / size < 1e-13
        assert np.linalg.norm(ball - torch) / size == pytest.approx(0.172, abs=5e-4)

    @pytest.mark.parametrize(
        ("b", "ends", "loss"),
        [
            (0.9, (0.99513803, 0.99028019), 2.367680e-5),
            (0.5, (0.83385528, 0.69458124), 2.765785e-2),
            (0.0, (0.70440890, 0.49479485), 8.756927e-2),
        ],
    )
    def test_the_running_average_is_the_heavy_ball_with_a_smaller_lr(self, b, ends, loss):
        """Rosenbrock from (0.4, -0.2), 1000 steps, alpha = 0.001/(1 - b)."""
        problem, alpha = rosenbrock(), 0.001 / (1 - b)
        w, v = np.array([0.4, -0.2]), np.zeros(2)
        ball = np.array([0.4, -0.2])
        opt = ss.Momentum(ball, lr=alpha * (1 - b), momentum=b)
        for _ in range(1000):
            w, v = theory.ema_step(w, v, problem.gradient(w), alpha, b)
            opt.step(problem.gradient(ball))
        assert w == pytest.approx(ends, abs=5e-9)
        assert problem.loss(w) == pytest.approx(loss, rel=1e-6)
        assert w == pytest.approx(ball, abs=1e-14)

    @pytest.mark.parametrize("form", ["heavy_ball", "torch"])
    def test_it_comes_to_a_sum_and_no_average(self, form):
        for alternating, expected in ((False, -0.2), (True, -0.0105263158)):
            w = np.zeros(1)
            opt = ss.Momentum(w, lr=0.01, momentum=0.9, form=form)
            for k in range(400):
                g = -2.0 if alternating and k % 2 == 0 else 2.0
                before = w[0]
                opt.step(np.array([g]))
            assert w[0] - before == pytest.approx(expected, rel=1e-8)
            assert theory.terminal_step(0.01, 0.9, 2.0, alternating) == pytest.approx(expected, rel=1e-8)
        with pytest.raises(ValueError, match=r"momentum: got 1\.0"):
            theory.terminal_step(0.1, 1.0, 1.0)

    def test_nesterov_with_one_gradient_is_nesterov_with_two_points(self):
        """y = x + a v, x stepped as in the notes: first extend the step, then take the gradient."""
        problem, lr, a = diabetes(), 0.2, 0.9
        y, x, v = np.zeros(10), np.zeros(10), np.zeros(10)
        opt = ss.NAG(y, lr=lr, momentum=a)
        for _ in range(300):
            opt.step(problem.gradient(y))
            v = a * v - lr * problem.gradient(x + a * v)
            x = x + v
            assert np.linalg.norm(y - (x + a * v)) <= 1e-13 * np.linalg.norm(x)


class TestRates:
    def test_diabetes(self):
        problem = diabetes()
        curvatures = problem.eigenvalues
        plain = theory.tune_nesterov(problem.beta, problem.mu)
        ball = theory.tune_heavy_ball(problem.beta, problem.mu)
        ahead = theory.tune_look_ahead(problem.beta, problem.mu)
        assert theory.spectral_radius("momentum", curvatures, ball.lr, ball.momentum) == pytest.approx(
            0.911821563734, abs=1e-6
        )
        assert plain.rate == pytest.approx(0.953877266614, abs=1e-9)
        assert theory.spectral_radius("nag", curvatures, plain.lr, plain.momentum) == pytest.approx(
            plain.rate, abs=1e-6
        )
        assert theory.spectral_radius("nag", curvatures, ahead.lr, ahead.momentum) == pytest.approx(
            0.946760927554, abs=1e-6
        )

    @pytest.mark.parametrize(
        ("a", "ball", "ahead"),
        [(0.0, 2, 2), (0.5, 3, 1.5), (0.9, 3.8, 1.357143), (0.99, 3.98, 1.335570)],
    )
    def test_edges(self, a, ball, ahead):
        assert theory.heavy_ball_edge(2.0, a) * 2 == pytest.approx(ball, rel=1e-12)
        assert theory.look_ahead_edge(2.0, a) * 2 == pytest.approx(ahead, abs=5e-7)
        one = np.ones(1)
        for family, edge in (
            ("momentum", theory.heavy_ball_edge(1.0, a)),
            ("nag", theory.look_ahead_edge(1.0, a)),
        ):
            assert theory.spectral_radius(family, one, 0.999 * edge, a) < 1
            assert theory.spectral_radius(family, one, 1.001 * edge, a) > 1

    @pytest.mark.parametrize("ahead", [0.0, 0.3, 0.95, 1.5])
    def test_the_edge_with_a_momentum_next(self, ahead):
        edge = theory.look_ahead_edge(1.0, 0.9, ahead)
        for share, sign in ((0.999, -1), (1.001, 1)):
            M = theory.mode_matrices("nag", np.ones(1), share * edge, 0.9, ahead)
            assert sign * (np.abs(np.linalg.eigvals(M)).max() - 1) > 0

    @pytest.mark.parametrize(
        ("message", "call"),
        [
            ("beta: got 0", lambda: theory.sgd_edge(0)),
            (r"beta, mu: got 1.0, 0.0, expected finite", lambda: theory.tune_nesterov(1.0, 0.0)),
            ("momentum: got 1.0, expected 0 <= momentum < 1", lambda: theory.heavy_ball_edge(1.0, 1.0)),
            ("momentum: got -0.1", lambda: theory.look_ahead_edge(1.0, -0.1)),
            ("momentum_next: got nan", lambda: theory.look_ahead_edge(1.0, 0.1, np.nan)),
        ],
    )
    def test_bad_arguments(self, message, call):
        with pytest.raises(ValueError, match=message):
            call()

    def test_nesterovs_schedule_keeps_its_bound(self):
        """gap(x_t) <= 2 beta D^2/(t+1)^2; the momentum of the next step goes in as momentum_next."""
        problem = diabetes()
        D = np.linalg.norm(problem.minimizer())
        w = np.zeros(10)
        opt = ss.NAG(w, lr=1 / problem.beta, momentum=0.0)
        momentum, worst = 0.0, 0.0
        for t, ahead in enumerate(itertools.islice(theory.nesterov_momenta(), 3000), start=1):
            opt.momentum, opt.momentum_next = momentum, ahead
            opt.step(problem.gradient(w))
            x = w - ahead * opt.state["v"][0]
            d = problem.Phi @ (x - problem.minimizer())
            worst = max(worst, d @ d / 2 / theory.accelerated_gap_bound(t, problem.beta, D))
            momentum = ahead
        assert worst == pytest.approx(0.18702, abs=5e-5)


class TestLessard:
    """A strongly convex function, m = 1 and L = 25, on which the tuning for quadratics fails."""

    def test_the_cycle_is_one_in_rationals(self):
        lr, a = Fraction(1, 9), Fraction(4, 9)
        cycle = [Fraction(n, 1225) for n in (2592, 792, -2208)]

        def gradient(x):
            return 25 * x if x < 1 else x + 24 if x < 2 else 25 * x - 24

        for k in range(3):
            before, x, after = cycle[k], cycle[(k + 1) % 3], cycle[(k + 2) % 3]
            assert after == x - lr * gradient(x) + a * (x - before)
        assert theory.tune_heavy_ball(25.0, 1.0) == pytest.approx((1 / 9, 4 / 9, 2 / 3), rel=1e-14)

    @pytest.mark.parametrize("start", [3.07, 3.3, 3.46])
    def test_the_heavy_ball_cycles_for_ever(self, start):
        tuned = theory.tune_heavy_ball(25.0, 1.0)
        ends = path(lessard(), lambda w: ss.Momentum(w, tuned.lr, tuned.momentum), 3000, [start])[-3:, 0]
        assert sorted(ends) == pytest.approx([-1.802449, 0.646531, 2.115918], abs=5e-7)

    @pytest.mark.parametrize("start", [3.0, 3.6])
    def test_from_other_starts_it_converges(self, start):
        tuned = theory.tune_heavy_ball(25.0, 1.0)
        end = path(lessard(), lambda w: ss.Momentum(w, tuned.lr, tuned.momentum), 3000, [start])[-1]
        assert abs(end[0]) < 1e-12

    def test_other_rules_converge_from_where_it_cycles(self):
        for make in (
            lambda w: ss.SGD(w, lr=theory.tune_sgd(25.0, 1.0).lr),
            lambda w: ss.NAG(w, lr=1 / 25, momentum=4 / 6),
        ):
            assert abs(path(lessard(), make, 3000, [3.3])[-1, 0]) < 1e-12


class TestScheduledMomentum:
    """momentum and momentum_next as callables of t: the bits of setting them by hand before each step."""

    MOMENTA = (0.0, *itertools.islice(theory.nesterov_momenta(), 60))

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(
        ("kind", "form", "scheduled"),
        [
            (ss.NAG, "look_ahead", {"momentum": True, "momentum_next": True}),
            (ss.NAG, "look_ahead", {"momentum": True}),  # the next one follows what is scheduled
            (ss.NAG, "look_ahead", {"momentum_next": True}),
            (ss.NAG, "torch", {"momentum": True}),
            (ss.Momentum, "heavy_ball", {"momentum": True}),
            (ss.Momentum, "torch", {"momentum": True}),
        ],
    )
    def test_equals_setting_it_by_hand(self, kind, form, scheduled, dtype, backend):
        a, problem = self.MOMENTA, diabetes(dtype=dtype)
        given = {
            "momentum": lambda t: a[t - 1] if "momentum" in scheduled else 0.5,
            "momentum_next": lambda t: a[t],
        }
        schedules = {name: given[name] for name in scheduled}
        lr = 1 / problem.beta
        w, by_hand = np.zeros(10, dtype), np.zeros(10, dtype)
        opt = kind(w, lr, form=form, backend=backend, **{"momentum": 0.5, **schedules})
        plain = kind(by_hand, lr, momentum=0.5, form=form, backend=backend)
        for t in range(1, 61):
            for name, schedule in schedules.items():
                setattr(plain, name, schedule(t))
            opt.step(problem.gradient(w))
            plain.step(problem.gradient(by_hand))
            assert w.tobytes() == by_hand.tobytes()
            assert dict(opt.groups[0]) == dict(plain.groups[0])
        assert opt.momentum == (a[59] if "momentum" in schedules else 0.5)

    def test_nesterovs_bound_in_one_line(self):
        a, problem = self.MOMENTA, diabetes()
        done = ss.minimize(
            problem,
            np.zeros(10),
            lambda w: ss.NAG(w, 1 / problem.beta, momentum=lambda t: a[t - 1], momentum_next=lambda t: a[t]),
            steps=60,
        )
        x = done.w - done.optimizer.momentum_next * done.optimizer.state["v"][0]
        gap = problem.loss(x) - problem.optimum
        distance = float(np.linalg.norm(problem.minimizer()))
        assert 0 < gap < theory.accelerated_gap_bound(60, problem.beta, distance)

    def test_a_schedule_out_of_range_changes_nothing(self):
        w = np.zeros(1)
        opt = ss.NAG(w, 0.5, momentum=lambda t: 0.5 if t < 2 else -0.5)
        opt.step(np.ones(1))
        before = w.tobytes()
        with pytest.raises(ValueError, match=r"momentum: got -0\.5"):
            opt.step(np.ones(1))
        assert (w.tobytes(), opt.t) == (before, 1)
        opt.momentum = 0.25  # in the place of the schedule
        opt.step(np.ones(1))
        assert (opt.momentum, opt.momentum_next) == (0.25, 0.25)
        with pytest.raises(ValueError, match="optimizer: has a schedule"):
            theory.check_step_size(diabetes(), ss.NAG(w, 0.5, momentum=lambda t: 0.5))

    def test_a_saved_one_holds_the_value_of_its_last_step(self):
        a, problem = self.MOMENTA, diabetes()
        opt = ss.NAG(np.zeros(10), 0.1, momentum=lambda t: a[t - 1], momentum_next=lambda t: a[t])
        for _ in range(3):
            opt.step(problem.gradient(opt.params[0]))
        assert opt.state_dict()["hyper"]["momentum"] == a[2]
        assert opt.state_dict()["hyper"]["momentum_next"] == a[3]


def test_switches_take_no_text():
    with pytest.raises(TypeError, match=r"^alternating: got 'no', expected True or False"):
        theory.terminal_step(0.1, 0.5, 1.0, alternating="no")
