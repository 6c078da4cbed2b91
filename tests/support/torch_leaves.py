"""What processes train over gloo, for test_torch_parallel_processes.py: torch_leaves.py RANK SIZE DIR.

Every way trains one network with the same leaves; each process writes the digests of what it ends with.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import samestep as ss
import samestep.torch

STEPS, EXAMPLES = 3, 4
LEAVES = (8, 12)
OPTIMIZERS = {"Adam": lambda params: ss.torch.Adam(params, lr=0.05)}
OPTIMIZERS["SGD"] = lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9)


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


def narrow(make_optimizer, leaves):
    """Computed in 16 bits."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(init_device_mesh("cpu", (dist.get_world_size(),)), mp_policy=policy)
    optimizer = make_optimizer(model.parameters())
    train(model, ss.torch.parallel.fsdp(model, optimizer, leaves=leaves), optimizer, leaves)
    return digest(model)


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


WAYS = (ddp, wrapped, fsdp, narrow, stock)

if __name__ == "__main__":
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{size}", rank=rank, world_size=size)
    found = {
        f"{way.__name__} {name} {leaves}": way(make_optimizer, leaves)
        for leaves in LEAVES
        for name, make_optimizer in OPTIMIZERS.items()
        for way in WAYS
    }
    (folder / f"{rank}-of-{size}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    # As in torch_ranks.py: torch's threads are left to the system.
    sys.stderr.flush()
    os._exit(0)
