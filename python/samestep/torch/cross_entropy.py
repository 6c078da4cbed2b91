"""torch.nn.functional's cross_entropy on the package's kernels: the loss and its gradient in one pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.onnx
from torch import Tensor

from .. import _core
from .launching import backend_of, refuse_capture
from .operators import call, each, register
from .tensors import (
    HALVES,
    autocast_kind,
    check_dense,
    check_tensors,
    check_type,
    compute_type,
    gpu_of,
    is_eager,
    is_plain,
    is_transformed_by,
    needs_gradient,
    resolved,
)

_TORCHS = "use torch.nn.functional.cross_entropy, whose bits depend on the machine"


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``torch.nn.functional.cross_entropy`` of class indices: ``-mean_i(log softmax(x_i)[target_i])``.

    Loss and gradient are those of ``samestep.softmax_cross_entropy``, the loss rounded to the dtype of
    ``input``. 16-bit tensors are computed in float32 and rounded once.

    Args:
        input: (N, C), the logits, on the CPU or an NVIDIA GPU; float32, float64, float16 or bfloat16; N and C
            at least 1. On a GPU the call waits for the loss.
        target: (N,), from 0 to C - 1, int64 or uint8. No index is ignored.
        reduction: "mean".
        weight, size_average, ignore_index, reduce, label_smoothing: torch's, at their defaults.

    Returns:
        A tensor without dimensions, for autograd.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or lies elsewhere than the input, or a target is no class.
        NotImplementedError: an option that the package has no kernel for, or an input that is neither on the
            CPU nor on an NVIDIA GPU.
        ImportError: the input is on a GPU, and CuPy is not installed.
        RuntimeError: it is on a GPU where a CUDA graph is being captured.

    Source:
        Goodfellow, Bengio & Courville, Deep Learning (2016), section 6.2.2.3; the arguments are PyTorch's.

    Example:
        >>> import torch, samestep.torch
        >>> logits = torch.tensor([[1.0, 2, 3], [0, 0, 0]], requires_grad=True)
        >>> loss = samestep.torch.cross_entropy(logits, torch.tensor([2, 0]))
        >>> loss.backward()
        >>> round(loss.item(), 6)
        0.753109
        >>> logits.grad
        tensor([[ 0.0450,  0.1224, -0.1674],
                [-0.3333,  0.1667,  0.1667]])
    """
    check_options(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
    if input is not None and target is not None and is_eager(input, target):
        loss, _ = (_CrossEntropy.apply if needs_gradient(input) else _kernel)(input, target)
        return loss
    _check(input, target)
    if torch.is_autocast_enabled(autocast_kind(input)) and input.dtype in HALVES:
        input = input.float()  # as torch does
    is_in_forward_mode = torch.autograd.forward_ad._current_level >= 0  # no operator has a forward derivative
    if is_in_forward_mode or torch.onnx.is_in_onnx_export() or is_transformed_by("Functionalize"):
        return torch.nn.functional.cross_entropy(input, target)
    if is_plain(input, target) and not torch.jit.is_tracing():
        loss, _ = _CrossEntropy.apply(input, target)
    else:
        loss, _ = call("cross_entropy", input, target)
    return loss


def check_options(
    weight: Any, size_average: Any, ignore_index: Any, reduce: Any, reduction: Any, label_smoothing: Any
) -> None:
    """Raises for what the kernel does not compute."""
    for name, value, default, instead in (
        ("weight", weight, None, _TORCHS),
        ("size_average", size_average, None, "leave it out: the loss is the mean"),
        ("ignore_index", ignore_index, -100, "leave out the rows first: keep = target != ignore_index"),
        ("reduce", reduce, None, "leave it out: the loss is the mean"),
        ("reduction", reduction, "mean", "for the sum, multiply by the number of rows; else " + _TORCHS),
        ("label_smoothing", label_smoothing, 0.0, _TORCHS),
    ):
        if isinstance(value, Tensor) or value != default:
            got = "a tensor" if isinstance(value, Tensor) else repr(value)
            raise NotImplementedError(f"{name}: got {got}, expected {default!r}; {instead}")


def _check(input: Tensor, target: Tensor | None) -> None:
    tensors = {"input": input, "target": target}
    check_tensors(tensors, "torch.nn.functional.cross_entropy", on_gpu=True)
    check_dense(input=input, target=target)
    check_type(input)
    if target is None:
        raise TypeError("target: got NoneType, expected a tensor")
    if target.is_floating_point():
        fix = "if each row is one-hot, pass target.argmax(1); else " + _TORCHS
        raise TypeError(f"target: got probabilities, {target.dtype}, expected class indices, int64; {fix}")
    if target.dtype not in (torch.int64, torch.uint8):
        raise TypeError(f"target: got {target.dtype}, expected torch.int64; use target.long()")
    if input.dim() != 2 or 0 in input.shape:
        fix = ""
        if input.dim() == 1:
            fix = "; pass input[None] and target[None]"
        elif input.dim() > 2:
            fix = "; pass input.movedim(1, -1).flatten(0, -2) and target.flatten()"
        expected = "(N, C), at least one row and one class"
        raise ValueError(f"input: got shape {tuple(input.shape)}, expected {expected}{fix}")
    if target.shape != input.shape[:1]:
        raise ValueError(
            f"target: got shape {tuple(target.shape)}, expected ({input.shape[0]},), a class for each row"
        )


def _kernel(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient by the input."""
    if gpu_of(input) is None:
        at_once: tuple[Tensor, Tensor] | None = _core.softmax_cross_entropy_of_tensors(input, target)
        if at_once is not None:
            return at_once
    _check(input, target)
    refuse_capture(input)
    z = resolved(input).to(compute_type(input.dtype)).contiguous()
    labels = resolved(target).long().contiguous()
    wrong = (labels < 0) | (labels >= z.shape[1])
    if wrong.any():
        i = int(wrong.int().argmax())
        fix = "; leave out such rows first: keep = target >= 0" if labels[i] < 0 else ""
        raise ValueError(f"target[{i}]: got {int(labels[i])}, expected a class, 0 to {z.shape[1] - 1}{fix}")
    dz = torch.empty_like(z)
    with backend_of(z) as on:
        named = {"input": z, "target": labels, "dz": dz}
        loss = on.module.softmax_cross_entropy(*(on.array(tensor, name) for name, tensor in named.items()))
    return z.new_tensor(loss).to(input.dtype), dz.to(input.dtype)


def _fake(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return input.new_empty(()), input.new_empty(input.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], output[1])


def _differentiate(ctx: Any, by_loss: Tensor | None, by_dz: Tensor | None) -> tuple[Tensor | None, None]:
    """``by_loss dz``; of dz itself, where that was differentiated again, by torch's operations.

    With p = softmax(x), ``sum_j v_j dp_j = p (v - sum_j p_j v_j)``, and dz is (p - onehot)/N.
    """
    input, dz = ctx.saved_tensors
    grad = None if by_loss is None else by_loss * dz
    if by_dz is not None:
        p = torch.softmax(input, 1)
        second = p * (by_dz - (p * by_dz).sum(1, keepdim=True)) / input.shape[0]
        grad = second if grad is None else grad + second
    return grad, None


register(
    "cross_entropy(Tensor input, Tensor target) -> (Tensor loss, Tensor gradient)",
    _kernel,
    _fake,
    each("cross_entropy"),
    _save,
    _differentiate,
)


class _CrossEntropy(torch.autograd.Function):
    """The operator without the dispatcher, and without a setup_context, for which torch binds signatures."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        results = _kernel(input, target)
        _save(ctx, (input, target), results)
        return results

    backward = staticmethod(_differentiate)
