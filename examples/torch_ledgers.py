"""Records trainings in torch that should be equal, and says where they part.

python examples/torch_ledgers.py [--steps N] [--folder FOLDER]

A small network on scikit-learn's handwritten digits, on one thread and on two, and with Adam's fused step;
then the optimizers alone, given equal gradients. The files stay in FOLDER, for ``samestep diff``.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import samestep
import samestep.torch

LIBRARIES = {"torch": torch.optim, "samestep": samestep.torch}


def set_threads(threads):
    torch.set_num_threads(threads)
    samestep.set_num_threads(threads)


def train(path, steps, library, threads, fused=None):
    """Records the training of a network."""
    set_threads(threads)
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 64, bias=False),
        torch.nn.BatchNorm1d(64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 10),
    )
    loss_of = torch.nn.CrossEntropyLoss()
    if library == "samestep":
        model, loss_of = samestep.torch.convert(model), samestep.torch.CrossEntropyLoss()
    optimizer = LIBRARIES[library].Adam(model.parameters(), lr=3e-3, fused=fused)
    with samestep.torch.record(optimizer, path, names=model.named_parameters()):
        for batch in torch.arange(64 * steps).split(64):
            optimizer.zero_grad()
            loss_of(model(x[batch % len(x)]), y[batch % len(x)]).backward()
            optimizer.step()


def step_alone(path, steps, library, threads, fused=None):
    """Records an optimizer that is given the same gradients, whatever it has made of the last ones."""
    set_threads(threads)
    w = torch.nn.Parameter(torch.ones(100_003))
    optimizer = LIBRARIES[library].Adam([w], lr=3e-3, fused=fused)
    draw = torch.Generator().manual_seed(0)
    with samestep.torch.record(optimizer, path, names={"w": w}):
        for _ in range(steps):
            w.grad = torch.randn(w.shape, generator=draw)
            optimizer.step()


# What is run, and how: the numbers of threads, and whether Adam is fused.
CASES = [
    ("torch's network, 1 and 2 threads", train, "torch", (1, None), (2, None)),
    ("torch's network, Adam fused or not", train, "torch", (1, None), (1, True)),
    ("torch's Adam alone, fused or not", step_alone, "torch", (1, None), (1, True)),
    ("samestep's Adam alone, fused or not, 1 and 2 threads", step_alone, "samestep", (1, None), (2, True)),
    ("samestep's network, 1 and 2 threads", train, "samestep", (1, None), (2, None)),
]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    for i, (case, run, library, *ways) in enumerate(CASES):
        paths = [folder / f"{i}{name}.jsonl" for name in "ab"]
        for path, way in zip(paths, ways, strict=True):
            run(path, options.steps, library, *way)
        parted = samestep.ledger.diff(*paths).first
        print(f"{case}: {parted or 'equal'}")


if __name__ == "__main__":
    main()
