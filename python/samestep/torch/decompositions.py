"""The operators of ``torch.ops.samestep`` in aten's, for programs that run where samestep is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .batchnorm_operators import gradients_by_torch
from .tensors import compute_type


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table of ``torch.ops.samestep`` for ``ExportedProgram.run_decompositions``: aten's operators.

    The program then runs without samestep, and has torch's bits. No table of torch has these entries:
    torch.compile and ``run_decompositions()`` keep the operators.

    Returns:
        A new dict of functions; the keys are operators.

    Example:
        >>> import torch, samestep.torch
        >>> for operator in samestep.torch.decompositions():
        ...     print(operator)
        samestep.batch_norm_training.default
        samestep.batch_norm_training_backward.default
        samestep.batch_norm_inference.default
        samestep.batch_norm_inference_backward.default
        samestep.running_statistics.default
        samestep.linear.default
        samestep.column_sums.default
        samestep.conv2d.default
        samestep.conv2d_input_gradient.default
        samestep.conv2d_weight_gradient.default
        samestep.cross_entropy.default
    """
    operators = torch.ops.samestep
    return {
        operators.batch_norm_training.default: _training,
        operators.batch_norm_training_backward.default: _training_backward,
        operators.batch_norm_inference.default: _inference,
        operators.batch_norm_inference_backward.default: _inference_backward,
        operators.running_statistics.default: _running_statistics,
        operators.linear.default: _linear,
        operators.column_sums.default: _column_sums,
        operators.conv2d.default: _conv2d,
        operators.conv2d_input_gradient.default: _conv2d_input_gradient,
        operators.conv2d_weight_gradient.default: _conv2d_weight_gradient,
        operators.cross_entropy.default: _cross_entropy,
    }


def _laid(result: Tensor, x: Tensor) -> Tensor:
    """The result in the layout that the operator gives it: later nodes of a graph may be views of it."""
    if x.is_contiguous() or not x.movedim(1, -1).is_contiguous():
        return result.contiguous()
    last = result.movedim(1, -1)
    return result if last.is_contiguous() else last.contiguous().movedim(-1, 1)


def _training(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, ...]:
    y, mean, inv = torch.ops.aten._native_batch_norm_legit.no_stats(input, weight, bias, True, 0.0, eps)
    axes, narrow = [0, *range(2, input.dim())], compute_type(input.dtype)
    var64, mean64 = torch.var_mean(input.to(torch.float64), axes, correction=0)
    return _laid(torch.relu(y) if relu else y, input), mean.to(narrow), inv.to(narrow), mean64, var64


def _inference(
    input: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, eps: float, relu: bool
) -> Tensor:
    y = torch.ops.aten._native_batch_norm_legit_no_training(input, weight, bias, mean, var, 0.0, eps)[0]
    return _laid(torch.relu(y) if relu else y, input)


def _training_backward(
    grad: Tensor, input: Tensor, weight: Any, bias: Any, mean: Tensor, inv: Tensor, eps: float, relu: bool
) -> tuple[Tensor, ...]:
    dx, *rest = gradients_by_torch(grad, input, weight, bias, None, eps, relu)
    return (_laid(dx, input), *rest)


def _inference_backward(
    grad: Tensor, input: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, eps: float, relu: bool
) -> tuple[Tensor, ...]:
    dx, *rest = gradients_by_torch(grad, input, weight, bias, (mean, var), eps, relu)
    return (_laid(dx, input), *rest)


def _running_statistics(
    running_mean: Tensor,
    running_var: Tensor,
    mean64: Tensor,
    var64: Tensor,
    values: int,
    momentum: float | None,
    batches: Tensor | None,
) -> tuple[Tensor, Tensor]:
    share: Any = momentum
    if momentum is None:
        share = 0.0 if batches is None else 1.0 / (batches + 1).to(torch.float64)
    new = mean64, var64 * (values / (values - 1))
    kept = running_mean, running_var
    mean, var = ((1 - share) * old + share * one for old, one in zip(kept, new, strict=True))
    return mean.to(running_mean.dtype), var.to(running_var.dtype)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    y = torch.ops.aten.linear(input, weight, bias)
    return (torch.relu(y) if relu else y).contiguous()


def _column_sums(x: Tensor) -> Tensor:
    return x.sum(0)


def _conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    stride, padding, dilation, groups, relu = how
    y = torch.ops.aten.convolution(input, weight, bias, stride, padding, dilation, False, [0, 0], groups)
    return (torch.relu(y) if relu else y).contiguous()


def _conv2d_input_gradient(grad: Tensor, weight: Tensor, size: Any, *how: Any) -> Tensor:
    input = grad.new_empty((grad.shape[0], weight.shape[1] * how[-1], *size))
    return _conv2d_gradients(grad, input, weight, how)[0].contiguous()


def _conv2d_weight_gradient(grad: Tensor, input: Tensor, kernel: Any, *how: Any) -> Tensor:
    weight = grad.new_empty((grad.shape[1], input.shape[1] // how[-1], *kernel))
    return _conv2d_gradients(grad, input, weight, how)[1].contiguous()


def _conv2d_gradients(grad: Tensor, input: Tensor, weight: Tensor, how: Any) -> tuple[Tensor, ...]:
    wanted = [True, True, False]
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        grad, input, weight, None, *how[:3], False, [0, 0], how[3], wanted
    )
    return found


def _cross_entropy(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    rows, classes = input.shape
    is_target = target[:, None] == torch.arange(classes, device=target.device)
    gradient = (torch.softmax(input, 1) - is_target.to(input.dtype)) / rows
    return torch.nn.functional.cross_entropy(input, target.long()), gradient
