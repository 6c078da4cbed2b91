"""The slides' algorithms 3.4 to 3.6 (B14 - B16): their lines in NumPy, their deadline, their schedules."""

import itertools

import numpy as np
import pytest

import samestep as ss
from samestep.backends.reference.sampling import Sampler
from samestep.theory import run_until
from text_problems import diabetes


def ticking(step=1.0):
    """A clock that shows 0, 1, 2, ... seconds."""
    times = itertools.count(0.0, step)
    return lambda: next(times)


PROBLEM, X0, V0 = diabetes("half_mean"), np.linspace(-50.0, 50.0, 10), np.linspace(2.0, -2.0, 10)


def lr(k):
    return 20.0 / (1.0 + 0.01 * k)


def momentum(k):
    return 0.9 - 0.5 / (k + 1)


def slides(algorithm, steps, v0):
    """Algorithms 3.4 - 3.6 as they are printed."""
    sampler, x, v = Sampler(3), X0.copy(), v0.copy()
    for k in range(steps):
        (i,) = sampler.draws(1, PROBLEM.size)

        def gradient(x, i=i):
            return (PROBLEM.Phi[i] @ x - PROBLEM.y[i]) * PROBLEM.Phi[i]

        if algorithm == "sgd":
            x = x - lr(k) * gradient(x)
            continue
        at = x + momentum(k) * v if algorithm == "nesterov" else x
        v = momentum(k) * v - lr(k) * gradient(at)
        x = x + v
    return x, v


@pytest.mark.parametrize("algorithm", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize("steps", [0, 1, 200])
def test_it_is_the_printed_algorithm(algorithm, steps):
    v0 = np.zeros(10) if algorithm == "sgd" else V0
    options = {} if algorithm == "sgd" else {"momentum": momentum, "v0": V0}
    run = run_until(PROBLEM, X0, algorithm, deadline=steps + 1.0, lr=lr, seed=3, clock=ticking(), **options)
    x, v = slides(algorithm, steps, v0)
    assert run.steps == steps
    assert run.x == pytest.approx(x, rel=1e-12)
    assert run.v == pytest.approx(v, rel=1e-10, abs=1e-12)


def test_an_ahead_gradient_without_its_index_would_be_another_algorithm():
    """3.6 is printed with v where v_k is meant; taken at x alone it is 3.5, and ends elsewhere."""
    ends = [
        run_until(PROBLEM, X0, name, deadline=200.0, lr=lr, momentum=momentum, seed=3, clock=ticking()).x
        for name in ("momentum", "nesterov")
    ]
    assert np.linalg.norm(ends[0] - ends[1]) > 1e-3 * np.linalg.norm(ends[0])


@pytest.mark.parametrize(("deadline", "steps"), [(5.0, 4), (1.0, 0), (0.0, 0), (5.5, 5)])
def test_the_deadline_is_tested_before_each_step(deadline, steps):
    run = run_until(PROBLEM, X0, "sgd", deadline=deadline, lr=0.1, clock=ticking())
    assert run.steps == steps
    if steps == 0:
        assert run.x.tolist() == X0.tolist()
        assert run.v.tolist() == [0.0] * 10


def test_a_real_clock():
    run = run_until(PROBLEM, X0, "momentum", deadline=0.02, lr=0.1, momentum=0.9)
    assert run.steps > 0


def test_constants_are_schedules():
    runs = [
        run_until(PROBLEM, X0, "nesterov", deadline=50.0, lr=a, momentum=b, clock=ticking()).x.tolist()
        for a, b in [(0.5, 0.9), (lambda k: 0.5, lambda k: 0.9)]
    ]
    assert runs[0] == runs[1]


def test_it_has_the_bits_of_minimize():
    """Which draws the same rows from the same seed."""
    run = run_until(PROBLEM, X0, "momentum", deadline=101.0, lr=0.5, momentum=0.9, seed=8, clock=ticking())
    same = ss.minimize(
        PROBLEM,
        X0,
        lambda w: ss.Momentum(w, lr=0.5, momentum=0.9),
        steps=100,
        batch_size=1,
        sampling="with_replacement",
        seed=8,
    )
    assert run.steps == same.steps
    assert run.x.tolist() == same.w.tolist()


def test_the_start_is_left_alone():
    x0, v0 = X0.copy(), V0.copy()
    run_until(PROBLEM, x0, "nesterov", deadline=9.0, lr=0.5, momentum=0.9, v0=v0, clock=ticking())
    assert x0.tolist() == X0.tolist()
    assert v0.tolist() == V0.tolist()


@pytest.mark.parametrize(
    ("message", "algorithm", "options"),
    [
        (r"algorithm: got 'adam'", "adam", {}),
        (r"deadline: got -1.0", "sgd", {"deadline": -1.0}),
        (r"deadline: got nan", "sgd", {"deadline": float("nan")}),
        (r"momentum: got None for algorithm 'nesterov'", "nesterov", {}),
        (r"momentum: got 0.9 for algorithm 'sgd'", "sgd", {"momentum": 0.9}),
        (r"v0: got a velocity", "sgd", {"v0": V0}),
        (r"v0: got shape \(2,\), expected \(10,\)", "momentum", {"momentum": 0.9, "v0": np.zeros(2)}),
        (r"lr: got -1.0", "sgd", {"lr": -1.0}),
    ],
)
def test_arguments_that_do_not_fit(message, algorithm, options):
    with pytest.raises(ValueError, match=message):
        run_until(PROBLEM, X0, algorithm, **{"deadline": 3.0, "lr": 0.1, "clock": ticking(), **options})
