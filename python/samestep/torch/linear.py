"""torch.nn.functional's linear on the package's kernels, with an optional ReLU fused into both passes."""

from __future__ import annotations

from typing import Any

import torch
import torch.onnx
from torch import Tensor

from ..arguments import switch
from . import linear_operators as operators
from .tensors import (
    check_tensors,
    is_eager,
    is_final,
    is_plain,
    is_transformed_by,
    needs_gradient,
    under_autocast,
)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """``torch.nn.functional.linear``, with an optional ReLU in the same pass: ``y = x weight^T + bias``.

    The formulas, the order of additions and the bits are those of ``samestep.linear`` with ``w = weight^T``,
    and of its gradients; derivatives of any order have them. 16-bit tensors are computed in float32 and
    rounded once, to nearest even.

    Args:
        input: (..., K), of any strides, on the CPU or an NVIDIA GPU; float32, float64, float16 or bfloat16.
        weight: (J, K), the dtype of ``input``, any strides.
        bias: (J,), likewise, or None.
        relu: whether a ReLU follows: ``y <= 0`` becomes +0, NaN passes.

    Returns:
        (..., J), contiguous, for autograd.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape, or lies elsewhere than the input.
        NotImplementedError: the input is neither on the CPU nor on an NVIDIA GPU.
        ImportError: it is on a GPU, and CuPy is not installed.
        RuntimeError: it is on a GPU where a CUDA graph is being captured.

    Source:
        Goodfellow, Bengio & Courville, Deep Learning (2016), chapter 6; the arguments are PyTorch's.

    Example:
        >>> import torch, samestep.torch
        >>> x, weight = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[1.0, 1], [1, -1]])
        >>> samestep.torch.linear(x, weight, torch.tensor([0.5, 0]), relu=True)
        tensor([[3.5000, 0.0000],
                [7.5000, 0.0000]])
    """
    relu = switch("relu", relu)
    are_there = input is not None and weight is not None
    if are_there and is_eager(input, weight, bias):  # the shortest way, which for small tensors counts
        run = _Linear.apply if needs_gradient(input, weight, bias) else operators.product
        return run(input, weight, bias, relu)
    if torch.jit.is_tracing():  # shapes are traced tensors here; the operators check the real ones
        return _traced(input, weight, bias, relu)
    tensors = {"input": input, "weight": weight, "bias": bias}
    check_tensors(tensors, "torch.nn's", on_gpu=True)
    if weight is None:
        raise TypeError("weight: got None, expected a tensor")
    input, weight, bias = under_autocast(input, weight, bias)
    operators.check(input, weight, bias)
    if torch.autograd.forward_ad._current_level >= 0:  # no operator has a forward derivative
        return _by_torch(input, weight, bias, relu)
    if not is_plain(input, weight, bias):
        return _traced(input, weight, bias, relu)
    y: Tensor = _Linear.apply(input, weight, bias, relu)
    return y


def _by_torch(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """torch's own, for what the operators do not compute."""
    y = torch.nn.functional.linear(input, weight, bias)
    return torch.relu(y) if relu else y


def _traced(*arguments: Any) -> Tensor:
    """In the package's operators; in torch's for ONNX, which has no node for them, and for functionalize,
    where torch has no rule for autograd functions.
    """
    by_torch = torch.onnx.is_in_onnx_export() or is_transformed_by("Functionalize")
    return (_by_torch if by_torch else operators.by_operators)(*arguments)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        y = operators.product(input, weight, bias, relu)
        by_input, by_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(input if by_weight else None, weight if by_input else None, y if relu else None)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = (*ctx.saved_tensors, ctx.needs_input_grad)
        if not is_final(grad):
            return (*operators.differentiable(grad, *saved), None)
        return (*operators.gradients_at_once(grad, *saved), None)
