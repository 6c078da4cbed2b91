"""Batch norm's kernels on tensors: what may be passed, in which layout and type the kernels read it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends.face import Sizes
from ..layers.batchnorm.checks import check_eps
from .launching import backend_of
from .running import check_writable, update_running
from .tensors import HALVES, check_dense, check_type, compute_type, resolved


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
    if grad.shape != x.shape:
        raise ValueError(f"grad: got shape {tuple(grad.shape)}, expected the input's, {tuple(x.shape)}")
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


def rows_of(x: Tensor) -> Tensor:
    """The view in C order of what ``in_kernel_layout`` returns, or of another tensor laid out so."""
    return x if x.is_contiguous() else x.movedim(1, -1)


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
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Normalises by the batch.

    Args:
        running: mean, variance and the count of batches or None, which are updated.

    Returns:
        y; mean and 1/sqrt(var + eps) in the compute type; mean and var in float64, unless ``running`` has
        them.
    """
    eps = check_eps(eps)
    x = in_kernel_layout(input)
    sizes, channels_last = _sizes_in_training(x)
    gamma, beta = per_channel(weight, x, 1.0), per_channel(bias, x, 0.0)
    if running is not None:
        check_writable(running)
        statistics = [per_channel(s, x, 0.0) for s in running[:2]]
        kept = dict(zip(("running_mean", "running_var"), statistics, strict=True))
        _check_apart(kept, {"input": x, "weight": gamma, "bias": beta})
    y = torch.empty_like(x)
    with backend_of(x) as on:
        mean, inv = on.empty(gamma, gamma.dtype), on.empty(gamma, gamma.dtype)
        mean64, var64 = on.empty(gamma, torch.float64), on.empty(gamma, torch.float64)
        on.module.batchnorm_forward(
            on.array(rows_of(x), "input"),
            on.array(gamma, "weight"),
            on.array(beta, "bias"),
            on.array(rows_of(y), "output"),
            mean,
            inv,
            mean64,
            var64,
            sizes,
            channels_last,
            relu,
            eps,
        )
        if running is None:
            wide = on.tensor(mean64), on.tensor(var64)
        else:
            wide = None
            update_running(on, running, statistics, mean64, var64, sizes[0] * sizes[2], momentum)
        return y.to(input.dtype), on.tensor(mean), on.tensor(inv), wide


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
    _sizes_in_training(x)
    gamma, beta = per_channel(weight, x, 1.0), per_channel(bias, x, 0.0)
    dx, dgamma, dbeta = _backward(like(grad, x), x, gamma, beta, mean, inv, relu)
    return dx.to(input.dtype), dgamma, dbeta


def _backward(
    grad: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``samestep.batchnorm_backward``."""
    dx = torch.empty_like(x)
    with backend_of(x) as on:
        dgamma, dbeta = on.empty(gamma, gamma.dtype), on.empty(gamma, gamma.dtype)
        on.module.batchnorm_backward(
            on.array(rows_of(grad), "grad"),
            on.array(rows_of(x), "input"),
            on.array(gamma, "weight"),
            on.array(beta, "bias"),
            on.array(mean, "mean"),
            on.array(inv, "inv"),
            on.array(rows_of(dx), "output"),
            dgamma,
            dbeta,
            *sizes_of(x),
            relu,
        )
        return dx, on.tensor(dgamma), on.tensor(dbeta)


def _channels_of_inference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor
) -> dict[str, Tensor]:
    return {
        "weight": per_channel(weight, x, 1.0),
        "bias": per_channel(bias, x, 0.0),
        "running_mean": per_channel(mean, x, 0.0),
        "running_var": per_channel(var, x, 1.0),
    }


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
    return _normalised(x, channels, check_eps(eps), relu).to(input.dtype)


def _normalised(
    x: Tensor, channels: dict[str, Tensor], eps: float, relu: bool, out: Tensor | None = None
) -> Tensor:
    """``samestep.batchnorm_inference``."""
    y = torch.empty_like(x) if out is None else out
    with backend_of(x) as on:
        named = {"input": rows_of(x), **channels, "output": rows_of(y)}
        arrays = [on.array(tensor, name) for name, tensor in named.items()]
        on.module.batchnorm_inference(*arrays, *sizes_of(x), relu, eps)
    return y


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
    """``samestep.batchnorm_inference_backward``, by the same kernels, all in torch's memory."""
    eps = check_eps(eps)
    x = in_kernel_layout(input)
    channels = _channels_of_inference(x, weight, bias, mean, var)
    grad = like(grad, x)
    gamma, variance = channels["weight"], channels["running_var"]
    if x.numel() == 0:
        return torch.empty_like(x).to(input.dtype), torch.zeros_like(gamma), torch.zeros_like(gamma)
    if relu:
        y = _normalised(x, channels, eps, relu=True)
        # The bits of y are compared: in flush-to-zero mode subnormals compare equal to 0.
        grad = like(grad.masked_fill(y.view(_INTEGERS[y.dtype]) == 0, 0.0), x)
    one, zero = torch.ones_like(gamma), torch.zeros_like(gamma)
    # inv = 1/sqrt(running_var + eps) and dx = grad*s are inference as well.
    scaled = {"weight": gamma, "bias": zero, "running_mean": zero, "running_var": variance}
    inv = _normalised(one[None], {**scaled, "weight": one}, eps, relu=False)[0]
    # Of training's backward pass, the two sums are wanted; its dx is overwritten.
    dx, dgamma, dbeta = _backward(grad, x, gamma, zero, channels["running_mean"], inv, relu=False)
    _normalised(grad, scaled, eps, relu=False, out=dx)
    return dx.to(input.dtype), dgamma, dbeta


_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
