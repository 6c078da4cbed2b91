"""The optimizers as gradient transformations of optax, the linear layer and batch norm: for JAX on the CPU.

``import samestep`` never imports jax; ``import samestep.jax`` does, and needs it and optax installed. One
call of XLA steps all arrays of a pytree, in their memory where it is donated.
"""

from .batchnorm import batch_norm
from .linear import linear
from .optimizers import adagrad, adam, adamw, momentum, nag, rmsprop, sgd
from .transformation import State, Transformation

__all__ = [
    "State",
    "Transformation",
    "adagrad",
    "adam",
    "adamw",
    "batch_norm",
    "linear",
    "momentum",
    "nag",
    "rmsprop",
    "sgd",
]
