"""Workers that are the processes of a torch.distributed process group: gloo, MPI, or NCCL beside them."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from typing import Any

from ..arguments import finite_number
from ..backends.arrays import Array
from .groups import Group, WorkerLost, bytes_of


class TorchGroup(Group):
    """A process of torch.distributed."""

    def __init__(self, process_group: Any, timeout: float) -> None:
        import torch.distributed as dist

        self.rank = dist.get_rank(process_group)
        self.size = dist.get_world_size(process_group)
        self._process_group, self._timeout = process_group, timeout
        self._global_ranks = [
            rank if process_group is None else dist.get_global_rank(process_group, rank)
            for rank in range(self.size)
        ]
        self._call = 0

    def transfer(self, send: Mapping[int, Array], receive: Mapping[int, Array]) -> None:
        import torch
        import torch.distributed as dist

        # Ranks are torch's own, of all processes; tags tell one call from the next.
        ranks, group, tag = self._global_ranks, self._process_group, self._call
        self._call = (self._call + 1) % 2**30
        until = time.monotonic() + self._timeout
        rank = -1
        try:
            works = [
                (rank, dist.irecv(torch.from_numpy(bytes_of(array)), ranks[rank], group, tag))
                for rank, array in receive.items()
            ]
            works += [
                (rank, dist.isend(torch.from_numpy(bytes_of(_writeable(array))), ranks[rank], group, tag))
                for rank, array in send.items()
            ]
            for rank, work in works:  # noqa: B007 - it names the worker in the error
                left = max(0.001, until - time.monotonic())
                assert work is not None  # as outside the group
                work.wait(datetime.timedelta(seconds=left))
        except RuntimeError as error:
            who = f"worker {rank}" if rank >= 0 else "a worker"
            raise WorkerLost(f"{who} of {self.size} is gone or did not answer: {error}") from error


def torch_distributed(process_group: Any = None, *, timeout: float = 300.0) -> Group:
    """The group of a torch.distributed process group whose tensors lie in main memory, such as gloo's.

    Start the processes with ``torchrun`` and call ``torch.distributed.init_process_group("gloo")`` first. For
    gradients on GPUs, make a group of gloo beside NCCL's: ``torch.distributed.new_group(backend="gloo")``.

    Args:
        process_group: None: the default one.
        timeout: seconds after which a worker that waits for another one raises ``WorkerLost``.

    Raises:
        RuntimeError: torch.distributed has not been started, or the backend carries no tensors of main
            memory.
        ImportError: torch is not installed.

    Example:
        >>> import samestep as ss, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> ss.parallel.torch_distributed()
        TorchGroup(rank=0, size=1)
        >>> dist.destroy_process_group()
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "process_group: torch.distributed has not been started; start the script with torchrun and call "
            'torch.distributed.init_process_group("gloo") first'
        )
    name = dist.get_backend(process_group)
    if "nccl" in name and "gloo" not in name:
        raise RuntimeError(
            f"process_group: {name} carries no tensors of main memory; pass "
            'torch.distributed.new_group(backend="gloo")'
        )
    return TorchGroup(process_group, finite_number("timeout", timeout, at_least=0.0))


def _writeable(array: Array) -> Array:
    """The array, or a copy of one that is read-only: torch would warn of it."""
    return array if array.flags.writeable else array.copy()
