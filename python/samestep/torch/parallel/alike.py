"""Whether all workers have made the same: models, optimizers, numbers of leaves."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from ...parallel.groups import Group
from ..tensors import as_array, bytes_of, gpu_of, is_dense, is_dtensor, local_tensor


def hyper_of(optimizer: Any) -> bytes:
    """The hyper-parameters of all groups, as text that differs when they do."""
    return repr(
        [
            sorted((k, v.tolist() if isinstance(v, Tensor) else v) for k, v in group.items() if k != "params")
            for group in optimizer.param_groups
        ]
    ).encode()


def check_alike(group: Group, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raises on every worker unless all have the same facts and tensors, of the same layout and bits.

    Args:
        facts: by the name of the argument that they come from.
        tensors: parameters and buffers by their names; of shards, which differ, type and shape are compared.
    """
    mine = {**facts, "model": {name: _facts_of(tensor) for name, tensor in tensors.items()}}
    for rank, other in enumerate(group.all_gather_json(mine)):
        where = f"worker {group.rank} and", f"worker {rank}, expected the same on all"
        for name, value in other.items():
            if name != "model" and value != mine[name]:
                raise ValueError(f"{name}: got {mine[name]} on {where[0]} {value} on {where[1]}")
        model = mine["model"]
        if list(model) != list(other["model"]):
            raise ValueError(f"model: got other parameters or buffers on {where[0]} on {where[1]}")
        for name, found in other["model"].items():
            if found != model[name]:
                kinds = [f"{dtype} of shape {tuple(shape)}" for dtype, shape, *_ in (model[name], found)]
                got = " and ".join(kinds) if kinds[0] != kinds[1] else "other values or strides"
                raise ValueError(
                    f"model: {name}: got {got} on {where[0]} {where[1]}; seed all workers alike, or load one "
                    "state dict on all, before this call"
                )


def check_tensor(name: str, tensor: Tensor, number: int | None = None) -> None:
    """Raises for a parameter or buffer that leaves cannot have, where they are on this GPU, or on the CPU."""
    local = local_tensor(tensor.detach())
    if gpu_of(local) != number or (number is None and local.device.type != "cpu"):
        place = "the CPU" if number is None else f"GPU {number}, where the first parameter lies"
        raise NotImplementedError(f"model: {name}: got a tensor on {local.device}, expected one on {place}")
    if local.layout is not torch.strided or not is_dense(local):
        raise ValueError(f"model: {name}: got a tensor with gaps, expected a dense one; use its contiguous()")


def _facts_of(tensor: Tensor) -> list[Any]:
    facts = [str(tensor.dtype), list(tensor.shape)]
    if is_dtensor(tensor):
        return facts
    plain = tensor.detach()
    strides = list(plain.stride())
    values = as_array(bytes_of(plain).cpu(), "model")
    return [*facts, strides, hashlib.blake2b(values.data, digest_size=16).hexdigest()]
