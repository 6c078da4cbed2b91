"""Times samestep.torch's optimizers and batch norm beside torch's, or beside those of another checkout.

    python bench/bench_torch.py [--case NAME] [--threads N] [--seconds S] [--json]
    python bench/bench_torch.py --against PATH [--case NAME] [--threads N] [--processes N] [--pairs N]

In the first form all contenders take turns in one process; the figure is the minimum of batches. "must reach"
is the goal for torch fused's time over samestep.torch's; nothing is asserted. The second form times
samestep.torch here and in the checkout at PATH, which has to be built, in processes that take turns
(checkouts.py). It prints time here over time there, and what it says of the medians: slower, faster or level.

In both forms a timed call is one of a hot loop: just before it the same call ran on the same tensors. --case
chooses the cases that have NAME in their names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import samestep as ss
import samestep.torch
from checkouts import compare, serve
from samestep.commands.bench.cases import LISTS, LR
from samestep.commands.bench.peers import TORCH, torch_steps
from samestep.commands.bench.turns import take_turns

Calls = dict[str, Callable[[], Any]]

SMALL = {f"{n} x 64": [(64,)] * n for n in (1, 100)}
TARGETS = {"Adam 300 x 64": 3.0, "Adam ResNet-50": 1.1, "Adam GPT-2 small": 1.1}
STEPS = {
    f"{rule} {name}": (rule, shapes)
    for rule in ("Adam", "SGD", "Momentum")
    for name, shapes in {**SMALL, **LISTS}.items()
    if name != "1000 x 1000" and (rule == "Adam" or name != "GPT-2 small")
}
INPUTS = {"BatchNorm1d 32x64": (32, 64), "BatchNorm2d 8x64x14x14": (8, 64, 14, 14)}
PASSES = ("forward", "forward, backward", "inference")
LAYERS = {f"{name}, {kind}": (name, kind) for name in INPUTS for kind in PASSES}


def steps(case: str, threads: int, with_peers: bool) -> Calls:
    """A step of samestep.torch's optimizer, and of torch's three implementations."""
    rule, shapes = STEPS[case]
    rng = np.random.default_rng(0)
    params, grads = ([rng.standard_normal(s, dtype=np.float32) for s in shapes] for _ in range(2))
    weights = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in params]
    for w, g in zip(weights, grads, strict=True):
        w.grad = torch.from_numpy(g.copy())
    name, options = TORCH[rule]
    own = {"samestep": getattr(samestep.torch, name)(weights, lr=LR, **options).step}
    return own | (torch_steps(rule, params, grads, threads) if with_peers else {})


def passes(case: str, with_peers: bool) -> Calls:
    """A pass of samestep.torch's layer, and of torch.nn's. The input needs a gradient, as in a network."""
    name, kind = LAYERS[case]
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(INPUTS[name], generator=generator) for _ in range(2))
    x.requires_grad_()
    contenders = {"samestep": samestep.torch} | ({"torch": torch.nn} if with_peers else {})
    return {
        who: _pass(getattr(of, name.split()[0])(x.shape[1]), kind, x, dy) for who, of in contenders.items()
    }


def _pass(layer: torch.nn.Module, kind: str, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], Any]:
    arguments = [x, *layer.parameters()]

    def both() -> Any:
        return torch.autograd.grad(layer(x), arguments, dy)

    def inference() -> Any:
        with torch.no_grad():
            return layer(x)

    layer.train(kind != "inference")
    return {"forward": lambda: layer(x), "forward, backward": both, "inference": inference}[kind]


def calls_of(case: str, threads: int, with_peers: bool = True) -> Calls:
    return steps(case, threads, with_peers) if case in STEPS else passes(case, with_peers)


def measure(case: str, threads: int, seconds: float) -> dict[str, float]:
    """Microseconds of a call, by contender."""
    return {name: 1e6 * t.minimum for name, t in take_turns(calls_of(case, threads), seconds).items()}


def print_beside_torch(found: dict[str, dict[str, float]]) -> None:
    print("| step | samestep.torch | loop | foreach | fused | faster than fused | must reach |")
    print("|---|---|---|---|---|---|---|")
    for case, us in found.items():
        if case in STEPS:
            figures = " | ".join(f"{t:.1f}" for t in us.values())
            goal = f"{TARGETS[case]}x" if case in TARGETS else ""
            print(f"| {case} | {figures} | {us['torch fused'] / us['samestep']:.2f}x | {goal} |")
    print("\n| call | samestep.torch | torch.nn | faster |\n|---|---|---|---|")
    for case, us in found.items():
        if case in LAYERS:
            ratio = us["torch"] / us["samestep"]
            print(f"| {case} | {us['samestep']:.1f} | {us['torch']:.1f} | {ratio:.2f}x |")


def compare_with(options: argparse.Namespace, cases: list[str]) -> None:
    """The second form."""
    command = [__file__, "--serve", "--threads", str(options.threads)]
    found = compare(command, options.against, cases, options.processes, options.pairs)
    if options.json:
        shown = {case: {**c._asdict(), "verdict": c.verdict} for case, c in found.items()}
        print(json.dumps({"info": ss.info(), "torch": torch.__version__, "ratios": shown}, indent=1))
        return
    print(f"{options.processes} processes each, {options.pairs} pairs of turns; time here over time there\n")
    print("| case | us here | median | 95 % | 10th percentile | 95 % | verdict |")
    print("|---|---|---|---|---|---|---|")
    for case, c in found.items():
        figures = " | ".join(f"{r:.3f} | {low:.3f} to {high:.3f}" for r, low, high in c[1:])
        print(f"| {case} | {1e6 * c.seconds:.1f} | {figures} | {c.verdict} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case beside torch")
    parser.add_argument("--against", type=Path, metavar="PATH")
    parser.add_argument("--processes", type=int, default=8, help="of each checkout")
    parser.add_argument("--pairs", type=int, default=12, help="of turns, for each case and process")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    ss.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    if options.serve:
        serve(lambda case: calls_of(case, options.threads, with_peers=False)["samestep"])
        return
    all_cases = [*STEPS, *LAYERS]
    cases = [case for case in all_cases if any(part in case for part in options.case or [""])]
    if not cases:
        parser.error(f"--case: got {options.case}, expected part of one of {', '.join(all_cases)}")
    if options.against:
        compare_with(options, cases)
        return
    found = {case: measure(case, options.threads, options.seconds) for case in cases}
    if options.json:
        print(json.dumps({"info": ss.info(), "torch": torch.__version__, "us": found}, indent=1))
        return
    print(f"torch {torch.__version__}, {options.threads} threads, {ss.info()['isa']}; microseconds\n")
    print_beside_torch(found)


if __name__ == "__main__":
    main()
