"""torch.optim: schedulers, averages, hooks; torch.amp."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

from .cases import case, rebuild
from .sides import LAYERS, OPTIMIZER, Side, state

BOTH = (*LAYERS, *OPTIMIZER)


def _schedule(name: str, make: Any, *arguments: Any) -> None:
    """Registers six steps with a scheduler, saved and loaded half way."""

    def run(side: Side) -> list[Any]:
        network = side.network()
        optimizer = side.optimizer(network.parameters())
        scheduler, found = make(optimizer), []
        for t in range(6):
            if t == 3:
                saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
                optimizer = side.optimizer(network.parameters())
                scheduler = make(optimizer)
                optimizer.load_state_dict(saved[0])
                scheduler.load_state_dict(saved[1])
            found.append(side.train(network, optimizer, steps=1))
            scheduler.step(*arguments)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    run.__module__ = __name__
    case(f"torch.optim.lr_scheduler.{name}", OPTIMIZER)(run)


S = lr_scheduler
_schedule("LambdaLR", lambda o: S.LambdaLR(o, lambda t: 0.9**t))
_schedule("MultiplicativeLR", lambda o: S.MultiplicativeLR(o, lambda t: 0.9))
_schedule("StepLR", lambda o: S.StepLR(o, 2))
_schedule("MultiStepLR", lambda o: S.MultiStepLR(o, [1, 3]))
_schedule("ConstantLR", lambda o: S.ConstantLR(o, 0.5, 3))
_schedule("LinearLR", lambda o: S.LinearLR(o, 0.5, total_iters=4))
_schedule("ExponentialLR", lambda o: S.ExponentialLR(o, 0.8))
_schedule("SequentialLR", lambda o: S.SequentialLR(o, [S.ConstantLR(o), S.ExponentialLR(o, 0.9)], [2]))
_schedule("ChainedScheduler", lambda o: S.ChainedScheduler([S.ConstantLR(o), S.ExponentialLR(o, 0.9)]))
_schedule("CosineAnnealingLR", lambda o: S.CosineAnnealingLR(o, 4))
_schedule("CosineAnnealingWarmRestarts", lambda o: S.CosineAnnealingWarmRestarts(o, 2))
_schedule("PolynomialLR", lambda o: S.PolynomialLR(o, 4))
_schedule("ReduceLROnPlateau", lambda o: S.ReduceLROnPlateau(o, patience=1), 1.0)
_schedule("CyclicLR", lambda o: S.CyclicLR(o, 0.001, 0.1, 2, cycle_momentum=False))
_schedule("OneCycleLR", lambda o: S.OneCycleLR(o, 0.1, total_steps=12, cycle_momentum="betas" in o.defaults))
_schedule(
    "CyclicLR, of momentum", lambda o: S.CyclicLR(o, 0.001, 0.1, 2, cycle_momentum="betas" in o.defaults)
)


@case("torch.optim.swa_utils.SWALR", OPTIMIZER)
def swa_lr(side: Side) -> list[Any]:
    network = side.network()
    optimizer = side.optimizer(network.parameters())
    scheduler = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    found = []
    for _ in range(3):
        found.append(side.train(network, optimizer, steps=1))
        scheduler.step()
    return found


def _averaged(name: str, **options: Any) -> None:
    def run(side: Side) -> dict[str, Any]:
        network = side.network()
        average = swa_utils.AveragedModel(network, **options)
        optimizer = side.optimizer(network.parameters())
        for _ in range(3):
            side.train(network, optimizer, steps=1)
            average.update_parameters(network)
        return {"state": state(average), "y": average.eval()(side.images())}

    run.__module__ = __name__
    case(f"torch.optim.swa_utils.{name}", BOTH)(run)


_averaged("AveragedModel")
_averaged("AveragedModel, use_buffers", use_buffers=True)
_averaged("get_ema_multi_avg_fn", multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
_averaged("get_swa_multi_avg_fn", multi_avg_fn=swa_utils.get_swa_multi_avg_fn())
_averaged("get_ema_avg_fn", avg_fn=swa_utils.get_ema_avg_fn(0.9))
_averaged("get_swa_avg_fn", avg_fn=swa_utils.get_swa_avg_fn())


@case("torch.optim.swa_utils.update_bn")
def update_bn(side: Side) -> dict[str, Any]:
    network = side.network()
    swa_utils.update_bn([side.random(5, 3, 6, 6, seed=s) for s in range(3)], network)
    return {"state": state(network), "momentum": network.bn.momentum, "training": network.training}


@case("torch.optim.Optimizer's hooks", OPTIMIZER)
def hooks(side: Side) -> list[Any]:
    network, seen = side.network(), []
    optimizer = side.optimizer(network.parameters())
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_state_dict_post_hook(lambda *_: seen.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("loading"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    found = side.train(network, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    return [seen, found]


@case("torch.optim.Optimizer.step(closure)", OPTIMIZER)
def closures(side: Side) -> dict[str, Any]:
    network = side.network()
    optimizer = side.optimizer(network.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = network(side.images()).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).detach() for _ in range(3)]
    return {"losses": losses, "network": state(network), "optimizer": state(optimizer)}


@case("torch.optim.Optimizer.add_param_group", OPTIMIZER)
def groups(side: Side) -> dict[str, Any]:
    network = side.network()
    optimizer = side.optimizer(network.conv.parameters())
    side.train(network, optimizer)
    optimizer.add_param_group({"params": list(network.bn.parameters()), "lr": 0.02, "weight_decay": 0.1})
    return side.train(network, optimizer)


@case("torch.optim.Optimizer, by names of parameters", OPTIMIZER)
def named(side: Side) -> dict[str, Any]:
    network = side.network()
    return side.train(network, side.optimizer(network.named_parameters()))


def _option(name: str, classes: tuple[str, ...] = (), **options: Any) -> None:
    def run(side: Side) -> Any:
        if classes and side.optimizer_name not in classes:
            return None
        network = side.network()
        return side.train(network, side.optimizer(network.parameters(), **options))

    run.__module__ = __name__
    case(f"torch.optim.Optimizer, {name}", OPTIMIZER)(run)


_option("maximize", maximize=True)
_option("weight_decay", weight_decay=0.1)
_option("lr of a tensor", classes=("Adam", "AdamW", "SGD"), lr=torch.tensor(0.01, dtype=torch.float64))
_option("foreach", foreach=True)
_option("fused", classes=("SGD", "Adagrad", "Adam", "AdamW"), fused=True)


@case("torch.optim.Optimizer, differentiable", OPTIMIZER)
def differentiable(side: Side) -> Tensor:
    """The derivative of a step by the parameter before it."""
    start = side.random(4).requires_grad_()
    moved = start.clone()
    optimizer = side.optimizer([moved], differentiable=True)
    moved.grad = start.detach() + 1
    optimizer.step()
    moved.square().sum().backward()
    return start.grad


@case("torch.optim.Optimizer, capturable", OPTIMIZER, not_in_torch="capturable")
def capturable(side: Side) -> Any:
    network = side.network()
    if "capturable" not in inspect.signature(side.optimizer_class()).parameters:
        raise TypeError(f"{side.optimizer_name} has no option capturable")
    return side.train(network, side.optimizer(network.parameters(), capturable=True))


@case("inspect.signature", BOTH)
def signature(side: Side) -> dict[str, str]:
    """All arguments of torch's, with their defaults."""
    layer = inspect.signature(type(side.batch_norm())).parameters
    optimizer = inspect.signature(side.optimizer_class()).parameters
    found = {name: str(one.default) for name, one in [*layer.items(), *optimizer.items()]}
    found.pop("relu", None)
    return found


@case("torch.amp.GradScaler", BOTH)
def grad_scaler(side: Side) -> dict[str, Any]:
    network = side.network()
    optimizer, scaler = side.optimizer(network.parameters()), torch.amp.GradScaler("cpu", init_scale=4.0)
    for t in range(4):
        optimizer.zero_grad()
        loss = network(side.random(5, 3, 6, 6, seed=t)).square().mean()
        scaler.scale(loss * (torch.inf if t == 1 else 1)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return {"scaler": scaler.state_dict(), "optimizer": state(optimizer), "network": state(network)}


@case("torch.amp.autocast, bfloat16", LAYERS, dtype=torch.float32)
def autocast(side: Side) -> dict[str, Any]:
    """The convolution is computed in bfloat16, whose rounding is what two implementations may differ by."""
    network = side.network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        middle = network.conv(side.images())
        y = network(side.images())
        norm = network.bn(middle)
    y.float().square().mean().backward()
    return {"dtypes": [str(t.dtype) for t in (middle, norm, y)], "y": torch.round(8 * y.detach().float())}


@rebuild("torch.amp.autocast, disabled inside", dtype=torch.float32, bits=True)
def autocast_off(network: Any, x: Tensor) -> Any:
    def call(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return network(x)

    return call
