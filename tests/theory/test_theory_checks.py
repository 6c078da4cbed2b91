"""check_step_size, check_run and minimize(check=True): what a user is told, on both sides of each edge."""

import dataclasses
import warnings
from functools import partial

import numpy as np
import pytest

import samestep as ss
from samestep import theory
from text_functions import Sine, huber, interpolating, lessard, logistic, wells
from text_problems import diabetes, fixed

# Every rule with an edge, in each of its forms, with a momentum: the edge times beta.
EDGES = {
    "SGD": (ss.SGD, 2.0),
    "heavy ball": (partial(ss.Momentum, momentum=0.9), 3.8),
    "heavy ball, torch": (partial(ss.Momentum, momentum=0.9, form="torch"), 3.8),
    "NAG": (partial(ss.NAG, momentum=0.9), 3.8 / 2.8),
    "NAG, torch": (partial(ss.NAG, momentum=0.9, form="torch"), 3.8 / 2.8),
}
RULES = pytest.mark.parametrize("rule", EDGES)
SCALES = pytest.mark.parametrize("scale", ["half_sum", "half_mean", "mean", "sum"])
ADAPTIVE = {
    "AdaGrad": (ss.AdaGrad, 1.0),
    "RMSProp": (ss.RMSProp, 10**0.5),
    "Adam": (ss.Adam, 0.1 / np.sqrt(0.001 * (1 - 0.81 / 0.999))),
}


def run(problem, make, steps, **options):
    return ss.minimize(problem, np.zeros(problem.dimension), make, steps=steps, **options)


class TestStepSize:
    @RULES
    @SCALES
    def test_just_below_and_just_above_on_diabetes(self, rule, scale):
        """What it says, and that the run does it: 4000 steps, as 0.1 % is a slow way out."""
        make, times_beta = EDGES[rule]
        problem = diabetes(scale)
        for share in (0.999, 1.001):
            lr = share * times_beta / problem.beta
            check = theory.check_step_size(problem, make(np.zeros(10), lr=lr))
            assert check.edge == pytest.approx(times_beta / problem.beta, rel=1e-12)
            assert check.factor == pytest.approx(share, rel=1e-12)
            assert check.below is (share < 1)
            assert check.cap is None
            assert ("stable" if share < 1 else "does not converge") in str(check)
            done = run(problem, partial(make, lr=lr), 4000, record_every=4000)
            start = done.losses[0] - problem.optimum
            assert bool(done.loss - problem.optimum < 1e-3 * start) is (share < 1)
            assert done.diverged is (share > 1)

    @pytest.mark.parametrize("rule", ADAPTIVE)
    def test_adaptive_rules_have_no_edge_but_a_cap(self, rule):
        make, cap = ADAPTIVE[rule]
        for lr in (1e-3, 1e3):
            check = theory.check_step_size(diabetes(), make(np.zeros(10), lr=lr))
            assert (check.edge, check.below, check.factor) == (None, None, None)
            assert check.cap == pytest.approx(cap, rel=1e-12)
            assert "no fixed edge" in str(check)
            assert f"{cap * lr:.4g} in a step" in str(check)

    @pytest.mark.parametrize("make", [ss.AdaGrad, ss.RMSProp])
    @pytest.mark.parametrize("placement", ["inside", "outside"])
    def test_what_suffices_for_an_adaptive_rule(self, make, placement):
        """A large eps is a fixed step lr/eps: below the edge of that one every step lowers the loss."""
        smallest = 4.0 if placement == "outside" else 2.0
        for share in (0.99, 1.2):
            lr = share * 2 * smallest / diabetes().beta
            rule = partial(make, lr=lr, eps=4.0, eps_placement=placement)
            check = theory.check_step_size(diabetes(), rule(np.zeros(10)))
            assert check.sufficient == pytest.approx(2 * smallest / diabetes().beta, rel=1e-12)
            losses = run(diabetes(), rule, 3000).losses
            if share < 1:
                assert (np.diff(losses) <= 1e-9 * losses[0]).all()
                assert "every step lowers the loss" in str(check)
            else:
                assert "sure to lower the loss only below" in str(check)

    def test_beyond_what_suffices_a_step_can_climb(self):
        """RMSProp forgets: near the minimum its steps come to lr/eps, beyond 2/beta."""
        problem, w0 = fixed(), fixed().minimizer() + 1e-3
        climbed = []
        for share in (0.99, 1.2):
            lr = share * 2 * 4.0 / problem.beta
            done = ss.minimize(
                problem, w0, lambda w, lr=lr: ss.RMSProp(w, lr=lr, eps=4.0, eps_placement="outside"), steps=50
            )
            climbed.append(bool((np.diff(done.losses) > 1e-12).any()))
        assert climbed == [False, True]

    def test_a_momentum_next_moves_the_edge(self):
        opt = ss.NAG(np.zeros(10), lr=0.1, momentum=0.9, momentum_next=0.3)
        check = theory.check_step_size(diabetes(), opt)
        assert check.edge == pytest.approx(3.8 / (2.2 * diabetes().beta), rel=1e-12)
        assert f"the edge {check.edge:.6g} = (2+2a)/((1+a+a')beta)" in str(check)
        plain = theory.check_step_size(diabetes(), ss.NAG(np.zeros(10), lr=0.1, momentum=0.9))
        assert "= (2+2a)/((1+2a)beta)" in str(plain)

    def test_a_momentum_of_1_is_never_stable(self):
        for make in (ss.Momentum, ss.NAG):
            check = theory.check_step_size(diabetes(), make(np.zeros(10), lr=1e-9, momentum=1.0))
            assert (check.edge, check.below, check.factor) == (0.0, False, np.inf)
            assert "no step size is stable" in str(check)

    def test_a_loss_without_curvature_has_no_edge_to_cross(self):
        flat = ss.problems.MSE(np.zeros((3, 2)), np.ones(3))
        check = theory.check_step_size(flat, ss.SGD(np.zeros(2), lr=1e300))
        assert (check.edge, check.below, check.factor) == (np.inf, True, 0.0)

    def test_the_edge_itself_is_not_below(self):
        check = theory.check_step_size(fixed(), ss.SGD(np.zeros(2), lr=2 / fixed().beta))
        assert check.below is False

    def test_bad_arguments(self):
        with pytest.raises(TypeError, match="optimizer: got float, expected an optimizer"):
            theory.check_step_size(fixed(), 0.1)
        with pytest.raises(TypeError, match="problem: got Function without a beta"):
            theory.check_step_size(wells(), ss.SGD(np.zeros(3), lr=0.1))
        for beta in (-1.0, np.nan, np.inf):
            problem = wells()
            problem.beta = beta
            with pytest.raises(ValueError, match=r"problem.beta: got"):
                theory.check_step_size(problem, ss.SGD(np.zeros(3), lr=0.1))
        with pytest.raises(ValueError, match="batch_size: got 0"):
            theory.check_step_size(fixed(), ss.SGD(np.zeros(2), lr=0.1), batch_size=0)

    @pytest.mark.parametrize(
        ("make", "named"),
        [
            (partial(ss.SGD, weight_decay=0.1), "weight_decay"),
            (partial(ss.SGD, clip_norm=1.0), "clip_norm"),
            (partial(ss.SGD, clip_value=1.0), "clip_value"),
            (partial(ss.SGD, maximize=True), "maximize"),
            (partial(ss.Adam, amsgrad=True), "amsgrad"),
        ],
    )
    def test_options_that_change_the_step_are_refused(self, make, named):
        problem = fixed()
        with pytest.raises(ValueError, match=f"optimizer: has {named}; the bounds hold for the rule alone"):
            theory.check_step_size(problem, make(np.zeros(2), lr=0.1))
        with pytest.raises(ValueError, match=f"optimizer: has {named}"):
            theory.check_run(problem, run(problem, partial(make, lr=0.1), 3))

    def test_schedules_and_groups_are_refused(self):
        w = np.zeros(2)
        with pytest.raises(ValueError, match="optimizer: has a schedule"):
            theory.check_step_size(fixed(), ss.SGD(w, lr=lambda t: 0.1 / t))
        with pytest.raises(ValueError, match="optimizer: has several groups"):
            theory.check_step_size(fixed(), ss.SGD([{"params": w}, {"params": w.copy()}], lr=0.1))

    @SCALES
    def test_batches_have_the_edge_of_their_mean_step(self, scale):
        """E w follows the mean step; in the sums' scales that is the m/N-th part of the full one."""
        problem = diabetes(scale)
        share = 13 / 442 if "sum" in scale else 1.0
        check = theory.check_step_size(problem, ss.SGD(np.zeros(10), lr=1e-3), batch_size=13)
        assert check.edge == pytest.approx(2 / (share * problem.beta), rel=1e-12)
        assert check.sufficient is None
        assert theory.check_step_size(problem, ss.RMSProp(np.zeros(10), lr=1.0), 13).sufficient is None

    def test_batches_diverge_in_the_mean_beyond_it(self):
        problem = diabetes()
        ends = []
        for factor in (0.3, 1.2):
            lr = factor * 2 / (problem.beta * 32 / 442)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                done = run(
                    problem,
                    partial(ss.SGD, lr=lr),
                    300,
                    batch_size=32,
                    sampling="with_replacement",
                    check=True,
                )
            ends.append((len(told), done.diverged))
        assert ends == [(0, False), (1, True)]

    def test_any_problem_that_knows_its_beta(self):
        problem = wells()
        problem.beta = 2.0
        assert theory.check_step_size(problem, ss.SGD(np.zeros(3), lr=0.5)).factor == 0.5


def own(problem, **known):
    """One of the tests' functions, with what is known of it."""
    return ss.problems.Function(problem.loss, problem.gradient, problem.dimension, **known)


class TestOtherLosses:
    """What a quadratic does at its edge no other loss need do: what is said of it is what beta promises."""

    def test_logistic_regression_converges_far_above_the_edge(self):
        """From its minimum, where it is flatter than beta, it is not driven away."""
        steep = logistic()
        for share in (1.1, 1.2):
            lr = share * 2 / steep.beta
            with pytest.warns(RuntimeWarning, match="diverges on a quadratic of this curvature") as seen:
                done = ss.minimize(steep, np.zeros(5), partial(ss.SGD, lr=lr), steps=2000, check=True)
            assert np.linalg.norm(steep.gradient(done.w)) < 1e-15
            check = theory.check_step_size(steep, done.optimizer)
            assert (check.below, check.converges) == (False, None)
            assert "does not converge" not in str(check) == str(seen[0].message)
            assert str(check).endswith("any smooth loss is sure to be lowered by every step only below it")

    def test_lessards_function_is_not_called_stable(self):
        problem = own(lessard(), beta=25.0, mu=1.0)
        opt = ss.Momentum(np.array([3.3]), lr=1 / 9, momentum=4 / 9)
        check = theory.check_step_size(problem, opt)
        assert (check.below, check.converges) == (True, None)
        assert check.factor == pytest.approx(0.961538, abs=5e-7)
        assert check.from_rest == pytest.approx(2 * (5 / 9) / 25, rel=1e-12)
        assert "stable on a quadratic of this curvature; of another loss nothing is known above" in str(check)
        slow = theory.check_step_size(problem, ss.Momentum(np.zeros(1), lr=0.04, momentum=4 / 9))
        assert "this loss never rises above its start, from rest" in str(slow)

    def test_gradient_descent_lowers_every_smooth_loss(self):
        check = theory.check_step_size(own(wells(), beta=2.0), ss.SGD(np.zeros(3), lr=0.99))
        assert (check.below, check.converges, check.sufficient) == (True, None, 1.0)
        assert "any smooth loss is lowered by every step" in str(check)

    @pytest.mark.parametrize(("known", "from_rest"), [({}, None), ({"convex": True}, 0.5), ({"mu": 0}, 0.5)])
    def test_nesterovs_rule_asks_for_a_convex_loss(self, known, from_rest):
        opt = ss.NAG(np.zeros(3), lr=0.1, momentum=0.9)
        check = theory.check_step_size(own(wells(), beta=2.0, **known), opt)
        assert check.from_rest == from_rest
        assert ("if it is convex, hand that in" in str(check)) is (not known)

    def test_only_a_quadratic_has_a_verdict(self):
        for lr, converges in ((0.0, False), (0.6, True), (0.7, False)):
            check = theory.check_step_size(fixed(), ss.SGD(np.zeros(2), lr=lr))
            assert (check.quadratic, check.converges) == (True, converges)
        assert "stay where they are" in str(theory.check_step_size(fixed(), ss.SGD(np.zeros(2), lr=0.0)))
        assert theory.check_step_size(fixed(), ss.Adam(np.zeros(2))).converges is None

    def test_batches_are_stable_in_the_mean_alone(self):
        """Below the edge their spread decides: online steps at 0.95 of it diverge."""
        problem = diabetes("half_mean")
        opt = ss.SGD(np.zeros(10), lr=1.9 / problem.beta)
        check = theory.check_step_size(problem, opt, batch_size=1)
        assert (check.below, check.converges) == (True, None)
        assert "stable in the mean; the spread of batches can need a smaller one" in str(check)
        above = theory.check_step_size(problem, ss.SGD(np.zeros(10), lr=2.1 / problem.beta), batch_size=1)
        assert (above.below, above.converges) == (False, None)
        assert "not below it, the mean over independent batches diverges; lower lr" in str(above)
        other = theory.check_step_size(logistic(), ss.SGD(np.zeros(5), lr=0.1), batch_size=1)
        assert other.sufficient is None
        assert "nothing is known along batches" in str(other)

    def test_batches_can_converge_above_the_edge(self):
        """Curvatures 1 and 3, their mean 2: two steps of 1.05 multiply by -0.05 and by -2.15."""
        problem = ss.problems.MSE(np.sqrt([[1.0], [3.0]]), np.zeros(2), "half_mean")
        for sampling in ("shuffle", "with_replacement"):
            made = ss.minimize(
                problem, np.ones(1), partial(ss.SGD, lr=1.05), steps=400, sampling=sampling, batch_size=1
            )
            check = theory.check_step_size(problem, made.optimizer, batch_size=1)
            assert (check.edge, check.below, check.converges) == (1.0, False, None)
            assert made.loss == 0.0

    def test_without_a_beta_the_error_says_how_to_hand_it_in(self):
        for call in (
            lambda p: theory.check_step_size(p, ss.SGD(np.zeros(3), lr=0.1)),
            theory.max_step,
            theory.beta,
            theory.sgd_edge,
            theory.tune_sgd,
            lambda p: theory.heavy_ball_edge(p, 0.5),
        ):
            with pytest.raises(
                TypeError, match=r"Function without a beta.*problems.Function\(..., beta=...\)"
            ):
                call(own(wells()))


class TestMinimize:
    @RULES
    def test_warns_above_the_edge_alone(self, rule):
        make, times_beta = EDGES[rule]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(fixed(), partial(make, lr=0.999 * times_beta / 3), 1, check=True)
        with pytest.warns(RuntimeWarning, match=r"1.001 times the edge .* = .*beta.*lower lr") as seen:
            run(fixed(), partial(make, lr=1.001 * times_beta / 3), 1, check=True)
        assert seen[0].filename == __file__  # the line that called minimize

    def test_says_nothing_unasked_nor_of_adaptive_rules(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(fixed(), partial(ss.SGD, lr=9.0), 1)
            run(fixed(), partial(ss.Adam, lr=9.0), 1, check=True)

    def test_a_problem_without_beta_is_an_error_before_anything_is_written(self):
        w = np.ones(3)
        with pytest.raises(TypeError, match="problem: got Function without a beta"):
            ss.minimize(wells(), np.zeros(3), ss.SGD(w, lr=0.1), steps=1, check=True)
        assert w.tolist() == [1, 1, 1]


class TestRun:
    @pytest.mark.parametrize("share", [0.25, 1.0, 1.0001, 1.9, 1.999, 2.0, 2.001])
    @SCALES
    def test_gradient_descent_keeps_what_is_promised(self, share, scale):
        problem = diabetes(scale)
        check = theory.check_run(problem, run(problem, partial(ss.SGD, lr=share / problem.beta), 1000))
        assert check.ok, str(check)
        promised = {bound.name for bound in check.bounds if bound.promised}
        always = {"spectrum", "modes"}
        below = {"descent", "gap, any lr", "PL"}
        small = {"gap 2LD2/(t+1)", "gap 2LD2/(t+4)", "gap LD2/(4t+2)", "gradient"}
        assert promised == always | (below if share < 2 else {"descent"} if share == 2 else set()) | (
            small if share <= 1 else set()
        )

    def test_above_the_edge_it_says_where_the_bounds_broke(self):
        problem = diabetes()
        done = run(problem, partial(ss.SGD, lr=2.01 / problem.beta), 1000)
        check = theory.check_run(problem, done)
        first = int(np.argmax(np.diff(done.losses) > 0)) + 1
        assert check["descent"].first_failure == first
        assert not check["descent"].promised
        assert check["gap LD2/(4t+2)"].first_failure is not None
        assert check["gap LD2/(4t+2)"].tightness > 1
        assert "broken at step" in str(check)
        assert check["modes"].holds  # it diverges as the theory says

    def test_tightness_is_that_of_the_figures(self):
        problem = diabetes()
        check = theory.check_run(problem, run(problem, partial(ss.SGD, lr=1 / problem.beta), 5000))
        assert check["gap 2LD2/(t+1)"].tightness == pytest.approx(0.0444, abs=5e-5)
        assert check["gap 2LD2/(t+4)"].tightness == pytest.approx(0.1776, abs=5e-5)
        assert check["gap LD2/(4t+2)"].tightness == pytest.approx(0.2242, abs=5e-5)
        assert check["gap LD2/(4t+2)"].tightest == 234

    @RULES
    @pytest.mark.parametrize("share", [0.02, 0.7, 0.999, 1.001])
    def test_modes_predict_every_rule_on_both_sides_of_its_edge(self, rule, share):
        make, times_beta = EDGES[rule]
        problem = diabetes()
        check = theory.check_run(
            problem, run(problem, partial(make, lr=share * times_beta / problem.beta), 1000)
        )
        assert check.ok, str(check)
        assert check["modes"].promised
        if rule != "SGD":
            assert check["start"].promised is (share * times_beta <= (0.2 if "heavy" in rule else 1.0))
            if share > 1:
                assert check["start"].first_failure is not None

    @pytest.mark.parametrize("rule", ADAPTIVE)
    @pytest.mark.parametrize("lr", [1e-2, 1.0, 300.0])
    def test_adaptive_rules_reach_no_further_than_their_steps(self, rule, lr):
        make, _ = ADAPTIVE[rule]
        check = theory.check_run(diabetes(), run(diabetes(), partial(make, lr=lr), 500))
        assert [bound.name for bound in check.bounds] == ["reach"]
        assert check["reach"].promised
        assert check.ok, str(check)
        assert 0 < check["reach"].tightness < 1

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @RULES
    def test_rounding_breaks_nothing(self, rule, dtype):
        """Until the gap is nothing but rounding, in both types."""
        make, times_beta = EDGES[rule]
        for problem in (fixed(dtype), diabetes(dtype=dtype)):
            done = ss.minimize(
                problem,
                np.zeros(problem.dimension, dtype),
                partial(make, lr=0.05 * times_beta / problem.beta),
                steps=1500,
            )
            assert theory.check_run(problem, done).ok, str(theory.check_run(problem, done))

    @RULES
    def test_float32_beyond_the_edge(self, rule):
        """lr is rounded to float32; over many steps that adds up."""
        make, times_beta = EDGES[rule]
        one = ss.problems.MSE(np.ones((1, 1), np.float32), np.ones(1, np.float32))
        for problem, share in ((diabetes(dtype=np.float32), 1.001), (one, 1.1)):
            w0 = np.zeros(problem.dimension, np.float32)
            lr = share * times_beta / problem.beta
            done = ss.minimize(problem, w0, partial(make, lr=lr), steps=200)
            check = theory.check_run(problem, done)
            assert check["modes"].holds
            assert check.ok, str(check)

    def test_more_weights_than_rows(self):
        problem = interpolating()
        done = ss.minimize(problem, np.arange(5.0), partial(ss.SGD, lr=1 / problem.beta), steps=300)
        check = theory.check_run(problem, done)
        assert check.ok, str(check)
        assert check["PL"].tightness > 0.1  # mu is lambda_min(K), not 0

    def test_a_wrong_rule_is_seen(self):
        """A run whose losses are not those of its steps."""
        problem = diabetes()
        done = run(problem, partial(ss.SGD, lr=1 / problem.beta), 300)
        losses = done.losses.copy()
        losses[100:] *= 1.01
        check = theory.check_run(problem, dataclasses.replace(done, losses=losses))
        assert not check.ok
        assert check["modes"].first_failure == 100
        assert check["descent"].first_failure == 100
        # A run with another lr than its optimizer claims.
        start = {**done.start, "hyper": {"lr": 1.02 / problem.beta}}
        assert theory.check_run(problem, dataclasses.replace(done, start=start))["modes"].first_failure == 1

    def test_batches_and_schedules_are_not_promised(self):
        problem = diabetes("half_mean")
        done = run(
            problem, partial(ss.SGD, lr=0.5 / problem.beta), 200, sampling="with_replacement", batch_size=2
        )
        check = theory.check_run(problem, done)
        assert not any(bound.promised for bound in check.bounds)
        assert not check["modes"].holds
        assert check.ok is None
        assert str(check).startswith("sgd: diverged; nothing was promised\n")
        # What is missing, and not what is met.
        assert {bound.missing for bound in check.bounds} == {"full gradients"}
        assert "not promised (needs full gradients)" in str(check["descent"])
        opt = ss.SGD(np.zeros(10), lr=1 / problem.beta)

        def halve(step, w, loss):
            if step == 20:
                opt.lr /= 2

        done = ss.minimize(problem, np.zeros(10), opt, steps=50, callback=halve)
        check = theory.check_run(problem, done)
        assert not any(bound.promised for bound in check.bounds)
        assert check["modes"].first_failure > 20
        assert check.ok is None
        assert {bound.missing for bound in check.bounds} == {"constant hyper-parameters"}

    @pytest.mark.parametrize("seed", range(3))
    def test_what_is_missing_is_all_that_is_missing(self, seed):
        problem = diabetes("half_mean")
        first = run(problem, partial(ss.Momentum, lr=0.1), 3)
        options = {"sampling": "shuffle", "batch_size": 20, "seed": seed}
        done = ss.minimize(problem, first.w, first.optimizer, steps=20, **options)
        bound = theory.check_run(problem, done)["start"]
        assert bound.missing == "full gradients, a start at rest"
        assert bound.condition.startswith(
            "full gradients, constant hyper-parameters, a start at rest, lr <= "
        )

    @RULES
    def test_a_run_that_goes_on_with_its_velocity(self, rule):
        make, times_beta = EDGES[rule]
        problem = diabetes()
        first = run(problem, partial(make, lr=0.3 * times_beta / problem.beta), 7)
        second = ss.minimize(problem, first.w, first.optimizer, steps=100)
        check = theory.check_run(problem, second)
        assert check["modes"].promised
        assert check.ok, str(check)
        if rule != "SGD":
            assert not check["start"].promised

    def test_recorded_now_and_then(self):
        problem = diabetes()
        check = theory.check_run(
            problem, run(problem, partial(ss.SGD, lr=1.9 / problem.beta), 100, record_every=7)
        )
        assert check.ok
        assert check["descent"].steps.tolist() == [*range(7, 100, 7), 100]

    @pytest.mark.parametrize("steps", [0, 1])
    def test_the_shortest_runs(self, steps):
        for make in (partial(ss.SGD, lr=0.1), partial(ss.SGD, lr=0.0), partial(ss.NAG, lr=0.1), ss.Adam):
            check = theory.check_run(fixed(), run(fixed(), make, steps))
            assert check.ok
            assert str(check)

    def test_runs_beyond_float64(self):
        for make in (partial(ss.SGD, lr=50.0), partial(ss.Momentum, lr=50.0)):
            done = run(fixed(), make, 2000)
            assert not np.isfinite(done.loss)
            check = theory.check_run(fixed(), done)
            assert check["modes"].holds
            assert not check[check.bounds[0].name].holds

    @SCALES
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(
        "make", [ss.SGD, partial(ss.Momentum, momentum=0.5), partial(ss.NAG, momentum=0.5)]
    )
    def test_where_the_loss_overflows_nothing_is_broken(self, scale, dtype, make):
        """The sum of squares leaves the dtype before it is divided by N; no warning comes out of it."""
        problem = diabetes(scale, dtype)
        for factor in (3.0, 3.9, 59.0):
            w0 = np.zeros(10, dtype)
            done = ss.minimize(problem, w0, partial(make, lr=factor * 2 / problem.beta), steps=400)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                check = theory.check_run(problem, done)
                assert check["modes"].holds, str(check)
                assert check.ok is True
                assert [bound.tightness for bound in check.bounds]
            assert check.diverged
            assert (
                str(check)
                .splitlines()[0]
                .endswith(
                    ": diverged; promised bounds that held: " + ("2 of 2" if make is ss.SGD else "1 of 1")
                )
            )

    def test_helpers_do_not_warn_of_what_overflows(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            H, g = np.diag([1.0, 1e200]), np.array([1e200, 1.0])
            assert theory.mode_factors(H, 1e200)[1] == -np.inf
            assert theory.spectral_radius("nag", np.array([1e200]), 1e200, 0.9) == np.inf
            assert theory.gap_bounds(np.arange(3), 1e200, 1e200).sharp.tolist() == [np.inf] * 3
            assert not theory.descent_ok(1.0, np.inf, g, lr=1.0, beta=1.0)
            assert theory.descent_ok(np.inf, 1.0, g, lr=1.0, beta=1.0) in (True, False)
            with pytest.raises(ValueError, match="no step along it"):
                theory.backtracking(lambda w: float("inf"), np.ones(2), g, lr=1e300)

    def test_from_the_minimum(self):
        problem = ss.problems.MSE(np.eye(2), np.array([1.0, 2.0]))
        done = ss.minimize(problem, problem.minimizer(), partial(ss.SGD, lr=0.5), steps=5)
        check = theory.check_run(problem, done)
        assert check.ok
        assert all(bound.tightness == 0 for bound in check.bounds)

    def test_without_curvature(self):
        flat = ss.problems.MSE(np.zeros((3, 2)), np.ones(3))
        check = theory.check_run(flat, run(flat, partial(ss.SGD, lr=1.0), 3))
        assert check.ok
        with pytest.raises(KeyError, match="'PL'; there are 'descent'"):
            check["PL"]

    def test_bad_arguments(self):
        done = run(fixed(), partial(ss.SGD, lr=0.1), 3)
        with pytest.raises(TypeError, match=r"problem: got Function, expected problems.MSE"):
            theory.check_run(wells(), done)
        with pytest.raises(TypeError, match="result: got ndarray, expected what minimize"):
            theory.check_run(fixed(), done.w)
        with pytest.raises(ValueError, match=r"got a run of float64 \(2,\), expected float64 \(10,\)"):
            theory.check_run(diabetes(), done)
        with pytest.raises(ValueError, match=r"first loss is 10.5, expected the problem's at w0, 21"):
            theory.check_run(fixed(scale="sum"), done)


class TestRounding:
    """A start from afar, or at the minimum itself, is no false alarm: its rounding grows as the run does."""

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("off", [0.0, 1e-7, 1e-3])
    @pytest.mark.parametrize("times_beta", [1.0, 2.5, 4.0])
    def test_a_start_at_the_minimum(self, dtype, off, times_beta):
        Phi = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype)
        problem = ss.problems.MSE(Phi, np.array([1.0, 2.0, 4.3], dtype))
        lr, w0 = times_beta / problem.beta, problem.minimizer() + dtype(off)
        for rule in (ss.SGD, partial(ss.Momentum, momentum=0.9), partial(ss.NAG, momentum=0.9)):
            check = theory.check_run(problem, ss.minimize(problem, w0, partial(rule, lr=lr), steps=100))
            assert check.ok is True, check

    def test_a_start_afar(self):
        """What is left after a step that goes almost all the way is the rounding of where it came from."""
        rng = np.random.default_rng(0)
        for dtype in (np.float32, np.float64):
            for _ in range(20):
                problem = ss.problems.MSE(rng.normal(size=(1, 3)).astype(dtype), np.zeros(1, dtype))
                w0 = (1e4 * rng.normal(size=3)).astype(dtype)
                for times_beta in (0.999, 1.0):
                    make = partial(ss.SGD, lr=times_beta / problem.beta)
                    check = theory.check_run(problem, ss.minimize(problem, w0, make, steps=20))
                    assert check.ok is True, check

    def test_a_distance_whose_square_overflows(self):
        bowl = {"beta": 1.0, "mu": 1.0, "optimum": 0.0, "minimizer": np.zeros(2)}
        for problem in (fixed(), ss.problems.Function(lambda w: float(w[0]), lambda w: w, 2, **bowl)):
            made = ss.minimize(problem, np.full(2, 1e200), partial(ss.SGD, lr=0.1), steps=1)
            assert theory.check_run(problem, made)["gap 2LD2/(t+1)"].holds


class TestRunOfAnother:
    def test_a_gradient_that_wants_its_rows(self):
        """minimize() takes it, and so does the check."""

        class Bowl:
            size, dimension, dtype = 4, 2, np.dtype(np.float64)
            beta, convex, optimum, minimizer = 1.0, True, 0.0, np.zeros(2)

            def loss(self, w):
                return float(w @ w) / 2

            def gradient(self, w, rows):
                assert rows is None
                return w

        made = ss.minimize(Bowl(), np.ones(2), partial(ss.SGD, lr=0.5), steps=5)
        assert theory.check_run(Bowl(), made)["gradient"].holds

    """check_run of losses that are no least squares: every bound whose numbers are known."""

    @staticmethod
    def minimum(problem):
        done = ss.minimize(
            problem, np.zeros(problem.dimension), partial(ss.SGD, lr=1 / problem.beta), steps=3000
        )
        return {"optimum": done.loss, "minimizer": done.w}

    @pytest.mark.parametrize("share", [0.25, 1.0, 1.9, 2.0])
    def test_logistic_regression(self, share):
        problem = logistic(**self.minimum(logistic()))
        done = ss.minimize(problem, np.ones(5), partial(ss.SGD, lr=share / problem.beta), steps=500)
        check = theory.check_run(problem, done)
        assert check.ok is True, str(check)
        assert check.unknown == ()
        below, small = (
            {"gap, any lr", "PL"},
            {"gap 2LD2/(t+1)", "gap 2LD2/(t+4)", "gap LD2/(4t+2)", "gradient"},
        )
        assert {bound.name for bound in check.bounds} == {"descent"} | below | small
        promised = {bound.name for bound in check.bounds if bound.promised}
        assert promised == {"descent"} | (below if share < 2 else set()) | (small if share <= 1 else set())

    def test_it_is_held_against_the_numbers_and_not_taken_for_granted(self):
        """A mu or a beta that is wrong breaks bounds."""
        known = self.minimum(logistic())
        for wrong in ({"mu": 0.3}, {"beta": 0.31}):
            problem = logistic(**known, **wrong)
            done = ss.minimize(problem, np.ones(5), partial(ss.SGD, lr=1 / problem.beta), steps=200)
            check = theory.check_run(problem, done)
            if "mu" in wrong:
                assert check.ok is False
                assert not check["PL"].holds
                assert "sgd: promised bounds that held: 6 of 7" in str(check)

    def test_huber_attains_the_sharp_bound(self):
        steps, distance = 10, 1.0
        problem = own(huber(distance / (2 * steps + 1)), beta=1.0, mu=0.0, optimum=0.0, minimizer=np.zeros(1))
        check = theory.check_run(
            problem, ss.minimize(problem, np.ones(1), partial(ss.SGD, lr=1.0), steps=steps)
        )
        assert check.ok is True
        assert check["gap LD2/(4t+2)"].tightness == pytest.approx(1.0, rel=1e-12)
        with pytest.raises(KeyError, match="'PL'"):
            check["PL"]  # mu = 0 says that it is convex, no more

    def test_what_is_not_known_is_not_looked_at(self):
        done = ss.minimize(own(wells()), np.array([3.0, -2.0, 1.5]), partial(ss.SGD, lr=0.5), steps=50)
        check = theory.check_run(own(wells(), beta=2.0), done)
        assert [bound.name for bound in check.bounds] == ["descent"]
        assert check.ok is True
        assert check.unknown == ("optimum", "minimizer", "mu")
        assert "problems.Function(..., optimum=..., minimizer=..., mu=...)" in str(check)
        # Not convex: the bounds of the gap are shown, and not promised.
        check = theory.check_run(own(wells(), beta=2.0, optimum=0, minimizer=np.zeros(3)), done)
        assert check["gap LD2/(4t+2)"].missing == check["gradient"].missing == "a convex loss"
        assert check.ok is True

    def test_pl_without_convexity(self):
        """Sine: curvatures below 0, and PL* all the same."""
        sine = Sine()
        K, w0 = sine.Phi @ sine.Phi.T, np.zeros(5)
        mu = 0.25 * np.linalg.eigvalsh(K)[0]
        beta = (2.25 + 0.5 * np.sqrt(2 * sine.loss(w0))) * np.linalg.eigvalsh(K)[-1]
        problem = own(sine, beta=beta, mu=mu, optimum=0.0, convex=False)
        done = ss.minimize(problem, w0, partial(ss.SGD, lr=1 / beta), steps=300)
        check = theory.check_run(problem, done)
        assert check["PL"].promised
        assert check.ok is True
        assert theory.pl_constant(problem) == mu

    def test_momentum_and_the_adaptive_rules(self):
        problem = logistic(**self.minimum(logistic()))
        for make in (
            partial(ss.Momentum, lr=0.19 / problem.beta),
            partial(ss.Momentum, lr=0.19 / problem.beta, form="torch"),
            partial(ss.NAG, lr=0.99 / problem.beta),
            partial(ss.Adam, lr=0.1),
            partial(ss.AdaGrad, lr=0.1),
            partial(ss.RMSProp, lr=0.1),
        ):
            check = theory.check_run(problem, ss.minimize(problem, np.ones(5), make, steps=100))
            assert [bound.name for bound in check.bounds] in (["start"], ["reach"])
            assert check.ok is True, str(check)
        unknown = own(wells(), beta=2.0)
        done = ss.minimize(unknown, np.ones(3), partial(ss.Adam, lr=0.1), steps=5)
        check = theory.check_run(unknown, done)
        assert (check.bounds, check.ok, check.unknown) == ((), None, ("optimum",))

    def test_losses_below_0(self):
        problem = own(wells(), beta=2.0)
        lower = ss.problems.Function(lambda w: problem.loss(w) - 9.0, problem.gradient, 3, beta=2.0)
        for make in (partial(ss.SGD, lr=0.9), partial(ss.Momentum, lr=0.09)):
            check = theory.check_run(lower, ss.minimize(lower, np.ones(3), make, steps=30))
            assert check.ok is True, str(check)

    def test_lessards_cycle_breaks_no_promise(self):
        problem = own(lessard(), beta=25.0, mu=1.0, optimum=0.0, minimizer=np.zeros(1))
        done = ss.minimize(
            problem, np.array([3.3]), partial(ss.Momentum, lr=1 / 9, momentum=4 / 9), steps=300
        )
        check = theory.check_run(problem, done)
        assert check.ok is None
        assert check["start"].missing == "lr <= 2(1-a)/beta"

    def test_a_class_of_ones_own(self):
        """No more is asked than the attributes."""
        problem = wells()
        problem.beta, problem.optimum = 2.0, 0.0
        done = ss.minimize(problem, np.ones(3), partial(ss.SGD, lr=0.5), steps=5)
        assert theory.check_run(problem, done).ok is True

    def test_numbers_that_cannot_be(self):
        problem = own(wells(), beta=2.0, optimum=0.5)
        done = ss.minimize(problem, np.ones(3), partial(ss.SGD, lr=0.5), steps=50)
        with pytest.raises(ValueError, match=r"problem.optimum: got 0.5, expected the least .* at step \d+"):
            theory.check_run(problem, done)
        with pytest.raises(
            TypeError, match=r"got Function, .* knows its beta.*problems.Function\(..., beta="
        ):
            theory.check_run(own(wells()), done)
        with pytest.raises(TypeError, match=r"problem: got float, expected problems\.MSE"):
            theory.check_run(1.0, done)
