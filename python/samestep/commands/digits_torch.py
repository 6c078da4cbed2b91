"""The network on the digits in three libraries, on every instruction set and several numbers of threads.

``python -m samestep.commands.digits_torch EPOCHS`` is one of the processes of ``compare``: torch reads
ATEN_CPU_CAPABILITY once, when it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..backends import cpu
from ..backends.arrays import Array, digest
from ..backends.reference.sampling import Sampler
from ..optional import require
from .digits import CLASSES, EPOCHS, HIDDEN, LR, batches, load, new_network, train_digits

THREADS = (1, 2, 8)
OURS = ("samestep", "samestep.torch")
LIBRARIES = (*OURS, "torch")
_CAPABILITIES = {"baseline": "default", "avx2": "avx2", "avx512": "avx512"}  # torch's names for these
_SECONDS = 1200  # after which a process is taken to hang: a hundred times what it needs


@dataclass(frozen=True)
class LibraryRun:
    """One training run.

    Attributes:
        library: one of LIBRARIES.
        isa: samestep's instruction set; torch's own kernels are given the same by ATEN_CPU_CAPABILITY.
        threads: how many both may use.
        digest: of the final parameters, as that of ``train_digits``.
    """

    library: str
    isa: str
    threads: int
    digest: str


@dataclass(frozen=True)
class Comparison:
    """All runs, of ``epochs`` passes over the images each."""

    epochs: int
    runs: list[LibraryRun]

    def digests(self, *libraries: str) -> list[str]:
        """The different digests of these libraries."""
        return sorted({run.digest for run in self.runs if run.library in libraries})

    @property
    def passed(self) -> bool:
        """Whether samestep's arrays and its modules of torch have one digest in all runs."""
        return len(self.digests(*OURS)) == 1

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts."""
        return {
            "problem": {"name": "digits", "epochs": self.epochs},
            "runs": [asdict(run) for run in self.runs],
            "digests": {library: self.digests(library) for library in LIBRARIES},
            "passed": self.passed,
        }


def train_in_torch(library: str, epochs: int = EPOCHS, seed: int = 0) -> list[Array]:
    """Trains the network of ``train_digits`` in torch's modules: the same weights to start from and batches.

    Args:
        library: "samestep.torch", or "torch": its own modules, loss and optimizer.
        epochs: passes over the training images, 1 or more.
        seed: of the initial weights and of the batches.

    Returns:
        The final parameters as ``Network.params`` has them: torch's own weights are (outputs, inputs).

    Raises:
        ImportError: without torch or scikit-learn.
    """
    torch = require("torch", "training in torch", "torch")
    images, classes, _, _ = load()
    x, labels = torch.from_numpy(images), torch.from_numpy(classes)
    sampler = Sampler(seed)
    start = new_network(x.shape[1], sampler).params
    nn: Any
    optim: Any
    if library == "samestep.torch":
        from .. import torch as drop_ins

        nn, optim, cross_entropy = drop_ins, drop_ins, drop_ins.cross_entropy
        norm = [nn.BatchNorm1d(HIDDEN, relu=True)]
    else:
        nn, optim, cross_entropy = torch.nn, torch.optim, torch.nn.functional.cross_entropy
        norm = [nn.BatchNorm1d(HIDDEN), nn.ReLU()]
    first, last = nn.Linear(x.shape[1], HIDDEN, bias=False), nn.Linear(HIDDEN, CLASSES)
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(start["W1"].T))
        last.weight.copy_(torch.from_numpy(start["W2"].T))
        last.bias.zero_()
    model = torch.nn.Sequential(first, *norm, last)
    optimizer = optim.Adam(model.parameters(), lr=LR)
    for lr, rows_of_batches in batches(sampler, len(x), epochs):
        optimizer.param_groups[0]["lr"] = lr
        for rows in rows_of_batches:
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), labels[rows]).backward()
            optimizer.step()
    params = (first.weight, norm[0].weight, norm[0].bias, last.weight, last.bias)
    return [p.detach().numpy().T for p in params]


def compare(epochs: int = EPOCHS, announce: Callable[[str], None] = lambda stage: None) -> Comparison:
    """Trains the network by all LIBRARIES with each of THREADS, in a new process for each instruction set.

    Args:
        epochs: passes over the training images, 1 or more.
        announce: called with the name of each instruction set before its process starts.

    Raises:
        ImportError: without torch or scikit-learn.
        OSError: a process failed; the message ends as its own did.
    """
    require("sklearn.datasets", "the digits data")
    require("torch", "training in torch", "torch")
    runs = []
    for isa in cpu.info()["isas"]:
        announce(isa)
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, str(epochs)],
            env={**os.environ, "SAMESTEP_ISA": isa, "ATEN_CPU_CAPABILITY": _CAPABILITIES.get(isa, "default")},
            capture_output=True,
            encoding="utf-8",
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            raise OSError(f"the training on {isa} failed: {done.stderr.strip()[-1000:]}")
        runs += [LibraryRun(**run) for run in json.loads(done.stdout)]
    return Comparison(epochs, runs)


def runs_here(epochs: int) -> list[LibraryRun]:
    """The runs of this process: all libraries, with each of THREADS, on the instruction set in use."""
    torch = require("torch", "training in torch", "torch")
    runs = []
    for threads in THREADS:
        cpu.set_num_threads(threads)
        torch.set_num_threads(threads)
        for library in LIBRARIES:
            if library == "samestep":
                found = train_digits(epochs).digest
            else:
                found = digest(train_in_torch(library, epochs))
            runs.append(LibraryRun(library, cpu.info()["isa"], threads, found))
    return runs


if __name__ == "__main__":
    print(json.dumps([asdict(run) for run in runs_here(int(sys.argv[1]))]))
