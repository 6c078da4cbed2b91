"""Leaves of a model that every worker has whole: one result, whoever computes them."""

from __future__ import annotations

import copy
import pickle
import re
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep as ss
import samestep.torch
from samestep.parallel.vector import Vector
from samestep.torch.parallel import LeafSync, ddp

SEEDED = threading.Lock()  # torch's generator is the process's
ALONE = ss.parallel.threads(1)[0]


def network(seed=0):
    with SEEDED:
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            ss.torch.Linear(6, 40), ss.torch.BatchNorm1d(40, relu=True), ss.torch.Linear(40, 3)
        )


def data(step, examples):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(examples, 6, generator=generator), torch.randn(examples, 3, generator=generator)


def loss_of(model, step, leaf, leaves):
    x, y = data(step, 4 * leaves)
    here = slice(4 * leaf, 4 * leaf + 4)
    return (model(x[here]) - y[here]).square().mean()


def bits(model):
    return {name: values.numpy().tobytes() for name, values in model.state_dict().items()}


def train(group, make_optimizer, leaves=8, weights=None, steps=3):
    model = network()
    optimizer = make_optimizer(model.parameters())
    sync = ddp(model, optimizer, leaves=leaves, group=group)
    for step in range(steps):
        for leaf in sync.leaves:
            weight = 1.0 if weights is None else weights[leaf]
            with sync.leaf(leaf, weight):
                if weight:
                    loss_of(model, step, leaf, leaves).backward()
        optimizer.step()
    return bits(model)


def train_by_hand(make_optimizer, leaves=8, weights=None, steps=3):
    """The same with gradients and buffers of every leaf side by side, and means by NumPy's twin."""
    weights = [1.0] * leaves if weights is None else weights
    model = network()
    optimizer = make_optimizer(model.parameters())
    for step in range(steps):
        grads, statistics = [], []
        before = copy.deepcopy(model.state_dict())
        for leaf in range(leaves):
            model.load_state_dict(before)
            model.zero_grad()
            loss_of(model, step, leaf, leaves).backward()
            grads.append([p.grad.numpy().copy() for p in model.parameters()])
            statistics.append([b.numpy().copy() for b in model.buffers() if b.is_floating_point()])
        for name, leafs in (("grads", grads), ("buffers", statistics)):
            mean = ss.parallel.weighted_mean(leafs, weights, backend="reference")
            if name == "grads":
                for p, g in zip(model.parameters(), mean, strict=True):
                    p.grad = torch.from_numpy(g)
            else:
                for b, value in zip((model[1].running_mean, model[1].running_var), mean, strict=True):
                    b.copy_(torch.from_numpy(value))
        optimizer.step()
    return bits(model)


OPTIMIZERS = {
    "samestep's Adam": lambda params: ss.torch.Adam(params, lr=0.05),
    "torch's SGD": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("leaves", "weights"),
    [(8, None), (6, None), (7, [1.0, 2.0, 3.0, 0.0, 5.0, 6.0, 0.5]), (6, [0.0, 0.0, 1.0, 2.0, 0.0, 3.0])],
)
def test_every_number_of_workers_ends_on_the_bits_of_leaves_added_by_hand(name, leaves, weights):
    by_hand = train_by_hand(OPTIMIZERS[name], leaves, weights)
    for workers in (1, 2, 3, 4):
        for found in ss.parallel.run_threads(
            workers, lambda group: train(group, OPTIMIZERS[name], leaves, weights)
        ):
            assert found == by_hand, workers


def mean_of(group, model, run_leaf, leaves=4, steps=1, zero_grad=None):
    """The gradients that a step of leaves leaves."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sync = ddp(model, optimizer, leaves=leaves, group=group)
    for _ in range(steps):
        for leaf in sync.leaves:
            if zero_grad is not None:
                optimizer.zero_grad(set_to_none=zero_grad)
            with sync.leaf(leaf):
                run_leaf(model, leaf)
        sync.reduce()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


class Awkward(torch.nn.Module):
    """A parameter used twice, one that only some leaves use, one that none does, a frozen one."""

    def __init__(self, dtype=torch.float32):
        super().__init__()

        def vector(first):
            return torch.nn.Parameter(torch.arange(first, first + 5.0).to(dtype))

        self.twice, self.sometimes, self.never, self.frozen = map(vector, (1.0, 2.0, 3.0, 4.0))
        self.frozen.requires_grad_(False)
        self.empty = torch.nn.Parameter(torch.empty(0, dtype=dtype))

    def forward(self, leaf):
        y = self.twice * self.twice * self.frozen * (leaf + 0.1)
        return (y + self.sometimes if leaf == 2 else y).sum() + self.empty.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zero_grad", [None, True, False])
def test_parameters_that_are_shared_unused_frozen_or_of_16_bits(dtype, zero_grad):
    def run(group):
        model = Awkward(dtype)
        return mean_of(group, model, lambda model, leaf: model(leaf).backward(), steps=2, zero_grad=zero_grad)

    found = [run(ALONE), *ss.parallel.run_threads(3, run)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = []
    for leaf in range(4):
        model = Awkward(dtype)
        model(leaf).backward()
        leaves.append(model.twice.grad.to(wide).numpy())
    twice = torch.from_numpy(ss.parallel.mean_of_leaves(leaves, backend="reference")).to(dtype)
    for grads in found:
        assert torch.equal(grads["twice"], twice)
        assert torch.equal(grads["sometimes"], torch.full((5,), 0.25, dtype=dtype))
        assert grads["never"] is None
        assert grads["frozen"] is None
        assert grads["empty"].shape == (0,)


def test_two_calls_of_backward_within_a_leaf_add_up():
    def run_leaf(model, leaf):
        model(leaf).backward()
        model(leaf + 1).backward()

    def run(group):
        return mean_of(group, Awkward(), run_leaf)

    once = [torch.zeros(5) for _ in range(4)]
    for leaf in range(4):
        model = Awkward()
        run_leaf(model, leaf)
        once[leaf] = model.twice.grad.numpy()
    for grads in ss.parallel.run_threads(2, run):
        assert grads["twice"].numpy().tobytes() == ss.parallel.mean_of_leaves(once).tobytes()


def test_layouts_of_parameters_are_those_of_their_gradients():
    def run(group):
        with SEEDED:
            torch.manual_seed(0)
            model = torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(4, 2, 3, 6, 6, generator=generator)
        grads = mean_of(group, model, lambda model, leaf: model(x[leaf]).square().sum().backward())
        assert grads["weight"].is_contiguous(memory_format=torch.channels_last)
        return grads["weight"].contiguous().numpy().tobytes()

    torch.set_num_threads(1)
    assert len({*ss.parallel.run_threads(1, run), *ss.parallel.run_threads(2, run)}) == 1


def fail(sync, model, leaf):
    with sync.leaf(leaf, weight=3.0):
        loss_of(model, 10, leaf, 4).backward()
        raise KeyError("bad row")


def test_a_layout_that_changes_later_changes_no_bit():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 2, 3, 6, 6, generator=generator)

    def run(group, is_laid_out_anew):
        with SEEDED:
            torch.manual_seed(0)
            model = torch.nn.Conv2d(3, 5, 3)
        sync = ddp(model, torch.optim.SGD(model.parameters(), lr=0.1), leaves=4, group=group)
        if is_laid_out_anew:
            model.weight.data = model.weight.data.contiguous(memory_format=torch.channels_last)
        for leaf in sync.leaves:
            with sync.leaf(leaf):
                model(x[leaf]).square().sum().backward()
        sync.reduce()
        return model.weight.grad.contiguous().numpy()

    torch.set_num_threads(1)
    plain, anew = run(ALONE, False), run(ALONE, True)
    np.testing.assert_allclose(anew, plain, rtol=1e-4)  # torch convolves in another order there


def test_memory_is_used_again(monkeypatch):
    """Two vectors for the step of one leaf: the leaf's, and the last mean, which .grad shows until then."""
    made = []
    buffer = Vector.buffer
    monkeypatch.setattr(Vector, "buffer", lambda vector: made.append(vector) or buffer(vector))
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sync = ddp(model, optimizer, leaves=1, group=ALONE)
    for _ in range(5):
        with sync.leaf(0):
            model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert len(made) == 2


def test_a_leaf_that_fails_counts_nothing():
    def run(group, fails):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = ddp(model, optimizer, leaves=4, group=group)
        for step in range(2):
            for leaf in sync.leaves:
                if fails:
                    before = [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]
                    statistics = bits(model)
                    with pytest.raises(KeyError, match="bad row"):
                        fail(sync, model, leaf)
                    assert bits(model) == statistics
                    for p, grad in zip(model.parameters(), before, strict=True):
                        assert (p.grad is None) == (grad is None)
                        assert grad is None or torch.equal(p.grad, grad)
                with sync.leaf(leaf):
                    loss_of(model, step, leaf, 4).backward()
            optimizer.step()
        return bits(model)

    expected = run(ALONE, False)
    assert run(ALONE, True) == expected
    assert ss.parallel.run_threads(2, lambda group: run(group, group.rank == 1)) == [expected] * 2


def test_a_missing_leaf_is_an_error_on_all_workers_and_can_be_added():
    def run(group):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = ddp(model, optimizer, leaves=4, group=group)
        later = [leaf for leaf in sync.leaves if leaf == 2]
        for leaf in sync.leaves:
            if leaf not in later:
                with sync.leaf(leaf):
                    loss_of(model, 0, leaf, 4).backward()
        with pytest.raises(ValueError, match="leaves: 2 of 4 were not added"):
            optimizer.step()
        assert bits(model) == bits(network())
        for leaf in later:
            with sync.leaf(leaf):
                loss_of(model, 0, leaf, 4).backward()
        optimizer.step()
        return bits(model)

    expected = train(ALONE, lambda params: torch.optim.SGD(params, lr=0.1), leaves=4, steps=1)
    assert ss.parallel.run_threads(2, run) == [expected] * 2


def test_weights_whose_sum_float32_cannot_hold_are_refused():
    def one(group):
        model = torch.nn.Linear(2, 1, bias=False)
        model.load_state_dict({"weight": torch.ones(1, 2)})
        sync = ddp(model, torch.optim.SGD(model.parameters(), lr=0.1), leaves=2, group=group)
        for leaf in sync.leaves:
            with sync.leaf(leaf, weight=3e38):
                model(torch.ones(1, 2)).sum().backward()
        with pytest.raises(ValueError, match=r"weight.*6e\+38"):
            sync.reduce()
        return "refused"

    assert ss.parallel.run_threads(2, one) == ["refused"] * 2


def test_what_reads_gradients_before_the_step():
    """reduce() by hand: clipping and a GradScaler see the mean, and the step does not reduce again."""

    def run(group):
        model = network()
        optimizer = ss.torch.SGD(model.parameters(), lr=0.1)
        sync = ddp(model, optimizer, leaves=4, group=group)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        norms = []
        for step in range(2):
            for leaf in sync.leaves:
                with sync.leaf(leaf):
                    scaler.scale(loss_of(model, step, leaf, 4)).backward()
            sync.reduce()
            scaler.unscale_(optimizer)
            norms.append(float(ss.torch.clip_grad_norm_(model.parameters(), 0.5)))
            scaler.step(optimizer)
            scaler.update()
        return norms, bits(model)

    alone = run(ALONE)
    assert alone[0][0] > 0.5
    assert ss.parallel.run_threads(3, run) == [alone] * 3


def test_a_closure_reduces_by_itself():
    def run(group):
        model = network()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
        sync = ddp(model, optimizer, leaves=4, group=group)

        def closure():
            total = 0.0
            for leaf in sync.leaves:
                with sync.leaf(leaf):
                    loss = loss_of(model, 0, leaf, 4)
                    loss.backward()
                    total += loss.item()
            sync.reduce()
            return torch.tensor(sum(group.all_gather_json(total)))

        optimizer.step(closure)
        return [p.detach().numpy().tobytes() for p in model.parameters()]

    first, second = ss.parallel.run_threads(2, run)
    assert first == second
    assert first != [p.detach().numpy().tobytes() for p in network().parameters()]


def test_workers_must_be_made_alike():
    def run(group, **other):
        given = {"seed": 0, "lr": 0.1, "leaves": 4, **(other if group.rank == 1 else {})}
        model = network(given["seed"])
        ddp(model, torch.optim.SGD(model.parameters(), lr=given["lr"]), leaves=given["leaves"], group=group)

    for other, message in (
        ({"seed": 1}, r"model: 0\.weight: got other values or strides on worker . and worker "),
        ({"lr": 0.2}, "optimizer: got SGD"),
        ({"leaves": 8}, "leaves: got [48] on worker"),
    ):
        errors = []

        def collect(group, other=other, errors=errors):
            with pytest.raises(ValueError) as error:
                run(group, **other)
            errors.append(str(error.value))

        ss.parallel.run_threads(2, collect)
        assert len(errors) == 2
        for text in errors:
            assert re.match(message, text), text


def test_hyper_parameters_that_part_are_an_error_on_all():
    def run(group):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = ddp(model, optimizer, leaves=2, group=group)
        for leaf in sync.leaves:
            with sync.leaf(leaf):
                loss_of(model, 0, leaf, 2).backward()
        optimizer.param_groups[0]["lr"] = 0.1 + group.rank
        with pytest.raises(ValueError, match="hyper-parameters"):
            optimizer.step()

    ss.parallel.run_threads(2, run)


def test_arguments_that_do_not_fit():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="model: got int"):
        ddp(1, optimizer, leaves=1, group=ALONE)
    with pytest.raises(TypeError, match="optimizer: got int"):
        ddp(model, 1, leaves=1, group=ALONE)
    with pytest.raises(ValueError, match="leaves"):
        ddp(model, optimizer, leaves=0, group=ALONE)
    with pytest.raises(ValueError, match="leaves: got 1, expected at least one for each of 2 workers"):
        ss.parallel.run_threads(2, lambda group: ddp(network(), optimizer, leaves=1, group=group))
    with pytest.raises(TypeError, match="group: got int"):
        ddp(model, optimizer, leaves=1, group=3)
    other = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer: has a parameter that is none of model's"):
        ddp(model, other, leaves=1, group=ALONE)
    with pytest.raises(NotImplementedError, match=r"0\.weight: got a tensor on meta"):
        ddp(network().to("meta"), optimizer, leaves=1, group=ALONE)
    narrow = torch.nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(TypeError, match=r"weight: got torch\.complex64"):
        ddp(narrow, torch.optim.SGD(narrow.parameters(), lr=0.1), leaves=1, group=ALONE)
    gaps = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(4, 4)[:, ::2])])
    with pytest.raises(ValueError, match="0: got a tensor with gaps"):
        ddp(gaps, torch.optim.SGD(gaps.parameters(), lr=0.1), leaves=1, group=ALONE)

    sync = ddp(model, optimizer, leaves=2, group=ALONE)
    assert isinstance(sync, LeafSync)
    assert repr(sync) == f"DdpSync(leaves=2, group={ALONE!r})"
    for leaf, weight, message in ((2, 1.0, "expected one of this worker's: 0 to 1"), (0, -1.0, "weight")):
        with pytest.raises(ValueError, match=message), sync.leaf(leaf, weight):
            pass
    with sync.leaf(0), pytest.raises(RuntimeError, match="within leaf 0"), sync.leaf(1):
        pass
    with pytest.raises(ValueError, match="was added before"), sync.leaf(0):
        pass
    with sync.leaf(1, weight=0.0):
        pass
    optimizer.step()
    assert all(p.grad is None for p in model.parameters())


def test_a_released_parameter_is_named():
    model = network()
    model[0].weight.requires_grad_(False)
    sync = ddp(model, torch.optim.SGD(model.parameters(), lr=0.1), leaves=1, group=ALONE)
    model[0].weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"0\.weight requires a gradient"), sync.leaf(0):
        pass


def test_sparse_gradients_are_refused():
    model = torch.nn.Embedding(4, 2, sparse=True)
    sync = ddp(model, torch.optim.SGD(model.parameters(), lr=0.1), leaves=1, group=ALONE)
    with pytest.raises(RuntimeError, match="sparse=False"), sync.leaf(0):
        model(torch.tensor([1])).sum().backward()


def test_models_and_optimizers_can_be_copied_and_the_sync_cannot():
    model = network()
    optimizer = ss.torch.Adam(model.parameters(), lr=0.1)
    sync = ddp(model, optimizer, leaves=1, group=ALONE)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied(data(0, 4)[0]).sum().backward()
        assert copied[0].weight.grad is not None
    assert copy.deepcopy(optimizer).param_groups[0]["lr"] == 0.1
    for make_copy in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            make_copy(sync)


def test_gradients_outside_of_leaves_and_after_remove_are_torch_s():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sync = ddp(model, optimizer, leaves=1, group=ALONE)
    loss_of(model, 0, 0, 1).backward()
    assert model[0].weight.grad is not None
    optimizer.zero_grad()
    sync.remove()
    loss_of(model, 0, 0, 1).backward()
    optimizer.step()
    assert bits(model) != bits(network())


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_the_group_of_torch_distributed_is_the_default_and_a_ddp_module_stands_still():
    import torch.distributed as dist

    make_optimizer = OPTIMIZERS["torch's SGD"]
    expected = train(ALONE, make_optimizer)
    assert train(None, make_optimizer) == expected
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(network())
        optimizer = make_optimizer(model.parameters())
        sync = ddp(model, optimizer, leaves=8)
        assert repr(sync) == "DdpSync(leaves=8, group=TorchGroup(rank=0, size=1))"
        for step in range(3):
            for leaf in sync.leaves:
                with sync.leaf(leaf):
                    loss_of(model, step, leaf, 8).backward()
            optimizer.step()
        assert bits(model.module) == expected
        assert not model.require_backward_grad_sync
    finally:
        dist.destroy_process_group()


def test_buffers_that_no_leaf_changes_keep_their_bits():
    """A mean of three equal numbers may be another number."""

    class Constant(torch.nn.BatchNorm1d):
        def __init__(self):
            super().__init__(1)
            self.register_buffer("parts", torch.arange(100.0) / 97.0)
            self.register_buffer("mask", torch.tensor([True, False]))

    def run(group):
        with SEEDED:
            torch.manual_seed(0)
            model = Constant()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = ddp(model, optimizer, leaves=3, group=group)
        for leaf in sync.leaves:
            with sync.leaf(leaf, weight=0.7):
                (model(torch.ones(2, 1)) * model.parts[1]).sum().backward()
        optimizer.step()
        return model.parts.tolist(), model.mask.tolist()

    expected = (torch.arange(100.0) / 97.0).tolist(), [True, False]
    assert ss.parallel.run_threads(2, run) == [expected] * 2
