"""Batch norm over the samples of all workers, whose bits are those of one process with all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import parallel
from ..backends.arrays import Array
from ..layers.batchnorm.checks import check_eps
from ..layers.batchnorm.spread import Batch
from ..parallel.groups import Alone, Group, check_group
from . import batchnorm_kernels as kernels
from . import operators
from .launching import backend_of
from .layers import _BatchNorm
from .running import check_writable, update_running
from .tensors import as_array, check_tensors, is_plain


class SyncBatchNorm(_BatchNorm):
    """``torch.nn.SyncBatchNorm`` on the CPU: batch norm of (N, C) or (N, C, ...) over all workers' samples.

    In training the batch is made of the samples of worker 0, then of worker 1, and so on; each may have
    another number of them, or none. Output, statistics and gradients have the bits of ``BatchNorm1d`` and
    its kin in one process that has the whole batch. The gradients of weight and bias are those of the whole
    batch on every worker: they are not to be added up or averaged again, though an average of equal numbers
    over 2, 4, 8, ... workers changes nothing. In evaluation the workers have nothing to do with one another.

    Each worker must run forward and backward as often as the others. Leaves (``samestep.torch.parallel``)
    are apart from this: they are normalised one by one, by BatchNorm1d and its kin, since which leaves are
    computed at the same time depends on the number of workers.

    Args:
        process_group: of torch.distributed, such as gloo's; None: the default one, or one worker alone where
            it has not been started.
        group: another engine's group, of samestep.parallel, instead.
        relu: whether a ReLU follows, in the same pass. The other arguments are torch's, in its order.

    State dicts of this layer, of BatchNorm1d and its kin and of torch's can be exchanged. See ``batch_norm``
    for formulas, dtypes and errors. There is no second derivative, and no transform of torch.func.

    Source:
        docs/numerics.md, "Batch norm"; Ioffe & Szegedy (2015).

    Example:
        >>> import torch, samestep as ss, samestep.torch
        >>> x = torch.arange(30.0).reshape(10, 3).sin()
        >>> def normalised(group):
        ...     layer = ss.torch.SyncBatchNorm(3, group=group)
        ...     return layer(x[[0, 4, 10][group.rank] : [4, 10][group.rank]])
        >>> parts = ss.parallel.run_threads(2, normalised)
        >>> torch.equal(torch.cat(parts), ss.torch.BatchNorm1d(3)(x))
        True
    """

    process_group: Any = None  # for layers that were made of others
    group: Group | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        relu: bool = False,
        group: Group | None = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias, relu=relu
        )
        if group is not None and process_group is not None:
            raise ValueError("group: got a group beside process_group, expected one of them")
        self.process_group = process_group
        self.group = None if group is None else check_group(group)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"input: got shape {tuple(input.shape)}, expected (N, C) or (N, C, ...)")

    def _workers(self) -> Group:
        if self.group is not None:
            return self.group
        dist = torch.distributed
        if not dist.is_available() or not dist.is_initialized():
            return Alone()
        return parallel.torch_distributed(self.process_group)

    @torch._disable_dynamo
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        group = self._workers() if self.training else Alone()
        if group.size == 1:
            return super().forward(input)
        tensors = {"weight": self.weight, "bias": self.bias}
        running = {"running_mean": self.running_mean, "running_var": self.running_var}
        check_tensors({"input": input, **tensors, **running}, "torch.nn.SyncBatchNorm")
        kernels.check(input, {**tensors, **running})
        if not is_plain(input, *tensors.values(), *running.values()):
            raise NotImplementedError(
                "input: got a traced or transformed tensor, expected a plain one: workers exchange its sums"
            )
        kept = None if self.running_mean is None else (*running.values(), self.num_batches_tracked)
        momentum = self.momentum
        if momentum is None:  # the plain average over all batches
            momentum = 0.0 if kept is None else 1.0 / (int(kept[2]) + 1)
        return _Training.apply(input, self.weight, self.bias, kept, momentum, self.eps, self.relu, group)


def _rows_of(x: Tensor, name: str = "input") -> Array:
    return as_array(kernels.rows_of(x), name)


class _Training(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor, Tensor] | None,
        momentum: float,
        eps: float,
        relu: bool,
        group: Group,
    ) -> Tensor:
        eps = check_eps(eps)
        if running is not None:
            check_writable(running)
        x = kernels.in_kernel_layout(input)
        sizes, channels_last = kernels.sizes_of(x)
        gamma, beta = kernels.per_channel(weight, x, 1.0), kernels.per_channel(bias, x, 0.0)
        scale, shift = as_array(gamma, "weight"), as_array(beta, "bias")
        batch = Batch(group, _rows_of(x), sizes, channels_last)
        if batch.values < 2:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got {batch.values} on all workers"
            )
        y = torch.empty_like(x)
        mean, inv = np.empty_like(scale), np.empty_like(scale)
        mean64, var64 = np.empty(len(scale)), np.empty(len(scale))
        statistics = mean, inv, mean64, var64
        batch.forward(_rows_of(x), scale, shift, _rows_of(y), *statistics, relu, eps)
        if running is not None:
            copies = [kernels.per_channel(s, x, 0.0) for s in running[:2]]
            with backend_of(x) as on:
                update_running(on, running, copies, mean64, var64, batch.values, momentum)
        ctx.save_for_backward(input, weight, bias, torch.from_numpy(mean), torch.from_numpy(inv))
        ctx.batch, ctx.relu = batch, relu
        return y.to(input.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, mean, inv = saved = ctx.saved_tensors
        x = kernels.in_kernel_layout(input)
        scale = as_array(kernels.per_channel(weight, x, 1.0), "weight")
        shift = as_array(kernels.per_channel(bias, x, 0.0), "bias")
        dx = torch.empty_like(x)
        dgamma, dbeta = np.empty_like(scale), np.empty_like(scale)
        channels = scale, shift, as_array(mean, "mean"), as_array(inv, "inv")
        arrays = _rows_of(kernels.like(grad, x), "grad"), _rows_of(x), *channels
        ctx.batch.backward(*arrays, _rows_of(dx), dgamma, dbeta, ctx.relu)
        grads = dx, torch.from_numpy(dgamma), torch.from_numpy(dbeta)
        return (*operators.needed(ctx, saved[:3], grads), None, None, None, None, None)
