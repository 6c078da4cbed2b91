"""Optimizer and batch-norm kernels at memory speed, with the same bits on every machine."""

from . import optimizers, problems, theory
from .arrays import digest
from .cpu import get_num_threads, info, set_isa, set_num_threads
from .optimizers import NAG, SGD, AdaGrad, Adam, Momentum, RMSProp
from .train import Result, minimize

__all__ = [
    "NAG",
    "SGD",
    "AdaGrad",
    "Adam",
    "Momentum",
    "RMSProp",
    "Result",
    "digest",
    "get_num_threads",
    "info",
    "minimize",
    "optimizers",
    "problems",
    "set_isa",
    "set_num_threads",
    "theory",
]
