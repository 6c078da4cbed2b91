"""What a user does to state and parameters through torch: a step reads it and a checkpoint holds it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.nn import Parameter

import samestep.torch

KINDS = {
    "SGD": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adagrad": ("Adagrad", {"lr": 0.1}),
    "RMSprop": ("RMSprop", {"lr": 0.1, "momentum": 0.5}),
    "Adam": ("Adam", {"lr": 0.1}),
    "AdamW": ("AdamW", {"lr": 0.1, "amsgrad": True}),
}


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step(optimizer, seed):
    (p,) = optimizer.param_groups[0]["params"]
    p.grad = numbers(seed, *p.shape)
    optimizer.step()


def each_state(change):
    def change_each(p, optimizer, path):
        state = optimizer.state.get(p, {})
        for name in list(state):
            change(state, name)

    return change_each


def set_data(state, name):
    state[name].data = state[name].data + 1


def set_storage(state, name):
    state[name].set_((state[name] + 1).clone())


def resize(state, name):
    """To more memory, which moves it, and back."""
    values, shape = state[name].clone(), state[name].shape
    state[name].resize_(500)
    state[name].resize_(shape)
    state[name].copy_(values)


def resize_storage(state, name):
    """Given back and taken again, as FSDP does it."""
    values, storage = state[name].clone(), state[name].untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    storage.resize_(size)
    state[name].copy_(values)


def move(state, name):
    """To another device and back; what comes back are other tensors."""
    values = state[name].clone()
    state[name] = state[name].to("meta")
    state[name] = torch.empty_like(state[name], device="cpu").copy_(values)


def parameter_data(p, optimizer, path):
    p.data = p.data + 1


def parameter_storage_given_back(p, optimizer, path):
    values, storage = p.detach().clone(), p.untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    storage.resize_(size)
    p.data.copy_(values)


def load_from_map(p, optimizer, path):
    """Of a file that is mapped, not read; a later step must not write to it."""
    torch.save(optimizer.state_dict(), path)
    before = path.read_bytes()
    optimizer.load_state_dict(torch.load(path, mmap=True))
    step(optimizer, 9)
    assert path.read_bytes() == before


def assign_from_map(p, optimizer, path):
    torch.save(dict(optimizer.state.get(p, {})), path)
    optimizer.state[p] = torch.load(path, mmap=True)


CHANGES = {
    "share the state": each_state(lambda state, name: state[name].share_memory_()),
    "fill the state": each_state(lambda state, name: state[name].fill_(2)),
    "state.data =": each_state(set_data),
    "state.set_": each_state(set_storage),
    "state.resize_": each_state(resize),
    "resize the state's storage": each_state(resize_storage),
    "other tensors": each_state(lambda state, name: state.update({name: state[name].clone() + 1})),
    "state to meta and back": each_state(move),
    "clear the state": lambda p, o, path: o.state.clear(),
    "clear the parameter's state": lambda p, o, path: o.state[p].clear() if p in o.state else None,
    "pop the parameter's state": lambda p, o, path: o.state.pop(p, None),
    "another dict": lambda p, o, path: o.state.update({p: dict(o.state[p])}) if p in o.state else None,
    "share the parameter": lambda p, o, path: p.share_memory_(),
    "p.data =": parameter_data,
    "p.set_": lambda p, o, path: p.data.set_(numbers(7, 8)),
    "resize p's storage": parameter_storage_given_back,
    "load from a map": load_from_map,
    "assign from a map": assign_from_map,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_change_through_torch_is_seen_and_saved(kind, change, tmp_path):
    """Values, sharing and, where torch keeps it, the tensor itself, over two steps and in the state dict."""
    ends = []
    for library in (torch.optim, samestep.torch):
        cls, hyper = KINDS[kind]
        p = Parameter(numbers(0, 8))
        optimizer = getattr(library, cls)([p], **hyper)
        for seed in (1, 2):
            step(optimizer, seed)
        CHANGES[change](p, optimizer, tmp_path / library.__name__)
        changed = dict(optimizer.state.get(p, {}))
        facts = []
        for seed in (3, 4):
            step(optimizer, seed)
            state = dict(optimizer.state.get(p, {}))
            saved = optimizer.state_dict()["state"].get(0, {})
            facts.append(p.is_shared())
            for name in sorted(state):
                assert saved[name] is state[name]
                facts.append((name, state[name] is changed.get(name), state[name].is_shared()))
        ends.append((facts, [p.detach(), *(state[name].float() for name in sorted(state))]))
    (their_facts, theirs), (our_facts, ours) = ends
    assert our_facts == their_facts
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_in_a_state_of_the_users_own_type_leaves_the_step(error):
    errors = [error]

    class InterruptedOnce(dict):
        def __getitem__(self, name):
            if errors:
                raise errors.pop()
            return super().__getitem__(name)

    p = Parameter(numbers(0, 5))
    optimizer = samestep.torch.Adam([p])
    step(optimizer, 1)
    optimizer.state[p] = InterruptedOnce(optimizer.state[p])
    with pytest.raises(error):
        step(optimizer, 2)
    assert optimizer.state[p]["step"] == 1
    step(optimizer, 2)
    assert optimizer.state[p]["step"] == 2
