"""Clipping by the global norm, whose bits are the same everywhere."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import number
from ..backends import cpu, gpu
from .launching import on_stream, view
from .tensors import as_array, full_tensor, gpu_of


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` with a norm of the same bits everywhere.

    Norm 2 is ``sqrt(sum |g|^2)``, norm 1 ``sum |g|``, both by the canonical sum; norm inf is ``max |g|``.
    All gradients are scaled by ``max_norm/(norm + 1e-6)`` where that is below 1, as torch does it.

    Args:
        parameters: tensors whose gradients are clipped together, in this order.
        max_norm: what the norm shall not exceed.
        norm_type: 1, 2 or inf; for others use torch's. Both numbers may be text, as torch takes them.
        error_if_nonfinite: whether a norm that is infinite or NaN is an error.
        foreach: without effect.

    Returns:
        The norm before clipping, float64, where the first gradient lies; 0.0 of nothing. Gradients on a GPU
        are read there, and the call waits for their norm; those of several devices are copied to main memory.

    Raises:
        TypeError: ``max_norm`` or ``norm_type`` is no number; nothing has been changed.
        NotImplementedError: another norm, or a gradient that is not dense, or neither on the CPU nor on an
            NVIDIA GPU.
        RuntimeError: the norm is not finite and ``error_if_nonfinite``; nothing has been changed.

    Source:
        PyTorch's documentation of ``torch.nn.utils.clip_grad_norm_``.

    Example:
        >>> import torch, samestep.torch
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> samestep.torch.clip_grad_norm_([w], 1.0)
        tensor(5., dtype=torch.float64)
        >>> w.grad
        tensor([0.6000, 0.8000])
    """
    limit, order = _number("max_norm", max_norm), _number("norm_type", norm_type)
    if order not in NORMS:
        raise NotImplementedError(
            f"norm_type: got {norm_type!r}, expected 1, 2 or inf; use torch.nn.utils.clip_grad_norm_"
        )
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = [p.grad for p in tensors if p.grad is not None]
    with torch.no_grad():
        ordered = [_in_order(grad) for grad in grads]
        if len({gpu_of(grad) for grad in grads}) > 1:
            ordered = [grad.cpu() for grad in ordered]
        norm = NORMS[order](ordered)
        if error_if_nonfinite and not math.isfinite(norm):
            raise RuntimeError(
                f"The total norm of order {order} for gradients from `parameters` is non-finite, so it "
                "cannot be clipped. To disable this error and scale the gradients by the non-finite norm "
                "anyway, set `error_if_nonfinite=False`"
            )
        scale = limit / (norm + 1e-6)
        if not scale >= 1.0:  # NaN as well
            for grad in grads:
                grad.mul_(scale)
    return torch.tensor(norm, dtype=torch.float64, device=grads[0].device if grads else None)


def _norm_1(grads: list[Tensor]) -> float:
    sums = np.array([_canonical_sum(_absolute(grad)) for grad in grads], np.float64)
    return float(cpu.canonical_sum(sums, 1, len(sums), 1)[0])


def _norm_2(grads: list[Tensor]) -> float:
    # |z|^2 is the sum of two squares
    pairs = [torch.view_as_real(grad).reshape(-1) if grad.is_complex() else grad for grad in grads]
    number = gpu_of(pairs[0]) if pairs else None
    if number is None:
        return float(cpu.global_norm([as_array(pair, "grad") for pair in pairs]))
    with on_stream(number):
        return gpu.global_norm([view(pair) for pair in pairs])


def _norm_inf(grads: list[Tensor]) -> float:
    # The maximum is NaN where there is one, in any order.
    return float(np.max([0.0, *(float(_absolute(grad).max()) for grad in grads if grad.numel())]))


NORMS = {1.0: _norm_1, 2.0: _norm_2, math.inf: _norm_inf}


def _absolute(grad: Tensor) -> Tensor:
    """|g|; of complex numbers ``sqrt(x^2 + y^2)`` in float64, where each operation is rounded once."""
    if not grad.is_complex():
        return grad.abs()
    x, y = grad.real.double(), grad.imag.double()
    return torch.sqrt(x * x + y * y)


def _canonical_sum(values: Tensor) -> float:
    number = gpu_of(values)
    if number is None:
        return float(cpu.canonical_sum(as_array(values, "grad"), 1, values.numel(), 1)[0])
    with on_stream(number):
        return float(gpu.canonical_sum(view(values), 1, values.numel(), 1).get()[0])


def _number(name: str, value: Any) -> float:
    """``value`` as torch takes it: also text that holds a number."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    return number(name, value)


def _in_order(grad: Tensor) -> Tensor:
    """The gradient's numbers in C order, of a DTensor those of all shards; 16 bits are exact in 32."""
    if grad.layout is not torch.strided or not (grad.is_cpu or gpu_of(grad) is not None):
        raise NotImplementedError(
            f"grad: got layout {grad.layout} on {grad.device}, expected a dense tensor on the CPU or an "
            "NVIDIA GPU; use torch.nn.utils.clip_grad_norm_"
        )
    whole = full_tensor(grad).resolve_conj().resolve_neg()
    if whole.dtype in (torch.float16, torch.bfloat16):
        whole = whole.float()
    return whole.contiguous().reshape(-1)
