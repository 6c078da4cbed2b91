"""The optimizers' state: copied by loading, shared between processes, freed, and changed through torch."""

from __future__ import annotations

import gc

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch import multiprocessing
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter

import samestep.torch

KINDS = {
    "SGD": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "Adagrad": ("Adagrad", {"lr": 0.1}),
    "RMSprop": ("RMSprop", {"lr": 0.1, "centered": True, "momentum": 0.5}),
    "Adam": ("Adam", {"lr": 0.1}),
    "AdamW": ("AdamW", {"lr": 0.1, "amsgrad": True}),
}
by_kind = pytest.mark.parametrize("kind", KINDS)


def numbers(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def optimizer_of(library, kind, params):
    cls, hyper = KINDS[kind]
    return getattr(library, cls)(params, **hyper)


def step(optimizer, seed):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = numbers(seed, *p.shape, dtype=p.dtype)
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@by_kind
def test_loading_copies(kind, dtype):
    """Whoever is stepped then, neither the other optimizer nor the state dict follows."""
    p, q = (Parameter(numbers(0, 5, dtype=dtype)) for _ in range(2))
    a, b = (optimizer_of(samestep.torch, kind, [w]) for w in (p, q))
    step(a, 1)
    saved = a.state_dict()
    b.load_state_dict(saved)
    for stepped, other, w in ((a, b, q), (b, a, p)):
        before = {name: values.clone() for name, values in other.state[w].items()}
        step(stepped, 2)
        assert all(values.equal(before[name]) for name, values in other.state[w].items())
    assert a.state[p].keys() == b.state[q].keys()
    memory = [{t.data_ptr() for t in o.state[w].values()} for o, w in ((a, p), (b, q))]
    assert memory[0].isdisjoint(memory[1])


def test_what_is_no_tensor_is_copied_as_well():
    """Also state of no parameter, which torch keeps as it is."""
    p = Parameter(torch.zeros(2))
    optimizer = samestep.torch.Adam([p])
    step(optimizer, 0)
    saved = optimizer.state_dict()
    saved["state"][0]["history"] = [torch.ones(2)]
    saved["state"]["run"] = {"losses": torch.ones(3)}
    optimizer.load_state_dict(saved)
    optimizer.state[p]["history"][0].zero_()
    optimizer.state["run"]["losses"].zero_()
    assert saved["state"][0]["history"][0].tolist() == [1.0, 1.0]
    assert saved["state"]["run"]["losses"].tolist() == [1.0, 1.0, 1.0]


def in_children(optimizer, seeds):
    """A step in a process of its own for each seed, one after the other."""
    for seed in seeds:
        child = multiprocessing.get_context("fork").Process(target=step, args=(optimizer, seed))
        child.start()
        child.join()
        assert child.exitcode == 0


def share_state(optimizer):
    for state in optimizer.state.values():
        for values in state.values():
            values.share_memory_()


@by_kind
def test_steps_of_other_processes_count(kind):
    """Parent and children step one after the other: as one process of samestep's does it, bit for bit."""
    ends = []
    for library, is_shared in ((torch.optim, True), (samestep.torch, True), (samestep.torch, False)):
        p = Parameter(numbers(0, 6)).share_memory_()
        optimizer = optimizer_of(library, kind, [p])
        step(optimizer, 1)
        share_state(optimizer)
        if is_shared:
            in_children(optimizer, (2, 3))
            step(optimizer, 4)
            in_children(optimizer, (5,))
            assert all(values.is_shared() for values in optimizer.state[p].values())
        else:
            for seed in (2, 3, 4, 5):
                step(optimizer, seed)
        ends.append((p.detach(), float(optimizer.state.get(p, {}).get("step", 5)), optimizer.state_dict()))
    theirs, ours, alone = ends
    assert theirs[1] == ours[1] == alone[1] == 5
    assert ours[0].equal(alone[0])
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-5, atol=2e-6)
    for name, values in (alone[2]["state"] or {0: {}})[0].items():
        assert values.equal(ours[2]["state"][0][name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64], ids=str)
def test_a_step_count_that_is_shared_before_the_first_step(dtype):
    """As the SharedAdam of many A3C programs makes it."""
    p = Parameter(numbers(0, 6)).share_memory_()
    optimizer = samestep.torch.Adam([p], lr=0.1)
    count = torch.zeros(1, dtype=dtype)
    optimizer.state[p] = {
        "step": count,
        "exp_avg": torch.zeros_like(p.data),
        "exp_avg_sq": torch.zeros_like(p.data),
    }
    share_state(optimizer)
    in_children(optimizer, (1, 2))
    step(optimizer, 3)
    assert count.item() == 3
    assert optimizer.state[p]["step"] is count
    alone = samestep.torch.Adam([Parameter(numbers(0, 6))], lr=0.1)
    for seed in (1, 2, 3):
        step(alone, seed)
    assert p.equal(alone.param_groups[0]["params"][0])


@by_kind
def test_the_step_count_is_one_number(kind):
    """In the state, in a state dict kept in memory as torch keeps it, and after it was written to."""
    ends = []
    for library in (torch.optim, samestep.torch):
        p = Parameter(numbers(0, 6))
        optimizer = optimizer_of(library, kind, [p])
        step(optimizer, 1)
        saved, counts = optimizer.state_dict()["state"].get(0, {}), []
        for seed in (2, 3):
            step(optimizer, seed)
            counts.append([float(s["step"]) for s in (saved, optimizer.state.get(p, {})) if "step" in s])
        if "step" in saved:
            saved["step"].fill_(7)
        step(optimizer, 4)
        counts.append([float(s["step"]) for s in (saved, optimizer.state.get(p, {})) if "step" in s])
        ends.append((counts, p.detach()))
    assert ends[0][0] == ends[1][0]
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=2e-5, atol=2e-6)


def test_one_tensor_as_step_count_of_two_parameters_counts_each():
    params = [Parameter(numbers(i, 3)) for i in range(2)]
    optimizer = samestep.torch.Adam(params)
    step(optimizer, 0)
    optimizer.state[params[1]]["step"] = optimizer.state[params[0]]["step"]
    for seed in (1, 2):
        step(optimizer, seed)
    assert [float(optimizer.state[p]["step"]) for p in params] == [3.0, 3.0]


def test_a_step_count_that_is_no_number_is_refused():
    p = Parameter(numbers(0, 3))
    optimizer = samestep.torch.Adam([p])
    step(optimizer, 0)
    before = p.detach().clone()
    for number in (float("nan"), float("inf"), 2.0**54):
        optimizer.state[p]["step"].fill_(number)
        with pytest.raises(ValueError, match=r"state\['step'\]: got"):
            step(optimizer, 1)
        assert p.equal(before)


def free_state(optimizer, p):
    optimizer.state.clear()


def free_one_state(optimizer, p):
    del optimizer.state[p]


def free_parameter(optimizer, p):
    p.data = torch.empty(0)


def replace_state(optimizer, p):
    optimizer.state[p] = {name: values.clone() for name, values in optimizer.state[p].items()}


def free_all(optimizer, p):
    optimizer.state.clear()
    optimizer.param_groups.clear()


FREED = {
    free_state: {"state"},
    free_one_state: {"state"},
    replace_state: {"state"},
    free_parameter: {"parameter"},
    free_all: {"state", "parameter"},
}


@pytest.mark.parametrize("shape", ["whole", "with gaps"])
@pytest.mark.parametrize("free", FREED)
@by_kind
def test_memory_is_given_back(kind, free, shape):
    """At once, without another step; and the optimizer goes on where it still can."""
    p = Parameter(numbers(0, 6, 4) if shape == "whole" else numbers(0, 6, 8)[:, ::2])
    optimizer = optimizer_of(samestep.torch, kind, [p])
    for seed in (1, 2):
        step(optimizer, seed)
    states = [StorageWeakRef(t.untyped_storage()) for t in optimizer.state.get(p, {}).values()]
    parameter = StorageWeakRef(p.untyped_storage())
    if states or free not in (free_one_state, replace_state):
        free(optimizer, p)
    if free is free_all:
        del p
    gc.collect()
    assert all(storage.expired() == ("state" in FREED[free]) for storage in states)
    assert parameter.expired() == ("parameter" in FREED[free])
    if free in (free_state, free_one_state, replace_state):
        step(optimizer, 3)


MODES = {"SGD": ("differentiable",), "momentum": ("differentiable",)}


@by_kind
def test_a_checkpoint_of_a_mode_that_a_step_refuses_is_loaded(kind):
    """With torch's own state of that mode; the numbers are those of a checkpoint without it."""
    for mode in MODES.get(kind, ("capturable", "differentiable")):
        ends = []
        for is_on in (False, True):
            if kind == "Adagrad" and mode == "capturable":
                continue  # torch's has no such argument
            p = Parameter(numbers(0, 6))
            theirs = optimizer_of(torch.optim, kind, [p])
            step(theirs, 1)
            theirs.param_groups[0][mode] = is_on
            q = Parameter(p.detach().clone())
            ours = optimizer_of(samestep.torch, kind, [q])
            ours.load_state_dict(theirs.state_dict())
            assert ours.param_groups[0][mode] is False
            step(ours, 2)
            ends.append(q)
            assert theirs.param_groups[0][mode] is is_on
        assert ends == [] or ends[0].equal(ends[1])


class Marked(torch.Tensor):
    pass


class MarkedParameter(Parameter):
    pass


SUBCLASSES = {
    "tensor": lambda w: Parameter(w.as_subclass(Marked)),
    "tensor, no parameter": lambda w: w.as_subclass(Marked).requires_grad_(),
    "parameter": MarkedParameter,
    "with gaps": lambda w: Parameter(torch.stack([w, w], -1)[..., 0].as_subclass(Marked)),
}


@pytest.mark.parametrize("gradient", [torch.Tensor, Marked])
@pytest.mark.parametrize("subclass", SUBCLASSES)
@by_kind
def test_subclasses_that_change_no_operation_are_stepped(kind, subclass, gradient):
    """With the bits of plain tensors; parameter and state stay what they are, as with torch."""
    ends, types = [], []
    for library, make in (
        (samestep.torch, Parameter),
        (samestep.torch, SUBCLASSES[subclass]),
        (torch.optim, SUBCLASSES[subclass]),
    ):
        p = make(numbers(0, 6))
        optimizer = optimizer_of(library, kind, [p])
        for seed in (1, 2, 3):
            p.grad = numbers(seed, 6).as_subclass(gradient)
            optimizer.step()
        ends.append(p.detach().as_subclass(torch.Tensor))
        types.append(
            [type(p), *(type(v) for k, v in sorted(optimizer.state.get(p, {}).items()) if k != "step")]
        )
    plain, ours, theirs = (torch.Tensor.as_subclass(end, torch.Tensor) for end in ends)
    assert torch.equal(plain, ours)
    torch.testing.assert_close(ours.tolist(), theirs.tolist(), rtol=2e-5, atol=2e-6)
    if gradient is torch.Tensor and kind != "momentum":  # torch's buffer is of the gradient's type
        assert types[1] == types[2]
