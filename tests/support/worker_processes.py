"""Workers that are processes of this machine: joined by gloo, of which one may be killed, or by mpirun."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import traceback
from importlib.util import find_spec
from pathlib import Path

import pytest

TIMEOUT = 300.0
# Imported once, by the process that the others are forked from.
PRELOADED = ["torch", "torch.distributed.fsdp", "samestep.torch", __name__]


def run_processes(size, function, *arguments, kill=None):
    """What ``function(group, *arguments)`` returns in each process, or the text of its error.

    kill: (rank, n): this process sends itself SIGKILL at its n-th transfer. Its result is None.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        pipes, workers = [], []
        for rank in range(size):
            mine, theirs = context.Pipe(duplex=False)
            dies_at = kill[1] if kill is not None and kill[0] == rank else None
            work = functools.partial(_work, rank, size, folder, dies_at, theirs, function, arguments)
            worker = context.Process(target=work, daemon=True)  # where a test fails, it ends with the tests
            worker.start()
            theirs.close()
            pipes.append(mine)
            workers.append(worker)
        results = []
        for pipe, worker in zip(pipes, workers, strict=True):
            found = None
            with contextlib.suppress(EOFError):
                assert pipe.poll(TIMEOUT), "a worker neither ends nor answers"
                found = pipe.recv()
            results.append(found)
            worker.join(TIMEOUT)
            assert worker.exitcode in (0, -signal.SIGKILL), worker.exitcode
        return results


def _work(rank, size, folder, dies_at, pipe, function, arguments):
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    from samestep.parallel import torch_distributed

    # A process that is killed takes no leave; the others must not wait for it at their own end.
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    group = torch_distributed(timeout=30)
    if dies_at is not None:
        group.transfer = functools.partial(_dying_transfer, group.transfer, [dies_at])
    try:
        found = function(group, *arguments)
    except Exception as error:
        found = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    pipe.send(found)
    pipe.close()
    os._exit(0)


def _dying_transfer(transfer, left, send, receive):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    transfer(send, receive)


def mpirun():
    """The path of mpirun: that of PyPI's MPICH, or the system's."""
    if find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed: pip install 'samestep[mpi-test]'")
    found = shutil.which("mpirun", path=Path(sys.executable).parent) or shutil.which("mpirun")
    if found is None:
        pytest.skip("mpirun is not installed: pip install 'samestep[mpi-test]'")
    return found
