"""Times options, which run in the pass of the step, beside torch's separate passes and the plain step.

Each case is timed hot and right after a backward pass of torch (without torch: NumPy's work). bfloat16 needs
ml_dtypes.

    python bench/bench_options.py [--size N] [--threads N] [--seconds S] [--json] [--quick]
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import samestep as ss
from samestep.commands.bench.compare import compare
from table import Table, both_situations, parse, parser_of

Calls = dict[str, Callable[[], Any]]

PLAIN, IN_FLOAT32 = "its own plain step", "the same in float32"

# Of each case: with whom it is compared, and the goal for the other's time over ours.
GOALS = {
    "AdamW, clip_norm": {"torch fused": 1.3, PLAIN: 0.8},
    "AdamW, all bfloat16": {"torch fused": 1 / 0.55},
    "AdamW, bfloat16, float32 state": {IN_FLOAT32: 1 / 0.9},
    "Adam, EMA, zeroed gradients": {"torch fused": 1.5},
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


def contenders(case: str, size: int) -> Calls:
    """The contenders of a case; torch is left out where it is not installed."""
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    half_w, half_g = w.astype(ml_dtypes.bfloat16), g.astype(ml_dtypes.bfloat16)
    own: dict[str, Callable[[], Calls]] = {
        "AdamW, clip_norm": lambda: {
            "samestep": ours(ss.AdamW, w, g, clip_norm=1.0),
            PLAIN: ours(ss.AdamW, w, g),
        },
        "AdamW, all bfloat16": lambda: {"samestep": ours(ss.AdamW, half_w, half_g, state_dtype="param")},
        "AdamW, bfloat16, float32 state": lambda: {
            "samestep": ours(ss.AdamW, half_w, half_g),
            IN_FLOAT32: ours(ss.AdamW, w, g),
        },
        "Adam, EMA, zeroed gradients": lambda: {"samestep": ours(ss.Adam, w, g, ema=0.999, zero_grads=True)},
    }
    of_torch: dict[str, Callable[[np.ndarray, np.ndarray], Callable[[], Any]]] = {
        "AdamW, clip_norm": clip_and_step,
        "AdamW, all bfloat16": lambda w, g: torchs("AdamW", w, g, half=True)[1],
        "Adam, EMA, zeroed gradients": step_average_zero,
    }
    found = own[case]()
    if case in of_torch:
        with contextlib.suppress(ImportError):
            found["torch fused"] = of_torch[case](w, g)
    return found


def clip_and_step(w: np.ndarray, g: np.ndarray) -> Callable[[], Any]:
    import torch

    clipped, step = torchs("AdamW", w, g)

    def call() -> None:
        torch.nn.utils.clip_grad_norm_([clipped], 1.0)
        step()

    return call


def step_average_zero(w: np.ndarray, g: np.ndarray) -> Callable[[], Any]:
    averaged, step = torchs("Adam", w, g)
    average = averaged.detach().clone()

    def call() -> None:
        step()
        average.lerp_(averaged.detach(), 1e-3)
        averaged.grad.zero_()

    return call


def main() -> None:
    parser = parser_of(__doc__, seconds=5.0)
    parser.add_argument("--size", type=int, default=1 << 24)
    options = parse(parser)
    size = 1000 if options.quick else options.size
    situations = both_situations()
    table = Table(options)
    for case, beside in GOALS.items():
        calls = contenders(case, size)
        for situation in situations:
            name = f"{case}, {size:,}"
            table.add(compare(name, calls, beside, situation, seconds=options.seconds, rounds=options.rounds))
    table.close()


if __name__ == "__main__":
    main()
