"""Least squares on rows that are spread over processes: however many they are, they print one digest.

python examples/least_squares_mpi.py              one process, without MPI
mpirun -n 3 python examples/least_squares_mpi.py  three

A worker holds whole blocks of 1024 rows, and the last one what is left. All sums over rows are made of the
sums of such blocks, so nothing else is needed.
"""

import argparse
import os

import numpy as np

import samestep as ss

ROWS, COLUMNS, BLOCK = 10_000, 8, 1024
STARTED_BY_MPIRUN = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")  # of MPICH, of Open MPI


def my_group():
    """This process's place among all workers: MPI's, if mpirun has started it."""
    if any(name in os.environ for name in STARTED_BY_MPIRUN):
        return ss.parallel.mpi()
    return ss.parallel.threads(1)[0]


def read_block(block):
    """The rows of a block and their targets. Yours would be read from a file."""
    rng = np.random.default_rng([0, block])
    n = min(BLOCK, ROWS - block * BLOCK)
    Phi, noise = rng.random((n, COLUMNS)), rng.random(n)
    true = np.arange(COLUMNS, dtype=np.float64)
    return Phi, ss.linear(Phi, true[:, None])[:, 0] + noise


def read_my_rows(group):
    blocks = -(-ROWS // BLOCK)
    mine = range(blocks * group.rank // group.size, blocks * (group.rank + 1) // group.size)
    # A worker may hold no block at all.
    empty = np.empty((0, COLUMNS)), np.empty(0)
    Phi, y = zip(empty, *map(read_block, mine), strict=True)
    return np.concatenate(Phi), np.concatenate(y)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    group = my_group()
    problem = ss.problems.MSE(*read_my_rows(group), scale="half_mean", group=group)
    # beta, at most the mean of |phi|^2, is below COLUMNS, as features are from 0 to 1.
    for sampling, batch_size in (("full", None), ("shuffle", 2500)):
        run = ss.minimize(
            problem,
            np.zeros(COLUMNS),
            lambda w: ss.NAG(w, lr=1 / COLUMNS, momentum=0.9),
            steps=options.steps,
            sampling=sampling,
            batch_size=batch_size,
            seed=options.seed,
        )
        loss = problem.loss(run.w)
        if group.rank == 0:
            print(f"workers {group.size}, {sampling}: loss {loss:.6f}, weights {ss.digest(run.w)[:16]}")


if __name__ == "__main__":
    main()
