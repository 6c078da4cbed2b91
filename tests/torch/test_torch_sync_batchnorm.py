"""Batch norm over all workers' samples: the bits of one process that has the whole batch."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep as ss
import samestep.torch
from samestep.torch.parallel import sync_batchnorm
from samestep.torch.sync_batchnorm import _Training

BATCH_NORMS = {
    2: ss.torch.BatchNorm1d,
    3: ss.torch.BatchNorm1d,
    4: ss.torch.BatchNorm2d,
    5: ss.torch.BatchNorm3d,
}
# Shapes, and where the workers' samples begin: within blocks of 1024 terms of a channel, across several
# blocks, none at all, whole blocks.
CASES = [
    ((7, 3), (0, 7)),
    ((7, 3), (0, 2, 7)),
    ((2500, 5), (0, 1024, 1024, 2500)),
    ((40, 3, 100), (0, 7, 20, 20, 33, 40)),
    ((4, 2, 50, 100), (0, 1, 3, 4)),
    ((6, 9, 20, 35), (0, 0, 1, 2, 5, 6)),
    ((7, 1, 2, 16, 32), (0, 3, 7)),
    ((50, 130, 5, 8), (0, 13, 50)),
]


def values(shape, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 3.0 + 5.0).to(dtype)


def channels_last(x):
    kind = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return x if kind is None else x.contiguous(memory_format=kind)


def prepared(layer, dtype):
    """The layer with parameters of the given dtype that are not ones and zeros."""
    layer = layer.to(dtype)
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.copy_(values((layer.num_features,), 2 + i, dtype) - 5.0 * i)
    return layer


def one_pass(layer, x, dy):
    """All that forward and backward give."""
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(dy)
    grads = [p.grad for p in layer.parameters()]
    return [y.detach(), x.grad], [*grads, *layer.buffers()]


def same(a, b):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    if a.dtype.is_floating_point:
        a, b = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    assert torch.equal(a, b)


@pytest.mark.parametrize("layout", [None, "channels last", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("shape", "cuts"), CASES, ids=str)
def test_workers_have_the_bits_of_one_process(shape, cuts, dtype, layout):
    x, dy = values(shape, 0, dtype), values(shape, 1, dtype) - 5.0
    for options in (
        {},
        {"relu": True},
        {"affine": False, "momentum": None},
        {"track_running_stats": False, "eps": 0.1, "bias": False},
    ):
        whole = prepared(BATCH_NORMS[len(shape)](shape[1], **options), dtype)
        of_samples, of_all = one_pass(whole, x, dy)

        def work(group, options=options):
            layer = prepared(ss.torch.SyncBatchNorm(shape[1], group=group, **options), dtype)
            own = slice(cuts[group.rank], cuts[group.rank + 1])
            is_last = layout == "channels last" or (layout == "mixed" and group.rank % 2 == 1)
            lay_out = channels_last if is_last else torch.Tensor.contiguous
            return one_pass(layer, lay_out(x[own]), lay_out(dy[own]))

        found = ss.parallel.run_threads(len(cuts) - 1, work, timeout=30.0)
        for part in (0, 1):
            same(torch.cat([samples[part] for samples, _ in found]), of_samples[part])
        for _, of_worker in found:
            for a, b in zip(of_worker, of_all, strict=True):
                same(a, b)


def test_values_that_are_not_finite_reach_all_workers():
    x = values((9, 2), 0, torch.float32)
    x[0, 0] = float("inf")
    x[7, 1] = float("nan")
    expected, _ = one_pass(ss.torch.BatchNorm1d(2), x, torch.ones_like(x))
    cuts = (0, 4, 9)

    def work(group):
        own = slice(cuts[group.rank], cuts[group.rank + 1])
        layer = ss.torch.SyncBatchNorm(2, group=group)
        return one_pass(layer, x[own], torch.ones_like(x[own]))[0]

    found = ss.parallel.run_threads(2, work)
    for part in (0, 1):
        both = torch.cat([samples[part] for samples in found])
        assert torch.equal(both.isnan(), expected[part].isnan())
        assert torch.equal(both.nan_to_num(), expected[part].nan_to_num())
        assert both.isnan().all()


def test_gradients_are_those_of_finite_differences():
    group = ss.parallel.threads(1)[0]
    x, weight, bias = (
        values(s, i, torch.float64).requires_grad_() for i, s in enumerate([(6, 2, 3), (2,), (2,)])
    )

    def function(x, weight, bias):
        return _Training.apply(x, weight, bias, None, 0.1, 1e-5, False, group)

    assert torch.autograd.gradcheck(function, (x, weight, bias))
    (grad,) = torch.autograd.grad(function(x, weight, bias).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_evaluation_and_one_worker_are_plain_batch_norm():
    x = values((6, 4, 5), 0, torch.float32)

    def work(group):
        layer = ss.torch.SyncBatchNorm(4, group=group)
        layer.load_state_dict(torch.nn.SyncBatchNorm(4).state_dict())
        layer.eval()
        return layer(x[: group.rank + 2])  # workers do not meet: one may stay away

    for rank, y in enumerate(ss.parallel.run_threads(2, work)):
        same(y, ss.torch.BatchNorm1d(4).eval()(x[: rank + 2]))
    alone = ss.torch.SyncBatchNorm(4)
    same(alone(x), ss.torch.BatchNorm1d(4)(x))
    assert list(alone.state_dict()) == list(torch.nn.SyncBatchNorm(4).state_dict())


def test_a_batch_of_one_value_is_an_error_on_all_workers():
    def work(group):
        layer = ss.torch.SyncBatchNorm(2, group=group)
        with pytest.raises(ValueError, match="more than 1 value per channel when training, got 1 on all"):
            layer(torch.ones(1 if group.rank else 0, 2))
        return [b.tolist() for b in layer.buffers()]

    assert ss.parallel.run_threads(2, work) == [[[0.0, 0.0], [1.0, 1.0], 0]] * 2


def test_arguments_that_do_not_fit():
    group = ss.parallel.threads(2)[0]
    with pytest.raises(TypeError, match="group: got int"):
        ss.torch.SyncBatchNorm(2, group=1)
    with pytest.raises(ValueError, match="beside process_group"):
        ss.torch.SyncBatchNorm(2, process_group="gloo", group=group)
    layer = ss.torch.SyncBatchNorm(2, group=group)
    for x, error, message in (
        (torch.ones(2), ValueError, r"\(N, C\)"),
        (torch.ones(2, 3), ValueError, "running_mean: got shape|weight: got shape"),
        (torch.ones(2, 2, dtype=torch.int32), TypeError, "input: got torch.int32"),
        (torch.ones(2, 2, device="meta"), NotImplementedError, "traced|meta"),
    ):
        with pytest.raises(error, match=message):
            layer(x)
    assert layer.num_batches_tracked == 0


def test_networks_are_converted_with_all_they_have():
    group = ss.parallel.threads(2)[0]
    net = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3, eps=0.1, momentum=None),
        ss.torch.BatchNorm1d(3, relu=True),
        torch.nn.SyncBatchNorm(3),
        torch.nn.ReLU(),
    )
    net.append(net[0]).eval()
    tensors = [*net.parameters(), *net.buffers()]
    assert sync_batchnorm(net, group) is net
    assert [type(m) is ss.torch.SyncBatchNorm for m in net] == [True, True, True, False, True]
    assert net[4] is net[0]
    assert all(a is b for a, b in zip(tensors, [*net.parameters(), *net.buffers()], strict=True))
    assert [net[0].eps, net[0].momentum, net[0].relu, net[1].relu, net[0].training] == [
        0.1,
        None,
        False,
        True,
        False,
    ]
    assert all(net[i].group is group for i in (0, 1, 2))
    assert copy.deepcopy(net)[0].group is group
    single = sync_batchnorm(torch.nn.BatchNorm1d(3))
    assert type(single) is ss.torch.SyncBatchNorm
    assert single.group is None
    same(pickle.loads(pickle.dumps(single))(torch.eye(3)), ss.torch.BatchNorm1d(3)(torch.eye(3)))
    with pytest.raises(TypeError, match="group: got int"):
        sync_batchnorm(net, 1)
