"""The layer: its running statistics, state, copies and errors."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import samestep as ss
from batchnorm_arrays import G3, GOOD, X4, passes, read_only, same, special

pytestmark = pytest.mark.usefixtures("settings")


def test_layer_is_the_functions():
    x, dy = special((20, 5, 6), "float32", 1), special((20, 5, 6), "float32", 2)
    layer = ss.BatchNorm(5, relu=True, eps=1e-3)
    layer.weight[...] = np.linspace(0.5, 2, 5)
    layer.bias[...] = np.linspace(-1, 1, 5)
    y, mean, inv = ss.batchnorm_forward(x, layer.weight, layer.bias, relu=True, eps=1e-3)
    same(layer.forward(x), y)
    expected = ss.batchnorm_backward(dy, x, layer.weight, layer.bias, mean, inv, relu=True)
    for a, b in zip(layer.backward(dy), expected, strict=True):
        same(a, b)
    z = ss.batchnorm_inference(
        x, layer.weight, layer.bias, layer.running_mean, layer.running_var, relu=True, eps=1e-3
    )
    before = layer.state_dict()
    same(layer.eval().forward(x), z)
    for name, value in layer.state_dict().items():
        assert np.array_equal(value, before[name])
    assert layer.train().training
    assert repr(layer) == "BatchNorm(5, eps=0.001, momentum=0.1, relu=True, axis=1, dtype=float32)"


def test_state_dict_goes_on_with_the_same_bits():
    def run(layer, steps):
        for t in steps:
            y = layer.forward(special((9, 4), "float64", t))
        return y

    whole, first = (
        ss.BatchNorm(4, dtype="float64", momentum=None),
        ss.BatchNorm(4, dtype="float64", momentum=None),
    )
    run(whole, range(6))
    run(first, range(3))
    second = ss.BatchNorm(4, dtype="float64", momentum=None)
    state = first.state_dict()
    assert sorted(state) == ["bias", "num_batches_tracked", "running_mean", "running_var", "weight"]
    kept = second.running_mean
    second.load_state_dict(state)
    assert second.running_mean is kept
    run(first, range(7, 9))  # the state was copied
    run(second, range(3, 6))
    for name, value in second.state_dict().items():
        assert np.array_equal(value, whole.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": np.ones(3)}, r"state_dict\['weight'\]: got float64 \(3,\), expected float32 \(4,\)"),
        ({"running_var": [1, 1, 1, 1]}, "running_var.*got list"),
        ({"num_batches_tracked": -1}, "num_batches_tracked"),
        ({"num_batches_tracked": 1.5}, "num_batches_tracked"),
        ({"num_batches_tracked": 2**63}, "num_batches_tracked"),
        ({"more": 1}, "expected a dict with keys"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, says):
    layer = ss.BatchNorm(4)
    before = layer.state_dict()
    state = {**layer.state_dict(), "bias": np.full(4, 9, np.float32), **change}
    with pytest.raises(ValueError, match=says):
        layer.load_state_dict(state)
    for name, value in layer.state_dict().items():
        assert np.array_equal(value, before[name])


def test_layer_errors():
    for wrong, error in (
        ({"num_channels": 0}, ValueError),
        ({"num_channels": 2.0}, TypeError),
        ({"num_channels": 2, "momentum": 1.5}, ValueError),
        ({"num_channels": 2, "momentum": "a"}, TypeError),
        ({"num_channels": 2, "eps": -1}, ValueError),
        ({"num_channels": 2, "dtype": np.float16}, TypeError),
        ({"num_channels": 2, "dtype": None}, TypeError),
        ({"num_channels": 2, "dtype": "foo"}, TypeError),
        ({"num_channels": 2, "relu": "no"}, TypeError),
        ({"num_channels": 2, "axis": 0}, ValueError),
        ({"num_channels": 2, "backend": "gpu"}, ValueError),
    ):
        with pytest.raises(error, match=r"^(num_channels|momentum|eps|dtype|relu|axis|backend): got"):
            ss.BatchNorm(**wrong)
    layer = ss.BatchNorm(4)
    before = layer.state_dict()
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(np.ones((3, 4), np.float32))
    for x in (np.ones((1, 4), np.float32), np.ones((3, 5), np.float32), np.ones((3, 4))):
        with pytest.raises((TypeError, ValueError)):
            layer.forward(x)
    for name, value in layer.state_dict().items():
        assert np.array_equal(value, before[name])


def test_momentum_is_checked_when_it_is_set():
    layer = ss.BatchNorm(2)
    for wrong, error in (("x", TypeError), (7.0, ValueError), (math.nan, ValueError), (10**400, ValueError)):
        with pytest.raises(error, match=r"^momentum: got"):
            layer.momentum = wrong
        assert layer.momentum == 0.1
    layer.momentum = None
    assert layer.momentum is None
    layer.momentum = np.float32(0.5)
    layer.forward(np.array([[0, 2], [4, 6]], np.float32))
    assert layer.running_mean.tolist() == [1, 2]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("arrange", "error", "says"),
    [
        (
            lambda layer, x, out: setattr(layer, "running_var", layer.running_mean),
            ValueError,
            "running_var: overlaps running_mean",
        ),
        (
            lambda layer, x, out: setattr(layer, "running_mean", layer.weight),
            ValueError,
            "running_mean: overlaps gamma",
        ),
        (
            lambda layer, x, out: setattr(layer, "running_mean", x.reshape(-1)[:2]),
            ValueError,
            "running_mean: overlaps x",
        ),
        (
            lambda layer, x, out: setattr(layer, "running_mean", out.reshape(-1)[1:3]),
            ValueError,
            "out: overlaps running_mean",
        ),
        (
            lambda layer, x, out: setattr(layer, "running_var", out.reshape(-1)[-2:]),
            ValueError,
            "out: overlaps running_var",
        ),
        (
            lambda layer, x, out: setattr(layer, "running_var", np.ones(3, np.float32)),
            ValueError,
            "running_var: got shape",
        ),
        (
            lambda layer, x, out: setattr(layer, "running_var", np.ones(2)),
            TypeError,
            "running_var: got dtype float64",
        ),
        (
            lambda layer, x, out: setattr(layer, "running_var", read_only(layer.running_var)),
            ValueError,
            "running_var: the array is read-only",
        ),
    ],
)
def test_training_that_is_refused_changes_nothing(arrange, error, says, backend):
    layer = ss.BatchNorm(2, momentum=None, backend=backend)
    x, out = np.arange(8, dtype=np.float32).reshape(4, 2), np.full((4, 2), 7, np.float32)
    arrange(layer, x, out)
    kept = [x, out, layer.weight, layer.bias, layer.running_mean, layer.running_var]
    before, count = [a.tobytes() for a in kept], layer.num_batches_tracked
    with pytest.raises(error, match=rf"^{says}"):
        layer.forward(x, out=out)
    assert before == [a.tobytes() for a in kept]
    assert layer.num_batches_tracked == count
    with pytest.raises(RuntimeError, match="no forward"):
        layer.backward(x)


def test_the_batch_is_counted_last(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    layer = ss.BatchNorm(2, backend="reference")
    monkeypatch.setattr("samestep.backends.reference.update_running", fail)
    with pytest.raises(MemoryError):
        layer.forward(np.zeros((4, 2), np.float32))
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_layer_blames_x_and_not_its_own_weights(training):
    layer = ss.BatchNorm(2).train(training)
    with pytest.raises(TypeError, match=r"^x: got dtype float64, expected the layer's float32"):
        layer.forward(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"^x: got shape \(4, 3\), expected the layer's 2 channels"):
        layer.forward(np.zeros((4, 3), np.float32))


def check_text(error, says):
    """Whether the message begins as ``says`` and has what stands after each of its dots."""
    begins, *has = says.split(" ... ")
    assert str(error).startswith(begins)
    for part in has:
        assert part in str(error)


def layer_and_batch():
    layer = ss.BatchNorm(3, dtype=np.float64, relu=True)
    layer.weight[...] = [0.5, 1.5, -1]
    layer.bias[...] = [0.25, -0.5, 0]
    x = special((7, 3), "float64", 1)
    x[~np.isfinite(x)] = 1
    return layer, x, np.where(np.arange(21).reshape(7, 3) % 2, 1.0, -0.5)


@pytest.mark.parametrize(
    ("name", "wrong", "error", "says"),
    [
        ("relu", "no", TypeError, "relu: got 'no', expected True or False"),
        ("relu", None, TypeError, "relu: got None"),
        ("training", "False", TypeError, "training: got 'False', expected True or False"),
        ("eps", "1e-5", TypeError, "eps: got '1e-5', expected a number"),
        ("eps", -1.0, ValueError, "eps: got -1.0"),
        ("momentum", 2, ValueError, "momentum: got 2.0"),
        ("axis", 0, ValueError, "axis: got 0, expected 1 or -1"),
        ("backend", "gpu", ValueError, "backend: got 'gpu'"),
        ("backend", np.array(["cpu", "cpu"]), ValueError, "backend: got array"),
        ("num_batches_tracked", 2.5, ValueError, "num_batches_tracked: got 2.5, expected a whole number"),
        ("num_batches_tracked", -1, ValueError, "num_batches_tracked: got -1"),
        ("weight", [1.0, 2.0, 3.0], TypeError, "weight: got list, expected a NumPy array; make one of it"),
        (
            "weight",
            np.float64(1),
            TypeError,
            "weight: got float64, ... it is a scalar, of which np.array(weight",
        ),
        ("bias", np.array(1.0), ValueError, "bias: got shape (), ... ; pass np.asarray(bias).reshape(1)"),
        (
            "bias",
            np.ones((1, 3)).view(np.matrix),
            ValueError,
            "bias: got shape (1, 3), ... np.asarray(bias).resh",
        ),
        (
            "running_mean",
            np.ma.ones(3),
            TypeError,
            "running_mean: got MaskedArray, ... running_mean.filled(va",
        ),
        ("running_var", np.ones(3, np.int64), TypeError, "running_var: got dtype int64"),
        (
            "momentun",
            0.5,
            AttributeError,
            "momentun: BatchNorm has none, expected one of eps, momentum, relu, ",
        ),
        ("trainig", False, AttributeError, "trainig: BatchNorm has none, ... training"),
        ("num_channels", 4, AttributeError, "num_channels: BatchNorm has none"),
    ],
)
def test_attributes_are_checked_when_they_are_set(name, wrong, error, says):
    layer, x, _ = layer_and_batch()
    before = vars(layer).copy()
    with pytest.raises(error) as raised:
        setattr(layer, name, wrong)
    check_text(raised.value, says)
    assert vars(layer) == before
    layer.forward(x)


def test_attributes_that_can_be_set():
    layer, x, _ = layer_and_batch()
    w = np.full(3, 2.0)
    layer.weight, layer.relu, layer.training, layer.axis = w, np.False_, 1, np.int64(-1)
    layer.eps, layer.num_batches_tracked = np.float32(0.5), np.array(7)
    assert layer.weight is w
    assert (layer.relu, layer.training, layer.axis) == (False, True, -1)
    assert (layer.eps, layer.num_batches_tracked) == (0.5, 7)
    assert [type(v) for v in (layer.relu, layer.training, layer.num_batches_tracked)] == [bool, bool, int]
    with pytest.raises(TypeError, match=r"^mode: got 'no', expected True or False"):
        layer.train("no")
    layer.bias = np.zeros(2)
    with pytest.raises(ValueError, match=r"^bias: got float64 \(2,\), expected float64 \(3,\) like weight"):
        layer.forward(x)


def test_a_class_of_ones_own_has_attributes_of_its_own():
    class Named(ss.BatchNorm):
        def __init__(self, name, *args):
            self.name = name
            super().__init__(*args)

    layer = Named("a", 2)
    layer.extra = 3
    assert (layer.name, layer.extra) == ("a", 3)
    with pytest.raises(TypeError, match=r"^relu: got 'no'"):
        layer.relu = "no"
    assert copy.deepcopy(layer).extra == 3


def test_what_a_copy_carries():
    layer, x, dy = layer_and_batch()
    layer.forward(x)
    shallow, deep = copy.copy(layer), copy.deepcopy(layer)
    loaded = pickle.loads(pickle.dumps(layer))
    before = layer.running_mean.copy()
    for other in (shallow, deep, loaded):
        with pytest.raises(RuntimeError, match="no forward in training mode"):
            other.backward(dy)
        assert repr(other) == repr(layer)
        assert (other.training, other.num_batches_tracked) == (True, 1)
        for name in ("weight", "bias", "running_mean", "running_var"):
            same(getattr(other, name), getattr(layer, name))
            assert (getattr(other, name) is getattr(layer, name)) == (other is shallow)
    for other in (deep, loaded):
        other.forward(x + 1)
    same(layer.running_mean, before)
    layer.backward(dy)  # what it kept is its own


def test_pickles_hold_no_batch():
    layer = ss.BatchNorm(2)
    layer.forward(np.ones((50_000, 2), np.float32))
    assert len(pickle.dumps(layer)) < 10_000


def in_read_only_memory(layer):
    buffers = []
    data = pickle.dumps(layer, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(b.raw()) for b in buffers])


def test_a_layer_in_read_only_memory():
    layer, x, _ = layer_and_batch()
    layer.forward(x)
    shared = in_read_only_memory(layer)
    assert not shared.running_mean.flags.writeable
    with pytest.raises(
        ValueError, match=r"^running_mean: the array is read-only, .*; copy\.deepcopy\(layer\)"
    ):
        shared.forward(x)
    with pytest.raises(ValueError, match=r"^weight: the array is read-only, .*; copy\.deepcopy\(layer\)"):
        shared.load_state_dict(layer.state_dict())
    own = copy.deepcopy(shared)
    same(shared.eval().forward(x), layer.eval().forward(x))
    assert shared.num_batches_tracked == 1
    own.train().forward(x)
    layer.train().forward(x)
    same(own.running_var, layer.running_var)
    own.load_state_dict(layer.state_dict())


def test_a_layer_in_a_mapped_file(tmp_path):
    """As joblib hands large arrays to its workers."""
    layer, x, _ = layer_and_batch()
    expected = layer.eval().forward(x)
    for name in ("weight", "bias", "running_mean", "running_var"):
        np.save(tmp_path / name, getattr(layer, name))
        setattr(layer, name, np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    same(layer.forward(x), expected)
    with pytest.raises(ValueError, match=r"^running_mean: the array is read-only"):
        layer.train().forward(x)
    own = copy.deepcopy(layer)
    own.forward(x)
    assert own.num_batches_tracked == 1


def test_backward_goes_back_through_the_layer_as_it_was():
    layer, x, dy = layer_and_batch()
    layer.forward(x)
    expected = layer.backward(dy)
    layer.relu, layer.weight, layer.bias = False, np.ones(3), np.ones(3)
    for got, want in zip(layer.backward(dy), expected, strict=True):
        same(got, want)
    square = ss.BatchNorm(3, dtype=np.float64)
    x = x.reshape(-1)[:18].reshape(2, 3, 3)
    square.forward(x)
    expected = square.backward(np.cos(x))
    square.axis = -1
    for got, want in zip(square.backward(np.cos(x)), expected, strict=True):
        same(got, want)


def test_masked_states_are_refused():
    layer = ss.BatchNorm(2)
    state = {**layer.state_dict(), "bias": np.ma.masked_array(np.ones(2, np.float32), [True, False])}
    with pytest.raises(ValueError, match=r"^state_dict\['bias'\]: got MaskedArray, expected float32 \(2,\)"):
        layer.load_state_dict(state)
    assert not layer.bias.any()


# ---- what NumPy hands over ----


class Odd(np.ndarray):
    """Calculates otherwise than NumPy."""

    def __mul__(self, other):
        return np.zeros(3)

    __add__ = __sub__ = __rmul__ = __radd__ = __rsub__ = __truediv__ = __mul__

    def reshape(self, *shape, **how):
        raise NotImplementedError

    transpose = reshape


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_subclasses_are_seen_as_arrays(backend, tmp_path):
    x, dy = special((4, 3), "float32", 1), special((4, 3), "float32", 2)
    expected = passes(x, dy, G3, G3, relu=True, backend=backend)
    frozen = ss.batchnorm_inference_backward(dy, x, G3, G3, G3, G3, relu=True, backend=backend)

    def mapped(a):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        found = np.memmap(path, a.dtype, "w+", shape=a.shape)
        found[...] = a
        return found

    for see in (mapped, *(lambda a, kind=kind: a.view(kind) for kind in (np.matrix, Odd, np.recarray))):
        g = G3.view(Odd)
        got = passes(see(x), see(dy), g, g, relu=True, backend=backend)
        for name, value in got.items():
            assert type(value) is np.ndarray
            same(value, expected[name], name)
        out = see(np.zeros_like(x))
        same(ss.batchnorm_forward(see(x), g, g, relu=True, out=out, backend=backend)[0], expected["y"])
        same(np.asarray(out), expected["y"])
        back = ss.batchnorm_inference_backward(see(dy), see(x), g, g, g, g, relu=True, backend=backend)
        for a, b in zip(back, frozen, strict=True):
            same(a, b)
    layer, plain = ss.BatchNorm(3, backend=backend), ss.BatchNorm(3, backend=backend)
    layer.running_mean = layer.running_mean.view(Odd)
    layer.forward(x.view(Odd))
    plain.forward(x)
    same(np.asarray(layer.running_mean), plain.running_mean)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            {"x": [[1.0, 2.0]]},
            TypeError,
            "x: got list, expected a NumPy array; make one of it with np.array(x, ",
        ),
        (
            {"x": np.float32(1)},
            TypeError,
            "x: got float32, ... ; it is a scalar, of which np.array(x) makes an",
        ),
        ({"x": 1.0}, TypeError, "x: got float, ... np.array(x, np.float32)"),
        ({"x": np.array(1, np.float32)}, ValueError, "x: got shape (), expected samples and channels"),
        (
            {"x": np.ma.array(X4)},
            TypeError,
            "x: got MaskedArray, ... ; pass x.filled(value), with a value for",
        ),
        (
            {"x": np.zeros(4, [("a", "f4"), ("b", "f4")])},
            TypeError,
            "x: got dtype  ... ; pass its fields ... x['a']",
        ),
        ({"gamma": G3[0]}, TypeError, "gamma: got float32, ... ; it is a scalar"),
        ({"gamma": np.array(1, np.float32)}, ValueError, "gamma: got shape (), expected (3,), one for each"),
        (
            {"gamma": G3[np.newaxis].view(np.matrix)},
            ValueError,
            "gamma: got shape (1, 3), ... np.asarray(gamma).reshape(3)",
        ),
        ({"beta": G3[:, np.newaxis]}, ValueError, "beta: got shape (3, 1), ... np.asarray(beta).reshape(3)"),
        ({"mean": [0.0, 0, 0]}, TypeError, "mean: got list, ... np.array(mean"),
        ({"dy": X4.reshape(2, 3, 20)}, ValueError, "dy: got shape (2, 3, 20), ... .reshape((2, 3, 4, 5))"),
        ({"relu": np.array(True)}, TypeError, "relu: got array"),
        ({"backend": np.array(["cpu", "cpu"])}, ValueError, "backend: got array"),
    ],
)
def test_what_is_no_array_is_named_with_the_fix(change, error, says):
    given = {**GOOD, **change}
    arrays = [given[name] for name in ("dy", "x", "gamma", "beta", "mean", "inv")]
    how = {name: given[name] for name in ("relu", "backend") if name in given}
    with pytest.raises(error) as raised:
        ss.batchnorm_backward(*arrays, **how)
    check_text(raised.value, says)
