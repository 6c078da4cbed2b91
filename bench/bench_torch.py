"""Times samestep.torch's optimizers and batch norm beside torch's, or beside those of another checkout.

    python bench/bench_torch.py [--case NAME] [--threads N] [--seconds S] [--rounds N] [--json] [--quick]
    python bench/bench_torch.py --against PATH [--case NAME] [--threads N] [--processes N] [--pairs N]

In the first form all contenders take turns in one process: hot, and right after a backward pass of torch.
The second form times samestep.torch here and in the checkout at PATH, which has to be built, in processes
that take turns (checkouts.py): hot. It prints time here over time there, and what it says of the medians:
slower, faster or inconclusive. --case chooses the cases that have NAME in their names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import samestep as ss
from checkouts import compare_with
from samestep.commands.bench.compare import Comparison, compare
from samestep.commands.bench.roof import Roof, roof_of
from samestep.commands.bench.situations import Situation
from table import Table, both_situations, parse, parser_of
from torch_calls import LAYERS, STEPS, calls_of

GOALS = {"Adam 300 x 64": 3.0, "Adam ResNet-50": 1.2, "Adam GPT-2 small": 1.2}  # torch fused's time over ours


def roof_of_step(optimizer: torch.optim.Optimizer, threads: int) -> Roof:
    """The roof of a step of an optimizer of samestep.torch with one group, on its arrays."""
    optimizer.step()  # makes its states
    weights = optimizer.param_groups[0]["params"]
    states = [
        [x.numpy() for name, x in optimizer.state[w].items() if name != "step" and torch.is_tensor(x)]
        for w in weights
    ]
    grads, params = [w.grad.numpy() for w in weights], [w.detach().numpy() for w in weights]
    return roof_of(grads, params, list(zip(*states, strict=True)), threads)


def measure(case: str, options: argparse.Namespace, situation: Situation) -> list[Comparison]:
    beside = {"torch fused": GOALS.get(case), "torch best": None} if case in STEPS else {"torch": None}
    calls = calls_of(case, options.threads)
    return compare(case, calls, beside, situation, seconds=options.seconds, rounds=options.rounds)


def beside_checkout(options: argparse.Namespace, cases: list[str]) -> None:
    """The second form."""
    command = [str(Path(__file__).with_name("torch_calls.py")), "--threads", str(options.threads)]
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
    options = parse(parser)
    torch.set_num_threads(options.threads)
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
