"""Training steps at memory speed, with the same bits on every machine and for any number of workers.

Optimizers, which update NumPy arrays in place:
    SGD                           w = w - lr*g
    Momentum                      heavy ball, or torch's form
    NAG                           Nesterov's look-ahead, or torch's form
    AdaGrad, RMSProp, Adam        steps divided by a root of squared gradients
    AdamW                         Adam with decoupled weight decay
    Optimizer                     what they share: step, groups, state_dict, save, load
    CorruptionError               what step(check=k) raises where two threads compute different bits
    optimizers, options           the module of the optimizers; what a step can do besides its rule
    schedules                     lr as a function of the step

Batch norm, with ReLU on request:
    BatchNorm                     the layer, with running statistics
    batchnorm_forward, batchnorm_backward
    batchnorm_inference, batchnorm_inference_backward

Matrix products in one order:
    linear, linear_backward       y = x w + bias, with ReLU on request, and its gradients

Functions of one value, for float32 correctly rounded:
    exp, log, tanh, sigmoid

The loss of a classifier:
    softmax_cross_entropy

Sums in one order on every machine:
    canonical_sum, global_norm
    digest                        sha256 of arrays, to compare runs
    fingerprint                   64 bits of an array, at the speed of the memory

The record of a run, by which two are compared and one is recomputed:
    Ledger, ledger                what ``optimizer.record`` writes; reading and comparing it

Problems and their theory:
    minimize, Result              a problem, an optimizer and a stopping rule make a run
    problems                      mean squared error and others
    theory                        step sizes, rates and bounds; checks before and after a run

Any number of workers, one digest:
    parallel                      groups of torch.distributed or MPI, optimizers whose state is spread

How it runs:
    info                          versions, instruction sets, threads of this machine
    set_isa, set_num_threads, get_num_threads

samestep.torch, the drop-ins for PyTorch, must be imported by its name. The command is also called samestep.
"""

import sys
from typing import TYPE_CHECKING, Any

from . import interpreter as interpreter  # isort: skip; first, for where it refuses the others would hang

from . import ledger, problems
from .backends import options
from .backends.arrays import digest
from .backends.cpu import get_num_threads, info, set_isa, set_num_threads
from .fingerprints import fingerprint
from .layers.batchnorm import (
    BatchNorm,
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_inference,
    batchnorm_inference_backward,
)
from .layers.functions import exp, log, sigmoid, tanh
from .layers.linear import linear, linear_backward
from .layers.softmax import softmax_cross_entropy
from .ledger import Ledger
from .optim import optimizers, schedules
from .optim.mismatch import CorruptionError
from .optim.optimizer import Optimizer
from .optim.optimizers import NAG, SGD, AdaGrad, Adam, AdamW, Momentum, RMSProp
from .result import Result
from .sums import canonical_sum, global_norm
from .train import minimize

# These modules of samestep.optim are public under shorter names: `import samestep.options` works.
for _module in (optimizers, options, schedules):
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module
del _module

if TYPE_CHECKING:
    from . import parallel, theory

    __version__: str
else:
    # These and the look for the version would double the time of the import; the first use loads them.
    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return info()["version"]
        if name in ("parallel", "theory"):
            from importlib import import_module

            return import_module(f"samestep.{name}")
        raise AttributeError(f"module 'samestep' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), "parallel", "theory", "__version__"})


__all__ = [
    "NAG",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "BatchNorm",
    "CorruptionError",
    "Ledger",
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
    "exp",
    "fingerprint",
    "get_num_threads",
    "global_norm",
    "info",
    "ledger",
    "linear",
    "linear_backward",
    "log",
    "minimize",
    "optimizers",
    "options",
    "parallel",
    "problems",
    "schedules",
    "set_isa",
    "set_num_threads",
    "sigmoid",
    "softmax_cross_entropy",
    "tanh",
    "theory",
]
