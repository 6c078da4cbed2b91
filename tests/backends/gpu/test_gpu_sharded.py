"""Leaves and sharded optimizers on a GPU: the bits of the processor, for any number of workers."""

import functools

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from host_cupy import device, ndarray
from samestep.backends import cpu, gpu
from samestep.parallel import Sharded, run_threads, threads, weighted_mean
from simulated import Network

SHAPES = {"long": (5000,), "a number": (), "table": (50, 70), "empty": (0,), "block": (1024,)}
STEPS, LEAVES = 3, 8
BFLOAT16 = ml_dtypes.bfloat16
ADAM = functools.partial(ss.Adam, lr=0.1)
ALL_OPTIONS = functools.partial(
    ss.AdamW,
    lr=0.1,
    weight_decay=0.1,
    clip_norm=1.0,
    clip_value=0.01,
    nonfinite="skip",
    ema=0.9,
    maximize=True,
)
CASES = {
    "adam": (ADAM, [np.float32]),
    "sgd": (functools.partial(ss.SGD, lr=0.1), [np.float64]),
    "all options": (ALL_OPTIONS, [np.float32, np.float64]),
    "float16": (functools.partial(ADAM, clip_norm=0.5, ema=0.5), [np.float16]),
    "bfloat16": (functools.partial(ADAM, state_dtype="param", nonfinite="skip"), [BFLOAT16]),
    "split": (functools.partial(ADAM, master="split"), [BFLOAT16]),
    "master": (functools.partial(ADAM, master="float32", clip_norm=1.0), [np.float16]),
    "a copy": (functools.partial(ADAM, copy_dtype="bfloat16"), [np.float32]),
    "a schedule": (functools.partial(ss.SGD, lr=lambda t: 0.1 / t), [np.float32]),
}


def params(dtypes):
    draw = np.random.default_rng(0)
    return {
        name: np.asarray(draw.standard_normal(shape)).astype(dtypes[i % len(dtypes)])
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def gradients(t, leaf, dtypes):
    draw = np.random.default_rng([t, leaf])
    grads = {
        name: np.asarray(draw.standard_normal(w.shape)).astype(w.dtype) for name, w in params(dtypes).items()
    }
    if leaf == 3 and t == 1:
        grads["table"] = np.asfortranarray(grads["table"])
    return {**grads, "block": None} if t == 1 else grads


def on(place, tree):
    return {name: None if a is None else place(a) for name, a in tree.items()}


def add_leaves(opt, place, dtypes, t, bad=None):
    for leaf in opt.leaves:
        grads = gradients(t, leaf, dtypes)
        if (t, leaf) == bad:
            grads["long"][4999] = np.inf
        opt.add(leaf, on(place, grads), weight=float(leaf % 4))


def train(group, place, make, dtypes, folder=None, bad=None):
    """All that can be seen of a run."""
    own = on(place, params(dtypes))
    opt, norms = Sharded(make, own, group, leaves=LEAVES), []
    if folder is not None:
        opt.record(folder / "run.jsonl")
    for t in range(STEPS):
        add_leaves(opt, place, dtypes, t, bad)
        norms.append((opt.step(scale=0.5), opt.skipped))
    if folder is not None:
        opt.record(None)
    state = opt.state_dict()
    return ss.digest([np.atleast_1d(host(w)) for w in own.values()]), bits(state["state"]), norms, state["t"]


def host(a):
    return a.get() if hasattr(a, "get") else a


def bits(state):
    return {name: [a.tobytes() for a in arrays] for name, arrays in state.items()}


def by(workers, function):
    """One worker at a time runs: the stand-in is a single GPU."""
    found = Network(workers).run(function)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_bits_and_the_record_are_the_processors(kernels, tmp_path, case):
    (tmp_path / "cpu").mkdir()
    (expected,) = run_threads(1, lambda g: train(g, np.array, *CASES[case], tmp_path / "cpu"))
    for workers in (1, 2, 3):
        folder = tmp_path / f"of {workers}"
        folder.mkdir()
        kernels.launches.clear()
        found = by(workers, lambda g, folder=folder: train(g, device, *CASES[case], folder))
        assert found == [expected] * workers
        assert (folder / "run.jsonl").read_bytes() == (tmp_path / "cpu" / "run.jsonl").read_bytes()
        launched = {name.rsplit("_", 1)[0] for name, *_ in kernels.launches}
        assert {"weigh_leaf", "add_leaves", "average_leaves"} <= launched


@pytest.mark.parametrize("case", ["all options", "bfloat16"])
def test_all_workers_or_none_step_along_what_is_not_finite(kernels, case):
    (expected,) = run_threads(1, lambda g: train(g, np.array, *CASES[case], bad=(1, 5)))
    assert [skipped for _, skipped in expected[2]] == [False, True, False]
    assert by(3, lambda g: train(g, device, *CASES[case], bad=(1, 5))) == [expected] * 3


def test_finite_gradients_whose_squares_overflow_are_not_refused(kernels):
    w = device(np.ones(3000))
    opt = Sharded(functools.partial(ss.SGD, lr=1e-200, nonfinite="raise"), w, threads(1)[0], leaves=1)
    opt.add(0, device(np.full(3000, 1e200)))
    opt.step()
    np.testing.assert_allclose(w.get(), 0.0, atol=1e-15)
    opt.add(0, device(np.append(np.full(2999, 1e200), np.nan)))
    with pytest.raises(FloatingPointError, match="infinite or NaN in some leaf"):
        opt.step()


def test_checkpoints_and_state_dicts_go_from_the_processor_to_gpus_and_back(kernels, tmp_path):
    make, dtypes = CASES["split"]

    def run(group, places, change):
        opt, own = None, params(dtypes)
        for t, place in enumerate(places):
            start = params(dtypes) if change is by_file else on(host, own)  # a file has the parameters too
            own = on(place, start)
            before, opt = opt, Sharded(make, own, group, leaves=LEAVES)
            if before is not None:
                change(before, opt, tmp_path / str(t))
            add_leaves(opt, place, dtypes, t)
            opt.step()
        return [host(w).tobytes() for w in own.values()], bits(opt.state_dict()["state"])

    def by_file(before, after, path):
        before.save(path)
        after.load(path)

    def by_dict(before, after, path):
        after.load_state_dict(before.state_dict())

    (expected,) = run_threads(1, lambda g: run(g, [np.array] * 3, by_dict))
    for change in (by_file, by_dict):
        for workers in (1, 3):
            found = by(workers, lambda g, c=change: run(g, [np.array, device, np.array], c))
            assert found == [expected] * workers
            found = by(workers, lambda g, c=change: run(g, [device, np.array, device], c))
            assert found == [expected] * workers


def test_parameters_and_averages_stay_on_the_gpu(kernels):
    w = device(np.ones(3000, np.float32))
    opt = Sharded(functools.partial(ADAM, ema=0.5), w, threads(1)[0], leaves=1)
    opt.add(0, device(np.ones(3000, np.float32)))
    opt.step()
    assert opt.params[0] is w
    (ema,) = opt.ema
    assert (type(ema), ema.shape) == (type(w), w.shape)


def test_workers_that_begin_with_other_parameters_are_told(kernels):
    def one(group):
        w = device(np.full(3000, float(group.rank)))
        opt = Sharded(ADAM, w, group, leaves=2)
        opt.add(group.rank, device(np.ones(3000)))
        opt.step()

    for found in Network(2).run(one):
        assert str(found).startswith("params: got values of fingerprint"), found


@pytest.mark.parametrize("weights", [[1, 1, 1], [3, 0, 0.5]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BFLOAT16], ids=lambda d: d.__name__)
def test_means_of_leaves(kernels, dtype, weights):
    draw = np.random.default_rng(1)
    leaves = [draw.standard_normal((3, 1400)).astype(dtype) for _ in weights]
    leaves[0][1, 3:6] = [np.nan, np.inf, -0.0]
    expected = weighted_mean(leaves, weights)
    found = weighted_mean([device(leaf) for leaf in leaves], weights)
    assert found.shape == (3, 1400)
    same_bits([found.get()], [expected])


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
def test_sums_over_workers(kernels, dtype):
    x = np.random.default_rng(2).standard_normal((5000, 3)).astype(dtype)

    def sums(group, place):
        part = place(x[2048 * group.rank :][: 2048 if group.rank < group.size - 1 else None].copy())
        columns, total = ss.canonical_sum(part, 0, group=group), ss.canonical_sum(part, group=group)
        assert type(columns) is type(total) is type(part)
        return host(columns).tobytes(), host(total).tobytes(), ss.global_norm([part], group=group)

    (expected,) = run_threads(1, lambda g: sums(g, np.array))
    for workers in (1, 2, 3):
        assert by(workers, lambda g: sums(g, device)) == [expected] * workers


# As a leaf comes, and as it is added.
LEAF_DTYPES = [(np.float32,) * 2, (np.float64,) * 2, (np.float16, np.float32), (BFLOAT16, np.float32)]
RUNS = [(0, 0), (1, 0), (4095, 0), (4097, 0), (9000, 0), (5000, 1), (5000, 3)]


@pytest.mark.parametrize(("kept", "dtype"), LEAF_DTYPES, ids=str)
@pytest.mark.parametrize(("n", "begin"), RUNS)
def test_kernels_of_leaves(kernels, kept, dtype, n, begin):
    """Of any length, from aligned and other addresses; NaN, infinities, zeros and subnormals among them."""
    draw = np.random.default_rng(n)
    info = ml_dtypes.finfo(kept)
    some = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, info.smallest_subnormal, info.max], kept)
    leaf, other, total = (
        np.where(draw.random(n + 8) < 0.2, draw.choice(some, n + 8), draw.standard_normal(n + 8).astype(kept))
        for _ in range(3)
    )
    for weight in (1.0, 0.1, 0.0, 1e-30):
        made = []
        for module, place in ((cpu, np.array), (gpu, device)):
            g = place(leaf)[begin : begin + n]
            a, b, c = (place(x.astype(dtype))[begin : begin + n] for x in (other, other, total))
            module.weigh_leaf(g, weight, a)
            module.add_leaves(b, c)
            means = [place(np.zeros(n + 8, t))[begin : begin + n] for t in (dtype, kept)]
            for out in means:
                module.average_leaves(c, weight or 3.0, out)
            made.append([host(x) for x in (a, b, *means)])
        same_bits(*made)


def test_a_leaf_of_weight_0_is_not_read(kernels):
    to = device(np.full(5000, np.nan, np.float32))
    gpu.weigh_leaf(None, 0.0, to)
    same_bits([to.get()], [np.zeros(5000, np.float32)])


def test_gradients_that_do_not_fit(kernels):
    w = device(np.ones((3, 4), np.float32))
    opt = Sharded(ADAM, {"w": w}, threads(1)[0], leaves=1)
    good = np.ones((3, 4), np.float32)
    with pytest.raises(TypeError, match=r"grads\['w'\]: got numpy.ndarray, which is not on a GPU"):
        opt.add(0, {"w": good})
    with pytest.raises(ValueError, match=r"grads\['w'\]: lives on GPU 1, expected GPU 0 as params"):
        opt.add(0, {"w": device(good, 1)})
    with pytest.raises(TypeError, match=r"grads\['w'\]: got float64 of shape \(3, 4\), expected float32"):
        opt.add(0, {"w": device(good.astype(np.float64))})
    with pytest.raises(ValueError, match=r"grads\['w'\]: got float32 of shape \(4, 3\)"):
        opt.add(0, {"w": device(good.T.copy())})
    opt.add(0, {"w": device(good)})
    opt.step()


def test_a_gpu_that_is_not_the_current_one(kernels, monkeypatch):
    """Gradients that are not in C order are copied there."""
    weigh = gpu.weigh_leaf

    def weigh_there(g, weight, out):
        assert g is None or g.device.id == out.device.id
        weigh(g, weight, out)

    monkeypatch.setattr(gpu, "weigh_leaf", weigh_there)
    g = np.random.default_rng(3).standard_normal((30, 40), np.float32)
    found = []
    for place in (np.asarray, lambda a: ndarray(a, 1)):
        w = place(np.ones((30, 40), np.float32))
        opt = Sharded(ADAM, w, threads(1)[0], leaves=1)
        opt.add(0, place(np.asfortranarray(g)))
        opt.step()
        mean = weighted_mean([place(np.asfortranarray(g)), place(g)], [1, 2])
        found.append([host(w), host(mean)])
    assert w.device.id == mean.device.id == 1
    same_bits(*found)


def test_workers_in_two_places_are_told(kernels):
    def one(group):
        place = (np.array, device)[group.rank]
        return Sharded(ADAM, place(np.ones(3)), group, leaves=2)

    for found in Network(2).run(one):
        assert str(found).startswith("params on a GPU: got the value True on worker 1 and False on worker 0")


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_means_of_leaves_elsewhere_are_named(kernels, backend):
    leaf = device(np.ones(3)) if backend == "cpu" else np.ones(3)
    with pytest.raises(TypeError, match=r"^leaves\[0\]: "):
        weighted_mean([leaf, leaf], [1, 1], backend=backend)


def test_parameters_that_do_not_fit(kernels):
    group = threads(1)[0]
    here, there = np.ones(3, np.float32), device(np.ones(3, np.float32))
    with pytest.raises(TypeError, match=r"params\[1\]"):
        Sharded(ADAM, [there, here], group, leaves=1)
    with pytest.raises(ValueError, match=r"params\[1\]: lives on GPU 1, expected GPU 0 as params\[0\]"):
        Sharded(ADAM, [there, device(here, 1)], group, leaves=1)
    with pytest.raises(ValueError, match=r"params: its elements are not in C order"):
        Sharded(ADAM, device(np.ones((3, 4), np.float32)).transpose(), group, leaves=1)
    opt = Sharded(ADAM, here, group, leaves=1)
    with pytest.raises(TypeError, match="grads: got an array on a GPU, expected a plain NumPy array"):
        opt.add(0, there)
    with pytest.raises(TypeError, match="lives on a GPU, where backend='cpu' does not reach"):
        Sharded(functools.partial(ADAM, backend="cpu"), there, group, leaves=1)
    with pytest.raises(ValueError, match="state_dir"):
        Sharded(functools.partial(ADAM, state_dir="x"), there, group, leaves=1)
