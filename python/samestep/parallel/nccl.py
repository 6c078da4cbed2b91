"""Arrays on GPUs as NCCL takes them, through torch.distributed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import backends
from .groups import bytes_of

if TYPE_CHECKING:
    from torch import Tensor


def meet(process_group: Any) -> None:
    """Makes NCCL's channels while all processes are here: the first message may be between a few."""
    import torch
    import torch.distributed as dist

    dist.barrier(process_group, device_ids=[torch.cuda.current_device()])


def on_current_gpu(tensor: Tensor) -> Tensor:
    """A copy there."""
    return tensor.cuda()


def on_its_gpu(array: Any) -> Tensor:
    """The bytes of an array of CuPy's, where they lie."""
    import torch

    return torch.from_dlpack(bytes_of(array))


@contextlib.contextmanager
def stream_of(array: Any) -> Iterator[None]:
    """NCCL goes by the stream that CuPy launches on."""
    import torch

    number = array.device.id
    address = backends.module("cuda").current_stream(number)
    # Of address 0 torch would make a new stream.
    stream = torch.cuda.ExternalStream(address, number) if address else torch.cuda.default_stream(number)
    with torch.cuda.stream(stream):
        yield


def wait_on_gpu(work: Any, until: float) -> None:
    """Waits for the GPU as well: parameters are written after it, and only if all have come."""
    while not work.is_completed():
        if time.monotonic() > until:
            raise RuntimeError("the time is up")
        time.sleep(0)
    work.wait()
