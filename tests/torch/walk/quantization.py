"""torch.ao: quantization, eager and by graphs, and sparsifiers."""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.nn.intrinsic as intrinsic
import torch.ao.pruning as pruning
import torch.ao.quantization as quantization
from torch import Tensor, nn
from torch.ao.quantization import quantize_fx

from .cases import case, fuse
from .sides import LAYERS, OPTIMIZER, Side, state

BOTH = (*LAYERS, *OPTIMIZER)
FLOAT = {"dtype": torch.float32}
QA = "torch.ao.quantization."


def _pattern(network: Any) -> list[str]:
    return ["conv", "bn", "act"] if isinstance(network.act, nn.ReLU) else ["conv", "bn"]


@fuse(QA + "fuse_modules", covers=[QA + "fuse_conv_bn", QA + "fuse_conv_bn_relu"])
def fuse_modules(network: Any, x: Tensor) -> nn.Module:
    return quantization.fuse_modules(network, [_pattern(network)])


@case(QA + "fuse_modules_qat")
def fuse_modules_qat(side: Side) -> dict[str, Any]:
    network = side.network().train()
    return side.trained(quantization.fuse_modules_qat(network, [_pattern(network)]))


@case(QA + "fuse_linear_bn")
def fuse_linear_bn(side: Side) -> Tensor:
    network = nn.Sequential(nn.Linear(3, 4, dtype=side.dtype), side.batch_norm(1)).eval()
    return quantization.fuse_modules(network, ["0", "1"])(side.random(5, 3))


@case(QA + "fuse_convtranspose_bn")
def fuse_convtranspose_bn(side: Side) -> Tensor:
    network = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, dtype=side.dtype), side.batch_norm()).eval()
    return quantization.fuse_modules(network, ["0", "1"])(side.images())


@case(QA + "get_fuser_method", covers=[QA + "get_fuser_method_new"])
def fuser_method(side: Side) -> str:
    return quantization.get_fuser_method((nn.Conv2d, type(side.batch_norm()))).__name__


def _wrapped(side: Side) -> Any:
    return quantization.QuantWrapper(side.network())


@case(
    QA + "prepare and convert, without fusion",
    covers=[
        QA + "prepare",
        QA + "convert",
        QA + "QuantWrapper",
        QA + "propagate_qconfig_",
        QA + "swap_module",
    ],
    **FLOAT,
)
def eager_quantization(side: Side) -> Tensor:
    """A batch norm alone: torch's own becomes a quantized one."""
    network = _wrapped(side).eval()
    network.qconfig = quantization.get_default_qconfig("x86")
    return _coarse(_quantized(network, side.images()))


@case(QA + "prepare and convert, with qconfig = None for the layer", **FLOAT)
def left_in_float(side: Side) -> Tensor:
    network = side.network().eval()
    network.conv = quantization.QuantWrapper(network.conv)
    network.conv.qconfig = quantization.get_default_qconfig("x86")
    network.bn.qconfig = None
    return _coarse(_quantized(network, side.images()))


def _quantized(network: nn.Module, x: Tensor) -> Tensor:
    prepared = quantization.prepare(network)
    prepared(x)
    return quantization.convert(prepared)(x)


def _coarse(y: Tensor) -> Tensor:
    """To half a unit: 8 bits of two networks may differ by a step."""
    return torch.round(2 * y.detach()) / 2


@case(QA + "quantize_dynamic", **FLOAT)
def quantize_dynamic(side: Side) -> dict[str, Any]:
    network = quantization.quantize_dynamic(side.network().eval(), {nn.Linear})
    return {
        "y": _coarse(network(side.images())),
        "types": [type(m).__name__ for m in (network.bn, network.out)],
    }


@case(QA + "prepare_qat, eager", covers=[QA + "prepare_qat"], **FLOAT)
def prepare_qat(side: Side) -> dict[str, Any]:
    """Without fusion the batch norm stays a layer of its own, with a fake quantization behind it."""
    network = _wrapped(side).train()
    network.qconfig = quantization.get_default_qat_qconfig("x86")
    prepared = quantization.prepare_qat(network)
    y = prepared(side.images())
    y.sum().backward()
    return {"y": _coarse(y), "state": list(prepared.state_dict())}


@fuse(QA + "quantize_fx.fuse_fx")
def fuse_fx(network: Any, x: Tensor) -> nn.Module:
    return quantize_fx.fuse_fx(network)


@case(
    QA + "quantize_fx.prepare_fx and convert_fx",
    covers=[QA + "get_default_qconfig_mapping", QA + "QConfigMapping"],
    **FLOAT,
)
def prepare_fx(side: Side) -> dict[str, Any]:
    mapping = quantization.get_default_qconfig_mapping("x86")
    prepared = quantize_fx.prepare_fx(side.network().eval(), mapping, (side.images(),))
    prepared(side.images())
    converted = quantize_fx.convert_fx(prepared)
    conv = converted.conv
    return {
        "y": _coarse(converted(side.images())),
        "conv": type(conv).__name__,
        "keys": list(state(converted)),
    }


@case(
    QA + "quantize_fx.prepare_qat_fx and convert_fx", covers=[QA + "get_default_qat_qconfig_mapping"], **FLOAT
)
def prepare_qat_fx(side: Side) -> dict[str, Any]:
    mapping = quantization.get_default_qat_qconfig_mapping("x86")
    prepared = quantize_fx.prepare_qat_fx(side.network().train(), mapping, (side.images(),))
    prepared(side.images()).sum().backward()
    return {"conv": type(prepared.conv).__name__}


@case("torch.ao.nn.intrinsic.qat.ConvBn2d.from_float", refusal="Incorrect types for input modules", **FLOAT)
def from_float(side: Side) -> str:
    network = side.network().train()
    pair = intrinsic.ConvBn2d(network.conv, network.bn)
    pair.qconfig = quantization.get_default_qat_qconfig("x86")
    return type(intrinsic.qat.ConvBn2d.from_float(pair)).__name__


@case("torch.ao.quantization pt2e", needs=["torchao"])
def pt2e(side: Side) -> Tensor:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

    exported = torch.export.export(side.network().eval(), (side.images(),)).module()
    prepared = prepare_pt2e(exported, X86InductorQuantizer())
    prepared(side.images())
    return _coarse(convert_pt2e(prepared)(side.images()))


@case("torch.ao.ns._numeric_suite_fx.extract_weights", **FLOAT)
def numeric_suite(side: Side) -> list[str]:
    import torch.ao.ns._numeric_suite_fx as suite

    network = side.network().eval()
    found = suite.extract_weights("a", network, "b", network)
    return sorted(found)


@case("torch.ao.ns._numeric_suite_fx.add_loggers", **FLOAT)
def loggers(side: Side) -> int:
    import torch.ao.ns._numeric_suite_fx as suite

    network, other = side.network().eval(), side.network().eval()
    a, b = suite.add_loggers("a", network, "b", other, suite.OutputLogger)
    a(side.images())
    b(side.images())
    return len(suite.extract_logger_info(a, b, suite.OutputLogger, "b"))


def _sparsified(name: str, make: Any) -> None:
    def run(side: Side) -> dict[str, Any]:
        network = side.network()
        optimizer = side.optimizer(network.parameters())
        sparsifier = make()
        sparsifier.prepare(network, [{"tensor_fqn": "out.weight"}])
        found = side.train(network, optimizer)
        sparsifier.step()
        again = side.train(network, optimizer)
        sparsifier.squash_mask()
        return {"found": found, "again": again, "squashed": state(network)}

    run.__module__ = __name__
    case(f"torch.ao.pruning.{name}", BOTH, covers=["torch.ao.pruning.BaseSparsifier"])(run)


_sparsified("WeightNormSparsifier", lambda: pruning.WeightNormSparsifier(0.5, (1, 4), 2))


@case("torch.ao.pruning.NearlyDiagonalSparsifier, beside the layer", BOTH)
def nearly_diagonal(side: Side) -> dict[str, Any]:
    network = side.network()
    network.out = nn.Linear(16, 16, dtype=side.dtype)
    sparsifier = pruning.NearlyDiagonalSparsifier(3)
    sparsifier.prepare(network, [{"tensor_fqn": "out.weight"}])
    sparsifier.step()
    return side.trained(network)


@case(
    "torch.ao.pruning.LambdaSL and CubicSL",
    LAYERS,
    covers=["torch.ao.pruning.CubicSL", "torch.ao.pruning.LambdaSL"],
)
def sparsity_schedulers(side: Side) -> Any:
    network = side.network()
    sparsifier = pruning.WeightNormSparsifier(0.5, (1, 4), 2)
    sparsifier.prepare(network, [{"tensor_fqn": "out.weight"}])
    for scheduler in (pruning.LambdaSL(sparsifier, lambda t: 0.5**t), pruning.CubicSL(sparsifier, 0.1, 0, 2)):
        for _ in range(2):
            sparsifier.step()
            scheduler.step()
    return network.eval()(side.images())


@case(
    "torch.ao.pruning structured: BaseStructuredSparsifier.prune",
    not_in_torch="still contains FakeStructuredSparsity",
)
def structured(side: Side) -> dict[str, Any]:
    """Channels that are cut leave the batch norm behind them as well."""
    from torch.ao.pruning._experimental.pruner import BaseStructuredSparsifier

    class Every(BaseStructuredSparsifier):
        def update_mask(self, module: Any, tensor_name: str, **kwargs: Any) -> None:
            getattr(module.parametrizations, tensor_name)[0].mask[::2] = False

    network = side.network().eval()
    layers = [network.conv, network.bn, *[network.act] * isinstance(network.act, nn.ReLU)]
    network = nn.Sequential(*layers, nn.Conv2d(4, 2, 1, dtype=side.dtype))
    pruner = Every({})
    pruner.prepare(network, [{"tensor_fqn": "0.weight"}])
    pruner.step()
    pruned = pruner.prune()
    return {"y": pruned(side.images()), "shapes": [list(p.shape) for p in pruned.parameters()]}
