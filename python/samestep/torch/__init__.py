"""Drop-ins for PyTorch: the same names, arguments and state dicts, on samestep's kernels.

``import samestep`` never imports torch; ``import samestep.torch`` does, and needs it installed.
"""

from .batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, batch_norm

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "batch_norm"]
