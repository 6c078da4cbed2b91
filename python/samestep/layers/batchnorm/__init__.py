"""Batch norm with an optional ReLU: functions on arrays, and a class that keeps running statistics.

Shapes: ``x`` is (N, C) or (N, C, ...) with ``axis=1``, or (N, ..., C) with ``axis=-1``: N samples, C channels
and S positions, where S is the product of the other lengths. A channel has M = N*S values. All arrays have
one dtype, float32 or float64.

Layout: the memory of ``x`` is that of a C-order array (N, C, ...) or (N, ..., C), as PyTorch's contiguous and
channels_last. The result has the layout of ``x``. Layout, instruction set and number of threads do not change
a bit.

``backend`` is "auto" (by the memory in which the arrays live), "cpu", "reference" (the NumPy twin: the same
bits, slowly) or "cuda" (arrays on a GPU; the results are CuPy arrays).
"""

from .functions import (
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_inference,
    batchnorm_inference_backward,
    forward_and_statistics,
)
from .layer import BatchNorm

__all__ = [
    "BatchNorm",
    "batchnorm_backward",
    "batchnorm_forward",
    "batchnorm_inference",
    "batchnorm_inference_backward",
    "forward_and_statistics",
]
