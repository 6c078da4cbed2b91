"""Arrays on GPUs as NCCL takes them, through torch.distributed."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import backends
from .groups import bytes_of

if TYPE_CHECKING:
    from torch import Tensor


def meet(process_group: Any, number: int) -> Any:
    """Makes NCCL's channels between all processes' GPUs: a first message may be between a few alone.

    Returns:
        What is to be waited for.

    Raises:
        RuntimeError: torch's memory allocator does not let NCCL have memory of CuPy's.
    """
    import torch
    import torch.distributed as dist

    if torch.cuda.memory.get_allocator_backend() == "cudaMallocAsync":
        raise RuntimeError(
            "process_group: NCCL takes no arrays of CuPy's where torch allocates by cudaMallocAsync; leave "
            "backend:cudaMallocAsync out of PYTORCH_CUDA_ALLOC_CONF"
        )
    return dist.barrier(process_group, async_op=True, device_ids=[number])


def device_of(process_group: Any) -> Any:
    """The GPU by which arrays of main memory travel: that of init_process_group, or the current one."""
    import torch
    import torch.distributed as dist

    bound = getattr(process_group or dist.group.WORLD, "bound_device_id", None)
    return torch.device("cuda", torch.cuda.current_device()) if bound is None else bound


def on_its_gpu(array: Any) -> Tensor:
    """The bytes of an array of CuPy's, where they lie."""
    import torch

    return torch.from_dlpack(bytes_of(array))


@contextlib.contextmanager
def stream_of(array: Any) -> Iterator[None]:
    """NCCL goes by the stream that CuPy launches on."""
    import torch

    number = array.device.id
    address = backends.module("cuda").stream_address(number)
    # Of address 0 torch would make a new stream.
    stream = torch.cuda.ExternalStream(address, number) if address else torch.cuda.default_stream(number)
    with torch.cuda.stream(stream):
        yield


def wait_on_gpu(work: Any, until: float) -> None:
    """Waits for the GPU as well: parameters are written after it, and only if all have come."""
    while not work.is_completed():
        if time.monotonic() > until:
            work.wait(datetime.timedelta(milliseconds=1))  # which ends what runs on the GPU, and raises
        time.sleep(0)
    work.wait()
