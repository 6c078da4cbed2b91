"""Optimizer and batch-norm kernels at memory speed, with the same bits on every machine."""

from . import optimizers, options, problems, schedules, theory
from .arrays import digest
from .batchnorm import BatchNorm, batchnorm_backward, batchnorm_forward, batchnorm_inference
from .cpu import get_num_threads, info, set_isa, set_num_threads
from .optimizer import Optimizer
from .optimizers import NAG, SGD, AdaGrad, Adam, AdamW, Momentum, RMSProp
from .sums import canonical_sum, global_norm
from .train import Result, minimize

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
