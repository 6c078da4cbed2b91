"""The NumPy twin of the C++ core, file by file: the specification that the kernels equal bit for bit.

It uses only ``+ - * /``, ``sqrt``, comparisons, ``where`` and casts, whose bits no version of NumPy changes.
It is also a backend: with ``backend="reference"`` a whole training runs in it.
"""

from ..arrays import (
    assign,
    contiguous,
    empty,
    empty_like,
    from_host,
    gradient_views,
    read_only_copy,
    to_host,
    zeros_like,
)
from .batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference, update_running
from .convolution import conv2d, conv2d_backward
from .functions import exp, log, sigmoid, tanh
from .mse import Mse
from .plan import Plan
from .product import linear, linear_backward
from .rules import power, rules
from .softmax import softmax_cross_entropy
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
    "conv2d",
    "conv2d_backward",
    "empty",
    "empty_like",
    "exp",
    "from_host",
    "global_norm",
    "gradient_views",
    "linear",
    "linear_backward",
    "log",
    "power",
    "read_only_copy",
    "rules",
    "sigmoid",
    "softmax_cross_entropy",
    "tanh",
    "to_host",
    "update_running",
    "zeros_like",
]
