"""What two processes train together over gloo, for test_torch_distributed.py: python torch_ranks.py RANK DIR.

Every way of sharing the work sees the same batch on both ranks, so that averaging gradients changes no bit.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import samestep as ss
import samestep.torch
from samestep.torch.optimizers import OPTIMIZERS

STEPS, HALF = 4, 2
HYPER = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "Adagrad": {"lr": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "Adam": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01},
}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 7), samestep.torch.BatchNorm1d(7, relu=True), torch.nn.Linear(7, 3, bias=False)
    )


def train(model, optimizer, first, last):
    for t in range(first, last):
        generator = torch.Generator().manual_seed(t)
        x, y = torch.randn(16, 6, generator=generator), torch.randn(16, 3, generator=generator)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        samestep.torch.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


def digest(model):
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return ss.digest([p.detach().numpy() for p in whole])


def alone(cls, hyper, folder):
    model = network()
    train(model, cls(model.parameters(), **hyper), 0, STEPS)
    return digest(model)


def ddp(cls, hyper, folder):
    model = DistributedDataParallel(network())
    train(model, cls(model.parameters(), **hyper), 0, STEPS)
    return digest(model)


def zero(cls, hyper, folder):
    """Sharded state; half way it is consolidated, saved, and loaded by every rank."""

    def made(model):
        return ZeroRedundancyOptimizer(model.parameters(), optimizer_class=cls, **hyper)

    model = DistributedDataParallel(network())
    optimizer = made(model)
    train(model, optimizer, 0, HALF)
    optimizer.consolidate_state_dict(to=0)
    file = folder / f"zero_{cls.__name__}.pt"
    if dist.get_rank() == 0:
        torch.save(optimizer.state_dict(), file)
    dist.barrier()
    optimizer = made(model)
    optimizer.load_state_dict(torch.load(file))
    train(model, optimizer, HALF, STEPS)
    return digest(model)


def consolidated(cls, hyper, folder):
    """The state that zero() consolidated goes on in one process's optimizer."""
    model = network()
    optimizer = cls(model.parameters(), **hyper)
    train(model, optimizer, 0, HALF)
    optimizer.load_state_dict(torch.load(folder / f"zero_{cls.__name__}.pt"))
    train(model, optimizer, HALF, STEPS)
    return digest(model)


def fsdp(cls, hyper, folder):
    """Sharded parameters, gradients and state; half way through a distributed checkpoint."""
    mesh = init_device_mesh("cpu", (2,))

    def made():
        model = fully_shard(network(), mesh=mesh)
        return model, cls(model.parameters(), **hyper)

    model, optimizer = made()
    train(model, optimizer, 0, HALF)
    names = ("model", "optimizer")
    where = folder / f"fsdp_{cls.__name__}"
    dcp.save(dict(zip(names, get_state_dict(model, optimizer), strict=True)), checkpoint_id=where)
    model, optimizer = made()
    state = dict(zip(names, get_state_dict(model, optimizer), strict=True))
    dcp.load(state, checkpoint_id=where)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    train(model, optimizer, HALF, STEPS)
    return digest(model)


WAYS = (alone, ddp, zero, consolidated, fsdp)

if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for cls in OPTIMIZERS:
        for way in WAYS:
            found[f"{cls.__name__} {way.__name__}"] = way(cls, HYPER[cls.__name__], folder)
            dist.barrier()
    (folder / f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    # Torch's threads are left to the system: taking them down while the other rank does has ended in abort()
    # once in a few dozen runs.
    sys.stderr.flush()
    os._exit(0)
