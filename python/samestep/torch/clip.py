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
from ..backends import cpu
from .tensors import as_array, full_tensor


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
        The norm before clipping, float64; 0.0 of nothing.

    Raises:
        TypeError: ``max_norm`` or ``norm_type`` is no number; nothing has been changed.
        NotImplementedError: another norm, or a gradient that is not dense on the CPU.
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
        norm = float(NORMS[order]([_in_order(grad) for grad in grads]))
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
    return torch.tensor(norm, dtype=torch.float64)


def _norm_1(arrays: list[Any]) -> Any:
    sums = [cpu.canonical_sum(a, 1, a.size, 1) for a in map(_absolute, arrays)]
    return cpu.canonical_sum(np.concatenate(sums), 1, len(sums), 1)[0] if sums else 0.0


def _norm_2(arrays: list[Any]) -> Any:
    # |z|^2 is the sum of two squares
    return cpu.global_norm([a.view(a.real.dtype) if np.iscomplexobj(a) else a for a in arrays])


def _norm_inf(arrays: list[Any]) -> Any:
    # np.max returns NaN where there is one, in any order
    return np.max([0.0, *(_absolute(a).max(initial=0.0) for a in arrays)])


NORMS = {1.0: _norm_1, 2.0: _norm_2, math.inf: _norm_inf}


def _absolute(array: Any) -> Any:
    """|g|; of complex numbers ``sqrt(x^2 + y^2)`` in float64, where each operation is rounded once."""
    if not np.iscomplexobj(array):
        return np.abs(array)
    x, y = array.real.astype(np.float64), array.imag.astype(np.float64)
    return np.sqrt(x * x + y * y)


def _number(name: str, value: Any) -> float:
    """``value`` as torch takes it: also text that holds a number."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    return number(name, value)


def _in_order(grad: Tensor) -> Any:
    """The gradient as an array in C order, of a DTensor all shards; 16 bits are exact in 32."""
    if grad.layout is not torch.strided or grad.device.type != "cpu":
        raise NotImplementedError(
            f"grad: got layout {grad.layout} on {grad.device}, expected a dense tensor on the CPU; "
            "use torch.nn.utils.clip_grad_norm_"
        )
    whole = full_tensor(grad).resolve_conj().resolve_neg()
    if whole.dtype in (torch.float16, torch.bfloat16):
        whole = whole.float()
    return as_array(whole.contiguous(), "grad").reshape(-1)
