"""torch.nn's batch norm on the package's kernels, with an optional ReLU fused into both passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..arguments import number, switch
from ..backends import cpu
from ..layers import batchnorm as kernels
from .tensors import as_array

HALVES = (torch.float16, torch.bfloat16)  # read and written in 16 bits, computed in float32
TYPES = (torch.float32, torch.float64, *HALVES)


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
        input: (N, C) or (N, C, ...), a CPU tensor; float32, float64, float16 or bfloat16.
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
        ValueError: an argument has another shape or range. In both cases nothing has been written.
        NotImplementedError: a tensor is not on the CPU.

    Source:
        Ioffe & Szegedy (2015), alg. 1 and 2; the arguments are PyTorch's.

    Example:
        >>> import torch, samestep.torch
        >>> x = torch.tensor([[1.0, 2], [3, 6], [5, 4], [7, 8]])
        >>> samestep.torch.batch_norm(x, None, None, training=True, relu=True)[3]
        tensor([1.3416, 1.3416])
    """
    tensors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in {"input": input, **tensors}.items():
        if not isinstance(tensor, Tensor) and (tensor is not None or name == "input"):
            raise TypeError(f"{name}: got {type(tensor).__name__}, expected a tensor")
        if tensor is not None and tensor.device.type != "cpu":
            raise NotImplementedError(
                f"{name}: got a tensor on {tensor.device}, expected one on the CPU; "
                "use torch.nn's batch norm there"
            )
    if training:
        torch.nn.functional._verify_batch_size(input.size())
    momentum, eps, relu = number("momentum", momentum), number("eps", eps), switch("relu", relu)
    if eps < 0.0 or (training and eps == 0.0):
        expected = "positive during training" if training else "non-negative"
        raise ValueError(f"batch_norm eps must be {expected}, but got {eps}")
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        raise ValueError("running_mean, running_var: got None, expected both tensors, or in training neither")
    if input.numel() == 0:
        y = torch.nn.functional.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
        return torch.relu(y) if relu else y
    _check(input, tensors)
    if training:
        return _Training.apply(input, weight, bias, running_mean, running_var, momentum, eps, relu)
    return _Inference.apply(input, weight, bias, running_mean, running_var, eps, relu)


def _check(input: Tensor, per_channel: dict[str, Tensor | None]) -> None:
    """Raises with torch's names of the arguments; those of ``samestep.batchnorm_forward`` differ."""
    if input.dtype not in TYPES:
        raise TypeError(f"input: got {input.dtype}, expected one of {', '.join(map(str, TYPES))}")
    if input.dim() < 2:
        raise ValueError(f"input: got shape {tuple(input.shape)}, expected (N, C) or (N, C, ...)")
    for name, values in per_channel.items():
        if values is None:
            continue
        if _compute_type(values.dtype) != _compute_type(input.dtype):
            raise TypeError(f"{name}: got {values.dtype}, expected the input's {input.dtype}")
        if values.shape != (input.shape[1],):
            raise ValueError(
                f"{name}: got shape {tuple(values.shape)}, expected ({input.shape[1]},), one for each channel"
            )


def _compute_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALVES else dtype


def _in_kernel_layout(x: Tensor) -> Tensor:
    """``x`` in its compute type and in a layout of the kernels: contiguous or channels_last."""
    x = x.detach().resolve_neg().to(_compute_type(x.dtype))
    return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()


def _like(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient in the dtype and layout of ``x``."""
    grad = grad.detach().resolve_neg()
    if grad.dtype == x.dtype and grad.stride() == x.stride():
        return grad
    return torch.empty_like(x).copy_(grad)


def _per_channel(values: Tensor | None, x: Tensor, default: float) -> Tensor:
    """The (C,) tensor in its compute type, contiguous; for None one that is filled with the default."""
    if values is None:
        return x.new_full((x.shape[1],), default)
    values = values.detach().resolve_neg()
    return (values.to(_compute_type(values.dtype)) if values.dtype in HALVES else values).contiguous()


class _Training(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        x = _in_kernel_layout(input)
        gamma, beta = _per_channel(weight, x, 1.0), _per_channel(bias, x, 0.0)
        y = torch.empty_like(x)
        stored = [] if running_mean is None or running_var is None else [running_mean, running_var]
        running = [_per_channel(s, x, 0.0) for s in stored]
        arrays = dict(zip(("running_mean", "running_var"), (as_array(r) for r in running), strict=False))
        _, mean, inv, mean64, var64 = kernels.forward_and_statistics(
            as_array(x), as_array(gamma), as_array(beta), eps, relu, 1, as_array(y), "cpu", arrays
        )
        if stored:
            values = x.numel() // x.shape[1]
            cpu.update_running(
                arrays["running_mean"], arrays["running_var"], mean64, var64, values, momentum, 0
            )
            for kept, new in zip(stored, running, strict=True):
                if kept.data_ptr() != new.data_ptr():
                    kept.detach().copy_(new)
            tracked = [kept for kept in stored if not kept.is_inference()]
            torch.autograd.graph.increment_version(tracked)
        ctx.save_for_backward(input, weight, bias, torch.from_numpy(mean), torch.from_numpy(inv))
        ctx.relu = relu
        return y.to(input.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, mean, inv = ctx.saved_tensors
        x = _in_kernel_layout(input)
        gamma, beta = _per_channel(weight, x, 1.0), _per_channel(bias, x, 0.0)
        dx = torch.empty_like(x)
        arrays = (as_array(t) for t in (_like(grad, x), x, gamma, beta, mean, inv))
        _, dgamma, dbeta = kernels.batchnorm_backward(*arrays, relu=ctx.relu, out=as_array(dx))
        return (*_gradients(ctx, (input, weight, bias), dx, dgamma, dbeta), None, None, None, None, None)


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
        x = _in_kernel_layout(input)
        channels = _channels_of_inference(x, weight, bias, running_mean, running_var)
        y = torch.empty_like(x)
        kernels.batchnorm_inference(as_array(x), *channels, eps=eps, relu=relu, out=as_array(y))
        ctx.save_for_backward(input, weight, bias, running_mean, running_var)
        ctx.eps, ctx.relu = eps, relu
        return y.to(input.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, running_mean, running_var = ctx.saved_tensors
        x = _in_kernel_layout(input)
        channels = _channels_of_inference(x, weight, bias, running_mean, running_var)
        dx = torch.empty_like(x)
        _, dgamma, dbeta = kernels.batchnorm_inference_backward(
            as_array(_like(grad, x)), as_array(x), *channels, eps=ctx.eps, relu=ctx.relu, out=as_array(dx)
        )
        return (*_gradients(ctx, (input, weight, bias), dx, dgamma, dbeta), None, None, None, None)


def _channels_of_inference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor
) -> list[np.ndarray[Any, Any]]:
    pairs = ((weight, 1.0), (bias, 0.0), (mean, 0.0), (var, 1.0))
    return [as_array(_per_channel(values, x, default)) for values, default in pairs]


def _gradients(
    ctx: Any, inputs: tuple[Tensor | None, ...], dx: Tensor, dgamma: Any, dbeta: Any
) -> list[Tensor | None]:
    grads = (dx, torch.from_numpy(dgamma), torch.from_numpy(dbeta))
    return [
        grad.to(tensor.dtype) if tensor is not None and needed else None
        for tensor, grad, needed in zip(inputs, grads, ctx.needs_input_grad, strict=False)
    ]


class _BatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """The base of the three layers: torch's, with the argument ``relu`` and the kernels' forward pass."""

    relu = False  # for torch's layers whose __class__ was set, and for pickles without the attribute

    def __init__(self, *args: Any, relu: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.relu = relu

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        tracking = self.training and self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        batches = self.num_batches_tracked if tracking else None
        if batches is not None and self.momentum is None:
            momentum = 1.0 / (int(batches) + 1)  # makes the plain average of all batches so far
        use_running = tracking or not self.training
        y = batch_norm(
            input,
            self.running_mean if use_running else None,
            self.running_var if use_running else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            momentum,
            self.eps,
            relu=self.relu,
        )
        if batches is not None:
            batches.add_(1)
        return y

    def extra_repr(self) -> str:
        shown: str = super().extra_repr()
        return f"{shown}, relu={self.relu}"


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` on the package's kernels: (N, C) or (N, C, L).

    Args:
        relu: whether a ReLU follows, in the same pass. The other arguments are torch's, in its order.

    State dicts of this layer and of torch's can be exchanged. See ``batch_norm`` for formulas, dtypes and
    errors.

    Example:
        >>> import torch, samestep.torch
        >>> layer = samestep.torch.BatchNorm1d(2, relu=True)
        >>> layer(torch.tensor([[1.0, 2], [3, 6], [5, 4], [7, 8]]))[3]
        tensor([1.3416, 1.3416], grad_fn=<SelectBackward0>)
        >>> layer.running_mean
        tensor([0.4000, 0.5000])
        >>> list(layer.state_dict()) == list(torch.nn.BatchNorm1d(2).state_dict())
        True
    """


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` on the package's kernels: (N, C, H, W), also channels_last.

    Arguments and promises are those of ``BatchNorm1d``.

    Example:
        >>> import torch, samestep.torch
        >>> x = torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
        >>> samestep.torch.BatchNorm2d(3)(x).is_contiguous(memory_format=torch.channels_last)
        True
    """


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` on the package's kernels: (N, C, D, H, W), also channels_last_3d.

    Arguments and promises are those of ``BatchNorm1d``.

    Example:
        >>> import torch, samestep.torch
        >>> samestep.torch.BatchNorm3d(3)(torch.ones(2, 3, 1, 1, 1)).flatten()
        tensor([0., 0., 0., 0., 0., 0.], grad_fn=<ViewBackward0>)
    """
