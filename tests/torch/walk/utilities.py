"""torch.utils: checkpoints of activations, counters, swaps; copies, files and other processes."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint as checkpoints
from torch import Tensor, nn

from .cases import case, fuse, rebuild, same_bits
from .sides import LAYERS, OPTIMIZER, Side, passes, state

BOTH = (*LAYERS, *OPTIMIZER)


def _checkpointed(reentrant: bool) -> Any:
    def forward(network: Any, x: Tensor) -> Any:
        return lambda x: checkpoints.checkpoint(network, x, use_reentrant=reentrant)

    return forward


rebuild("torch.utils.checkpoint.checkpoint, use_reentrant=False")(_checkpointed(False))
rebuild("torch.utils.checkpoint.checkpoint, use_reentrant=True")(_checkpointed(True))


def _in_segments(reentrant: bool) -> Any:
    def forward(network: Any, x: Tensor) -> Any:
        return lambda x: checkpoints.checkpoint_sequential(network, 2, x, use_reentrant=reentrant)

    return forward


rebuild("torch.utils.checkpoint.checkpoint_sequential, use_reentrant=False")(_in_segments(False))
rebuild("torch.utils.checkpoint.checkpoint_sequential, use_reentrant=True")(_in_segments(True))


@rebuild(
    "torch.utils.checkpoint.create_selective_checkpoint_contexts",
    covers=["torch.utils.checkpoint.CheckpointPolicy", "torch.utils.checkpoint.SelectiveCheckpointContext"],
)
def selective(network: Any, x: Tensor) -> Any:
    """The convolution is kept; everything else is computed again."""

    def context() -> Any:
        return checkpoints.create_selective_checkpoint_contexts([torch.ops.aten.convolution.default])

    return lambda x: checkpoints.checkpoint(network, x, use_reentrant=False, context_fn=context)


@fuse("torch.utils.mkldnn.to_mkldnn", dtype=torch.float32)
def to_mkldnn(network: Any, x: Tensor) -> Any:
    from torch.utils import mkldnn

    converted = mkldnn.to_mkldnn(network)

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.converted = converted

        def forward(self, x: Tensor) -> Tensor:
            return self.converted(x.to_mkldnn()).to_dense()

    return Dense()


@case("torch.utils.flop_counter.FlopCounterMode")
def flops(side: Side) -> Any:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        side.network()(side.images()).sum().backward()
    return counter.get_total_flops()


@case("torch.utils.module_tracker.ModuleTracker")
def tracker(side: Side) -> list[Any]:
    from torch.utils.module_tracker import ModuleTracker

    network, seen = side.network(), []
    network.bn.register_forward_hook(lambda *_: seen.append(sorted(parents.parents)))
    with ModuleTracker() as parents:
        network(side.images()).sum().backward()
    return seen


@case("torch.utils.swap_tensors", BOTH)
def swap(side: Side) -> dict[str, Any]:
    network = side.network()
    optimizer = side.optimizer(network.parameters())
    side.train(network, optimizer)
    for p in network.parameters():
        torch.utils.swap_tensors(p, nn.Parameter(p.detach() * 0.5))
    return side.train(network, optimizer)


@case("torch.__future__.set_swap_module_params_on_conversion", BOTH)
def swap_on_conversion(side: Side) -> dict[str, Any]:
    network = side.network()
    optimizer = side.optimizer(network.parameters())
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        network.to(torch.float32).to(side.dtype)
        network.load_state_dict(network.state_dict())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    return side.train(network, optimizer)


@case("torch.utils.benchmark and torch.profiler")
def profiled(side: Side) -> Any:
    with torch.profiler.profile() as profile:
        y = passes(side.network(), side.images())
    return {"y": y, "convolutions": [e.count for e in profile.key_averages() if e.key == "aten::conv2d"]}


@case("torch.autograd.graph.save_on_cpu and saved_tensors_hooks")
def saved_tensors(side: Side) -> dict[str, Any]:
    with torch.autograd.graph.save_on_cpu():
        return passes(side.network(), side.images())


@case("torch.autograd.detect_anomaly")
def anomaly(side: Side) -> dict[str, Any]:
    with torch.autograd.detect_anomaly():
        return passes(side.network(), side.images())


@case("torch.inference_mode")
def inference_mode(side: Side) -> dict[str, Any]:
    network = side.network()
    with torch.inference_mode():
        y = network(side.images())
    return {"y": y.clone(), "state": state(network)}


@case("torch.use_deterministic_algorithms", BOTH)
def deterministic(side: Side) -> dict[str, Any]:
    torch.use_deterministic_algorithms(True)
    try:
        return side.trained(side.network())
    finally:
        torch.use_deterministic_algorithms(False)


@case("torch.nn.DataParallel, without a GPU", BOTH)
def data_parallel(side: Side) -> dict[str, Any]:
    return side.trained(nn.DataParallel(side.network()))


@rebuild("copy.deepcopy", bits=True)
def deepcopy(network: Any, x: Tensor) -> Any:
    return copy.deepcopy(network)


@rebuild("pickle", bits=True)
def pickled(network: Any, x: Tensor) -> Any:
    return pickle.loads(pickle.dumps(network))


def _reload(value: Any, **options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "saved.pt"
        torch.save(value, file)
        return copy.deepcopy(torch.load(file, **options))


def _resumed(**options: Any) -> Any:
    """Three steps, a file, and three steps by new objects."""

    def run(side: Side) -> dict[str, Any]:
        network = side.network()
        optimizer = side.optimizer(network.parameters())
        side.train(network, optimizer)
        kept = _reload({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, **options)
        network = side.network()
        optimizer = side.optimizer(network.parameters())
        network.load_state_dict(kept["network"])
        optimizer.load_state_dict(kept["optimizer"])
        found = side.train(network, optimizer)
        if side.ours:
            network = side.network()
            optimizer = side.optimizer(network.parameters())
            side.train(network, optimizer)
            same_bits(found, side.train(network, optimizer))
        return found

    return run


case("torch.load(weights_only=True)", BOTH, bits=True, covers=["torch.serialization.save"])(
    _resumed(weights_only=True)
)
case("torch.load(mmap=True)", BOTH, bits=True)(_resumed(mmap=True))


@case("torch.load of whole objects", BOTH)
def whole_objects(side: Side) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(side.network(), file)
    file.seek(0)
    return side.trained(torch.load(file, weights_only=False))


@case("torch.serialization.safe_globals", covers=["torch.serialization.add_safe_globals"])
def allowed(side: Side) -> dict[str, Any]:
    """A layer as a whole object, whose class alone is allowed."""
    layer, file = side.batch_norm(), io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    classes = [type(layer), torch.nn.modules.module.Module, set]
    with torch.serialization.safe_globals(classes):
        loaded = torch.load(file, weights_only=True)
    return passes(nn.Sequential(loaded, side.activation()), side.random(5, 4, 3, 3))


@case("copy.deepcopy and pickle of an optimizer", OPTIMIZER, bits=True)
def copied_optimizer(side: Side) -> dict[str, Any]:
    found = []
    for copied in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair)), lambda pair: pair):
        network = side.network()
        optimizer = side.optimizer(network.parameters())
        side.train(network, optimizer)
        network, optimizer = copied((network, optimizer))
        found.append(side.train(network, optimizer))
    if side.ours:
        same_bits(found[0], found[2])
        same_bits(found[1], found[2])
    return {"deepcopy": found[0], "pickle": found[1]}


@case("torch.nn.Module.share_memory and torch.multiprocessing", BOTH)
def shared(side: Side) -> dict[str, Any]:
    """A forked process trains; its steps are in the memory of this one."""
    network = side.network().share_memory()
    optimizer = side.optimizer(network.parameters())
    context = torch.multiprocessing.get_context("fork")
    child = context.Process(target=_train_alone, args=(side, network, optimizer))
    child.start()
    child.join(60)
    return {"code": child.exitcode, "state": state(network)}


def _train_alone(side: Side, network: nn.Module, optimizer: Any) -> None:
    torch.set_num_threads(1)
    side.train(network, optimizer)
