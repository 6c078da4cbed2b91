"""How torch's tensors lie in memory: dense or with gaps, aligned or not, whole or in shards."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from .. import _core
from ..backends.arrays import Array


def is_dense(tensor: Tensor) -> bool:
    """Whether the tensor's elements fill one block of memory, each once, and stand there as they are."""
    if torch._debug_has_internal_overlap(tensor) == 1:
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single "
            "memory location. Please clone() the tensor before performing the operation."
        )
    same_strides = torch.empty_like(tensor, device="meta").stride() == tensor.stride()
    return same_strides and not tensor.is_neg() and is_aligned(tensor)


def is_aligned(tensor: Tensor) -> bool:
    return bool(tensor.data_ptr() % tensor.element_size() == 0)


def is_dtensor(tensor: Tensor) -> bool:
    # Whoever has a DTensor has imported it: the import is slow, and there are builds without it.
    module = sys.modules.get("torch.distributed.tensor")
    return bool(module is not None and isinstance(tensor, module.DTensor))


def local_tensor(tensor: Tensor) -> Tensor:
    """This process's shard of a DTensor; any other tensor itself."""
    if not is_dtensor(tensor):
        return tensor
    local = tensor.detach().to_local()
    return local.wait() if hasattr(local, "wait") else local


def plain_tensor(tensor: Tensor) -> Tensor:
    """An alias of the tensor's memory; of torch's own type, unless a subclass has operations of its own."""
    kind = type(tensor)
    is_default = getattr(kind.__torch_function__, "__func__", None) is Tensor.__torch_function__.__func__
    if not is_default or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor.detach()
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach()


def full_tensor(tensor: Tensor) -> Tensor:
    """All shards of a DTensor, gathered; any other tensor itself."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def as_array(tensor: Tensor, name: str) -> Array:
    """The memory of the tensor, an argument of that name, as an array.

    Not by ``Tensor.numpy``, after which its storage cannot be resized, as FSDP does with parameters.
    """
    return _core.array_of(tensor, name)


def is_transformed_by(name: str) -> bool:
    """Whether a transform of torch.func of this name, such as "Vmap", is active; torch.compile shows none."""
    if torch.compiler.is_compiling():
        return False
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    return getattr(torch._C._functorch.TransformType, name) in [one.key() for one in transforms]
