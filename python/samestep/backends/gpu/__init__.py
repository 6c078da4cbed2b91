"""The GPU backend: csrc/gpu/kernels.cu, compiled for the current GPU and launched through CuPy.

CuPy is imported when the first array on a GPU, or ``backend="cuda"``, needs it. Kernels run on CuPy's current
stream. Functions return before their kernels have run, but for those that return a Python float. Arrays of
other libraries come by DLPack, which makes CuPy's stream wait for the library's. The other way round nothing
waits: the library's later work on these arrays is ordered after the kernels only if both use the same stream,
as they do by default.
"""

from ..cpu import rules
from .arrays import (
    assign,
    contiguous,
    copy,
    cupy_views,
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
from .device import device_name, stream_address, wait_for, why_not
from .fingerprint import fingerprint
from .functions import exp, log, sigmoid, tanh
from .leaves import add_leaves, average_leaves, weigh_leaf
from .mse import Mse
from .plan import Plan, check_state_dir
from .product import linear, linear_backward
from .softmax import softmax_cross_entropy
from .storage import widened
from .sums import block_sums, canonical_sum, global_norm

__all__ = [
    "Mse",
    "Plan",
    "add_leaves",
    "assign",
    "average_leaves",
    "batchnorm_backward",
    "batchnorm_forward",
    "batchnorm_inference",
    "block_sums",
    "canonical_sum",
    "check_state_dir",
    "contiguous",
    "conv2d",
    "conv2d_backward",
    "copy",
    "cupy_views",
    "device_name",
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
    "read_only_copy",
    "rules",
    "sigmoid",
    "softmax_cross_entropy",
    "stream_address",
    "tanh",
    "to_host",
    "update_running",
    "wait_for",
    "weigh_leaf",
    "why_not",
    "widened",
    "zeros_like",
]
