"""Times samestep.torch's convolution beside PyTorch's, which is oneDNN's: forward, and each gradient alone.

    python bench/bench_convolution.py [--threads N] [--seconds S] [--json] [--quick] [--case 32x64x56]

Each case is timed hot and right after a backward pass of torch, through the operators, which allocate their
results. float32, with a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from samestep.commands.bench.compare import compare
from table import Table, both_situations, parse, parser_of

Calls = dict[str, Callable[[], Any]]

# (N, C, H, W), (O, C, R, S), stride, padding.
CASES = [
    ((32, 64, 56, 56), (64, 64, 3, 3), 1, 1),
    ((32, 3, 56, 56), (64, 3, 3, 3), 1, 1),
    ((32, 64, 56, 56), (128, 64, 1, 1), 1, 0),
    ((32, 64, 56, 56), (128, 64, 3, 3), 2, 1),
    ((32, 256, 14, 14), (256, 256, 3, 3), 1, 1),
    ((32, 512, 7, 7), (512, 512, 3, 3), 1, 1),
]
GOALS = {"forward": 0.5, "dx": None, "dw": None}  # for torch's time over ours


def convolutions(x_shape: Any, w_shape: Any, stride: int, padding: int, what: str) -> Calls:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(x_shape), torch.randn(w_shape) / 16, torch.randn(w_shape[0])
    how = [stride] * 2, [padding] * 2, [1, 1]
    ours = torch.ops.samestep
    if what == "forward":
        return {
            "samestep": lambda: ours.conv2d(x, weight, bias, *how, 1, False),
            "torch": lambda: torch.nn.functional.conv2d(x, weight, bias, *how),
        }
    dy = torch.randn_like(torch.nn.functional.conv2d(x, weight, None, *how))
    wanted = [what == "dx", what == "dw", False]
    theirs = torch.ops.aten.convolution_backward
    gradient = {
        "dx": lambda: ours.conv2d_input_gradient(dy, weight, x_shape[2:], *how, 1),
        "dw": lambda: ours.conv2d_weight_gradient(dy, x, w_shape[2:], *how, 1),
    }[what]
    return {
        "samestep": gradient,
        "torch": lambda: theirs(dy, x, weight, None, *how, False, [0, 0], 1, wanted),
    }


def main() -> None:
    parser = parser_of(__doc__, seconds=4.0)
    parser.add_argument("--case", default="", help="only cases with this in their name")
    options = parse(parser)
    torch.set_num_threads(options.threads)
    table = Table(options)
    for situation in both_situations():
        for x_shape, w_shape, stride, padding in CASES:
            if options.quick:
                x_shape, w_shape = (2, 4, *x_shape[2:]), (8, 4, *w_shape[2:])
            for what, goal in GOALS.items():
                case = f"{'x'.join(map(str, x_shape))} {'x'.join(map(str, w_shape))} /{stride} {what}"
                if options.case not in case:
                    continue
                table.add(
                    compare(
                        case,
                        convolutions(x_shape, w_shape, stride, padding, what),
                        {"torch": goal},
                        situation,
                        seconds=options.seconds,
                        rounds=options.rounds,
                    )
                )
    table.close()


if __name__ == "__main__":
    main()
