"""A step that the device leaves out for a number that has been found there, run by fibers on the host."""

from __future__ import annotations

import numpy as np
import pytest

from bits import same_bits
from host_cupy import device
from samestep.backends import gpu, reference
from samestep.backends.face import STEPPED, Tensor
from samestep.backends.gpu import kernels as sizes
from samestep.backends.options import Options

HYPER = [0.1, 0.9, 0.999, 1e-8]
TENSORS = 2 + sizes.HYPER // (len(HYPER) + 1)  # a group each: more than a launch forms coefficients of


def tensors_of(place):
    rng = np.random.default_rng(3)
    values = rng.standard_normal((TENSORS, 3, 5)).astype(np.float32)
    return [Tensor(place(w), [place(m), place(v * v)], i) for i, (w, m, v) in enumerate(values)]


@pytest.mark.parametrize("options", [Options(), Options(clip_norm=0.5)], ids=["plain", "clipped"])
@pytest.mark.parametrize("stays", [True, False], ids=["gradients in place", "gradients elsewhere"])
def test_a_step_is_left_out_and_taken_back(kernels, options, stays):
    here, there = tensors_of(np.array), tensors_of(device)
    steps, others = np.arange(TENSORS + 1), np.arange(TENSORS + 1)
    plan = gpu.Plan("adam_outside", there, steps, options)
    twin = reference.Plan("adam_outside", here, others, options)
    for one in (plan, twin):
        one.set_weight_decay([0.25] * TENSORS)
    found_inf = device(np.zeros((), np.float32))
    rng = np.random.default_rng(4)
    grads = [device(np.zeros(5, np.float32)) for _ in there]
    for found in (0.0, 1.0, 2.0, 0.0, np.nan, 0.0):
        if not stays:
            grads = [device(g.host) for g in grads]
        for g in grads:
            g.host[...] = rng.standard_normal(5)
        found_inf.host[...] = found
        before = steps.copy()
        plan.found_inf = found_inf.data.ptr
        assert plan.step(grads, HYPER * TENSORS) == STEPPED
        assert (steps == before + 1).all()
        if found:
            plan.take_back(before)
            steps += 1  # somebody sets them to what they would be if the step had been made
            others += 1
        else:
            assert twin.step([g.get() for g in grads], HYPER * TENSORS) == STEPPED
        assert (steps == others).all()
        same_bits([a.host for t in there for a in t.arrays()], [a for t in here for a in t.arrays()])


def test_beside_a_gradient_that_is_not_finite(kernels):
    """Then the device's counts, which ``settle`` reads, tell of both."""
    tensors, steps = tensors_of(device), np.zeros(TENSORS + 1, np.int64)
    plan = gpu.Plan("adam_outside", tensors, steps, Options(nonfinite="skip"))
    plan.set_weight_decay([0.0] * TENSORS)
    grads = [device(np.ones(5, np.float32)) for _ in tensors]
    made = 0
    for found, value in ((0.0, 1.0), (1.0, 1.0), (0.0, np.inf), (1.0, np.nan), (0.0, 1.0)):
        grads[1].host[2] = value
        found_inf = device(np.full((), found, np.float32))
        plan.found_inf = found_inf.data.ptr
        assert plan.step(grads, HYPER * TENSORS) == STEPPED
        made += found == 0 and value == 1
        plan.settle()
        assert (steps == made).all()
