"""torch.export and torch.jit."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from .cases import case, rebuild
from .sides import Side, passes


def _reloaded(exported: Any) -> Any:
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    return torch.export.load(file)


@rebuild("torch.export.export", bits=True)
def export(network: Any, x: Tensor) -> Any:
    return torch.export.export(network, (x,)).module()


@rebuild("torch.export.export, strict", bits=True)
def export_strict(network: Any, x: Tensor) -> Any:
    return torch.export.export(network, (x,), strict=True).module()


@rebuild("torch.export.save and load", bits=True, covers=["torch.export.load"])
def save_and_load(network: Any, x: Tensor) -> Any:
    return _reloaded(torch.export.export(network, (x,))).module()


@rebuild("torch.export.export, dynamic_shapes", bits=True, covers=["torch.export.Dim", "torch.export.dims"])
def dynamic(network: Any, x: Tensor) -> Any:
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    return torch.export.export(network, (torch.cat([x, x]),), dynamic_shapes=shapes).module()


@rebuild("torch.export.ExportedProgram.run_decompositions()", bits=True, backward=False)
def run_decompositions(network: Any, x: Tensor) -> Any:
    """To the core of ATen: the operators of other libraries stay."""
    return torch.export.export(network, (x,)).run_decompositions().module()


@rebuild("torch.export.ExportedProgram.run_decompositions({})", bits=True, backward=False)
def run_no_decompositions(network: Any, x: Tensor) -> Any:
    return torch.export.export(network, (x,)).run_decompositions({}).module()


@rebuild(
    "torch.export.default_decompositions",
    bits=True,
    backward=False,
    covers=["torch.export.CustomDecompTable"],
)
def default_decompositions(network: Any, x: Tensor) -> Any:
    table = torch.export.default_decompositions()
    return torch.export.export(network, (x,)).run_decompositions(table).module()


@rebuild("torch.export.unflatten", bits=True, covers=["torch.export.UnflattenedModule"])
def unflatten(network: Any, x: Tensor) -> Any:
    return torch.export.unflatten(torch.export.export(network, (x,)))


# It takes an operator's argument of None for a tensor that was written to: torch's MutationChecker.
@rebuild("torch.export.draft_export", bits=True, refusal="does not mutate the argument")
def draft_export(network: Any, x: Tensor) -> Any:
    return torch.export.draft_export(network, (x,)).module()


@case("torch.export.export, the signature", covers=["torch.export.ExportGraphSignature"])
def signature(side: Side) -> dict[str, Any]:
    exported = torch.export.export(side.network(), (side.images(),))
    found = exported.graph_signature
    return {
        "parameters": list(found.parameters),
        "buffers": list(found.buffers),
        "mutated": sorted(found.buffers_to_mutate.values()),
        "mutated after decompositions": sorted(
            exported.run_decompositions().graph_signature.buffers_to_mutate.values()
        ),
    }


@rebuild("torch.jit.script", bits=True, covers=["torch.jit.ScriptModule"])
def script(network: Any, x: Tensor) -> Any:
    return torch.jit.script(network)


@rebuild("torch.jit.trace", bits=True, covers=["torch.jit.trace_module"])
def trace(network: Any, x: Tensor) -> Any:
    state = {key: value.clone() for key, value in network.state_dict().items()}
    traced = torch.jit.trace(network, x)
    network.load_state_dict(state)  # the trace has updated the statistics
    return traced


def _loaded(scripted: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file)


@rebuild("torch.jit.save and load", bits=True, covers=["torch.jit.load"])
def jit_save(network: Any, x: Tensor) -> Any:
    return _loaded(torch.jit.script(network))


@rebuild("torch.jit.freeze", modes=("eval",), bits=True, backward=False)
def freeze(network: Any, x: Tensor) -> Any:
    return torch.jit.freeze(torch.jit.script(network))


@rebuild("torch.jit.optimize_for_inference", modes=("eval",), backward=False, dtype=torch.float32)
def optimize_for_inference(network: Any, x: Tensor) -> Any:
    return torch.jit.optimize_for_inference(torch.jit.script(network))


@rebuild("torch.jit.trace, then freeze", modes=("eval",), bits=True, backward=False)
def traced_freeze(network: Any, x: Tensor) -> Any:
    return torch.jit.freeze(torch.jit.trace(network, x))


@rebuild("torch.jit.fork and wait", modes=("eval",), covers=["torch.jit.wait"], backward=False)
def fork(network: Any, x: Tensor) -> Any:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return torch.jit.wait(torch.jit.fork(self.network, x))

    return torch.jit.script(Forked())


@rebuild(
    "torch.utils.mobile_optimizer.optimize_for_mobile",
    modes=("eval",),
    backward=False,
    dtype=torch.float32,
    not_in_torch="Please build with USE_XNNPACK=1",
)
def optimize_for_mobile(network: Any, x: Tensor) -> Any:
    from torch.utils.mobile_optimizer import optimize_for_mobile as optimize

    return optimize(torch.jit.script(network))


@case("torch.jit.ScriptModule.train() after the script")
def changes_mode(side: Side) -> dict[str, Any]:
    scripted = torch.jit.script(side.network().eval())
    return passes(scripted.train(), side.images())
