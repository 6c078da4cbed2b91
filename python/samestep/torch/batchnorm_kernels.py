"""Batch norm's kernels on tensors: what may be passed, in which layout and type the kernels read it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backends import cpu
from ..backends.arrays import Array
from ..backends.face import Sizes
from ..layers import batchnorm as kernels
from ..layers.batchnorm.checks import check_eps
from .running import check_writable, update_running
from .tensors import HALVES, as_array, check_dense, check_type, compute_type, resolved


def check(input: Tensor, per_channel: dict[str, Tensor | None]) -> None:
    """Raises with torch's names of the arguments; those of ``samestep.batchnorm_forward`` differ."""
    check_dense(input=input, **per_channel)
    check_type(input)
    if input.dim() < 2:
        raise ValueError(f"input: got shape {tuple(input.shape)}, expected (N, C) or (N, C, ...)")
    dtype, shape = input.dtype, input.shape[1:2]
    for name, values in per_channel.items():
        if values is None:
            continue
        if values.dtype != dtype and compute_type(values.dtype) != compute_type(dtype):
            raise TypeError(f"{name}: got {values.dtype}, expected the input's {input.dtype}")
        if values.shape != shape:
            raise ValueError(
                f"{name}: got shape {tuple(values.shape)}, expected ({input.shape[1]},), one for each channel"
            )


def in_kernel_layout(x: Tensor) -> Tensor:
    """``x`` in its compute type and in a layout of the kernels: contiguous or channels_last."""
    x = resolved(x).to(compute_type(x.dtype))
    return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()


def like(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient in the dtype and layout of ``x``."""
    grad = resolved(grad)
    if grad.dtype == x.dtype and grad.stride() == x.stride():
        return grad
    return torch.empty_like(x).copy_(grad)


def per_channel(values: Tensor | None, x: Tensor, default: float) -> Tensor:
    """The (C,) tensor in its compute type, contiguous; for None one that is filled with the default."""
    if values is None:
        return x.new_full((x.shape[1],), default)
    values = resolved(values)
    return (values.to(compute_type(values.dtype)) if values.dtype in HALVES else values).contiguous()


def sizes_of(x: Tensor) -> tuple[Sizes, bool]:
    """(N, C, S) of x in C order, and whether that is (N, S, C): what ``ChannelLayout`` says of arrays."""
    samples, channels = x.shape[:2]
    if channels == 0:
        raise ValueError(f"input: got shape {tuple(x.shape)}, expected at least one channel")
    values = x.numel() // channels
    if not x.is_contiguous() or (values == samples and channels > 1):
        return (values, channels, 1), True
    return ((1, 1, values) if channels == 1 else (samples, channels, values // samples)), False


def _sizes_in_training(x: Tensor) -> tuple[Sizes, bool]:
    sizes, channels_last = sizes_of(x)
    if sizes[0] * sizes[2] < 2:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}"
        )
    return sizes, channels_last


def rows_of(x: Tensor, name: str = "input") -> Array:
    """An array in C order of what ``in_kernel_layout`` returns, or of another tensor laid out so."""
    return as_array(x if x.is_contiguous() else x.movedim(1, -1), name)


def _check_apart(written: dict[str, Tensor], read: dict[str, Tensor]) -> None:
    """Raises where one of the tensors that are written shares memory with another. None has gaps."""
    spans = {name: (t.data_ptr(), t.data_ptr() + t.nbytes) for name, t in read.items()}
    for name, tensor in written.items():
        begin = tensor.data_ptr()
        end = begin + tensor.nbytes
        for other, (other_begin, other_end) in spans.items():
            if begin < other_end and other_begin < end:
                raise ValueError(f"{name}: overlaps {other} in memory; give it an array of its own")
        spans[name] = begin, end


def training(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool,
    running: tuple[Tensor, Tensor, Tensor | None] | None = None,
    momentum: float = 0.0,
) -> tuple[Tensor, Any, Any, Any, Any]:
    """Normalises by the batch.

    Args:
        running: mean, variance and the count of batches or None, which are updated.

    Returns:
        y as a tensor; mean and 1/sqrt(var + eps) in the compute type, mean and var in float64, as arrays.
    """
    eps = check_eps(eps)
    x = in_kernel_layout(input)
    sizes, channels_last = _sizes_in_training(x)
    gamma, beta = per_channel(weight, x, 1.0), per_channel(bias, x, 0.0)
    if running is not None:
        check_writable(running)
        statistics = [per_channel(s, x, 0.0) for s in running[:2]]
        written = dict(zip(("running_mean", "running_var"), statistics, strict=True))
        _check_apart(written, {"input": x, "weight": gamma, "bias": beta})
    y = torch.empty_like(x)
    scale, shift = as_array(gamma, "weight"), as_array(beta, "bias")
    mean, inv = np.empty_like(scale), np.empty_like(scale)
    mean64, var64 = np.empty(len(scale)), np.empty(len(scale))
    cpu.batchnorm_forward(
        rows_of(x), scale, shift, rows_of(y), mean, inv, mean64, var64, sizes, channels_last, relu, eps
    )
    if running is not None:
        update_running(running, statistics, mean64, var64, sizes[0] * sizes[2], momentum)
    return (y.to(input.dtype), mean, inv, mean64, var64)


def training_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    inv: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x = in_kernel_layout(input)
    sizes, channels_last = _sizes_in_training(x)
    gamma, beta = as_array(per_channel(weight, x, 1.0), "weight"), as_array(per_channel(bias, x, 0.0), "bias")
    statistics = as_array(mean, "mean"), as_array(inv, "inv")
    dx = torch.empty_like(x)
    dgamma, dbeta = np.empty_like(gamma), np.empty_like(gamma)
    arrays = rows_of(like(grad, x), "grad"), rows_of(x), gamma, beta, *statistics, rows_of(dx)
    cpu.batchnorm_backward(*arrays, dgamma, dbeta, sizes, channels_last, relu)
    return dx.to(input.dtype), torch.from_numpy(dgamma), torch.from_numpy(dbeta)


def _channels_of_inference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor
) -> tuple[Array, Array, Array, Array]:
    return (
        as_array(per_channel(weight, x, 1.0), "weight"),
        as_array(per_channel(bias, x, 0.0), "bias"),
        as_array(per_channel(mean, x, 0.0), "running_mean"),
        as_array(per_channel(var, x, 1.0), "running_var"),
    )


def inference(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    relu: bool,
) -> Tensor:
    eps = check_eps(eps)
    x = in_kernel_layout(input)
    sizes, channels_last = sizes_of(x)
    channels = _channels_of_inference(x, weight, bias, mean, var)
    y = torch.empty_like(x)
    cpu.batchnorm_inference(rows_of(x), *channels, rows_of(y), sizes, channels_last, relu, eps)
    return y.to(input.dtype)


def inference_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x = in_kernel_layout(input)
    channels = _channels_of_inference(x, weight, bias, mean, var)
    dx = torch.empty_like(x)
    _, dgamma, dbeta = kernels.batchnorm_inference_backward(
        as_array(like(grad, x), "grad"),
        as_array(x, "input"),
        *channels,
        eps=eps,
        relu=relu,
        out=as_array(dx, "input"),
    )
    return dx.to(input.dtype), torch.from_numpy(dgamma), torch.from_numpy(dbeta)
