"""Batch norm's running statistics and their count of batches: all of a batch is written, or nothing of it.

An interrupt (Ctrl-C) comes between two calls of Python; so each way of writing is one call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .._core import update_running_and_count
from ..backends import cpu
from .launching import Backend
from .tensors import is_transformed_by


def check_writable(kept: Iterable[Tensor | None]) -> None:
    """Raises for what torch would refuse to write in place."""
    if torch.is_inference_mode_enabled():
        return
    for tensor in kept:
        if tensor is not None and tensor.is_inference():
            raise RuntimeError(
                "running_mean, running_var, num_batches_tracked: got an inference tensor outside of "
                "torch.inference_mode(); pass its clone()"
            )


def update_running(
    on: Backend,
    kept: tuple[Tensor, Tensor, Tensor | None],
    in_compute_type: list[Tensor],
    mean64: Any,
    var64: Any,
    values: int,
    momentum: float,
) -> None:
    """Updates by the kernel.

    Args:
        on: where the statistics lie.
        kept: mean, variance and the count of batches or None, which ``check_writable`` has passed.
        in_compute_type: mean and variance as the kernel takes them: themselves, or copies.
        mean64, var64: (C,) float64 arrays of that backend, those of the batch.
        values: of each channel in the batch.
        momentum: the share of the batch.
    """
    running_mean, running_var, batches = kept
    mean, var = in_compute_type
    is_in_place = mean.data_ptr() == running_mean.data_ptr() and var.data_ptr() == running_var.data_ptr()
    if on.module is cpu and is_in_place and (batches is None or batches.dtype == torch.int64):
        arrays = on.array(mean, "running_mean"), on.array(var, "running_var")
        _increase_versions(kept)
        if batches is None:
            cpu.update_running(*arrays, mean64, var64, values, momentum, 0)
        else:
            count = on.array(batches, "num_batches_tracked")
            update_running_and_count(*arrays, mean64, var64, values, momentum, count)
        return
    mean, var = mean.clone(), var.clone()
    arrays = on.array(mean, "running_mean"), on.array(var, "running_var")
    on.module.update_running(*arrays, mean64, var64, values, momentum, 0)
    write_running(*kept, mean, var)


@torch.jit.ignore
def write_running(
    running_mean: Tensor, running_var: Tensor, batches: Tensor | None, mean: Tensor, var: Tensor
) -> None:
    """Writes new statistics and counts the batch, under vmap and torch.compile one after the other."""
    kept, new = [running_mean, running_var], [mean, var]
    if batches is not None:
        kept, new = [*kept, batches], [*new, batches + 1]
    if torch.compiler.is_compiling() or is_transformed_by("Vmap"):  # there vmap has no rule for lists
        for old, value in zip(kept, new, strict=True):
            old.copy_(value)
        return
    check_writable(kept)
    if any(torch._debug_has_internal_overlap(old) == 1 for old in kept):
        raise RuntimeError("running_mean, running_var: got elements that share memory; pass its clone()")
    _increase_versions(kept)  # of a list under a dispatch mode torch would not do it at all
    torch._foreach_copy_(kept, new)


def _increase_versions(kept: Iterable[Tensor | None]) -> None:
    """Before the first is written, so that autograd hears of whatever is."""
    tracked = [tensor for tensor in kept if tensor is not None and not tensor.is_inference()]
    torch.autograd.graph.increment_version(tracked)
