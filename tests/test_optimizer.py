"""The front door: structures, state, and errors that leave every byte and count as they were."""

import copy
import itertools
import pickle
import warnings

import numpy as np
import pytest

import samestep as ss
from conftest import ISAS, same_bits
from samestep.backends import arrays as front_door
from samestep.backends import reference
from samestep.backends.face import Tensor
from samestep.proof import golden


def arrays(*sizes, dtype=np.float32, seed=1):
    return [golden.random_values(n, np.dtype(dtype), seed + i) for i, n in enumerate(sizes)]


def snapshot(optimizer):
    return [a.copy() for a in (*optimizer.params, *(s for ss in optimizer.state.values() for s in ss))]


class TestStructures:
    def test_single_array(self):
        w = np.ones(3)
        optimizer = ss.SGD(w, lr=0.5)
        optimizer.step(np.ones(3))
        assert w.tolist() == [0.5] * 3
        assert optimizer.t == 1

    def test_tuple_and_dict(self):
        for params, grads in (
            ((np.ones(2), np.ones(1)), (np.ones(2), np.ones(1))),
            ({"a": np.ones(2), "b": np.ones(1)}, {"b": np.ones(1), "a": np.ones(2)}),
        ):
            optimizer = ss.SGD(params, lr=0.25)
            optimizer.step(grads)
            assert [w.tolist() for w in optimizer.params] == [[0.75, 0.75], [0.75]]

    def test_zero_dimensional_and_empty_arrays(self):
        params = [np.array(1.0), np.zeros((0, 3))]
        optimizer = ss.Adam(params, lr=0.5, eps=0.0)
        optimizer.step([np.array(3.0), np.zeros((0, 3))])
        assert params[0] == 0.5

    def test_empty_arrays_of_any_strides(self):
        for w in (np.zeros((4, 3))[:0, ::-1], np.zeros((4, 6))[:0, ::2]):
            optimizer = ss.Adam(w)
            optimizer.step(np.zeros(w.shape))
            assert optimizer.t == 1

    def test_none_skips_a_parameter_and_its_count(self):
        w, alone = np.ones(3), np.ones(3)
        optimizer, single = ss.Adam([w, np.ones(2)]), ss.Adam(alone)
        optimizer.step([None, np.ones(2)])
        assert w.tolist() == [1.0] * 3
        assert not optimizer.state["m"][0].any()
        optimizer.step([np.full(3, 0.25), None])
        single.step(np.full(3, 0.25))
        same_bits([w], [alone])  # its first step, with the bias correction of a first step
        assert optimizer.steps == [1, 1]
        assert optimizer.t == 2

    def test_fortran_and_permuted_layouts(self, case):
        w = golden.random_values(210, case.dtype, 1).reshape(5, 6, 7)
        g = golden.random_values(210, case.dtype, 2).reshape(5, 6, 7)
        expected = case.run(w, [g, g])
        for order in ((2, 1, 0), (1, 2, 0), (0, 2, 1)):
            back = np.argsort(order)
            w_view = w.transpose(order).copy().transpose(back)
            g_view = g.transpose(order).copy().transpose(back)
            optimizer = case.make(w_view)
            optimizer.step(g_view)
            optimizer.step(g_view)
            same_bits([w_view, *(s[0] for s in optimizer.state.values())], expected)

    def test_memory_mapped_parameter(self, tmp_path):
        w = np.memmap(tmp_path / "w", np.float32, "w+", shape=(10,))
        w[:] = 1
        ss.SGD(w, lr=0.5).step(np.ones(10, np.float32))
        ss.SGD(np.ones(10, np.float32), lr=0.5).step(w)  # and as a gradient
        w.flush()
        assert (np.fromfile(tmp_path / "w", np.float32) == 0.5).all()


class TestHyperParameters:
    def test_lr_is_settable_between_steps(self):
        w = np.zeros(1)
        optimizer = ss.SGD(w, lr=1.0)
        optimizer.step(np.ones(1))
        optimizer.lr = 0.5
        optimizer.step(np.ones(1))
        assert w[0] == -1.5
        assert optimizer.lr == 0.5

    def test_betas_are_settable(self):
        optimizer = ss.Adam(np.zeros(1))
        optimizer.betas = (0.5, 0.75)
        assert (optimizer.beta1, optimizer.beta2, optimizer.betas) == (0.5, 0.75, (0.5, 0.75))

    def test_momentum_schedule_of_the_look_ahead_form(self):
        """y = x + a v stays the look-ahead point when a changes from step to step."""
        rng = np.random.default_rng(0)
        target = rng.normal(size=4)
        momenta = [0.5, 0.9, 0.1, 0.7, 0.3]
        x, v, y = np.zeros(4), np.zeros(4), np.zeros(4)
        optimizer = ss.NAG(y, lr=0.1, momentum=momenta[0])
        for a, a_next in itertools.pairwise(momenta):
            optimizer.momentum, optimizer.momentum_next = a, a_next
            optimizer.step(y - target)
            v = a * v - 0.1 * (x + a * v - target)
            x = x + v
            np.testing.assert_allclose(y, x + a_next * v, rtol=1e-13)

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda w: ss.SGD(w, lr=-1e-9), "lr"),
            (lambda w: ss.SGD(w, lr=float("nan")), "lr"),
            (lambda w: ss.SGD(w, lr=float("inf")), "lr"),
            (lambda w: ss.Momentum(w, lr=0.1, momentum=-0.1), "momentum"),
            (lambda w: ss.Momentum(w, lr=0.1, form="nesterov"), "form"),
            (lambda w: ss.NAG(w, lr=0.1, form="torch", momentum_next=0.5), "momentum_next"),
            (lambda w: ss.NAG(w, lr=0.1, momentum_next=-1), "momentum_next"),
            (lambda w: ss.AdaGrad(w, lr=0.1, eps=-1.0), "eps"),
            (lambda w: ss.AdaGrad(w, lr=0.1, eps_placement="between"), "eps_placement"),
            (lambda w: ss.RMSProp(w, lr=0.1, rho=1.0), "rho"),
            (lambda w: ss.Adam(w, betas=(0.9, 1.0)), "beta2"),
            (lambda w: ss.Adam(w, betas=(-0.1, 0.9)), "beta1"),
            (lambda w: ss.Adam(w, betas=0.9), "betas"),
            (lambda w: ss.Adam(w, backend="gpu"), "backend"),
        ],
    )
    def test_out_of_range(self, make, name):
        with pytest.raises(ValueError, match=f"^{name}: got .* expected|^{name}: got .* only"):
            make(np.ones(3))

    def test_momentum_next_follows_momentum_until_it_is_set(self):
        def run(make, momentum=None, groups=False):
            w = np.ones(1)
            optimizer = make([{"params": w, **groups}] if groups else w)
            for _ in range(3):
                if momentum is not None:
                    optimizer.momentum = momentum
                optimizer.step([w.copy()] if groups else w.copy())
            assert optimizer.momentum_next == dict(optimizer.groups[0])["momentum_next"]
            return optimizer, w[0]

        _, expected = run(lambda w: ss.NAG(w, 0.1, momentum=0.5))
        assert run(lambda w: ss.NAG(w, 0.1), momentum=0.5)[1] == expected
        assert run(lambda w: ss.NAG(w, 0.1), groups={"momentum": 0.5})[1] == expected
        assert run(lambda w: ss.NAG(w, 0.1, momentum_next=0.9), momentum=0.5)[1] != expected
        optimizer, _ = run(lambda w: ss.NAG(w, 0.1, momentum_next=0.9), momentum=0.5)
        optimizer.momentum_next = None
        assert optimizer.momentum_next == 0.5

    @pytest.mark.parametrize("given", [None, 0.25])
    def test_whether_momentum_next_follows_is_in_the_state_dict(self, given):
        optimizer = ss.NAG(np.ones(1), 0.1, momentum_next=given)
        other = ss.NAG(np.ones(1), 0.1, momentum_next=0.125 if given is None else None)
        other.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
        other.momentum = 0.5
        assert other.momentum_next == (0.5 if given is None else given)

    def test_names_that_the_optimizer_lacks_are_refused(self):
        for optimizer, name in (
            (ss.SGD(np.ones(3), 0.1), "momentum"),
            (ss.Adam(np.ones(3)), "learning_rate"),
        ):
            with pytest.raises(AttributeError, match=rf"^{name}: {type(optimizer).__name__} has none.* lr,"):
                setattr(optimizer, name, 0.5)
            assert not hasattr(optimizer, name)

    def test_what_a_step_of_another_thread_stops_is_not_set(self):
        optimizer = ss.SGD(np.ones(2), lr=0.5)

        class Busy:
            def set_weight_decay(self, weight_decay):
                raise RuntimeError("another thread is inside step() of this optimizer")

        optimizer._plan = Busy()
        with pytest.raises(RuntimeError, match="another thread"):
            optimizer.weight_decay = 0.25
        with pytest.raises(RuntimeError, match="another thread"):
            optimizer.groups[0]["weight_decay"] = 0.25
        assert optimizer.weight_decay == 0.0

    def test_text_for_a_number(self):
        with pytest.raises(TypeError, match="lr: got 'fast', expected a number"):
            ss.SGD(np.ones(3), lr="fast")

    def test_a_refused_value_leaves_the_old_one(self):
        optimizer = ss.Adam(np.ones(3))
        for name, value in (("lr", -1.0), ("betas", (0.5, 1.5)), ("eps", float("nan"))):
            before = getattr(optimizer, name)
            with pytest.raises(ValueError, match="expected"):
                setattr(optimizer, name, value)
            assert getattr(optimizer, name) == before


def misaligned(size):
    return np.zeros(4 * size + 1, np.uint8)[1:].view(np.float32)


def read_only(size):
    w = np.zeros(size, np.float32)
    w.flags.writeable = False
    return w


BAD_PARAMETERS = {
    "list of numbers": ([1.0, 2.0], TypeError, r"params\[1\]\[0\]: got float.*np.array"),
    "number": (1.0, TypeError, r"params\[1\]: got float"),
    "integers": (np.zeros(4, np.int64), TypeError, r"params\[1\]: got dtype int64, expected native float32"),
    "byte-swapped half precision": (np.zeros(4, ">f2"), TypeError, "got dtype >f2"),
    "16-bit integers": (np.zeros(4, np.uint16), TypeError, "uint16"),
    "complex": (np.zeros(4, np.complex64), TypeError, "complex64"),
    "object": (np.zeros(4, object), TypeError, "object"),
    "byte-swapped": (np.zeros(4, ">f4"), TypeError, "got dtype >f4"),
    "masked": (np.ma.zeros(4, np.float32), TypeError, "MaskedArray"),
    "every second": (np.zeros(8, np.float32)[::2], ValueError, r"params\[1\]: strides \(8,\)"),
    "reversed": (np.zeros(8, np.float32)[::-1], ValueError, r"strides \(-4,\)"),
    "broadcast": (np.broadcast_to(np.float32(1), (4,)), ValueError, "read-only"),
    "stride 0": (np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (4,), (0,)), ValueError, "strides"),
    "columns": (np.zeros((4, 4), np.float32)[:, :2], ValueError, "strides"),
    "read-only": (read_only(4), ValueError, "read-only"),
    "misaligned": (misaligned(4), ValueError, "multiple of 4 bytes"),
}


class TestParameterErrors:
    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    @pytest.mark.parametrize("bad", BAD_PARAMETERS)
    def test_refused(self, bad, backend):
        array, error, message = BAD_PARAMETERS[bad]
        with pytest.raises(error, match=message):
            ss.Adam([np.zeros(3, np.float32), array], backend=backend)

    def test_one_row_and_one_column_of_a_matrix(self):
        matrix = np.zeros((4, 4), np.float32)
        ss.SGD(matrix[1], lr=1.0).step(np.ones(4, np.float32))
        assert matrix.sum() == -4
        with pytest.raises(ValueError, match="strides"):
            ss.SGD(matrix[:, 1], lr=1.0)

    def test_no_parameters(self):
        for nothing in ([], {}):
            with pytest.raises(ValueError, match="params: got none"):
                ss.SGD(nothing, lr=0.1)
        with pytest.raises(TypeError, match="params: got int"):
            ss.SGD(3, lr=0.1)

    def test_the_same_array_twice_and_overlapping_views(self):
        block = np.zeros(10, np.float32)
        for pair in ((block, block), (block[:6], block[5:]), (block[3:4], block)):
            with pytest.raises(ValueError, match=r"overlaps params\["):
                ss.SGD(list(pair), lr=0.1)
        ss.SGD([block[:5], block[5:]], lr=0.1)


def bad_gradients(w, v):
    """Gradients that do not fit parameter w with state v, with the message each must bring."""
    return {
        "dtype": (
            np.zeros(w.shape, np.float64),
            TypeError,
            r"grads\[1\]: got dtype float64, expected .* float32",
        ),
        "integers": (np.zeros(w.shape, np.int32), TypeError, "int32"),
        "byte order": (np.zeros(w.shape, ">f4"), TypeError, ">f4"),
        "list": (w.tolist(), TypeError, r"grads\[1\]: got list"),
        "number": (0.0, TypeError, "got float"),
        "masked": (np.ma.zeros(w.shape, np.float32), TypeError, "MaskedArray"),
        "shape": (np.zeros(w.size, np.float32), ValueError, r"got shape \(12,\), expected .* \(3, 4\)"),
        "transposed": (np.zeros((4, 3), np.float32), ValueError, "got shape"),
        "layout": (np.zeros((4, 3), np.float32).T, ValueError, "strides"),
        "every second": (np.zeros((3, 8), np.float32)[:, ::2], ValueError, "strides"),
        "broadcast": (np.broadcast_to(np.float32(1), w.shape), ValueError, "strides"),
        "misaligned": (misaligned(12).reshape(3, 4), ValueError, "multiple of 4 bytes"),
        "the parameter": (w, ValueError, "overlaps"),
        "the state": (v, ValueError, "overlaps"),
    }


class TestGradientErrors:
    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    @pytest.mark.parametrize("bad", bad_gradients(np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)))
    def test_refused_without_a_trace(self, bad, backend):
        params = [w.reshape(3, 4) for w in arrays(12, 12, 12)]
        grads = [g.reshape(3, 4) for g in arrays(12, 12, 12, seed=9)]
        optimizer = ss.Adam(params, backend=backend)
        optimizer.step(grads)
        before = snapshot(optimizer)
        grads[1], error, message = bad_gradients(params[1], optimizer.state["v"][1])[bad]
        with pytest.raises(error, match=message):
            optimizer.step(grads)
        same_bits(snapshot(optimizer), before)
        assert (optimizer.t, optimizer.steps) == (1, [1, 1, 1])

    def test_overlap_by_one_element(self):
        block = np.zeros(30, np.float32)
        optimizer = ss.SGD(block[10:20], lr=1.0)
        for start in (1, 10, 15, 19):
            with pytest.raises(ValueError, match="grads: overlaps"):
                optimizer.step(block[start : start + 10])
        optimizer.step(block[0:10])
        optimizer.step(block[20:30])

    def test_structure(self):
        optimizer = ss.SGD([np.ones(2), np.ones(2)], lr=0.1)
        for grads, error in (([np.ones(2)], ValueError), (np.ones(2), TypeError), ({}, TypeError)):
            with pytest.raises(error, match=r"^grads: got"):
                optimizer.step(grads)
        optimizer = ss.SGD({"a": np.ones(2)}, lr=0.1)
        with pytest.raises(ValueError, match="key 'b' is not in params"):
            optimizer.step({"a": np.ones(2), "b": np.ones(2)})
        with pytest.raises(ValueError, match="key 'a' is not in grads"):
            optimizer.step({})
        with pytest.raises(TypeError, match="got list, expected a dict"):
            optimizer.step([np.ones(2)])
        assert optimizer.t == 0

    def test_parameter_made_read_only_later(self):
        w = np.ones(3)
        optimizer = ss.SGD(w, lr=0.1)
        w.flags.writeable = False
        with pytest.raises(ValueError, match="params: the array is read-only"):
            optimizer.step(np.ones(3))
        assert w.tolist() == [1.0] * 3

    def test_parameter_whose_memory_moved_or_whose_shape_changed(self):
        w = np.ones(1000)
        optimizer = ss.Adam(w, lr=0.5, eps=0.0)
        w.resize(10_000_000, refcheck=False)
        for size in (10_000_000, 10):
            w.resize(size, refcheck=False)
            with pytest.raises(ValueError, match=r"params: its shape is now .* expected \(1000,\)"):
                optimizer.step(np.ones(size))
        w.resize(1000, refcheck=False)
        w[:] = 1
        optimizer.step(np.ones(1000))
        assert (w == 0.5).all()


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


class TestCopies:
    def test_a_shallow_copy_has_hyper_parameters_state_and_counts_of_its_own(self):
        w = np.ones(3)
        a = ss.Adam(w, lr=0.5)
        a.step(np.ones(3))
        b = copy.copy(a)
        assert b.params[0] is w
        before = a.state["m"][0].copy()
        b.lr = 0.125
        twin = copy.deepcopy(b)
        b.step(np.ones(3))
        twin.step(np.ones(3))
        assert (a.lr, b.lr, a.t, b.t) == (0.5, 0.125, 1, 2)
        assert a.state["m"][0].tobytes() == before.tobytes()
        assert w.tobytes() == twin.params[0].tobytes()

    def test_of_groups(self):
        w, v = np.ones(2), np.ones(2)
        a = ss.SGD([{"params": w}, {"params": {"v": v}, "lr": 0.25}], lr=0.5)
        b = copy.copy(a)
        b.groups[1]["lr"] = 1.0
        b.step([np.ones(2), {"v": np.ones(2)}])
        assert (a.groups[1]["lr"], a.t) == (0.25, 0)
        assert (w[0], v[0]) == (0.5, 0.0)

    def test_a_copy_keeps_its_state_in_main_memory(self, tmp_path):
        """A group that is added to the copy makes no files beside those of the original."""
        a = ss.Adam(np.ones(3), state_dir=tmp_path)
        for b in (copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
            b.add_group({"params": np.ones(2)})
            b.step([np.ones(3), np.ones(2)])
        assert sorted(p.name for p in tmp_path.iterdir()) == ["m.0", "v.0"]
        assert not a.state["m"][0].any()

    def test_attributes_of_a_derived_class(self):
        class Named(ss.Adam):
            def __init__(self, params, name):
                super().__init__(params)
                self.name = name

        optimizer = Named(np.ones(2), "first")
        optimizer.history = [1]
        twin = copy.deepcopy(optimizer)
        assert (twin.name, twin.history) == ("first", [1])
        assert copy.copy(optimizer).history is optimizer.history
        with pytest.raises(AttributeError, match="history: Adam has none"):
            ss.Adam(np.ones(2)).history = []

    def read_only(self, optimizer):
        """As it comes out of a store that hands out read-only memory."""
        buffers = []
        data = pickle.dumps(optimizer, protocol=5, buffer_callback=buffers.append)
        return pickle.loads(data, buffers=[b.raw().tobytes() for b in buffers])

    def test_what_a_derived_class_keeps_of_the_optimizer_itself(self):
        class Own(ss.Adam):
            def __init__(self, params):
                super().__init__(params)
                self.me, self.first, self.m = self, self.groups[0], self.state["m"][0]

        optimizer = Own(np.ones(2))
        twin = copy.copy(optimizer)
        assert twin is not optimizer
        twin.lr = 0.5
        assert twin.me is twin
        assert twin.first is twin.groups[0]
        assert twin.m is twin.state["m"][0]
        assert optimizer.lr == 0.001
        assert optimizer.m is not twin.m

    def test_a_deep_copy_of_a_group_is_its_values(self):
        optimizer = ss.SGD(np.ones(2), lr=0.5)
        assert copy.deepcopy(optimizer.groups[0]) == {"lr": 0.5, "weight_decay": 0.0}
        twin = copy.deepcopy(optimizer)
        twin.groups[0]["lr"] = 0.25
        assert (optimizer.lr, twin.lr) == (0.5, 0.25)

    def test_a_file_of_joblib_has_each_parameter_once(self, tmp_path):
        """It makes two arrays of one that it meets twice; a further group would bring back the other one."""
        joblib = pytest.importorskip("joblib")
        joblib.dump(ss.SGD(np.ones(2), lr=0.5), tmp_path / "optimizer")
        loaded = joblib.load(tmp_path / "optimizer")
        loaded.step(np.ones(2))
        loaded.add_group({"params": np.ones(1)})
        assert loaded.params[0].tolist() == [0.5, 0.5]

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_over_read_only_memory(self, backend):
        optimizer = ss.Adam({"w": np.ones(3)}, lr=0.5, weight_decay=0.1, backend=backend)
        optimizer.step({"w": np.ones(3)})
        loaded = self.read_only(optimizer)
        assert (loaded.t, loaded.lr) == (1, 0.5)
        same_bits(loaded.state["m"], optimizer.state["m"])
        loaded.lr = 0.25
        loaded.record_stats()
        assert loaded.stats is None
        for _ in range(2):
            with pytest.raises(ValueError, match=r"params\['w'\]: the array is read-only; .*deepcopy"):
                loaded.step({"w": np.ones(3)})
        with pytest.raises(ValueError, match="read-only"):
            loaded.load_state_dict(optimizer.state_dict())
        assert loaded.t == 1
        twin = copy.deepcopy(loaded)
        optimizer.lr = 0.25
        for one in (twin, optimizer):
            one.step({"w": np.ones(3)})
        same_bits(snapshot(twin), snapshot(optimizer))
        assert twin.stats.steps == 1

    def test_counts_over_read_only_memory_can_be_set(self):
        optimizer = ss.SGD(np.ones(3), lr=0.5)
        loaded = self.read_only(optimizer)
        loaded.load_state_dict({**optimizer.state_dict(), "t": 5, "steps": [5]})
        assert (loaded.t, loaded.steps) == (5, [5])

    def test_mapped_read_only_as_joblib_hands_it_to_workers(self, tmp_path):
        joblib = pytest.importorskip("joblib")
        optimizer = ss.Adam([np.ones(200_000)])
        joblib.dump(optimizer, tmp_path / "optimizer")
        loaded = joblib.load(tmp_path / "optimizer", mmap_mode="r")
        assert isinstance(loaded.params[0], np.memmap)
        with pytest.raises(ValueError, match=r"params\[0\]: the array is read-only"):
            loaded.step([np.ones(200_000)])
        twin = copy.deepcopy(loaded)
        twin.step([np.ones(200_000)])
        optimizer.step([np.ones(200_000)])
        same_bits(snapshot(twin), snapshot(optimizer))

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_states_alone_read_only(self, backend):
        optimizer = ss.Adam([np.ones(3), np.ones(3)], backend=backend)
        saved, before = optimizer.state_dict(), snapshot(optimizer)
        optimizer.state["m"][1].flags.writeable = False
        with pytest.raises(ValueError, match=r"state\['m'\]\[1\]: the array is read-only; set its flag"):
            optimizer.step([np.ones(3), np.ones(3)])
        with pytest.raises(ValueError, match=r"state\['m'\]\[1\]: the array is read-only; set its flag"):
            optimizer.load_state_dict(saved)
        same_bits(snapshot(optimizer), before)
        optimizer.state["m"][1].flags.writeable = True
        optimizer.step([np.ones(3), np.ones(3)])
        assert optimizer.steps == [1, 1]

    def test_load_state_dict_over_a_read_only_parameter(self):
        optimizer = ss.Adam(np.ones(3))
        saved = optimizer.state_dict()
        optimizer.params[0].flags.writeable = False
        optimizer.load_state_dict({**saved, "t": 5, "steps": [5]})  # what it writes can be written
        with pytest.raises(ValueError, match="params: the array is read-only"):
            optimizer.step(np.ones(3))
        optimizer.params[0].flags.writeable = True
        optimizer.step(np.ones(3))
        assert optimizer.t == 6

    def test_a_schedule_that_pickle_cannot_store(self):
        optimizer = ss.SGD(np.ones(2), lr=lambda t: 1.0 / t)
        with pytest.raises(
            pickle.PicklingError, match=r"groups\[0\]\['lr'\].*samestep.schedules.*cloudpickle"
        ):
            pickle.dumps(optimizer)
        for twin in (copy.copy(optimizer), copy.deepcopy(optimizer)):
            twin.step(np.ones(2))
            assert twin.lr == 1.0

    @pytest.mark.parametrize(
        "schedule",
        [
            ss.schedules.constant(0.5),
            ss.schedules.step(0.5, every=1, factor=0.5),
            ss.schedules.cosine(0.5, steps=4),
            ss.schedules.warm_up(ss.schedules.inverse_time(0.5, decay=0.5), steps=3),
        ],
    )
    def test_the_schedules_of_the_package_are_pickled(self, schedule):
        optimizer = ss.SGD(np.ones(2), lr=schedule)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            twin = pickle.loads(pickle.dumps(optimizer, protocol))
            for t in (1, 2, 3):
                twin.step(np.ones(2))
                assert twin.lr == schedule(t)

    def test_a_schedule_that_cloudpickle_can_store(self):
        optimizer = ss.SGD(np.ones(2), lr=lambda t: 1.0 / t)
        older = {"__name__": "cloudpickle.cloudpickle_fast", "optimizer": optimizer}
        exec("state = optimizer.__getstate__()", older)  # as version 2 calls it
        cloudpickle = pytest.importorskip("cloudpickle")
        twin = pickle.loads(cloudpickle.dumps(optimizer))
        twin.step(np.ones(2))
        twin.step(np.ones(2))
        assert twin.lr == 0.5


class TestIterate:
    def test_nags_stored_point_is_the_look_ahead_of_it(self):
        rng = np.random.default_rng(0)
        target, x, v = rng.normal(size=4), np.zeros(4), np.zeros(4)
        optimizer = ss.NAG(np.zeros(4), lr=0.1, momentum=0.5, momentum_next=0.75)
        optimizer.step(optimizer.params[0] - target)
        v = 0.5 * v - 0.1 * (x + 0.5 * v - target)
        x = x + v
        np.testing.assert_allclose(optimizer.iterate[0], x, rtol=1e-13)
        assert (
            optimizer.iterate[0].tobytes() == (optimizer.params[0] - 0.75 * optimizer.state["v"][0]).tobytes()
        )

    def test_of_the_others_it_is_the_parameters_copied(self):
        for optimizer in (ss.NAG(np.ones(2), 0.1, form="torch"), ss.Adam(np.ones(2))):
            optimizer.step(np.ones(2))
            iterate = optimizer.iterate[0]
            same_bits([iterate], optimizer.params)
            iterate[...] = 0
            assert optimizer.params[0].all()

    @pytest.mark.parametrize("options", [{}, {"master": "split"}])
    def test_of_a_bfloat16_without_axes(self, options):
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        optimizer = ss.NAG(np.ones((), bfloat16), lr=0.125, momentum=0.5, **options)
        optimizer.step(np.ones((), bfloat16))
        assert isinstance(optimizer.iterate[0], np.ndarray)
        assert optimizer.iterate[0] == 0.875

    @pytest.mark.parametrize("options", [{}, {"master": "float32"}, {"state_dtype": "param"}])
    def test_in_16_bits_it_is_widened(self, options):
        optimizer = ss.NAG(np.ones(2, np.float16), lr=0.1, momentum=0.5, **options)
        optimizer.step(np.ones(2, np.float16))
        assert optimizer.iterate[0].dtype == np.float32
        np.testing.assert_allclose(optimizer.iterate[0], 0.9, rtol=1e-3)


class TestStateDict:
    @pytest.mark.parametrize("by_reference", [True, False], ids=["by-reference", "by-kernels"])
    def test_resume_gives_the_uninterrupted_bits(self, case, isa, by_reference):
        """Saved by the reference, or under another instruction set on two threads, and loaded on three."""
        w = golden.random_values(5000, case.dtype, 1)
        grads = [golden.random_values(5000, case.dtype, s) for s in range(2, 8)]
        expected = case.run(w, grads)
        first = w.copy()
        before = ss.get_num_threads()
        ss.set_isa(ISAS[ISAS.index(isa) - 1])
        ss.set_num_threads(2)
        optimizer = case.make(first, backend="reference" if by_reference else "cpu")
        for g in grads[:3]:
            optimizer.step(g)
        saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
        ss.set_isa(isa)
        ss.set_num_threads(3)
        resumed = case.make(first, "other", backend="cpu")
        resumed.load_state_dict(saved)
        for g in grads[3:]:
            resumed.step(g)
        ss.set_num_threads(before)
        same_bits([first, *(s[0] for s in resumed.state.values())], expected)
        assert resumed.t == 6

    def test_plain_types(self):
        state = ss.Adam([np.ones(2), np.ones(3)]).state_dict()
        assert state["rule"] == "adam_outside"
        assert type(state["t"]) is int
        assert all(type(n) is int for n in state["steps"])
        assert all(type(x) is float for x in state["hyper"].values())
        assert all(type(a) is np.ndarray for s in state["state"].values() for a in s)

    def test_it_is_a_copy(self):
        w = np.ones(2)
        optimizer = ss.Adam(w)
        state = optimizer.state_dict()
        optimizer.step(np.ones(2))
        assert not state["state"]["m"][0].any()

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda d: d.update(hyper=None),
            lambda d: d.update(hyper=3),
            lambda d: d.update(hyper=[3]),
            lambda d: d.update(hyper={1: 2.0, "lr": 0.1}),
            lambda d: d.update(state=None),
            lambda d: d.update(state={1: [], "m": []}),
            lambda d: d["state"].update(m=None),
            lambda d: d.update(steps=None),
            lambda d: d.update(steps=1),
            lambda d: d.update(rule=np.ones(2)),
            lambda d: d.update({1: 2}),
            lambda d: d.pop("t"),
            lambda d: d.update(extra=1),
            lambda d: d.update(contract=99),
            lambda d: d.update(rule="adam_inside"),
            lambda d: d.update(t=-1),
            lambda d: d.update(t=1.5),
            lambda d: d.update(t=2**70),
            lambda d: d.update(steps=[1, 2**63]),
            lambda d: d.update(steps=[1]),
            lambda d: d.update(steps=[1, -1]),
            lambda d: d["hyper"].pop("eps"),
            lambda d: d["hyper"].update(lr=-1.0),
            lambda d: d["state"].pop("v"),
            lambda d: d["state"]["v"].pop(),
            lambda d: d["state"]["v"].__setitem__(1, np.zeros(9)),
            lambda d: d["state"]["v"].__setitem__(1, np.zeros(3, np.float32)),
            lambda d: d["state"]["v"].__setitem__(1, [0.0] * 3),
        ],
    )
    def test_one_that_does_not_fit_changes_nothing(self, spoil):
        optimizer = ss.Adam([np.ones(2), np.ones(3)])
        optimizer.step([np.ones(2), np.ones(3)])
        before = snapshot(optimizer)
        bad = copy.deepcopy(optimizer.state_dict())
        for states in bad["state"].values():
            states[0] += 1
        spoil(bad)
        with pytest.raises((ValueError, TypeError), match=r"state_dict|lr"):
            optimizer.load_state_dict(bad)
        same_bits(snapshot(optimizer), before)
        assert (optimizer.t, optimizer.steps) == (1, [1, 1])

    def test_a_read_only_state_stops_loading_and_stepping_before_anything_is_written(self):
        optimizer = ss.Adam([np.ones(2), np.ones(3)])
        saved = optimizer.state_dict()
        for states in saved["state"].values():
            states[0] += 1
        optimizer.state["v"][1].flags.writeable = False
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=r"state\['v'\]\[1\]: the array is read-only"):
            optimizer.load_state_dict(saved)
        with pytest.raises(ValueError, match=r"read-only|like the parameters"):
            optimizer.step([np.ones(2), np.ones(3)])
        same_bits(snapshot(optimizer), before)
        assert optimizer.t == 0

    def test_a_state_resized_from_outside_is_refused(self):
        optimizer = ss.Adam(np.ones(1000))
        optimizer.state["m"][0].resize(10, refcheck=False)
        with pytest.raises(
            ValueError, match=r"state\['m'\]\[0\]: its shape is now \(10,\), expected \(1000,\)"
        ):
            optimizer.step(np.ones(1000))
        assert optimizer.t == 0

    def test_pickle_and_deepcopy_of_the_optimizer(self):
        optimizer = ss.Adam([np.ones(2), np.ones(3)])
        grads = [np.ones(2), np.ones(3)]
        optimizer.step(grads)
        twins = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
        for twin in (optimizer, *twins):
            twin.step(grads)
        for twin in twins:
            same_bits(snapshot(twin), snapshot(optimizer))
            assert twin.params[0] is not optimizer.params[0]

    def test_repr(self):
        assert repr(ss.SGD(np.ones(2), lr=0.5)) == "SGD(lr=0.5, t=0)"


def test_digest_refuses_what_it_cannot_hash():
    with pytest.raises(TypeError, match=r"arrays\[0\]: got int64"):
        ss.digest([np.arange(3)])


def test_digest_takes_the_same_arrays_in_any_width():
    for dtype in (np.float16, np.float32, np.float64):
        a = np.arange(3, dtype=dtype)
        assert ss.digest(a.astype(a.dtype.newbyteorder(">"))) == ss.digest(a)
        with pytest.raises(TypeError, match=r"arrays: got MaskedArray, expected a float32, .*bfloat16 array"):
            ss.digest(np.ma.masked_array(a, [1, 0, 0]))


def test_other_arguments_are_named():
    for wrong in ("a", 1.0):
        with pytest.raises(TypeError, match=r"axis: got .* expected a whole number or None"):
            ss.canonical_sum(np.ones((2, 3)), axis=wrong)
    with pytest.raises(TypeError, match="isa: got None, expected the name of one: "):
        ss.set_isa(None)


def test_digest_is_of_values_not_of_layout_or_byte_order():
    a = np.arange(12.0).reshape(3, 4)
    assert len({ss.digest(x) for x in (a, np.asfortranarray(a), a.astype(">f8"), a[None])}) == 1
    assert ss.digest(a) != ss.digest(a.T)
    assert ss.digest({"x": a}) == ss.digest([a])


class TestStats:
    def test_on_is_a_switch(self):
        opt = ss.SGD(np.ones(2), 0.1)
        with pytest.raises(TypeError, match="on: got 'no', expected True or False"):
            opt.record_stats("no")

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_bytes_count_what_takes_part(self, backend):
        params = [np.zeros(100, np.float32), np.zeros((3, 5))]
        opt = ss.Adam(params, backend=backend)
        grads = [np.ones_like(w) for w in params]
        opt.step(grads)
        assert opt.stats is None
        opt.record_stats()
        assert opt.stats is None
        opt.step(grads)
        assert opt.stats.bytes == 7 * (400 + 120)  # g; w, m and v both ways
        assert opt.stats.steps == 1
        assert opt.stats.seconds > 0
        assert opt.stats.gb_per_s == opt.stats.bytes / opt.stats.seconds / 1e9
        opt.step([grads[0], None])
        assert opt.stats.bytes == 7 * 400
        opt.record_stats(False)
        assert opt.stats is None

    @pytest.mark.parametrize(
        ("dtype", "options", "expected"),  # bytes of an element of SGD
        [
            (np.float32, {"weight_decay": 0.5, "clip_norm": 1.0}, 4 + 8),
            (np.float32, {"zero_grads": True, "ema": 0.5}, 8 + 8 + 8),
            (np.float32, {"copy_dtype": "float16"}, 4 + 8 + 2),
            (np.float16, {"master": "float32"}, 2 + 2 + 8),
        ],
    )
    def test_bytes_of_options(self, dtype, options, expected):
        w = np.zeros(100, dtype)
        opt = ss.SGD(w, 0.1, **options)
        opt.record_stats()
        norm = opt.step(np.ones(100, dtype))
        assert opt.stats.bytes == 100 * expected
        assert norm == (10.0 if "clip_norm" in options else None)

    def test_they_change_no_bit_and_a_refused_step_leaves_them(self):
        plain, recorded = np.ones(33), np.ones(33)
        one, other = ss.Momentum(plain, 0.1), ss.Momentum(recorded, 0.1)
        other.record_stats()
        for _ in range(3):
            one.step(np.full(33, 0.3))
            other.step(np.full(33, 0.3))
        same_bits([plain], [recorded])
        before = other.stats
        with pytest.raises(ValueError):
            other.step(np.ones(32))
        assert other.stats is before

    def test_a_compiled_loop_counts_all_its_steps(self):
        problem = ss.problems.MSE(np.ones((6, 2)), np.ones(6))
        made = []

        def make(w):
            made.append(ss.SGD(w, 0.01))
            made[0].record_stats()
            return made[0]

        ss.minimize(problem, np.zeros(2), make, steps=10, batch_size=1, sampling="shuffle", record_every=10)
        assert made[0].stats.steps == 10
        assert made[0].stats.bytes == 10 * 3 * 16

    def test_recording_outlives_a_move_and_a_pickle(self):
        w = np.zeros(4)
        opt = ss.SGD(w, 0.1)
        opt.record_stats()
        copied = pickle.loads(pickle.dumps(opt))
        copied.step(np.ones(4))
        assert copied.stats.bytes == 3 * 32
