"""Times options, which run in the pass of the step, beside torch's separate passes and the plain step.

All contenders of a row take turns in one process; the figure is the minimum of batches. "target" is the goal
for the first contender's time, as a share of the other's; nothing is asserted. bfloat16 needs ml_dtypes.

    python bench/bench_options.py [--size N] [--threads N] [--seconds S] [--json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import samestep as ss
from samestep.commands.bench.turns import take_turns

Steps = dict[str, Callable[[], Any]]

# For each row: a contender, the other that it is compared with, the goal for the share of the other's time.
TARGETS = {
    "AdamW, clip_norm": [("samestep", "torch", 1 / 1.3), ("samestep", "samestep, plain", 1.25)],
    "AdamW, all bfloat16": [("samestep", "torch", 1 / 2)],
    "AdamW, bfloat16, float32 state": [("samestep", "samestep, float32", 0.9)],
    "Adam, EMA, zeroed gradients": [("samestep", "torch", 1 / 1.5)],
}


def ours(kind: Any, w: np.ndarray, g: np.ndarray, **options: Any) -> Callable[[], Any]:
    optimizer, gradient = kind(w.copy(), lr=1e-3, **options), g.copy()
    return lambda: optimizer.step(gradient)


def torchs(name: str, w: np.ndarray, g: np.ndarray, *, half: bool = False) -> tuple[Any, Callable[[], Any]]:
    import torch

    torch.set_num_threads(ss.get_num_threads())
    dtype = torch.bfloat16 if half else torch.float32
    parameter = torch.nn.Parameter(torch.from_numpy(w.astype(np.float32)).to(dtype))
    parameter.grad = torch.from_numpy(g.astype(np.float32)).to(dtype)
    return parameter, getattr(torch.optim, name)([parameter], lr=1e-3, fused=True).step


def rows(size: int) -> dict[str, Steps]:
    """The contenders of every row; torch is left out where it is not installed."""
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    half_w, half_g = w.astype(ml_dtypes.bfloat16), g.astype(ml_dtypes.bfloat16)
    found: dict[str, Steps] = {
        "AdamW, clip_norm": {
            "samestep": ours(ss.AdamW, w, g, clip_norm=1.0),
            "samestep, plain": ours(ss.AdamW, w, g),
        },
        "AdamW, all bfloat16": {"samestep": ours(ss.AdamW, half_w, half_g, state_dtype="param")},
        "AdamW, bfloat16, float32 state": {
            "samestep": ours(ss.AdamW, half_w, half_g),
            "samestep, float32": ours(ss.AdamW, w, g),
        },
        "Adam, EMA, zeroed gradients": {"samestep": ours(ss.Adam, w, g, ema=0.999, zero_grads=True)},
    }
    try:
        import torch
    except ImportError:
        return found
    clipped, clipped_step = torchs("AdamW", w, g)
    averaged, averaged_step = torchs("Adam", w, g)
    average = averaged.detach().clone()

    def clip_and_step() -> None:
        torch.nn.utils.clip_grad_norm_([clipped], 1.0)
        clipped_step()

    def step_average_zero() -> None:
        averaged_step()
        average.lerp_(averaged.detach(), 1e-3)
        averaged.grad.zero_()

    found["AdamW, clip_norm"]["torch"] = clip_and_step
    found["AdamW, all bfloat16"]["torch"] = torchs("AdamW", w, g, half=True)[1]
    found["Adam, EMA, zeroed gradients"]["torch"] = step_average_zero
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1 << 24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ss.set_num_threads(arguments.threads)
    results = {}
    for row, contenders in rows(arguments.size).items():
        times = take_turns(contenders, arguments.seconds)
        results[row] = {name: 1e9 * t.minimum / arguments.size for name, t in times.items()}
    if arguments.json:
        print(json.dumps({"size": arguments.size, "ns_per_parameter": results}))
        return
    for row, figures in results.items():
        print(row, "; ".join(f"{name} {ns:.3f} ns" for name, ns in figures.items()), sep=": ")
        for name, other, target in TARGETS[row]:
            if other in figures:
                print(f"    {figures[name] / figures[other]:.2f} of {other}, target {target:.2f}")


if __name__ == "__main__":
    main()
