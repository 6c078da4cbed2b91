"""Batch norm's operators.

Those of a forward pass have a derivative. So have those of a backward pass, by formulas in torch's own
operations, since the package has no kernel for second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .batchnorm_kernels import (
    check,
    in_kernel_layout,
    inference,
    inference_backward,
    per_channel,
    training,
    training_backward,
)
from .launching import backend_of, refuse_capture
from .operators import call, needed, register
from .running import write_running
from .tensors import compute_type


def _training_kernel(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, ...]:
    check(input, {"weight": weight, "bias": bias})
    y, mean, inv, wide = training(input, weight, bias, eps, relu)
    assert wide is not None
    return y, mean, inv, *wide


def _training_backward_kernel(
    grad: Tensor, input: Tensor, weight: Any, bias: Any, mean: Tensor, inv: Tensor, eps: float, relu: bool
) -> tuple[Tensor, ...]:
    check(input, {"weight": weight, "bias": bias, "mean": mean, "inv": inv})
    return training_backward(grad, input, weight, bias, mean.contiguous(), inv.contiguous(), relu)


def _inference_kernel(
    input: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, eps: float, relu: bool
) -> Tensor:
    check(input, {"running_mean": mean, "running_var": var, "weight": weight, "bias": bias})
    return inference(input, weight, bias, mean, var, eps, relu)


def _inference_backward_kernel(
    grad: Tensor, input: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, eps: float, relu: bool
) -> tuple[Tensor, ...]:
    check(input, {"running_mean": mean, "running_var": var, "weight": weight, "bias": bias})
    return inference_backward(grad, input, weight, bias, mean, var, eps, relu)


def _running_statistics_kernel(
    running_mean: Tensor,
    running_var: Tensor,
    mean64: Tensor,
    var64: Tensor,
    values: int,
    momentum: float | None,
    batches: Tensor | None,
) -> tuple[Tensor, Tensor]:
    refuse_capture(running_mean)
    shares = [momentum]
    if momentum is None:  # the plain average of all batches so far; under vmap a count for each element
        counts = [] if batches is None else batches.reshape(-1).tolist()
        shares = [1.0 / (count + 1) for count in counts] or [0.0]
    new = [torch.empty_like(per_channel(s, s[None], 0.0)).copy_(s) for s in (running_mean, running_var)]
    kept = {"running_mean": new[0], "running_var": new[1], "mean64": mean64, "var64": var64}
    for name, values64 in (("mean64", mean64), ("var64", var64)):
        if values64.dtype != torch.float64 or values64.shape != running_mean.shape:
            raise ValueError(
                f"{name}: got {values64.dtype} of shape {tuple(values64.shape)}, expected torch.float64 of "
                f"shape {tuple(running_mean.shape)}"
            )
    with backend_of(new[0]) as on:
        arrays = [on.array(s.reshape(len(shares), -1).contiguous(), name) for name, s in kept.items()]
        for i, share in enumerate(shares):
            on.module.update_running(*(a[i] for a in arrays), values, share, 0)
    return new[0].to(running_mean.dtype), new[1].to(running_var.dtype)


def _result_like(x: Tensor) -> Tensor:
    return torch.empty_like(in_kernel_layout(x), dtype=x.dtype)


def _fake_training(input: Tensor, *_: Any) -> tuple[Tensor, ...]:
    channels, narrow = input.shape[1], compute_type(input.dtype)
    types = (narrow, narrow, torch.float64, torch.float64)
    return (_result_like(input), *(input.new_empty(channels, dtype=dtype) for dtype in types))


def _fake_inference(input: Tensor, *_: Any) -> Tensor:
    return _result_like(input)


def _fake_backward(grad: Tensor, input: Tensor, *_: Any) -> tuple[Tensor, ...]:
    one = input.new_empty(input.shape[1], dtype=compute_type(input.dtype))
    return _result_like(input), one, torch.empty_like(one)


def _fake_running_statistics(running_mean: Tensor, running_var: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return running_mean.new_empty(running_mean.shape), running_var.new_empty(running_var.shape)


def _save_training(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, weight, bias, ctx.eps, ctx.relu = inputs
    _, mean, inv, mean64, var64 = output
    ctx.mark_non_differentiable(mean, inv, mean64, var64)
    ctx.save_for_backward(input, weight, bias, mean, inv)


def _save_inference(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.relu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_training(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grads = call("batch_norm_training_backward", grad, *saved, ctx.eps, ctx.relu)
    return (*needed(ctx, saved[:3], grads), None, None)


def _differentiate_inference(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grads = call("batch_norm_inference_backward", grad, *saved, ctx.eps, ctx.relu)
    return (*needed(ctx, saved[:3], grads), None, None, None, None)


def gradients_by_torch(
    grad: Any, x: Any, weight: Any, bias: Any, statistics: Any, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The formulas of ``samestep.batchnorm_backward`` (``statistics`` None: those of the batch, as functions
    of x) and of ``samestep.batchnorm_inference_backward`` in operations of torch, which it can differentiate.
    """
    dtype, wide = x.dtype, compute_type(x.dtype)
    axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    x, grad = x.to(wide), grad.to(wide)
    gamma = x.new_ones([]) if weight is None else weight.to(wide).reshape(shape)
    beta = x.new_zeros([]) if bias is None else bias.to(wide).reshape(shape)
    if statistics is None:
        centred = x - x.mean(axes, keepdim=True)
        inv = (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    else:
        mean, var = (s.to(wide).reshape(shape) for s in statistics)
        centred, inv = x - mean, (var + eps).rsqrt()
    hat = centred * inv
    if relu:
        grad = torch.where(gamma * hat + beta <= 0, 0.0, grad)
    dgamma, dbeta = (grad * hat).sum(axes, keepdim=True), grad.sum(axes, keepdim=True)
    dx = grad
    if statistics is None:
        values = x.numel() // x.shape[1]
        dx = grad - dbeta / values - hat * dgamma / values
    return (gamma * inv * dx).to(dtype), dgamma.reshape(-1), dbeta.reshape(-1)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.eps, ctx.relu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_twice(fixed: bool) -> Callable[..., tuple[Tensor | None, ...]]:
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad, x, weight, bias, *statistics = ctx.saved_tensors
        kept = [t for t in (grad, x, weight, bias) if t is not None]

        def first(*values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            left = iter(values)
            dy, input, gamma, beta = (None if t is None else next(left) for t in (grad, x, weight, bias))
            known = statistics if fixed else None
            return gradients_by_torch(dy, input, gamma, beta, known, ctx.eps, ctx.relu)

        _, pull = torch.func.vjp(first, *kept)
        grads = iter(pull(cotangents))
        of_all = [None if t is None else next(grads) for t in (grad, x, weight, bias)]
        return (*of_all, None, None, None, None)

    return backward


def _vmap(name: str, arrays: tuple[int, ...], results: tuple[int, ...]) -> Callable[..., Any]:
    """The vmap rule: the mapped dimension joins the channels, of which each is computed for itself.

    So it has the bits of one call for each element.

    Args:
        name: the operator.
        arrays: which of its arguments are (N, C, ...); the other tensors are (C,), or have no dimension.
        results: which of its results are (N, C, ...).
    """

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        size, folded = info.batch_size, []
        if name == "running_statistics" and None in in_dims[:2]:
            raise RuntimeError(
                "running_mean, running_var: got unbatched tensors for a batched input, which vmap cannot "
                "update in place; use track_running_stats=False, eval() or torch.func.stack_module_state"
            )
        for i, (value, dim) in enumerate(zip(args, in_dims, strict=True)):
            if not isinstance(value, Tensor) or (dim is None and value.dim() == 0):
                folded.append(value)
                continue
            if dim is not None and value.dim() == 1:  # a count for each element
                folded.append(value)
                continue
            at = 1 if i in arrays else 0
            value = value.unsqueeze(at) if dim is None else value.movedim(dim, at)
            lengths = list(value.shape)
            lengths[at] = size
            folded.append(value.expand(lengths).flatten(at, at + 1))
        found = call(name, *folded)
        single = isinstance(found, Tensor)
        found = (found,) if single else found
        dims = tuple(1 if i in results else 0 for i in range(len(found)))
        apart = tuple(t.unflatten(dim, (size, -1)) for t, dim in zip(found, dims, strict=True))
        return (apart[0], dims[0]) if single else (apart, dims)

    return rule


for _schema, _kernel, _fake, _arrays, _results, _derivative in (
    (
        "batch_norm_training(Tensor input, Tensor? weight, Tensor? bias, float eps, bool relu)"
        " -> (Tensor y, Tensor mean, Tensor inv, Tensor mean64, Tensor var64)",
        _training_kernel,
        _fake_training,
        (0,),
        (0,),
        (_save_training, _differentiate_training),
    ),
    (
        "batch_norm_training_backward(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor mean,"
        " Tensor inv, float eps, bool relu) -> (Tensor, Tensor, Tensor)",
        _training_backward_kernel,
        _fake_backward,
        (0, 1),
        (0,),
        (_save_backward, _differentiate_twice(False)),
    ),
    (
        "batch_norm_inference(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor var,"
        " float eps, bool relu) -> Tensor",
        _inference_kernel,
        _fake_inference,
        (0,),
        (0,),
        (_save_inference, _differentiate_inference),
    ),
    (
        "batch_norm_inference_backward(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor mean,"
        " Tensor var, float eps, bool relu) -> (Tensor, Tensor, Tensor)",
        _inference_backward_kernel,
        _fake_backward,
        (0, 1),
        (0,),
        (_save_backward, _differentiate_twice(True)),
    ),
    (
        "running_statistics(Tensor running_mean, Tensor running_var, Tensor mean64, Tensor var64,"
        " SymInt values, float? momentum, Tensor? batches) -> (Tensor, Tensor)",
        _running_statistics_kernel,
        _fake_running_statistics,
        (),
        (),
        (),
    ),
):
    register(_schema, _kernel, _fake, _vmap(_schema.partition("(")[0], _arrays, _results), *_derivative)


# Ten arguments in the order of torch's schema: TorchScript knows neither a dataclass nor **kwargs.
def by_operators(
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
    """Batch norm in the operators alone. TorchScript compiles this function as well."""
    if not training:
        assert running_mean is not None
        assert running_var is not None
        if torch.jit.is_scripting():
            return torch.ops.samestep.batch_norm_inference(
                input, weight, bias, running_mean, running_var, eps, relu
            )
        else:  # noqa: RET505  TorchScript leaves out the branch only if it stands here
            return call("batch_norm_inference", input, weight, bias, running_mean, running_var, eps, relu)
    if torch.jit.is_scripting():
        y, _, _, mean64, var64 = torch.ops.samestep.batch_norm_training(input, weight, bias, eps, relu)
    else:
        y, _, _, mean64, var64 = call("batch_norm_training", input, weight, bias, eps, relu)
    if running_mean is not None and running_var is not None:
        values = input.numel() // input.size(1)
        mean, var = torch.ops.samestep.running_statistics(
            running_mean, running_var, mean64, var64, values, momentum, batches if momentum is None else None
        )
        if not torch.jit.is_scripting():
            write_running(running_mean, running_var, batches, mean, var)
            return y
        running_mean.copy_(mean)
        running_var.copy_(var)
    if batches is not None:
        batches.add_(1)
    return y
