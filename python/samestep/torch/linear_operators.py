"""The linear layer's operators, their kernels and the gradients that are made of them.

All gradients of a product are products, and so derivatives of any order have the bits of the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _core
from .launching import backend_of
from .operators import call, each, register
from .tensors import check_dense, check_tensors, check_type, compute_type, gpu_of, resolved


def check(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raises with torch's names of the arguments; those of ``samestep.linear`` differ."""
    tensors = {"input": input, "weight": weight, "bias": bias}
    check_tensors(tensors, "torch.nn's", on_gpu=True)
    check_dense(**tensors)
    check_type(input)
    if weight.dim() != 2:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, expected (out_features, in_features)")
    outputs, inputs = weight.shape
    if input.dim() == 0 or input.shape[-1] != inputs:
        raise ValueError(
            f"input: got shape {tuple(input.shape)}, expected (..., {inputs}), as many as the weight has "
            f"columns; its shape is {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(
            f"bias: got shape {tuple(bias.shape)}, expected ({outputs},), one for each row of the weight"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != input.dtype:
            raise TypeError(
                f"{name}: got {tensor.dtype}, expected the input's {input.dtype}; use {name}.to(input.dtype)"
            )


def _rows(x: Tensor) -> Tensor:
    """(..., K) as a matrix of rows."""
    return x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _read(x: Tensor) -> Tensor:
    return resolved(x).to(compute_type(x.dtype))


def product(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """``samestep.linear`` of the rows of the input; the weight's transpose is read where it lies."""
    if gpu_of(input) is None:
        at_once: Tensor | None = _core.linear_of_tensors(input, weight, bias, relu)
        if at_once is not None:
            return at_once
    check(input, weight, bias)
    y = input.new_empty((*input.shape[:-1], weight.shape[0]), dtype=compute_type(input.dtype))
    with backend_of(input) as on:
        x, w = on.array(_read(_rows(input)), "input"), on.array(_read(weight).t(), "weight")
        b = None if bias is None else on.array(_read(bias.contiguous()), "bias")
        fits = on.module.linear(x, w, b, relu, on.array(_rows(y), "y")) is not None
    assert fits  # what might not has been refused
    return y.to(input.dtype)


def column_sums(x: Tensor) -> Tensor:
    """The canonical sum over the rows of a matrix: the gradient of a bias."""
    rows = _read(x)
    sums = rows.new_empty(x.shape[1])
    x0, w0 = rows.new_empty(x.shape[0], 0), rows.new_empty(0, x.shape[1])  # no inputs
    with backend_of(x) as on:
        named = {"grad": rows, "input": x0, "weight": w0, "dweight": torch.empty_like(w0), "sums": sums}
        dy, x_, w_, dw, out = (on.array(tensor, name) for name, tensor in named.items())
        fits = on.module.linear_backward(dy, x_, w_, None, False, None, dw, out) is not None
    assert fits  # what might not has been refused
    return sums.to(x.dtype)


def gradients(
    product: Callable[..., Tensor],
    column_sums: Callable[[Tensor], Tensor],
    grad: Tensor,
    input: Tensor | None,
    weight: Tensor | None,
    y: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """``samestep.linear_backward`` of what is wanted.

    Args:
        product, column_sums: the kernels, or the operators, which can be differentiated.
        grad: by the result.
        input: None where the weight's gradient is not wanted.
        weight: None where the input's gradient is not wanted.
        y: the result, if it ends in a ReLU.
        wanted: the gradients by input, weight and bias.
    """
    if y is not None:
        grad = torch.where(y <= 0, 0.0, grad)
    dx = product(grad, weight.t(), None, False) if wanted[0] and weight is not None else None
    rows = _rows(grad)
    dw = product(rows.t(), _rows(input).t(), None, False) if wanted[1] and input is not None else None
    return dx, dw, column_sums(rows) if wanted[2] else None


def gradients_at_once(
    grad: Tensor, input: Tensor | None, weight: Tensor | None, y: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """``gradients`` by the kernels, in one call where the tensors fit."""
    found: tuple[Tensor | None, ...] | None = None
    if gpu_of(grad) is None:
        found = _core.linear_backward_of_tensors(
            grad, input if wanted[1] else None, weight if wanted[0] else None, y, wanted[2]
        )
    return gradients(product, column_sums, grad, input, weight, y, wanted) if found is None else found


def differentiable(*args: Any) -> tuple[Tensor | None, ...]:
    """``gradients`` in the operators."""
    return gradients(lambda *args: call("linear", *args), lambda x: call("column_sums", x), *args)


def _fake_linear(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, relu = inputs
    ctx.save_for_backward(input, weight, output if relu else None)


def _differentiate_linear(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*differentiable(grad, *ctx.saved_tensors, ctx.needs_input_grad), None)


def _vmap_linear(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    """A mapped input has more rows, mapped weights are one call each."""
    input, *rest = args
    if in_dims[1] is None and in_dims[2] is None:
        return call("linear", input.movedim(in_dims[0], 0), *rest), 0
    stacked: tuple[Tensor, int] = each("linear")(info, in_dims, *args)
    return stacked


def _vmap_column_sums(info: Any, in_dims: tuple[Any, ...], x: Tensor) -> tuple[Tensor, int]:
    """The mapped dimension joins the columns, of which each is summed for itself."""
    x = x.movedim(in_dims[0], 1)
    return call("column_sums", x.flatten(1)).unflatten(0, x.shape[1:]), 0


def _save_rows(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.rows = inputs[0].shape[0]


def _differentiate_column_sums(ctx: Any, grad: Tensor) -> Tensor:
    return grad.expand(ctx.rows, -1)


register(
    "linear(Tensor input, Tensor weight, Tensor? bias, bool relu) -> Tensor",
    product,
    _fake_linear,
    _vmap_linear,
    _save_linear,
    _differentiate_linear,
)
register(
    "column_sums(Tensor input) -> Tensor",
    column_sums,
    lambda x: x.new_empty(x.shape[1]),
    _vmap_column_sums,
    _save_rows,
    _differentiate_column_sums,
)


def by_operators(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """The layer in the operators alone. TorchScript compiles this function as well."""
    if torch.jit.is_scripting():
        return torch.ops.samestep.linear(input, weight, bias, relu)
    else:  # noqa: RET505  TorchScript leaves out the branch only if it stands here
        return call("linear", input, weight, bias, relu)
