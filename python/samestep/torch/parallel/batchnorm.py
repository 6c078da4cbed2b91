"""Batch norm layers of a network to layers that normalise over all workers' samples."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch.nn import Module

from ...parallel.groups import Group, check_group
from .. import layers
from ..sync_batchnorm import SyncBatchNorm

_Network = TypeVar("_Network", bound=Module)
_REPLACED = {
    torch.nn.SyncBatchNorm,
    *(getattr(module, f"BatchNorm{dim}d") for module in (torch.nn, layers) for dim in (1, 2, 3)),
}


def sync_batchnorm(model: _Network, group: Group | None = None) -> _Network | SyncBatchNorm:
    """Replaces the batch norms of a network by ``samestep.torch.SyncBatchNorm``, in place.

    These are torch.nn's and samestep's BatchNorm1d, BatchNorm2d and BatchNorm3d, and torch.nn.SyncBatchNorm.
    A new layer has the parameters, buffers, hooks and settings of the old one: the same tensors. Subclasses
    and lazy layers stay as they are.

    Args:
        model: the network, or a layer itself.
        group: of samestep.parallel; None: that of torch.distributed's default process group, or the one that
            a torch.nn.SyncBatchNorm has.

    Returns:
        ``model``; if that is such a layer itself, its replacement.

    Raises:
        TypeError: ``group`` is none.

    Example:
        >>> import torch, samestep as ss, samestep.torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        >>> type(ss.torch.parallel.sync_batchnorm(net)[1]) is ss.torch.SyncBatchNorm
        True
    """
    if group is not None:
        check_group(group)
    new: dict[Module, SyncBatchNorm] = {}
    for old in [module for module in model.modules() if type(module) in _REPLACED]:
        new[old] = object.__new__(SyncBatchNorm)
        new[old].__dict__.update(old.__dict__)  # parameters, buffers, hooks, training flag: the same objects
        new[old].__dict__["group"] = group
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]
    replaced: _Network | SyncBatchNorm = new.get(model, model)
    return replaced
