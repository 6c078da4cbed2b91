"""The whole run: what a training inside the bit contract is made of, beside NumPy and PyTorch, with goals.

    python bench/bench_run.py [--threads N] [--seconds S] [--rounds N] [--case PART] [--json] [--quick]

Matrix products in three forms beside NumPy's, exp beside NumPy's, softmax with cross-entropy, an epoch of the
network of handwritten digits and a convolution beside torch's on the CPU; float32 and float64. Calls from
Python, hot: each right after its own. Ratios are the other's time over ours, paired by rounds; a goal is met
where the whole interval of 95 % reaches it, missed where none of it does. Needs torch and scikit-learn.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import bench_functions
import bench_product
import samestep as ss
from samestep.backends.reference.sampling import Sampler
from samestep.commands import digits
from samestep.commands.bench.compare import BEST, compare
from samestep.commands.bench.situations import HOT, OPENBLAS_PAUSE
from table import Table, parse, parser_of

Calls = dict[str, Callable[[], Any]]

DTYPES = ("float32", "float64")
EPOCHS = {32: 1.5, 128: 1.0}  # by rows of a batch, and the goal for torch's time over ours
IMAGES = (32, 64, 56, 56)  # of the convolution, and the goal
KERNELS, CONVOLUTION = (64, 64, 3, 3), 0.5


def epoch(batch: int, dtype: str) -> Calls:
    """One pass over the images in an order that is drawn once: forward, backward and Adam's step."""
    x, labels, _, _ = digits.load()
    order = Sampler(0).shuffle(len(x))
    x, labels = x[order].astype(dtype), labels[order]
    parts = [slice(first, first + batch) for first in range(0, len(x) - batch + 1, batch)]
    network = digits.new_network(x.shape[1], Sampler(0), np.dtype(dtype).type)
    optimizer = ss.Adam(network.params, lr=digits.LR)

    def ours() -> None:
        for part in parts:
            _, gradients = network.loss_and_gradients(x[part], labels[part])
            optimizer.step(gradients)

    tx, tlabels = torch.from_numpy(x), torch.from_numpy(labels)

    def of_torch(**how: bool) -> Callable[[], None]:
        model = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], digits.HIDDEN, bias=False),
            torch.nn.BatchNorm1d(digits.HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Linear(digits.HIDDEN, digits.CLASSES),
        ).to(tx.dtype)
        adam = torch.optim.Adam(model.parameters(), lr=digits.LR, **how)

        def theirs() -> None:
            for part in parts:
                adam.zero_grad()
                torch.nn.functional.cross_entropy(model(tx[part]), tlabels[part]).backward()
                adam.step()

        return theirs

    return {
        "samestep": ours,
        "torch loop": of_torch(),
        "torch foreach": of_torch(foreach=True),
        "torch fused": of_torch(fused=True),
    }


def convolution(dtype: str, images: tuple[int, ...]) -> Calls:
    ours = importlib.import_module("samestep.torch")  # from here on large jobs run on torch's threads
    torch.manual_seed(0)
    x, w = (torch.randn(shape, dtype=getattr(torch, dtype)) for shape in (images, KERNELS))
    return {
        "samestep": lambda: ours.conv2d(x, w, padding=1),
        "torch": lambda: torch.nn.functional.conv2d(x, w, padding=1),
    }


def main() -> None:
    parser = parser_of(__doc__, seconds=4.0)
    parser.add_argument("--case", default="", help="only cases with this in their name")
    options = parse(parser)
    bench_product.free_openblas()
    torch.set_num_threads(options.threads)
    table = Table(options)
    situation = replace(HOT, pause=0.0 if options.quick else OPENBLAS_PAUSE)

    def add(case: str, make: Callable[[], Calls], other: str, goal: float) -> None:
        if options.case in case:
            how = {"seconds": options.seconds, "rounds": options.rounds}
            table.add(compare(case, make(), {other: goal}, situation, **how))

    def wants(case: str, goal: float | None) -> bool:
        return goal is not None and options.case in case

    with threadpool_limits(options.threads):
        for rows in bench_product.compared(options, situation, DTYPES, {}, options.case):
            table.add(rows)
        for rows in bench_functions.compared(options, situation, wants):
            table.add(rows)
        for dtype in DTYPES:
            for batch, goal in EPOCHS.items():
                add(f"digits epoch, batch {batch}, {dtype}", partial(epoch, batch, dtype), BEST, goal)
        images = (2, *IMAGES[1:]) if options.quick else IMAGES
        for dtype in DTYPES:
            case = f"conv2d {'x'.join(map(str, images))}, 3x3, 64 out, {dtype}"
            add(case, partial(convolution, dtype, images), "torch", CONVOLUTION)
    table.close()


if __name__ == "__main__":
    main()
