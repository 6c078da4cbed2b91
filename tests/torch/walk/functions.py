"""torch.func, torch.autograd.functional and vmap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, func

from .cases import case, same_bits
from .sides import Side

TRACKING, PLAIN = "eval, running statistics", "train, none tracked"


def _losses(side: Side) -> dict[str, tuple[Any, dict[str, Tensor]]]:
    """Losses of the parameters: of a network in eval mode, and of one that trains without statistics."""
    found = {}
    for name in (TRACKING, PLAIN):
        network, x = side.network(track_running_stats=name == TRACKING), side.images()
        network.train(name == PLAIN)

        def loss(parameters: Any, x: Tensor = x, network: Any = network) -> Tensor:
            return func.functional_call(network, parameters, (x,)).pow(3).sum()

        found[name] = (loss, {key: p.detach() for key, p in network.named_parameters()})
    return found


def _over_losses(tool: str, function: Any, bits: bool = False) -> None:
    """Registers ``function(loss, parameters)``; with ``bits`` a gradient that must have autograd's bits."""

    def run(side: Side) -> dict[str, Any]:
        found = {}
        for name, (loss, parameters) in _losses(side).items():
            found[name] = function(loss, parameters)
            if bits and side.ours:
                leaves = {key: p.clone().requires_grad_() for key, p in parameters.items()}
                grads = torch.autograd.grad(loss(leaves), list(leaves.values()))
                same_bits(found[name], dict(zip(leaves, grads, strict=True)))
        return found

    run.__module__ = __name__
    case(tool, bits=bits)(run)


def _ones(parameters: Any) -> Any:
    return {key: torch.ones_like(p) for key, p in parameters.items()}


def _of_weight(function: Any) -> Any:
    """``function(loss of the batch norm's weight, that weight)``: Jacobians of all parameters are large."""

    def apply(loss: Any, parameters: Any) -> Any:
        return function(lambda weight: loss({**parameters, "bn.weight": weight}), parameters["bn.weight"])

    return apply


_over_losses("torch.func.grad", lambda loss, p: func.grad(loss)(p), bits=True)
_over_losses("torch.func.grad_and_value", lambda loss, p: func.grad_and_value(loss)(p)[0], bits=True)
_over_losses(
    "torch.func.vjp",
    lambda loss, p: func.vjp(loss, p)[1](torch.ones((), dtype=torch.float64))[0],
    bits=True,
)
_over_losses("torch.func.jvp", lambda loss, p: func.jvp(loss, (p,), (_ones(p),)))
_over_losses("torch.func.linearize", lambda loss, p: func.linearize(loss, p)[1](_ones(p)))
_over_losses("torch.func.jacrev", lambda loss, p: func.jacrev(loss)(p))
_over_losses("torch.func.jacfwd", _of_weight(lambda loss, w: func.jacfwd(loss)(w)))
_over_losses("torch.func.hessian", _of_weight(lambda loss, w: func.hessian(loss)(w)))
_over_losses("torch.func.functionalize", lambda loss, p: func.functionalize(func.grad(loss))(p))
_over_losses(
    "torch.autograd.functional.vjp", _of_weight(lambda loss, w: torch.autograd.functional.vjp(loss, w))
)
_over_losses(
    "torch.autograd.functional.jvp",
    _of_weight(lambda loss, w: torch.autograd.functional.jvp(loss, w, torch.ones_like(w))),
)
_over_losses(
    "torch.autograd.functional.jacobian",
    _of_weight(lambda loss, w: torch.autograd.functional.jacobian(loss, w)),
)
_over_losses(
    "torch.autograd.functional.jacobian, vectorize",
    _of_weight(lambda loss, w: torch.autograd.functional.jacobian(loss, w, vectorize=True)),
)
_over_losses(
    "torch.autograd.functional.jacobian, forward-mode",
    _of_weight(
        lambda loss, w: torch.autograd.functional.jacobian(loss, w, vectorize=True, strategy="forward-mode")
    ),
)
_over_losses(
    "torch.autograd.functional.hessian",
    _of_weight(lambda loss, w: torch.autograd.functional.hessian(loss, w)),
)
_over_losses(
    "torch.autograd.functional.hvp",
    _of_weight(lambda loss, w: torch.autograd.functional.hvp(loss, w, torch.ones_like(w))),
)
_over_losses(
    "torch.autograd.functional.vhp",
    _of_weight(lambda loss, w: torch.autograd.functional.vhp(loss, w, torch.ones_like(w))),
)


@case("torch.func.functionalize, then make_fx")
def functionalized_graph(side: Side) -> Tensor:
    from torch.fx.experimental.proxy_tensor import make_fx

    network, x = side.network(), side.images()
    return make_fx(func.functionalize(network))(x)(x)


@case("torch.func.vmap, of gradients for each sample")
def per_sample_gradients(side: Side) -> Any:
    network = side.network().eval()
    parameters = {key: p.detach() for key, p in network.named_parameters()}

    def loss(parameters: Any, x: Tensor) -> Tensor:
        return func.functional_call(network, parameters, (x[None],)).pow(3).sum()

    return func.vmap(func.grad(loss), in_dims=(None, 0))(parameters, side.images())


@case("torch.func.vmap, chunk_size", bits=True)
def vmap_in_chunks(side: Side) -> Tensor:
    network, x = side.network().eval(), side.random(3, 2, 3, 6, 6)
    found = func.vmap(network.bn, chunk_size=2)(func.vmap(network.conv)(x))
    if side.ours:
        same_bits(found, torch.stack([network.bn(one) for one in func.vmap(network.conv)(x)]))
    return network.act(found)


@case("torch.func.vmap, of a layer that trains", not_in_torch="Batch norm got a batched tensor")
def vmap_training(side: Side) -> Tensor:
    return func.vmap(side.batch_norm(1))(side.random(3, 8, 4))


@case("torch.func.stack_module_state and torch.func.functional_call", covers=["torch.func.functional_call"])
def ensemble(side: Side) -> Any:
    """Three networks train as one; the statistics of each are its own."""
    networks = [side.network() for _ in range(3)]
    parameters, buffers = func.stack_module_state(networks)

    def call(parameters: Any, buffers: Any, x: Tensor) -> Tensor:
        return func.functional_call(networks[0], (parameters, buffers), (x,))

    y = func.vmap(call)(parameters, buffers, side.random(3, 5, 3, 6, 6))
    return {"y": y, "buffers": buffers}


@case("torch.func.replace_all_batch_norm_modules_")
def replace_all(side: Side) -> Any:
    network = side.network()
    func.replace_all_batch_norm_modules_(network)
    y = func.vmap(network)(side.random(3, 5, 3, 6, 6))
    return {"y": y, "state": list(network.state_dict())}
