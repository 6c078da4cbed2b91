"""samestep.torch on a real GPU: tensors of torch's own allocator, on its streams. bench/gpu.sh runs these;
without a GPU they are skipped.
"""

import contextlib
import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.nn import Parameter

import samestep.torch
from samestep.backends import gpu
from samestep.torch.optimizers import OPTIMIZERS
from torch_trainings import bits, parameters, params_of, run, set_gradients, train_network

WHY_NOT = gpu.why_not() or ("" if torch.cuda.is_available() else "this torch has no CUDA")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no GPU: {WHY_NOT.partition(';')[0]}"),
]


def trained(optimizer, steps, first=0):
    run(optimizer, steps, first)
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_the_bits_of_the_cpu(cls, dtype):
    found = [bits(trained(cls(parameters(dtype, device=device), lr=0.1), 5)) for device in ("cpu", "cuda")]
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_torchs_own_configurations_for_a_gpu(cls, dtype):
    pytest.importorskip("expecttest", reason="torch's case database needs expecttest")
    from torch.testing._internal.common_optimizers import optim_db

    infos = [info for info in optim_db if info.optim_cls.__name__ == cls.__name__]
    assert infos
    for case in infos[0].optim_inputs_func(device="cuda", dtype=dtype):
        if case.kwargs.get("capturable"):
            with pytest.raises(NotImplementedError, match="capturable"):
                cls(parameters(dtype, device="cuda"), **case.kwargs)
            continue
        found = []
        for device in ("cpu", "cuda"):
            options = {
                name: value.clone() if torch.is_tensor(value) else value
                for name, value in case.kwargs.items()
            }
            found.append(bits(trained(cls(parameters(dtype, device=device), **options), 5)))
        assert found[0] == found[1], case.desc


def test_on_a_stream_of_its_own_after_work_that_takes_long():
    expected = bits(trained(samestep.torch.Adam(parameters(), lr=0.1), 3))
    optimizer = samestep.torch.Adam(parameters(device="cuda"), lr=0.1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy
        run(optimizer, 3)
    torch.cuda.current_stream().wait_stream(side)
    assert bits(optimizer) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_run_moves_between_cpu_and_gpu(dtype):
    expected = bits(trained(samestep.torch.Adam(parameters(dtype), lr=0.1), 6))
    optimizer = samestep.torch.Adam(parameters(dtype), lr=0.1)
    for leg, device in enumerate(("cpu", "cuda", "cpu")):
        moved = [Parameter(p.detach().to(device)) for p in params_of(optimizer)]
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = samestep.torch.Adam(moved, lr=0.1)
        optimizer.load_state_dict(saved)
        run(optimizer, 2, first=2 * leg)
        assert {s.device.type for p in moved for n, s in optimizer.state[p].items() if n != "step"} == {
            device
        }
    assert bits(optimizer) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("beside", [False, True], ids=["default stream", "side stream"])
def test_a_network_of_the_layers_has_the_bits_of_the_cpu(dtype, beside):
    if dtype is torch.bfloat16:
        pytest.importorskip("ml_dtypes", reason="bfloat16 on a GPU needs ml_dtypes, which is not installed")
        if int(gpu.device.get_cupy().__version__.split(".")[0]) < 14:
            pytest.skip("bfloat16 needs CuPy 14 or later")
    assert trained_network("cpu", dtype) == on_stream(beside, lambda: trained_network("cuda", dtype))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_gives_the_types_of_torch_and_the_bits_of_the_cpu(half):
    x, weight, target = torch.randn(30, 60), torch.randn(4, 60), torch.arange(30) % 4
    found = {}
    for device in ("cpu", "cuda"):
        there = x.to(device), weight.to(device)
        with torch.autocast(device, half):
            y, by_torch = samestep.torch.linear(*there), torch.nn.functional.linear(*there)
            loss = samestep.torch.cross_entropy(y, target.to(device))
            assert y.dtype == by_torch.dtype == half
            assert loss.dtype == torch.nn.functional.cross_entropy(by_torch, target.to(device)).dtype
        found[device] = y.tolist(), loss.item()
    assert found["cuda"] == found["cpu"]


def on_stream(beside, compute):
    """On torch's default stream, or on another one after work that takes long."""
    if not beside:
        return compute()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy
        found = compute()
    torch.cuda.current_stream().wait_stream(side)
    return found


def trained_network(device, dtype):
    """Losses, results, gradients and state after some steps."""
    torch.manual_seed(3)  # of the CPU, which makes the numbers
    net = torch.nn.Sequential(
        torch.nn.Unflatten(1, (3, 4, 5)),
        samestep.torch.Conv2d(3, 70, 3, padding=1),
        samestep.torch.BatchNorm2d(70, relu=True),
        samestep.torch.Conv2d(70, 30, (3, 2), groups=2, stride=(1, 2), relu=True),
        torch.nn.Flatten(),
        samestep.torch.Linear(120, 160),
        samestep.torch.BatchNorm1d(160, relu=True),
        samestep.torch.Linear(160, 80, relu=True),
        samestep.torch.Linear(80, 4),
    ).to(device, dtype)
    x, target = torch.randn(200, 60, dtype=dtype).to(device), torch.arange(200, device=device) % 4
    losses = train_network(net, x, target, steps=5)
    net.eval()(x).sum().backward()
    tensors = losses, net(x), *(p.grad for p in net.parameters()), *net.state_dict().values()
    return [t.tolist() for t in tensors]


def trained_in_leaves(way, device):
    """Losses, parameters and buffers."""
    torch.manual_seed(4)  # of the CPU, which makes the numbers
    net = torch.nn.Sequential(
        samestep.torch.Linear(60, 160),
        samestep.torch.BatchNorm1d(160, relu=True),
        samestep.torch.Linear(160, 4),
    ).to(device)
    x, target, losses = torch.randn(5, 20, 60).to(device), torch.arange(20, device=device) % 4, []
    if way == "ddp":
        optimizer = samestep.torch.Adam(net.parameters(), lr=0.05)
        sync, step = samestep.torch.parallel.ddp(net, optimizer, leaves=5), optimizer.step
    else:
        sync = samestep.torch.parallel.Sharded(lambda part: samestep.Adam(part, lr=0.05), net, leaves=5)
        step = sync.step
    for _ in range(3):
        for leaf in sync.leaves:
            with sync.leaf(leaf, weight=1.0 + leaf):
                losses.append(samestep.torch.CrossEntropyLoss()(net(x[leaf]), target))
                losses[-1].backward()
        step()
    return [t.tolist() for t in (torch.stack(losses), *net.state_dict().values())]


@pytest.mark.parametrize("way", ["ddp", "Sharded"])
@pytest.mark.parametrize("on_own_stream", [False, True])
def test_leaves_of_a_model(way, on_own_stream):
    with torch.cuda.stream(torch.cuda.Stream()) if on_own_stream else contextlib.nullcontext():
        assert trained_in_leaves(way, "cuda") == trained_in_leaves(way, "cpu")


def test_layers_under_vmap_and_compile():
    x, weight = torch.randn(3, 8, 6), torch.randn(5, 6)
    expected = samestep.torch.linear(x, weight, relu=True)
    there = x.cuda(), weight.cuda()
    mapped = torch.func.vmap(lambda one: samestep.torch.linear(one, there[1], relu=True))(there[0])
    compiled = torch.compile(lambda x, w: samestep.torch.linear(x, w, relu=True), backend="aot_eager")(*there)
    assert torch.equal(mapped.cpu(), expected)
    assert torch.equal(compiled.cpu(), expected)


def test_gradients_freed_after_the_step_are_not_kept():
    p = Parameter(torch.zeros(1 << 24, device="cuda"))
    optimizer = samestep.torch.SGD([p], lr=0.1)
    held = []
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.zero_grad()
        held.append(torch.cuda.memory_allocated())
    assert len(set(held)) == 1
    assert held[0] < 1.5 * p.numel() * 4


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
def test_clip_grad_norm(norm_type):
    found = []
    for device in ("cpu", "cuda"):
        optimizer = samestep.torch.SGD(parameters(device=device), lr=0.1)
        run(optimizer, 1)
        params = params_of(optimizer)
        norm = samestep.torch.clip_grad_norm_(params, 1.5, norm_type)
        assert norm.device.type == device
        found.append((float(norm), [None if p.grad is None else p.grad.tolist() for p in params]))
    assert found[0] == found[1]


@pytest.mark.parametrize("unscales", [True, False])
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
def test_grad_scaler(name, unscales):
    """With ``fused=True`` the GPU leaves out a step, for which torch does not wait: the bits of the CPU."""
    found = []
    for device, fused in (("cpu", False), ("cuda", False), ("cuda", True)):
        params = parameters(device=device)
        optimizer = getattr(samestep.torch, name)(params, lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler(device, init_scale=1000.0, growth_interval=2)
        scaler.scale(torch.zeros((), device=device))
        for t in range(10):
            set_gradients(params, t, skip=(5,) if t else (0, 5))
            for p in params:
                if p.grad is not None:
                    p.grad.mul_(scaler.get_scale())
            if t in (0, 4, 5, 9):
                params[1].grad[77] = float("nan")
            torch.cuda.synchronize()
            must_not_wait = fused and t > 2  # by then all parameters have their state
            torch.cuda.set_sync_debug_mode("error" if must_not_wait else "default")
            try:
                if unscales:
                    scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        grads = [None if p.grad is None else repr(p.grad.tolist()) for p in params]
        found.append((scaler.state_dict(), grads, bits(optimizer)))
    assert found[0] == found[1] == found[2]


def test_a_graph_that_is_captured_is_refused():
    optimizer = trained(samestep.torch.SGD(parameters(device="cuda"), lr=0.1), 1)
    torch.cuda.synchronize()
    with (
        pytest.raises(RuntimeError, match="a CUDA graph is being captured"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        optimizer.step()
