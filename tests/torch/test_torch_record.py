"""Records of torch's optimizers: by hooks and in the native step alike, what each line says, and when."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.nn import Parameter

import samestep as ss
import samestep.torch
from samestep.ledger import LedgerError, read_ledger
from samestep.torch import recording as module

KINDS = {
    "SGD": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "Adagrad": ("Adagrad", {"lr": 0.1}),
    "RMSprop": ("RMSprop", {"lr": 0.1, "momentum": 0.5, "centered": True}),
    "Adam": ("Adam", {"lr": 0.1, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {"lr": 0.1, "amsgrad": True, "maximize": True}),
}
NOTHING = f"{ss.fingerprint(np.zeros(0, np.float32)):016x}"
MANY = 70_001  # several work items, and a last block that is not full


def numbers(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


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
    for how in MADE_BY:
        p = Parameter(torch.zeros(3))
        with samestep.torch.record(MADE_BY[how]([p]), tmp_path / how):
            p.grad = torch.zeros(3)
            optimizer = MADE_BY[how]([p])
            with samestep.torch.record(optimizer, tmp_path / f"{how}.jsonl"):
                optimizer.step()
        found.append((tmp_path / f"{how}.jsonl").read_bytes())
    assert found[0] == found[1] == found[2] == found[3].replace(b"samestep.torch.Adam", b"torch.optim.Adam")


def test_hyper_parameters_are_those_in_use(tmp_path):
    p, q = Parameter(torch.ones(3)), Parameter(torch.ones(2))
    groups = [{"params": [p]}, {"params": [q], "lr": torch.tensor(0.25), "betas": (0.5, 0.75)}]
    for library in (torch.optim, samestep.torch):
        path = tmp_path / f"{library.__name__}.jsonl"
        optimizer = library.AdamW([dict(group) for group in groups], lr=0.5, eps=float("inf"))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        p.grad = q.grad = None
        p.grad, q.grad = torch.ones(3), torch.ones(2)
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


def test_names(tmp_path):
    model = torch.nn.Linear(2, 3)
    made = {
        "default": (model.parameters(), None),
        "the optimizer's own": (model.named_parameters(), None),
        "pairs": (model.parameters(), model.named_parameters()),
        "dict": (model.parameters(), {"b": model.bias, "w": model.weight, "other": torch.ones(1)}),
    }
    found = {}
    for case, (params, names) in made.items():
        for library in (torch.optim, samestep.torch):
            path = tmp_path / f"{library.__name__} {case}"
            optimizer = library.SGD(params if case != "x" else None, lr=1.0) if False else None
            given = list(params) if not isinstance(params, list) else params
            made[case] = params = given
            optimizer = library.SGD(given, lr=1.0)
            model.weight.grad, model.bias.grad = torch.ones(3, 2), torch.ones(3)
            names = dict(names) if names is not None else None
            with samestep.torch.record(optimizer, path, names=names):
                optimizer.step()
            found.setdefault(case, []).append(list(read_ledger(path).header.tensors))
    assert found == {
        "default": [["params[0][0]", "params[0][1]"]] * 2,
        "the optimizer's own": [["weight", "bias"]] * 2,
        "pairs": [["weight", "bias"]] * 2,
        "dict": [["w", "b"]] * 2,
    }
