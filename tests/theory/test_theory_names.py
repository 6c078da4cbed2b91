"""What the functions of the theory are called, and what they take: one method under all of its names, a
problem where a neighbour takes one, arrays likewise, and help() that begins with a list of them all."""

import itertools
import re

import numpy as np
import pytest

import samestep as ss
from samestep import theory
from samestep.problems import Quartic
from samestep.theory import flows
from samestep.theory.checks import FAMILIES
from text_functions import logistic, wells
from text_problems import diabetes, fixed

SPELLINGS = {"sgd": ["sgd"], "momentum": ["momentum", "heavy_ball"], "nag": ["nag", "nesterov", "look_ahead"]}
PAIRS = pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, names in SPELLINGS.items() for name in names]
)
U0, TIMES = np.array([1.0, -1.0]), np.array([0.5, 1.0])


def ticking():
    times = itertools.count(0.0)
    return lambda: next(times)


def run_until(name):
    momentum = None if name == "sgd" else 0.5
    clock = ticking()
    return theory.run_until(
        fixed(), np.ones(2), name, deadline=9.0, lr=0.1, momentum=momentum, seed=1, clock=clock
    )


# Every function that asks for a method, under whatever argument.
CALLS = {
    "mode_matrices": lambda name: theory.mode_matrices(name, np.array([1.0, 3.0]), 0.1, 0.5),
    "spectral_radius": lambda name: theory.spectral_radius(name, np.array([1.0, 3.0]), 0.1, 0.5),
    "run_until": lambda name: run_until(name).x,
    "steps": lambda name: flows.steps(Quartic(), U0, 0.1, 0.5, 3, name, np.ones(2)).u,
    "modified": lambda name: flows.modified(Quartic(), U0, TIMES, 0.1, 0.5, name),
    "manifold": lambda name: flows.manifold(Quartic(), U0, TIMES, 0.1, 0.5, name),
    "manifold_move": lambda name: flows.manifold_move(Quartic(), U0, 0.1, 0.5, name),
}
OF_FLOWS = {"steps", "modified", "manifold", "manifold_move"}


class TestSpellings:
    def test_the_table_has_them_all(self):
        assert {family: [n for n, f in FAMILIES.items() if f == family] for family in SPELLINGS} == SPELLINGS

    @PAIRS
    @pytest.mark.parametrize("function", CALLS)
    def test_every_function_takes_every_name(self, function, family, name):
        if function in OF_FLOWS and family == "sgd":
            return  # the flows are about momentum; gradient descent has one of 0
        call = CALLS[function]
        assert np.array_equal(call(name), call(SPELLINGS[family][0]))
        if family != "nag":
            assert not np.array_equal(call(name), call("nag"))

    @pytest.mark.parametrize("function", CALLS)
    @pytest.mark.parametrize("name", ["adam", "Momentum", None, ["nag"]])
    def test_another_name_is_an_error_that_lists_them(self, function, name):
        expected = [n for n, family in FAMILIES.items() if family != "sgd" or function not in OF_FLOWS]
        listed = re.escape(", ".join(map(repr, expected)))
        with pytest.raises(ValueError, match=rf"(family|algorithm|method): got .*, expected one of {listed}"):
            CALLS[function](name)


class TestProblemsForNumbers:
    def test_edges_and_tunings(self):
        problem = diabetes()
        assert theory.sgd_edge(problem) == theory.sgd_edge(problem.beta)
        assert theory.heavy_ball_edge(problem, 0.5) == theory.heavy_ball_edge(problem.beta, 0.5)
        assert theory.look_ahead_edge(problem, 0.5) == theory.look_ahead_edge(problem.beta, 0.5)
        for tune in (theory.tune_sgd, theory.tune_heavy_ball, theory.tune_nesterov, theory.tune_look_ahead):
            assert tune(problem) == tune(problem.beta, problem.mu)
            assert tune(problem, 0.5) == tune(problem.beta, 0.5)
            assert tune(logistic()) == tune(logistic().beta, logistic().mu)

    def test_along_curvatures_of_0_nothing_moves(self):
        flat = ss.problems.MSE(np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), np.ones(3))
        assert theory.tune_sgd(flat) == theory.tune_sgd(4.0, 4.0)
        assert theory.spectral_radius("sgd", flat, 0.1) == pytest.approx(0.6, rel=1e-12)

    def test_modes(self):
        problem = diabetes()
        for function in (theory.mode_matrices, theory.spectral_radius):
            assert np.array_equal(
                function("nag", problem, 0.1, 0.5), function("nag", problem.eigenvalues, 0.1, 0.5)
            )

    def test_a_problem_of_ones_own(self):
        problem = logistic()
        assert theory.beta(problem) == problem.beta
        assert theory.max_step(problem) == 2 / problem.beta
        assert theory.pl_constant(problem) == problem.mu

    @pytest.mark.parametrize(
        ("error", "message", "call"),
        [
            (TypeError, r"beta: got MSE, .*problem\.beta$", lambda: theory.gap_bounds(1, fixed(), 1.0)),
            (TypeError, r"beta: got MSE, .*problem\.beta$", lambda: theory.gradient_bound(1, fixed(), 1.0)),
            (TypeError, r"beta: got MSE, .*problem\.beta$", lambda: theory.iterations_bound(fixed(), 1, 1)),
            (TypeError, r"beta: got MSE, .*problem\.beta$", lambda: theory.pl_rate(fixed(), 1.0)),
            (TypeError, r"mu: got MSE, .*problem\.mu$", lambda: theory.pl_rate(3.0, fixed())),
            (TypeError, r"mu: got MSE, .*problem\.mu$", lambda: theory.tune_sgd(3.0, fixed())),
            (TypeError, "mu: got MSE", lambda: theory.sgd_step_interpolation(fixed(), 1.0, 1.0)),
            (TypeError, r"beta: got str", lambda: theory.sgd_edge("3")),
            (TypeError, r"momentum: got MSE", lambda: theory.heavy_ball_edge(3.0, fixed())),
            (TypeError, r"beta: got object, expected the largest", lambda: theory.tune_sgd(object())),
            (ValueError, r"mu: got None, .* hand in a problem", lambda: theory.tune_heavy_ball(3.0)),
            (TypeError, r"gradient: got MSE, .*problem\.gradient", lambda: theory.hessian_fd(fixed(), 1)),
            (TypeError, r"loss: got MSE, .*problem\.loss", lambda: theory.backtracking(fixed(), U0, U0)),
            (
                TypeError,
                r"gradient: got MSE, .*problem\.gradient",
                lambda: theory.sam_step(ss.SGD(np.ones(2), lr=0.1), fixed(), 0.1),
            ),
            (TypeError, "H: got object, expected a symmetric matrix", lambda: theory.max_step(object())),
            (TypeError, r"Function without a mu.*mu=\.\.\.\)", lambda: theory.pl_constant(wells())),
            (ValueError, r"problem\.mu: got 0\.0", lambda: theory.pl_constant(logistic(mu=0.0))),
            (TypeError, "problem: got ndarray.*pl_star_const", lambda: theory.pl_constant(np.eye(2))),
            (TypeError, "without eigenvalues.*hessian_fd", lambda: theory.mode_factors(logistic(), 0.1)),
            (TypeError, "without eigenvalues", lambda: theory.mode_matrices("sgd", logistic(), 0.1)),
            (TypeError, "expected problems.MSE or a Hessian", lambda: theory.beta(logistic(), "power")),
            (TypeError, r"H: got MSE, .*problem\.hessian\(\)", lambda: theory.newton_step(U0, fixed())),
            (TypeError, r"J: got MSE, expected a matrix", lambda: theory.tangent_kernel(fixed())),
            (TypeError, "t: got str", lambda: theory.gap_bounds("1", 1.0, 1.0)),
            (
                TypeError,
                r"without 'gradient'.*problems\.Function",
                lambda: flows.rescaled(len, U0, TIMES, 0),
            ),
            (
                TypeError,
                r"problem: got object without 'gradient'.*problems\.Function\(loss, gradient, dim",
                lambda: theory.run_until(object(), U0, "sgd", deadline=1.0, lr=0.1),
            ),
            (
                TypeError,
                "problem: got Function, expected pr",
                lambda: ss.problems.empirical_risk(logistic(), U0),
            ),
            (ValueError, "curvatures: got none", lambda: theory.spectral_radius("sgd", np.array([]), 0.1)),
            (
                TypeError,
                r"problem: got Function without a hessian.*hessian_fd",
                lambda: flows.manifold(logistic(), np.ones(5), TIMES, 0.1, 0.5, "nag"),
            ),
        ],
    )
    def test_what_is_neither_names_the_argument_and_the_fix(self, error, message, call):
        with pytest.raises(error, match=message):
            call()

    def test_least_squares_has_a_flow_on_its_manifold(self):
        """Its hessian() takes no w, as it is the same everywhere."""
        parabola = ss.problems.MSE(np.ones((1, 1)), np.zeros(1))
        found = flows.manifold(parabola, np.ones(1), np.array([1.0]), 0.1, 0.0, "momentum")
        assert found == pytest.approx(np.exp(-1.05), rel=1e-9)


class TestArrays:
    """A float of a float, an array of an array, with the same numbers."""

    @pytest.mark.parametrize(
        ("function", "values"),
        [
            (theory.landscape.semicircle_fraction, [-2.0, -0.5, 0.0, 0.3, 1.0]),
            (theory.landscape.pspin_index, [-3.0, -0.8, 0.1]),
            (theory.landscape.coin_minimum_probability, [1, 2, 30]),
            (theory.landscape.goe_minimum_probability, [3, 1, 2]),
            (theory.sgd_edge, [1.0, 3.0]),
            (lambda a: theory.heavy_ball_edge(3.0, a), [0.0, 0.5, 0.9]),
            (lambda a: theory.look_ahead_edge(3.0, a), [0.0, 0.5, 0.9]),
            (lambda delta: theory.iterations_bound(3.0, 2.0, delta), [0.1, 1e-8]),
            (theory.DoubleWell().boltzmann, [0.16, 0.3]),
            (lambda lr: theory.stationary_variance(lr, 2, 2.0, 1.0), [0.05, 0.9, 1.0, 7.0]),
            (lambda m: theory.batch_gradient_variance(np.eye(4), m, False), [1, 2, 4]),
        ],
    )
    def test_each_element(self, function, values):
        single = [function(value) for value in values]
        assert all(type(value) is float for value in single)
        found = function(np.array(values))
        assert found.shape == (len(values),)
        assert found == pytest.approx(np.array(single), rel=1e-14)
        assert function(np.reshape(values, (1, -1)).tolist()).shape == (1, len(values))

    def test_those_that_return_arrays(self):
        found = theory.landscape.mode_strength(0.5, [1.0, 3.0], 0.001)
        single = [theory.landscape.mode_strength(0.5, s, 0.001).item() for s in (1.0, 3.0)]
        assert found.tolist() == single
        network = theory.landscape.DeepLinear([2.0, 1.0])
        W = np.random.RandomState(0).standard_normal((2, 3, 2, 2, 2))
        found = network.hessian_eigenvalues(W)
        assert found.shape == (2, 3, 8)
        assert found[1, 2].tolist() == network.hessian_eigenvalues(W[1, 2]).tolist()

    def test_one_bad_element_is_named(self):
        with pytest.raises(ValueError, match=r"momentum: got 1\.5, expected 0 <= momentum < 1"):
            theory.heavy_ball_edge(1.0, [0.5, 1.5])
        with pytest.raises(ValueError, match=r"delta: got -1\.0"):
            theory.iterations_bound(1.0, 1.0, np.array([1.0, -1.0]))
        assert np.isnan(theory.landscape.semicircle_fraction([np.nan])).all()


def test_the_interpolation_step_is_a_named_one():
    found = theory.sgd_step_interpolation(1.0, 2.0, 4.0)
    assert found == (0.125, 0.875) == (found.lr, found.rate)
    assert repr(found) == "InterpolationStep(lr=0.125, rate=0.875)"


@pytest.mark.parametrize("module", [theory, theory.landscape, ss.problems])
def test_help_begins_with_a_list_of_every_public_name(module):
    types = {"Float64s", "Floats", "Integers", "Scale"}  # of annotations
    listed = set(re.findall(r"\w+", module.__doc__))
    assert set(module.__all__) - types - listed == set()
    lines = re.findall(r"^    ([A-Za-z_]\w+) +\S", module.__doc__, re.MULTILINE)
    assert set(lines) <= set(module.__all__)
    assert len(lines) == len(set(lines)) > 5


@pytest.mark.parametrize("module", [theory, theory.landscape, ss.problems])
def test_dir_shows_no_modules_beside_the_functions(module):
    assert {name for name in dir(module) if not name.startswith("__")} == set(module.__all__)


def test_flows_lists_its_functions_too():
    for name in ("steps", "rescaled", "modified", "manifold", "manifold_move", "Steps"):
        assert re.search(rf"\b{name}\b", flows.__doc__)


class Bowl:
    """|w|^2/2, whose gradient at w is w: the very array that a step writes to."""

    size, dimension, dtype = 1, 2, np.dtype(np.float64)

    def loss(self, w):
        return 0.5 * float(w @ w)

    def gradient(self, w, rows=None):
        return w


def test_a_gradient_that_is_w_itself():
    clock = iter([0.0, 1.0, 2.0, 3.0]).__next__
    run = theory.run_until(Bowl(), np.ones(2), "sgd", deadline=1.5, lr=0.5, clock=clock)
    assert run.x.tolist() == [0.5, 0.5]
    for method in ("momentum", "nag"):
        way = theory.flows.steps(Bowl(), np.ones(2), 0.5, 0.5, 1, method, np.zeros(2))
        assert way.u[-1].tolist() == [0.5, 0.5]
