"""Counts the distinct results of one training over numbers of workers and engines, beside torch's own.

    python bench/bench_workers.py [--workers 8] [--quick] [--json]

One table: a row for each engine and each number of workers from 1 up, a column for each way of training on
many workers, in each cell the digest of the parameters at the end. Ours must have one digest a column. The
last two columns are the control: torch's own data parallelism and torch.optim.Adam, with the same leaves on
the same layers, so that only how gradients are averaged differs. They must have more than one, or else the
table shows nothing. Exits with 1 where that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import samestep as ss
import samestep.torch
from bench_ddp import on_workers
from samestep.commands.bench import machine
from samestep.parallel import Group, run_threads
from samestep.proof.network import NetworkProgram
from samestep.proof.vectors import finite_values

LEAVES, ROWS, INPUTS, HIDDEN, CLASSES, STEPS = 8, 64, 100, 96, 10, 5
SHAPE = (ROWS, INPUTS, HIDDEN, CLASSES)
BLOCK, BLOCKS, COLUMNS = 1024, 11, 9
TIMEOUT = 300


# ---- the columns: what one worker of a group returns ----


def sharded(group: Group) -> str:
    """A network of samestep's functions."""
    return ss.digest(NetworkProgram(np.dtype(np.float32), SHAPE, STEPS, LEAVES).run(group))


def mse(group: Group) -> str:
    """Least squares, in full and by shuffled batches; each worker has some blocks of the rows."""
    first, last = (BLOCK * (BLOCKS * rank // group.size) for rank in (group.rank, group.rank + 1))
    Phi = finite_values(BLOCKS * BLOCK * COLUMNS, np.dtype(np.float32), 1).reshape(-1, COLUMNS)[first:last]
    y = finite_values(BLOCKS * BLOCK, np.dtype(np.float32), 2)[first:last]
    problem = ss.problems.MSE(Phi, y, scale="half_mean", group=group)
    runs = [
        ss.minimize(problem, np.zeros(COLUMNS, np.float32), lambda w: ss.Adam(w, lr=0.01), steps=STEPS, **how)
        for how in ({}, {"sampling": "shuffle", "batch_size": 3000})
    ]
    return ss.digest([runs[0].w, runs[1].w])


class Training:
    """A network of torch modules: samestep's own layers, the same weights on every worker."""

    def __init__(self) -> None:
        self.model = torch.nn.Sequential(
            ss.torch.Linear(INPUTS, HIDDEN, bias=False),
            ss.torch.BatchNorm1d(HIDDEN, relu=True),
            ss.torch.Linear(HIDDEN, CLASSES),
        )
        with torch.no_grad():
            for i, p in enumerate(self.model.parameters()):
                values = finite_values(p.numel(), np.dtype(np.float32), i) / np.float32(8)
                p.copy_(torch.from_numpy(values).reshape(p.shape))
        self.x = torch.from_numpy(finite_values(ROWS * INPUTS, np.dtype(np.float32), 9).reshape(ROWS, INPUTS))
        self.labels = (3 * torch.arange(ROWS) + 1) % CLASSES

    def loss(self, model: torch.nn.Module, leaf: int) -> torch.Tensor:
        rows = slice(ROWS * leaf // LEAVES, ROWS * (leaf + 1) // LEAVES)
        return ss.torch.cross_entropy(model(self.x[rows]), self.labels[rows])

    def digest(self) -> str:
        params = (p.detach() for p in self.model.parameters())
        whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in params]
        return ss.digest([p.numpy() for p in whole])


def in_leaves(training: Training, make_sync: Callable[..., Any], group: Group) -> str:
    optimizer = ss.torch.Adam(training.model.parameters(), lr=0.01)
    sync = make_sync(training.model, optimizer, leaves=LEAVES, group=group)
    for _ in range(STEPS):
        for leaf in sync.leaves:
            with sync.leaf(leaf):
                training.loss(training.model, leaf).backward()
        optimizer.step()
    return training.digest()


def ddp(group: Group) -> str:
    return in_leaves(Training(), ss.torch.parallel.ddp, group)


def fsdp(group: Group) -> str:
    training = Training()
    shard(training.model, group)
    return in_leaves(training, ss.torch.parallel.fsdp, group)


def shard(model: torch.nn.Module, group: Group) -> Any:
    mesh = init_device_mesh("cpu", (group.size,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def stock(training: Training, model: torch.nn.Module, group: Group, sync_at_last: Any) -> str:
    """Leaves are accumulated as torch does it, and their gradients averaged by the engine."""
    optimizer = torch.optim.Adam(training.model.parameters(), lr=0.01)
    own = range(LEAVES * group.rank // group.size, LEAVES * (group.rank + 1) // group.size)
    passes = -(-LEAVES // group.size)  # FSDP2 wants as many on each worker: the first may come twice, as 0
    for _ in range(STEPS):
        optimizer.zero_grad()
        for i in range(passes):
            weight = group.size / LEAVES if i < len(own) else 0.0  # the engine divides by the workers
            with sync_at_last(i == passes - 1):
                (training.loss(model, own[i % len(own)]) * weight).backward()
        optimizer.step()
    return training.digest()


def stock_ddp(group: Group) -> str:
    training = Training()
    model = DistributedDataParallel(training.model)
    return stock(training, model, group, lambda last: contextlib.nullcontext() if last else model.no_sync())


def stock_fsdp(group: Group) -> str:
    training = Training()
    model = shard(training.model, group)

    @contextlib.contextmanager
    def sync_at_last(last: bool) -> Iterator[None]:
        model.set_requires_gradient_sync(last)
        yield

    return stock(training, model, group, sync_at_last)


OURS: dict[str, Callable[[Group], str]] = {"Sharded": sharded, "problems.MSE": mse, "ddp": ddp, "fsdp": fsdp}
STOCK = {"torch DDP": stock_ddp, "torch FSDP2": stock_fsdp}
COLUMNS_OF = {
    "threads": ("Sharded", "problems.MSE", "ddp"),
    "MPI": ("Sharded", "problems.MSE", "ddp"),
    "gloo": (*OURS, *STOCK),  # FSDP2 and torch's own take a process group of torch
}


def cells(group: Group, engine: str) -> dict[str, str]:
    """The digest of each column; of workers that differ, all."""
    found = {}
    for name in COLUMNS_OF[engine]:
        digests = set(group.all_gather_json((OURS | STOCK)[name](group)[:16]))
        found[name] = " ".join(sorted(digests))
    return found


# ---- the rows ----


def by_threads(workers: int) -> dict[str, str]:
    return run_threads(workers, functools.partial(cells, engine="threads"))[0]


def by_mpi(workers: int) -> dict[str, str]:
    launcher = mpirun()
    assert launcher is not None
    command = [launcher, "-n", str(workers), sys.executable, __file__, "--worker"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=TIMEOUT, check=False)
    if done.returncode:
        raise SystemExit(f"mpirun -n {workers} failed: {done.stderr[-2000:]}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def by_gloo(workers: int) -> dict[str, str]:
    found: dict[str, str] = on_workers(workers, cells, "gloo")
    return found


def mpirun() -> str | None:
    return shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")


def engines() -> dict[str, Callable[[int], dict[str, str]]]:
    """Those that are installed."""
    found = {"threads": by_threads, "gloo": by_gloo}
    if find_spec("mpi4py") and mpirun():
        found["MPI"] = by_mpi
    return found


def row_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=8, help="the most")
    parser.add_argument("--quick", action="store_true", help="up to 3 workers, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    ss.set_num_threads(1)
    torch.set_num_threads(1)
    if options.worker:
        group = ss.parallel.mpi()
        found = cells(group, "MPI")
        if group.rank == 0:
            print(json.dumps(found))
        return

    about, names = machine.about(1), [*OURS, *STOCK]
    if not options.json:
        print(f"{machine.in_words(about)}\n\n{row_of(['engine', 'workers', *names])}")
        print("|---" * (2 + len(names)) + "|", flush=True)
    rows = []
    for engine, run in engines().items():
        for workers in range(1, (3 if options.quick else options.workers) + 1):
            found = run(workers)
            rows.append({"engine": engine, "workers": workers, "digests": found})
            if not options.json:
                print(row_of([engine, str(workers), *(found.get(name, "") for name in names)]), flush=True)

    digests = {name: {row["digests"][name] for row in rows if name in row["digests"]} for name in names}
    passed = {name: (len(found) == 1) == (name in OURS) for name, found in digests.items()}
    n_cells = sum(len(row["digests"]) for row in rows)
    if options.json:
        counts = {name: len(found) for name, found in digests.items()}
        print(json.dumps({"about": about, "rows": rows, "digests": counts, "passed": passed}, indent=1))
    else:
        print(row_of(["digests", "", *(str(len(found)) for found in digests.values())]))
        skipped = "" if "MPI" in engines() else "; MPI was skipped: pip install mpi4py mpich"
        verdict = "PASS" if all(passed.values()) else "FAIL"
        print(f"\n{n_cells} cells: {verdict}: one digest in each of our columns, more in torch's{skipped}")
    sys.exit(not all(passed.values()))


if __name__ == "__main__":
    main()
