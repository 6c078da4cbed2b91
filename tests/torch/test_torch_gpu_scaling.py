"""GradScaler and samestep.torch on GPUs, by CuPy's stand-in on the host: with ``fused=True`` the device
leaves out a step, without it the host does. Both must end with the same bits, counts and scale.
"""

from __future__ import annotations

import copy
import gc
import json
import pickle
import threading

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

import host_cupy
import samestep.torch
from samestep.torch import scaling
from torch_trainings import bits, parameters, params_of, set_gradients

BAD = {0, 3, 4, 8, 9}  # steps with an infinity or a NaN; 0: the first; 9: the last
STEPS = 10
OTHER_GPU, MAIN_MEMORY = (2, 3, 4, 5), (1500,)  # the shapes of what lies there, in tests of several devices
FUSED = {"SGD": {"momentum": 0.9, "dampening": 0.5}, "Adagrad": {}, "Adam": {"amsgrad": True}, "AdamW": {}}
by_name = pytest.mark.parametrize("name", FUSED)


def made(name="AdamW", fused=True, dtype=torch.float32):
    cls, (first, *rest) = getattr(samestep.torch, name), parameters(dtype)
    groups = [{"params": rest}, {"params": [first], "lr": 0.25, "weight_decay": 0.125}]
    return cls(groups, lr=0.5, fused=fused, **FUSED[name])


def new_scaler():
    """Its scale is no power of two: a multiplication by its inverse rounds."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1000.0, growth_interval=2)
    scaler.scale(torch.zeros(()))
    return scaler


def give_gradients(optimizer, t, scale, bad=BAD):
    """In a bad step, one parameter's is not finite; in each another has none."""
    params = params_of(optimizer)
    set_gradients(params, 100 + t, skip=(t % 3,))
    for p in params:
        if p.grad is not None:
            p.grad.mul_(scale)
    if t in bad:
        params[4].grad[3] = float("inf") if t % 2 else float("nan")


def train(optimizer, scaler, steps=range(STEPS), unscales=lambda t: t % 2 == 0, after=lambda t: None):
    """Scales and gradients after each step."""
    found = []
    for t in steps:
        give_gradients(optimizer, t, scaler.get_scale())
        if unscales(t):
            scaler.unscale_(optimizer)
            samestep.torch.clip_grad_norm_(params_of(optimizer), 3.0)
        scaler.step(optimizer)
        scaler.update()
        grads = [None if p.grad is None else p.grad.flatten().tolist() for p in params_of(optimizer)]
        found.append((scaler.state_dict(), repr(grads)))
        after(t)
    return found


class Reads(TorchDispatchMode):
    """Notes what the host reads of numbers in float32; step counts are in float64."""

    def __init__(self, log):
        super().__init__()
        self._log = log

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.float32:
            self._log.append("read")
        return function(*args, **kwargs or {})


@by_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_bits_of_the_step_that_the_host_leaves_out(kernels, place, name, dtype):
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    found = []
    for number, fused in ((None, False), (None, True), (0, False), (0, True)):
        place.of_others = number
        optimizer = made(name, fused, dtype)
        scaler = new_scaler()
        history = train(optimizer, scaler)
        found.append((history, bits(optimizer)))
        assert optimizer._step_supports_amp_scaling == (number == 0 and fused)
    assert kernels.launches
    assert [one[0] for one in found[1:]] == [found[0][0]] * 3
    assert [one[1] for one in found[1:]] == [found[0][1]] * 3
    assert found[0][0][-1][0]["scale"] < 1000.0


@by_name
@pytest.mark.parametrize("unscales", [True, False])
def test_the_host_waits_for_the_step_before_alone(kernels, place, monkeypatch, name, unscales):
    """For its event, before this step is launched; nothing is read but what that has copied."""
    place.of_others = 0
    optimizer = made(name)
    scaler = new_scaler()
    train(optimizer, scaler, range(STEPS, STEPS + 4))  # all has been bound, and is in the state
    monkeypatch.setattr(host_cupy.ndarray, "get", None)  # nor is an array of CuPy's read
    to = torch.Tensor.to

    def noting(self, *args, **kwargs):
        if args == ("cpu",):
            place.log.append(("copied to the host", kwargs))
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", noting)
    waited_for = list(host_cupy.Device.waited_for)
    for t in (2, 3, 4, 5):
        give_gradients(optimizer, t, scaler.get_scale())
        place.log.clear()
        with Reads(place.log):
            if unscales:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        before = [("waited for", place.events - 1), "read"]
        inverse = [] if unscales else [("copied to", 0)]
        number = [("copied to the host", {"non_blocking": True}), ("noted", place.events), ("copied to", 0)]
        assert place.log == before + inverse + number
    assert host_cupy.Device.waited_for == waited_for


@pytest.mark.parametrize("unscales", [True, False])
def test_several_gpus(kernels, place, unscales):
    """What one GPU has found makes all of them leave out the step."""
    found = []
    for number, numbers in ((None, {}), (0, {OTHER_GPU: 1, (3, 4): 1})):
        place.of_others, place.numbers = number, numbers
        optimizer = made()
        history = train(optimizer, new_scaler(), unscales=lambda t: unscales)
        found.append((history, bits(optimizer)))
    assert ("copied to", 1) in place.log
    assert found[0] == found[1]


@pytest.mark.parametrize("others", [{MAIN_MEMORY: None}, {}], ids=["in main memory", "of FSDP1"])
def test_where_the_host_decides(kernels, place, others):
    """As ever, for parameters in main memory beside those on a GPU, and those whose workers must be asked."""
    found = []
    for number, numbers in ((None, {}), (0, others)):
        place.of_others, place.numbers = number, numbers
        optimizer = made()
        if not others:
            params_of(optimizer)[2]._fsdp_flattened = True
        assert not optimizer._step_supports_amp_scaling
        found.append((train(optimizer, new_scaler()), bits(optimizer)))
    assert kernels.launches
    assert not place.log
    assert found[0] == found[1]


def test_two_optimizers_of_one_scaler(kernels, place):
    """A step that one leaves out the other makes; both back off."""
    found = []
    for fused in (False, True):
        place.of_others = 0
        optimizers = made("Adam", fused), made("SGD", fused)
        scaler = new_scaler()
        for t in range(STEPS):
            for optimizer, bad in zip(optimizers, (BAD, {3, 5}), strict=True):
                give_gradients(optimizer, t, scaler.get_scale(), bad)
                scaler.step(optimizer)
            scaler.update()
        found.append((scaler.state_dict(), *map(bits, optimizers)))
    assert found[0] == found[1]


LOOKS = {
    "state": lambda optimizer: optimizer.state.values(),
    "state_dict": lambda optimizer: optimizer.state_dict()["state"].values(),
    "deepcopy": lambda optimizer: copy.deepcopy(optimizer).state.values(),
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)).state.values(),
}


@pytest.mark.parametrize("look", LOOKS)
def test_counts_are_right_whenever_somebody_looks(kernels, place, look):
    place.of_others = 0
    seen = []
    for fused in (False, True):
        optimizer = made(fused=fused)
        scaler = new_scaler()
        for t in range(STEPS):
            train(optimizer, scaler, [t])
            seen.append([float(state["step"]) for state in LOOKS[look](optimizer)])
    assert seen[:STEPS] == seen[STEPS:]
    assert max(seen[-1]) == STEPS - len(BAD)


def test_a_count_that_was_taken_before_is_right_after_the_next_step(kernels, place):
    place.of_others = 0
    optimizer = made()
    scaler = new_scaler()
    train(optimizer, scaler, (6, 7))
    count = optimizer.state[params_of(optimizer)[4]]["step"]
    assert count == 2
    train(optimizer, scaler, (8, 5))
    assert count == 3
    train(optimizer, scaler, (8,))
    count.fill_(40)  # set by somebody before the step is known to have been left out
    train(optimizer, scaler, (5,))
    assert count == optimizer.state[params_of(optimizer)[4]]["step"] == 41


def test_somebody_sets_a_count_after_a_step_that_was_left_out(kernels, place):
    def set_count(t):
        if t in (4, 5):
            optimizer.state[params_of(optimizer)[4]]["step"] += 7

    found = []
    for fused in (False, True):
        place.of_others = 0
        optimizer = made(fused=fused)
        train(optimizer, new_scaler(), after=set_count)
        found.append(bits(optimizer))
    assert found[0] == found[1]
    assert found[0][4, "step"] == STEPS - len(BAD) + 14


@by_name
@pytest.mark.parametrize("at", [3, 4, 6])
@pytest.mark.parametrize("to", [None, 0])
def test_a_checkpoint_goes_on_where_it_was_saved(kernels, place, name, at, to):
    """After a step that was left out, and after one that was made; on the GPU and in main memory."""
    place.of_others = 0
    optimizer = made(name)
    scaler = new_scaler()
    whole = train(optimizer, scaler), bits(optimizer)
    optimizer = made(name)
    scaler = new_scaler()
    history = train(optimizer, scaler, range(at))
    saved = copy.deepcopy((optimizer.state_dict(), scaler.state_dict()))
    values = [p.detach().clone() for p in params_of(optimizer)]
    place.of_others = to
    optimizer = made(name)
    with torch.no_grad():
        for p, value in zip(params_of(optimizer), values, strict=True):
            p.copy_(value)
    optimizer.load_state_dict(saved[0])
    scaler = new_scaler()
    scaler.load_state_dict(saved[1])
    assert (history + train(optimizer, scaler, range(at, STEPS)), bits(optimizer)) == whole


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_torchs_own_optimizers_load_the_state(kernels, place, name):
    place.of_others = 0
    optimizer = made(name)
    train(optimizer, new_scaler())
    theirs = getattr(torch.optim, name)([{"params": g["params"]} for g in optimizer.param_groups])
    theirs.load_state_dict(optimizer.state_dict())
    for p in params_of(optimizer):
        for key, value in optimizer.state[p].items():
            assert torch.equal(theirs.state[p][key].double(), value.double())


def test_a_first_step_that_is_left_out_leaves_no_state(kernels, place):
    place.of_others = 0
    for name in FUSED:
        optimizer = made(name)
        before = bits(optimizer)
        train(optimizer, new_scaler(), (3, 4))
        assert bits(optimizer) == before
        assert "_open_step" not in vars(optimizer)


def test_what_moves_between_steps(kernels, place):
    """Another stream, a parameter with other memory, a gradient that comes late, gradients elsewhere."""

    def move(t):
        if t == 3:
            place.stream += 1
        p = params_of(optimizer)[1]
        if t == 4:
            p.data = p.data.clone()
        if t == 6:
            optimizer.add_param_group({"params": [Parameter(torch.ones(5))]})

    found = []
    for fused in (False, True):
        place.of_others = 0
        optimizer = made(fused=fused)
        train(optimizer, new_scaler(), after=move)
        found.append(bits(optimizer))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_gradients_that_stay_where_they_are(kernels, place, name):
    """Then the device's tables are written once."""
    found = []
    for number, fused in ((None, False), (0, True)):
        place.of_others = number
        params = parameters(shapes=[(3, 4), (7,)])
        optimizer = getattr(samestep.torch, name)(params, lr=0.5, fused=fused, **FUSED[name])
        scaler = new_scaler()
        set_gradients(params, 0)
        for t in range(STEPS):
            kernels.launches.clear()
            for p in params:
                p.grad.fill_(float("inf") if t in BAD else t)
            scaler.step(optimizer)
            scaler.update()
            assert ("write_words" in [name for name, *_ in kernels.launches]) == (fused and t == 1)
        found.append((bits(optimizer), scaler.state_dict()))
    assert found[0] == found[1]


def test_gradients_that_are_stepped_as_copies_are_divided_once(kernels, place):
    """One in another order, one that lies in its parameter."""
    found = []
    for number, fused in ((None, False), (0, True)):
        place.of_others = number
        params = [Parameter(torch.arange(20.0).reshape(4, 5)), Parameter(torch.arange(1.0, 8.0))]
        optimizer = samestep.torch.Adam(params, lr=0.5, fused=fused)
        scaler = new_scaler()
        for t in range(4):
            params[0].grad = torch.arange(20.0).sin().mul(t + 1000).reshape(5, 4).t()
            params[1].grad = params[1].detach()
            scaler.step(optimizer)
            scaler.update()
        found.append((bits(optimizer), [p.grad.tolist() for p in params]))
    assert found[0] == found[1]


def test_the_record_has_no_line_of_a_step_that_was_left_out(kernels, place, tmp_path):
    lines = []
    for number, fused in ((None, False), (0, True)):
        place.of_others = number
        optimizer = made(fused=fused)
        names = {f"p{i}": p for i, p in enumerate(params_of(optimizer))}
        scaler = new_scaler()
        train(optimizer, scaler, range(5))
        with optimizer.record(tmp_path / f"{number}.jsonl", names=names):
            train(optimizer, scaler, range(5, STEPS))
        text = (tmp_path / f"{number}.jsonl").read_text(encoding="utf-8")
        lines.append([json.loads(line) for line in text.splitlines()])
    assert len(lines[0]) == 1 + 1 + STEPS - 5 - len({8, 9})  # header, start, steps
    assert lines[0][1:] == lines[1][1:]


def refused(optimizer, step, error, message):
    before = bits(optimizer), [p.grad.clone() for p in params_of(optimizer) if p.grad is not None]
    with pytest.raises(error, match=message):
        step()
    assert bits(optimizer) == before[0]
    after = [p.grad for p in params_of(optimizer) if p.grad is not None]
    assert all(map(torch.equal, after, before[1]))
    assert not {"found_inf", "grad_scale", "_is_half_stepped"} & vars(optimizer).keys()


def test_what_is_refused_divides_no_gradient(kernels, place, monkeypatch):
    place.of_others = 0
    optimizer = made()
    scaler = new_scaler()
    train(optimizer, scaler, (5, 6, 7))
    give_gradients(optimizer, 10, scaler.get_scale())
    refused(optimizer, lambda: scaler.step(optimizer, lambda: None), RuntimeError, "closure: got one")
    place.is_capturing = True
    refused(optimizer, lambda: scaler.step(optimizer), RuntimeError, "a CUDA graph is being captured")
    place.is_capturing = False
    optimizer.param_groups[0]["lr"] = 1e39
    refused(optimizer, lambda: scaler.step(optimizer), RuntimeError, "value cannot be converted")
    optimizer.param_groups[0]["lr"] = 0.5
    with monkeypatch.context() as patch:
        patch.setattr(scaling, "gpu_of", lambda tensor: 0 if isinstance(tensor, Parameter) else None)
        refused(optimizer, lambda: scaler.step(optimizer), RuntimeError, "found_inf: got a tensor on cpu")
    scaler.step(optimizer)
    other = made()
    scaler = new_scaler()
    train(other, scaler, (5, 6, 7, 10), unscales=lambda t: t == 6)
    assert bits(optimizer) == bits(other)
    halves = made(dtype=torch.float16)
    set_gradients(params_of(halves), 1)
    refused(halves, lambda: new_scaler().step(halves), ValueError, "unscale FP16 gradients")
    halves.found_inf = torch.zeros(())
    place.numbers = {MAIN_MEMORY: None}
    refused(halves, halves.step, RuntimeError, "found_inf: got one for parameters in main memory")


def test_a_step_that_fails_after_gradients_were_divided_is_told(kernels, place, monkeypatch):
    place.of_others = 0
    optimizer = made()
    scaler = new_scaler()
    train(optimizer, scaler, (5, 6, 7))
    give_gradients(optimizer, 10, scaler.get_scale())

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("samestep.backends.gpu.plan.Plan.step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="interrupted between two launches"):
        scaler.step(optimizer)


def test_no_memory_of_torchs_is_kept(kernels, place):
    place.of_others = 0
    optimizer = made()
    train(optimizer, new_scaler(), range(STEPS))
    old = [StorageWeakRef(p.grad.untyped_storage()) for p in params_of(optimizer) if p.grad is not None]
    optimizer.zero_grad()
    gc.collect()
    assert "_open_step" in vars(optimizer)
    assert all(storage.expired() for storage in old)


def test_a_scaler_without_gradients(kernels, place):
    place.of_others = 0
    optimizer = made()
    before = bits(optimizer)
    new_scaler().step(optimizer)
    assert bits(optimizer) == before


def test_gradients_that_come_after_the_scaler_has_looked(kernels, place):
    place.of_others = 0
    optimizer, scaler = made(), new_scaler()
    params = params_of(optimizer)
    before = [p.detach().clone() for p in params]
    optimizer.register_step_pre_hook(lambda *_: set_gradients(params, 0))
    with pytest.raises(RuntimeError, match=r"found_inf: GradScaler looked before .* by reduce\(\)"):
        scaler.step(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


def test_two_threads_that_ask_settle_a_step_once(kernels, place):
    place.of_others = 0
    optimizer, scaler = made(), new_scaler()
    train(optimizer, scaler, range(5, 9))  # the last one is left out
    open_step, asked, settled = optimizer._open_step, threading.Event(), []

    class Slow:
        def settle(self):
            asked.wait()
            settled.append(1)
            open_step.settle()

    optimizer._open_step = Slow()
    threads = [threading.Thread(target=lambda: optimizer.state) for _ in range(3)]
    for thread in threads:
        thread.start()
    asked.set()
    for thread in threads:
        thread.join()
    assert settled == [1]
    assert {float(s["step"]) for s in optimizer.state.values() if "step" in s} == {2.0, 3.0}


def test_a_wrapper_finds_the_state_of_what_it_wraps():
    """As Lightning's: its class is derived from the optimizer's, whose attributes it does not have."""
    optimizer = made(fused=False)
    give_gradients(optimizer, 1, 1.0)
    optimizer.step()

    class Wrapper(type(optimizer)):
        def __init__(self, wrapped):
            self._wrapped = wrapped

        def __getattr__(self, name):
            return getattr(self._wrapped, name)

    assert Wrapper(optimizer).state is optimizer.state
    assert not hasattr(object.__new__(type(optimizer)), "state")
