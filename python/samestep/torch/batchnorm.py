"""torch.nn.functional's batch norm on the package's kernels, with an optional ReLU fused into both passes."""

from __future__ import annotations

from typing import Any

import torch
import torch.onnx
from torch import Tensor

from ..arguments import number, switch
from . import batchnorm_kernels, operators
from .batchnorm_operators import by_operators
from .launching import refuse_capture
from .running import write_running
from .tensors import check_tensors, is_final, is_plain, is_transformed_by


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    relu: bool = False,
) -> Tensor:
    """``torch.nn.functional.batch_norm``, with an optional ReLU in the same pass.

    The formulas are those of ``samestep.batchnorm_forward`` (training) and ``samestep.batchnorm_inference``.
    The result has the layout of ``input`` if that is contiguous or channels_last; else it is contiguous.
    16-bit inputs are computed in float32 and rounded once, to nearest even.

    Args:
        input: (N, C) or (N, C, ...), on the CPU or an NVIDIA GPU; float32, float64, float16 or bfloat16.
        running_mean, running_var: (C,). In training they are updated in place, unless None; else they are the
            statistics to normalise by.
        weight, bias: (C,), the dtype of ``input``, or float32 for a 16-bit input; None: ones and zeros.
        training: whether to normalise by the statistics of the batch.
        momentum: the share of the new batch in the running statistics.
        eps: added to the variance.
        relu: whether a ReLU follows: ``y <= 0`` becomes +0, NaN passes.

    Returns:
        A tensor with the shape and dtype of ``input``, for autograd.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or range, or lies elsewhere than the input. In both cases
            nothing has been written.
        NotImplementedError: the input is neither on the CPU nor on an NVIDIA GPU.
        ImportError: it is on a GPU, and CuPy is not installed.
        RuntimeError: it is on a GPU where a CUDA graph is being captured.

    Source:
        Ioffe & Szegedy (2015), alg. 1 and 2; the arguments are PyTorch's.

    Example:
        >>> import torch, samestep.torch
        >>> x = torch.tensor([[1.0, 2], [3, 6], [5, 4], [7, 8]])
        >>> samestep.torch.batch_norm(x, None, None, training=True, relu=True)[3]
        tensor([1.3416, 1.3416])
    """
    return _batch_norm(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        number("momentum", momentum),
        eps,
        relu,
        None,
    )


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    relu: bool,
    batches: Tensor | None,
) -> Tensor:
    """``batch_norm`` that counts batches as well: ``batches`` grows by 1 with every update of the statistics.

    A momentum of None makes the running statistics the plain average of all batches.
    """
    eps, relu = number("eps", eps), switch("relu", relu)
    if eps < 0.0 or (training and eps == 0.0):
        expected = "positive during training" if training else "non-negative"
        raise ValueError(f"batch_norm eps must be {expected}, but got {eps}")
    arguments = (input, running_mean, running_var, weight, bias, training, momentum, eps, relu, batches)
    if torch.jit.is_tracing():  # shapes are traced tensors here; the operators check the real ones
        return _traced(*arguments)
    tensors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    check_tensors({"input": input, **tensors}, "torch.nn's batch norm", on_gpu=True)
    if training:
        torch.nn.functional._verify_batch_size(input.size())
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        raise ValueError("running_mean, running_var: got None, expected both tensors, or in training neither")
    if input.numel() == 0:
        return _by_torch(*arguments)
    batchnorm_kernels.check(input, tensors)
    if torch.autograd.forward_ad._current_level >= 0:  # no operator has a forward derivative
        return _by_torch(*arguments)
    if not is_plain(input, running_mean, running_var, weight, bias):
        return _traced(*arguments)
    if training:
        return _Training.apply(input, weight, bias, running_mean, running_var, momentum, eps, relu, batches)
    return _Inference.apply(input, weight, bias, running_mean, running_var, eps, relu)


def _by_torch(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    relu: bool,
    batches: Tensor | None,
) -> Tensor:
    """torch's own batch norm, for what the kernels do not compute."""
    if momentum is None:
        momentum = 0.0 if batches is None else 1.0 / (int(batches) + 1)
    mean, var = running_mean, running_var
    if training and mean is not None and var is not None:
        mean, var = mean.detach().clone(), var.detach().clone()
    y = torch.nn.functional.batch_norm(input, mean, var, weight, bias, training, momentum, eps)
    if training and running_mean is not None:
        write_running(running_mean, running_var, batches, mean, var)
    elif batches is not None:
        batches.add_(1)
    return torch.relu(y) if relu else y


def _traced(*arguments: Any) -> Tensor:
    """In the package's operators; in torch's for ONNX, which has no node for them, and for functionalize,
    where torch has no rule for autograd functions.
    """
    by_torch = torch.onnx.is_in_onnx_export() or is_transformed_by("Functionalize")
    return (_by_torch if by_torch else by_operators)(*arguments)


class _Training(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float | None,
        eps: float,
        relu: bool,
        batches: Tensor | None,
    ) -> Tensor:
        refuse_capture(input)
        if momentum is None:
            momentum = 0.0 if batches is None else 1.0 / (int(batches) + 1)
        is_kept = running_mean is not None and running_var is not None
        running = (running_mean, running_var, batches) if is_kept else None
        y, mean, inv, _ = batchnorm_kernels.training(input, weight, bias, eps, relu, running, momentum)
        if running is None and batches is not None:  # a layer whose statistics were taken away counts on
            batches.add_(1)
        # The rest is after the count, since torch.utils.checkpoint may leave once the tensors are saved.
        ctx.save_for_backward(input, weight, bias, mean, inv)
        ctx.eps, ctx.relu = eps, relu
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if not is_final(grad):
            grads = operators.call("batch_norm_training_backward", grad, *saved, ctx.eps, ctx.relu)
        else:
            input, weight, bias, mean, inv = saved
            grads = batchnorm_kernels.training_backward(grad, input, weight, bias, mean, inv, ctx.relu)
        return (*operators.needed(ctx, saved[:3], grads), None, None, None, None, None, None)


class _Inference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        relu: bool,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, bias, running_mean, running_var)
        ctx.eps, ctx.relu = eps, relu
        return batchnorm_kernels.inference(input, weight, bias, running_mean, running_var, eps, relu)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if not is_final(grad):
            grads = operators.call("batch_norm_inference_backward", grad, *saved, ctx.eps, ctx.relu)
        else:
            input, weight, bias, mean, var = saved
            grads = batchnorm_kernels.inference_backward(
                grad, input, weight, bias, mean, var, ctx.eps, ctx.relu
            )
        return (*operators.needed(ctx, saved[:3], grads), None, None, None, None)
