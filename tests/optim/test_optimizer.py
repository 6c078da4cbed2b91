"""The front door: structures, state, and errors that leave every byte and count as they were."""

import itertools
import pickle

import numpy as np
import pytest

import samestep as ss
from bits import arrays, same_bits, snapshot
from samestep.proof import golden


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
