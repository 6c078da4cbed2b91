"""Times samestep.torch's Adam beside torch's loop, foreach and fused, on the parameters of known networks.

All contenders take turns in one process; the figure is the minimum of batches. "must reach" is the goal
for torch fused's time over samestep.torch's; nothing is asserted.

    python bench/bench_torch.py [--case NAME] [--threads N] [--seconds S] [--json]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch

import samestep as ss
import samestep.torch
from samestep.commands.bench.cases import LISTS, LR
from samestep.commands.bench.peers import torch_steps
from samestep.commands.bench.turns import take_turns

TARGETS = {"300 x 64": 3.0, "ResNet-50": 1.1, "GPT-2 small": 1.1}


def measure(case: str, threads: int, seconds: float) -> dict[str, float]:
    """Microseconds of a step, by contender."""
    rng = np.random.default_rng(0)
    params, grads = ([rng.standard_normal(s, dtype=np.float32) for s in LISTS[case]] for _ in range(2))
    weights = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in params]
    for w, g in zip(weights, grads, strict=True):
        w.grad = torch.from_numpy(g.copy())
    contenders: dict[str, Any] = {"samestep": samestep.torch.Adam(weights, lr=LR).step}
    contenders |= torch_steps("Adam", params, grads, threads)
    return {name: 1e6 * t.minimum for name, t in take_turns(contenders, seconds).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=TARGETS, action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ss.set_num_threads(options.threads)
    found = {case: measure(case, options.threads, options.seconds) for case in options.case or TARGETS}
    if options.json:
        print(json.dumps({"info": ss.info(), "torch": torch.__version__, "us": found}, indent=1))
        return
    print(f"torch {torch.__version__}, {options.threads} threads, {ss.info()['isa']}; microseconds a step\n")
    print("| Adam on | samestep.torch | loop | foreach | fused | faster than fused | must reach |")
    print("|---|---|---|---|---|---|---|")
    for case, us in found.items():
        figures = " | ".join(f"{t:.0f}" for t in us.values())
        print(f"| {case} | {figures} | {us['torch fused'] / us['samestep']:.2f}x | {TARGETS[case]}x |")


if __name__ == "__main__":
    main()
