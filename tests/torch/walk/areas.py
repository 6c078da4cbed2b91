"""The areas of the walk, in the order of the table; importing one registers its cases."""

from __future__ import annotations

import importlib
import warnings

from .cases import CASES, Case

TITLES = {
    "nn_utils": "torch.nn.utils",
    "functions": "torch.func and torch.autograd.functional",
    "graphs": "torch.fx",
    "exports": "torch.export and torch.jit",
    "optimizers": "torch.optim and torch.amp",
    "quantization": "torch.ao",
    "compilers": "torch.compile",
    "onnx": "torch.onnx",
    "utilities": "torch.utils, copies and files",
    "distributed": "torch.distributed, two processes over gloo",
    "loops": "accelerate and Lightning",
}


def cases() -> list[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of torch's modules are deprecated
        for area in TITLES:
            importlib.import_module(f"{__package__}.{area}")
    return CASES
