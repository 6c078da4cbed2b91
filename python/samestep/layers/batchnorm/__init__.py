"""Batch norm with an optional ReLU: functions on arrays, and a class that keeps running statistics.

Shapes: ``x`` is (N, C), (N, C, ...) with ``axis=1``, or (N, ..., C) with ``axis=-1``; float32 or
float64. A channel has M values, one for each sample and position. In memory, the channels must come
first or last and everything else in order, as in C order or as PyTorch's channels_last; the result has
the layout of ``x``. Neither that nor the instruction set nor the number of threads changes a bit.

``backend`` is "auto" (by where the arrays live), "cpu", "reference" (the NumPy twin: the same bits,
slowly) or "cuda" (arrays on a GPU; so are the results, as CuPy arrays).
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
