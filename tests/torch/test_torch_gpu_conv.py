"""samestep.torch's convolutions on NVIDIA GPUs, by CuPy's stand-in on the host: the bits of the CPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep.torch
from test_torch_gpu_layers import DTYPES, backward, bits, in_both, leaf, numbers
from torch_trainings import train_network

F = samestep.torch
HOW = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1), "groups": 2},
    {"padding": "same"},
    {"groups": 4, "padding": (0, 3)},
]
PLAIN = [1, 1], [0, 0], [1, 1], 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("how", HOW, ids=str)
def test_conv2d(kernels, place, dtype, relu, how):
    def compute():
        x, bias = leaf(2, 4, 7, 6, dtype=dtype, seed=1), leaf(8, dtype=dtype, seed=3)
        weight = leaf(8, 4 // how.get("groups", 1), 3, 2, dtype=dtype, seed=2)
        y = F.conv2d(x, weight, bias, **how, relu=relu)
        return backward(y, x=x, weight=weight, bias=bias)

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu
    names = [name for name, *_ in kernels.launches]
    wide = "float64" if dtype == torch.float64 else "float32"
    for name in ("convolve", "convolve_weight", "multiply_taps", "add_taps", "order_terms", "round_sums"):
        assert names.count(f"{name}_{wide}") == 1, name


@pytest.mark.parametrize("shape", [(0, 4, 7, 6), (4, 7, 6), (1, 4, 7, 6)], ids=str)
@pytest.mark.parametrize("relu", [True, False])
def test_other_batches(kernels, place, shape, relu):
    def compute():
        x, weight = leaf(*shape, dtype=torch.float32, seed=1), leaf(8, 4, 3, 2, dtype=torch.float32, seed=2)
        return backward(F.conv2d(x, weight, relu=relu), x=x, weight=weight)

    place.of_others = None
    expected = {name: bits(t) for name, t in compute().items()}
    assert not kernels.launches
    place.of_others = 0
    assert {name: bits(t) for name, t in compute().items()} == expected
    assert bool(kernels.launches) == (shape[0] > 0)  # of no sample there is nothing to launch


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)], ids=str
)
def test_each_gradient_alone(kernels, place, wanted):
    def compute():
        shapes = (2, 4, 7, 6), (8, 4, 3, 2), (8,)
        leaves = [
            numbers(*shape, seed=k).requires_grad_(want)
            for k, (shape, want) in enumerate(zip(shapes, wanted, strict=True))
        ]
        return backward(
            F.conv2d(*leaves, padding=1, relu=True),
            **{name: leaf for name, leaf in zip("xwb", leaves, strict=True) if leaf.requires_grad},
        )

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu
    names = {name.rpartition("_")[0] for name, *_ in kernels.launches}
    assert ("add_taps" in names, "convolve_weight" in names, "round_sums" in names) == wanted


@pytest.mark.parametrize("memory", ["channels last", "transposed", "sliced"])
def test_other_layouts(kernels, place, memory):
    def laid_out(x):
        if memory == "channels last":
            return x.contiguous(memory_format=torch.channels_last)
        return x.transpose(2, 3) if memory == "transposed" else x[:, :, ::2, 1:]

    def compute():
        x, weight = (
            leaf(2, 4, 9, 8, dtype=torch.float32, seed=1),
            leaf(8, 4, 2, 3, dtype=torch.float32, seed=2),
        )
        return backward(F.conv2d(laid_out(x), laid_out(weight)), x=x, weight=weight)

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu


def test_second_derivatives(kernels, place):
    def compute():
        x, weight = (
            leaf(2, 4, 5, 5, dtype=torch.float64, seed=1),
            leaf(3, 4, 3, 3, dtype=torch.float64, seed=2),
        )
        y = F.conv2d(x, weight, padding=1).square().sum()
        (dx,) = torch.autograd.grad(y, x, create_graph=True)
        return backward(dx, weight=weight, x=x)

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("way", ["called", "script", "trace"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_layers(kernels, place, way, mode):
    def compute():
        torch.manual_seed(5)
        layer = F.Conv2d(4, 6, 3, padding=1, padding_mode=mode, relu=True)
        x = leaf(2, 4, 5, 5, dtype=torch.float32, seed=1)
        program = layer
        if way != "called":
            program = torch.jit.script(layer) if way == "script" else torch.jit.trace(layer, x.detach())
        return backward(program(x), x=x, weight=layer.weight, bias=layer.bias)

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu


def test_a_network_is_trained_to_the_digest_of_the_cpu(kernels, place):
    def compute():
        torch.manual_seed(3)
        net = torch.nn.Sequential(
            F.Conv2d(2, 6, 3, padding=1),
            F.BatchNorm2d(6, relu=True),
            F.Conv2d(6, 4, 2, stride=2, relu=True),
            torch.nn.Flatten(),
            F.Linear(36, 4),
        )
        losses = train_network(net, numbers(8, 2, 6, 6), torch.arange(8) % 4, steps=3)
        return {**net.state_dict(), "losses": losses}

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu
    assert any(name.startswith("step_") for name, *_ in kernels.launches)


def calls():
    """The operators by themselves, as programs of TorchScript and torch.export call them."""
    x, weight, grad = numbers(2, 4, 5, 5, seed=1), numbers(3, 4, 3, 3, seed=2), numbers(2, 3, 3, 3, seed=3)
    return {
        "conv2d": (x, weight, None, *PLAIN, True),
        "conv2d_input_gradient": (grad, weight, [5, 5], *PLAIN),
        "conv2d_weight_gradient": (grad, x, [3, 3], *PLAIN),
    }


@pytest.mark.parametrize("name", calls())
def test_operators_called_by_themselves(kernels, place, name):
    def compute():
        return {"found": getattr(torch.ops.samestep, name)(*calls()[name])}

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("conv2d", {1: (3, 5, 3, 3)}, ValueError, r"input: got shape .*expected \(N, 5, H, W\)"),
        ("conv2d_input_gradient", {0: (2, 3, 4, 3)}, ValueError, r"grad: got shape .*\(2, 3, 3, 3\)"),
        ("conv2d_input_gradient", {0: (2, 2, 3, 3)}, ValueError, r"grad: got shape .*\(2, 3, 3, 3\)"),
        ("conv2d_input_gradient", {0: (3, 3, 3)}, ValueError, r"grad: got shape \(3, 3, 3\), .* four axes"),
        ("conv2d_input_gradient", {1: (3, 4, 3)}, ValueError, r"weight: got shape \(3, 4, 3\), expected"),
        (
            "conv2d_input_gradient",
            {1: torch.float64},
            TypeError,
            "weight: got torch.float64, expected the grad's",
        ),
        ("conv2d_weight_gradient", {0: (1, 3, 3, 3)}, ValueError, r"grad: got shape .*\(2, 3, 3, 3\)"),
        ("conv2d_weight_gradient", {1: (2, 4, 5)}, ValueError, r"input: got shape \(2, 4, 5\), expected"),
        (
            "conv2d_weight_gradient",
            {1: torch.float64},
            TypeError,
            "input: got torch.float64, expected the grad's",
        ),
        ("conv2d_weight_gradient", {0: torch.int64}, TypeError, "grad: got torch.int64, expected one of"),
        ("conv2d_weight_gradient", {2: [6, 3]}, ValueError, "weight: got 6 taps in height"),
        ("conv2d_weight_gradient", {6: 3}, ValueError, "input: got shape"),
        ("conv2d_weight_gradient", {6: 0}, ValueError, "groups: got 0, expected"),
        ("conv2d_weight_gradient", {3: [0, 1]}, ValueError, r"stride: got \(0, 1\)"),
    ],
)
def test_operators_refuse_what_does_not_fit(kernels, place, name, arguments, error, message, on_gpu):
    place.of_others = 0 if on_gpu else None
    given = list(calls()[name])
    for position, other in arguments.items():
        if isinstance(other, torch.dtype):
            other = given[position].to(other)
        given[position] = numbers(*other) if isinstance(other, tuple) else other
    with pytest.raises(error, match=message):
        getattr(torch.ops.samestep, name)(*given)
    assert not kernels.launches


@pytest.mark.parametrize("name", calls())
def test_operators_refuse_a_tensor_of_another_device(kernels, place, name):
    given = calls()[name]
    place.of_others, place.numbers = 0, {tuple(given[1].shape): None}
    first = "input" if name == "conv2d" else "grad"
    message = f"got a tensor on cpu, expected one on GPU 0, where the {first} lies; use .*to\\({first}.device"
    with pytest.raises(ValueError, match=message):
        getattr(torch.ops.samestep, name)(*given)
    assert not kernels.launches


def test_under_vmap(kernels, place):
    def compute():
        x, weight = numbers(3, 2, 4, 5, 5, seed=1), numbers(3, 6, 4, 3, 3, seed=2)
        return {
            "input": torch.func.vmap(lambda one: F.conv2d(one, weight[0], relu=True))(x),
            "both": torch.func.vmap(lambda one, w: F.conv2d(one, w, relu=True))(x, weight),
        }

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu
