"""torch.fx."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx.experimental.optimization as optimization
from torch import Tensor, fx, nn
from torch.fx.passes import shape_prop, split_module

from .cases import case, fuse, rebuild
from .sides import Side, passes


@rebuild(
    "torch.fx.symbolic_trace", bits=True, covers=["torch.fx.Graph", "torch.fx.GraphModule", "torch.fx.Tracer"]
)
def symbolic_trace(network: Any, x: Tensor) -> fx.GraphModule:
    traced = fx.symbolic_trace(network)
    assert [node.op for node in traced.graph.nodes].count("call_module") == 6
    return traced


@rebuild("torch.fx.Interpreter", bits=True)
def interpreter(network: Any, x: Tensor) -> Any:
    return fx.Interpreter(fx.symbolic_trace(network)).run


@rebuild("torch.fx.Transformer", bits=True)
def transformer(network: Any, x: Tensor) -> nn.Module:
    return fx.Transformer(fx.symbolic_trace(network)).transform()


@case("torch.fx.passes.shape_prop.ShapeProp")
def shapes(side: Side) -> list[Any]:
    traced = fx.symbolic_trace(side.network().eval())
    shape_prop.ShapeProp(traced).propagate(side.images())
    return [tuple(node.meta["tensor_meta"].shape) for node in traced.graph.nodes]


@rebuild("torch.fx.passes.split_module", bits=True)
def split(network: Any, x: Tensor) -> nn.Module:
    parts = iter([0, 0, 0, 1, 1, 1, 1, 1])
    return split_module.split_module(fx.symbolic_trace(network), network, lambda node: next(parts))


@rebuild("torch.fx.replace_pattern", bits=True)
def replace_pattern(network: Any, x: Tensor) -> nn.Module:
    """A pattern of functions beside the layer."""

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return torch.add(self.network(x), 0)

    traced = fx.symbolic_trace(Doubled())
    assert fx.replace_pattern(traced, lambda x: torch.add(x, 0), lambda x: torch.clone(x))
    return traced


@rebuild("torch.fx.experimental.normalize.NormalizeArgs", bits=True)
def normalize(network: Any, x: Tensor) -> nn.Module:
    from torch.fx.experimental.normalize import NormalizeArgs

    return NormalizeArgs(fx.symbolic_trace(network)).transform()


@fuse("torch.fx.experimental.optimization.fuse")
def optimization_fuse(network: Any, x: Tensor) -> nn.Module:
    return optimization.fuse(network)


@rebuild("torch.fx.experimental.optimization.remove_dropout")
def remove_dropout(network: Any, x: Tensor) -> nn.Module:
    return optimization.remove_dropout(nn.Sequential(network, nn.Dropout(0.5)))


@case("torch.fx.experimental.optimization.optimize_for_inference", dtype=torch.float32)
def optimize_for_inference(side: Side) -> Tensor:
    network, x = side.network().eval(), side.images()
    with torch.no_grad():
        return optimization.optimize_for_inference(network)(x)


@rebuild("torch.fx.experimental.proxy_tensor.make_fx", modes=("eval",), bits=True, backward=False)
def make_fx(network: Any, x: Tensor) -> Any:
    from torch.fx.experimental import proxy_tensor

    return proxy_tensor.make_fx(network)(x)


@rebuild("torch.fx.GraphModule.recompile", bits=True)
def recompile(network: Any, x: Tensor) -> nn.Module:
    traced = fx.symbolic_trace(network)
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    traced.recompile()
    return traced


@rebuild("torch.fx.experimental.const_fold.split_const_subgraphs", bits=True)
def const_fold(network: Any, x: Tensor) -> nn.Module:
    from torch.fx.experimental import const_fold

    return const_fold.split_const_subgraphs(network)


@case("torch.fx.experimental.merge_matmul, beside the layer")
def merge_matmul(side: Side) -> dict[str, Any]:
    from torch.fx.experimental import merge_matmul

    return passes(merge_matmul.merge_matmul(side.network().eval()), side.images())
