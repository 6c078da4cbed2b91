"""CuPy and the current GPU, which are searched for at the first use."""

from __future__ import annotations

import functools
import os
from typing import Any

from ...optional import require

_is_forked = False


@functools.cache
def get_cupy() -> Any:
    """The module cupy, once it has found a GPU.

    Raises:
        ImportError: CuPy is not installed.
        RuntimeError: there is no GPU, or the process was forked from one that had used it.
    """
    if _is_forked:
        raise RuntimeError(
            "backend='cuda': this process was forked from one that had used the GPU, and CUDA does not work "
            "here; start it with multiprocessing's method 'spawn'"
        )
    cupy = require("cupy", "backend='cuda'", "cuda12", "cuda13")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"backend='cuda': CUDA finds no GPU that it can use here ({error}); on a machine with one, "
            "install NVIDIA's driver and, by its version, 'samestep[cuda12]' or 'samestep[cuda13]'"
        ) from error
    return cupy


def _after_fork() -> None:
    global _is_forked
    _is_forked = _is_forked or get_cupy.cache_info().currsize > 0
    get_cupy.cache_clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


def why_not() -> str | None:
    """Why no GPU can be used, in words for the user; None if one can."""
    try:
        get_cupy()
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None


def device_name() -> str:
    """The name of the current GPU, such as "NVIDIA H200"."""
    cupy = get_cupy()
    name: bytes = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"]
    return name.decode()


def stream_address(number: int) -> int:
    """The address of the stream on which kernels are launched on a GPU; 0: that of CUDA itself."""
    cuda = get_cupy().cuda
    with cuda.Device(number):
        address: int = cuda.get_current_stream().ptr
    return address


def wait_for(number: int) -> None:
    """Waits for what has been launched on that stream."""
    cuda = get_cupy().cuda
    with cuda.Device(number):
        cuda.get_current_stream().synchronize()
