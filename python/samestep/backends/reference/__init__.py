"""The NumPy twin of the C++ core, file by file: the specification that the kernels equal bit for bit.

It uses only ``+ - * /``, ``sqrt``, comparisons, ``where`` and casts, whose bits no version of NumPy changes.
It is also a backend: with ``backend="reference"`` a whole training runs in it.
"""

from ..arrays import (
    assign,
    contiguous,
    copy,
    empty,
    empty_like,
    from_host,
    gradient_views,
    read_only_copy,
    to_host,
    zeros_like,
)
from .batchnorm import (
    batchnorm_backward,
    batchnorm_backward_apply,
    batchnorm_backward_blocks,
    batchnorm_forward,
    batchnorm_forward_apply,
    batchnorm_forward_blocks,
    batchnorm_inference,
    update_running,
)
from .convolution import conv2d, conv2d_backward
from .fingerprint import fingerprint
from .functions import exp, log, sigmoid, tanh
from .leaves import add_leaves, average_leaves, weigh_leaf
from .mse import Mse
from .options import clipped_scale
from .plan import Plan
from .product import linear, linear_backward
from .rules import power, rules
from .softmax import softmax_cross_entropy
from .storage import widened
from .sums import block_sums, canonical_sum, global_norm, norm_of, pair_sums

__all__ = [
    "Mse",
    "Plan",
    "add_leaves",
    "assign",
    "average_leaves",
    "batchnorm_backward",
    "batchnorm_backward_apply",
    "batchnorm_backward_blocks",
    "batchnorm_forward",
    "batchnorm_forward_apply",
    "batchnorm_forward_blocks",
    "batchnorm_inference",
    "block_sums",
    "canonical_sum",
    "clipped_scale",
    "contiguous",
    "conv2d",
    "conv2d_backward",
    "copy",
    "empty",
    "empty_like",
    "exp",
    "fingerprint",
    "from_host",
    "global_norm",
    "gradient_views",
    "linear",
    "linear_backward",
    "log",
    "norm_of",
    "pair_sums",
    "power",
    "read_only_copy",
    "rules",
    "sigmoid",
    "softmax_cross_entropy",
    "tanh",
    "to_host",
    "update_running",
    "weigh_leaf",
    "widened",
    "zeros_like",
]
