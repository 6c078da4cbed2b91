"""Times samestep.torch's optimizers and batch norm beside torch's, or beside those of another checkout.

    python bench/bench_torch.py [--case NAME] [--threads N] [--seconds S] [--rounds N] [--json] [--quick]
    python bench/bench_torch.py --against PATH [--case NAME] [--threads N] [--processes N] [--pairs N]

In the first form all contenders take turns in one process: hot, and right after a backward pass of torch.
The second form times samestep.torch here and in the checkout at PATH, which has to be built, in processes that
take turns (checkouts.py): hot. It prints time here over time there, and what it says of the medians: slower,
faster or inconclusive. --case chooses the cases that have NAME in their names.
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
from checkouts import compare_with, serve
from samestep.commands.bench.cases import LISTS, LR, Shapes
from samestep.commands.bench.compare import Comparison, compare
from samestep.commands.bench.peers import TORCH, torch_steps
from samestep.commands.bench.roof import Roof, roof_of
from samestep.commands.bench.situations import Situation
from table import Table, both_situations, parse, parser_of

Calls = dict[str, Callable[[], Any]]

SMALL = {f"{n} x 64": [(64,)] * n for n in (1, 100)}
GOALS = {"Adam 300 x 64": 3.0, "Adam ResNet-50": 1.2, "Adam GPT-2 small": 1.2}  # torch fused's time over ours
STEPS = {
    f"{rule} {name}": (rule, shapes)
    for rule in ("Adam", "SGD", "Momentum")
    for name, shapes in {**SMALL, **LISTS}.items()
    if name != "1000 x 1000" and (rule == "Adam" or name != "GPT-2 small")
}
INPUTS = {"BatchNorm1d 32x64": (32, 64), "BatchNorm2d 8x64x14x14": (8, 64, 14, 14)}
PASSES = ("forward", "forward, backward", "inference")
LAYERS = {f"{name}, {kind}": (name, kind) for name in INPUTS for kind in PASSES}


def steps(rule: str, shapes: Shapes, threads: int, with_peers: bool) -> tuple[Calls, Roof]:
    """A step of samestep.torch's optimizer, and of torch's three implementations; the roof of the first."""
    rng = np.random.default_rng(0)
    params, grads = ([rng.standard_normal(s, dtype=np.float32) for s in shapes] for _ in range(2))
    weights = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in params]
    for w, g in zip(weights, grads, strict=True):
        w.grad = torch.from_numpy(g.copy())
    name, options = TORCH[rule]
    optimizer = getattr(samestep.torch, name)(weights, lr=LR, **options)
    peers = torch_steps(rule, params, grads, threads) if with_peers else {}
    return {"samestep": optimizer.step, **peers}, _roof_of_step(optimizer, threads)


def _roof_of_step(optimizer: torch.optim.Optimizer, threads: int) -> Roof:
    optimizer.step()  # makes its states
    weights = optimizer.param_groups[0]["params"]
    states = [
        [x.numpy() for name, x in optimizer.state[w].items() if name != "step" and torch.is_tensor(x)]
        for w in weights
    ]
    grads, params = [w.grad.numpy() for w in weights], [w.detach().numpy() for w in weights]
    return roof_of(grads, params, list(zip(*states, strict=True)), threads)


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
    return steps(*STEPS[case], threads, with_peers)[0] if case in STEPS else passes(case, with_peers)


def measure(case: str, options: argparse.Namespace, situation: Situation) -> list[Comparison]:
    beside = {"torch fused": GOALS.get(case), "torch best": None} if case in STEPS else {"torch": None}
    calls = calls_of(case, options.threads)
    return compare(case, calls, beside, situation, seconds=options.seconds, rounds=options.rounds)


def beside_checkout(options: argparse.Namespace, cases: list[str]) -> None:
    """The second form."""
    command = [__file__, "--serve", "--threads", str(options.threads)]
    found = compare_with(command, options.against, cases, options.processes, options.pairs)
    if options.json:
        shown = {case: c.as_dict() for case, c in found.items()}
        print(json.dumps({"info": ss.info(), "torch": torch.__version__, "ratios": shown}, indent=1))
        return
    print(
        f"{options.processes} processes each, {options.pairs} pairs of turns; time here over time there; "
        "just before each timed call: itself\n"
    )
    print("| case | us here | of medians | of 10th percentiles | verdict |\n|---|---|---|---|---|")
    for case, c in found.items():
        print(f"| {case} | {1e6 * c.seconds:.1f} | {c.median} | {c.tenth_percentile} | {c.verdict} |")


def main() -> None:
    parser = parser_of(__doc__, seconds=10.0)
    parser.add_argument("--case", action="append")
    parser.add_argument("--against", type=Path, metavar="PATH")
    parser.add_argument("--processes", type=int, default=8, help="of each checkout; below 6 no interval")
    parser.add_argument("--pairs", type=int, default=12, help="of turns, for each case and process")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parse(parser)
    torch.set_num_threads(options.threads)
    if options.serve:
        serve(lambda case: calls_of(case, options.threads, with_peers=False)["samestep"])
        return
    small = [case for case in [*STEPS, *LAYERS] if "64" in case]
    all_cases = small if options.quick else [*STEPS, *LAYERS]
    cases = [case for case in all_cases if any(part in case for part in options.case or [""])]
    if not cases:
        parser.error(f"--case: got {options.case}, expected part of one of {', '.join(all_cases)}")
    if options.against:
        beside_checkout(options, cases)
        return
    situations = both_situations()
    table = Table(options)
    for case in cases:
        for situation in situations:
            table.add(measure(case, options, situation))
    table.close()


if __name__ == "__main__":
    main()
