"""Batch norm's kernels on tensors: what may be passed, in which layout and type the kernels read it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers import batchnorm as kernels
from .tensors import as_array

HALVES = (torch.float16, torch.bfloat16)  # read and written in 16 bits, computed in float32
TYPES = (torch.float32, torch.float64, *HALVES)


def check(input: Tensor, per_channel: dict[str, Tensor | None]) -> None:
    """Raises with torch's names of the arguments; those of ``samestep.batchnorm_forward`` differ."""
    if input.dtype not in TYPES:
        raise TypeError(f"input: got {input.dtype}, expected one of {', '.join(map(str, TYPES))}")
    if input.dim() < 2:
        raise ValueError(f"input: got shape {tuple(input.shape)}, expected (N, C) or (N, C, ...)")
    for name, values in per_channel.items():
        if values is None:
            continue
        if compute_type(values.dtype) != compute_type(input.dtype):
            raise TypeError(f"{name}: got {values.dtype}, expected the input's {input.dtype}")
        if values.shape != (input.shape[1],):
            raise ValueError(
                f"{name}: got shape {tuple(values.shape)}, expected ({input.shape[1]},), one for each channel"
            )


def compute_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALVES else dtype


def in_kernel_layout(x: Tensor) -> Tensor:
    """``x`` in its compute type and in a layout of the kernels: contiguous or channels_last."""
    x = x.detach().resolve_neg().to(compute_type(x.dtype))
    return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()


def like(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient in the dtype and layout of ``x``."""
    grad = grad.detach().resolve_neg()
    if grad.dtype == x.dtype and grad.stride() == x.stride():
        return grad
    return torch.empty_like(x).copy_(grad)


def per_channel(values: Tensor | None, x: Tensor, default: float) -> Tensor:
    """The (C,) tensor in its compute type, contiguous; for None one that is filled with the default."""
    if values is None:
        return x.new_full((x.shape[1],), default)
    values = values.detach().resolve_neg()
    return (values.to(compute_type(values.dtype)) if values.dtype in HALVES else values).contiguous()


def training(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, Any, Any, Any, Any]:
    """y as a tensor; mean and 1/sqrt(var + eps) in the compute type, mean and var in float64, as arrays."""
    x = in_kernel_layout(input)
    gamma, beta = per_channel(weight, x, 1.0), per_channel(bias, x, 0.0)
    y = torch.empty_like(x)
    _, *statistics = kernels.forward_and_statistics(
        as_array(x), as_array(gamma), as_array(beta), eps, relu, 1, as_array(y), "cpu"
    )
    return (y.to(input.dtype), *statistics)


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
    gamma, beta = per_channel(weight, x, 1.0), per_channel(bias, x, 0.0)
    dx = torch.empty_like(x)
    arrays = (as_array(t) for t in (like(grad, x), x, gamma, beta, mean, inv))
    _, dgamma, dbeta = kernels.batchnorm_backward(*arrays, relu=relu, out=as_array(dx))
    return dx.to(input.dtype), torch.from_numpy(dgamma), torch.from_numpy(dbeta)


def _channels_of_inference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor
) -> list[np.ndarray[Any, Any]]:
    pairs = ((weight, 1.0), (bias, 0.0), (mean, 0.0), (var, 1.0))
    return [as_array(per_channel(values, x, default)) for values, default in pairs]


def inference(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    relu: bool,
) -> Tensor:
    x = in_kernel_layout(input)
    channels = _channels_of_inference(x, weight, bias, mean, var)
    y = torch.empty_like(x)
    kernels.batchnorm_inference(as_array(x), *channels, eps=eps, relu=relu, out=as_array(y))
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
        as_array(like(grad, x)), as_array(x), *channels, eps=eps, relu=relu, out=as_array(dx)
    )
    return dx.to(input.dtype), torch.from_numpy(dgamma), torch.from_numpy(dbeta)
