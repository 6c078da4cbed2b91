"""torch.onnx, checked with ONNX Runtime."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

import samestep.torch

from .cases import case
from .sides import LAYERS, Side

PACKAGES = ["onnx", "onnxscript", "onnxruntime"]


def _run(model: bytes, x: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(y)


def _export(network: nn.Module, x: Tensor, **options: Any) -> Tensor:
    if options["dynamo"]:
        program = torch.onnx.export(network, (x,), verbose=False, **options)
        return _run(program.model_proto.SerializeToString(), x)
    file = io.BytesIO()
    torch.onnx.export(network, (x,), file, **options)
    return _run(file.getvalue(), x)


def _exported(tool: str, back: bool = False, **options: Any) -> None:
    def run(side: Side) -> Tensor:
        network, x = side.network().eval(), side.images()
        if back and side.ours:
            network = samestep.torch.convert(network, back=True)
        return _export(network, x, **options)

    run.__module__ = __name__
    case(tool, LAYERS, needs=PACKAGES, dtype=torch.float32)(run)


_exported("torch.onnx.export, dynamo=True", dynamo=True)
_exported("torch.onnx.export, dynamo=False", dynamo=False)
_exported("torch.onnx.export, dynamo=True, after convert(back=True)", back=True, dynamo=True)
_exported("torch.onnx.export, dynamo=False, after convert(back=True)", back=True, dynamo=False)
