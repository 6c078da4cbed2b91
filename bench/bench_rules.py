"""Every rule on one float32 array, beside torch's implementations of it.

All contenders take turns in one process; the figure is the minimum over the rounds. GB/s counts each
byte that a step must move once: gradient read, parameter and states read and written.

    python bench/bench_rules.py [--size N] [--threads N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import samestep as ss

# rule: (ours, torch's class, its options); torch's dialect where it has only that one
RULES: dict[str, tuple[Callable[[Any], ss.optimizers.Optimizer], str, dict[str, Any]]] = {
    "SGD": (lambda w: ss.SGD(w, 1e-3), "SGD", {}),
    "Momentum": (lambda w: ss.Momentum(w, 1e-3, form="torch"), "SGD", {"momentum": 0.9}),
    "NAG": (lambda w: ss.NAG(w, 1e-3, form="torch"), "SGD", {"momentum": 0.9, "nesterov": True}),
    "AdaGrad": (lambda w: ss.AdaGrad(w, 1e-3), "Adagrad", {}),
    "RMSProp": (lambda w: ss.RMSProp(w, 1e-3, eps_placement="outside"), "RMSprop", {}),
    "Adam": (lambda w: ss.Adam(w, 1e-3), "Adam", {}),
}


def torch_steps(
    name: str, options: dict[str, Any], w: np.ndarray, g: np.ndarray
) -> dict[str, Callable[[], Any]]:
    """torch's implementations of one optimizer, each on a copy of w."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(ss.get_num_threads())
    steps = {}
    for kind, how in (
        ("loop", {"foreach": False}),
        ("foreach", {"foreach": True}),
        ("fused", {"fused": True}),
    ):
        parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
        parameter.grad = torch.from_numpy(g.copy())
        try:
            steps[f"torch {kind}"] = getattr(torch.optim, name)([parameter], lr=1e-3, **options, **how).step
        except TypeError:  # no fused RMSprop
            continue
    return steps


def measure(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each, the minimum over rounds in which all take turns.

    A turn is a step that is not timed and two that are: as in a training, the last to touch the
    caches is then the contender itself and not the one before it.
    """
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, step in contenders.items():
            step()
            for _ in range(2):
                start = time.perf_counter()
                step()
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def bench(size: int, rounds: int) -> list[dict[str, Any]]:
    """One row a rule: microseconds of each contender, GB/s of ours, ratio of torch's best to ours."""
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(size, dtype=np.float32) for _ in range(2))
    rows = []
    for rule, (make, name, options) in RULES.items():
        ours = w.copy()
        optimizer = make(ours)
        contenders = {"samestep": lambda step=optimizer.step: step(g)}
        contenders |= torch_steps(name, options, w, g)
        seconds = measure(contenders, rounds)
        mine = seconds.pop("samestep")
        moved = size * 4 * (3 + 2 * len(optimizer.state))
        row = {"rule": rule, "samestep_us": mine * 1e6, "gb_per_s": moved / mine / 1e9}
        row |= {f"{peer}_us": t * 1e6 for peer, t in seconds.items()}
        if seconds:
            row["best_peer"], fastest = min(seconds.items(), key=lambda item: item[1])
            row["ratio"] = fastest / mine
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Time every rule beside torch's optimizers.")
    parser.add_argument("--size", type=int, default=16 * 2**20, help="elements (16 Mi)")
    parser.add_argument("--threads", type=int, default=ss.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    ss.set_num_threads(args.threads)
    rows = bench(args.size, args.rounds)
    if args.json:
        print(json.dumps({"size": args.size, "info": ss.info(), "rows": rows}, indent=2))
        return
    print(f"{args.size} float32 elements, {args.threads} threads, {ss.info()['isa']}; microseconds, minimum")
    for row in rows:
        peer = (
            f"{row['ratio']:5.2f}x faster than {row['best_peer']}"
            if "ratio" in row
            else "torch is not installed"
        )
        print(f"{row['rule']:9} {row['samestep_us']:9.0f}   {row['gb_per_s']:5.1f} GB/s   {peer}")


if __name__ == "__main__":
    main()
