"""Times batch norm and PyTorch's in one run: their ratio, and the share of the roof, which is copies of x.

    python bench/bench_batchnorm.py [--threads 2] [--seconds 4] [--json] [--case NHWC]

The calls of a case take turns, so that a slow phase of the machine slows all of them; the minimum of each
counts. Both sides allocate their results, except in rows with "out=", which write into existing arrays.
torch's functions have no such form; the ratio of these rows is to torch's time with allocation. "copy of x"
is np.copyto on all threads into an existing array. "roof" is the least that a pass must take at that speed: x
read and y written is one copy; x and dy read and dx written is one and a half.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

import samestep as ss
from samestep.commands.bench.turns import take_turns

CASES: dict[str, tuple[tuple[int, ...], int]] = {
    "NCHW 32x64x56x56": ((32, 64, 56, 56), 1),
    "NHWC 32x56x56x64": ((32, 56, 56, 64), -1),
    "NxC 65536x256": ((65536, 256), 1),
    "NCHW 32x256x14x14": ((32, 256, 14, 14), 1),
}
# The goals: torch's time over ours.
TARGETS = {
    ("NCHW 32x64x56x56", "forward"): 3.5,
    ("NCHW 32x64x56x56", "backward"): 3.0,
    ("NCHW 32x64x56x56", "bn+relu both"): 6.0,
    ("NHWC 32x56x56x64", "forward"): 1.6,
    ("NHWC 32x56x56x64", "backward"): 1.8,
    ("NHWC 32x56x56x64", "bn+relu both"): 4.0,
    ("NxC 65536x256", "forward"): 3.0,
    ("NxC 65536x256", "backward"): 2.5,
    ("NxC 65536x256", "bn+relu both"): 5.0,
    ("NCHW 32x256x14x14", "forward"): 2.5,
}


def ours(x: Any, dy: Any, axis: int) -> dict[str, Callable[[], Any]]:
    gamma, beta = (
        np.linspace(0.5, 1.5, x.shape[axis], dtype=x.dtype),
        np.linspace(-1, 1, x.shape[axis], dtype=x.dtype),
    )
    _, mean, inv = ss.batchnorm_forward(x, gamma, beta, axis=axis)
    y, dx = np.empty_like(x), np.empty_like(x)

    def both() -> None:
        _, mean, inv = ss.batchnorm_forward(x, gamma, beta, relu=True, axis=axis)
        ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, relu=True, axis=axis)

    def both_out() -> None:
        _, mean, inv = ss.batchnorm_forward(x, gamma, beta, relu=True, axis=axis, out=y)
        ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, relu=True, axis=axis, out=dx)

    return {
        "forward": lambda: ss.batchnorm_forward(x, gamma, beta, axis=axis),
        "backward": lambda: ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, axis=axis),
        "bn+relu both": both,
        "forward, out=": lambda: ss.batchnorm_forward(x, gamma, beta, axis=axis, out=y),
        "backward, out=": lambda: ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, axis=axis, out=dx),
        "bn+relu both, out=": both_out,
        "inference, out=": lambda: ss.batchnorm_inference(x, gamma, beta, mean, gamma, axis=axis, out=y),
    }


def torchs(x: Any, dy: Any, axis: int, threads: int) -> dict[str, Callable[[], Any]]:
    import torch

    torch.set_num_threads(threads)
    functional = torch.nn.functional
    tx, tdy = torch.from_numpy(x), torch.from_numpy(dy)
    if axis == -1 and tx.dim() == 4:  # the view (N, C, H, W), in channels_last memory
        tx, tdy = tx.permute(0, 3, 1, 2), tdy.permute(0, 3, 1, 2)
    channels = x.shape[axis]
    gamma = torch.linspace(0.5, 1.5, channels, requires_grad=True)
    beta = torch.linspace(-1, 1, channels, requires_grad=True)
    # The functions that autograd calls, without the cost of autograd itself.
    plain = (gamma.detach(), beta.detach())
    _, mean, inv = torch.native_batch_norm(tx, *plain, None, None, True, 0.1, 1e-5)
    needs = tx.detach().clone(memory_format=torch.preserve_format).requires_grad_()

    def both() -> None:
        needs.grad = gamma.grad = beta.grad = None
        y = functional.relu(functional.batch_norm(needs, None, None, gamma, beta, training=True))
        y.backward(tdy)

    return {
        "forward": lambda: torch.native_batch_norm(tx, *plain, None, None, True, 0.1, 1e-5),
        "backward": lambda: torch.ops.aten.native_batch_norm_backward(
            tdy, tx, plain[0], None, None, mean, inv, True, 1e-5, [True, True, True]
        ),
        "bn+relu both": both,
    }


def roofs(x: Any, threads: int) -> dict[str, Callable[[], Any]]:
    """A copy of x on all threads: the speed of the memory."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(threads)
    flat, to = x.reshape(-1), np.empty(x.size, x.dtype)
    cuts = np.linspace(0, x.size, threads + 1).astype(int)
    parts = list(itertools.pairwise(cuts))
    return {
        "copy": lambda: list(pool.map(lambda p: np.copyto(to[p[0] : p[1]], flat[p[0] : p[1]]), parts)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ss.set_num_threads(options.threads)
    peer: str | None
    try:
        import torch

        peer = f"torch {torch.__version__}"
    except ImportError:
        peer = None

    rng = np.random.default_rng(0)
    rows = []
    for name, (shape, axis) in CASES.items():
        if options.case not in name:
            continue
        x = rng.standard_normal(shape, dtype=np.float32)
        dy = rng.standard_normal(shape, dtype=np.float32)
        calls = {("samestep", k): f for k, f in ours(x, dy, axis).items()}
        if peer:
            calls |= {("torch", k): f for k, f in torchs(x, dy, axis, options.threads).items()}
        calls |= {("memory", k): f for k, f in roofs(x, options.threads).items()}
        keys = {f"{who}: {what}": f for (who, what), f in calls.items()}
        best = {name: 1e6 * t.minimum for name, t in take_turns(keys, options.seconds).items()}
        copy = best["memory: copy"]
        for what in ours(x[:2], dy[:2], axis):
            mine, theirs = best[f"samestep: {what}"], best.get(f"torch: {what.removesuffix(', out=')}")
            rows.append(
                {
                    "case": name,
                    "what": what,
                    "us": mine,
                    "torch_us": theirs,
                    "ratio": theirs / mine if theirs else None,
                    "target": TARGETS.get((name, what)),
                    "copy_us": copy,
                    "roof": mine
                    / copy
                    / (
                        1.0
                        if "forward" in what or "inference" in what
                        else 1.5
                        if "backward" in what
                        else 2.5
                    ),
                }
            )
    about = {"cpu": platform.processor() or platform.machine(), "peer": peer, **ss.info()}
    if options.json:
        print(json.dumps({"about": about, "rows": rows}, indent=1))
        return
    print(f"isa {about['isa']}, {about['threads']} threads, {peer}; microseconds, minimum")
    print("| case | pass | samestep | torch | ratio | must reach | copy of x | times the roof |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        theirs = f"{r['torch_us']:.0f} | {r['ratio']:.2f}x" if r["torch_us"] else "|"
        target = f"{r['target']}x" if r["target"] else ""
        print(
            f"| {r['case']} | {r['what']} | {r['us']:.0f} | {theirs} | {target} | {r['copy_us']:.0f} "
            f"| {r['roof']:.2f} |"
        )


if __name__ == "__main__":
    main()
