"""minimize() with an optimizer of the caller's own: w0 is written into it only after every check."""

import numpy as np
import pytest

import samestep as ss
from samestep.train import minimize
from text_problems import fixed


def set_strides(a):
    a.strides = (0,) * a.ndim


def set_read_only(a):
    a.flags.writeable = False


@pytest.mark.parametrize("change", [set_strides, set_read_only])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_state_that_cannot_be_stepped_leaves_the_weights(change):
    w = np.full(2, 7.0)
    optimizer = ss.Momentum(w, 0.1)
    change(optimizer.state["v"][0])
    with pytest.raises(ValueError, match=r"state\['v'\]\[0\]: "):
        minimize(fixed(), np.zeros(2), optimizer, steps=1)
    assert w.tolist() == [7, 7]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_whose_strides_were_set_stay_as_they_are():
    whole = np.full(4, 7.0)
    w = whole[:2]
    optimizer = ss.SGD(w, 0.1)
    w.strides = (16,)
    with pytest.raises(ValueError, match=r"params: its strides are now \(16,\), expected \(8,\)"):
        minimize(fixed(), np.zeros(2), optimizer, steps=1)
    assert whole.tolist() == [7] * 4


def test_a_step_that_was_set_on_the_optimizer_is_called():
    """A profiler, say, wraps the method of one object; the compiled loop would go past it."""
    rng = np.random.default_rng(0)
    problem = ss.problems.MSE(rng.random((5, 2)), rng.random(5))
    optimizer = ss.SGD(np.zeros(2), 0.1)
    step, calls = optimizer.step, []

    def counted(grads, **options):
        calls.append(grads)
        return step(grads, **options)

    optimizer.step = counted
    run = minimize(problem, np.zeros(2), optimizer, steps=3)
    assert (len(calls), optimizer.t) == (3, 3)
    plain = minimize(problem, np.zeros(2), lambda w: ss.SGD(w, 0.1), steps=3)
    assert run.w.tobytes() == plain.w.tobytes()
