"""Optimizer and batch-norm kernels at memory speed, with the same bits on every machine."""

from typing import TYPE_CHECKING, Any

from . import optimizers, options, problems, schedules
from .arrays import digest
from .batchnorm import (
    BatchNorm,
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_inference,
    batchnorm_inference_backward,
)
from .cpu import get_num_threads, info, set_isa, set_num_threads
from .optimizer import Optimizer
from .optimizers import NAG, SGD, AdaGrad, Adam, AdamW, Momentum, RMSProp
from .sums import canonical_sum, global_norm
from .train import Result, minimize

if TYPE_CHECKING:
    from . import theory
else:
    # Half of what the import of all would take, so it waits until somebody asks for it.
    def __getattr__(name: str) -> Any:
        if name == "theory":
            from importlib import import_module

            return import_module("samestep.theory")
        raise AttributeError(f"module 'samestep' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), "theory"})


__all__ = [
    "NAG",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "BatchNorm",
    "Momentum",
    "Optimizer",
    "RMSProp",
    "Result",
    "batchnorm_backward",
    "batchnorm_forward",
    "batchnorm_inference",
    "batchnorm_inference_backward",
    "canonical_sum",
    "digest",
    "get_num_threads",
    "global_norm",
    "info",
    "minimize",
    "optimizers",
    "options",
    "problems",
    "schedules",
    "set_isa",
    "set_num_threads",
    "theory",
]
