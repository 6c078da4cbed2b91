"""The plan that is bound by address, as samestep.torch binds it: the same bits as the plan of arrays."""

import ctypes
import types
import weakref

import numpy as np
import pytest

from control_register import MODES, mxcsr, needs_x86
from samestep import _core
from samestep.backends import face
from samestep.backends.options import Options
from samestep.proof import golden, vectors


def step(plan, grads, hyper, weight_decay=0.0):
    return _core.AddressedPlan.step_together([plan], [grads], [hyper], [weight_decay], [])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rule", "hyper"), [("sgd", [0.1]), ("adam_outside", [0.1, 0.9, 0.99, 1e-8])])
def test_a_plan_by_address_is_the_plan(rule, hyper, dtype):
    """At any offset, with gradients left out, and with nothing to step."""
    (states,) = (states for name, *_, states in _core.rules() if name == rule)
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
    plan = _core.AddressedPlan(rule, memory, steps, Options(decoupled_weight_decay=True))
    assert plan.is_disjoint
    w, g, *s = lists(twin)
    tensors = [face.Tensor(*own) for own in zip(w, zip(*s, strict=True) if s else ((),) * 3, strict=True)]
    expected = _core.Plan(rule, tensors, twin_steps, Options(decoupled_weight_decay=True))
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
        w, g = (vectors.random_values(size, np.dtype(np.float32), seed) for seed in (1, 2))
        expected = w.copy()
        _core.Plan("sgd", [face.Tensor(expected)], np.zeros(2, np.int64)).step([g], [0.1])
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


COUNTS = {"d": np.float64, "f": np.float32, "i": np.int64}


def counting(counts):
    """A plan of as many arrays, whose steps are counted there."""
    arrays, g = [np.zeros(4) for _ in counts], np.ones(4)
    memory = [("float64", 4, w.ctypes.data, []) for w in arrays]
    places = [(count.ctypes.data, count.dtype.char.replace("l", "i")) for count in counts]
    steps = np.zeros(len(counts) + 1, np.int64)
    return _core.AddressedPlan("sgd", memory, steps, Options(), counts=places), arrays, g


def test_step_counts_are_read_and_written_where_they_lie():
    counts = [np.full(1, 5, dtype) for dtype in COUNTS.values()]
    plan, _, g = counting(counts)
    assert step(plan, [g.ctypes.data] * 3, [0.5]) is None
    assert [count.item() for count in counts] == [6, 6, 6]
    for count in counts:
        count[0] = 10
    assert step(plan, [g.ctypes.data, None, g.ctypes.data], [0.5]) is None
    assert [count.item() for count in counts] == [11, 10, 11]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 2.0**54])
def test_a_step_count_that_is_none_keeps_all_from_stepping(number):
    counts = [np.full(1, 5.0), np.full(1, number)]
    plan, arrays, g = counting(counts)
    with pytest.raises(ValueError, match=r"state\['step'\]: got"):
        step(plan, [g.ctypes.data] * 2, [0.5])
    assert not any(w.any() for w in arrays)
    assert counts[0].item() == 5
    with pytest.raises(ValueError, match="counts: expected one for every parameter"):
        _core.AddressedPlan(
            "sgd", [("float64", 4, 0, [])], np.zeros(2, np.int64), Options(), counts=[(0, "d")] * 2
        )


# Shape, offset in bytes, strides in elements.
PLACES = {
    "gaps": ((3, 4), 0, (8, 2)),
    "backwards": ((4, 3), 88, (-3, -1)),
    "transposed gaps": ((4, 3), 0, (1, 12)),
    "odd bytes": ((12,), 1, (1,)),
    "one": ((), 3, ()),
    "none": ((3, 0), 0, (1, 1)),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("is_negated", [False, True])
def test_a_parameter_that_is_no_block_is_stepped_by_one(place, dtype, is_negated):
    """In its own place, and nothing between its elements is written."""
    rng, room = np.random.default_rng(0), np.zeros(400, np.uint8)
    shape, offset, strides = PLACES[place]
    w = np.ndarray(shape, dtype, room, offset, [np.dtype(dtype).itemsize * s for s in strides])
    start, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    w[...] = start
    before = room.copy()
    expected = -start if is_negated else start.copy()
    expected, block = np.array(expected, order="C"), np.zeros(shape, dtype)
    _core.Plan("sgd", [face.Tensor(expected)], np.zeros(2, np.int64)).step([g], [0.5])
    block_strides = [s // block.itemsize for s in block.strides]
    plan = _core.AddressedPlan(
        "sgd",
        [(dtype, w.size, block.ctypes.data, [])],
        np.zeros(2, np.int64),
        Options(),
        [(0, w.ctypes.data, is_negated, list(shape), list(strides), block_strides)],
    )
    assert step(plan, [None], [0.5]) is None
    assert room.tobytes() == before.tobytes()
    assert step(plan, [g.ctypes.data], [0.5]) is None
    assert np.array(-w if is_negated else w).tobytes() == expected.tobytes()
    w[...] = start
    assert room.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    "strided",
    [(1, 0, False, [4], [1], [1]), (0, 0, False, [3], [1], [1]), (0, 0, False, [4], [], [1])],
    ids=["no such parameter", "another size", "a stride is missing"],
)
def test_a_place_that_does_not_fit_its_parameter_is_refused(strided):
    with pytest.raises(ValueError, match="strided"):
        _core.AddressedPlan("sgd", [("float32", 4, 0, [])], np.zeros(2, np.int64), Options(), [strided])


class View(ctypes.Structure):
    """DLPack's DLTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("n_axes", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


Look = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(View))


class Exchange(ctypes.Structure):
    """DLPack's DLPackExchangeAPI."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("managed", ctypes.c_void_p * 3),
        ("look", Look),
        ("stream", ctypes.c_void_p),
    ]


@Look
def look(tensor, out):
    if tensor.is_hidden:
        return -1
    array = tensor.array
    tensor.axes = [(ctypes.c_int64 * max(array.ndim, 1))(*axes) for axes in (array.shape, tensor.strides())]
    view = out.contents
    view.data, view.byte_offset = array.ctypes.data - 8 if array.size else 0, 8 if array.size else 0
    view.device[0], view.n_axes = tensor.device, array.ndim
    view.code, view.bits, view.lanes = {"i": 0, "f": 2, "c": 5}[array.dtype.kind], array.itemsize * 8, 1
    view.shape, view.strides = tensor.axes
    return 0


def capsule(exchange):
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(ctypes.addressof(exchange), b"dlpack_exchange_api", None)


EXCHANGES = [Exchange(major=1, look=look)]
EXCHANGES.append(Exchange(major=2, previous=ctypes.addressof(EXCHANGES[0])))
EXCHANGES += [Exchange(major=2), Exchange(major=1)]


class Tensor:
    """What _core.Layouts asks of torch's tensors."""

    __dlpack_c_exchange_api__ = capsule(EXCHANGES[1])

    def __init__(self, array, **facts):
        self.array, self.device, self.is_hidden, self.negated, self.conjugate = array, 1, False, False, False
        vars(self).update(facts)

    def strides(self):
        return [s // self.array.itemsize for s in self.array.strides]

    def is_neg(self):
        return self.negated

    def is_conj(self):
        return self.conjugate

    def untyped_storage(self):
        return self.array


class Derived(Tensor):
    pass


def test_layouts_say_where_tensors_lie_and_hold_that_memory():
    arrays = [np.zeros((3, 4), np.float32), np.zeros((), np.int64), np.zeros((0, 5))]
    layouts = _core.Layouts([Tensor(a) for a in arrays])
    addresses, storages = layouts.get_addresses([Tensor(a) for a in arrays])
    assert addresses == [arrays[0].ctypes.data, arrays[1].ctypes.data, 0]
    assert all(a is b for a, b in zip(arrays, storages, strict=True))
    assert layouts.get_addresses([None] * 3) == ([None] * 3, [])
    assert layouts.find_moved([Derived(a) for a in arrays]) == -1
    assert _core.Layouts([]).get_addresses([]) == ([], [])
    for ask in (layouts.get_addresses, layouts.find_moved):
        with pytest.raises(ValueError, match="one for every"):
            ask([None])


def test_gradients_are_found_with_their_addresses():
    arrays = [np.zeros((3, 4), np.float32), np.zeros(3), np.zeros(2)]
    params = [
        Tensor(a, grad=grad) for a, grad in zip(arrays, (Tensor(arrays[0]), None, Tensor(W)), strict=True)
    ]
    gradients, addresses, storages = _core.Layouts(params).get_gradients(params)
    assert gradients == [p.grad for p in params]
    assert addresses == [arrays[0].ctypes.data, None, -1]
    assert storages[0] is arrays[0]
    assert len(storages) == 1
    with pytest.raises(ValueError, match="one for every"):
        _core.Layouts(params).get_gradients(params[1:])
    with pytest.raises(AttributeError, match="grad"):
        _core.Layouts(params[:1]).get_gradients([Tensor(arrays[0])])


def test_states_are_looked_up_by_place_and_name():
    states = [{"a": 1, "b": 2}, {"a": 3}]
    assert _core.StatePlaces([1, 0, 0], ["a", "b", "a"]).look_up(states) == [3, 2, 1]
    assert _core.StatePlaces([0], ["b"]).look_up([types.MappingProxyType(states[0])]) == [2]
    for at, name in ((1, "b"), (2, "a"), (-1, "a")):
        assert _core.StatePlaces([0, at], ["a", name]).look_up(states) is None
    assert _core.StatePlaces([0], ["a"]).look_up([7]) is None
    with pytest.raises(ValueError, match="positions, names"):
        _core.StatePlaces([0], [])


W = np.arange(24.0).reshape(2, 12)[:1].reshape(3, 4)  # not square, room behind it
OTHERS = {
    "smaller": Tensor(W[:2]),
    "another shape": Tensor(W.reshape(4, 3)),
    "another number of axes": Tensor(W.reshape(1, 3, 4)),
    "another type": Tensor(W.view(np.int64)),
    "other strides": Tensor(np.ndarray((3, 4), W.dtype, W.base, strides=(8, 24))),
    "on another device": Tensor(W, device=2),
    "of no memory": Tensor(W, is_hidden=True),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_layouts_see_every_difference(other):
    layouts = _core.Layouts([Tensor(W[:1]), Tensor(W)])
    assert layouts.find_moved([Tensor(W[:1]), other]) == 1
    assert layouts.get_addresses([Tensor(W[:1]), other])[0][1] == -1


def test_layouts_see_what_is_lazy_unaligned_or_elsewhere():
    one, z = np.ones((1, 1)), np.ones(3, np.complex64)
    for layouts, other in (
        (_core.Layouts([Tensor(one)]), Tensor(one, negated=True)),
        (_core.Layouts([Tensor(z)]), Tensor(z, conjugate=True)),
    ):
        assert layouts.find_moved([other]) == 0
        assert layouts.get_addresses([other]) == ([-1], [])
    layouts = _core.Layouts([Tensor(W)])
    assert layouts.find_moved([Tensor(W.copy())]) == 0
    assert layouts.get_addresses([Derived(W)]) == ([-1], [])
    odd = np.frombuffer(bytearray(W.nbytes + 1), W.dtype, W.size, 1).reshape(W.shape)
    assert layouts.get_addresses([Tensor(odd)]) == ([-1], [])
    row = np.zeros((1, 4))  # no stride is taken along an axis of one
    assert (
        _core.Layouts([Tensor(row)]).find_moved([Tensor(np.ndarray((1, 4), row.dtype, row, strides=(8, 8)))])
        == -1
    )


def test_layouts_hold_what_has_not_moved():
    arrays = [np.zeros((3, 4), np.float32), np.zeros(()), np.zeros((0, 5))]
    layouts = _core.Layouts([Tensor(a) for a in arrays], 1)
    held = layouts.hold([Tensor(arrays[0]), Derived(arrays[1]), Tensor(arrays[2])])
    assert all(a is b for a, b in zip(arrays, held, strict=True))
    for other in (
        Tensor(arrays[1].copy()),
        Tensor(arrays[1], device=2),
        Tensor(arrays[1], negated=True),
        1.0,
    ):
        assert layouts.hold([Tensor(arrays[0]), other, Tensor(arrays[2])]) is None
    with pytest.raises(ValueError, match="one for every"):
        layouts.hold([])


def test_identities_hold_nothing():
    objects = [Tensor(np.zeros(1)) for _ in range(2)]
    identities, first = _core.Identities(objects), weakref.ref(objects[0])
    assert identities.are_of(list(objects))
    assert not identities.are_of(objects[::-1])
    assert not identities.are_of(objects[:1])
    del objects
    assert first() is None


def test_layouts_refuse_what_cannot_be_looked_at():
    with pytest.raises(ValueError, match="memory"):
        _core.Layouts([Tensor(W, device=2)])
    with pytest.raises(AttributeError):
        _core.Layouts([W])
    for exchange in EXCHANGES[2:]:
        other = type("Other", (Tensor,), {"__dlpack_c_exchange_api__": capsule(exchange)})
        with pytest.raises(RuntimeError, match="DLPackExchangeAPI"):
            _core.Layouts([other(W)])


def test_the_array_of_a_tensor_is_its_memory_and_keeps_the_tensor():
    for a in (W, W.T, W[:, ::3], W.astype(np.complex64), np.zeros(()), np.zeros((0, 5), np.int64)):
        tensor = Tensor(a)
        array, alive = _core.array_of(tensor, "x"), weakref.ref(tensor)
        assert (array.dtype, array.shape, array.strides) == (a.dtype, a.shape, a.strides)
        assert array.size == 0 or array.ctypes.data == a.ctypes.data
        assert array.flags.writeable
        del tensor
        assert (alive() is not None) == (a.size > 0)
        del array
        assert alive() is None


def test_no_array_of_a_tensor_that_numpy_cannot_read():
    odd = np.frombuffer(bytearray(W.nbytes + 1), W.dtype, W.size, 1)
    with pytest.raises(ValueError, match="x: its memory does not lie on a multiple of 8 bytes"):
        _core.array_of(Tensor(odd), "x")
    with pytest.raises(ValueError, match=r"x: expected a tensor of numbers .* in the host's memory"):
        _core.array_of(Tensor(W, device=2), "x")
