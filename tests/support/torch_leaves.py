"""What processes train over gloo for test_torch_parallel_processes.py.

Every way trains one network with the same leaves, and ends with a digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import samestep as ss
import samestep.torch

STEPS, EXAMPLES = 3, 4
LEAVES = (8, 12)
OPTIMIZERS = {
    "Adam": lambda params: ss.torch.Adam(params, lr=0.05),
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
}
OF_ARRAYS = {"Adam": lambda part: ss.Adam(part, lr=0.05)}
OF_ARRAYS["SGD"] = lambda part: ss.Momentum(part, lr=0.05, momentum=0.9, form="torch")


class Network(torch.nn.Module):
    """Widths that no number of workers divides, a frozen parameter, one in two places, buffers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(
                ss.torch.Linear(7, 23), ss.torch.BatchNorm1d(23, relu=True), torch.nn.Linear(23, 7)
            )
            for _ in range(2)
        )
        self.scale = torch.nn.Parameter(torch.ones(7))
        self.shift = torch.nn.Parameter(torch.full((7,), 0.1), requires_grad=False)

    def forward(self, x):
        for block in self.blocks:
            x = block(x) * self.scale + self.shift
        return x


def digest(model):
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    buffers = [b.to(torch.float64).reshape(-1) for b in model.buffers()]
    return ss.digest([t.detach().contiguous().numpy() for t in (*whole, *buffers)])


def train(model, sync, optimizer, leaves):
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(leaves * EXAMPLES, 7, generator=generator)
        for leaf in sync.leaves:
            here = x[leaf * EXAMPLES :][:EXAMPLES]
            with sync.leaf(leaf, weight=1.0 + leaf % 3):
                (model(here) - here.flip(0)).square().mean().backward()
        optimizer.step()


def ddp(make_optimizer, leaves):
    model = Network()
    optimizer = make_optimizer(model.parameters())
    train(model, ss.torch.parallel.ddp(model, optimizer, leaves=leaves), optimizer, leaves)
    return digest(model)


def wrapped(make_optimizer, leaves):
    """The same with the model in a DistributedDataParallel, whose small buckets decide nothing."""
    model = DistributedDataParallel(Network(), bucket_cap_mb=0.001)
    optimizer = make_optimizer(model.parameters())
    train(model, ss.torch.parallel.ddp(model, optimizer, leaves=leaves), optimizer, leaves)
    return digest(model)


def zero(make_optimizer, leaves):
    """The same rules on arrays, their state spread over the workers."""
    make = next(OF_ARRAYS[name] for name, one in OPTIMIZERS.items() if one is make_optimizer)
    model = Network()
    sync = ss.torch.parallel.Sharded(make, model, leaves=leaves)
    train(model, sync, sync, leaves)
    return digest(model)


def synchronised(make_optimizer, leaves):
    """A batch norm of a whole batch; each worker has other numbers of samples."""
    size, rank = dist.get_world_size(), dist.get_rank()
    generator = torch.Generator().manual_seed(leaves)
    x, dy = torch.randn(2, 50, 4, 30, 9, generator=generator)
    cuts = [50 * (i * i) // (size * size) for i in range(size + 1)]
    own = slice(cuts[rank], cuts[rank + 1])
    layer = ss.torch.SyncBatchNorm(4, relu=True)
    mine = x[own].clone().requires_grad_()
    y = layer(mine)
    y.backward(dy[own])
    group = ss.parallel.torch_distributed()
    sizes = [(cuts[i + 1] - cuts[i]) * x[0].numel() for i in range(size)]
    whole = [group.all_gather(t.detach().reshape(-1).numpy(), sizes) for t in (y, mine.grad)]
    of_all = [t.detach().numpy() for t in (layer.weight.grad, layer.bias.grad, layer.running_var)]
    return ss.digest([np.concatenate(parts) for parts in whole] + of_all)


def sharded(mesh, reshard_after_forward=True, **options):
    model = Network()
    for block in model.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward, **options)
    return fully_shard(model, mesh=mesh, **options)


def fsdp(make_optimizer, leaves):
    model = sharded(init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = make_optimizer(model.parameters())
    train(model, ss.torch.parallel.fsdp(model, optimizer, leaves=leaves), optimizer, leaves)
    return digest(model)


def fsdp_on_cpu_and_gpu(_, library, leaves):
    """The digests of both, and the kernels that were launched: tensors are taken for those of a GPU."""
    import pytest

    import host_cupy
    from torch_place import Place

    here, place = fsdp(OPTIMIZERS["SGD"], leaves), Place()
    place.of_others = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        host_cupy.installed(library, Path(folder)) as kernels,
        pytest.MonkeyPatch.context() as patch,
    ):
        place.install(patch)
        there = fsdp(OPTIMIZERS["SGD"], leaves)
        return here, there, {name for name, *_ in kernels.launches}


def recorded_ddp(make_optimizer, leaves):
    model = Network()
    optimizer = make_optimizer(model.parameters())
    sync = ss.torch.parallel.ddp(model, optimizer, leaves=leaves)
    return record(model, sync, optimizer, leaves)


def recorded_fsdp(make_optimizer, leaves):
    model = sharded(init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = make_optimizer(model.parameters())
    sync = ss.torch.parallel.fsdp(model, optimizer, leaves=leaves)
    return record(model, sync, optimizer, leaves)


def record(model, sync, optimizer, leaves):
    """The sha256 of a training's record."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "run.jsonl"
        with ss.torch.record(optimizer, path, names=model.named_parameters()):
            train(model, sync, optimizer, leaves)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def narrow(make_optimizer, leaves):
    """Computed in 16 bits."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(init_device_mesh("cpu", (dist.get_world_size(),)), mp_policy=policy)
    optimizer = make_optimizer(model.parameters())
    train(model, ss.torch.parallel.fsdp(model, optimizer, leaves=leaves), optimizer, leaves)
    return digest(model)


def repaired(make_optimizer, leaves):
    """As ``fsdp``, but each leaf except a worker's last is first tried in vain; parameters stay unsharded."""
    model = sharded(init_device_mesh("cpu", (dist.get_world_size(),)), reshard_after_forward=False)
    optimizer = make_optimizer(model.parameters())
    sync = ss.torch.parallel.fsdp(model, optimizer, leaves=leaves)
    train(model, Trying(sync, model), optimizer, leaves)
    return digest(model)


class Trying:
    def __init__(self, sync, model):
        self._sync, self._model, self.leaves = sync, model, sync.leaves

    def leaf(self, leaf, weight):
        if leaf != self.leaves[-1]:
            try:
                with self._sync.leaf(leaf, weight=5.0):
                    self._model(torch.ones(2, 7)).sum().backward()
                    raise KeyError
            except KeyError:
                pass
        return self._sync.leaf(leaf, weight)


def twice(make_optimizer, leaves):
    """Two calls of backward in each leaf, the first without FSDP2's reduction."""
    model = sharded(init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = make_optimizer(model.parameters())
    sync = ss.torch.parallel.fsdp(model, optimizer, leaves=leaves)
    x = torch.randn(leaves * EXAMPLES, 7, generator=torch.Generator().manual_seed(0))
    for leaf in sync.leaves:
        here = x[leaf * EXAMPLES :][:EXAMPLES]
        with sync.leaf(leaf):
            for is_last in (False, True):
                model.set_requires_gradient_sync(is_last)
                model(here + is_last).square().mean().backward()
    optimizer.step()
    return digest(model)


def by_itself(make_optimizer, leaves):
    """FSDP2's own interface, without ``fsdp``; leaves of one weight."""
    group = ss.parallel.torch_distributed()
    model = sharded(init_device_mesh("cpu", (group.size,)))
    optimizer = make_optimizer(model.parameters())
    if group.size == 1:
        sync = ss.torch.parallel.fsdp(model, optimizer, leaves=12)
    else:
        for unit in (*model.blocks, model):
            unit.set_custom_reduce_scatter(ss.torch.parallel.ReduceScatter(leaves=12, group=group))
        model.set_reduce_scatter_unused_params(True)
        for unit in (*model.blocks, model):
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
    first = 12 // group.size * group.rank
    for step in range(STEPS):
        x = torch.randn(12 * EXAMPLES, 7, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        for leaf in range(first, first + 12 // group.size):
            here = x[leaf * EXAMPLES :][:EXAMPLES]
            with sync.leaf(leaf) if group.size == 1 else contextlib.nullcontext():
                (model(here) - here.flip(0)).square().mean().backward()
        optimizer.step()
    return ss.digest([p.full_tensor().detach().numpy() for p in model.parameters()])


def missing(make_optimizer, leaves):
    """What worker 0 leaves out is an error on all, and can be made up for."""
    model = sharded(init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = make_optimizer(model.parameters())
    sync = ss.torch.parallel.fsdp(model, optimizer, leaves=leaves)
    x = torch.randn(EXAMPLES, 7, generator=torch.Generator().manual_seed(0))
    message = "none"

    def run(leaf):
        with sync.leaf(leaf):
            model(x).square().mean().backward()

    try:
        for leaf in sync.leaves:
            if leaf > 0:
                run(leaf)
        optimizer.step()
    except ValueError as error:
        message = str(error)
    return message


def stock(make_optimizer, leaves):
    """The control: what torch makes of the same batches, one part a worker."""
    model = DistributedDataParallel(Network())
    optimizer = make_optimizer(model.parameters())
    size, rank = dist.get_world_size(), dist.get_rank()
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(leaves * EXAMPLES, 7, generator=generator)
        here = x[len(x) * rank // size : len(x) * (rank + 1) // size]
        optimizer.zero_grad()
        (model(here) - here.flip(0)).square().mean().backward()
        optimizer.step()
    return digest(model)


RECORDED = (recorded_ddp, recorded_fsdp)
WAYS = (ddp, wrapped, zero, synchronised, fsdp, narrow, repaired, twice, by_itself, missing, stock, *RECORDED)


def digests_of_all_ways(group):
    """By way, optimizer and number of leaves, in a process of torch.distributed."""
    torch.set_num_threads(1)
    ss.set_num_threads(1)
    found = {
        f"{way.__name__} {name} {leaves}": way(make_optimizer, leaves)
        for leaves in LEAVES
        for name, make_optimizer in OPTIMIZERS.items()
        for way in WAYS
    }
    dist.barrier()
    return found
