"""Records of torch's optimizers: by hooks and in the native step alike, what each line says, and when."""

from __future__ import annotations

import copy
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.nn import Parameter

import samestep as ss
import samestep.torch
from samestep._core import AddressedPlan
from samestep.ledger import LedgerError, read_ledger
from samestep.ledger.watch import Watch, arrays_of
from samestep.torch import recording as module

KINDS = {
    "SGD": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "Adagrad": ("Adagrad", {"lr": 0.1}),
    "RMSprop": ("RMSprop", {"lr": 0.1, "momentum": 0.5, "centered": True}),
    "Adam": ("Adam", {"lr": 0.1, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {"lr": 0.1, "amsgrad": True, "maximize": True}),
}


def steps_of(path):
    return [(record.step, record.is_start) for record in read_ledger(path).records]


NOTHING = f"{ss.fingerprint(np.zeros(0, np.float32)):016x}"
MANY = 70_001  # several work items, and a last block that is not full


def numbers(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# Parameters of every layout that there is; each has a gradient laid out in another way.
PARAMETERS = {
    "plain": lambda: numbers(0, 30, 40),
    "long": lambda: numbers(1, MANY),
    "a number": lambda: numbers(2),
    "empty": lambda: numbers(3, 0, 5),
    "float64": lambda: numbers(4, 1025, dtype=torch.float64),
    "float16": lambda: numbers(5, 700).half(),
    "bfloat16": lambda: numbers(6, 3, 700).bfloat16(),
    "transposed": lambda: numbers(7, 30, 40).t(),
    "channels last": lambda: numbers(8, 2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "with gaps": lambda: numbers(9, 40, 2)[:, 0],
    "negated": lambda: torch._neg_view(numbers(10, 300)),
    "complex": lambda: numbers(11, 20, 30, dtype=torch.complex64),
    "complex transposed": lambda: numbers(12, 20, 30, dtype=torch.complex128).t(),
}


def parameters():
    return {name: Parameter(make()) for name, make in PARAMETERS.items()}


def give_gradients(params, t, but=()):
    for i, (name, p) in enumerate(params.items()):
        g = numbers(100 * t + i, *p.shape, dtype=p.dtype)
        p.grad = None if name in but else torch.empty_like(p).copy_(g).detach()


def by_hooks(optimizer, path, **how):
    """A record of samestep's own optimizer through torch's hooks, as of any other."""
    defaults = {"names": None, "every": 1, "state": True, "sync": False, "merkle": False, "append": False}
    made = module.Recording(optimizer, path, **{**defaults, **how})
    made.hook()
    return made


def trained(kind, path, record, steps=3, but=(), **how):
    """The bytes of the record of some steps."""
    params = parameters()
    cls, hyper = KINDS[kind]
    both = list(params.values())
    groups = [{"params": both[::2]}, {"params": both[1::2], "lr": 0.5}]
    optimizer = getattr(samestep.torch, cls)(groups, **hyper)
    with record(optimizer, path, names=params, **how):
        for t in range(steps):
            give_gradients(params, t, but)
            optimizer.step()
    return path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how", [{}, {"every": 2}, {"state": False, "merkle": True}], ids=["all", "every 2", "no state"]
)
def test_the_native_step_and_hooks_write_the_same_file(tmp_path, kind, how):
    native = trained(kind, tmp_path / "native.jsonl", samestep.torch.record, **how)
    hooked = trained(kind, tmp_path / "hooked.jsonl", by_hooks, **how)
    assert native == hooked
    assert len(native.splitlines()) == 2 + 3 // how.get("every", 1)


@pytest.mark.parametrize("record", [samestep.torch.record, by_hooks], ids=["native", "hooks"])
def test_what_changes_between_steps_is_seen(tmp_path, record):
    p, q = Parameter(numbers(0, 30, 40)), Parameter(numbers(1, 50))
    optimizer = samestep.torch.Adam([p, q])
    with record(optimizer, tmp_path / "a", names={"p": p, "q": q}):
        for t in range(5):
            if t == 2:
                p.data = p.data.t().contiguous().t()  # the same values in another order
            p.grad = numbers(10 + t, 30, 40)
            q.grad = numbers(20 + t, 50) if t >= 3 else None
            given = p.grad.clone()
            optimizer.step()
            left = expected_entry(given, p, optimizer.state[p])
            assert read_ledger(tmp_path / "a").records[-1].tensors["p"] == left
    last = expected_entry(q.grad, q, optimizer.state[q])
    found = [record.tensors["q"] for record in read_ledger(tmp_path / "a").records[1:]]
    assert [entry is None for entry in found] == [True, True, True, False, False]
    assert found[-1] == last


def test_native_steps_make_the_fingerprints_of_contiguous_parameters(tmp_path, monkeypatch):
    params = parameters()
    optimizer = samestep.torch.Adam(params.values())
    with optimizer.record(tmp_path / "a.jsonl", names=params):
        give_gradients(params, 0)
        optimizer.step()
        seen = []
        monkeypatch.setattr(module, "fingerprint_of", lambda tensor: seen.append(tensor) or 0)
        optimizer.step()
    shapes = {tuple(p.shape) for name, p in params.items() if not p.is_contiguous()}
    assert {tuple(tensor.shape) for tensor in seen} == shapes
    assert len(seen) == 4 * len(shapes)


def test_only_steps_that_are_recorded_make_sums(tmp_path, monkeypatch):
    made = []

    class Spy:
        @staticmethod
        def step_together(*args):
            made.append(args[-1] is not None)
            return AddressedPlan.step_together(*args)

    monkeypatch.setattr(samestep.torch.optimizer, "AddressedPlan", Spy)
    p = Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = samestep.torch.Adam([p])
    optimizer.step()
    with optimizer.record(tmp_path / "a", every=2):
        for _ in range(5):
            optimizer.step()
    optimizer.step()
    # The first step shows which states there are; then those of steps 4 and 6 are recorded.
    assert made == [False, False, False, True, False, True, False]


def expected_entry(before, p, state):
    arrays = (before, p.detach(), *(state[name] for name in sorted(state) if name != "step"))
    return tuple(f"{ss.fingerprint(a.numpy()):016x}" for a in arrays)


MADE_BY = {
    "for-loop": lambda params: torch.optim.Adam(params, foreach=False),
    "foreach": lambda params: torch.optim.Adam(params, foreach=True),
    "fused": lambda params: torch.optim.Adam(params, fused=True),
    "samestep": samestep.torch.Adam,
}


@pytest.mark.parametrize("how", MADE_BY)
def test_a_line_says_what_the_step_was_given_and_left(tmp_path, how):
    params = [Parameter(numbers(0, 40, 50)), Parameter(numbers(1, 7))]
    optimizer = MADE_BY[how](params)
    path = tmp_path / "a.jsonl"
    expected = []
    with samestep.torch.record(optimizer, path):
        for t in range(3):
            for i, p in enumerate(params):
                p.grad = numbers(10 * t + i, *p.shape)
            given = [p.grad.clone() for p in params]
            optimizer.step()
            expected.append(
                [expected_entry(g, p, optimizer.state[p]) for g, p in zip(given, params, strict=True)]
            )
    found = read_ledger(path)
    library = "samestep.torch" if how == "samestep" else "torch.optim"
    assert found.header.rule == f"{library}.Adam"
    assert found.header.kinds == ("gradient", "parameter", "exp_avg", "exp_avg_sq")
    assert found.header.tensors == {
        "params[0][0]": {"dtype": "float32", "shape": [40, 50], "group": 0},
        "params[0][1]": {"dtype": "float32", "shape": [7], "group": 0},
    }
    assert [r.step for r in found.records] == [0, 1, 2, 3]
    assert [list(r.tensors.values()) for r in found.records[1:]] == expected
    (start,) = {entry[2:] for entry in found.records[0].tensors.values()}
    assert start == (NOTHING, NOTHING)


def test_how_torch_computes_is_not_in_the_file(tmp_path):
    found = []
    for how, make in MADE_BY.items():
        p = Parameter(torch.zeros(3))
        p.grad = torch.zeros(3)
        optimizer = make([p])
        with samestep.torch.record(optimizer, tmp_path / how):
            optimizer.step()
        found.append((tmp_path / how).read_bytes().splitlines()[0])
    assert found[0] == found[1] == found[2] == found[3].replace(b"samestep.torch.Adam", b"torch.optim.Adam")


def test_hyper_parameters_are_those_in_use(tmp_path):
    p, q = Parameter(torch.ones(3)), Parameter(torch.ones(2))
    p.grad, q.grad = torch.ones(3), torch.ones(2)
    for library in (torch.optim, samestep.torch):
        path = tmp_path / f"{library.__name__}.jsonl"
        groups = [{"params": [p]}, {"params": [q], "lr": torch.tensor(0.25), "betas": (0.5, 0.75)}]
        optimizer = library.AdamW(groups, lr=0.5, eps=float("inf"))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        if library is samestep.torch:
            for group in optimizer.param_groups:
                group["eps"] = 1e-8
        with samestep.torch.record(optimizer, path):
            for _ in range(2):
                optimizer.step()
                scheduler.step()
        first, second = (record.hyper for record in read_ledger(path).records[1:])
        eps = "inf" if library is torch.optim else 1e-8
        flags = {"weight_decay": 0.01, "amsgrad": False, "maximize": False, "decoupled_weight_decay": True}
        one = {"lr": 0.5, "beta1": 0.9, "beta2": 0.999, "eps": eps, **flags}
        assert first[0] == one
        assert first[1] == {**one, "lr": 0.25, "beta1": 0.5, "beta2": 0.75}
        assert [group["lr"] for group in second] == [0.25, 0.125]


by_library = pytest.mark.parametrize("library", [torch.optim, samestep.torch], ids=["torch", "samestep"])


@by_library
def test_names(tmp_path, library):
    model = torch.nn.Linear(2, 3)
    cases = {
        "default": (model.parameters, None),
        "the optimizer's own": (model.named_parameters, None),
        "pairs": (model.parameters, model.named_parameters()),
        "dict": (model.parameters, {"b": model.bias, "w": model.weight, "other": torch.ones(1)}),
    }
    found = {}
    model.weight.grad, model.bias.grad = torch.ones(3, 2), torch.ones(3)
    for case, (params, names) in cases.items():
        optimizer = library.SGD(params(), lr=1.0)
        with samestep.torch.record(optimizer, tmp_path / case, names=names):
            optimizer.step()
        found[case] = list(read_ledger(tmp_path / case).header.tensors)
    assert found == {
        "default": ["params[0][0]", "params[0][1]"],
        "the optimizer's own": ["weight", "bias"],
        "pairs": ["weight", "bias"],
        "dict": ["w", "b"],
    }


@by_library
def test_names_that_do_not_fit(tmp_path, library):
    p, q = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    optimizer = library.SGD([p, q], lr=1.0)
    with pytest.raises(ValueError, match=r"names: got none for params\[0\]\[1\]"):
        samestep.torch.record(optimizer, tmp_path / "a", names={"p": p})
    with pytest.raises(ValueError, match="names: got 'p' for two parameters"):
        samestep.torch.record(optimizer, tmp_path / "a", names=[("p", p), ("p", q)])
    with pytest.raises(TypeError, match="names: got 1, expected a str"):
        samestep.torch.record(optimizer, tmp_path / "a", names={"p": p, 1: q})
    assert not (tmp_path / "a").exists()


@by_library
def test_a_parameter_without_gradient_is_null_and_a_state_it_lacks_is_nothing(tmp_path, library):
    p, q = Parameter(torch.ones(2)), Parameter(torch.ones(3))
    groups = [{"params": [p]}, {"params": [q], "momentum": 0.0}]
    optimizer = library.SGD(groups, lr=0.5, momentum=0.5)
    with samestep.torch.record(optimizer, tmp_path / "a", names={"p": p, "q": q}):
        optimizer.step()  # no gradient at all: what the states are is not known yet
        p.grad = torch.ones(2)
        optimizer.step()
        q.grad = torch.ones(3)
        optimizer.step()
    found = read_ledger(tmp_path / "a")
    assert found.header.kinds == ("gradient", "parameter", "momentum_buffer")
    assert [record.step for record in found.records] == [1, 2, 3]
    start, second, third = (record.tensors for record in found.records)
    assert start["p"][2] == start["q"][2] == third["q"][2] == NOTHING
    assert second["q"] is None
    assert second["p"][2] not in (NOTHING, third["p"][2])


@by_library
def test_a_closure_makes_the_gradients_that_are_recorded(tmp_path, library):
    p = Parameter(torch.ones(2))
    optimizer = library.Adam([p])
    p.grad = torch.full((2,), 7.0)

    def closure():
        p.grad = torch.full((2,), 3.0)

    with samestep.torch.record(optimizer, tmp_path / "a"):
        optimizer.step(closure)
        optimizer.step(closure=closure)
    expected = f"{ss.fingerprint(np.full(2, 3.0, np.float32)):016x}"
    assert [r.tensors["params[0][0]"][0] for r in read_ledger(tmp_path / "a").records[1:]] == [expected] * 2


@by_library
@pytest.mark.parametrize("order", ["hook first", "record first"])
def test_a_hook_makes_the_gradients_that_are_recorded(tmp_path, library, order):
    p = Parameter(torch.ones(2))
    optimizer = library.SGD([p], lr=0.0)

    def hook(*_):
        p.grad = torch.full((2,), 3.0)

    if order == "hook first":
        optimizer.register_step_pre_hook(hook)
    with samestep.torch.record(optimizer, tmp_path / "a"):
        if order == "record first":
            optimizer.register_step_pre_hook(hook)
        optimizer.step()
    expected = f"{ss.fingerprint(np.full(2, 3.0, np.float32)):016x}"
    assert read_ledger(tmp_path / "a").records[1].tensors["params[0][0]"][0] == expected


@by_library
def test_ddp_writes_one_file_for_any_number_of_workers(tmp_path, library):
    inputs = numbers(0, 32, 3)

    def train(group):
        model = ss.torch.Linear(3, 5)
        model.load_state_dict({"weight": numbers(1, 5, 3), "bias": numbers(2, 5)})
        optimizer = library.Adam(model.parameters(), lr=0.1)
        path = tmp_path / f"{group.rank} of {group.size}"
        recording = samestep.torch.record(optimizer, path, names=model.named_parameters())
        sync = ss.torch.parallel.ddp(model, optimizer, leaves=8, group=group)
        with recording:
            for _ in range(3):
                for leaf in sync.leaves:
                    with sync.leaf(leaf):
                        model(inputs[4 * leaf : 4 * leaf + 4]).square().mean().backward()
                optimizer.step()
        return path.read_bytes()

    (alone,) = ss.parallel.run_threads(1, train)
    for workers in (2, 3, 5):
        assert ss.parallel.run_threads(workers, train) == [alone] * workers


def test_a_sharded_model_writes_one_file_for_any_number_of_workers(tmp_path):
    inputs = numbers(0, 32, 3)

    def train(group):
        model = ss.torch.Linear(3, 700)
        model.load_state_dict({"weight": numbers(1, 700, 3), "bias": numbers(2, 700)})
        make = lambda part: ss.Adam(part, lr=0.1)  # noqa: E731
        opt = ss.torch.parallel.Sharded(make, model, leaves=8, group=group)
        with opt.sharded.record(tmp_path / str(group.size)):
            for leaf in opt.leaves:
                with opt.leaf(leaf):
                    model(inputs[4 * leaf : 4 * leaf + 4]).square().mean().backward()
            opt.step()
        return [f"{ss.fingerprint(p.detach().numpy()):016x}" for p in model.parameters()]

    found = [ss.parallel.run_threads(workers, train) for workers in (1, 2, 3, 5)]
    assert len({(tmp_path / str(workers)).read_bytes() for workers in (1, 2, 3, 5)}) == 1
    last = read_ledger(tmp_path / "3").records[-1].tensors
    assert {name: entry[1] for name, entry in last.items()} == dict(
        zip(("params['weight']", "params['bias']"), found[2][1], strict=True)
    )


WATCHED = """
import sys, torch, samestep.torch
p = torch.nn.Parameter(torch.zeros(3))
optimizer = LIBRARY.Adam([p], lr=float(sys.argv[1]))
with samestep.torch.record(optimizer, sys.argv[2], names={"p": p}):
    for t in range(1, 5):
        p.grad = torch.tensor([1.0, 2.0, -1.0]) * (2 if t == 3 and sys.argv[3] == "b" else 1)
        optimizer.step()
"""


@by_library
def test_a_script_that_is_run_again_shows_the_arrays_of_a_step(tmp_path, library):
    script = tmp_path / "script.py"
    script.write_text(WATCHED.replace("LIBRARY", library.__name__), encoding="utf-8")
    first = tmp_path / "run.jsonl"
    command = [sys.executable, script, "0.5", first, "a"]
    subprocess.run(command, check=True)
    watch = Watch(os.fspath(tmp_path / "again"), "run.jsonl", 3)
    (tmp_path / "again").mkdir()
    subprocess.run([*command[:-1], "b"], check=True, env=watch.environment())
    path = os.fspath(tmp_path / "again" / "run.jsonl")
    assert steps_of(path) == steps_of(first)[:4]
    assert arrays_of(path, "p", "gradient").tolist() == [2.0, 4.0, -2.0]
    kinds = read_ledger(path).header.kinds
    entry = read_ledger(path).records[-1].tensors["p"]
    assert entry == tuple(f"{ss.fingerprint(arrays_of(path, 'p', kind)):016x}" for kind in kinds)


@by_library
def test_a_script_that_is_run_again_shows_the_arrays_that_it_starts_from(tmp_path, library):
    """And ends at the step of its own ledger, not of another one that comes there before."""
    script = tmp_path / "script.py"
    other = "other = LIBRARY.SGD([torch.nn.Parameter(torch.zeros(3))], lr=1.0)"
    text = WATCHED.replace("p.grad =", "other.param_groups[0]['params'][0].grad = p.grad =")
    text = text.replace("with ", f"{other}\nsamestep.torch.record(other, sys.argv[2] + '.other')\nwith ", 1)
    text = text.replace("        optimizer.step()", "        other.step()\n        optimizer.step()")
    script.write_text(text.replace("LIBRARY", library.__name__), encoding="utf-8")
    first = tmp_path / "run.jsonl"
    for step in (0, 2):
        folder = tmp_path / f"again {step}"
        folder.mkdir()
        watch = Watch(os.fspath(folder), "run.jsonl", step)
        subprocess.run([sys.executable, script, "0.5", first, "a"], check=True, env=watch.environment())
        path = os.fspath(folder / "run.jsonl")
        assert steps_of(path) == [(0, True), (1, False), (2, False)][: step + 1]
        found = read_ledger(path)
        entry = [
            None if (a := arrays_of(path, "p", kind)) is None else f"{ss.fingerprint(a):016x}"
            for kind in found.header.kinds
        ]
        if step == 0:  # before the first step there is neither a gradient nor a state
            assert entry[1] == found.records[-1].tensors["p"][1]
            assert entry[0] is None
            assert set(entry[2:]) == {None}
        else:
            assert tuple(entry) == found.records[-1].tensors["p"]


EXAMPLE = Path(__file__).parents[2] / "examples" / "torch_ledgers.py"
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "torch.md"


def test_the_example_finds_where_torch_parts(tmp_path):
    pytest.importorskip("sklearn.datasets")
    command = [sys.executable, EXAMPLE, "--folder", tmp_path]
    lines = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.splitlines()
    (shown,) = re.findall(
        r"\$ python examples/torch_ledgers.py\n((?:.+\n)+?)```", GUIDE.read_text(encoding="utf-8")
    )
    for line, said in zip(lines, shown.splitlines(), strict=True):
        case, found = line.split(": ", 1)
        assert said.startswith(f"{case}: ")
        if case.startswith("samestep"):
            assert line == said
        elif "fused" in case:  # on any processor; the step and the tensor depend on it
            assert re.fullmatch(r"step \d+: the parameter of [\w.]+ differs", found)


def test_an_optimizer_with_other_states(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3)).square().sum()
        loss.backward()
        return loss

    with samestep.torch.record(optimizer, tmp_path / "a"):
        optimizer.step(closure)
        optimizer.step(closure)
    found = read_ledger(tmp_path / "a")
    assert found.header.kinds[:2] == ("gradient", "parameter")
    assert "prev_flat_grad" in found.header.kinds
    assert found.records[1].hyper[0]["max_iter"] == 20


def test_a_sparse_gradient_counts_with_its_zeros(tmp_path):
    table = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    table(torch.tensor([1, 3, 3])).sum().backward()
    expected = ss.fingerprint(table.weight.grad.to_dense().numpy())
    with samestep.torch.record(optimizer, tmp_path / "a"):
        optimizer.step()
    assert read_ledger(tmp_path / "a").records[1].tensors["params[0][0]"][0] == f"{expected:016x}"


@by_library
def test_a_run_goes_on_after_a_checkpoint(tmp_path, library):
    def new():
        p = Parameter(numbers(0, 50))
        return p, library.Adam([p])

    def train(p, optimizer, steps):
        for t in steps:
            p.grad = numbers(t + 1, 50)
            optimizer.step()

    p, optimizer = new()
    with samestep.torch.record(optimizer, tmp_path / "whole"):
        train(p, optimizer, range(4))
    p, optimizer = new()
    with samestep.torch.record(optimizer, tmp_path / "two"):
        train(p, optimizer, range(2))
    saved = copy.deepcopy((p.detach(), optimizer.state_dict()))
    p, optimizer = new()
    p.data = saved[0]
    optimizer.load_state_dict(saved[1])
    with samestep.torch.record(optimizer, tmp_path / "two", append=True):
        train(p, optimizer, range(2, 4))
    assert (tmp_path / "two").read_bytes() == (tmp_path / "whole").read_bytes()
    assert steps_of(tmp_path / "two") == [(0, True), *((t, False) for t in (1, 2, 3, 4))]


@by_library
def test_a_state_that_is_loaded_is_a_start(tmp_path, library):
    p = Parameter(numbers(0, 50))
    optimizer = library.Adam([p])
    p.grad = numbers(1, 50)
    with samestep.torch.record(optimizer, tmp_path / "a"):
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer.step()
        optimizer.load_state_dict(saved)
        optimizer.step()
    assert steps_of(tmp_path / "a") == [(0, True), (1, False), (2, False), (1, True), (2, False)]


def test_a_step_that_is_refused_leaves_no_line(tmp_path):
    p = Parameter(numbers(0, 50))
    optimizer = samestep.torch.Adam([p])
    with samestep.torch.record(optimizer, tmp_path / "a"):
        for lr in (0.1, 1e300, 0.1):
            p.grad = numbers(1, 50)
            optimizer.param_groups[0]["lr"] = lr
            if lr > 1:
                with pytest.raises(RuntimeError, match="overflow"):
                    optimizer.step()
            else:
                optimizer.step()
    assert steps_of(tmp_path / "a") == [(0, True), (1, False), (2, False)]


@by_library
def test_other_parameters_are_refused_before_the_step(tmp_path, library):
    p, q = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    optimizer = library.SGD([p], lr=1.0)
    p.grad = q.grad = torch.ones(2)
    recording = samestep.torch.record(optimizer, tmp_path / "a")
    optimizer.step()
    optimizer.add_param_group({"params": [q]})
    with pytest.raises(ValueError, match="params: other ones than"):
        optimizer.step()
    optimizer.param_groups.pop()
    optimizer.param_groups[0]["params"] = [q]
    with pytest.raises(ValueError, match="params: other ones than"):
        optimizer.step()
    assert (p.tolist(), q.tolist()) == ([0.0, 0.0], [1.0, 1.0])
    recording.close()
    optimizer.step()
    assert q.tolist() == [0.0, 0.0]
    assert steps_of(tmp_path / "a") == [(0, True), (1, False)]


@by_library
def test_what_is_noted(tmp_path, library):
    p = Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = library.SGD([p], lr=1.0)
    mean = torch.tensor([1.0, 2.0])
    with samestep.torch.record(optimizer, tmp_path / "a") as recording:
        with pytest.raises(TypeError, match="loss: got 'low', expected a number"):
            recording.note(loss="low")  # before a file is there too
        recording.note(loss=torch.tensor(2.0, requires_grad=True), mean=mean)
        optimizer.step()
        recording.note(loss=0.5)
        optimizer.step()
        with pytest.raises(TypeError, match="loss"):
            recording.note(loss="low")
    first, second = (record.extras for record in read_ledger(tmp_path / "a").records[1:])
    assert first == {"loss": (2.0).hex(), "mean": f"{ss.fingerprint(mean.numpy()):016x}"}
    assert second == {"loss": (0.5).hex()}


@by_library
def test_a_record_ends(tmp_path, library):
    p = Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = library.SGD([p], lr=1.0)
    with samestep.torch.record(optimizer, tmp_path / "a") as recording:
        optimizer.step()
        assert not recording.is_closed
    optimizer.step()
    assert recording.is_closed
    assert steps_of(tmp_path / "a") == [(0, True), (1, False)]


def test_another_record_of_samesteps_optimizers_takes_the_place_of_the_last(tmp_path):
    p = Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = samestep.torch.Adam([p])
    first = optimizer.record(tmp_path / "a")
    optimizer.step()
    second = optimizer.record(tmp_path / "b")
    optimizer.step()
    assert optimizer.record(None) is None
    optimizer.step()
    assert first.is_closed
    assert second.is_closed
    assert steps_of(tmp_path / "a") == [(0, True), (1, False)]
    assert steps_of(tmp_path / "b") == [(1, True), (2, False)]


@by_library
def test_after_a_line_that_cannot_be_written_comes_a_start(tmp_path, library, monkeypatch):
    p = Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = library.Adam([p])
    with samestep.torch.record(optimizer, tmp_path / "a"):
        optimizer.step()
        monkeypatch.setattr(os, "write", no_space)
        with pytest.raises(OSError, match="No space left"):
            optimizer.step()
        monkeypatch.undo()
        optimizer.step()
    assert steps_of(tmp_path / "a") == [(0, True), (1, False), (2, True), (3, False)]


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_copy_is_not_recorded(tmp_path):
    p = Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = samestep.torch.Adam([p])
    with optimizer.record(tmp_path / "a"):
        optimizer.step()
        twin = copy.deepcopy(optimizer)
        twin.param_groups[0]["params"][0].grad = torch.ones(2)
        twin.step()
    assert steps_of(tmp_path / "a") == [(0, True), (1, False)]


@by_library
def test_files_that_cannot_be_begun(tmp_path, library):
    p = Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = library.SGD([p], lr=1.0)
    (tmp_path / "there").write_text("no ledger\n", encoding="utf-8")
    with pytest.raises(FileExistsError, match="path: there is a file already"):
        samestep.torch.record(optimizer, tmp_path / "there")
    with pytest.raises(FileNotFoundError, match="path: there is no such folder"):
        samestep.torch.record(optimizer, tmp_path / "none" / "a")
    with pytest.raises(IsADirectoryError, match="path: expected a file, got a folder"):
        samestep.torch.record(optimizer, tmp_path, append=True)
    with pytest.raises(TypeError, match="path: got b'a', expected a str"):
        samestep.torch.record(optimizer, b"a")
    with samestep.torch.record(optimizer, tmp_path / "there", append=True), pytest.raises(LedgerError):
        optimizer.step()
    assert (tmp_path / "there").read_text(encoding="utf-8") == "no ledger\n"


def test_what_is_no_optimizer_or_has_no_fingerprint(tmp_path):
    with pytest.raises(TypeError, match="optimizer: got Linear"):
        samestep.torch.record(torch.nn.Linear(1, 1), tmp_path / "a")
    p = torch.zeros(2, dtype=torch.int32)
    with pytest.raises(TypeError, match=r"params\[0\]\[0\]: got torch.int32"):
        samestep.torch.record(torch.optim.SGD([p], lr=1.0), tmp_path / "a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("record", [samestep.torch.record, by_hooks], ids=["native", "hooks"])
def test_a_child_process_leaves_the_file_to_its_parent(tmp_path, record):
    w = Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    optimizer = samestep.torch.SGD([w], lr=0.5)
    path = tmp_path / "run.jsonl"
    recording = record(optimizer, path)
    optimizer.step()
    child = os.fork()
    if child == 0:
        try:
            optimizer.step()
            with pytest.raises(ValueError, match="opened by a parent process"):
                recording.note(loss=1.0)
            recording.close()
            os._exit(0 if w.tolist() == [0.0] * 3 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    optimizer.step()
    recording.close()
    assert steps_of(path) == [(0, True), (1, False), (2, False)]
    with pytest.raises(ValueError, match="is closed"):
        recording.note(loss=1.0)
