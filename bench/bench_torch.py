"""samestep.torch's Adam beside torch's loop, foreach and fused, on the parameters of known networks.

All contenders take turns in one process; the figure is the minimum over the rounds.

    python bench/bench_torch.py [--case resnet50|gpt2|small] [--threads N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json

import torch

import samestep as ss
import samestep.torch
from bench_rules import measure

Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """He et al. (2016): 25.6 million parameters in 161 tensors."""

    def convolution(outputs: int, inputs: int, size: int) -> Shapes:
        return [(outputs, inputs, size, size), (outputs,), (outputs,)]  # with its batch norm

    shapes, inputs = convolution(64, 3, 7), 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += (
                convolution(width, inputs, 1)
                + convolution(width, width, 3)
                + convolution(4 * width, width, 1)
            )
            shapes += convolution(4 * width, inputs, 1) if block == 0 else []
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2() -> Shapes:
    """Radford et al. (2019), the small one: 124 million parameters in 148 tensors."""
    d = 768
    norm: Shapes = [(d,), (d,)]
    block = [*norm, (3 * d, d), (3 * d,), (d, d), (d,), *norm, (4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    return [(50257, d), (1024, d), *(12 * block), *norm]


CASES = {"resnet50": resnet50, "gpt2": gpt2, "small": lambda: [(64,)] * 300}
CONTENDERS = {
    "samestep": (samestep.torch.Adam, {}),
    "torch loop": (torch.optim.Adam, {"foreach": False}),
    "torch foreach": (torch.optim.Adam, {"foreach": True}),
    "torch fused": (torch.optim.Adam, {"fused": True}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--threads", type=int, default=ss.get_num_threads())
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ss.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    found = {}
    for case in options.case or CASES:
        steps = {}
        grads = [torch.randn(shape) for shape in CASES[case]()]  # one list for all: they are only read
        for name, (cls, how) in CONTENDERS.items():
            params = [torch.nn.Parameter(torch.randn(shape)) for shape in CASES[case]()]
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            steps[name] = cls(params, lr=1e-3, **how).step
        times = measure(steps, options.rounds)
        found[case] = times
        if not options.json:
            row = "  ".join(f"{name} {1e6 * seconds:.0f}" for name, seconds in times.items())
            faster = times["torch fused"] / times["samestep"]
            count = len(CASES[case]())
            print(
                f"{case:8} {count:4} tensors, microseconds: {row}  {faster:.2f}x faster than fused",
                flush=True,
            )
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
