"""torch.distributed, as each of two processes sees it over gloo; see ranks.py."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.distributed.checkpoint.state_dict as state_dicts
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from .cases import case
from .sides import LAYERS, OPTIMIZER, OPTIONS, Side, state

BOTH = (*LAYERS, *OPTIMIZER)
TWO = {"processes": 2}
D = "torch.distributed."


def _whole(values: Any) -> Any:
    """Shards gathered, so that a state can be compared."""
    return torch.utils._pytree.tree_map_only(
        Tensor, lambda t: (t.full_tensor() if hasattr(t, "full_tensor") else t).detach().clone(), values
    )


@case("torch.nn.parallel.DistributedDataParallel", BOTH, **TWO)
def ddp(side: Side) -> dict[str, Any]:
    return side.trained(DistributedDataParallel(side.network()))


@case("torch.nn.parallel.DistributedDataParallel, broadcast_buffers, other batches", BOTH, **TWO)
def ddp_buffers(side: Side) -> dict[str, Any]:
    """Each process has batches of its own: running statistics are those of the first."""
    network = DistributedDataParallel(side.network())

    def call(x: Tensor) -> Tensor:
        return network(x + dist.get_rank())

    return side.trained(network, call)


@case("torch.nn.parallel.DistributedDataParallel, gradient_as_bucket_view, static_graph", BOTH, **TWO)
def ddp_views(side: Side) -> dict[str, Any]:
    """Gradients that are views of a bucket, not aligned on their own."""
    return side.trained(
        DistributedDataParallel(side.network(), gradient_as_bucket_view=True, static_graph=True)
    )


@case(D + "algorithms.ddp_comm_hooks.default_hooks.fp16_compress_hook", BOTH, dtype=torch.float32, **TWO)
def compressed(side: Side) -> dict[str, Any]:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    network = DistributedDataParallel(side.network())
    network.register_comm_hook(None, default_hooks.fp16_compress_hook)
    x = side.random(5, 3, 6, 6)
    network(x).square().mean().backward()
    side.optimizer(network.parameters()).step()
    return {key: torch.round(64 * value.double()) for key, value in state(network).items()}


@case("torch.nn.SyncBatchNorm.convert_sync_batchnorm", LAYERS, **TWO)
def sync(side: Side) -> dict[str, Any]:
    network = nn.SyncBatchNorm.convert_sync_batchnorm(side.network())
    return {"type": type(network.bn).__name__, "state": list(network.state_dict())}


@case(D + "optim.ZeroRedundancyOptimizer", OPTIMIZER, **TWO)
def zero(side: Side) -> dict[str, Any]:
    network = DistributedDataParallel(side.network())
    optimizer = ZeroRedundancyOptimizer(
        network.parameters(), optimizer_class=side.optimizer_class(), **OPTIONS[side.optimizer_name]
    )
    losses = []
    for t in range(3):
        optimizer.zero_grad()
        loss = network(side.random(5, 3, 6, 6, seed=t)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    optimizer.consolidate_state_dict(to=0)
    found = {"losses": losses, "network": state(network)}
    if dist.get_rank() == 0:
        kept = optimizer.state_dict()
        found["optimizer"] = {k: dict(sorted(v.items())) for k, v in sorted(kept["state"].items())}
    return found


@case(D + "optim.PostLocalSGDOptimizer", OPTIMIZER, **TWO)
def post_local(side: Side) -> dict[str, Any]:
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer

    network = side.network()
    optimizer = PostLocalSGDOptimizer(
        side.optimizer(network.parameters()), PeriodicModelAverager(period=2, warmup_steps=0)
    )
    for t in range(4):
        optimizer.zero_grad()
        network(side.random(5, 3, 6, 6, seed=t + 7 * dist.get_rank())).square().mean().backward()
        optimizer.step()
    return state(network)


@case(D + "optim._apply_optimizer_in_backward", OPTIMIZER, **TWO)
def in_backward(side: Side) -> dict[str, Any]:
    from torch.distributed.optim import _apply_optimizer_in_backward

    network = side.network()
    _apply_optimizer_in_backward(side.optimizer_class(), network.parameters(), OPTIONS[side.optimizer_name])
    for t in range(3):
        network(side.random(5, 3, 6, 6, seed=t)).square().mean().backward()
    return state(network)


def _sharded(side: Side, **options: Any) -> Any:
    return fully_shard(side.network(), mesh=init_device_mesh("cpu", (2,)), **options)


@case(D + "fsdp.fully_shard", BOTH, covers=[D + "fsdp.FSDPModule"], **TWO)
def fsdp2(side: Side) -> dict[str, Any]:
    network = _sharded(side)
    return _whole(side.trained(network))


@case(D + "fsdp.fully_shard, clip_grad_norm_", BOTH, **TWO)
def fsdp2_clipped(side: Side) -> dict[str, Any]:
    network = _sharded(side)
    optimizer = side.optimizer(network.parameters())
    network(side.images()).square().sum().backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    optimizer.step()
    return _whole({"norm": norm, "state": dict(network.state_dict())})


@case(
    D + "fsdp.MixedPrecisionPolicy",
    LAYERS,
    dtype=torch.float32,
    not_in_torch="expected scalar type BFloat16 but found Float",
    **TWO,
)
def fsdp2_mixed(side: Side) -> Any:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    network = _sharded(side, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    y = network(side.images())
    y.float().sum().backward()
    return {"y": torch.round(4 * y.detach().float()), "dtype": str(y.dtype)}


@case(D + "fsdp.FullyShardedDataParallel", BOTH, **TWO)
def fsdp1(side: Side) -> dict[str, Any]:
    network = FullyShardedDataParallel(side.network(), device_id=torch.device("cpu"))
    optimizer = side.optimizer(network.parameters())
    losses = []
    for t in range(3):
        optimizer.zero_grad()
        loss = network(side.random(5, 3, 6, 6, seed=t)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    kept = FullyShardedDataParallel.optim_state_dict(network, optimizer)
    return {"losses": losses, "optimizer": {k: dict(sorted(v.items())) for k, v in kept["state"].items()}}


@case(
    D + "checkpoint.state_dict.get_state_dict and set_state_dict",
    BOTH,
    covers=[
        D + f"checkpoint.state_dict.{name}"
        for name in (
            "get_model_state_dict",
            "get_optimizer_state_dict",
            "set_model_state_dict",
            "set_optimizer_state_dict",
            "set_state_dict",
        )
    ],
    **TWO,
)
def distributed_checkpoint(side: Side) -> dict[str, Any]:
    network = _sharded(side)
    optimizer = side.optimizer(network.parameters())
    side.train(network, optimizer)
    model, optim = state_dicts.get_state_dict(network, optimizer)
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(folder)
    dcp.save({"model": model, "optim": optim}, checkpoint_id=Path(folder[0]) / "c")
    network = _sharded(side)
    optimizer = side.optimizer(network.parameters())
    model, optim = state_dicts.get_state_dict(network, optimizer)
    dcp.load({"model": model, "optim": optim}, checkpoint_id=Path(folder[0]) / "c")
    state_dicts.set_state_dict(network, optimizer, model_state_dict=model, optim_state_dict=optim)
    found = _whole(side.train(network, optimizer))
    names = sorted(state_dicts.get_optimizer_state_dict(network, optimizer)["state"])
    return {"found": found, "names": names}


@case(D + "checkpoint.state_dict.StateDictOptions(full_state_dict=True)", BOTH, **TWO)
def full_state(side: Side) -> dict[str, Any]:
    network = _sharded(side)
    optimizer = side.optimizer(network.parameters())
    side.train(network, optimizer)
    options = state_dicts.StateDictOptions(full_state_dict=True)
    kept = state_dicts.get_optimizer_state_dict(network, optimizer, options=options)
    network.zero_grad()  # state is made for parameters without a gradient alone
    other = side.optimizer(network.parameters())
    state_dicts.set_optimizer_state_dict(network, other, kept, options=options)
    return _whole(side.train(network, other))


@case(D + "pipelining.ScheduleGPipe", BOTH, covers=[D + "pipelining.PipelineStage"], **TWO)
def pipeline(side: Side) -> dict[str, Any]:
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    network, rank = side.network(), dist.get_rank()
    part = network[:3] if rank == 0 else network[3:]
    stage = PipelineStage(part, rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, n_microbatches=2, loss_fn=lambda y, target: (y - target).square().mean())
    optimizer = side.optimizer(part.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        if rank == 0:
            schedule.step(side.random(6, 3, 6, 6))
        else:
            schedule.step(target=side.random(6, 2))
        optimizer.step()
    return state(part)


@case(D + "pipelining.pipeline", LAYERS, covers=[D + "pipelining.SplitPoint", D + "pipelining.Pipe"], **TWO)
def split_pipeline(side: Side) -> list[str]:
    from torch.distributed.pipelining import SplitPoint
    from torch.distributed.pipelining import pipeline as split

    pipe = split(side.network().eval(), (side.images(),), split_spec={"pool": SplitPoint.BEGINNING})
    return [name for i in range(2) for name, _ in pipe.get_stage_module(i).named_parameters()]


@case(D + "tensor.distribute_tensor", OPTIMIZER, covers=[D + "tensor.distribute_tensor"], **TWO)
def dtensors(side: Side) -> dict[str, Any]:
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    weight = nn.Parameter(distribute_tensor(side.random(5, 3), mesh, [Shard(0)]))
    optimizer = side.optimizer([weight])
    for t in range(3):
        optimizer.zero_grad()
        (weight * distribute_tensor(side.random(5, 3, seed=t), mesh, [Shard(0)])).square().sum().backward()
        optimizer.step()
    return _whole({"weight": weight})


@case(D + "_composable.replicate", BOTH, **TWO)
def replicate(side: Side) -> dict[str, Any]:
    from torch.distributed._composable import replicate as replicated

    return side.trained(replicated(side.network()))


@case(D + "algorithms._checkpoint.checkpoint_wrapper", LAYERS, **TWO)
def checkpoint_wrapper(side: Side) -> dict[str, Any]:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper as wrapper

    return side.trained(wrapper(side.network()))


@case(D + "optim.DistributedOptimizer", OPTIMIZER, **TWO)
def by_rpc(side: Side) -> dict[str, Any]:
    """Gradients and steps by RPC; each process is a group of its own."""
    from torch.distributed import autograd, rpc
    from torch.distributed.optim import DistributedOptimizer

    network = side.network()
    with tempfile.TemporaryDirectory() as folder:
        options = rpc.TensorPipeRpcBackendOptions(init_method=f"file://{folder}/meet")
        rpc.init_rpc("alone", rank=0, world_size=1, rpc_backend_options=options)
        try:
            references = [rpc.RRef(p) for p in network.parameters()]
            optimizer = DistributedOptimizer(
                side.optimizer_class(), references, **OPTIONS[side.optimizer_name]
            )
            for t in range(3):
                with autograd.context() as context:
                    loss = network(side.random(5, 3, 6, 6, seed=t)).square().mean()
                    autograd.backward(context, [loss])
                    optimizer.step(context)
            del references, optimizer
        finally:
            rpc.shutdown()
    return state(network)
