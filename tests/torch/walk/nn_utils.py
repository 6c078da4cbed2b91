"""torch.nn.utils: fusion, parametrizations, pruning, clipping, vectors, memory formats."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import samestep.torch

from .cases import case, rebuild
from .sides import LAYERS, OPTIMIZER, Side, passes, state

BOTH = (*LAYERS, *OPTIMIZER)


@rebuild("torch.nn.utils.fuse_conv_bn_eval", modes=("eval",), covers=["torch.nn.utils.fuse_conv_bn_weights"])
def fuse_conv_bn(network: Any, x: Tensor) -> nn.Module:
    return nn.Sequential(nn.utils.fuse_conv_bn_eval(network.conv, network.bn), *network[2:])


@case("torch.nn.utils.fuse_linear_bn_eval", covers=["torch.nn.utils.fuse_linear_bn_weights"])
def fuse_linear_bn(side: Side) -> dict[str, Any]:
    linear, x = nn.Linear(3, 4, dtype=side.dtype).eval(), side.random(5, 3)
    fused = nn.utils.fuse_linear_bn_eval(linear, side.batch_norm(1).eval())
    return passes(nn.Sequential(fused, side.activation()), x)


@rebuild("torch.nn.utils.skip_init")
def skip_init(network: Any, x: Tensor) -> nn.Module:
    options = {"relu": network.bn.relu} if hasattr(network.bn, "relu") else {}
    skipped = nn.utils.skip_init(type(network.bn), 4, dtype=x.dtype, **options)
    skipped.load_state_dict(network.bn.state_dict())
    network.bn = skipped.train(network.training)
    return network


@rebuild("torch.nn.utils.convert_conv2d_weight_memory_format(channels_last)")
def convert_conv2d(network: Any, x: Tensor) -> nn.Module:
    return nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)


@case("torch.nn.utils.convert_conv3d_weight_memory_format(channels_last_3d)")
def convert_conv3d(side: Side) -> dict[str, Any]:
    network = nn.Sequential(
        nn.Conv3d(2, 4, 2, bias=False, dtype=side.dtype), side.batch_norm(3), side.activation()
    )
    network = nn.utils.convert_conv3d_weight_memory_format(network, torch.channels_last_3d)
    y = passes(network, side.random(2, 2, 3, 3, 3))
    return {**y, "strides": y["y"].stride()}


@case("torch.nn.Module.to(memory_format=torch.channels_last)", BOTH)
def channels_last(side: Side) -> dict[str, Any]:
    network = side.network().to(memory_format=torch.channels_last)
    x = side.images().contiguous(memory_format=torch.channels_last)
    y = network.bn(network.conv(x))
    return {"strides": y.stride(), "trained": side.trained(network)}


@case("torch.nn.Module.to(torch.bfloat16)")
def bfloat16(side: Side) -> Tensor:
    network = side.network().to(torch.bfloat16)
    return torch.round(network.eval()(side.images().bfloat16()).float() * 8)


@case("torch.nn.Module.to_empty")
def to_empty(side: Side) -> dict[str, Any]:
    expected = side.network()
    with torch.device("meta"):
        network = side.network()
    network.to_empty(device="cpu").load_state_dict(expected.state_dict())
    return passes(network, side.images())


def _with_gradients(side: Side) -> nn.Module:
    network = side.network()
    network(side.images()).square().sum().backward()
    return network


@case("torch.nn.utils.clip_grad_norm_", BOTH, covers=["torch.nn.utils.clip_grad_norm"])
def clip_grad_norm(side: Side) -> dict[str, Any]:
    network = _with_gradients(side)
    norm = nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    optimizer = side.optimizer(network.parameters())
    optimizer.step()
    return {"norm": norm, "network": state(network)}


@case("torch.nn.utils.clip_grad_norm_ by samestep's", LAYERS)
def clip_grad_norm_by_ours(side: Side) -> dict[str, Any]:
    network = _with_gradients(side)
    library = samestep.torch if side.ours else nn.utils
    norm = library.clip_grad_norm_(network.parameters(), 0.5)
    return {"norm": norm, "grads": [p.grad for p in network.parameters()]}


@case("torch.nn.utils.clip_grad_value_", BOTH)
def clip_grad_value(side: Side) -> dict[str, Any]:
    network = _with_gradients(side)
    nn.utils.clip_grad_value_(network.parameters(), 0.01)
    side.optimizer(network.parameters()).step()
    return state(network)


@case(
    "torch.nn.utils.get_total_norm and clip_grads_with_norm_",
    BOTH,
    covers=["torch.nn.utils.clip_grads_with_norm_"],
)
def clip_in_two_parts(side: Side) -> dict[str, Any]:
    network = _with_gradients(side)
    norm = nn.utils.get_total_norm([p.grad for p in network.parameters()])
    nn.utils.clip_grads_with_norm_(network.parameters(), 0.5, norm)
    side.optimizer(network.parameters()).step()
    return {"norm": norm, "network": state(network)}


@case(
    "torch.nn.utils.parameters_to_vector and vector_to_parameters",
    BOTH,
    covers=["torch.nn.utils.vector_to_parameters"],
)
def vectors(side: Side) -> dict[str, Any]:
    """The parameters become views of one vector between two steps of one optimizer."""
    network = side.network()
    optimizer = side.optimizer(network.parameters())
    side.train(network, optimizer)
    vector = nn.utils.parameters_to_vector(network.parameters()).detach() * 0.5
    nn.utils.vector_to_parameters(vector, network.parameters())
    return {"trained": side.train(network, optimizer), "vector": vector}


@case(
    "torch.nn.utils.parametrize.register_parametrization",
    BOTH,
    covers=[
        "torch.nn.utils.parametrize.ParametrizationList",
        "torch.nn.utils.parametrize.remove_parametrizations",
        "torch.nn.utils.parametrize.is_parametrized",
        "torch.nn.utils.parametrize.type_before_parametrizations",
    ],
)
def register_parametrization(side: Side) -> dict[str, Any]:
    network = side.network()
    parametrize.register_parametrization(network.bn, "weight", nn.Softplus())
    known = parametrize.type_before_parametrizations(network.bn) is type(side.batch_norm())
    found = {"known": known, "registered": side.trained(network)}
    parametrize.remove_parametrizations(network.bn, "weight")
    again = parametrize.is_parametrized(network.bn)
    return {**found, "again": again, "type": type(network.bn).__name__, "left": side.trained(network)}


@case("torch.nn.utils.parametrize.cached", BOTH)
def cached(side: Side) -> dict[str, Any]:
    network = side.network()
    parametrize.register_parametrization(network.bn, "weight", nn.Softplus())

    def call(x: Tensor) -> Any:
        with parametrize.cached():
            return network(x) + network(x)

    return side.trained(network, call)


@case("torch.nn.utils.parametrize.transfer_parametrizations_and_params")
def transfer(side: Side) -> dict[str, Any]:
    network, other = side.network(), side.network()
    parametrize.register_parametrization(network.bn, "weight", nn.Softplus())
    other.bn = parametrize.transfer_parametrizations_and_params(network.bn, other.bn)
    return passes(other, side.images())


def _on_both(apply: Any) -> Any:
    """Trains a network after ``apply``, on its convolution and its batch norm."""

    def run(side: Side) -> dict[str, Any]:
        network = side.network()
        apply(network)
        return side.trained(network)

    return run


def _weight_norms(function: Any) -> Any:
    def apply(network: Any) -> None:
        function(network.conv)
        function(network.bn, dim=None)  # of one dimension: by channel its direction would be a sign

    return _on_both(apply)


def _spectral_norms(function: Any) -> Any:
    def apply(network: Any) -> None:
        function(network.conv)
        function(network.bn)

    return _on_both(apply)


case("torch.nn.utils.parametrizations.weight_norm", BOTH)(_weight_norms(parametrizations.weight_norm))
case("torch.nn.utils.parametrizations.spectral_norm", BOTH)(_spectral_norms(parametrizations.spectral_norm))
case("torch.nn.utils.weight_norm", BOTH)(_weight_norms(nn.utils.weight_norm))
case("torch.nn.utils.spectral_norm", BOTH)(_spectral_norms(nn.utils.spectral_norm))


@case("torch.nn.utils.parametrizations.orthogonal, of the layer in front", BOTH)
def orthogonal(side: Side) -> dict[str, Any]:
    network = side.network()
    parametrizations.orthogonal(network.conv)
    return side.trained(network)


@case("torch.nn.utils.remove_weight_norm", BOTH, covers=["torch.nn.utils.remove_spectral_norm"])
def remove_norms(side: Side) -> dict[str, Any]:
    network = side.network()
    nn.utils.weight_norm(network.bn, dim=None)
    nn.utils.spectral_norm(network.conv)
    found = side.trained(network)
    nn.utils.remove_weight_norm(network.bn)
    nn.utils.remove_spectral_norm(network.conv)
    return {"before": found, "after": side.trained(network)}


def _pruned(apply: Any) -> Any:
    def run(side: Side) -> dict[str, Any]:
        network = side.network()
        apply(network)
        masked = side.trained(network)
        for layer in (network.conv, network.bn):
            if prune.is_pruned(layer):
                prune.remove(layer, "weight")
        return {"masked": masked, "removed": side.trained(network)}

    return run


def _structured(network: Any) -> None:
    prune.ln_structured(network.conv, "weight", 0.5, n=2, dim=0)
    prune.l1_unstructured(network.bn, "weight", 0.5)


PRUNE = "torch.nn.utils.prune."
for _name, _apply, _class in (
    ("identity", lambda net: prune.identity(net.bn, "weight"), "Identity"),
    (
        "random_unstructured",
        lambda net: prune.random_unstructured(net.bn, "weight", 0.5),
        "RandomUnstructured",
    ),
    ("l1_unstructured", lambda net: prune.l1_unstructured(net.bn, "weight", 0.5), "L1Unstructured"),
    (
        "random_structured",
        lambda net: prune.random_structured(net.conv, "weight", 0.5, 0),
        "RandomStructured",
    ),
    ("ln_structured", _structured, "LnStructured"),
    (
        "global_unstructured",
        lambda net: prune.global_unstructured(
            [(net.conv, "weight"), (net.bn, "weight")], prune.L1Unstructured, amount=0.5
        ),
        "PruningContainer",
    ),
    (
        "custom_from_mask",
        lambda net: prune.custom_from_mask(net.bn, "weight", torch.tensor([1.0, 0, 1, 0])),
        "CustomFromMask",
    ),
):
    case(
        PRUNE + _name,
        BOTH,
        covers=[PRUNE + _class, PRUNE + "remove", PRUNE + "is_pruned", PRUNE + "BasePruningMethod"],
    )(_pruned(_apply))


@rebuild("torch.nn.utils.stateless.functional_call", bits=True)
def stateless_functional_call(network: Any, x: Tensor) -> Any:
    values = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return lambda x: torch.nn.utils.stateless.functional_call(network, values, x)


@case("torch.nn.utils.rnn.pack_padded_sequence, before the layer", covers=["torch.nn.utils.rnn.pad_sequence"])
def packed(side: Side) -> dict[str, Any]:
    layer, activation = side.batch_norm(1), side.activation()
    padded = nn.utils.rnn.pad_sequence([side.random(n, 4) for n in (3, 2)])
    sequence = nn.utils.rnn.pack_padded_sequence(padded, [3, 2])
    return passes(nn.Sequential(layer, activation), sequence.data)
