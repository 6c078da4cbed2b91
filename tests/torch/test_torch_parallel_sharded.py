"""Optimizers whose state is spread over the workers, for torch models."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep as ss
import samestep.torch
from samestep.torch.parallel import Sharded, ddp

SEEDED = threading.Lock()  # torch's generator is the process's
LEAVES, STEPS = 6, 4


def network(dtype=torch.float32):
    with SEEDED:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(2, 5, 3).to(memory_format=torch.channels_last),
            ss.torch.BatchNorm2d(5, relu=True),
            torch.nn.Flatten(),
            ss.torch.Linear(80, 30),
            ss.torch.Linear(30, 3, bias=False),
        ).to(dtype)


def loss_of(model, step, leaf):
    generator = torch.Generator().manual_seed(100 * step + leaf)
    x = torch.randn(3, 2, 6, 6, generator=generator).to(model[0].weight.dtype)
    return model(x).float().square().mean()


def bits(model):
    return [t.contiguous().reshape(-1).view(torch.uint8).tolist() for t in model.state_dict().values()]


def run(sync, model, first=0, last=STEPS, step=None):
    for t in range(first, last):
        for leaf in sync.leaves:
            with sync.leaf(leaf, weight=1.0 + leaf):
                loss_of(model, t, leaf).backward()
        (step or sync.step)()


def by_ddp(group, dtype):
    model = network(dtype)
    optimizer = ss.torch.Adam(model.parameters(), lr=0.01)
    run(ddp(model, optimizer, leaves=LEAVES, group=group), model, step=optimizer.step)
    return bits(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_it_steps_as_ddp_with_the_same_rule(dtype):
    if dtype == torch.bfloat16:
        pytest.importorskip(
            "ml_dtypes", reason="ml_dtypes is not installed: pip install 'samestep[bfloat16]'"
        )
    (expected,) = ss.parallel.run_threads(1, lambda group: by_ddp(group, dtype))
    assert expected != bits(network(dtype))

    def work(group):
        model = network(dtype)
        run(Sharded(lambda part: ss.Adam(part, lr=0.01), model, leaves=LEAVES, group=group), model)
        return bits(model)

    for workers in (1, 2, 3, 4):
        assert ss.parallel.run_threads(workers, work) == [expected] * workers


def test_a_checkpoint_of_three_workers_goes_on_with_two(tmp_path):
    def made(group, clip_norm=0.2):
        model = network()
        return model, Sharded(
            lambda part: ss.Adam(part, lr=0.01, clip_norm=clip_norm), model, leaves=LEAVES, group=group
        )

    def whole(group):
        model, sync = made(group)
        run(sync, model)
        return bits(model)

    def first_half(group):
        model, sync = made(group)
        run(sync, model, 0, 2)
        sync.sharded.save(tmp_path / "checkpoint")
        return [b.clone() for b in model.buffers()]

    def second_half(group):
        model, sync = made(group)
        for b, saved in zip(model.buffers(), buffers, strict=True):
            b.copy_(saved)
        sync.sharded.load(tmp_path / "checkpoint")
        run(sync, model, 2)
        return bits(model)

    expected = ss.parallel.run_threads(1, whole)
    buffers = ss.parallel.run_threads(3, first_half)[0]
    assert ss.parallel.run_threads(2, second_half) == expected * 2


def test_a_leaf_that_fails_or_is_missing_or_not_finite():
    model = network()
    sync = Sharded(lambda part: ss.SGD(part, lr=0.1, nonfinite="raise"), model, leaves=2)
    before = bits(model)

    def fail():
        with sync.leaf(0):
            loss_of(model, 0, 0).backward()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert bits(model) == before
    with sync.leaf(0):
        loss_of(model, 0, 0).backward()
    with pytest.raises(ValueError, match="leaves: 1 of 2 were not added"):
        sync.step()
    with sync.leaf(1):
        (loss_of(model, 0, 1) * float("inf")).backward()
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        sync.step()
    assert bits(model) == before
    version = model[3].weight._version
    run(sync, model, 0, 1)
    fresh = network()
    run(Sharded(lambda part: ss.SGD(part, lr=0.1), fresh, leaves=2), fresh, 0, 1)
    assert bits(model) == bits(fresh)
    assert model[3].weight._version > version  # autograd has heard of it
    assert sync.sharded.t == 1


def test_a_step_that_is_refused_leaves_nothing_to_the_next_one():
    """What its leaves made of the buffers, too: in steps that change none, running statistics stay."""

    def one(group, is_broken):
        model = ss.torch.convert(network())  # torch's own convolution has been seen to differ under load
        opt = Sharded(
            lambda part: ss.Adam(part, lr=0.01, nonfinite="raise"), model, leaves=LEAVES, group=group
        )
        if is_broken:
            for leaf in opt.leaves:
                with opt.leaf(leaf, weight=3.0):
                    (loss_of(model, 7, leaf) * (float("inf") if leaf == 2 else 1.0)).backward()
            with pytest.raises(FloatingPointError):
                opt.step()
        model.eval()
        run(opt, model, last=2)
        return bits(model)

    expected = one(ss.parallel.threads(1)[0], False)
    for size in (1, 3):
        assert all(found == expected for found in ss.parallel.run_threads(size, lambda g: one(g, True)))


def test_arguments_that_do_not_fit():
    def make(part):
        return ss.SGD(part, lr=0.1)

    with pytest.raises(TypeError, match="model: got int"):
        Sharded(make, 1, leaves=1)
    with pytest.raises(TypeError, match="make_optimizer: returned int"):
        Sharded(lambda part: 1, network(), leaves=1)
    model = network()
    sync = Sharded(make, model, leaves=1)
    with sync.leaf(0):
        loss_of(model, 0, 0).backward()
    model[3].weight.data = model[3].weight.data.clone()
    with pytest.raises(RuntimeError, match="a parameter has been given other memory"):
        sync.step()
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding.register_buffer("count", torch.zeros(1))
    sync = Sharded(make, embedding, leaves=1)
    with pytest.raises(RuntimeError, match="use sparse=False"), sync.leaf(0):
        embedding(embedding.count.add_(1).long()).sum().backward()
    assert embedding.count == 0
