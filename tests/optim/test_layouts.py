"""Layouts of parameters and gradients: which can be stepped, and what a change after binding does."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import samestep as ss
from samestep.backends import arrays as front_door
from samestep.backends import reference
from samestep.backends.face import Tensor


def layouts_of(dtype):
    """Arrays of one dtype in many layouts and at many addresses."""
    block = np.zeros(4096, np.uint8)
    for shape in ((), (1,), (4,), (3, 4), (4, 3), (2, 1, 6), (2, 6, 1), (0, 3), (3, 0), (2, 3, 2)):
        plain = np.zeros(shape, dtype)
        yield plain
        yield plain.transpose().copy().transpose()
        yield plain.transpose()
        yield np.zeros((*shape, 2), dtype)[..., 0]
        yield np.broadcast_to(dtype.type(0), shape)
        yield plain[::-1] if shape else plain.copy()
        yield block[1 : 1 + plain.nbytes].view(dtype).reshape(shape)
        yield block[64 : 64 + plain.nbytes].view(dtype).reshape(shape)
        yield np.ma.zeros(shape, dtype)
        yield np.zeros(shape, dtype.newbyteorder())


def test_plans_and_the_front_door_accept_the_same_gradients():
    """The check stands in C++ for the fast way and in Python for the message; they may not drift apart."""
    singles, doubles = (list(layouts_of(np.dtype(dtype))) for dtype in (np.float32, np.float64))
    accepted = refused = 0
    for w in singles[::2] + doubles[:4]:
        try:
            front_door.check_inplace("params", w)
        except (TypeError, ValueError):
            continue
        bound, written = front_door.Layout.of(w), front_door.extents([w])
        plans = [
            kind("sgd", [Tensor(w)], np.zeros(2, np.int64)) for kind in (ss.backends.cpu.Plan, reference.Plan)
        ]
        for g in [
            *singles,
            *doubles,
            w,
            w.reshape(-1)[1:],
            None,
            1.0,
            [1.0],
            np.float32(1.0),
            np.zeros(w.shape, int),
        ]:
            fits = g is None or front_door.gradient_error("grads", g, bound, written) is None
            for plan in plans:
                assert plan.step([g], [0.0]) == (-1 if fits else 0), (w.shape, w.strides, g)
            accepted += fits
            refused += not fits
    assert accepted > 100
    assert refused > 1000


def set_strides(a, strides):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from NumPy 2.4 on it is deprecated, and still done
        a.strides = strides


CHANGED = {
    "strides to 0": lambda a: set_strides(a, (0, 0)),
    "strides transposed": lambda a: set_strides(a, a.strides[::-1]),
    "dtype of another kind": lambda a: setattr(a, "dtype", np.int32),
    "dtype of the other byte order": lambda a: setattr(a, "dtype", ">f4"),
    "dtype and so the shape": lambda a: setattr(a, "dtype", np.float64),
    "shape": lambda a: setattr(a, "shape", (2, 8)),
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("changed", CHANGED)
class TestLayoutsThatAreSetLater:
    """NumPy lets dtype, shape and strides of an array be set; a plan walks those that it bound."""

    def check(self, optimizer, array, changed, name, with_gradient):
        memory = array.base if array.base is not None else array
        CHANGED[changed](array)
        before = memory.tobytes()
        w = optimizer.params[0]
        g = np.lib.stride_tricks.as_strided(np.ones(16, w.dtype), w.shape, w.strides)
        with pytest.raises(
            ValueError, match=rf"{name}: its (dtype|shape|strides) (is|are) now .* at the start"
        ):
            optimizer.step(g if with_gradient else None)
        assert memory.tobytes() == before
        assert optimizer.t == 0

    @pytest.mark.parametrize("with_gradient", [True, False])
    def test_of_a_parameter(self, changed, backend, with_gradient):
        w = np.ones((4, 4), np.float32)
        optimizer = ss.Adam(w, backend=backend)
        self.check(optimizer, w, changed, "params", with_gradient)

    def test_of_a_state(self, changed, backend):
        optimizer = ss.Adam(np.ones((4, 4), np.float32), backend=backend, ema=0.5)
        state = optimizer.state["v"][0]
        self.check(optimizer, state, changed, r"state\['v'\]\[0\]", True)

    def test_of_a_running_average(self, changed, backend):
        optimizer = ss.SGD(np.ones((4, 4), np.float32), lr=0.5, backend=backend, ema=0.5)
        self.check(optimizer, optimizer.ema[0], changed, r"state\['ema'\]\[0\]", True)


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    "bind",
    [
        lambda optimizer, _: optimizer.record_stats(),
        lambda optimizer, saved: optimizer.load_state_dict(saved),
        lambda optimizer, _: optimizer.add_group({"params": np.ones(2, np.float32)}),
        lambda optimizer, _: copy.copy(optimizer),
        lambda optimizer, _: copy.deepcopy(optimizer),
        lambda optimizer, _: pickle.dumps(optimizer),
    ],
    ids=["record_stats", "load_state_dict", "add_group", "copy", "deepcopy", "pickle"],
)
def test_a_layout_that_is_set_later_is_not_bound_anew(changed, backend, bind):
    """The step that follows would walk 16 elements where there may be one."""
    w = np.ones((4, 4), np.float32)
    optimizer = ss.SGD(w, lr=0.5, backend=backend)
    saved = optimizer.state_dict()
    CHANGED[changed](w)
    with pytest.raises(ValueError, match=r"params: its (dtype|shape|strides) (is|are) now .* at the start"):
        bind(optimizer, {**saved, "t": 5})
    with pytest.raises(ValueError, match=r"params: its (dtype|shape|strides) (is|are) now .* at the start"):
        optimizer.step(np.lib.stride_tricks.as_strided(np.ones(16, w.dtype), w.shape, w.strides))
    assert (optimizer.t, optimizer.stats, len(optimizer.groups)) == (0, None, 1)


def test_strides_that_do_not_matter_may_be_set():
    """Of an axis of length 1 any stride will do."""
    w = np.ones((4, 1), np.float32)
    optimizer = ss.SGD(w, lr=0.5)
    set_strides(w, (4, 400))
    optimizer.step(np.ones((4, 1), np.float32))
    assert w.ravel().tolist() == [0.5] * 4


def test_a_layout_that_is_set_later_does_not_reach_the_compiled_loop():
    problem = ss.problems.MSE(np.eye(4), np.ones(4))
    optimizer = ss.Adam(np.ones(4))
    set_strides(optimizer.state["m"][0], (0,))
    with pytest.raises(ValueError, match=r"state\['m'\]\[0\]: its strides are now"):
        ss.minimize(problem, np.zeros(4), optimizer, steps=3, record_every=3)
