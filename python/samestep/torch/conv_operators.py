"""The convolution's operators, their kernels and the gradients that are made of them.

The result and its two gradients are linear in each of their two tensors, and each one's derivatives are the
other two: derivatives of any order have the bits of the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.face import Window
from .launching import backend_of
from .linear_operators import column_sums
from .operators import call, each, register
from .tensors import check_dense, check_tensors, check_type, compute_type, resolved

_WINDOW = "int[2] stride, int[2] padding, int[2] dilation, int groups"


_MOST = 2**60  # sums of sizes, paddings and steps are then indices


def check(input: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> None:
    """Raises unless the tensors fit together; ``input`` has a batch dimension."""
    _check_kinds({"input": input, "weight": weight, "bias": bias})
    _check_sizes(input.shape, weight.shape, window)
    outputs = weight.shape[0]
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(
            f"bias: got shape {tuple(bias.shape)}, expected ({outputs},), one for each of the out_channels"
        )


def _check_kinds(tensors: dict[str, Tensor | None]) -> None:
    """Raises unless all are dense and of one type, which a layer takes."""
    check_dense(**tensors)
    (first, leading), *others = ((name, tensor) for name, tensor in tensors.items() if tensor is not None)
    check_type(leading, first)
    for name, tensor in others:
        if tensor.dtype != leading.dtype:
            raise TypeError(
                f"{name}: got {tensor.dtype}, expected the {first}'s {leading.dtype}; "
                f"use {name}.to({first}.dtype)"
            )


def _check_axes(**tensors: Tensor) -> None:
    """Raises unless all have four."""
    for name, tensor in tensors.items():
        if tensor.dim() != 4:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected four axes")


def _check_sizes(input: Sequence[int], weight: Sequence[int], window: Window) -> None:
    """Raises unless the shapes of the input and the weight fit together."""
    if len(weight) != 4:
        raise ValueError(
            f"weight: got shape {tuple(weight)}, expected (out_channels, in_channels/groups, R, S)"
        )
    outputs, channels, groups = weight[0], weight[1], window.groups
    if groups < 1 or outputs % groups:
        raise ValueError(f"groups: got {groups}, expected a divisor of the weight's {outputs} out_channels")
    if len(input) != 4 or input[1] != groups * channels:
        raise ValueError(
            f"input: got shape {tuple(input)}, expected (N, {groups * channels}, H, W) or "
            f"({groups * channels}, H, W): the weight has shape {tuple(weight)}, in {groups} groups"
        )
    least_of = {
        "stride": (window.stride, 1),
        "padding": (window.padding, 0),
        "dilation": (window.dilation, 1),
    }
    for name, (values, least) in least_of.items():
        if min(values) < least or max(values) >= _MOST:
            raise ValueError(f"{name}: got {values}, expected {least} or more, and less than 2^60")
    for axis, name in ((2, "height"), (3, "width")):
        taps, there = weight[axis], input[axis] + 2 * window.padding[axis - 2]
        if taps < 1 or window.dilation[axis - 2] * (taps - 1) + 1 > there:
            raise ValueError(
                f"weight: got {taps} taps in {name}, {window.dilation[axis - 2]} apart, expected no more "
                f"than fit into the padded input's {name} of {there}, and at least 1"
            )


def _window(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int) -> Window:
    return Window((stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), groups)


def _result_shape(input: Sequence[int], weight: Sequence[int], window: Window) -> tuple[int, ...]:
    sizes = [
        (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for size, taps, stride, padding, dilation in zip(input[2:], weight[2:], *window[:3], strict=True)
    ]
    return (input[0], weight[0], *sizes)


def _read(x: Tensor) -> Tensor:
    return resolved(x).to(compute_type(x.dtype)).contiguous()


def _new(like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_empty(tuple(shape), dtype=compute_type(like.dtype))


def convolution(input: Tensor, weight: Tensor, bias: Tensor | None, window: Window, relu: bool) -> Tensor:
    """y of csrc/contract/convolution.h."""
    check(input, weight, bias, window)
    y = _new(input, _result_shape(input.shape, weight.shape, window))
    with backend_of(input) as on:
        x, w = on.array(_read(input), "input"), on.array(_read(weight), "weight")
        added = None if bias is None else on.array(_read(bias), "bias")
        on.module.conv2d(x, w, added, window, relu, on.array(y, "y"))
    return y.to(input.dtype)


def gradients(
    grad: Tensor,
    input: Tensor | None,
    weight: Tensor | None,
    y: Tensor | None,
    shapes: tuple[Sequence[int], Sequence[int]],
    window: Window,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Those of input, weight and bias that are wanted, by the kernels in one call.

    Args:
        grad: by the result.
        input, weight: None where what needs them is not wanted.
        y: the result, if it ends in a ReLU.
        shapes: those of input and weight.
        window: how the kernel moves.
        wanted: the gradients by input, weight and bias.
    """
    if not wanted[0] and not wanted[1]:
        return None, None, column_sums(_terms(_masked(grad, y)))
    sizes = (*shapes, shapes[1][:1])
    new = [_new(grad, size) if want else None for size, want in zip(sizes, wanted, strict=True)]
    with backend_of(grad) as on:
        saved = {"input": input, "weight": weight, "y": y}
        x, w, result = (None if t is None else on.array(_read(t), name) for name, t in saved.items())
        dx, dw, dbias = (None if t is None else on.array(t, "gradient") for t in new)
        on.module.conv2d_backward(on.array(_read(grad), "grad"), x, w, result, window, dx, dw, dbias)
    return tuple(None if t is None else t.to(grad.dtype) for t in new)


def _check_gradient(
    tensors: dict[str, Tensor | None], shapes: tuple[Sequence[int], Sequence[int]], window: Window
) -> None:
    """Raises unless a result's gradient, the first, and another tensor fit these of input and weight."""
    check_tensors(tensors, "torch.nn's", on_gpu=True)
    _check_kinds(tensors)
    _check_sizes(*shapes, window)
    (name, grad), *_ = tensors.items()
    if grad is not None and grad.shape != (expected := _result_shape(*shapes, window)):
        raise ValueError(f"{name}: got shape {tuple(grad.shape)}, expected the result's, {expected}")


def _masked(grad: Tensor, y: Tensor | None) -> Tensor:
    return grad if y is None else torch.where(y <= 0, 0.0, grad)


def _terms(grad: Tensor) -> Tensor:
    """The terms (n, p) of each output, as columns."""
    return grad.movedim(1, -1).reshape(grad.numel() // max(1, grad.shape[1]), grad.shape[1])


def differentiable(
    grad: Tensor,
    input: Tensor | None,
    weight: Tensor | None,
    y: Tensor | None,
    shapes: tuple[Sequence[int], Sequence[int]],
    window: Sequence[Any],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """``gradients`` in the operators."""
    grad, (size, kernel) = _masked(grad, y), (shape[2:] for shape in shapes)
    dx = call("conv2d_input_gradient", grad, weight, size, *window) if wanted[0] else None
    dw = call("conv2d_weight_gradient", grad, input, kernel, *window) if wanted[1] else None
    return dx, dw, call("column_sums", _terms(grad)) if wanted[2] else None


# ---- conv2d ----


def _conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    return convolution(input, weight, bias, _window(*how[:-1]), how[-1])


def _fake_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    return input.new_empty(_result_shape(input.shape, weight.shape, Window(*how[:-1])))


def _save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, *ctx.how, relu = inputs
    ctx.save_for_backward(input, weight, output if relu else None)


def _differentiate_conv2d(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, y = ctx.saved_tensors
    shapes = input.shape, weight.shape
    found = differentiable(grad, input, weight, y, shapes, ctx.how, ctx.needs_input_grad[:3])
    return (*found, *[None] * 5)


# ---- conv2d_input_gradient: linear in grad, and in the weight ----


def _input_gradient(grad: Tensor, weight: Tensor, size: Sequence[int], *how: Any) -> Tensor:
    _check_axes(grad=grad, weight=weight)
    window = _window(*how)
    shapes = (grad.shape[0], weight.shape[1] * window.groups, *size), weight.shape
    _check_gradient({"grad": grad, "weight": weight}, shapes, window)
    found, _, _ = gradients(grad, None, weight, None, shapes, window, (True, False, False))
    assert found is not None
    return found


def _fake_input_gradient(grad: Tensor, weight: Tensor, size: Sequence[int], *how: Any) -> Tensor:
    return grad.new_empty((grad.shape[0], weight.shape[1] * how[-1], *size))


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, _, *ctx.how = inputs
    ctx.save_for_backward(first, second)


def _differentiate_input_gradient(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
    (grad, weight), (by_grad, by_weight, *_) = ctx.saved_tensors, ctx.needs_input_grad
    dgrad = call("conv2d", dx, weight, None, *ctx.how, False) if by_grad else None
    dweight = call("conv2d_weight_gradient", grad, dx, weight.shape[2:], *ctx.how) if by_weight else None
    return dgrad, dweight, *[None] * 5


# ---- conv2d_weight_gradient: linear in grad, and in the input ----


def _weight_gradient(grad: Tensor, input: Tensor, kernel: Sequence[int], *how: Any) -> Tensor:
    _check_axes(grad=grad, input=input)
    window = _window(*how)
    shapes = input.shape, (grad.shape[1], input.shape[1] // max(1, window.groups), *kernel)
    _check_gradient({"grad": grad, "input": input}, shapes, window)
    _, found, _ = gradients(grad, input, None, None, shapes, window, (False, True, False))
    assert found is not None
    return found


def _fake_weight_gradient(grad: Tensor, input: Tensor, kernel: Sequence[int], *how: Any) -> Tensor:
    return grad.new_empty((grad.shape[1], input.shape[1] // how[-1], *kernel))


def _differentiate_weight_gradient(ctx: Any, dw: Tensor) -> tuple[Tensor | None, ...]:
    (grad, input), (by_grad, by_input, *_) = ctx.saved_tensors, ctx.needs_input_grad
    dgrad = call("conv2d", input, dw, None, *ctx.how, False) if by_grad else None
    dinput = call("conv2d_input_gradient", grad, dw, input.shape[2:], *ctx.how) if by_input else None
    return dgrad, dinput, *[None] * 5


def _vmap(name: str) -> Any:
    """Samples do not know each other: where the first tensor alone is mapped, they are one batch."""

    def rule(info: Any, in_dims: tuple[Any, ...], first: Tensor, *rest: Any) -> tuple[Tensor, int]:
        if any(dim is not None for dim in in_dims[1:3]):
            stacked: tuple[Tensor, int] = each(name)(info, in_dims, first, *rest)
            return stacked
        many = first.movedim(in_dims[0], 0)
        return call(name, many.flatten(0, 1), *rest).unflatten(0, many.shape[:2]), 0

    return rule


register(
    f"conv2d(Tensor input, Tensor weight, Tensor? bias, {_WINDOW}, bool relu) -> Tensor",
    _conv2d,
    _fake_conv2d,
    _vmap("conv2d"),
    _save_conv2d,
    _differentiate_conv2d,
)
register(
    f"conv2d_input_gradient(Tensor grad, Tensor weight, SymInt[2] size, {_WINDOW}) -> Tensor",
    _input_gradient,
    _fake_input_gradient,
    _vmap("conv2d_input_gradient"),
    _save_gradient,
    _differentiate_input_gradient,
)
register(
    f"conv2d_weight_gradient(Tensor grad, Tensor input, SymInt[2] kernel, {_WINDOW}) -> Tensor",
    _weight_gradient,
    _fake_weight_gradient,
    each("conv2d_weight_gradient"),
    _save_gradient,
    _differentiate_weight_gradient,
)


def by_operators(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relu: bool,
) -> Tensor:
    """The layer in the operators alone. TorchScript compiles this function as well."""
    if torch.jit.is_scripting():
        return torch.ops.samestep.conv2d(input, weight, bias, stride, padding, dilation, groups, relu)
    else:  # noqa: RET505  TorchScript leaves out the branch only if it stands here
        return call("conv2d", input, weight, bias, stride, padding, dilation, groups, relu)
