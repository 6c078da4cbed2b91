"""torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .cases import case, rebuild, same_bits
from .sides import LAYERS, OPTIMIZER, Side, state

BOTH = (*LAYERS, *OPTIMIZER)


def _fresh(**options: Any) -> Any:
    """A compiler that keeps nothing from the case before."""

    def compiled(function: Any, x: Any = None) -> Any:
        torch._dynamo.reset()
        return torch.compile(function, **options)

    return compiled


rebuild("torch.compile, backend=eager, fullgraph", bits=True)(_fresh(backend="eager", fullgraph=True))
rebuild("torch.compile, backend=aot_eager, fullgraph", bits=True)(_fresh(backend="aot_eager", fullgraph=True))
rebuild("torch.compile, backend=aot_eager, dynamic", bits=True)(
    _fresh(backend="aot_eager", fullgraph=True, dynamic=True)
)
rebuild("torch.compile, backend=aot_eager_decomp_partition", bits=True)(
    _fresh(backend="aot_eager_decomp_partition", fullgraph=True)
)


@case("torch.compile, backend=inductor, fullgraph", LAYERS, slow=True)
def inductor(side: Side) -> dict[str, Any]:
    """Its own kernels around the layer may round differently; the layer alone keeps its bits."""
    network = side.network()
    compiled = _fresh(fullgraph=True)(network)
    trained = side.train(network, side.optimizer(network.parameters()), call=compiled)
    layer, x = side.batch_norm(), side.random(5, 4, 3, 3)
    if side.ours:
        same_bits(_fresh(fullgraph=True)(layer)(x).detach(), side.batch_norm()(x).detach())
    return trained


@case("torch.compile, graph breaks", LAYERS)
def breaks(side: Side) -> dict[str, Any]:
    network = side.network()

    def forward(x: Tensor) -> Tensor:
        y = network[:3](x)
        torch._dynamo.graph_break()
        return network[3:](y)

    return side.trained(network, _fresh(backend="aot_eager")(forward))


@case("torch.compile of a training step", BOTH, bits=True)
def whole_step(side: Side) -> dict[str, Any]:
    """Forward, backward and the optimizer's step in one compiled function, against torch's in eager mode.

    torch's own compiled Adam corrects its averages in float32, and so it is no measure.
    """

    def run(compiled: bool) -> dict[str, Any]:
        network = side.network()
        optimizer = side.optimizer(network.parameters())

        def step(x: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = network(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        call = _fresh(backend="aot_eager")(step) if compiled else step
        losses = [call(side.random(5, 3, 6, 6, seed=t)) for t in range(3)]
        return {"losses": losses, "network": state(network), "optimizer": state(optimizer)}

    if side.ours:
        same_bits(run(compiled=True), run(compiled=False))
    return run(compiled=False)


@case("torch.compile of Optimizer.step", OPTIMIZER, bits=True)
def compiled_optimizer(side: Side) -> dict[str, Any]:
    """It stays the native call that it is; against torch's in eager mode, as above."""

    def run(compiled: bool) -> dict[str, Any]:
        network = side.network()
        optimizer = side.optimizer(network.parameters())
        if compiled:
            optimizer.step = _fresh(backend="aot_eager")(optimizer.step)
        return side.train(network, optimizer)

    if side.ours:
        same_bits(run(compiled=True), run(compiled=False))
    return run(compiled=False)


@case("torch._dynamo.compiled_autograd", LAYERS, bits=True)
def compiled_autograd(side: Side) -> dict[str, Any]:
    from torch._dynamo import compiled_autograd as autograd

    network, expected = side.network(), side.network()
    plain = side.trained(expected)
    torch._dynamo.reset()
    with autograd._enable(lambda graph: torch.compile(graph, backend="aot_eager")):
        found = side.trained(network)
    if side.ours:
        same_bits(found, plain)
    return found


@case("torch.nn.Module.compile", LAYERS)
def module_compile(side: Side) -> dict[str, Any]:
    torch._dynamo.reset()
    network = side.network()
    network.compile(backend="aot_eager")
    return side.trained(network)


@case("torch.compiler.set_stance(force_eager)", LAYERS, bits=True)
def stance(side: Side) -> dict[str, Any]:
    network = side.network()
    compiled = _fresh(backend="aot_eager")(network)
    with torch.compiler.set_stance("force_eager"):
        found = side.trained(network, compiled)
    if side.ours:
        same_bits(found, side.trained(side.network()))
    return found


@case("torch.compiler.nested_compile_region", LAYERS)
def region(side: Side) -> dict[str, Any]:
    network = side.network()
    nested = torch.compiler.nested_compile_region(network.bn)

    def forward(x: Tensor) -> Tensor:
        return network[2:](nested(network.conv(x)))

    return side.trained(network, _fresh(backend="aot_eager", fullgraph=True)(forward))


@rebuild("torch.compiler.disable of a layer", bits=True, covers=["torch.compiler.disable"])
def disabled(network: Any, x: Tensor) -> Any:
    network.bn.forward = torch.compiler.disable(network.bn.forward)
    return _fresh(backend="aot_eager")(network)


@rebuild("torch.compile under torch.func.functional_call", bits=True)
def functional(network: Any, x: Tensor) -> Any:
    parameters = dict(network.named_parameters())

    def forward(x: Tensor) -> Tensor:
        return torch.func.functional_call(network, parameters, (x,))

    return _fresh(backend="aot_eager", fullgraph=True)(forward)


@case("torch._inductor.aoti_compile_and_package", LAYERS, slow=True, dtype=torch.float32)
def packaged(side: Side) -> Tensor:
    import tempfile

    network, x = side.network().eval(), side.images()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        exported = torch.export.export(network, (x,))
        file = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/network.pt2")
        return torch._inductor.aoti_load_package(file)(x)
