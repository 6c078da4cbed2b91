"""Any number of workers, one digest: training on torch.distributed or MPI with the bits of one process.

A step is made of M numbered leaves (micro-batches). Their gradients are added along one tree, whoever
computed them, and divided once.

The engine, of which each worker's script makes a group:
    torch_distributed             a process group of torch.distributed, started by torchrun
    mpi                           a communicator of mpi4py, started by mpirun
    threads, run_threads          threads of this process
    Group, WorkerLost             what they share; what they raise if a worker is gone

Training:
    Sharded                       an optimizer whose state is spread over the workers

Means of leaves without any group:
    mean_of_leaves, weighted_mean

A sum of numbers over an engine that can only add, such as NCCL:
    grid_sum

``samestep.canonical_sum``, ``samestep.global_norm`` and ``samestep.problems.MSE`` take a ``group`` as well.
"""

from .grid import grid_sum
from .groups import Group, WorkerLost
from .leaves import mean_of_leaves, weighted_mean
from .mpi_group import mpi
from .sharded import Sharded
from .thread_group import run_threads, threads
from .torch_group import torch_distributed

__all__ = [
    "Group",
    "Sharded",
    "WorkerLost",
    "grid_sum",
    "mean_of_leaves",
    "mpi",
    "run_threads",
    "threads",
    "torch_distributed",
    "weighted_mean",
]
