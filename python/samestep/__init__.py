"""Optimizer and batch-norm kernels at memory speed, with the same bits on every machine."""

from . import optimizers
from .arrays import digest
from .cpu import get_num_threads, info, set_isa, set_num_threads
from .optimizers import NAG, SGD, AdaGrad, Adam, Momentum, RMSProp

__all__ = [
    "NAG",
    "SGD",
    "AdaGrad",
    "Adam",
    "Momentum",
    "RMSProp",
    "digest",
    "get_num_threads",
    "info",
    "optimizers",
    "set_isa",
    "set_num_threads",
]
