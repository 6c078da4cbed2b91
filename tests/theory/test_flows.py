"""Momentum methods against their three differential equations (B19): orders 1, 2, 2 and 3."""

import math

import numpy as np
import pytest

from samestep.problems import Quartic
from samestep.theory import flows

METHODS = pytest.mark.parametrize("method", ["heavy_ball", "nesterov"])
START, MOMENTUM = np.array([1.0, -1.0]), 0.5
REST = np.zeros(2)
INVERSE_STEPS = (100, 200, 400, 800, 1600)


def consistent(lr):
    """The first move of a body that already follows the rescaled flow."""
    return -lr / (1 - MOMENTUM) * Quartic().gradient(START)


def errors(method, solve, first_move):
    """|u_n - u(1)| after n steps of size 1/n."""
    found = []
    for n in INVERSE_STEPS:
        run = flows.steps(Quartic(), START, 1 / n, MOMENTUM, n, method, first_move(1 / n))
        found.append(np.linalg.norm(run.u[-1] - solve(np.array([1.0]), 1 / n)[-1]))
    return np.array(found)


def orders(found):
    return np.log2(found[:-1] / found[1:])


@pytest.mark.parametrize(
    ("method", "first", "last"), [("heavy_ball", 9.009e-3, 5.50e-4), ("nesterov", 4.918e-3, 3.02e-4)]
)
def test_the_rescaled_flow_is_of_order_1(method, first, last):
    found = errors(
        method, lambda t, lr: flows.rescaled(Quartic(), START, t, MOMENTUM), lambda lr: np.zeros(2)
    )
    assert found[[0, -1]] == pytest.approx([first, last], rel=4e-3)
    assert orders(found) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("method", "first", "last"), [("heavy_ball", 1.708e-5, 6.22e-8), ("nesterov", 1.213e-5, 5.15e-8)]
)
def test_the_modified_equation_is_of_order_2(method, first, last):
    found = errors(
        method, lambda t, lr: flows.modified(Quartic(), START, t, lr, MOMENTUM, method), consistent
    )
    assert found[[0, -1]] == pytest.approx([first, last], rel=4e-3)
    assert orders(found) == pytest.approx(2.0, abs=0.08)


@METHODS
def test_the_steps_are_those_of_the_scheme(method):
    """u+ = u + a (u - u_prev) + h f(u + b (u - u_prev)), line by line."""
    problem, lr, first_move = Quartic(), 0.1, np.array([0.3, -0.2])
    run = flows.steps(problem, START, lr, MOMENTUM, 5, method, first_move)
    u, v = START, first_move
    b = MOMENTUM if method == "nesterov" else 0.0
    for n in range(6):
        assert run.u[n] == pytest.approx(u, rel=1e-14)
        assert run.v[n] == pytest.approx(v, rel=1e-13)
        v = MOMENTUM * v - lr * problem.gradient(u + b * v)
        u = u + v


@METHODS
def test_after_a_start_at_rest_an_offset_of_order_1_remains(method):
    found = errors(
        method, lambda t, lr: flows.modified(Quartic(), START, t, lr, MOMENTUM, method), lambda lr: REST
    )
    assert orders(found)[-1] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("method", "first", "last"), [("heavy_ball", 8.608e-4, 3.44e-6), ("nesterov", 3.807e-4, 1.51e-6)]
)
def test_the_flow_on_the_manifold_is_of_order_2(method, first, last):
    found = errors(
        method, lambda t, lr: flows.manifold(Quartic(), START, t, lr, MOMENTUM, method), consistent
    )
    assert found[[0, -1]] == pytest.approx([first, last], rel=4e-3)
    assert orders(found) == pytest.approx(2.0, abs=0.03)


def test_without_momentum_the_rescaled_flow_is_the_gradient_flow():
    """Euler's method, as a residual network's x + h f(x): order 1."""
    found = []
    for n in INVERSE_STEPS:
        run = flows.steps(Quartic(), START, 1 / n, 0.0, n, "heavy_ball", REST)
        found.append(np.linalg.norm(run.u[-1] - flows.rescaled(Quartic(), START, np.array([1.0]), 0.0)[-1]))
    assert orders(np.array(found)) == pytest.approx(1.0, abs=0.03)


@METHODS
@pytest.mark.parametrize(("corrected", "expected"), [(True, (3.25, 3.11, 3.05)), (False, (2, 2, 2))])
def test_moves_lie_on_the_manifold_up_to_order_3(method, corrected, expected):
    """|v - h G(u)| at time 0.4; with G = -l grad L alone it is of order 2."""
    problem, residuals = Quartic(), []
    for lr in (0.02, 0.01, 0.005, 0.0025):
        run = flows.steps(problem, START, lr, MOMENTUM, round(0.4 / lr), method, consistent(lr))
        u, v = run.u[-2], run.v[-1]
        move = flows.manifold_move(problem, u, lr, MOMENTUM, method)
        if not corrected:
            move = -lr / (1 - MOMENTUM) * problem.gradient(u)
        residuals.append(np.linalg.norm(v - move))
    found = orders(np.array(residuals))
    assert found == pytest.approx(expected, abs=0.1 if corrected else 0.25)


@METHODS
@pytest.mark.parametrize(
    ("lr", "momentum", "count", "expected"), [(0.0025, 0.5, 10, 0.505), (0.001, 0.9, 20, 0.918)]
)
def test_the_manifold_attracts(method, lr, momentum, count, expected):
    """From far off, the distance shrinks by about the momentum a step."""
    problem = Quartic()
    run = flows.steps(problem, START, lr, momentum, count + 1, method, lr * np.array([30.0, -20.0]))
    off = [
        np.linalg.norm(run.v[n + 1] - flows.manifold_move(problem, run.u[n], lr, momentum, method))
        for n in range(count + 1)
    ]
    factor = (off[-1] / off[0]) ** (1 / count)
    assert factor == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"momentum: got 1.0", lambda: flows.rescaled(Quartic(), START, np.array([1.0]), 1.0)),
        (r"times: got \[1. 1.\]", lambda: flows.rescaled(Quartic(), START, np.array([1.0, 1.0]), 0.5)),
        (r"times: got \[\]", lambda: flows.rescaled(Quartic(), START, np.array([]), 0.5)),
        (
            r"v0: got shape \(1,\), expected \(2,\)",
            lambda: flows.steps(Quartic(), START, 0.1, 0.5, 1, "nesterov", np.zeros(1)),
        ),
        (r"finite", lambda: flows.rescaled(Quartic(), np.array([np.nan, 0.0]), np.array([1.0]), 0.5)),
        (
            r"lr: got 0\.0",
            lambda: flows.modified(Quartic(), START, np.array([1.0]), 0.0, 0.5, "nesterov"),
        ),
        (r"lr: got inf", lambda: flows.modified(Quartic(), START, np.array([1.0]), np.inf, 0.5, "nesterov")),
        (r"lr: got -0\.1", lambda: flows.manifold(Quartic(), START, np.array([1.0]), -0.1, 0.5, "nesterov")),
        (r"lr: got nan", lambda: flows.manifold(Quartic(), START, np.array([1.0]), np.nan, 0.5, "nesterov")),
        (r"times: got \[inf\]", lambda: flows.rescaled(Quartic(), START, np.array([np.inf]), 0.5)),
        (r"times: got \[nan\]", lambda: flows.rescaled(Quartic(), START, np.array([np.nan]), 0.5)),
        (r"u0: got NaN", lambda: flows.rescaled(Quartic(), np.array([1e200, 0.0]), np.array([1.0]), 0.5)),
        (
            r"u0: got NaN",
            lambda: flows.modified(Quartic(), START * np.nan, np.array([1.0]), 0.1, 0.5, "nesterov"),
        ),
        (r"method: got 'adam'", lambda: flows.steps(Quartic(), START, 0.1, 0.5, 1, "adam", REST)),
    ],
)
def test_flows_that_are_none(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_at_time_0_every_flow_is_at_its_start():
    times = np.array([0.0])
    for found in (
        flows.rescaled(Quartic(), START, times, 0.5),
        flows.modified(Quartic(), START, times, 0.1, 0.5, "nesterov"),
        flows.manifold(Quartic(), START, times, 0.1, 0.5, "nesterov"),
    ):
        assert found.tolist() == [START.tolist()]


def test_a_flow_that_blows_up_is_an_error():
    class Falling:
        def gradient(self, w):
            return -w * w

    with pytest.raises(ArithmeticError, match="could not be followed"):
        flows.rescaled(Falling(), np.ones(1), np.array([2.0]), 0.0)
    assert flows.rescaled(Falling(), np.ones(1), np.array([0.5]), 0.0)[0, 0] == pytest.approx(2.0)
    assert not math.isnan(flows.rescaled(Quartic(), START, np.array([0.0, 1.0]), 0.0)[0, 0])
