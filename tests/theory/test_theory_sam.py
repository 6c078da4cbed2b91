"""Sharpness-aware minimisation (A13)."""

import numpy as np
import pytest

import samestep as ss
from samestep.theory import sam_step
from text_functions import valley
from text_problems import fixed


def test_one_step():
    w = np.array([2.0, 1.0])
    sam_step(ss.SGD(w, lr=0.1), valley().gradient, rho=0.05)
    assert w == pytest.approx([1.88374305, 0.77495102], abs=5e-9)


def test_on_a_parabola_it_ends_in_a_cycle_of_two():
    h, rho, lr = 3.0, 0.1, 0.2
    w = np.array([1.0])
    opt = ss.SGD(w, lr=lr)
    seen = []
    for _ in range(400):
        sam_step(opt, lambda w: h * w, rho)
        seen.append(w[0])
    assert abs(seen[-1]) == pytest.approx(lr * h * rho / (2 - lr * h), rel=1e-9)
    assert abs(seen[-1]) == pytest.approx(0.0428571, abs=5e-8)
    assert seen[-1] == pytest.approx(-seen[-2], rel=1e-9)


def test_it_walks_to_the_flattest_minimum():
    """Sharpness |w|^2: gradient descent stays at 16, SAM comes down to 2."""
    start = np.array([4.0, 0.3])
    plain = ss.minimize(valley(), start, lambda w: ss.SGD(w, lr=0.05), steps=2000).w
    assert plain == pytest.approx([3.99637, 0.25023], abs=5e-6)
    assert plain @ plain == pytest.approx(16.03357, abs=5e-5)
    w = start.copy()
    opt = ss.SGD(w, lr=0.05)
    sharpness = []
    for _ in range(20000):
        sam_step(opt, valley().gradient, rho=0.1)
        sharpness.append(w @ w)
    assert sharpness[1999] == pytest.approx(2.21932, abs=5e-5)
    assert sharpness[-1] == pytest.approx(1.98346, abs=5e-5)
    assert w == pytest.approx([0.99586, 0.99586], abs=5e-5)


def test_at_a_minimum_the_worst_loss_near_by_is_that_of_the_largest_eigenvalue():
    """max L/(rho^2 lambda_max/2) -> 1: the notes' penalty, in the limit."""
    at, largest = np.array([2.0, 0.5]), 4.25
    angles = np.linspace(0, 2 * np.pi, 100001)
    for rho, share in ((0.1, 1.0247), (0.01, 1.0023), (0.001, 1.0002)):
        w1, w2 = at[0] + rho * np.cos(angles), at[1] + rho * np.sin(angles)
        worst = np.max((w1 * w2 - 1) ** 2 / 2)
        assert worst / (rho**2 * largest / 2) == pytest.approx(share, abs=5e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rho_0_is_the_plain_step_and_others_restore_w_exactly(dtype):
    w, plain = np.full(2, 0.1, dtype), np.full(2, 0.1, dtype)
    a, b = ss.Adam(w, lr=0.01), ss.Adam(plain, lr=0.01)
    for _ in range(5):
        sam_step(a, fixed(dtype).gradient, rho=0.0)
        b.step(fixed(dtype).gradient(plain))
    assert w.tobytes() == plain.tobytes()
    sam_step(ss.SGD(w, lr=0.0), fixed(dtype).gradient, rho=1e9)
    assert w.tobytes() == plain.tobytes()


def test_where_the_gradient_is_0_it_stays():
    w = np.zeros(2)
    sam_step(ss.SGD(w, lr=0.1), lambda w: 3.0 * w, rho=0.5)
    assert w.tolist() == [0, 0]


@pytest.mark.parametrize(
    "params",
    [lambda w: w, lambda w: [w], lambda w: {"w": w}, lambda w: [{"params": w}], lambda w: [{"params": [w]}]],
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_any_optimizer_of_one_array(params, order, dtype):
    """Along 2w from w = 3 everywhere: w + e = 3 + rho/sqrt(6), every number here a float16."""
    w = np.full((2, 3), 3.0, dtype, order=order)
    sam_step(ss.SGD(params(w), lr=0.25), lambda w: w + w, rho=0.5 * 6**0.5)
    assert w.tolist() == [[1.25] * 3] * 2


def test_bad_arguments():
    w = np.ones(2)
    for rho in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="rho: got"):
            sam_step(ss.SGD(w, lr=0.1), lambda w: w, rho)
    with pytest.raises(TypeError, match="optimizer: got float, expected an optimizer"):
        sam_step(0.1, lambda w: w, 0.1)
    with pytest.raises(ValueError, match="optimizer: got one of 2 arrays"):
        sam_step(ss.SGD([w, w.copy()], lr=0.1), lambda w: w, 0.1)
    with pytest.raises(ValueError, match=r"gradient: returned shape \(3,\), expected \(2,\)"):
        sam_step(ss.SGD(w, lr=0.1), lambda w: np.ones(3), 0.1)
    calls = []

    def fails_at_the_second(w):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return 2.0 * w

    with pytest.raises(RuntimeError):
        sam_step(ss.SGD(w, lr=0.1), fails_at_the_second, 0.1)
    assert w.tolist() == [1, 1]
