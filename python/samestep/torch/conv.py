"""torch.nn.functional's conv2d on the package's kernels, with an optional ReLU fused into both passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.onnx
from torch import Tensor

from ..arguments import switch
from ..backends.face import Window
from . import conv_operators as operators
from .tensors import check_tensors, is_final, is_plain, is_transformed_by, under_autocast


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: str | int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    relu: bool = False,
) -> Tensor:
    """``torch.nn.functional.conv2d``, with an optional ReLU in the same pass.

    ``y[n] = weight patches[n] + bias``: the patches of a sample are a matrix of a row for each (c, r, s) of
    the weight and a column for each position of the result, with +0 where they reach beyond the input. The
    product has the order of ``samestep.linear``: the terms (c, r, s) upwards in blocks of 256. The weight's
    gradient adds the terms (sample, position) likewise, the input's gradient the channels of each tap, then
    the taps in the order of (r, s). Derivatives of any order have this order. 16-bit tensors are computed in
    float32 and rounded once, to nearest even.

    Args:
        input: (N, C, H, W) or (C, H, W), on the CPU or an NVIDIA GPU; float32, float64, float16 or bfloat16.
            Another memory layout than that of contiguous tensors costs a copy.
        weight: (out_channels, C/groups, R, S), the dtype of ``input``.
        bias: (out_channels,), likewise, or None.
        stride, dilation: a whole number, or one for rows and one for columns.
        padding: likewise, or "valid", none, or "same", which makes the result as large as the input and
            needs a stride of 1.
        groups: of channels, each with outputs of its own.
        relu: whether a ReLU follows: ``y <= 0`` becomes +0, NaN passes.

    Returns:
        (N, out_channels, H', W'), or without N; contiguous, for autograd.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or value, or lies elsewhere than the input.
        NotImplementedError: the input is neither on the CPU nor on an NVIDIA GPU.
        ImportError: it is on a GPU, and CuPy is not installed.
        RuntimeError: it is on a GPU where a CUDA graph is being captured.

    Source:
        Goodfellow, Bengio & Courville, Deep Learning (2016), chapter 9; the arguments are PyTorch's.

    Example:
        >>> import torch, samestep.torch
        >>> x, weight = torch.arange(9.0).reshape(1, 1, 3, 3), torch.tensor([[[[1.0, 0], [0, -2]]]])
        >>> samestep.torch.conv2d(x, weight, torch.tensor([9.0]), relu=True)
        tensor([[[[1., 0.],
                  [0., 0.]]]])
    """
    relu = switch("relu", relu)
    stride, dilation = _pair("stride", stride), _pair("dilation", dilation)
    if not _is_whole(groups):
        raise TypeError(f"groups: got {groups!r}, expected a whole number")
    if not torch.jit.is_tracing():  # shapes are traced tensors there; the operators check the real ones
        check_tensors({"input": input, "weight": weight, "bias": bias}, "torch.nn's", on_gpu=True)
        if weight is None:
            raise TypeError("weight: got None, expected a tensor")
        input, weight, bias = under_autocast(input, weight, bias)
    if isinstance(padding, str):
        input, padding = _padded(input, weight, stride, padding, dilation)
    window = Window(stride, _pair("padding", padding), dilation, int(groups))
    if input.dim() == 3:
        return _batched(input.unsqueeze(0), weight, bias, window, relu).squeeze(0)
    return _batched(input, weight, bias, window, relu)


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) == 1:
        pair *= 2
    if len(pair) != 2 or not (_is_whole(pair[0]) and _is_whole(pair[1])):
        raise TypeError(f"{name}: got {value!r}, expected a whole number or two of them")
    return int(pair[0]), int(pair[1])


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _padded(
    input: Tensor, weight: Tensor, stride: tuple[int, int], padding: str, dilation: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """For padding "valid" or "same": the input with what its far sides need beyond the near ones; numbers."""
    if padding not in ("valid", "same"):
        raise ValueError(f"padding: got {padding!r}, expected 'valid', 'same' or whole numbers")
    if padding == "valid" or weight.dim() != 4:
        return input, (0, 0)
    if stride != (1, 1):
        raise ValueError(f"padding: got 'same' with stride {stride}, expected a stride of 1")
    rows, columns = ((int(taps) - 1) * apart for taps, apart in zip(weight.shape[2:], dilation, strict=True))
    if rows % 2 or columns % 2:
        input = torch.nn.functional.pad(input, (0, columns % 2, 0, rows % 2))
    return input, (rows // 2, columns // 2)


def _batched(input: Tensor, weight: Tensor, bias: Tensor | None, window: Window, relu: bool) -> Tensor:
    if torch.jit.is_tracing():
        return _traced(input, weight, bias, window, relu)
    operators.check(input, weight, bias, window)
    if torch.autograd.forward_ad._current_level >= 0:  # no operator has a forward derivative
        return _by_torch(input, weight, bias, window, relu)
    if not is_plain(input, weight, bias):
        return _traced(input, weight, bias, window, relu)
    y: Tensor = _Convolution.apply(input, weight, bias, window, relu)
    return y


def _by_torch(input: Tensor, weight: Tensor, bias: Tensor | None, window: Window, relu: bool) -> Tensor:
    """torch's own, for what the operators do not compute."""
    y = torch.nn.functional.conv2d(input, weight, bias, *window)
    return torch.relu(y) if relu else y


def _traced(input: Tensor, weight: Tensor, bias: Tensor | None, window: Window, relu: bool) -> Tensor:
    """In the package's operators; in torch's for ONNX, which has no node for them, and for functionalize,
    where torch has no rule for autograd functions.
    """
    if torch.onnx.is_in_onnx_export() or is_transformed_by("Functionalize"):
        return _by_torch(input, weight, bias, window, relu)
    stride, padding, dilation = (list(pair) for pair in window[:3])
    return operators.by_operators(input, weight, bias, stride, padding, dilation, window.groups, relu)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, window: Window, relu: bool
    ) -> Tensor:
        y = operators.convolution(input, weight, bias, window, relu)
        ctx.shapes, ctx.window = (input.shape, weight.shape), window
        by_input, by_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(input if by_weight else None, weight if by_input else None, y if relu else None)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        way: Any = operators.gradients if is_final(grad) else operators.differentiable
        found = way(grad, *ctx.saved_tensors, ctx.shapes, ctx.window, ctx.needs_input_grad[:3])
        return (*found, None, None)
