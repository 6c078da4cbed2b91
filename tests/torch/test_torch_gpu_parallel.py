"""Leaves of models on GPUs, by CuPy's stand-in on the host: the bits of the CPU for any number of workers."""

from __future__ import annotations

import functools
import gc

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.multiprocessing.reductions import StorageWeakRef

import host_cupy
import samestep as ss
import samestep.torch
from samestep.parallel import run_threads
from samestep.torch.parallel import Sharded, ddp
from simulated import Network
from torch_leaves import fsdp_on_cpu_and_gpu
from torch_place import STREAM
from worker_processes import run_processes

LEAVES, STEPS = 5, 3
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture
def gpu(kernels, place, monkeypatch):
    """All tensors are taken for those of a GPU."""
    monkeypatch.setattr(host_cupy.Stream, "current", host_cupy.Stream.current)  # put back: workers take turns
    monkeypatch.setattr(host_cupy.Stream, "waited_for", [])
    place.of_others = 0
    return place


def network(dtype):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, 3).to(memory_format=torch.channels_last),
        ss.torch.BatchNorm2d(5, relu=True),
        torch.nn.Flatten(),
        ss.torch.Linear(80, 30),
        ss.torch.Linear(30, 3, bias=False),
    )
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.linspace(-1, 1 + i, p.numel()).reshape(p.shape).sin() / 4)
    return model.to(dtype)


def run(sync, model, dtype, step):
    for t in range(STEPS):
        for leaf in sync.leaves:
            x = torch.linspace(-1, 1, 3 * 2 * 36).mul(7.0 + leaf + t).sin().reshape(3, 2, 6, 6)
            with sync.leaf(leaf, weight=float(leaf % 3)):
                model(x.to(dtype)).float().square().mean().backward()
                if leaf == 1:  # a second one is added to the first
                    model(x.flip(0).to(dtype)).float().mean().backward()
        step()
    return [t.contiguous().reshape(-1).view(torch.uint8).tolist() for t in model.state_dict().values()]


def by_ddp(group, dtype, make=ss.torch.Adam):
    model = network(dtype)
    optimizer = make(model.parameters(), lr=0.01)
    sync = ddp(model, optimizer, leaves=LEAVES, group=group)
    return run(sync, model, dtype, optimizer.step)


def by_sharded(group, dtype):
    model = network(dtype)
    make = functools.partial(ss.Adam, lr=0.01, clip_norm=0.5, nonfinite="skip")
    sync = Sharded(make, model, leaves=LEAVES, group=group)
    found = run(sync, model, dtype, sync.step)
    state = sync.sharded.state_dict()["state"]
    return found, {name: [a.tobytes() for a in arrays] for name, arrays in state.items()}


def by(workers, function):
    found = Network(workers).run(function)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


@pytest.mark.parametrize("way", [by_ddp, by_sharded])
def test_kernels_run_on_torchs_current_stream(gpu, kernels, monkeypatch, way):
    streams, launch = set(), kernels.launch

    def noted(*arguments, **more):
        streams.add(host_cupy.Stream.current)
        launch(*arguments, **more)

    monkeypatch.setattr(kernels, "launch", noted)
    by(1, lambda group: way(group, torch.float32))
    assert streams == {STREAM}


@pytest.mark.parametrize("way", [by_ddp, by_sharded])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_bits_are_the_cpus(gpu, kernels, way, dtype):
    if dtype == torch.bfloat16:
        pytest.importorskip(
            "ml_dtypes", reason="ml_dtypes is not installed: pip install 'samestep[bfloat16]'"
        )
    gpu.of_others = None
    (expected,) = run_threads(1, lambda group: way(group, dtype))
    assert not kernels.launches
    gpu.of_others = 0
    for workers in (1, 2, 3):
        kernels.launches.clear()
        assert by(workers, lambda group: way(group, dtype)) == [expected] * workers
        assert {"weigh_leaf", "add_leaves", "average_leaves"} <= {
            name.rsplit("_", 1)[0] for name, *_ in kernels.launches
        }


def test_an_optimizer_of_torchs_own(gpu):
    make = torch.optim.SGD
    gpu.of_others = None
    (expected,) = run_threads(1, lambda group: by_ddp(group, torch.float32, make))
    gpu.of_others = 0
    assert by(2, lambda group: by_ddp(group, torch.float32, make)) == [expected] * 2


def test_a_step_that_is_looked_at_from_another_stream_has_ended(gpu):
    (group,) = ss.parallel.threads(1)
    by_sharded(group, torch.float32)
    assert host_cupy.Stream.waited_for == [STREAM] * (1 + STEPS)  # and when the state was made


def test_gradients_that_torch_keeps_negated(gpu):
    """Each is written out in memory of its own."""

    def train(group):
        model = torch.nn.ParameterList([torch.ones(40, dtype=torch.float64) for _ in range(3)])
        sync = Sharded(functools.partial(ss.SGD, lr=1.0), model, leaves=1, group=group)
        with sync.leaf(0):
            for i, p in enumerate(model):
                p.grad = torch.full((40,), 1.0j + i, dtype=torch.complex128).conj().imag
                assert p.grad.is_neg()
        sync.step()
        return [p.detach().tolist() for p in model]

    assert by(1, train) == [[[2.0] * 40] * 3]


def test_memory_that_the_optimizer_steps_stays_there(gpu):
    model = torch.nn.ParameterList([torch.ones(40)])
    sync = Sharded(functools.partial(ss.SGD, lr=1.0), model, leaves=1)
    storage = StorageWeakRef(model[0].untyped_storage())
    model[0].data = torch.zeros(40)
    gc.collect()
    assert not storage.expired()
    with sync.leaf(0):
        model[0].grad = torch.ones(40)
    with pytest.raises(RuntimeError, match="model: a parameter has been given other memory"):
        sync.step()


def test_a_leaf_in_the_capture_of_a_graph_is_refused(gpu):
    model = torch.nn.ParameterList([torch.ones(40)])
    sync = Sharded(functools.partial(ss.SGD, lr=1.0), model, leaves=1)
    gpu.is_capturing = True
    with pytest.raises(RuntimeError, match="leaf: a CUDA graph is being captured"), sync.leaf(0):
        pass


def test_a_model_lies_in_one_place(gpu):
    model = network(torch.float32)
    gpu.numbers[3, 30] = None  # the last layer's weight
    with pytest.raises(
        NotImplementedError, match=r"model: 4\.weight: got .* expected one on GPU 0, where the first"
    ):
        ddp(model, torch.optim.SGD(model.parameters()), leaves=1)
    gpu.numbers[3, 30] = 1
    with pytest.raises(NotImplementedError, match=r"model: 4\.weight: "):
        Sharded(ss.Adam, model, leaves=1)
    gpu.of_others, gpu.numbers[3, 30] = None, 0
    with pytest.raises(NotImplementedError, match=r"model: 4\.weight: got .* expected one on the CPU"):
        ddp(model, torch.optim.SGD(model.parameters()), leaves=1)


@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)
@pytest.mark.parametrize("leaves", [8, 12])
def test_shards_have_the_bits_of_the_cpu(cuda_on_host, leaves):
    (expected,) = run_processes(1, fsdp_on_cpu_and_gpu, cuda_on_host, leaves)
    on_cpu, on_gpu, _ = expected
    assert on_gpu == on_cpu
    for size in (2, 3):  # of which 3 have other numbers of leaves
        for found in run_processes(size, fsdp_on_cpu_and_gpu, cuda_on_host, leaves):
            assert found[:2] == (on_cpu, on_cpu), found
            assert {"weigh_leaf_float32", "add_leaves_float32", "average_leaves_float32"} <= found[2]
