"""The plan that is bound by address, as samestep.torch binds it: the same bits as the plan of arrays."""

import numpy as np
import pytest

from control_register import MODES, mxcsr, needs_x86
from samestep import _core, golden
from samestep.options import Options


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
        assert plan.take(given) == -1
        plan.step(hyper, 0.5)
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
            assert plan.take([g.ctypes.data]) == -1
            plan.step([0.1], 0.0)
        assert golden.difference(w, expected) is None


def test_a_plan_by_address_sees_what_overlaps():
    w = np.zeros(8)
    at = w.ctypes.data
    steps = np.zeros(3, np.int64)
    plan = _core.AddressedPlan("sgd", [("float64", 4, at, []), ("float64", 4, at + 32, [])], steps, Options())
    assert plan.is_disjoint
    assert plan.take([None, at + 24]) == 1
    twice = _core.AddressedPlan(
        "sgd", [("float64", 4, at, []), ("float64", 4, at + 24, [])], steps, Options()
    )
    assert not twice.is_disjoint
    for grads in ([None], [None, 2**65]):
        with pytest.raises((ValueError, OverflowError)):
            plan.take(grads)
    with pytest.raises(ValueError, match="wrong number of values"):
        plan.step([0.1, 0.2], 0.0)
    with pytest.raises(ValueError, match="states"):
        _core.AddressedPlan("adam_outside", [("float64", 4, at, [])], np.zeros(2, np.int64), Options())
