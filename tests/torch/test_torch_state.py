"""The optimizers' state: copied by loading, shared between processes, freed, and changed through torch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

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
