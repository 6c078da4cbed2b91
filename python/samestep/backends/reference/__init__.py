"""The NumPy twin of the C++ core, file by file: the specification that the kernels equal bit for bit.

It uses ``+ - * /``, ``sqrt``, ``where`` and casts, nothing whose bits NumPy may change. It is also
a backend: ``backend="reference"`` runs a whole training in it.
"""

from ..arrays import assign, contiguous, empty, empty_like, frozen, gradient_views, place, to_host, zeros_like
from .batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference, update_running
from .mse import Mse
from .plan import Plan
from .rules import power, rules
from .sums import canonical_sum, global_norm

__all__ = [
    "Mse",
    "Plan",
    "assign",
    "batchnorm_backward",
    "batchnorm_forward",
    "batchnorm_inference",
    "canonical_sum",
    "contiguous",
    "empty",
    "empty_like",
    "frozen",
    "global_norm",
    "gradient_views",
    "place",
    "power",
    "rules",
    "to_host",
    "update_running",
    "zeros_like",
]
