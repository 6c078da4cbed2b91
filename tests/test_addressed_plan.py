"""The plan that is bound by address, as samestep.torch binds it: the same bits as the plan of arrays."""

import numpy as np
import pytest

from control_register import MODES, mxcsr, needs_x86
from samestep import _core
from samestep.backends.options import Options
from samestep.proof import golden


def step(plan, grads, hyper, weight_decay=0.0):
    return _core.AddressedPlan.step_together([plan], [grads], [hyper], [weight_decay], [])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rule", "hyper"), [("sgd", [0.1]), ("adam_outside", [0.1, 0.9, 0.99, 1e-8])])
def test_a_plan_by_address_is_the_plan(rule, hyper, dtype):
    """At any offset, with gradients left out, and with nothing to step."""
    (states,) = (states for name, _, states in _core.rules() if name == rule)
    rng = np.random.default_rng(0)
    room = rng.standard_normal((2 + len(states), 3, 40)).astype(dtype)
    twin = room.copy()
    cuts = ((0, slice(0, 17)), (1, slice(1, 38)), (2, slice(5, 5)))

    def lists(room):
        return [[array[row, cut] for row, cut in cuts] for array in room]

    params, grads, *kept = lists(room)
    steps, twin_steps = np.zeros(4, np.int64), np.zeros(4, np.int64)
    places = zip(params, zip(*kept, strict=True) if kept else ((),) * 3, strict=True)
    memory = [(dtype, w.size, w.ctypes.data, [s.ctypes.data for s in own]) for w, own in places]
    plan = _core.AddressedPlan(rule, memory, steps, Options(decoupled=True))
    assert plan.is_disjoint
    w, g, *s = lists(twin)
    expected = _core.Plan(rule, w, s, twin_steps, Options(decoupled=True, groups=(0, 0, 0)))
    expected.set_weight_decay([0.5])
    for skipped in (None, 0, 1):
        given = [None if i == skipped else a.ctypes.data for i, a in enumerate(grads)]
        assert step(plan, given, hyper, 0.5) is None
        expected.step([None if i == skipped else a for i, a in enumerate(g)], hyper)
    assert room.tobytes() == twin.tobytes()
    assert steps.tolist() == twin_steps.tolist() == [2, 2, 3, 3]


@needs_x86
@pytest.mark.parametrize("bits", MODES)
def test_in_any_floating_point_mode(bits):
    """Both below and above the size from which other threads run meanwhile."""
    for size in (50, 5000):
        w, g = (golden.random_values(size, np.dtype(np.float32), seed) for seed in (1, 2))
        expected = w.copy()
        _core.Plan("sgd", [expected], [], np.zeros(2, np.int64)).step([g], [0.1])
        plan = _core.AddressedPlan(
            "sgd", [("float32", size, w.ctypes.data, [])], np.zeros(2, np.int64), Options()
        )
        with mxcsr(bits):
            assert step(plan, [g.ctypes.data], [0.1]) is None
        assert golden.difference(w, expected) is None


def test_a_plan_by_address_sees_what_overlaps():
    w = np.zeros(8)
    at = w.ctypes.data
    steps = np.zeros(3, np.int64)
    plan = _core.AddressedPlan("sgd", [("float64", 4, at, []), ("float64", 4, at + 32, [])], steps, Options())
    assert plan.is_disjoint
    assert step(plan, [None, at + 24], [0.1]) == (0, 1)
    twice = _core.AddressedPlan(
        "sgd", [("float64", 4, at, []), ("float64", 4, at + 24, [])], steps, Options()
    )
    assert not twice.is_disjoint
    for grads in ([None], [None, 2**65]):
        with pytest.raises((ValueError, OverflowError)):
            step(plan, grads, [0.1])
    with pytest.raises(ValueError, match="wrong number of values"):
        step(plan, [None, None], [0.1, 0.2])
    assert not w.any()
    with pytest.raises(ValueError, match="states"):
        _core.AddressedPlan("adam_outside", [("float64", 4, at, [])], np.zeros(2, np.int64), Options())


class TestTogether:
    def make(self, n=2):
        arrays = [np.ones(4) for _ in range(n)]
        steps = [np.zeros(2, np.int64) for _ in range(n)]
        plans = [
            _core.AddressedPlan("sgd", [("float64", 4, w.ctypes.data, [])], s, Options())
            for w, s in zip(arrays, steps, strict=True)
        ]
        return arrays, steps, plans

    def test_a_plan_that_does_not_fit_keeps_all_from_stepping(self):
        arrays, steps, plans = self.make()
        g = np.ones(4)
        together = _core.AddressedPlan.step_together
        at, own = [g.ctypes.data], [arrays[1].ctypes.data]
        called = []
        assert together(plans, [at, own], [[0.5]] * 2, [0.0] * 2, [lambda: called.append(1)]) == (1, 0)
        for grads, hyper in (([at, at], [[0.5], []]), ([at], [[0.5]] * 2), ([at, [None] * 2], [[0.5]] * 2)):
            with pytest.raises(ValueError, match=r"expected one for every|wrong number"):
                together(plans, grads, hyper, [0.0] * 2, [])
        with pytest.raises(RuntimeError, match="another thread is inside"):
            together([plans[0], plans[0]], [at] * 2, [[0.5]] * 2, [0.0] * 2, [])
        assert all((w == 1.0).all() for w in arrays)
        assert not any(s.any() for s in steps)
        assert not called

    def test_what_is_to_be_done_then_is_done_even_if_some_of_it_fails(self):
        arrays, steps, plans = self.make()
        g = np.ones(4)
        seen = []
        then = [lambda: seen.append(arrays[1][0]), lambda: 1 / 0, lambda: {}["key"], lambda: seen.append(2)]
        with pytest.raises(ZeroDivisionError):
            _core.AddressedPlan.step_together(plans, [[g.ctypes.data]] * 2, [[0.5]] * 2, [0.0] * 2, then)
        assert seen == [0.5, 2]
        assert [s.tolist() for s in steps] == [[1, 1]] * 2
