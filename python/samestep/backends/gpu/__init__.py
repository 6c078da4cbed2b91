"""The GPU backend: csrc/gpu/kernels.cu, compiled for the GPU at hand and launched through CuPy.

Nothing here imports CuPy before an array on a GPU, or ``backend="cuda"``, asks for it. Kernels run on
CuPy's current stream and nothing waits for them; what returns a Python float does wait. Arrays of other
libraries come by DLPack, which makes that stream wait for theirs. What their library does with them next
it must order itself: on CUDA's default stream, where both work unless told otherwise, it is in order.
"""

from ..cpu import rules
from .arrays import (
    assign,
    contiguous,
    empty,
    empty_like,
    frozen,
    gradient_views,
    place,
    to_host,
    views,
    zeros_like,
)
from .batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference, update_running
from .device import device_name, why_not
from .mse import Mse
from .plan import SUPPORTED, Plan, check_options
from .sums import canonical_sum, global_norm

__all__ = [
    "SUPPORTED",
    "Mse",
    "Plan",
    "assign",
    "batchnorm_backward",
    "batchnorm_forward",
    "batchnorm_inference",
    "canonical_sum",
    "check_options",
    "contiguous",
    "device_name",
    "empty",
    "empty_like",
    "frozen",
    "global_norm",
    "gradient_views",
    "place",
    "rules",
    "to_host",
    "update_running",
    "views",
    "why_not",
    "zeros_like",
]
