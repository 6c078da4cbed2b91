"""Workers that are the processes of an MPI communicator, through mpi4py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..arguments import finite_number
from ..backends.arrays import Array
from .groups import Group, WorkerLost, bytes_of

_LARGEST = 1 << 30  # bytes of a message: MPI counts them in 32 bits
_TAG = 0x5A3E  # of our messages


class MpiGroup(Group):
    """A process of MPI."""

    def __init__(self, comm: Any, timeout: float) -> None:
        from mpi4py import MPI

        # A communicator of its own: no message of the caller can be taken for one of these.
        self._comm, self._timeout, self._mpi = comm.Dup(), timeout, MPI
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()

    def transfer(self, send: Mapping[int, Array], receive: Mapping[int, Array]) -> None:
        until = time.monotonic() + self._timeout
        # Kept if this is broken off: what comes late must not be written into memory that is freed.
        self._requests: list[Any] = []
        requests = self._requests
        try:
            for start, arrays in ((self._comm.Irecv, receive), (self._comm.Isend, send)):
                for rank, array in arrays.items():
                    requests += [start(part, rank, _TAG) for part in _parts(array)]
            # Not Waitall, which waits for ever for one that has left.
            while not self._mpi.Request.Testall(requests):
                if time.monotonic() > until:
                    ranks = sorted({*send, *receive})
                    raise WorkerLost(f"one of the workers {ranks} did not answer in {self._timeout:g} s")
                time.sleep(0)
        except self._mpi.Exception as error:
            raise WorkerLost(f"a worker of {self.size} is gone: {error}") from error


def mpi(comm: Any = None, *, timeout: float = 300.0) -> Group:
    """The group of an MPI communicator. Start the processes with ``mpirun``.

    Args:
        comm: of mpi4py; None: ``MPI.COMM_WORLD``. It is duplicated.
        timeout: seconds after which a worker that waits for another one raises ``WorkerLost``.

    Raises:
        ImportError: mpi4py, or an MPI library, is not installed.

    Example:
        >>> import samestep as ss
        >>> ss.parallel.mpi()  # doctest: +SKIP
        MpiGroup(rank=0, size=1)
    """
    if comm is None:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    return MpiGroup(comm, finite_number("timeout", timeout, at_least=0.0))


def _parts(array: Array) -> list[Array]:
    flat = bytes_of(array)
    return [flat[at : at + _LARGEST] for at in range(0, flat.size, _LARGEST)]
