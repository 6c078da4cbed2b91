"""What a step does beside the rule: the kernels' bits against the reference's, in every combination."""

import itertools
import math

import numpy as np
import pytest

import samestep as ss
from bits import ISAS, same_bits
from control_register import MODES, mxcsr, needs_x86
from samestep.backends import reference
from samestep.backends.face import Tensor
from samestep.proof import golden, vectors

DECAYS = ({}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True})
SWITCHES = (
    {"maximize": True},
    {"clip_norm": 3.0},
    {"clip_value": 0.125},
    {"zero_grads": True},
    {"ema": 0.75},
    {"flush_subnormals": True},
)
# One item, chunks of 1024 and their neighbours, several items.
SIZES = (0, 1, 17, 1023, 1024, 1025, 40_001)


def asked(k: int) -> dict:
    """The k-th combination of all switches with all decays."""
    options = dict(DECAYS[k % 3])
    for i, switch in enumerate(SWITCHES):
        if k // 3 >> i & 1:
            options.update(switch)
    return options


COMBINATIONS = 3 * 2 ** len(SWITCHES)


def run(case, w, grads, scale=1.0, **options):
    """The parameter, states, running average and gradients after the steps, from copies."""
    w, grads = w.copy(), [g.copy() for g in grads]
    optimizer = case.make(w, **options)
    for g in grads:
        optimizer.step(g, scale=scale)
    return [w, *(states[0] for states in optimizer.state.values()), *grads]


@pytest.mark.more
def test_every_combination_equals_the_reference(case):
    for k in range(1 + (case.dtype == np.float64), COMBINATIONS, 2):  # the two types share them
        size = (5, 1030)[k % 4 < 2]
        w = vectors.random_values(size, case.dtype, seed=k)
        make = vectors.finite_values if k % 7 < 5 else vectors.random_values
        grads = [make(size, case.dtype, seed=k + s) for s in (1, 2)]
        options, scale = asked(k), (1.0, 0.3)[k % 5 < 2]
        expected = run(case, w, grads, scale, backend="reference", **options)
        same_bits(run(case, w, grads, scale, backend="cpu", **options), expected)


def test_sizes_isas_and_threads(case, settings):
    for i, size in enumerate(SIZES):
        options = {"ema": 0.9, "zero_grads": True, **DECAYS[1 + i % 2]}
        w, g = vectors.random_values(size, case.dtype, 1), vectors.random_values(size, case.dtype, 3)
        expected = run(case, w, [g], 0.5, backend="reference", **options)
        for isa, threads in itertools.product(ISAS, (1, 3)):
            ss.set_isa(isa)
            ss.set_num_threads(threads)
            same_bits(run(case, w, [g], 0.5, backend="cpu", **options), expected)


@pytest.mark.parametrize("decay", DECAYS[1:], ids=("coupled", "decoupled"))
def test_all_products_of_special_values(case, decay):
    info = np.finfo(case.dtype)
    positive = [0.0, info.smallest_subnormal, info.tiny, 1.0, info.max, np.inf]
    values = np.array([*positive, *(-x for x in positive), np.nan], case.dtype)
    n_states = len(case.make(np.zeros(1, case.dtype)).state)
    w, g, *states = (np.ascontiguousarray(a.ravel()) for a in np.meshgrid(*[values] * (2 + n_states)))
    results = []
    for backend in ("cpu", "reference"):
        target = w.copy()
        optimizer = case.make(target, backend=backend, maximize=True, clip_value=1e30, **decay)
        for array, state in zip(optimizer.state.values(), states, strict=True):
            array[0][...] = state
        optimizer._steps[:] = 1
        optimizer.step(g, scale=3.0)
        results.append([target, *(s[0] for s in optimizer.state.values())])
    same_bits(*results)


@needs_x86
@pytest.mark.parametrize("bits", MODES)
def test_floating_point_modes(bits):
    for case in golden.cases()[::3]:
        w, g = vectors.random_values(3000, case.dtype, 1), vectors.finite_values(3000, case.dtype, 2)
        for k in (COMBINATIONS - 1, COMBINATIONS - 2):
            expected = run(case, w, [g, g], 0.7, backend="reference", **asked(k))
            copies = [g.copy(), g.copy()]
            target = w.copy()
            with mxcsr(0x1F80):
                optimizer = case.make(target, **asked(k))
            with mxcsr(bits):
                for copy in copies:
                    optimizer.step(copy, scale=0.7)
            states = [states[0] for states in optimizer.state.values()]
            same_bits([target, *states, *copies], expected)


def test_any_split_in_any_order(case):
    size = 50_000
    options = {"weight_decay": 0.1, "decoupled_weight_decay": True, "ema": 0.9, "clip_value": 0.5}
    w, g = vectors.random_values(size, case.dtype, 1), vectors.random_values(size, case.dtype, 3)
    expected = run(case, w, [g, g], **options)[:-2]
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.integers(0, size, 9))
    params, grads = [p.copy() for p in np.split(w, cuts)], np.split(g, cuts)
    order = rng.permutation(10)
    optimizer = case.make([params[i] for i in order], **options)
    for _ in range(2):
        optimizer.step([grads[i] for i in order])
    back = np.argsort(order)
    states = [np.concatenate([s[i] for i in back]) for s in optimizer.state.values()]
    same_bits([np.concatenate(params), *states], expected)


def test_any_offset_into_an_array(isa):
    options = {"weight_decay": 0.1, "ema": 0.9, "zero_grads": True}
    for case, offset in itertools.product(golden.cases()[::2], range(0, 16, 5)):
        w, g = vectors.random_values(100, case.dtype, 1), vectors.random_values(100, case.dtype, 2)
        expected = run(case, w, [g], backend="reference", **options)
        blocks = [np.full(132, 7, case.dtype) for _ in range(2)]
        inside, gradient = blocks[0][offset : offset + 100], blocks[1][15 - offset : 115 - offset]
        inside[:], gradient[:] = w, g
        optimizer = case.make(inside, **options)
        optimizer.step(gradient)
        same_bits([inside, *(s[0] for s in optimizer.state.values()), gradient], expected)
        assert (blocks[0][:offset] == 7).all()
        assert (blocks[0][offset + 100 :] == 7).all()
        assert (blocks[1][: 15 - offset] == 7).all()
        assert (blocks[1][115 - offset :] == 7).all()


def test_an_option_that_is_not_asked_for_changes_no_bit(case):
    w, g = vectors.random_values(2000, case.dtype, 1), vectors.finite_values(2000, case.dtype, 2)
    expected = run(case, w, [g, g])
    same_bits(run(case, w, [g, g], weight_decay=0.0, decoupled_weight_decay=True), expected)
    for options in ({"clip_norm": 1e30}, {"clip_value": 1e30}, {"nonfinite": "skip"}, {"ema": 0.5}):
        same_bits(run(case, w, [g, g], **options)[: len(expected) - 2], expected[:-2])


def test_decay_enters_the_numerator_of_adagrad():
    w = np.array([2.0])
    ss.AdaGrad(w, lr=0.5, eps=0.0, weight_decay=0.25).step(np.array([0.0]))
    assert w[0] == 1.5  # g = 0.25*2; w - lr*g/sqrt(g^2)


class TestNorm:
    def test_is_that_of_all_gradients_scaled(self):
        grads = [vectors.finite_values(n, np.dtype(np.float32), n) for n in (3000, 5, 0, 70_000)]
        for backend in ("cpu", "reference"):
            optimizer = ss.SGD(
                [np.zeros(len(g), np.float32) for g in grads], lr=1.0, clip_norm=1.0, backend=backend
            )
            norm = optimizer.step(grads, scale=0.5)
            assert norm == 0.5 * ss.global_norm(grads)
            np.testing.assert_allclose(ss.global_norm(optimizer.params), 1.0, rtol=1e-6)

    def test_a_gradient_left_out_does_not_count(self):
        optimizer = ss.SGD([np.zeros(2), np.zeros(2)], lr=1.0, clip_norm=9.0)
        assert optimizer.step([None, np.array([3.0, 4.0])]) == 5.0
        assert optimizer.step([None, None]) == 0.0

    def test_in_any_layout_and_on_any_number_of_threads(self, machine):
        w, g = vectors.finite_values(60_000, np.dtype(np.float32), 1), None
        w = w.reshape(20, 30, 100)
        g = vectors.finite_values(60_000, np.dtype(np.float32), 2).reshape(20, 30, 100)
        expected = w.copy()
        norm = ss.Adam(expected, clip_norm=0.5, backend="reference").step(g)
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
            back = np.argsort(order)
            w_view, g_view = (a.transpose(order).copy().transpose(back) for a in (w, g))
            assert ss.Adam(w_view, clip_norm=0.5).step(g_view) == norm
            same_bits([w_view], [expected])

    def test_none_is_returned_where_it_was_not_asked_for(self):
        assert ss.SGD(np.zeros(2), lr=1.0).step(np.zeros(2)) is None


class TestNonfinite:
    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_a_skipped_step_leaves_every_byte_and_count(self, case, backend):
        options = {"zero_grads": True, "ema": 0.5, "weight_decay": 0.1}
        if case.dtype == np.float32:
            options["clip_norm"] = 1.0
        sizes = (5, 40_000)
        params = [vectors.finite_values(n, case.dtype, n) for n in sizes]
        good = [vectors.finite_values(n, case.dtype, n + 1) for n in sizes]
        expected = [w.copy() for w in params]
        clean = case.make(expected, backend=backend, **options)
        optimizer = case.make(params, backend=backend, nonfinite="skip", **options)
        for steps, bad in enumerate((np.inf, np.nan, -np.inf)):  # the first step included
            grads = [g.copy() for g in good]
            grads[1][-1] = bad
            given = [g.copy() for g in grads]
            optimizer.step(grads)
            assert optimizer.skipped
            assert (optimizer.t, optimizer.steps) == (steps, [steps] * 2)
            same_bits(grads, given)
            same_bits(optimizer.params, expected)
            for name, states in optimizer.state.items():
                same_bits(states, clean.state[name])
            clean.step([g.copy() for g in good])
            optimizer.step([g.copy() for g in good])
            assert not optimizer.skipped
        same_bits(optimizer.params, expected)

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_raise_names_the_gradient(self, backend):
        w = np.ones(3)
        optimizer = ss.Adam({"a": np.ones(2), "b": w}, nonfinite="raise", backend=backend)
        with pytest.raises(FloatingPointError, match=r"grads\['b'\]: infinite or NaN; nothing was changed"):
            optimizer.step({"a": np.ones(2), "b": np.array([0.0, np.inf, 0.0])})
        assert w.tolist() == [1.0] * 3
        assert optimizer.t == 0

    def test_propagate_is_the_default(self):
        w = np.ones(2)
        ss.SGD(w, lr=1.0).step(np.array([np.inf, 1.0]))
        assert w.tolist() == [-np.inf, 0.0]

    def test_largest_numbers_are_finite(self):
        for dtype in (np.float32, np.float64):
            w = np.zeros(3, dtype)
            optimizer = ss.SGD(w, lr=1.0, nonfinite="skip", clip_norm=1.0)
            optimizer.step(np.full(3, np.finfo(dtype).max))
            assert not optimizer.skipped


class TestZeroedGradients:
    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_are_refused_where_another_parameter_would_read_them(self, backend):
        g = np.ones(3)
        optimizer = ss.SGD([np.zeros(3), np.zeros(3)], lr=1.0, zero_grads=True, backend=backend)
        with pytest.raises(ValueError, match=r"grads\[1\]: overlaps grads\[0\]"):
            optimizer.step([g, g])
        g.flags.writeable = False
        with pytest.raises(ValueError, match=r"grads\[0\]: the array is read-only"):
            optimizer.step([g, np.ones(3)])
        assert optimizer.t == 0
        assert g.tolist() == [1.0] * 3

    def test_left_out_ones_stay(self):
        grads = [np.ones(3), None]
        ss.SGD([np.zeros(3), np.zeros(3)], lr=1.0, zero_grads=True).step(grads)
        assert not grads[0].any()


def test_running_average():
    w = np.array([1.0])
    optimizer = ss.SGD(w, lr=1.0, ema=0.75)
    optimizer.step(np.array([4.0]))
    assert optimizer.ema[0].tolist() == [0.75 * 1.0 + 0.25 * -3.0]
    assert ss.SGD(w, lr=1.0).ema == []


def test_flushed_state():
    """A decaying state passes through the subnormals unless they are flushed."""
    for backend, flush in itertools.product(("cpu", "reference"), (False, True)):
        w = np.zeros(40, np.float32)
        optimizer = ss.Momentum(w, lr=1.0, momentum=0.5, flush_subnormals=flush, backend=backend)
        optimizer.step(np.full(40, 2.0**-120, np.float32))
        for _ in range(6):
            optimizer.step(np.zeros(40, np.float32))
        assert (optimizer.state["v"][0] == np.float32(-(2.0**-126))).all()
        optimizer.step(np.zeros(40, np.float32))
        assert optimizer.state["v"][0].any() != flush
        assert np.signbit(optimizer.state["v"][0]).any() != flush


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_decay": -0.1}, ValueError, "weight_decay: got -0.1"),
        ({"decoupled_weight_decay": "yes"}, TypeError, "decoupled_weight_decay: got 'yes'"),
        ({"maximize": None}, TypeError, "maximize: got None"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm: got 0.0"),
        ({"clip_norm": math.nan}, ValueError, "clip_norm: got nan"),
        ({"clip_value": -1.0}, ValueError, "clip_value: got -1.0"),
        ({"clip_value": "1"}, TypeError, "clip_value: got '1', expected a number"),
        ({"nonfinite": "ignore"}, ValueError, "nonfinite: got 'ignore', expected one of propagate"),
        ({"ema": 1.0}, ValueError, "ema: got 1.0"),
        ({"lr": 10**400}, ValueError, "lr: got a number beyond those of float64"),
        ({"nonfinite": np.ones(2)}, ValueError, "nonfinite: got array"),
        ({"master": np.ones(2)}, ValueError, "master: got array"),
        ({"eps_placement": np.ones(2)}, ValueError, "eps_placement: got array"),
        ({"maximize": np.ones(2)}, TypeError, "maximize: got array"),
        ({"amsgrad": np.ones(2)}, TypeError, "amsgrad: got array"),
        ({"amsgrad": "no"}, TypeError, "amsgrad: got 'no', expected True or False"),
        ({"foo": 1}, TypeError, "Adam: got the unknown argument 'foo', expected some of params, lr, betas, "),
    ],
)
def test_refused_options(options, error, message):
    with pytest.raises(error, match=message):
        ss.Adam(np.ones(3), **options)
    for make, words in (
        (lambda: ss.Momentum(np.ones(2), lr=1.0, dampening=0.5), "dampening: got 0.5, but only the torch"),
        (lambda: ss.Momentum(np.ones(2), 1.0, form="torch", dampening=2.0), r"dampening: .* in \[0, 1\]$"),
        (lambda: ss.AdaGrad(np.ones(2), lr=1.0, initial_accumulator=-1.0), "initial_accumulator: got -1"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_refused_options_of_rmsprop():
    for options, words in (
        ({"centered": "no"}, "centered: got 'no', expected True or False"),
        ({"momentum": np.ones(2)}, "momentum: got array"),
        ({"foo": 1}, "RMSProp: got the unknown argument 'foo', expected some of params, lr, rho, "),
    ):
        with pytest.raises(TypeError, match=words):
            ss.RMSProp(np.ones(2), 0.1, **options)


@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        (math.nan, ValueError, "scale: got nan, expected a finite number"),
        (-math.inf, ValueError, "scale: got -inf"),
        ("2", TypeError, "scale: got '2', expected a number"),
        (np.ones(2), TypeError, "scale: got array"),
    ],
)
def test_a_refused_scale_changes_nothing(scale, error, message, nonfinite):
    w = np.ones(3)
    optimizer = ss.SGD(w, lr=1.0, nonfinite=nonfinite)
    with pytest.raises(error, match=message):
        optimizer.step(np.ones(3), scale=scale)
    assert (w.tolist(), optimizer.t) == ([1.0] * 3, 0)
    optimizer.step(np.ones(3), scale=np.float32(0.5))
    assert w.tolist() == [0.5] * 3


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda w: ss.SGD(w, lr=1e300), "lr"),
        (lambda w: ss.SGD(w, lr=1e-50), "lr"),
        (lambda w: ss.SGD(w, lr=0.1, weight_decay=1e-50), "weight_decay"),
        (lambda w: ss.SGD(w, lr=lambda t: 1e300), "lr"),
        (lambda w: ss.SGD([{"params": np.ones(2)}, {"params": w, "lr": 1e300}], lr=0.1), "lr"),
        (lambda w: ss.Adam(w, eps=1e-50), "eps"),
        (lambda w: ss.Adam(w, betas=(0.9, 1.0 - 1e-12)), "beta2"),
        (lambda w: ss.RMSProp(w, lr=0.1, rho=1.0 - 1e-12), "rho"),
        (lambda w: ss.Momentum(w, lr=0.1, momentum=1e-50), "momentum"),
        (lambda w: ss.AdaGrad(w, lr=0.1, initial_accumulator=1e300), "initial_accumulator"),
        (lambda w: ss.AdaGrad(w, lr=0.1, initial_accumulator=1e-50), "initial_accumulator"),
        (lambda w: ss.SGD(w, lr=0.1, clip_value=1e-50), "clip_value"),
        (lambda w: ss.SGD(w, lr=0.1, clip_norm=1e-50), "clip_norm"),
        (lambda w: ss.SGD(w, lr=0.1, ema=1.0 - 1e-12), "ema"),
    ],
)
def test_values_that_float32_cannot_tell_from_a_limit(dtype, make, name):
    """Checked in float64 and used in float32, they would be infinity, 0 or 1."""
    with pytest.raises(
        ValueError, match=rf"^{name}: got .*, which is (inf|0|1) in float32, .* expected a number"
    ):
        make(np.ones(3, dtype))
    make(np.ones(3))  # of float64 they are what they are


def test_such_a_value_set_later_changes_nothing():
    w, wide = np.ones(3, np.float32), np.ones(3)
    optimizer = ss.Adam([{"params": wide}, {"params": w}], lr=0.5)
    for name, value in (("lr", 1e300), ("eps", 1e-50), ("betas", (0.5, 1.0 - 1e-12))):
        before = [dict(group) for group in optimizer.groups]
        with pytest.raises(ValueError, match="in float32"):
            setattr(optimizer, name, value)
        assert [dict(group) for group in optimizer.groups] == before
    state = optimizer.state_dict()
    state["hyper"][1]["lr"] = 1e300
    with pytest.raises(ValueError, match="lr: got 1e\\+300"):
        optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="scale: got 1e-50"):
        optimizer.step([wide.copy(), w.copy()], scale=1e-50)
    for scale in (1e300, -1e300):
        with pytest.raises(ValueError, match=r"scale: got -?1e\+300"):
            optimizer.step([wide.copy(), w.copy()], scale=scale)
    assert (w.tolist(), wide.tolist(), optimizer.t) == ([1.0] * 3, [1.0] * 3, 0)


def test_values_at_the_limits_that_stay_allowed():
    ss.Adam(np.ones(3, np.float32), eps=0.0, lr=0.0, weight_decay=0.0, betas=(0.0, 0.0))
    ss.Adam(np.ones(3, np.float32), lr=1e-45, eps=1.5e-45, clip_norm=1e300, clip_value=1e300)
    ss.AdaGrad(np.ones(3, np.float32), lr=1.0, lr_decay=1e-50)  # used in float64
    fading = ss.SGD(np.ones(3, np.float32), lr=lambda t: 0.5 * 1e-40**t)
    fading.step(np.ones(3, np.float32))
    fading.step(np.ones(3, np.float32))
    fading.load_state_dict(fading.state_dict())
    with pytest.raises(TypeError, match="lr: got <function"):
        fading.load_state_dict({**fading.state_dict(), "hyper": {"lr": lambda t: 0.5, "weight_decay": 0.0}})


def test_a_faded_schedule_goes_through_a_file(tmp_path):
    pytest.importorskip("safetensors")
    fading = ss.Momentum(np.ones(3, np.float32), lr=lambda t: 0.5 * 1e-40**t)
    for _ in range(2):
        fading.step(np.ones(3, np.float32))
    fading.save(tmp_path / "a.safetensors")
    loaded = ss.Momentum.load(tmp_path / "a.safetensors", np.ones(3, np.float32))
    assert loaded.lr == fading.lr < 1e-50
    loaded.step(np.ones(3, np.float32))
    loaded.add_group({"params": np.ones(2, np.float32)})


class TestCopiedGradients:
    """``copy_grads``: gradients in another memory order than their parameter."""

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    @pytest.mark.parametrize(
        "options", [{}, {"clip_norm": 0.5}, {"nonfinite": "skip"}, {"weight_decay": 0.1, "ema": 0.5}]
    )
    def test_equal_those_that_lie_as_the_parameter_does(self, backend, options):
        layers = [vectors.finite_values(12, np.dtype(np.float32), seed).reshape(3, 4) for seed in (1, 2, 3)]
        grads = [vectors.finite_values(12, np.dtype(np.float32), seed).reshape(3, 4) for seed in (4, 5, 6)]
        plain = ss.Adam([w.copy() for w in layers], backend=backend, **options)
        other = ss.Adam([w.copy() for w in layers], backend=backend, copy_grads=True, **options)
        with pytest.raises(ValueError, match=r"grads\[0\]: strides .* copy_grads=True"):
            plain.step([np.asfortranarray(g) for g in grads])
        other.record_stats()
        broadcast = np.broadcast_to(grads[1][:1], (3, 4))
        for given, expected, copied in (
            ([np.asfortranarray(grads[0]), grads[1], None], [grads[0], grads[1], None], 48),
            (
                [grads[0], broadcast, np.repeat(grads[2], 2, 1)[:, ::2]],
                [grads[0], broadcast.copy(), grads[2]],
                96,
            ),
            (grads, grads, 0),
        ):
            plain.step(expected)
            other.step(given)
            assert other.stats.copied == copied
        same_bits(
            [*other.params, *(s for states in other.state.values() for s in states)],
            [*plain.params, *(s for states in plain.state.values() for s in states)],
        )

    def test_of_a_memory_mapped_parameter(self, tmp_path):
        w = np.memmap(tmp_path / "w", np.float64, "w+", shape=(2, 3))
        optimizer = ss.SGD(w, lr=0.5, copy_grads=True)
        optimizer.step(np.arange(6.0).reshape(3, 2).T)
        assert w.tolist() == [[0.0, -1.0, -2.0], [-0.5, -1.5, -2.5]]

    def test_other_faults_stay_errors(self):
        optimizer = ss.SGD(np.ones((2, 3)), lr=0.5, copy_grads=True)
        for bad in (np.ones((3, 2)), np.ones((2, 3), np.float32), np.ma.ones((3, 2)).T, [[1.0] * 3] * 2):
            with pytest.raises((TypeError, ValueError), match="grads: got"):
                optimizer.step(bad)
        with pytest.raises(ValueError, match="copy_grads: got True with zero_grads=True"):
            ss.SGD(np.ones(2), lr=0.5, copy_grads=True, zero_grads=True)
        with pytest.raises(TypeError, match="copy_grads: got 'yes'"):
            ss.SGD(np.ones(2), lr=0.5, copy_grads="yes")

    def test_a_state_dict_goes_from_one_to_the_other(self):
        first = ss.Adam(np.ones(2), copy_grads=True)
        first.step(np.ones(2))
        saved = first.state_dict()
        before = {**saved, "options": {k: v for k, v in saved["options"].items() if k != "copy_grads"}}
        for state in (saved, before):  # the second as it was saved before there was the option
            other = ss.Adam(np.ones(2))
            other.load_state_dict(state)
            assert (other.t, other.options.copy_grads) == (1, False)
            same_bits(other.state["m"], first.state["m"])


def test_the_native_plan_checks_its_own_arguments():
    plan = ss.backends.cpu.Plan("sgd", [Tensor(np.ones(2))], np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="weight_decay: expected one for every group"):
        plan.set_weight_decay([0.1, 0.2])
    for stored, message in (
        ({"group": -1}, "group: expected a number from 0 on"),
        ({"states": [np.ones(2)]}, "states: expected one of each for every parameter"),
        ({"ema": np.ones(3)}, "ema: expected an array like the parameter"),
        ({"master": np.ones(2)}, "master: expected a 16-bit parameter"),
        ({"low": np.ones(2, np.uint16)}, "low: expected a bfloat16 parameter"),
        ({"copy": np.ones(2, np.float16)}, "copy: expected a float32 parameter"),
    ):
        with pytest.raises(ValueError, match=message):
            ss.backends.cpu.Plan("sgd", [Tensor(np.ones(2), **stored)], np.zeros(2, np.int64))


RMSPROP = {"lr": 0.01, "rho": 0.99, "eps": 1e-8, "eps_placement": "outside"}
TORCH = {
    "sgd": (lambda w: ss.SGD(w, lr=0.1, weight_decay=0.01, maximize=True),
            "SGD", {"lr": 0.1, "weight_decay": 0.01, "maximize": True}),
    "dampened": (lambda w: ss.Momentum(w, lr=0.1, form="torch", dampening=0.3, weight_decay=0.01),
                 "SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    "nesterov": (lambda w: ss.NAG(w, lr=0.1, form="torch", weight_decay=0.01),
                 "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adagrad": (
        lambda w: ss.AdaGrad(w, lr=0.1, eps=1e-10, lr_decay=0.1, initial_accumulator=0.2, weight_decay=0.1),
        "Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2, "weight_decay": 0.1}),
    "rmsprop": (lambda w: ss.RMSProp(w, **RMSPROP, weight_decay=0.1),
                "RMSprop", {"weight_decay": 0.1}),
    "centered": (lambda w: ss.RMSProp(w, **RMSPROP, centered=True),
                 "RMSprop", {"centered": True}),
    "rmsprop momentum": (
        lambda w: ss.RMSProp(w, **RMSPROP, centered=True, momentum=0.9),
        "RMSprop", {"centered": True, "momentum": 0.9}),
    "adam": (lambda w: ss.Adam(w, weight_decay=0.1, maximize=True),
             "Adam", {"weight_decay": 0.1, "maximize": True}),
    "amsgrad": (lambda w: ss.Adam(w, lr=0.1, amsgrad=True), "Adam", {"lr": 0.1, "amsgrad": True}),
    "adamw": (lambda w: ss.AdamW(w, lr=0.1, weight_decay=0.1), "AdamW", {"lr": 0.1, "weight_decay": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_torchs_dialect(name):
    torch = pytest.importorskip("torch")
    make, kind, arguments = TORCH[name]
    w = vectors.finite_values(50, np.dtype(np.float64), 1)
    tensor = torch.nn.Parameter(torch.tensor(w))
    theirs, ours = getattr(torch.optim, kind)([tensor], **arguments), make(w)
    for t in range(10):
        g = vectors.finite_values(50, np.dtype(np.float64), 2 + t)
        tensor.grad = torch.tensor(g)
        theirs.step()
        ours.step(g)
        np.testing.assert_allclose(w, tensor.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_reference_twin_of_the_norm_scale():
    """The scalar that clips: of no effect up to the norm itself."""
    assert reference.options.clipped_scale(2.0, 3.0, 3.0) == 2.0
    assert reference.options.clipped_scale(2.0, 6.0, 3.0) == 1.0
