"""Batch norm on a GPU: launches the kernels of csrc/gpu/. The formulas are in reference/batchnorm.py.

A pass in training reads its arrays once where a channel lies in planes and fits the shared memory of a team
of blocks of threads: one launch, ``whole``. Else it launches ``add_blocks``, which sums the values of blocks,
``pair_rows``, which pairs these sums, ``finish``, which computes each channel's coefficients, and ``apply``,
which reads the arrays again and computes the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..face import Sizes
from .device import get_cupy
from .kernels import (
    BATCHNORM,
    BATCHNORM_COEFFICIENTS,
    ITEM,
    PAIRED_ROWS,
    RUNNING,
    SUM_BLOCK,
    TILE,
    ceil_div,
    multiprocessors,
    run_kernel,
    run_shared,
    shared_memory,
    struct_of,
    threads,
    warps,
)
from .sums import pair


def _kernel_argument(x: Any, sizes: Sizes, channels_last: bool, **values: Any) -> NDArray[Any]:
    """The struct that all kernels of a pass read."""
    N, C, S = sizes
    return struct_of(
        BATCHNORM,
        x=x,
        samples=N,
        channels=C,
        positions=S,
        channels_last=channels_last,
        per_block=ITEM,
        **values,
    )


class _Teams(NamedTuple):
    """How a channel is held in shared memory."""

    size: int  # blocks of threads
    part: int  # blocks of terms of each, the last one fewer
    at_once: int  # blocks of threads that a processor has room for
    shared_bytes: int  # of each


def _teams(values: int, bytes_of_value: int) -> _Teams | None:
    """The teams of a launch; None where a channel of so many values would need too large ones.

    Three blocks share a processor where they can: while one adds or waits, memory is busy with the others. A
    team that has begun in part holds its processors until the rest begins. Each takes an eighth of them at
    most, so that 8 launches that run beside each other cannot fill the GPU with such parts. CUDA has 8
    queues; with more (CUDA_DEVICE_MAX_CONNECTIONS), or several processes on a GPU, that is not ruled out.
    """
    device, blocks = get_cupy().cuda.runtime.getDevice(), ceil_div(values, SUM_BLOCK)
    sums, block_bytes = 16 * blocks, SUM_BLOCK * bytes_of_value
    for at_once in (3, 2, 1):
        room = shared_memory(device, at_once) - sums
        fitting = blocks if values * bytes_of_value <= room else room // block_bytes
        if fitting > 0:
            part = ceil_div(blocks, ceil_div(blocks, fitting))
            size = ceil_div(blocks, part)
            if size <= max(1, multiprocessors(device) // 8):
                shared_bytes = sums + min(values * bytes_of_value, part * block_bytes)
                return _Teams(size, part, at_once, shared_bytes)
    return None


def _launch_apply(direction: str, x: Any, argument: NDArray[Any]) -> None:
    run_kernel("BATCHNORM_KERNELS()", f"apply_{direction}_{x.dtype}", ceil_div(x.size, ITEM), argument)


def _launch_training_pass(direction: str, x: Any, sizes: Sizes, channels_last: bool, **values: Any) -> None:
    cupy = get_cupy()
    N, C, S = sizes
    blocks = ceil_div(N * S, SUM_BLOCK)
    coefficients = cupy.empty(BATCHNORM_COEFFICIENTS * C, x.dtype)
    sums = cupy.empty(2 * blocks * C, np.float64)
    argument = _kernel_argument(x, sizes, channels_last, coefficients=coefficients, sums=sums, **values)
    teams = None if channels_last else _teams(N * S, x.itemsize * (2 if "dy" in values else 1))
    if C and teams is not None:
        counters = cupy.zeros(1 + C if teams.size > 1 else 0, np.uint32)
        argument["part"], argument["counters"] = teams.part, counters.data.ptr
        name, grid = f"whole_{direction}_{x.dtype}", C * teams.size
        run_shared("BATCHNORM_KERNELS()", name, grid, teams.at_once, argument, teams.shared_bytes)
        return
    tiles = ceil_div(C, TILE)
    grid = tiles * blocks if channels_last else warps(C * blocks)
    run_kernel("BATCHNORM_KERNELS()", f"add_blocks_{direction}_{x.dtype}", grid, argument)
    sets, width = (2, C) if channels_last else (2 * C, 1)
    argument["left"], argument["stride"] = pair(sums, sets, blocks, width, PAIRED_ROWS)
    run_kernel(
        "BATCHNORM_KERNELS()", f"finish_{direction}_{x.dtype}", tiles if channels_last else C, argument
    )
    _launch_apply(direction, x, argument)


def batchnorm_forward(
    x: Any,
    gamma: Any,
    beta: Any,
    out: Any,
    mean: Any,
    inv: Any,
    mean64: Any,
    var64: Any,
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None:
    values = {"gamma": gamma, "beta": beta, "out": out, "mean": mean, "inv": inv, "mean64": mean64}
    with x.device:
        direction = "forward_relu" if relu else "forward"
        _launch_training_pass(direction, x, sizes, channels_last, **values, var64=var64, eps=eps)


def batchnorm_backward(
    dy: Any,
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    inv: Any,
    out: Any,
    dgamma: Any,
    dbeta: Any,
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
) -> None:
    values = {"dy": dy, "gamma": gamma, "beta": beta, "mean": mean, "inv": inv, "out": out}
    with x.device:
        direction = "backward_relu" if relu else "backward"
        _launch_training_pass(direction, x, sizes, channels_last, **values, dgamma=dgamma, dbeta=dbeta)


def batchnorm_inference(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    out: Any,
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None:
    values = {"gamma": gamma, "beta": beta, "mean": running_mean, "var": running_var, "out": out}
    direction = "inference_relu" if relu else "inference"
    with x.device:
        coefficients = get_cupy().empty(BATCHNORM_COEFFICIENTS * sizes[1], x.dtype)
        argument = _kernel_argument(x, sizes, channels_last, coefficients=coefficients, **values, eps=eps)
        grid = threads(sizes[1])
        run_kernel("BATCHNORM_KERNELS()", f"prepare_{direction}_{x.dtype}", grid, argument)
        _launch_apply(direction, x, argument)


def update_running(
    running_mean: Any,
    running_var: Any,
    mean64: Any,
    var64: Any,
    values: int,
    momentum: float,
    batches: int,
) -> None:
    channels = running_mean.size
    argument = struct_of(
        RUNNING,
        mean64=mean64,
        var64=var64,
        channels=channels,
        values=values,
        momentum=momentum,
        batches=batches,
        mean=running_mean,
        var=running_var,
    )
    with running_mean.device:
        name = f"update_running_{running_mean.dtype}"
        run_kernel("BATCHNORM_KERNELS()", name, threads(channels), argument)
