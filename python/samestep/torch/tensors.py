"""What a torch tensor is: its type, how it lies in memory, who traces or transforms it."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from .. import _core
from ..backends.arrays import Array

HALVES = (torch.float16, torch.bfloat16)  # read and written in 16 bits, computed in float32
TYPES = (torch.float32, torch.float64, *HALVES)  # of layers
_PLAIN = (Tensor, torch.nn.Parameter)


def compute_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALVES else dtype


def check_type(input: Tensor, name: str = "input") -> None:
    """Raises for a type that no layer takes."""
    if input.dtype not in TYPES:
        raise TypeError(f"{name}: got {input.dtype}, expected one of {', '.join(map(str, TYPES))}")


def check_dense(**tensors: Tensor | None) -> None:
    """Raises for a tensor that keeps its elements in another way than torch.empty does, by its name."""
    for name, tensor in tensors.items():
        if tensor is not None and (tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized):
            kind = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else tensor.layout
            fix = {"nested": "to_padded_tensor(0)", "quantized": "dequantize()"}.get(str(kind), "to_dense()")
            raise TypeError(f"{name}: got a {kind} tensor, expected a dense one; use {name}.{fix}")


def check_tensors(tensors: dict[str, Tensor | None], instead: str, on_gpu: bool = False) -> None:
    """Raises unless all are tensors on the CPU, or all on meta; those after the first may be None.

    Args:
        tensors: a layer's arguments by their names.
        instead: what to use on other devices.
        on_gpu: whether all may lie on one NVIDIA GPU as well.
    """
    named, first = next(iter(tensors.items()))
    if on_gpu and isinstance(first, Tensor) and (number := gpu_of(first)) is not None:
        for name, tensor in tensors.items():
            if isinstance(tensor, Tensor):
                check_on_gpu(name, tensor, number, named)
            elif tensor is not None:
                raise TypeError(f"{name}: got {type(tensor).__name__}, expected a tensor")
        return
    for i, (name, tensor) in enumerate(tensors.items()):
        if isinstance(tensor, Tensor):
            if not tensor.is_cpu and any(
                isinstance(t, Tensor) and t.device.type != "meta" for t in tensors.values()
            ):
                if on_gpu and i > 0:
                    raise ValueError(
                        f"{name}: got a tensor on {tensor.device}, expected one on the CPU, where the "
                        f"{named} lies; use {name}.to({named}.device)"
                    )
                expected = "one on the CPU or an NVIDIA GPU" if on_gpu else "one on the CPU"
                raise NotImplementedError(
                    f"{name}: got a tensor on {tensor.device}, expected {expected}; use {instead} there"
                )
        elif tensor is not None or i == 0:
            raise TypeError(f"{name}: got {type(tensor).__name__}, expected a tensor")


def check_on_gpu(name: str, tensor: Tensor, number: int, first: str = "input") -> None:
    """Raises for an argument of that name which does not lie on this GPU, as ``first`` does."""
    if gpu_of(tensor) != number:
        raise ValueError(
            f"{name}: got a tensor on {tensor.device}, expected one on GPU {number}, where the {first} lies; "
            f"use {name}.to({first}.device)"
        )


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether nothing traces or transforms: then an autograd function costs less than the dispatcher."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and all(t is None or (type(t) in _PLAIN and (t.is_cpu or gpu_of(t) is not None)) for t in tensors)
    )


def is_eager(*tensors: Tensor | None) -> bool:
    """Whether all are plain tensors, or None, and torch computes with them as they are: no trace, no
    transform, no forward mode, no autocast.
    """
    return (
        is_plain(*tensors)
        and not torch.jit.is_tracing()
        and torch.autograd.forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_autocast_enabled("cuda")
    )


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd has to note what is computed of these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def is_final(grad: Tensor) -> bool:
    """Whether a gradient is plain and nobody will differentiate what comes of it."""
    return (
        not torch.is_grad_enabled()
        and is_plain(grad)
        and not torch._C._functorch.is_legacy_batchedtensor(grad)  # of is_grads_batched=True
    )


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


def gpu_of(tensor: Tensor) -> int | None:
    """The number of the NVIDIA GPU that a tensor lies on; None: on none."""
    return tensor.device.index if tensor.is_cuda and torch.version.hip is None else None


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


def resolved(tensor: Tensor) -> Tensor:
    """The tensor with its values in memory, where torch keeps them as negated, or as zeros without any."""
    tensor = tensor.detach().resolve_neg()
    return tensor.clone() if tensor._is_zerotensor() else tensor


def bytes_of(tensor: Tensor) -> Tensor:
    """The values of a tensor in C order, as bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


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


def autocast_kind(tensor: Tensor) -> str:
    """The type of device by which autocast is switched for a tensor."""
    return "cpu" if gpu_of(tensor) is None else "cuda"


def under_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors in autocast's type, if it is on: what torch does to the arguments of its products."""
    kind = autocast_kind(next(t for t in tensors if t is not None))
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    narrow = (torch.float32, *HALVES)
    return [t.to(dtype) if t is not None and t.dtype in narrow else t for t in tensors]
