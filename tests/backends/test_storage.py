"""16-bit storage: all conversions, the kernels' bits against the reference's, and what peers got wrong."""

import itertools

import numpy as np
import pytest

import samestep as ss
from bits import ISAS, same_bits
from control_register import DAZ, FTZ, mxcsr, needs_x86
from samestep.backends.reference import storage
from samestep.proof import golden, vectors

ml_dtypes = pytest.importorskip("ml_dtypes")

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
F32 = np.dtype(np.float32)
DECOUPLED = {"decoupled_weight_decay": True}
CASES = [case for case in golden.cases() if case.dtype == F32]

MODES = {
    "bfloat16": (BF16, {}),
    "float16": (F16, {}),
    "all bfloat16": (BF16, {"state_dtype": "param"}),
    "all float16": (F16, {"state_dtype": "param"}),
    "bfloat16 master": (BF16, {"master": "float32"}),
    "float16 master": (F16, {"master": "float32"}),
    "split": (BF16, {"master": "split"}),
    "stochastic": (BF16, {"stochastic_rounding": 7}),
    "all stochastic": (BF16, {"state_dtype": "param", "stochastic_rounding": 2**63 + 5}),
    "copy in bfloat16": (F32, {"copy_dtype": "bfloat16"}),
    "copy in float16": (F32, {"copy_dtype": "float16"}),
}


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


def values(size, dtype, seed, make=vectors.random_values):
    """Any bit patterns among values in [-1, 1)."""
    if dtype == F32:
        return make(size, F32, seed)
    with np.errstate(all="ignore"):
        found = storage.narrow(make(size, F32, seed), np.zeros(0, dtype))
    if make is vectors.random_values:
        found.view(np.uint16)[3::16] = vectors.random_words(size, seed)[3::16].astype(np.uint16)
    return found


def run(case, w, grads, scale=1.0, **options):
    w, grads = w.copy(), [g.copy() for g in grads]
    optimizer = case.make(w, **options)
    for g in grads:
        optimizer.step(g, scale=scale)
    return [w, *(states[0] for states in optimizer.state.values()), *grads]


class TestConversions:
    """A step of size 0 or 1 from 0 or 1 makes the kernels convert every value."""

    def halves(self, dtype):
        return np.arange(1 << 16, dtype=np.uint16).view(dtype)

    @pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
    def test_widen_all(self, dtype, isa):
        g = self.halves(dtype)
        w = np.zeros(g.shape, dtype)
        optimizer = ss.SGD(w, lr=1.0, master="float32")
        optimizer.step(g)
        with np.errstate(all="ignore"):
            same_bits(optimizer.state["master"], [-g.astype(np.float32) + np.float32(0)])
        same_bits([storage.widen(g)], [g.astype(np.float32)])

    @pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
    def test_narrow_all_neighbours_and_ties(self, dtype, isa):
        halves = self.halves(dtype).astype(np.float32).view(np.uint32)
        tie = np.uint32(0x8000 if dtype == BF16 else 0x1000)
        offsets = np.array([0, 1, -1, tie, tie - 1, tie + 1], np.int64)
        x = (halves[:, None] + offsets).astype(np.uint32).ravel().view(np.float32)
        x = np.concatenate([x, vectors.random_words(300_000, 5).astype(np.uint32).view(np.float32)])
        x = np.where(x == 0, np.float32(0), x)  # w - 0 leaves no -0
        w = x.copy()
        optimizer = ss.SGD(w, lr=0.0, copy_dtype=dtype.name)
        optimizer.step(np.zeros_like(w))
        with np.errstate(all="ignore"):
            expected = x.astype(dtype)
            same_bits([storage.narrow(x, expected)], [expected])
        same_bits(optimizer.copies, [expected])

    @needs_x86
    @pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
    def test_no_floating_point_mode_reaches_them(self, dtype):
        w, g = values(2000, dtype, 1), values(2000, dtype, 2)
        case = CASES[-1]
        expected = run(case, w, [g, g], backend="reference", state_dtype="param")
        target = w.copy()
        with mxcsr(0x1F80):
            optimizer = case.make(target, state_dtype="param")
        for _ in range(2):
            with mxcsr(FTZ | DAZ | 0x6000):
                optimizer.step(g)
        same_bits([target, *(s[0] for s in optimizer.state.values())], expected[:-2])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_reference(case, mode):
    dtype, options = mode
    decays = [{}, {"weight_decay": 0.1, "ema": 0.9}, {"weight_decay": 0.1, "decoupled_weight_decay": True}]
    for i, size in enumerate((0, 1, 17, 1023, 3001, 130)):
        more = {**options, **decays[i % 3], "zero_grads": i % 2 == 0}
        w, grads = values(size, dtype, 1), [values(size, dtype, s) for s in (3, 5)]
        for scale in (1.0, 0.7):  # with 1 the rule's own loop may widen and narrow
            expected = run(case, w, grads, scale, backend="reference", **more)
            same_bits(run(case, w, grads, scale, backend="cpu", **more), expected)


def test_isas_threads_offsets_and_splits(mode, settings):
    dtype, options = mode
    size, case = 70_001, CASES[-1]
    w, g = values(size, dtype, 1), values(size, dtype, 3)
    expected = run(case, w, [g, g], backend="reference", **options)[:-2]
    for isa, threads in itertools.product(ISAS, (1, 2, 3)):
        ss.set_isa(isa)
        ss.set_num_threads(threads)
        same_bits(run(case, w, [g, g], **options)[:-2], expected)
    block = np.zeros(size + 9, dtype)
    for offset in (1, 9):
        inside = block[offset : offset + size]
        inside[...] = w
        optimizer = case.make(inside, **options)
        optimizer.step(g)
        optimizer.step(g)
        same_bits([inside, *(s[0] for s in optimizer.state.values())], expected)
    if "stochastic_rounding" in options:
        return  # keyed by the array
    cuts = [5, 33_000, 33_001]
    params = [part.copy() for part in np.split(w, cuts)]
    optimizer = case.make(params, **options)
    for _ in range(2):
        optimizer.step(np.split(g, cuts))
    same_bits([np.concatenate(params), *map(np.concatenate, optimizer.state.values())], expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_norms_and_skipped_steps(backend, mode):
    dtype, options = mode
    w, g = values(5000, dtype, 1, vectors.finite_values), values(5000, dtype, 2, vectors.finite_values)
    before = w.copy()
    optimizer = ss.Adam(w, clip_norm=1.0, nonfinite="skip", backend=backend, **options)
    bad = g.copy()
    bad[4999] = np.inf
    optimizer.step(bad)
    assert optimizer.skipped
    same_bits([w], [before])
    assert optimizer.step(g) == ss.global_norm([g.astype(np.float32)])
    assert not (w == before).all()


def test_layouts(mode):
    dtype, options = mode
    if "stochastic_rounding" in options:
        with pytest.raises(ValueError, match="C order"):
            ss.SGD(np.zeros((3, 4), dtype).T, lr=1.0, **options)
        return
    w, g = values(210, dtype, 1).reshape(5, 6, 7), values(210, dtype, 2).reshape(5, 6, 7)
    expected = run(CASES[-1], w, [g], **options)[:-1]
    back = np.argsort((2, 0, 1))
    w_view, g_view = (a.transpose(2, 0, 1).copy().transpose(back) for a in (w, g))
    same_bits(run(CASES[-1], w_view, [g_view], **options)[:-1], expected)


class TestStochasticRounding:
    def test_is_right_on_average_and_reproducible(self):
        def after(seed):
            w = np.ones(100_000, BF16)
            optimizer = ss.SGD(w, lr=1.0, stochastic_rounding=seed)
            optimizer.step(np.full(100_000, -(2.0**-9), BF16))  # a quarter of the distance to the next value
            return w.astype(np.float64)

        first = after(1)
        assert set(first) == {1.0, 1.0 + 2.0**-7}
        share = (first > 1).mean()
        assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 100_000)
        assert (after(1) == first).all()
        assert (after(2) != first).any()

    def test_every_step_and_array_draws_anew(self):
        params = [np.ones(1000, BF16) for _ in range(2)]
        optimizer = ss.SGD(params, lr=1.0, stochastic_rounding=1)
        g = np.full(1000, -(2.0**-8), BF16)
        optimizer.step([g, g])
        once = [w.astype(float) for w in params]
        assert (once[0] != once[1]).any()
        for w in params:
            w[...] = 1.0
        optimizer.step([g, g])
        assert (params[0].astype(float) != once[0]).any()


class TestPeersFaults:
    def test_sgd_moves_all_of_64_parameters(self):
        for dtype in (BF16, F16):
            w = np.ones(64, dtype)
            ss.SGD(w, lr=0.5).step(np.ones(64, dtype))
            assert (w == 0.5).all()

    def test_lr_is_not_rounded_to_bfloat16(self):
        for lr in (1e-3, 3e-4):
            w = np.zeros(8, BF16)
            optimizer = ss.SGD(w, lr=lr, master="float32")
            optimizer.step(np.ones(8, BF16))
            assert (optimizer.state["master"][0] == -np.float32(lr)).all()
            assert float(BF16.type(lr)) != np.float32(lr)

    @pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
    def test_beta2_of_0_999_moves_weights_without_float32_state(self, dtype):
        w = np.ones(64, dtype)
        optimizer = ss.Adam(w, lr=0.01, betas=(0.9, 0.999), state_dtype="param", eps=1e-4)
        for _ in range(3):
            optimizer.step(np.ones(64, dtype))
        assert (w < 0.98).all()
        assert (optimizer.state["v"][0] > 0).all()

    def test_small_steps_add_up_in_masters(self):
        """2^-12 is below half the spacing of bfloat16 at 1: without a master nothing moves."""
        moved = {}
        for master in (None, "float32", "split"):
            w = np.ones(16, BF16)
            optimizer = ss.SGD(w, lr=1.0, master=master)
            for _ in range(64):
                optimizer.step(np.full(16, 2.0**-12, BF16))
            moved[master] = float(w[0])
        assert moved == {None: 1.0, "float32": 1 - 2.0**-6, "split": 1 - 2.0**-6}

    def test_master_and_split_are_one_float32(self):
        w = [values(3000, BF16, 1, vectors.finite_values) for _ in range(2)]
        g = values(3000, BF16, 2, vectors.finite_values)
        whole, split = ss.Adam(w[0], master="float32"), ss.Adam(w[1], master="split")
        for _ in range(3):
            whole.step(g)
            split.step(g)
        same_bits([storage.join(w[1], split.state["low"][0])], whole.state["master"])


@pytest.mark.parametrize(
    ("dtype", "options", "error", "message"),
    [
        (F32, {"master": "float32"}, TypeError, "params: got float32, expected 16 bits"),
        (F16, {"master": "split"}, TypeError, "params: got float16, expected bfloat16"),
        (F16, {"stochastic_rounding": 1}, TypeError, "params: got float16, expected bfloat16"),
        (F16, {"copy_dtype": "float16"}, TypeError, "params: got float16, expected float32 for a copy"),
        (BF16, {"master": "half"}, ValueError, "master: got 'half', expected one of None, float32, split"),
        (BF16, {"master": "split", "state_dtype": "param"}, ValueError, "master: got 'split' with"),
        (BF16, {"stochastic_rounding": -1}, ValueError, r"stochastic_rounding: got -1"),
        (BF16, {"stochastic_rounding": 0.5}, TypeError, r"stochastic_rounding: got 0\.5"),
        (F32, {"copy_dtype": "float8"}, ValueError, "copy_dtype: got 'float8'"),
    ],
)
def test_refused(dtype, options, error, message):
    with pytest.raises(error, match=message):
        ss.Adam(np.ones(3, dtype), **options)


def test_a_gradient_of_another_type_is_refused():
    for w, g in ((BF16, F16), (BF16, F32), (F32, BF16), (F16, np.uint16)):
        with pytest.raises(TypeError, match="grads: got dtype"):
            ss.SGD(np.ones(3, w), lr=1.0).step(np.ones(3, g))


def test_checkpoint(tmp_path, mode):
    pytest.importorskip("safetensors")
    dtype, options = mode
    w, g = values(300, dtype, 1, vectors.finite_values), values(300, dtype, 2, vectors.finite_values)
    optimizer = ss.Adam(w, ema=0.5, **options)
    optimizer.step(g)
    optimizer.save(tmp_path / "a")
    twin = w.copy()
    loaded = ss.Adam.load(tmp_path / "a", twin)
    for each in (optimizer, loaded):
        each.step(g)
    same_bits([twin], [w])
    for name, states in optimizer.state.items():
        same_bits(loaded.state[name], states)
