"""Whether single flipped bits are found: where two recorded runs part, and by a replay in which element.

    python bench/bench_faults.py [--faults 200] [--seed 0] [--quick] [--json]

Each fault is drawn from the seed: a rule, a step, a tensor, and one bit of a gradient, a parameter, a state
or the learning rate, flipped just before that step. Two runs, with the fault and without it, record their
steps; `samestep diff` must name step, tensor and kind, and `--replay` the element. A bit that changes nothing
of what the step writes, such as the last of a state that is rounded away, leaves no trace to find: it is
counted apart, and another one is drawn. Exits with 1 where one is not located.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import samestep as ss
from samestep.ledger import diff, first_element
from samestep.replay import run_script

STEPS = 12
SHAPES = {"embedding": (60, 30), "weight": (30, 20), "bias": (20,)}
RULES = (ss.SGD, ss.Momentum, ss.NAG, ss.AdaGrad, ss.RMSProp, ss.Adam)
WHERE = ("gradient", "parameter", "state", "hyper")


@dataclass(frozen=True)
class Fault:
    """What is flipped, and when."""

    rule: int
    where: str
    step: int
    tensor: str
    state: str
    element: int
    bit: int

    @classmethod
    def drawn(cls, seed: int) -> Fault:
        rng = np.random.default_rng(seed)
        where = WHERE[seed % len(WHERE)]
        rule = int(rng.integers(where == "state", len(RULES)))  # SGD, the first, has no state
        tensor = str(rng.choice(list(SHAPES)))
        states = list(RULES[rule]([np.zeros(1, np.float32)], lr=0.1).state)
        return cls(
            rule,
            where,
            int(rng.integers(1, STEPS + 1)),
            tensor,
            str(rng.choice(states)) if states else "",
            int(rng.integers(np.prod(SHAPES[tensor]))),
            int(rng.integers(52 if where == "hyper" else 32)),  # a mantissa's, of the learning rate
        )


def train(fault: Fault, is_flipped: bool, path: str) -> None:
    """One recorded run."""
    rng = np.random.default_rng(7)
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    targets = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    opt = RULES[fault.rule](params, lr=0.05)
    with opt.record(path):
        for step in range(1, STEPS + 1):
            grads = {name: params[name] - targets[name] for name in params}
            opt.lr = 0.05
            if is_flipped and step == fault.step:
                flip(fault, opt, params, grads)
            opt.step(grads)


def flip(fault: Fault, opt: Any, params: dict[str, Any], grads: dict[str, Any]) -> None:
    if fault.where == "hyper":
        bits = np.array([opt.lr]).view(np.uint64) ^ np.uint64(1 << fault.bit)
        opt.lr = float(bits.view(np.float64)[0])
        return
    at = list(SHAPES).index(fault.tensor)
    arrays = {"gradient": grads[fault.tensor], "parameter": params[fault.tensor]}
    array = arrays[fault.where] if fault.where in arrays else opt.state[fault.state][at]
    array.reshape(-1).view(np.uint32)[fault.element] ^= np.uint32(1 << fault.bit)


def locate(fault: Fault, seed: int, folder: Path) -> str:
    """ "located", "no effect", or what was found in its place."""
    paths = [folder / f"{seed}-{side}.jsonl" for side in ("clean", "flipped")]
    for path, is_flipped in zip(paths, (False, True), strict=True):
        train(fault, is_flipped, str(path))
    found = diff(*paths)
    if found.first is None:
        return "no effect"
    first = found.first
    name = "lr" if fault.where == "hyper" else f"params[{fault.tensor!r}]"
    kind = {"hyper": "", "state": fault.state}.get(fault.where, fault.where)
    # A state's bit may be rounded away in the state and still show in another, or in the parameter.
    if (first.step, first.name) != (fault.step, name) or (first.kind != kind and fault.where != "state"):
        return f"{first}, expected {fault}"
    if fault.where == "hyper":
        return "located"
    arrays = []
    for side, ledger in zip(("clean", "flipped"), (found.a, found.b), strict=True):
        own = folder / f"{seed}-{side}"
        own.mkdir()
        script = f"{__file__} --run {seed} {side} {Path(ledger.path).name}"
        arrays.append(run_script(script, ledger, first.step, str(own)).array(first.name, first.kind))
    element = first_element(*arrays)
    expected = tuple(int(k) for k in np.unravel_index(fault.element, SHAPES[fault.tensor]))
    if element is None or element.index != expected or element.differing != 1:
        return f"{element}, expected element {expected}"
    return "located"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="8 faults")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", nargs=3, metavar=("SEED", "SIDE", "FILE"), help="one run, recorded to FILE")
    options = parser.parse_args()
    if options.run is not None:
        seed, side, path = options.run
        train(Fault.drawn(int(seed)), side == "flipped", path)
        return 0
    wanted = 8 if options.quick else options.faults
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    seed = options.seed
    with tempfile.TemporaryDirectory() as folder:
        while sum(n for (_, told), n in counts.items() if told != "no effect") < wanted:
            fault = Fault.drawn(seed)
            told = locate(fault, seed, Path(folder))
            if told not in ("located", "no effect"):
                wrong.append(f"seed {seed}: {told}")
                told = "not located"
            counts[fault.where, told] += 1
            seed += 1
    if options.json:
        rows = [{"where": w, "told": t, "faults": n} for (w, t), n in sorted(counts.items())]
        print(json.dumps({"rows": rows, "wrong": wrong}, indent=1))
    else:
        print("| a bit of | located | not located | without effect |\n|---|---|---|---|")
        for where in WHERE:
            row = [str(counts[where, told]) for told in ("located", "not located", "no effect")]
            print(f"| {where} | {' | '.join(row)} |")
        print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
