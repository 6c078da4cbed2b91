"""By which backend kernels run on a tensor, and how CuPy launches them on torch's streams and memory."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..backends import cpu, gpu
from ..backends.gpu.device import get_cupy
from ..optional import require
from .tensors import as_array, check_on_gpu, gpu_of, is_aligned


def current_stream(number: int) -> int:
    """The address of torch's current stream on a GPU."""
    address: int = torch.cuda.current_stream(number).cuda_stream
    return address


def is_capturing(number: int) -> bool:
    """Whether torch's current stream on a GPU is captured into a graph."""
    with torch.cuda.device(number):
        found: bool = torch.cuda.is_current_stream_capturing()
        return found


def on_gpu(tensor: Tensor, number: int) -> Tensor:
    """The tensor in float32 on a GPU, in order with what runs there; the host does not wait."""
    return tensor.to(torch.device("cuda", number), torch.float32, non_blocking=True)


def note_event(number: int) -> Any:
    """An event after all that torch's current stream of a GPU has been given so far."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(number))
    return event


class Later:
    """The value of a tensor with one element on a GPU, which is copied while the host goes on."""

    def __init__(self, tensor: Tensor) -> None:
        number = gpu_of(tensor)
        assert number is not None
        self._copy = tensor.to("cpu", non_blocking=True)  # into pinned memory, which the event stands for
        self._event = note_event(number)

    def get(self) -> float:
        """Waits for the copy, but for nothing that the GPU was given after it."""
        self._event.synchronize()
        return float(self._copy.item())


@functools.lru_cache(maxsize=64)
def _stream(address: int, number: int) -> Any:
    with warnings.catch_warnings():
        # CuPy 14 has another name for it, whose objects end the streams that they were made of.
        warnings.simplefilter("ignore", DeprecationWarning)
        return get_cupy().cuda.ExternalStream(address, number)


@contextlib.contextmanager
def on_stream(number: int) -> Iterator[None]:
    """CuPy launches on torch's current stream of a GPU."""
    with get_cupy().cuda.Device(number), _stream(current_stream(number), number):
        yield


def _type_of(tensor: Tensor) -> str:
    if tensor.dtype == torch.int64:
        return "<i8"
    assert tensor.is_floating_point()
    letter = "u" if tensor.dtype == torch.bfloat16 else "f"  # which NumPy has no name for
    return f"<{letter}{tensor.element_size()}"


class _Address:
    """Where a tensor lies, for CuPy: nothing that keeps it there."""

    def __init__(self, tensor: Tensor) -> None:
        size = tensor.element_size()
        self.__cuda_array_interface__ = {
            "version": 3,
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * size for stride in tensor.stride()),
            "typestr": _type_of(tensor),
            "stream": None,  # the kernels run on torch's
        }


def view(tensor: Tensor) -> Any:
    """CuPy's view of a dense tensor on the current GPU, complex numbers as pairs; it keeps nothing alive."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    bfloat16 = None
    if tensor.dtype == torch.bfloat16:
        bfloat16 = require("ml_dtypes", "torch.bfloat16 on a GPU", "bfloat16").bfloat16
    if tensor.numel() == 0:  # at no address
        dtype = bfloat16 or np.dtype(_type_of(tensor))
        return get_cupy().empty(tuple(tensor.shape), dtype)
    found = get_cupy().asarray(_Address(tensor))
    return found if bfloat16 is None else found.view(bfloat16)


class Backend(NamedTuple):
    """By which kernels run.

    Attributes:
        module: of the backend.
        array: its array of a tensor, an argument of that name.
        empty: a new array of that dtype, as long as a (C,) tensor.
        tensor: the tensor of an array that ``empty`` has made.
    """

    module: Any
    array: Callable[[Tensor, str], Any]
    empty: Callable[[Tensor, torch.dtype], Any]
    tensor: Callable[[Any], Tensor]


_NUMPYS = {torch.float32: np.float32, torch.float64: np.float64}


def _empty_on_cpu(like: Tensor, dtype: torch.dtype) -> Any:
    return np.empty(like.numel(), _NUMPYS[dtype])


_ON_CPU = contextlib.nullcontext(Backend(cpu, as_array, _empty_on_cpu, torch.from_numpy))


def refuse_capture(input: Tensor) -> None:
    """Raises while a CUDA graph is captured, before anything is read that the capture forbids to wait for."""
    number = gpu_of(input)
    if number is not None and is_capturing(number):
        raise RuntimeError(
            "input: a CUDA graph is being captured, but the kernels' own memory is CuPy's, which gives it to "
            "others before the replay; call the layer outside of the graph, or use torch.nn's"
        )


@contextlib.contextmanager
def _on_gpu(number: int) -> Iterator[Backend]:
    # Tensors live until all launches have been made: memory that is freed later, torch gives to later work on
    # this stream alone.
    alive: list[Tensor] = []
    made: dict[int, Tensor] = {}

    def array(tensor: Tensor, name: str) -> Any:
        check_on_gpu(name, tensor, number)
        if not is_aligned(tensor):
            raise ValueError(
                f"{name}: lies at {tensor.data_ptr():#x}, expected a multiple of {tensor.element_size()} "
                f"bytes; use {name}.clone()"
            )
        alive.append(tensor)
        return view(tensor)

    def empty(like: Tensor, dtype: torch.dtype) -> Any:
        tensor = torch.empty_like(like, dtype=dtype)
        new = view(tensor)
        made[id(new)] = tensor
        return new

    with on_stream(number):
        yield Backend(gpu, array, empty, lambda array: made[id(array)])


def backend_at(number: int | None) -> contextlib.AbstractContextManager[Backend]:
    """The backend of a GPU, or with None of the CPU; on a GPU, kernels run on torch's current stream."""
    return _ON_CPU if number is None else _on_gpu(number)


def backend_of(tensor: Tensor) -> contextlib.AbstractContextManager[Backend]:
    """The backend where a tensor lies."""
    refuse_capture(tensor)
    return backend_at(gpu_of(tensor))
