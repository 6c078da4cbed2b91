"""samestep.torch on NVIDIA GPUs, by CuPy's stand-in on the host: tensors of main memory are taken for those
of a GPU, and must end with the bits of the CPU's own step.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib.util
import io
import json
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")
pytest.importorskip("expecttest", reason="torch's case database needs expecttest")

from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter
from torch.testing._internal.common_optimizers import optim_db

import host_cupy
import samestep.torch
from samestep.torch import gpu as of_torch
from samestep.torch import memory
from samestep.torch.optimizers import OPTIMIZERS
from torch_place import STREAM
from torch_trainings import SHAPES, bits, parameters, params_of, run, set_gradients

CONFIGURATIONS = [
    pytest.param(cls, dict(case.kwargs), id=f"{cls.__name__} {case.desc}")
    for info in optim_db
    for cls in OPTIMIZERS
    if cls.__name__ == info.optim_cls.__name__
    for case in info.optim_inputs_func(device="cpu", dtype=torch.float32)
]
WARM = 4  # steps after which all that is ever stepped has been bound
# What has these shapes lies there, in the tests of several devices.
OTHER_GPU, MAIN_MEMORY = (2, 3, 4, 5), (1500,)


def twice(place, make, train):
    """The bits that training leaves on the CPU, and on the GPU."""
    found = []
    for number in (None, 0):
        place.of_others = number
        optimizer = make()
        train(optimizer)
        found.append(bits(optimizer))
    return found


@pytest.mark.parametrize(("cls", "options"), CONFIGURATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_configuration_has_the_bits_of_the_cpu(kernels, place, cls, options, dtype):
    on_cpu, on_gpu = twice(place, lambda: cls(parameters(dtype), **options), lambda o: run(o, 5))
    assert kernels.launches
    assert len(on_cpu) > len(SHAPES) - 1
    assert on_gpu == on_cpu


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_16_bits_and_complex_numbers(kernels, place, cls, dtype):
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    on_cpu, on_gpu = twice(place, lambda: cls(parameters(dtype), lr=0.1), lambda o: run(o, 4))
    assert kernels.launches
    assert on_gpu == on_cpu


def test_parameters_with_gaps_and_gradients_in_another_order(kernels, place):
    def make():
        whole = torch.arange(60.0).reshape(6, 10)
        return samestep.torch.Adam([Parameter(whole[:, ::2]), Parameter(whole[1:3, 1::2].t())], lr=0.5)

    def train(optimizer):
        (group,) = optimizer.param_groups
        for t in range(3):
            for p in group["params"]:
                backward = torch.arange(float(p.numel())).sin().mul(t + 1).reshape(p.shape[::-1]).t()
                p.grad = backward
            optimizer.step()

    on_cpu, on_gpu = twice(place, make, train)
    assert kernels.launches
    assert on_gpu == on_cpu


def two_groups(**options):
    first, second = parameters()[:3], parameters()[3:]
    return samestep.torch.AdamW(
        [{"params": first}, {"params": second, "lr": 0.25, "betas": (0.5, 0.75), "weight_decay": 0.5}],
        lr=0.5,
        **options,
    )


def test_groups_are_stepped_by_one_launch_a_list(kernels, place):
    place.of_others = 0
    optimizer = two_groups()
    run(optimizer, 1)
    before = len(kernels.launches)
    optimizer.step()
    assert [name for name, *_ in kernels.launches[before:]] == [
        "form_updates_adam_outside",
        "step_adam_outside_decoupled_float32",
    ]


def test_the_step_runs_on_torchs_current_stream(kernels, place, monkeypatch):
    streams, made = [], []
    launch, make = host_cupy.HostKernels.launch, host_cupy.ExternalStream.__init__

    def noting(self, *args, **kwargs):
        streams.append(host_cupy.Stream.current)
        return launch(self, *args, **kwargs)

    def making(self, ptr, device_id=-1):
        made.append(ptr)
        make(self, ptr, device_id)

    monkeypatch.setattr(host_cupy.HostKernels, "launch", noting)
    monkeypatch.setattr(host_cupy.ExternalStream, "__init__", making)
    place.of_others = 0
    optimizer = two_groups()
    run(optimizer, WARM)
    assert set(streams) == {STREAM}
    before = optimizer._gpu_steps
    run(optimizer, 1, first=WARM)
    assert optimizer._gpu_steps is before
    place.stream = 5
    run(optimizer, 3, first=WARM + 1)
    assert optimizer._gpu_steps is not before, "CuPy gives tables back to the stream that they were made on"
    assert streams[-1] == 5
    assert made.count(5) == 1
    after = bits(optimizer)
    place.of_others = None
    assert after == bits(trained(two_groups(), WARM + 4))


def trained(optimizer, steps, first=0):
    run(optimizer, steps, first)
    return optimizer


def test_one_list_on_two_gpus_and_the_cpu(kernels, place, monkeypatch):
    expected = bits(trained(two_groups(), 4))
    place.of_others, place.numbers = 0, {OTHER_GPU: 1, MAIN_MEMORY: None}
    found = set()
    launch = host_cupy.HostKernels.launch

    def noting(self, name, *args, **kwargs):
        found.add((name, host_cupy.Device.current))
        return launch(self, name, *args, **kwargs)

    monkeypatch.setattr(host_cupy.HostKernels, "launch", noting)
    optimizer = trained(two_groups(), 4)
    assert bits(optimizer) == expected
    assert [place.gpu_of(p) for p in params_of(optimizer)] == [0, None, 1, 0, 0, 0]
    assert {device for name, device in found if name.startswith("step_")} == {0, 1}


def saved(optimizer):
    """Copies of its state dict and of its parameters."""
    return copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params_of(optimizer)]


def put_back(optimizer, state_dict, values):
    optimizer.load_state_dict(state_dict)
    with torch.no_grad():
        for p, value in zip(params_of(optimizer), values, strict=True):
            p.copy_(value)


@pytest.mark.parametrize("way", ["state_dict", "file", "in place"])
def test_a_run_moves_between_cpu_and_gpu(kernels, place, way):
    """Two steps on the CPU, two on the GPU, two on the CPU."""
    place.of_others = None
    expected = bits(trained(two_groups(), 6))
    optimizer = two_groups()
    for leg, number in enumerate((None, 0, None)):
        place.of_others = number
        if leg and way != "in place":
            state_dict, values = saved(optimizer)
            if way == "file":
                file = io.BytesIO()
                torch.save(state_dict, file)
                state_dict = torch.load(io.BytesIO(file.getvalue()))
            optimizer = two_groups()
            put_back(optimizer, state_dict, values)
        if way == "in place":  # as Module.to does it
            for p in params_of(optimizer):
                p.data = p.data.clone()
        launches = len(kernels.launches)
        run(optimizer, 2, first=2 * leg)
        assert (len(kernels.launches) > launches) == (number is not None)
        assert ("_gpu_steps" in vars(optimizer)) == (number is not None)
    assert bits(optimizer) == expected


def test_no_memory_of_torchs_is_kept(kernels, place):
    place.of_others = 0
    optimizer = samestep.torch.Adam(parameters(), lr=0.1)
    params = run(optimizer, 3)
    old = [StorageWeakRef(p.grad.untyped_storage()) for p in params if p.grad is not None]
    old += [StorageWeakRef(optimizer.state[params[1]]["exp_avg"].untyped_storage())]
    old += [StorageWeakRef(params[1].untyped_storage())]
    optimizer.zero_grad()
    optimizer.state[params[1]]["exp_avg"] = optimizer.state[params[1]]["exp_avg"].clone()
    params[1].data = params[1].data.clone()
    gc.collect()
    assert [storage.expired() for storage in old] == [True] * len(old)
    place.of_others = None
    other = samestep.torch.Adam(parameters(), lr=0.1)
    run(other, 5)
    place.of_others = 0
    run(optimizer, 2, first=3)
    assert bits(optimizer) == bits(other)


def test_a_gradient_that_lies_in_its_parameter_is_copied(kernels, place):
    def train(optimizer):
        (p,) = optimizer.param_groups[0]["params"]
        for _ in range(2):
            p.grad = p.detach()
            optimizer.step()

    on_cpu, on_gpu = twice(place, lambda: samestep.torch.SGD(parameters(shapes=[(40,)]), lr=0.5), train)
    assert kernels.launches
    assert on_gpu == on_cpu


def test_step_counts_and_hyper_parameters_that_somebody_sets(kernels, place):
    def train(optimizer):
        params = run(optimizer, 2)
        optimizer.state[params[1]]["step"] = torch.tensor(40.0)
        optimizer.state[params[2]]["step"] += 7
        optimizer.param_groups[0]["lr"] = 0.125
        run(optimizer, 2, first=2)

    on_cpu, on_gpu = twice(place, lambda: samestep.torch.Adam(parameters(), lr=0.5), train)
    assert on_gpu == on_cpu
    assert on_gpu[1, "step"] == 42.0


def test_parameters_whose_gradients_come_late(kernels, place):
    def train(optimizer):
        params = params_of(optimizer)
        for t in range(len(params)):
            set_gradients(params, t, skip=range(t + 1, len(params)))
            optimizer.step()
        optimizer.add_param_group({"params": parameters(shapes=[(9,)]), "lr": 0.1})
        run(optimizer, 2)

    on_cpu, on_gpu = twice(place, two_groups, train)
    assert on_gpu == on_cpu


def refused(optimizer, error, message):
    before = bits(optimizer)
    with pytest.raises(error, match=message):
        optimizer.step()
    assert bits(optimizer) == before


def test_what_is_refused(kernels, place, monkeypatch):
    place.of_others = 0
    optimizer = samestep.torch.SGD(parameters(shapes=[(3, 4), (7,)]), lr=0.1, momentum=0.5)
    first, second = run(optimizer, WARM)
    second.grad = None
    first.grad = torch.ones(3, 4)
    with monkeypatch.context() as patch:
        elsewhere = first.grad.data_ptr()
        for module in (memory, of_torch):
            patch.setattr(module, "gpu_of", lambda tensor: None if tensor.data_ptr() == elsewhere else 0)
        message = "grad: got a tensor on cpu, expected one on GPU 0, as its parameter"
        refused(optimizer, NotImplementedError, message)
    first.grad = torch.ones(3, 4).to_sparse()
    refused(optimizer, RuntimeError, "does not support sparse gradients")
    first.grad = torch.ones(3, 4)
    for place.stream in (STREAM, STREAM + 1):  # torch captures on a stream of its own
        place.is_capturing = True
        launches, plans = len(kernels.launches), optimizer._gpu_steps
        refused(optimizer, RuntimeError, "a CUDA graph is being captured")
        assert (len(kernels.launches), optimizer._gpu_steps) == (launches, plans)
        fresh = samestep.torch.SGD(parameters(shapes=[(3, 4)]), lr=0.1)
        set_gradients(params_of(fresh), 1)
        with monkeypatch.context() as patch:
            patch.setattr(of_torch, "GpuPlan", None)  # none is made
            refused(fresh, RuntimeError, "a CUDA graph is being captured")
        place.is_capturing = False
    optimizer.param_groups[0]["lr"] = 1e39
    refused(optimizer, RuntimeError, "value cannot be converted to type float without overflow")
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    shared = torch.ones(8)
    both = samestep.torch.SGD([Parameter(shared), Parameter(shared[2:6])], lr=0.1)
    set_gradients(both.param_groups[0]["params"], 1)
    refused(both, RuntimeError, "params: parameters or states of one group share memory")


def test_without_cupy_the_step_says_what_to_install(place):
    if importlib.util.find_spec("cupy"):
        pytest.skip("CuPy is installed")
    place.of_others = 0
    optimizer = samestep.torch.SGD(parameters(), lr=0.1)
    set_gradients(optimizer.param_groups[0]["params"], 1)
    refused(optimizer, ImportError, r"pip install 'samestep\[cuda12\]'")


@pytest.mark.parametrize("cls", [samestep.torch.SGD, samestep.torch.Adam])
@pytest.mark.parametrize("at", range(4))
def test_an_interrupt_between_launches_is_told_by_every_further_step(kernels, place, monkeypatch, cls, at):
    """Two launches for one parameter, two for the other, which lies on another GPU."""
    place.of_others, place.numbers = 0, {OTHER_GPU: 1}
    params = parameters(shapes=[(3, 4), OTHER_GPU])
    optimizer = cls(params, lr=0.1)
    run(optimizer, 2, first=3)
    before = saved(optimizer)
    launch, launched = host_cupy.HostKernels.launch, []

    def interrupted(self, *args, **kwargs):
        if args[0] != "write_words":  # before those that write
            launched.append(args[0])
        if len(launched) == at + 1:
            raise KeyboardInterrupt
        return launch(self, *args, **kwargs)

    set_gradients(params, 9)
    with monkeypatch.context() as patch:
        patch.setattr(host_cupy.HostKernels, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    for use in (
        optimizer.step,
        optimizer.state_dict,
        lambda: copy.deepcopy(optimizer),
        lambda: pickle.dumps(optimizer),
    ):
        with pytest.raises(RuntimeError, match="interrupted between two launches"):
            use()
    put_back(optimizer, *before)
    optimizer.step()
    place.of_others, place.numbers = None, {}
    other = cls(parameters(shapes=[(3, 4), OTHER_GPU]), lr=0.1)
    run(other, 2, first=3)
    set_gradients(other.param_groups[0]["params"], 9)
    other.step()
    assert bits(optimizer) == bits(other)


def test_a_launch_that_fails_before_anything_is_written_leaves_the_optimizer_whole(
    kernels, place, monkeypatch
):
    place.of_others = 0
    optimizer = samestep.torch.Adam(parameters(), lr=0.1)
    run(optimizer, 1)
    with monkeypatch.context() as patch:
        patch.setattr("samestep.backends.gpu.plan.Plan._update_launches", failing)
        refused(optimizer, MemoryError, "no memory for a launch")
    optimizer.step()


def test_what_a_gpu_cannot_launch_leaves_the_cpu_unstepped(kernels, place, monkeypatch):
    place.of_others, place.numbers = 0, {MAIN_MEMORY: None}
    optimizer = samestep.torch.Adam(parameters(), lr=0.1)
    set_gradients(params_of(optimizer), 1)
    with monkeypatch.context() as patch:
        patch.setattr("samestep.backends.gpu.plan.Plan._update_launches", failing)
        refused(optimizer, MemoryError, "no memory for a launch")
    optimizer.step()


def test_a_launch_that_fails_after_the_cpu_has_stepped_is_told(kernels, place, monkeypatch):
    place.of_others, place.numbers = 0, {MAIN_MEMORY: None}
    optimizer = samestep.torch.Adam(parameters(), lr=0.1)
    run(optimizer, WARM)
    with monkeypatch.context() as patch:
        patch.setattr("samestep.backends.gpu.plan.Plan.step", failing)
        with pytest.raises(MemoryError):
            optimizer.step()
    with pytest.raises(RuntimeError, match="interrupted between two launches"):
        optimizer.step()


def test_a_first_step_that_fails_leaves_no_state(kernels, place, monkeypatch):
    def make():
        return samestep.torch.SGD(parameters(), lr=0.1, momentum=0.9, dampening=0.5)

    def train(optimizer):
        if place.of_others is not None:
            set_gradients(optimizer.param_groups[0]["params"], 1)
            with monkeypatch.context() as patch:
                patch.setattr("samestep.backends.gpu.plan.Plan._update_launches", failing)
                refused(optimizer, MemoryError, "no memory for a launch")
            optimizer.load_state_dict(optimizer.state_dict())
        run(optimizer, 2)

    on_cpu, on_gpu = twice(place, make, train)
    assert on_gpu == on_cpu


def failing(*_, **__):
    raise MemoryError("no memory for a launch")


@pytest.mark.parametrize("count", [40, 2.5, torch.tensor(7), torch.tensor(3.0, dtype=torch.float32)], ids=str)
def test_step_counts_of_other_types(kernels, place, count):
    def train(optimizer):
        params = run(optimizer, WARM)
        optimizer.state[params[1]]["step"] = copy.copy(count)
        run(optimizer, 2, first=WARM)

    on_cpu, on_gpu = twice(place, lambda: samestep.torch.Adam(parameters(), lr=0.5), train)
    assert on_gpu == on_cpu


def test_one_tensor_that_counts_for_two_parameters_is_parted(kernels, place):
    def train(optimizer):
        params = run(optimizer, WARM)
        shared = torch.tensor(2.0, dtype=torch.float64)
        optimizer.state[params[1]]["step"] = optimizer.state[params[4]]["step"] = shared
        run(optimizer, 3, first=WARM)

    on_cpu, on_gpu = twice(place, lambda: samestep.torch.Adam(parameters(), lr=0.5), train)
    assert on_gpu == on_cpu


@pytest.mark.parametrize("count", [-1.0, 2.0**60, float("nan")])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_count_that_cannot_be_refuses_the_whole_step(kernels, place, count, on_gpu):
    """Of a parameter on the GPU, and of one in main memory: neither is stepped."""
    if count == -1.0 and not on_gpu:
        pytest.skip("the CPU takes it")
    place.of_others, place.numbers = 0, {MAIN_MEMORY: None}
    optimizer = samestep.torch.Adam(parameters(shapes=[(3, 4), MAIN_MEMORY]), lr=0.1)
    run(optimizer, 2, first=4)
    set_gradients(optimizer.param_groups[0]["params"], 8)
    of_gpu, of_cpu = optimizer.param_groups[0]["params"]
    state = optimizer.state[of_gpu if on_gpu else of_cpu]
    good = state["step"].clone()
    state["step"].fill_(count)
    values = [p.detach().clone() for p in (of_gpu, of_cpu)]
    with pytest.raises(ValueError, match=r"state\['step'\]: got .*, expected a number"):
        optimizer.step()
    assert all(torch.equal(p, value) for p, value in zip((of_gpu, of_cpu), values, strict=True))
    state["step"].copy_(good)
    optimizer.step()


def test_groups_that_share_memory_are_stepped_in_turn(kernels, place):
    def make():
        whole = torch.arange(40.0)
        groups = [{"params": [Parameter(whole)]}, {"params": [Parameter(whole[10:30])], "lr": 0.25}]
        return samestep.torch.SGD(groups, lr=0.5)

    on_cpu, on_gpu = twice(place, make, lambda o: run(o, 3, first=3))
    assert kernels.launches
    assert on_gpu == on_cpu


def test_memory_that_another_thread_replaces_lives_until_the_step_is_over(kernels, place, monkeypatch):
    place.of_others = 0
    optimizer = samestep.torch.Adam(parameters(), lr=0.1)
    params = run(optimizer, WARM)
    alive = []
    compute = of_torch.GpuPlan.launch

    def replacing(self, found, found_inf):
        old = StorageWeakRef(params[1].untyped_storage())
        params[1].data = params[1].data.clone()
        gc.collect()
        alive.append(not old.expired())
        return compute(self, found, found_inf)

    monkeypatch.setattr(of_torch.GpuPlan, "launch", replacing)
    set_gradients(params, 5)
    optimizer.step()
    assert alive == [True]


def test_gradients_of_a_step_that_fails_are_not_kept(kernels, place, monkeypatch):
    place.of_others = 0
    optimizer = samestep.torch.Adam(parameters(), lr=0.1)
    params = run(optimizer, 1)
    old = StorageWeakRef(params[1].grad.untyped_storage())
    with monkeypatch.context() as patch:
        patch.setattr("samestep.backends.gpu.plan.Plan._update_launches", failing)
        with contextlib.suppress(MemoryError):
            optimizer.step()
    optimizer.zero_grad()
    gc.collect()
    assert old.expired()


def test_records_are_those_of_the_cpu(kernels, place, tmp_path):
    lines = []
    for number in (None, 0):
        place.of_others = number
        optimizer = samestep.torch.Adam(parameters(), lr=0.1)
        path = tmp_path / f"{number}.jsonl"
        with optimizer.record(
            path, names={f"p{i}": p for i, p in enumerate(optimizer.param_groups[0]["params"])}
        ):
            run(optimizer, 3)
        lines.append([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    assert len(lines[0]) >= 3
    assert lines[0][1:] == lines[1][1:]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64], ids=str)
@pytest.mark.parametrize(
    "numbers", [{}, {OTHER_GPU: 1, MAIN_MEMORY: None}], ids=["one GPU", "several devices"]
)
def test_clip_grad_norm(kernels, place, monkeypatch, norm_type, dtype, numbers):
    def moved(tensor):
        place.of_others, place.numbers = None, {}
        return tensor

    monkeypatch.setattr(torch.Tensor, "cpu", moved)
    found = []
    for number in (None, 0):
        place.of_others, place.numbers = number, {} if number is None else numbers
        params = parameters(dtype)
        set_gradients(params, 3, skip=())
        norm = samestep.torch.clip_grad_norm_(params, 1.5, norm_type)
        found.append(
            (float(norm), [torch.view_as_real(p.grad) if p.grad.is_complex() else p.grad for p in params])
        )
    (norm, grads), (gpu_norm, gpu_grads) = found
    assert gpu_norm == norm > 1.5
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(grads, gpu_grads, strict=True))
    assert bool(kernels.launches) == (norm_type != float("inf") and not numbers)
