"""What the layers share beside their kernels: the ReLU, and how torch's tools see them."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.fx
from torch.nn.parameter import is_lazy

from .initial import draw_parameters


class Layer(torch.nn.Module):
    """The first base of a layer; the second is the class of torch.nn that the layer stands for."""

    relu = False  # for torch's layers whose __class__ was set, and for pickles without the attribute

    def __setattr__(self, name: str, value: Any) -> None:
        # So torch.ao.quantization says what shall become of a layer. It knows torch.nn's classes alone.
        if name == "qconfig" and value is not None:
            raise TypeError(
                f"qconfig: got {type(value).__name__}, expected None: torch.ao would neither fuse nor "
                f"quantize samestep.torch.{type(self).__name__}; first "
                "model = samestep.torch.convert(model, back=True), or set the layer's qconfig = None to "
                "leave it in floating point"
            )
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        shown: str = super().extra_repr()
        return f"{shown}, relu={self.relu}"


# torch's modules that make another layer of a layer's weight, without its ReLU.
_REBUILDERS = ("torch.nn.utils.fusion", "torch.utils.mkldnn")


class WeightedLayer(Layer):
    """A layer with a weight, which no tool may take out of it and lose its ReLU."""

    def reset_parameters(self) -> None:
        if is_lazy(self.weight) or self.weight.numel() == 0:
            super().reset_parameters()  # torch's, which has a warning for none
        else:
            draw_parameters(self.weight, self.bias)

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and self.relu and not torch.compiler.is_compiling():
            reader = sys._getframe(1)
            if reader.f_globals.get("__name__", "") in _REBUILDERS:
                raise TypeError(
                    f"{reader.f_code.co_name}: reads the weight of samestep.torch.{type(self).__name__}"
                    "(relu=True); a layer rebuilt from it has lost the ReLU; first replace it by torch's "
                    "layer and a ReLU: model = samestep.torch.convert(model, back=True)"
                )
        return super().__getattr__(name)


def as_node(layer: torch.nn.Module, input: torch.fx.Proxy, forward: Any, *others: Any) -> torch.fx.Proxy:
    """The call of a layer in torch.fx's graph, where it is a leaf as the layers of torch.nn are.

    Args:
        layer: the module that is called.
        input: of the call.
        forward: the package's own, which calls this.
        others: further arguments of the call.
    """
    if type(layer).forward is not forward or layer._forward_hooks or layer._forward_pre_hooks:
        fix = "use a Tracer whose is_leaf_module is True for it"
        raise TypeError(f"{type(layer).__name__}: a trace would run its hooks or forward twice; {fix}")
    tracer: Any = input.tracer
    node: torch.fx.Proxy = tracer.create_proxy(
        "call_module", tracer.path_of_module(layer), (input, *others), {}
    )
    return node
