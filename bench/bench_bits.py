"""Counts the distinct results of one training over instruction sets, numbers of threads and groupings of the
parameters, for samestep and for torch. Each configuration runs in a process of its own.

    python bench/bench_bits.py [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import samestep as ss

SIZE, STEPS = 100_003, 5
ISAS = {"samestep": ("baseline", "avx2", "avx512"), "torch": ("default", "avx2", "avx512")}
VARIABLE = {"samestep": "SAMESTEP_ISA", "torch": "ATEN_CPU_CAPABILITY"}
THREADS = (1, 2, 3)
CUTS: dict[str, tuple[int, ...]] = {"one array": (), "cut in three": (1001, 50_000)}

OURS: dict[str, Callable[[Any], Any]] = {
    "SGD, momentum": lambda p: ss.Momentum(p, 0.01, form="torch"),
    "AdaGrad": lambda p: ss.AdaGrad(p, 0.01),
    "RMSProp": lambda p: ss.RMSProp(p, 0.01, eps_placement="outside"),
    "Adam": lambda p: ss.Adam(p, 0.01),
}
TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD, momentum": ("SGD", {"momentum": 0.9}),
    "AdaGrad": ("Adagrad", {}),
    "RMSProp": ("RMSprop", {}),
    "Adam": ("Adam", {}),
}


def inputs() -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    w, *grads = (rng.standard_normal(SIZE, dtype=np.float32) for _ in range(1 + STEPS))
    return w, grads


def train_ours(rule: str, kind: str, cuts: tuple[int, ...], threads: int) -> np.ndarray:
    ss.set_num_threads(threads)
    w, grads = inputs()
    params = [p.copy() for p in np.split(w, cuts)]
    optimizer = OURS[rule](params)
    for g in grads:
        optimizer.step(np.split(g, cuts))
    return np.concatenate(params)


def train_torch(rule: str, kind: str, cuts: tuple[int, ...], threads: int) -> np.ndarray:
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    w, grads = inputs()
    params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in np.split(w, cuts)]
    name, options = TORCH[rule]
    optimizer = getattr(torch.optim, name)(params, lr=0.01, **options, **{kind: True})
    for g in grads:
        for p, part in zip(params, np.split(g, cuts), strict=True):
            p.grad = torch.from_numpy(part)
        optimizer.step()
    return np.concatenate([p.detach().numpy() for p in params])


def digests(peer: str, kind: str, threads: int) -> dict[str, str]:
    """The digest of each rule and grouping; it runs in a child process."""
    train = train_ours if peer == "samestep" else train_torch
    found = {}
    for rule in OURS:
        for name, cuts in CUTS.items():
            try:
                found[f"{rule}|{name}"] = hashlib.sha256(train(rule, kind, cuts, threads)).hexdigest()
            except (RuntimeError, TypeError):  # torch has no fused RMSprop
                continue
    return found


def count(peer: str, kind: str) -> dict[str, tuple[int, int]]:
    """For each rule the number of distinct results and the number of configurations."""
    found: dict[str, list[str]] = {rule: [] for rule in OURS}
    for isa in ISAS[peer]:
        if peer == "samestep" and isa not in ss.info()["isas"]:
            continue
        for threads in THREADS:
            done = subprocess.run(
                [sys.executable, __file__, "--child", peer, kind, str(threads)],
                env={**os.environ, VARIABLE[peer]: isa},
                capture_output=True,
                encoding="utf-8",
                check=True,
            )
            for key, value in json.loads(done.stdout).items():
                found[key.split("|")[0]].append(value)
    return {rule: (len(set(values)), len(values)) for rule, values in found.items() if values}


def main() -> None:
    parser = argparse.ArgumentParser(description="Count distinct results over configurations.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        peer, kind, threads = args.child
        print(json.dumps(digests(peer, kind, int(threads))))
        return
    table = {"samestep": count("samestep", "")}
    if importlib.util.find_spec("torch"):
        table |= {f"torch {kind}": count("torch", kind) for kind in ("foreach", "fused")}
    if args.json:
        print(json.dumps(table, indent=2))
        return
    print(f"distinct results over configurations (instruction sets x threads {THREADS} x {tuple(CUTS)})")
    for name, row in table.items():
        cells = "   ".join(f"{rule}: {n} of {total}" for rule, (n, total) in row.items())
        print(f"{name:14} {cells}")


if __name__ == "__main__":
    main()
