"""samestep.torch.Linear: torch's own cases, the bits of samestep.linear, derivatives and errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")
pytest.importorskip("expecttest", reason="torch's case database needs expecttest")

from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import samestep as ss
import samestep.torch as st
from bits import ISAS

DTYPES = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
TOLERANCES = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float16: {"rtol": 0.003, "atol": 0.003},
    torch.bfloat16: {"rtol": 0.02, "atol": 0.02},
}
RELUS = (False, True)
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of forward mode


def passes(layer, x, dy=None):
    """The result and all gradients after one forward and one backward pass."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    if dy is None:  # of one sign: of a sum in 16 bits that cancels, no digit is sure
        dy = torch.linspace(0.25, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    y.backward(dy)
    return {"y": y.detach(), "dx": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}


def by_the_package(layer, x, dy):
    """The same by ``samestep.linear`` and ``samestep.linear_backward``, on the rows of x."""
    lead, rows = x.shape[:-1], x.reshape(-1, x.shape[-1]).numpy()
    w, bias = layer.weight.detach().numpy().T, None if layer.bias is None else layer.bias.detach().numpy()
    y = ss.linear(rows, w, bias, relu=layer.relu)
    dy = np.ascontiguousarray(dy.reshape(-1, dy.shape[-1]))
    dx, dw, dbias = ss.linear_backward(dy, rows, w, y=y if layer.relu else None)
    found = {"y": y.reshape(*lead, -1), "dx": dx.reshape(x.shape), "weight": dw.T, "bias": dbias}
    return {k: torch.from_numpy(v) for k, v in found.items() if bias is not None or k != "bias"}


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def same_bits(found, expected):
    close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
def test_module_db(dtype, relu, record_property):
    (info,) = (info for info in module_db if info.module_cls.__name__ == "Linear")
    count = 0
    for case in info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=True):
        args, kwargs = case.constructor_input.args, {**case.constructor_input.kwargs, "dtype": dtype}
        theirs, ours = torch.nn.Linear(*args, **kwargs), st.Linear(*args, **kwargs, relu=relu)
        ours.load_state_dict(theirs.state_dict())
        (x,) = (*case.forward_input.args, *case.forward_input.kwargs.values())
        net = torch.nn.Sequential(theirs, torch.nn.ReLU()) if relu else theirs
        expected = {name.removeprefix("0."): value for name, value in passes(net, x).items()}
        close(passes(ours, x), expected, **TOLERANCES[dtype])
        count += 1
    assert count >= 3
    record_property("shown", f"module_db nn.Linear: {count} cases, {dtype}, relu {relu}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_op_db(dtype, record_property):
    (op,) = (op for op in op_db if op.full_name == "nn.functional.linear")
    count = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        tensors = [sample.input, *sample.args]
        results = []
        for function in (st.linear, torch.nn.functional.linear):
            y = function(*tensors)
            results.append(dict(enumerate((y, *torch.autograd.grad(y.square().sum(), tensors)))))
        close(*results, **TOLERANCES[dtype])
        count += 1
    assert count >= 10
    record_property("shown", f"op_db nn.functional.linear: {count} cases, {dtype}")


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(37, 300), (5, 7, 300), (1, 300), (300,)], ids=str)
def test_bits_are_the_packages_own_on_all_instruction_sets_and_threads(shape, dtype, relu, isa, threads):
    layer, x = st.Linear(300, 70, dtype=dtype, relu=relu), torch.randn(shape, dtype=dtype)
    dy = torch.randn(*shape[:-1], 70, dtype=dtype)
    found = passes(layer, x, dy)
    ss.set_isa(ISAS[-1])
    ss.set_num_threads(1)
    same_bits(found, by_the_package(layer, x, dy))


@pytest.mark.parametrize("relu", RELUS)
def test_any_strides(relu):
    layer, base = st.Linear(5, 4, relu=relu), torch.randn(6, 10, 8)
    layer.weight = torch.nn.Parameter(torch.randn(10, 4).t()[:, ::2])
    for x in (
        base[0, ::2, ::2][:, [0, 1, 2, 3, 0]],
        base[0, :5].t(),
        base[::2, :5].transpose(1, 2),
        base[0, 0, 0].expand(3, 5),
    ):
        dy = torch.randn(4, *x.shape[:-1]).movedim(0, -1)
        same_bits(passes(layer, x, dy), by_the_package(layer, x.contiguous(), dy))
    turned = (
        torch.randn(3, 5, dtype=torch.complex64).conj().imag
    )  # a view that torch negates when it reads it
    assert turned.is_neg()
    same_bits(passes(layer, turned), passes(layer, turned.clone()))


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(0, 3, 2), (4, 0, 2), (4, 3, 0), (0, 0, 0)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_nothing_in_a_dimension(rows, inputs, outputs):
    ours, theirs = st.Linear(inputs, outputs), torch.nn.Linear(inputs, outputs)
    theirs.load_state_dict(ours.state_dict())
    for x in (torch.randn(rows, inputs), torch.randn(2, rows, inputs)):
        close(passes(ours, x), passes(theirs, x))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_16_bits_are_those_of_float32_rounded_once(dtype):
    narrow, x = st.Linear(300, 7, dtype=dtype), torch.randn(9, 300).to(dtype)
    wide = copy.deepcopy(narrow).float()
    dy = torch.linspace(-1, 2, 63, dtype=dtype).reshape(9, 7)
    same_bits(passes(narrow, x, dy), {k: v.to(dtype) for k, v in passes(wide, x.float(), dy.float()).items()})


def test_autocast_is_torchs():
    for lib in (torch.nn, st):
        layer = lib.Linear(3, 2)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.randn(4, 3)).dtype == torch.bfloat16
            assert layer(torch.randn(4, 3).bfloat16()).dtype == torch.bfloat16
        layer(torch.randn(4, 3)).sum().backward()
        assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5), (5,)], ids=str)
def test_derivatives(shape, relu):
    layer = st.Linear(5, 3, dtype=torch.float64, relu=relu)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        return st.linear(x, weight, bias, relu=relu)

    inputs = (x, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(call, inputs, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("wanted", range(8))
@pytest.mark.parametrize("rows", [(), (4,), (2, 4)], ids=str)
def test_what_needs_no_gradient_gets_none(rows, wanted):
    layer, x = st.Linear(3, 2, relu=True), torch.randn(*rows, 3)
    everything = passes(layer, x, torch.ones(*rows, 2))
    tensors = {"dx": x, "weight": layer.weight.detach(), "bias": layer.bias.detach()}
    for i, tensor in enumerate(tensors.values()):
        tensor.requires_grad_(bool(wanted >> i & 1))
    y = st.linear(*tensors.values(), relu=True)
    assert y.requires_grad == (wanted > 0)
    if wanted:
        y.sum().backward()
    for name, tensor in tensors.items():
        assert (tensor.grad is not None) == tensor.requires_grad
        assert tensor.grad is None or torch.equal(tensor.grad, everything[name])


def test_a_first_gradient_that_keeps_its_graph_has_the_same_bits():
    layer, x = st.Linear(300, 7, relu=True), torch.randn(9, 300, requires_grad=True)
    first, second = (
        torch.autograd.grad(layer(x).pow(3).sum(), [x, *layer.parameters()], create_graph=keep)
        for keep in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_nan_and_signed_zeros_pass_the_relu_as_torchs():
    layer = st.Linear(1, 1, bias=False, relu=True)
    torch.nn.init.ones_(layer.weight)
    x = torch.tensor([[float("nan")], [-0.0], [0.0], [-1.0], [2.0]])
    found = passes(layer, x, torch.full((5, 1), -3.0))
    assert found["y"].flatten().tolist()[1:] == [0.0, 0.0, 0.0, 2.0]
    assert found["y"].isnan().flatten().tolist() == [True, False, False, False, False]
    assert not found["y"].signbit()[1:].any()
    assert found["dx"].flatten().tolist() == [-3.0, 0.0, 0.0, 0.0, -3.0]
    assert not found["dx"].signbit()[1:4].any()


def test_state_dicts_interchange_and_layers_copy():
    theirs, ours = torch.nn.Linear(3, 4), st.Linear(3, 4, relu=True)
    ours.load_state_dict(theirs.state_dict())
    again = torch.nn.Linear(3, 4)
    again.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(again(x), theirs(x))
    expected = ours(x)
    for layer in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(layer(x), expected)
    assert repr(ours) == "Linear(in_features=3, out_features=4, bias=True, relu=True)"
    torch.manual_seed(3)
    theirs = torch.nn.Linear(3, 4)
    torch.manual_seed(3)
    assert torch.equal(st.Linear(3, 4).weight, theirs.weight)


def test_a_lazy_layer_becomes_one_at_its_first_input():
    layer, x = st.LazyLinear(4, relu=True), torch.randn(5, 3)
    theirs = torch.nn.LazyLinear(4)
    assert list(layer.state_dict()) == list(theirs.state_dict())
    y = layer(x)
    assert type(layer) is st.Linear
    assert y.min() >= 0
    theirs.load_state_dict(layer.state_dict())
    torch.testing.assert_close(torch.relu(theirs(x)), y)
    with pytest.raises(TypeError, match="LazyLinear: a trace has no shapes"):
        torch.fx.symbolic_trace(torch.nn.Sequential(st.LazyLinear(4)))


def test_autograd_hears_of_what_was_written():
    layer, x = st.Linear(3, 2), torch.randn(4, 3)
    y = layer(x.requires_grad_())
    with torch.no_grad():
        layer.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"input": [1.0]}, TypeError, "input: got list, expected a tensor"),
        (
            {"input": torch.ones(5, 3).int()},
            TypeError,
            "input: got torch.int32, expected one of torch.float32",
        ),
        ({"input": torch.ones(5, 3).cfloat()}, TypeError, "input: got torch.complex64"),
        ({"input": torch.ones(5, 4)}, ValueError, r"input: got shape \(5, 4\), expected \(\.\.\., 3\)"),
        ({"input": torch.ones(())}, ValueError, r"input: got shape \(\), expected"),
        ({"input": torch.ones(5, 3).double()}, TypeError, r"weight: got torch.float32, .*torch.float64; use"),
        (
            {"input": torch.ones(5, 3, device="meta")},
            NotImplementedError,
            "got a tensor on meta, .*torch.nn's",
        ),
        ({"weight": None}, TypeError, "weight: got None"),
        ({"weight": torch.ones(3)}, ValueError, r"weight: got shape \(3,\), expected \(out_features"),
        ({"bias": torch.ones(1, 2)}, ValueError, r"bias: got shape \(1, 2\), expected \(2,\)"),
        ({"bias": torch.ones(2).double()}, TypeError, "bias: got torch.float64"),
        ({"bias": [1.0, 1.0]}, TypeError, "bias: got list"),
        ({"relu": "no"}, TypeError, "relu: got .no., expected True or False"),
    ],
)
def test_what_does_not_fit(change, error, says):
    good = {"input": torch.ones(5, 3), "weight": torch.ones(2, 3), "bias": torch.ones(2)}
    with pytest.raises(error, match=says):
        st.linear(**{**good, **change})
