"""samestep.torch.Conv2d: torch's own cases, the bits of the kernels, derivatives, layers and errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")
pytest.importorskip("expecttest", reason="torch's case database needs expecttest")

from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import samestep.torch as st
from samestep.backends import reference
from samestep.backends.face import Window

DTYPES = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
TOLERANCES = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float64: {"rtol": 1e-11, "atol": 1e-11},
    torch.float16: {"rtol": 0.003, "atol": 0.02},
    torch.bfloat16: {"rtol": 0.02, "atol": 0.1},
}
RELUS = (False, True)
OPTIONS = [
    {},
    {"stride": 2, "padding": 1, "bias": False},
    {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)},
    {"padding": "same"},
    {"padding": "same", "kernel_size": 2},
    {"padding": "same", "kernel_size": (3, 4), "dilation": (1, 3)},
    {"padding": "valid"},
    {"groups": 3, "padding": 1},
    {"padding": (1, 2), "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "replicate", "stride": 2},
    {"padding": "same", "padding_mode": "circular", "kernel_size": 2},
]
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # of forward mode
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning"),
]


def passes(layer, x, dy=None):
    """The result and all gradients after one forward and one backward pass."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    if dy is None:  # of one sign: of a sum in 16 bits that cancels, no digit is sure
        dy = torch.linspace(0.25, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    y.backward(dy)
    return {"y": y.detach(), "dx": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}


def by_the_twin(layer, x, dy):
    """The same in NumPy, of an input with a batch dimension and a padding in numbers."""
    window = Window(layer.stride, layer.padding, layer.dilation, layer.groups)
    x, w, b, dy = (None if t is None else t.detach().numpy() for t in (x, layer.weight, layer.bias, dy))
    y, dx, dw, db = np.empty_like(dy), np.empty_like(x), np.empty_like(w), np.empty_like(w[:, 0, 0, 0])
    reference.conv2d(x, w, b, window, layer.relu, y)
    reference.conv2d_backward(dy, x, w, y if layer.relu else None, window, dx, dw, db)
    found = {"y": y, "dx": dx, "weight": dw, "bias": db}
    return {k: torch.from_numpy(v) for k, v in found.items() if b is not None or k != "bias"}


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def same_bits(found, expected):
    close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
def test_module_db(dtype, relu, record_property):
    infos = [info for info in module_db if info.module_cls.__name__ == "Conv2d"]
    assert len(infos) == 1
    count = 0
    for case in infos[0].module_inputs_func(infos[0], "cpu", dtype, requires_grad=True, training=True):
        args, kwargs = case.constructor_input.args, {**case.constructor_input.kwargs, "dtype": dtype}
        theirs, ours = torch.nn.Conv2d(*args, **kwargs), st.Conv2d(*args, **kwargs, relu=relu)
        ours.load_state_dict(theirs.state_dict())
        (x,) = (*case.forward_input.args, *case.forward_input.kwargs.values())
        net = torch.nn.Sequential(theirs, torch.nn.ReLU()) if relu else theirs
        expected = {name.removeprefix("0."): value for name, value in passes(net, x).items()}
        close(passes(ours, x), expected, **TOLERANCES[dtype])
        count += 1
    assert count >= 4
    record_property("shown", f"module_db nn.Conv2d: {count} cases, {dtype}, relu {relu}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_op_db(dtype, record_property):
    (op,) = (op for op in op_db if op.full_name == "nn.functional.conv2d")
    count = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        tensors = [t for t in (sample.input, *sample.args) if isinstance(t, torch.Tensor)]
        results = []
        for function in (st.conv2d, torch.nn.functional.conv2d):
            y = function(sample.input, *sample.args, **sample.kwargs)
            results.append(dict(enumerate((y, *torch.autograd.grad(y.square().sum(), tensors)))))
        close(*results, **TOLERANCES[dtype])
        count += 1
    assert count >= 10
    record_property("shown", f"op_db nn.functional.conv2d: {count} cases, {dtype}")


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_argument_is_torchs(options, dtype, relu):
    options = {"kernel_size": 3, "dtype": dtype, **options}
    theirs, ours = torch.nn.Conv2d(6, 9, **options), st.Conv2d(6, 9, **options, relu=relu)
    ours.load_state_dict(theirs.state_dict())
    net = torch.nn.Sequential(theirs, torch.nn.ReLU()) if relu else theirs
    for shape in ((2, 6, 9, 8), (6, 9, 8), (0, 6, 9, 8)):
        x = torch.randn(shape, dtype=dtype)
        expected = {name.removeprefix("0."): value for name, value in passes(net, x).items()}
        close(passes(ours, x), expected, **TOLERANCES[dtype])


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "groups": 2}, {"bias": False}], ids=str)
def test_bits_are_the_twins_on_all_instruction_sets_and_threads(options, dtype, relu, isa, threads):
    layer, x = st.Conv2d(30, 4, 3, **options, dtype=dtype, relu=relu), torch.randn(3, 30, 9, 10, dtype=dtype)
    with torch.no_grad():
        dy = torch.randn_like(layer(x))
    same_bits(passes(layer, x, dy), by_the_twin(layer, x, dy))


def test_whole_numbers_of_numpy():
    two = np.int64(2)
    layer = st.Conv2d(4, 4, two, stride=two, padding=(two, 1), dilation=two, groups=two)
    x = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(layer(x), torch.nn.Conv2d.forward(layer, x))


def test_the_device_of_new_tensors_is_the_inputs():
    layer, x = st.Conv2d(4, 2, 2), torch.randn(1, 4, 5, 6)
    expected = passes(layer, x, torch.ones(1, 2, 4, 5))
    with torch.device("meta"):
        found = passes(layer, x, torch.ones(1, 2, 4, 5, device="cpu"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_any_strides():
    layer, x = st.Conv2d(4, 3, 2, relu=True), torch.randn(2, 4, 5, 6)
    dy = torch.randn(2, 3, 4, 5)
    expected = passes(layer, x, dy)
    wide = torch.zeros(2, 4, 10, 12)
    wide[:, :, ::2, ::2] = x
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    for other in (x.to(memory_format=torch.channels_last), wide[:, :, ::2, ::2]):
        for grad in (dy, dy.to(memory_format=torch.channels_last)):
            for one in (layer, last):
                same_bits(passes(one, other, grad), expected)
    y = layer(x.requires_grad_())
    y.sum().backward()  # a gradient without strides
    same_bits({"dx": x.grad}, {"dx": passes(layer, x, torch.ones(2, 3, 4, 5))["dx"]})
    turned = torch.randn(1, 4, 5, 6, dtype=torch.complex64).conj().imag  # torch negates it when it reads it
    assert turned.is_neg()
    same_bits(passes(layer, turned), passes(layer, turned.clone()))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("samples", "inputs", "outputs"), [(0, 3, 2), (4, 3, 0), (0, 3, 0)])
def test_nothing_in_a_dimension(samples, inputs, outputs):
    ours = st.Conv2d(inputs, outputs, 2)
    found = passes(ours, torch.randn(samples, inputs, 4, 5))
    assert found["y"].shape == (samples, outputs, 3, 4)
    assert found["dx"].shape == (samples, inputs, 4, 5)
    assert found["weight"].tolist() == torch.zeros(outputs, inputs, 2, 2).tolist()
    assert not found["dx"].any()
    assert not found["bias"].any()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_16_bits_are_those_of_float32_rounded_once(dtype):
    narrow, x = st.Conv2d(30, 3, 3, dtype=dtype), torch.randn(2, 30, 6, 5).to(dtype)
    wide = copy.deepcopy(narrow).float()
    dy = torch.linspace(-1, 2, 72, dtype=dtype).reshape(2, 3, 4, 3)
    same_bits(passes(narrow, x, dy), {k: v.to(dtype) for k, v in passes(wide, x.float(), dy.float()).items()})


def test_autocast_is_torchs():
    for lib in (torch.nn, st):
        layer = lib.Conv2d(3, 2, 1)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.randn(4, 3, 2, 2)).dtype == torch.bfloat16
            assert layer(torch.randn(4, 3, 2, 2).bfloat16()).dtype == torch.bfloat16
        layer(torch.randn(4, 3, 2, 2)).sum().backward()
        assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize(
    ("shape", "how"),
    [((2, 4, 6, 5), ((1, 2), (1, 0), (2, 1), 2)), ((4, 5, 5), (1, "same", 1, 1)), ((1, 4, 3, 4), ())],
    ids=str,
)
def test_derivatives(shape, how, relu):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4 // (how[3] if how else 1), 3, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        return st.conv2d(x, weight, bias, *how, relu=relu)

    assert torch.autograd.gradcheck(call, (x, weight, bias), check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (x, weight, bias))


@pytest.mark.parametrize("wanted", range(8))
def test_what_needs_no_gradient_gets_none(wanted):
    layer, x = st.Conv2d(3, 2, 2, relu=True), torch.randn(4, 3, 3, 3)
    everything = passes(layer, x, torch.ones(4, 2, 2, 2))
    tensors = {"dx": x, "weight": layer.weight.detach(), "bias": layer.bias.detach()}
    for i, tensor in enumerate(tensors.values()):
        tensor.requires_grad_(bool(wanted >> i & 1))
    y = st.conv2d(*tensors.values(), relu=True)
    assert y.requires_grad == (wanted > 0)
    if wanted:
        y.sum().backward()
    for name, tensor in tensors.items():
        assert (tensor.grad is not None) == tensor.requires_grad
        assert tensor.grad is None or torch.equal(tensor.grad, everything[name])


def test_a_first_gradient_that_keeps_its_graph_has_the_same_bits():
    layer, x = st.Conv2d(30, 3, 3, relu=True), torch.randn(9, 30, 8, 7, requires_grad=True)
    first, second = (
        torch.autograd.grad(layer(x).pow(3).sum(), [x, *layer.parameters()], create_graph=keep)
        for keep in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_nan_and_signed_zeros_pass_the_relu_as_torchs():
    layer = st.Conv2d(1, 1, 1, bias=False, relu=True)
    torch.nn.init.ones_(layer.weight)
    x = torch.tensor([[[float("nan"), -0.0, 0.0, -1.0, 2.0]]])
    found = passes(layer, x, torch.full((1, 1, 5), -3.0))
    assert found["y"].flatten().tolist()[1:] == [0.0, 0.0, 0.0, 2.0]
    assert found["y"].isnan().flatten().tolist() == [True, False, False, False, False]
    assert not found["y"].signbit().flatten()[1:].any()
    assert found["dx"].flatten().tolist() == [-3.0, 0.0, 0.0, 0.0, -3.0]
    assert not found["dx"].signbit().flatten()[1:4].any()


def test_state_dicts_interchange_and_layers_copy():
    theirs, ours = torch.nn.Conv2d(3, 4, 2, padding=1), st.Conv2d(3, 4, 2, padding=1, relu=True)
    ours.load_state_dict(theirs.state_dict())
    again = torch.nn.Conv2d(3, 4, 2, padding=1)
    again.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3, 4, 4)
    assert torch.equal(again(x), theirs(x))
    expected = ours(x)
    for layer in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(layer(x), expected)
    assert repr(ours) == "Conv2d(3, 4, kernel_size=(2, 2), stride=(1, 1), padding=(1, 1), relu=True)"
    torch.manual_seed(3)
    theirs = torch.nn.Conv2d(3, 4, 2)
    torch.manual_seed(3)
    assert torch.equal(st.Conv2d(3, 4, 2).weight, theirs.weight)


def test_a_lazy_layer_becomes_one_at_its_first_input():
    layer, x = st.LazyConv2d(4, 2, padding=1, groups=3, relu=True), torch.randn(5, 3, 4, 4)
    layer = st.LazyConv2d(6, 2, padding=1, groups=3, relu=True)
    theirs = torch.nn.LazyConv2d(6, 2, padding=1, groups=3)
    assert list(layer.state_dict()) == list(theirs.state_dict())
    y = layer(x)
    assert type(layer) is st.Conv2d
    assert y.min() >= 0
    theirs.load_state_dict(layer.state_dict())
    torch.testing.assert_close(torch.relu(theirs(x)), y)
    with pytest.raises(TypeError, match="LazyConv2d: a trace has no shapes"):
        torch.fx.symbolic_trace(torch.nn.Sequential(st.LazyConv2d(4, 2)))


def test_autograd_hears_of_what_was_written():
    layer, x = st.Conv2d(3, 2, 2), torch.randn(4, 3, 3, 3)
    y = layer(x.requires_grad_())
    with torch.no_grad():
        layer.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"input": [1.0]}, TypeError, "input: got list, expected a tensor"),
        ({"input": torch.ones(5, 4, 3, 3).int()}, TypeError, "input: got torch.int32, expected one of"),
        ({"input": torch.ones(5, 4, 3, 3).cfloat()}, TypeError, "input: got torch.complex64"),
        (
            {"input": torch.ones(5, 3, 3, 3)},
            ValueError,
            r"input: got shape \(5, 3, 3, 3\), expected \(N, 4, H",
        ),
        ({"input": torch.ones(4, 4)}, ValueError, r"input: got shape \(4, 4\), expected"),
        ({"input": torch.ones(1, 5, 4, 3, 3)}, ValueError, r"input: got shape \(1, 5, 4, 3, 3\), expected"),
        ({"input": torch.ones(5, 4, 3, 3).double()}, TypeError, r"weight: got torch.float32, .*float64; use"),
        (
            {"input": torch.ones(5, 4, 3, 3, device="meta")},
            NotImplementedError,
            "got a tensor on meta, .*nn's",
        ),
        (
            {"input": torch.ones(5, 4, 1, 3)},
            ValueError,
            "weight: got 2 taps in height, 1 apart, .* height of 1",
        ),
        ({"dilation": (1, 3)}, ValueError, "weight: got 2 taps in width, 3 apart, .*input's width of 3"),
        ({"weight": None}, TypeError, "weight: got None"),
        ({"weight": torch.ones(3)}, ValueError, r"weight: got shape \(3,\), expected \(out_channels"),
        ({"weight": torch.ones(2, 4, 0, 2)}, ValueError, "weight: got 0 taps in height"),
        ({"bias": torch.ones(1, 2)}, ValueError, r"bias: got shape \(1, 2\), expected \(2,\)"),
        ({"bias": torch.ones(2).double()}, TypeError, "bias: got torch.float64"),
        ({"stride": 0}, ValueError, r"stride: got \(0, 0\), expected 1 or more"),
        ({"stride": 1.5}, TypeError, "stride: got 1.5, expected a whole number or two"),
        ({"padding": -1}, ValueError, r"padding: got \(-1, -1\), expected 0 or more"),
        ({"padding": (1, 2, 3)}, TypeError, r"padding: got \(1, 2, 3\), expected a whole number or two"),
        ({"padding": "full"}, ValueError, "padding: got 'full', expected 'valid', 'same' or"),
        ({"padding": "same", "stride": 2}, ValueError, r"padding: got 'same' with stride \(2, 2\)"),
        ({"dilation": 0}, ValueError, r"dilation: got \(0, 0\), expected 1 or more"),
        ({"groups": 3}, ValueError, "groups: got 3, expected a divisor of the weight's 2"),
        ({"groups": 0}, ValueError, "groups: got 0"),
        ({"groups": 2.0}, TypeError, "groups: got 2.0, expected a whole number"),
        ({"stride": 2**63}, ValueError, "stride: got .*, expected 1 or more, and less than 2.60"),
        ({"padding": 2**62}, ValueError, "padding: got .*, expected 0 or more, and less than 2.60"),
        ({"relu": "no"}, TypeError, "relu: got .no., expected True or False"),
    ],
)
def test_what_does_not_fit(change, error, says):
    good = {"input": torch.ones(5, 4, 3, 3), "weight": torch.ones(2, 4, 2, 2), "bias": torch.ones(2)}
    with pytest.raises(error, match=says):
        st.conv2d(**{**good, **change})
