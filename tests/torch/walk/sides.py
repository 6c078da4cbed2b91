"""The two sides of a comparison: a network and an optimizer of torch's classes, or of samestep's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import samestep.torch
from samestep.torch.optimizers import OPTIMIZERS

LAYERS = ("layer", "relu")
OPTIMIZER = ("optimizer",)
KINDS = {"layer": ("Adam",), "relu": ("Adam",), "optimizer": tuple(cls.__name__ for cls in OPTIMIZERS)}
"""What takes the place of torch's, each with the optimizers that its cases run with."""

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adagrad": {"lr": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.5},
    "Adam": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01},
}


@dataclass(frozen=True)
class Side:
    """Which library a case runs with: ours or torch's, with a ReLU after the batch norm or without."""

    ours: bool
    relu: bool = False
    optimizer_name: str = "Adam"
    dtype: torch.dtype = torch.float64

    def batch_norm(self, dims: int = 2, channels: int = 4, **options: Any) -> nn.Module:
        """The layer alone; of torch's side it has no ReLU."""
        name, options = f"BatchNorm{dims}d", {"dtype": self.dtype, **options}
        if self.ours:
            layer = getattr(samestep.torch, name)(channels, relu=self.relu, **options)
        else:
            layer = getattr(nn, name)(channels, **options)
        with torch.no_grad():
            if layer.affine:
                layer.weight.copy_(torch.linspace(-1, 1.5, channels))
                layer.bias.copy_(torch.linspace(0.5, -0.5, channels))
            if layer.track_running_stats:
                layer.running_mean.copy_(torch.linspace(-0.25, 0.25, channels))
                layer.running_var.copy_(torch.linspace(0.5, 2, channels))
                layer.num_batches_tracked.fill_(3)
        return layer

    def activation(self) -> nn.Module:
        """What stands behind the layer, so that both networks have the same names."""
        return nn.ReLU() if self.relu and not self.ours else nn.Identity()

    def network(self, **options: Any) -> nn.Sequential:
        """A convolution, the batch norm and a classifier; the same weights at every call."""
        torch.manual_seed(1)
        return nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(
                    3, 4, 3, bias=False, dtype=self.dtype
                ),  # the gradient of a bias would be rounding
                bn=self.batch_norm(**options),
                act=self.activation(),
                pool=nn.AdaptiveAvgPool2d(2),
                flat=nn.Flatten(),
                out=nn.Linear(16, 2, dtype=self.dtype),
            )
        )

    def images(self, count: int = 5) -> Tensor:
        return self.random(count, 3, 6, 6)

    def random(self, *shape: int, seed: int = 2) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=self.dtype)

    def optimizer_class(self) -> Any:
        return getattr(samestep.torch if self.ours else torch.optim, self.optimizer_name)

    def optimizer(self, parameters: Any, **options: Any) -> Any:
        return self.optimizer_class()(parameters, **{**OPTIONS[self.optimizer_name], **options})

    def train(self, network: nn.Module, optimizer: Any, steps: int = 3, call: Any = None) -> dict[str, Any]:
        """Some steps of ``call``, or of the network itself; their losses and the state afterwards."""
        losses = []
        for t in range(steps):
            x = self.random(5, 3, 6, 6, seed=10 + t)
            optimizer.zero_grad()
            loss = (call or network)(x).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return {"losses": losses, "network": state(network), "optimizer": state(optimizer)}

    def trained(self, network: nn.Module, call: Any = None) -> dict[str, Any]:
        """``train`` with a new optimizer."""
        return self.train(network, self.optimizer(network.parameters()), call=call)


def state(source: Any) -> dict[str, Any]:
    """A copy of a state dict; of an optimizer's state the order of names is the library's own."""
    copied: dict[str, Any] = torch.utils._pytree.tree_map_only(
        Tensor, lambda t: t.detach().clone(), dict(source.state_dict())
    )
    if "param_groups" in copied:
        copied["state"] = {key: dict(sorted(values.items())) for key, values in copied["state"].items()}
    return copied


def passes(
    call: Callable[[Tensor], Tensor], x: Tensor, backward: bool = True, network: nn.Module | None = None
) -> dict[str, Any]:
    """The result of ``call``, and after a backward pass all gradients and the state of its network."""
    source = call if isinstance(call, nn.Module) else network
    x = x.clone().requires_grad_(backward)
    y = call(x)
    if backward:
        y.pow(3).sum().backward()
    found: dict[str, Any] = {"y": y.detach(), "dx": x.grad}
    if source is not None:
        found["grads"] = {name: p.grad for name, p in sorted(source.named_parameters())}
        found["buffers"] = {name: b.detach().clone() for name, b in sorted(source.named_buffers())}
    return found
