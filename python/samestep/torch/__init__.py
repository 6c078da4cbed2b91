"""Drop-ins for PyTorch: the same names, arguments and state dicts, on samestep's kernels.

``import samestep`` never imports torch; ``import samestep.torch`` does, and needs it installed.
"""

from ..backends import cpu as _cpu
from . import parallel
from .batchnorm import batch_norm
from .clip import clip_grad_norm_
from .conv import conv2d
from .conv_layers import Conv2d, LazyConv2d
from .convert import convert, unconverted
from .cross_entropy import cross_entropy
from .cross_entropy_loss import CrossEntropyLoss
from .decompositions import decompositions
from .layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
)
from .linear import linear
from .linear_layers import LazyLinear, Linear
from .optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from .recorded import record
from .sync_batchnorm import SyncBatchNorm

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv2d",
    "CrossEntropyLoss",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyConv2d",
    "LazyLinear",
    "Linear",
    "RMSprop",
    "SyncBatchNorm",
    "batch_norm",
    "clip_grad_norm_",
    "conv2d",
    "convert",
    "cross_entropy",
    "decompositions",
    "linear",
    "parallel",
    "record",
    "unconverted",
]

# torch's threads spin for milliseconds after each of its operations; a step on others would wait for them.
_cpu.use_openmp_of("libtorch_cpu.so")
