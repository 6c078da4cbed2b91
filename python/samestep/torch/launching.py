"""How CuPy launches kernels on torch's streams and on torch's memory."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backends.gpu.device import get_cupy
from ..optional import require


def current_stream(number: int) -> int:
    """The address of torch's current stream on a GPU."""
    address: int = torch.cuda.current_stream(number).cuda_stream
    return address


def is_capturing(number: int) -> bool:
    """Whether torch's current stream on a GPU is captured into a graph."""
    with torch.cuda.device(number):
        found: bool = torch.cuda.is_current_stream_capturing()
        return found


@functools.lru_cache(maxsize=64)
def _stream(address: int, number: int) -> Any:
    with warnings.catch_warnings():
        # CuPy 14 has another name for it, whose objects end the streams that they were made of.
        warnings.simplefilter("ignore", DeprecationWarning)
        return get_cupy().cuda.ExternalStream(address, number)


@contextlib.contextmanager
def on_stream(number: int) -> Iterator[None]:
    """CuPy launches on torch's current stream of a GPU."""
    with get_cupy().cuda.Device(number), _stream(current_stream(number), number):
        yield


class _Address:
    """Where a tensor lies, for CuPy: nothing that keeps it there."""

    def __init__(self, tensor: Tensor) -> None:
        letter = "u" if tensor.dtype == torch.bfloat16 else "f"  # which the interface has no name for
        size = tensor.element_size()
        self.__cuda_array_interface__ = {
            "version": 3,
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * size for stride in tensor.stride()),
            "typestr": f"<{letter}{size}",
            "stream": None,  # the step runs on torch's
        }


def view(tensor: Tensor) -> Any:
    """CuPy's view of a dense tensor on the current GPU, complex numbers as pairs; it keeps nothing alive."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    bfloat16 = None
    if tensor.dtype == torch.bfloat16:
        bfloat16 = require("ml_dtypes", "torch.bfloat16 on a GPU", "bfloat16").bfloat16
    if tensor.numel() == 0:  # at no address
        dtype = bfloat16 or np.dtype(f"f{tensor.element_size()}")
        return get_cupy().empty(tuple(tensor.shape), dtype)
    found = get_cupy().asarray(_Address(tensor))
    return found if bfloat16 is None else found.view(bfloat16)
