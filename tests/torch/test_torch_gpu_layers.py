"""samestep.torch's layers on NVIDIA GPUs, by CuPy's stand-in on the host: the bits of the CPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch._subclasses.fake_tensor import FakeTensorMode

import host_cupy
import samestep.torch
from samestep.backends import gpu
from samestep.torch import launching
from torch_place import STREAM
from torch_trainings import train_network

F = samestep.torch
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ON_GPU = ["batch_norm_training", "batch_norm_training_backward", "batch_norm_inference"]
ON_GPU += ["batch_norm_inference_backward", "running_statistics", "linear", "column_sums", "cross_entropy"]
ON_GPU += ["conv2d", "conv2d_input_gradient", "conv2d_weight_gradient"]


def numbers(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def bits(tensor):
    return (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.detach().reshape(-1).view(torch.uint8).tolist(),
    )


def in_both(kernels, place, compute):
    """What it returns on the CPU and, by launches, on the GPU: a dict of tensors each."""
    found = []
    for number in (None, 0):
        place.of_others = number
        found.append({name: None if t is None else bits(t) for name, t in compute().items()})
        assert bool(kernels.launches) == (number is not None)
    return found


def backward(y, **leaves):
    """The result, and the gradients of its leaves."""
    y.backward(numbers(*y.shape, dtype=y.dtype, seed=9))
    return {"y": y, **{name: leaf.grad for name, leaf in leaves.items()}}


def leaf(*shape, dtype, seed):
    return numbers(*shape, dtype=dtype, seed=seed).requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layout", ["planes", "channels last", "a row"])
def test_batch_norm(kernels, place, dtype, training, relu, layout):
    shape = (6, 5) if layout == "a row" else (3, 5, 4, 7)
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

    def compute():
        x = numbers(*shape, dtype=dtype, seed=1)
        if layout == "channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        weight, bias = leaf(5, dtype=wide, seed=2), leaf(5, dtype=wide, seed=3)
        mean, var = numbers(5, dtype=wide, seed=4), numbers(5, dtype=wide, seed=5).abs()
        y = F.batch_norm(x, mean, var, weight, bias, training, 0.25, 1e-3, relu=relu)
        return {**backward(y, x=x, weight=weight, bias=bias), "mean": mean, "var": var}

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu
    names = {name for name, *_ in kernels.launches}
    assert any("inference" in name for name in names) == (not training)
    assert any("update_running" in name for name in names) == training
    assert any("backward" in name for name in names)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_layers_of_batch_norm_keep_running_statistics(kernels, place, momentum, affine):
    def compute():
        layer = F.BatchNorm2d(4, momentum=momentum, affine=affine, relu=True)
        for t in range(3):
            layer(numbers(2, 4, 3, 3, seed=t))
        return {**layer.state_dict(), "evaluated": layer.eval()(numbers(1, 4, 2, 2, seed=7))}

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu
    assert sum(name.startswith("update_running") for name, *_ in kernels.launches) == 3


def test_running_statistics_are_written_all_or_not_at_all(kernels, place, monkeypatch):
    place.of_others = 0
    layer = F.BatchNorm1d(3)
    layer(numbers(5, 3))
    before = {name: bits(t) for name, t in layer.state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setattr("samestep.backends.gpu.update_running", interrupted)
        with pytest.raises(KeyboardInterrupt):
            layer(numbers(5, 3))
    assert {name: bits(t) for name, t in layer.state_dict().items()} == before


UPDATE = gpu.update_running


def interrupted(*arguments):
    UPDATE(*arguments)
    raise KeyboardInterrupt


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(6, 300), (2, 3, 300), (300,), (0, 300)], ids=str)
def test_linear(kernels, place, dtype, relu, shape):
    def compute():
        x, weight = leaf(*shape, dtype=dtype, seed=1), leaf(7, 300, dtype=dtype, seed=2)
        bias = leaf(7, dtype=dtype, seed=3)
        return backward(F.linear(x, weight, bias, relu=relu), x=x, weight=weight, bias=bias)

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu
    products = [name for name, *_ in kernels.launches if name.startswith("multiply")]
    assert len(products) == (3 if shape[0] else 1)  # y, dx, dw; of no rows dw alone, which is 0


def test_linear_of_transposed_and_sliced_tensors(kernels, place):
    def compute():
        x, weight = leaf(9, 12, dtype=torch.float32, seed=1), leaf(9, 14, dtype=torch.float32, seed=2)
        return backward(F.linear(x.t()[::2], weight.t()[3:8]), x=x, weight=weight)

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu


def test_second_derivatives_of_linear(kernels, place):
    def compute():
        x, weight = leaf(4, 5, dtype=torch.float64, seed=1), leaf(3, 5, dtype=torch.float64, seed=2)
        (dx,) = torch.autograd.grad(F.linear(x, weight).square().sum(), x, create_graph=True)
        return backward(dx, weight=weight)

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("labels", [torch.int64, torch.uint8], ids=str)
def test_cross_entropy(kernels, place, dtype, labels):
    def compute():
        logits = leaf(40, 6, dtype=dtype, seed=1)
        loss = F.cross_entropy(logits, (torch.arange(40) % 6).to(labels))
        loss.backward()
        return {"loss": loss, "logits": logits.grad}

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu
    assert any(name.startswith("softmax_rows") for name, *_ in kernels.launches)


@pytest.mark.parametrize("wrong", [6, -100])
def test_a_target_that_is_no_class(kernels, place, wrong):
    place.of_others = 0
    with pytest.raises(ValueError, match=rf"target\[3\]: got {wrong}, expected a class, 0 to 5"):
        F.cross_entropy(numbers(4, 6), torch.tensor([0, 1, 2, wrong]))
    assert not kernels.launches


def test_a_network_is_trained_to_the_digest_of_the_cpu(kernels, place):
    def compute():
        torch.manual_seed(3)
        net = torch.nn.Sequential(
            F.Linear(6, 16), F.BatchNorm1d(16, relu=True), F.Linear(16, 8, relu=True), F.Linear(8, 4)
        )
        losses = train_network(net, numbers(20, 6), torch.arange(20) % 4, steps=4)
        return {**net.state_dict(), "losses": losses}

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu
    assert any(name.startswith("step_") for name, *_ in kernels.launches)


def test_kernels_run_on_torchs_current_stream(kernels, place, monkeypatch):
    ran, launch = [], host_cupy.HostKernels.launch

    def noting(self, *args, **kwargs):
        ran.append((host_cupy.Stream.current, host_cupy.Device.current))
        return launch(self, *args, **kwargs)

    monkeypatch.setattr(host_cupy.HostKernels, "launch", noting)
    place.of_others = 1
    x = leaf(4, 3, dtype=torch.float32, seed=1)
    F.cross_entropy(F.linear(F.BatchNorm1d(3)(x), numbers(3, 3)), torch.tensor([0, 1, 2, 0])).backward()
    assert set(ran) == {(STREAM + 1, 1)}
    assert len(ran) >= 6


def test_memory_of_a_temporary_is_not_given_away_before_its_kernel_is_launched(kernels, place, monkeypatch):
    """Tensors that the layers make, as the weight in float32, are alive when the kernels are launched."""
    alive, dead = [], []
    view, launch = launching.view, kernels.launch

    def viewing(tensor):
        alive.append(torch.multiprocessing.reductions.StorageWeakRef(tensor.untyped_storage()))
        return view(tensor)

    def launching_now(*args, **kwargs):
        dead.extend(storage for storage in alive if storage.expired())
        return launch(*args, **kwargs)

    monkeypatch.setattr(launching, "view", viewing)
    monkeypatch.setattr(type(kernels), "launch", lambda self, *args, **kwargs: launching_now(*args, **kwargs))
    place.of_others = 0
    half = torch.float16
    with torch.no_grad():
        for compute in (
            lambda: F.linear(numbers(4, 3, dtype=half), numbers(2, 3, dtype=half), numbers(2, dtype=half)),
            lambda: F.conv2d(numbers(1, 4, 3, 3, dtype=half), numbers(2, 4, 2, 2, dtype=half)),
            lambda: F.batch_norm(numbers(4, 3, dtype=half), None, None, training=True),
            lambda: F.cross_entropy(numbers(4, 3, dtype=half), torch.zeros(4, dtype=torch.uint8)),
        ):
            alive.clear()
            compute()
            assert alive
    assert not dead


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (F.linear, ((4, 3), (2, 3), (2,)), "bias"),
        (F.linear, ((4, 3), (2, 3)), "weight"),
        (F.conv2d, ((2, 4, 3, 3), (2, 4, 2, 2), (2,)), "bias"),
        (F.conv2d, ((2, 4, 3, 3), (2, 4, 2, 2)), "weight"),
        (F.batch_norm, ((4, 3), (3,), (3,)), "running_mean"),
        (F.cross_entropy, ((4, 3), (4,)), "target"),
    ],
)
def test_tensors_of_two_devices_are_refused(kernels, place, function, arguments, name):
    tensors = [numbers(*shape).abs() for shape in arguments]
    if name == "target":
        tensors[1] = tensors[1].long()
    place.of_others, place.numbers = 0, {arguments[-1]: 1}
    with pytest.raises(
        ValueError, match=f"{name}: got a tensor on cpu, expected one on GPU 0, where the input lies"
    ):
        function(*tensors)
    assert not kernels.launches


@pytest.mark.parametrize("name", ON_GPU)
def test_operators_take_cuda_tensors(name):
    """So that torch.compile and transforms of torch.func find them."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"samestep::{name}", "CUDA")


def test_the_input_in_main_memory_and_a_weight_on_a_gpu():
    with FakeTensorMode():
        x, weight = torch.empty(4, 3), torch.empty(2, 3, device="cuda")
        with pytest.raises(
            ValueError, match=r"weight: got .* on cuda:0, expected one on the CPU, where the input"
        ):
            F.linear(x, weight)


@pytest.mark.parametrize(
    ("function", "shapes", "name"),
    [
        (F.linear, ((4, 3), (2, 3)), "weight"),
        (F.batch_norm, ((4, 3), (3,), (3,)), "running_mean"),
        (F.cross_entropy, ((4, 3), (4,)), "target"),
    ],
)
def test_the_input_in_main_memory_and_a_tensor_without_memory(function, shapes, name):
    input, second, *others = (numbers(*shape) for shape in shapes)
    with pytest.raises(
        ValueError, match=f"{name}: got a tensor on meta, expected one on the CPU, where the input"
    ):
        function(input, second.to("meta"), *others)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_autocast_is_that_of_the_place(kernels, place, monkeypatch, kind, half):
    """torch without CUDA switches no autocast of "cuda" on, so that its answers stand in for that."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda of: of == kind)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda of: half if of == kind else torch.float64)
    logits = numbers(4, 3).to(half).requires_grad_()
    for number in (None, 0):
        place.of_others = number
        is_on = (number is None) == (kind == "cpu")
        assert F.linear(numbers(4, 3), numbers(2, 3)).dtype == (half if is_on else torch.float32)
        loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
        assert loss.dtype == (torch.float32 if is_on else half)


CALLS = {
    "batch_norm_training": lambda x, c: (x, c, c, 1e-5, False),
    "batch_norm_training_backward": lambda x, c: (x, x, c, c, c, c, 1e-5, True),
    "batch_norm_inference": lambda x, c: (x, c, c, c, c.abs(), 1e-5, True),
    "batch_norm_inference_backward": lambda x, c: (x, x, c, c, c, c.abs(), 1e-5, True),
    "running_statistics": lambda x, c: (c, c, c.double(), c.double(), 4, 0.1, None),
    "linear": lambda x, c: (x, x, None, True),
    "column_sums": lambda x, c: (x,),
}


@pytest.mark.parametrize("name", CALLS)
def test_operators_called_by_themselves(kernels, place, name):
    """As programs of TorchScript and torch.export call them."""
    operator = getattr(torch.ops.samestep, name)

    def compute():
        found = operator(*CALLS[name](numbers(4, 3, seed=1), numbers(3, seed=2)))
        return {str(i): t for i, t in enumerate([found] if torch.is_tensor(found) else found)}

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("batch_norm")])
def test_operators_refuse_a_tensor_of_another_device(kernels, place, name):
    place.of_others, place.numbers = 0, {(3,): None}
    with pytest.raises(ValueError, match=r"got a tensor on cpu, expected one on GPU 0, where the input lies"):
        getattr(torch.ops.samestep, name)(*CALLS[name](numbers(4, 3), numbers(3)))
    assert not kernels.launches


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("name", ["batch_norm_training_backward", "batch_norm_inference_backward"])
def test_operators_refuse_other_shapes_and_types(kernels, place, name, on_gpu):
    place.of_others = 0 if on_gpu else None
    operator, x, c = getattr(torch.ops.samestep, name), numbers(4, 3), numbers(3)
    statistic = "inv" if "training" in name else "running_var"
    for arguments, error, message in (
        (
            (numbers(2, 3), x, c, c, c, c),
            ValueError,
            r"grad: got shape \(2, 3\), expected the input's, \(4, 3\)",
        ),
        ((x, x, numbers(1), c, c, c), ValueError, r"weight: got shape \(1,\), expected \(3,\)"),
        (
            (x, x, c.double(), c, c, c),
            TypeError,
            "weight: got torch.float64, expected the input's torch.float32",
        ),
        ((x, x, c, c, c, numbers(2)), ValueError, rf"{statistic}: got shape \(2,\), expected \(3,\)"),
    ):
        with pytest.raises(error, match=message):
            operator(*arguments, 1e-5, True)
    assert not kernels.launches


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (0, 1), (4, 3, 0)], ids=str)
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_of_an_empty_batch_are_zero(kernels, place, shape, relu, on_gpu):
    place.of_others = 0 if on_gpu else None
    c = numbers(shape[1])
    operator = torch.ops.samestep.batch_norm_inference_backward
    for _ in range(3):  # new memory is not always filled with zeros
        dx, *others = operator(numbers(*shape), numbers(*shape), c, c, c, c.abs(), 1e-5, relu)
        assert dx.shape == shape
        assert all(torch.equal(t, torch.zeros(shape[1])) for t in others)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("way", ["script", "trace"])
def test_scripted_and_traced_layers(kernels, place, way):
    def compute():
        layer = F.BatchNorm1d(3, relu=True)
        x = leaf(4, 3, dtype=torch.float32, seed=1)
        program = (
            torch.jit.script(layer) if way == "script" else torch.jit.trace(layer, numbers(4, 3, seed=5))
        )
        return {**backward(program(x), x=x, weight=layer.weight), **layer.state_dict()}

    on_cpu, on_gpu = in_both(kernels, place, compute)
    assert on_gpu == on_cpu


def test_the_capture_of_a_graph_is_refused(kernels, place):
    place.of_others, place.is_capturing = 0, True
    # Counts and classes with which the call would raise another error, if it looked at them: that is a wait.
    count, averaged = torch.tensor(-1), F.BatchNorm1d(3, momentum=None)
    averaged.num_batches_tracked.copy_(count)
    statistics = [*numbers(2, 3), *numbers(2, 3).double()]
    for call in (
        lambda: F.BatchNorm1d(3)(numbers(4, 3)),
        lambda: F.linear(numbers(4, 3), numbers(2, 3)),
        lambda: averaged(numbers(4, 3)),
        lambda: torch.ops.samestep.running_statistics(*statistics, 4, None, count),
        lambda: F.conv2d(numbers(1, 4, 3, 3), numbers(2, 4, 2, 2)),
        lambda: F.cross_entropy(numbers(4, 3), torch.full((4,), 9)),
    ):
        with pytest.raises(RuntimeError, match="a CUDA graph is being captured"):
            call()
    assert not kernels.launches
    if hasattr(torch.Tag, "cudagraph_unsafe"):
        for operator in (torch.ops.samestep.linear, torch.ops.samestep.conv2d):
            assert torch.Tag.cudagraph_unsafe in operator.default.tags


def test_a_tensor_at_an_odd_address(kernels, place):
    place.of_others = 0
    x = torch.frombuffer(bytearray(25), dtype=torch.float32, count=6, offset=1).reshape(2, 3)
    assert x.data_ptr() % 4
    with pytest.raises(ValueError, match=r"input: lies at 0x.*, expected a multiple of 4 bytes"):
        F.linear(x, numbers(2, 3))
    assert not kernels.launches
