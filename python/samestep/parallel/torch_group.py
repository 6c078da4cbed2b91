"""Workers that are the processes of a torch.distributed process group: of gloo, MPI or NCCL."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..arguments import finite_number
from ..backends.arrays import Array, lives_on_gpu
from . import nccl
from .groups import Group, WorkerLost, bytes_of

if TYPE_CHECKING:
    from torch import Tensor


class TorchGroup(Group):
    """A process of torch.distributed.

    Where gloo or MPI is all there is, arrays on a GPU go by way of main memory; where NCCL is, those of main
    memory by way of the current GPU. A group of both carries each kind as it is.
    """

    def __init__(self, process_group: Any, timeout: float) -> None:
        import torch.distributed as dist

        self.rank = dist.get_rank(process_group)
        self.size = dist.get_world_size(process_group)
        self._process_group, self._timeout = process_group, timeout
        self._global_ranks = [
            rank if process_group is None else dist.get_global_rank(process_group, rank)
            for rank in range(self.size)
        ]
        engines = engines_of(process_group)
        self._reaches_main, self._reaches_gpus = "cpu" in engines, engines.get("cuda") == "nccl"
        self._call, self._has_met = 0, False

    def meet(self, like: Any) -> None:
        if self._has_met or self.size == 1 or not self._reaches_gpus or not lives_on_gpu(like):
            return
        until = time.monotonic() + self._timeout
        work = nccl.meet(self._process_group, like.device.id)
        try:
            nccl.wait_on_gpu(work, until)
        except RuntimeError as error:
            raise WorkerLost(f"a worker of {self.size} is gone or did not come: {error}") from error
        self._has_met = True

    def transfer(self, send: Mapping[int, Array], receive: Mapping[int, Array]) -> None:
        here = {id(array): _as_tensor(array) for array in (*send.values(), *receive.values())}
        if self._reaches_main:
            given = {rank: here[id(array)] for rank, array in send.items()}
            taken = {rank: here[id(array)] for rank, array in receive.items()}
            self._exchange(given, taken, _wait)
            return
        device = nccl.device_of(self._process_group)
        there = {id(array): here[id(array)].to(device) for array in send.values()}
        came = {
            rank: here[id(array)].new_empty(array.nbytes, device=device) for rank, array in receive.items()
        }
        self._exchange({rank: there[id(array)] for rank, array in send.items()}, came, nccl.wait_on_gpu)
        for rank, array in receive.items():
            here[id(array)].copy_(came[rank])

    def carry(self, send: Mapping[int, Array], receive: Mapping[int, Array]) -> None:
        on_gpu = [array for array in (*send.values(), *receive.values()) if lives_on_gpu(array)]
        if not on_gpu or not self._reaches_gpus:
            super().carry(send, receive)
            return
        with nccl.stream_of(on_gpu[0]):
            there = {rank: nccl.on_its_gpu(array) for rank, array in send.items()}
            came = {rank: nccl.on_its_gpu(array) for rank, array in receive.items()}
            self._exchange(there, came, nccl.wait_on_gpu)

    def _exchange(
        self, send: Mapping[int, Tensor], receive: Mapping[int, Tensor], wait: Callable[[Any, float], None]
    ) -> None:
        """Sends and receives tensors of bytes where the engine reaches them."""
        import torch.distributed as dist

        # Ranks are torch's own, of all processes; tags tell one call from the next.
        ranks, group, tag = self._global_ranks, self._process_group, self._call
        self._call = (self._call + 1) % 2**30
        until = time.monotonic() + self._timeout
        ops = [(rank, dist.irecv, tensor) for rank, tensor in receive.items()]
        ops += [(rank, dist.isend, tensor) for rank, tensor in send.items()]
        if not ops:
            return
        who = "a worker"
        try:
            # Together: NCCL would else let two that send first wait for each other.
            works = dist.batch_isend_irecv(
                [dist.P2POp(op, tensor, ranks[rank], group, tag) for rank, op, tensor in ops]
            )
            for i, work in enumerate(works):
                who = f"worker {ops[i][0]}" if len(works) == len(ops) else "a worker"
                wait(work, until)
        except RuntimeError as error:
            raise WorkerLost(f"{who} of {self.size} is gone or did not answer: {error}") from error


def engines_of(process_group: Any) -> dict[str, str]:
    """The engine of each kind of device, such as {"cpu": "gloo", "cuda": "nccl"}."""
    import torch.distributed as dist

    return dict(pair.split(":") for pair in dist.get_backend_config(process_group).split(","))


def _as_tensor(array: Array) -> Tensor:
    import torch

    return torch.from_numpy(bytes_of(array if array.flags.writeable else array.copy()))  # else torch warns


def _wait(work: Any, until: float) -> None:
    left = max(0.001, until - time.monotonic())
    work.wait(datetime.timedelta(seconds=left))


def torch_distributed(process_group: Any = None, *, timeout: float = 300.0) -> Group:
    """The group of a torch.distributed process group: of gloo, MPI or NCCL.

    Start the processes with ``torchrun`` and call ``torch.distributed.init_process_group("gloo")`` first.
    With parameters on GPUs, one for each process, call ``torch.cuda.set_device(local_rank)`` and then
    ``init_process_group("cpu:gloo,cuda:nccl")``: NCCL carries what lies on the GPUs, gloo the rest. Every
    process of the group calls this function.

    Args:
        process_group: None: the default one.
        timeout: seconds after which a worker that waits for another one raises ``WorkerLost``.

    Raises:
        RuntimeError: torch.distributed has not been started, or its engine is none of these.
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
    engines = engines_of(process_group)
    if "cpu" not in engines and engines.get("cuda") != "nccl":
        raise RuntimeError(
            f"process_group: got the engines {engines}, expected gloo, MPI or NCCL; pass "
            'torch.distributed.new_group(backend="gloo")'
        )
    return TorchGroup(process_group, finite_number("timeout", timeout, at_least=0.0))
