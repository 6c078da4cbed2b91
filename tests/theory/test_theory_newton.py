"""Newton's step: exact, singular, damped, saddle-free (A8, B11)."""

import numpy as np
import pytest

import samestep as ss
from samestep.problems import MSE
from samestep.theory import newton_step
from text_functions import Function, interpolating
from text_problems import diabetes, fixed


def singular():
    return MSE(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), np.array([1.0, 2.0, 4.0]))


def test_one_step_solves_a_quadratic():
    for problem in (fixed(), diabetes(), diabetes("mean")):
        w = np.ones(problem.dimension)
        w = w + newton_step(problem.gradient(w), problem.hessian())
        assert w == pytest.approx(problem.minimizer(), rel=1e-9)
    assert newton_step(fixed().gradient(np.zeros(2)), fixed().hessian()) == pytest.approx([4 / 3, 7 / 3])


def test_a_singular_hessian_has_a_shortest_step():
    problem = singular()
    g, H = problem.gradient(np.zeros(2)), problem.hessian()
    assert np.linalg.det(H) == pytest.approx(0.0, abs=1e-12)
    assert newton_step(g, H) == pytest.approx([17 / 28, 17 / 28], rel=1e-12)
    assert newton_step(g, H) == pytest.approx(problem.minimizer(), rel=1e-12)
    assert newton_step(g, H, damping=1e-3) == pytest.approx([0.60712117] * 2, abs=5e-9)


def test_singular_but_for_rounding():
    """Rank 3 of 5: the two eigenvalues that should be 0 are not quite."""
    problem = interpolating()
    g, H = problem.gradient(np.zeros(5)) / 3.0, problem.hessian() / 3.0
    assert 0 < np.abs(np.linalg.eigvalsh(H)[:2]).max() < 1e-14
    assert newton_step(g, H) == pytest.approx(problem.minimizer(), rel=1e-10)


def test_a_direction_without_curvature_is_left_alone():
    assert newton_step(np.array([3.0, 5.0]), np.diag([2.0, 0.0])).tolist() == [-1.5, 0.0]
    assert newton_step(np.ones(2), np.zeros((2, 2))).tolist() == [0.0, 0.0]
    assert newton_step(np.ones(2), np.zeros((2, 2)), damping=0.5).tolist() == [-2.0, -2.0]


def test_damping_turns_it_towards_the_gradient():
    g, H = np.array([1.0, 2.0]), np.array([[2.0, 1.0], [1.0, -1.0]])
    assert g @ newton_step(g, H) > 0  # it climbs
    assert g @ newton_step(g, H, damping=2.0) < 0
    assert 1e6 * newton_step(g, H, damping=1e6) == pytest.approx(-g, rel=1e-5)


def saddle():
    """x^2/2 - y^2/2 + y^4/4: a saddle at 0, minima at (0, -1) and (0, 1)."""
    return Function(
        lambda w: float(w[0] ** 2 / 2 - w[1] ** 2 / 2 + w[1] ** 4 / 4),
        lambda w: [w[0], w[1] ** 3 - w[1]],
        dimension=2,
    )


@pytest.mark.parametrize(("y0", "newton_ends"), [(0.1, 0), (0.3, 0), (0.5, -1), (0.8, 1)])
def test_saddles_attract_newton_alone(y0, newton_ends):
    def iterate(mode):
        w = np.array([1.0, y0])
        for _ in range(50):
            w = w + newton_step(saddle().gradient(w), np.diag([1.0, 3 * w[1] ** 2 - 1]), mode=mode)
        return w

    assert iterate("newton") == pytest.approx([0, newton_ends], abs=1e-9)
    assert iterate("saddle_free") == pytest.approx([0, 1], abs=1e-9)
    run = ss.minimize(saddle(), np.array([1.0, y0]), lambda w: ss.SGD(w, lr=0.1), steps=400)
    assert run.w == pytest.approx([0, 1], abs=1e-9)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"H: got NaN or infinity", (np.zeros(2), np.array([[np.nan, 0], [0, 1]]))),
        (r"H: got shape \(2, 3\)", (np.zeros(2), np.zeros((2, 3)))),
        (r"not symmetric", (np.zeros(2), np.array([[1.0, 2.0], [0.0, 1.0]]))),
        (r"g: got shape \(3,\), expected \(2,\)", (np.zeros(3), np.eye(2))),
        (r"g: got NaN or infinity", (np.array([np.nan, 0.0]), np.eye(2))),
        (r"damping: got -1.0", (np.zeros(2), np.eye(2), -1.0)),
        (r"damping: got nan", (np.zeros(2), np.eye(2), np.nan)),
        (r"mode: got 'abs', expected one of 'newton', 'saddle_free'", (np.zeros(2), np.eye(2), 0.0, "abs")),
    ],
)
def test_bad_arguments(message, arguments):
    with pytest.raises(ValueError, match=message):
        newton_step(*arguments)
