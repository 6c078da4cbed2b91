"""Times the GPU's kernels: every rule beside torch's optimizers and Adam in CuPy's arithmetic, batch norm
beside torch's and cuDNN's, and the rate of a plain copy. All take turns in one process.

Times are those between CUDA events before and after a row of calls, so that the overhead of a call counts if
it is longer than its kernel. Rates count each byte that must move once; "of copy" is the share of the copy's
rate.

    python bench/bench_gpu.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

import samestep as ss
from samestep.commands.bench.cases import LR, RULES
from samestep.commands.bench.peers import TORCH

CALLS = 10  # in a row, between two events
Call = Callable[[], Any]


def milliseconds(call: Call) -> float:
    """The time of one call, as the mean of CALLS in a row."""
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) / CALLS


def measure(contenders: dict[str, Call], rounds: int) -> dict[str, float]:
    """Milliseconds of each contender: the minimum over rounds in which all take turns."""
    best = dict.fromkeys(contenders, float("inf"))
    for call in contenders.values():
        call()
    for _ in range(rounds):
        for name, call in contenders.items():
            best[name] = min(best[name], milliseconds(call))
    return best


def copy_rate(size: int, rounds: int) -> float:
    """GB/s of a copy on the GPU, bytes read and bytes written."""
    a, b = cupy.zeros(size, np.float32), cupy.empty(size, np.float32)
    ms = measure(
        {"copy": lambda: cupy.cuda.runtime.memcpyAsync(b.data.ptr, a.data.ptr, a.nbytes, 3, 0)}, rounds
    )
    return 2 * a.nbytes / ms["copy"] / 1e6


def torch_module() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def torch_steps(torch: Any, name: str, options: dict[str, Any], shapes: list[int]) -> dict[str, Call]:
    steps = {}
    for kind in ("foreach", "fused"):
        parameters = [torch.nn.Parameter(torch.randn(n, device="cuda")) for n in shapes]
        for p in parameters:
            p.grad = torch.randn_like(p)
        try:
            made = getattr(torch.optim, name)(parameters, lr=LR, **options, **{kind: True})
            made.step()
        except (TypeError, RuntimeError):  # torch does not have this implementation
            continue
        steps[f"torch {kind}"] = made.step
    return steps


def adam_of_cupy(size: int) -> Call:
    """Adam composed of CuPy's elementwise operations."""
    w, g, m, v = (cupy.random.standard_normal(size, dtype=np.float32) for _ in range(4))
    v = abs(v)

    def step() -> None:
        nonlocal m, v, w
        m = np.float32(0.9) * m + np.float32(0.1) * g
        v = np.float32(0.999) * v + np.float32(0.001) * (g * g)
        w -= np.float32(1e-3) * m / (cupy.sqrt(v) + np.float32(1e-8))

    return step


def bench_rules(shapes: list[int], rounds: int, copy: float) -> list[dict[str, Any]]:
    torch, rows = torch_module(), []
    for rule, make in RULES.items():
        params = [cupy.random.standard_normal(n, dtype=np.float32) for n in shapes]
        grads = [cupy.random.standard_normal(n, dtype=np.float32) for n in shapes]
        optimizer = make(params)
        contenders: dict[str, Call] = {"samestep": lambda step=optimizer.step, g=grads: step(g)}
        if torch is not None:
            contenders |= torch_steps(torch, *TORCH[rule], shapes)
        if rule == "Adam" and len(shapes) == 1:
            contenders["cupy"] = adam_of_cupy(shapes[0])
        moved = sum(shapes) * 4 * (3 + 2 * len(optimizer.state))
        rows.append(row(rule, moved, measure(contenders, rounds), copy))
        del contenders, optimizer, params, grads
        cupy.get_default_memory_pool().free_all_blocks()
        if torch is not None:
            torch.cuda.empty_cache()
    return rows


def bench_batchnorm(shape: tuple[int, ...], rounds: int, copy: float) -> list[dict[str, Any]]:
    torch = torch_module()
    x, dy, out = (cupy.random.standard_normal(shape, dtype=np.float32) for _ in range(3))
    gamma, beta = cupy.ones(shape[1], np.float32), cupy.zeros(shape[1], np.float32)
    _, mean, inv = ss.batchnorm_forward(x, gamma, beta, out=out)
    forward: dict[str, Call] = {"samestep": lambda: ss.batchnorm_forward(x, gamma, beta, out=out)}
    backward: dict[str, Call] = {
        "samestep": lambda: ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, out=out)
    }
    if torch is not None:
        X, dY = torch.from_dlpack(x), torch.from_dlpack(dy)
        weight, bias = (torch.from_dlpack(a) for a in (gamma, beta))
        statistics = torch.zeros_like(weight), torch.ones_like(weight)
        run = torch.ops.aten.cudnn_batch_norm
        _, M, V, reserve = run(X, weight, bias, *statistics, True, 0.1, 1e-5)
        forward["torch cuDNN"] = lambda: run(X, weight, bias, *statistics, True, 0.1, 1e-5)
        native = torch.ops.aten.native_batch_norm
        forward["torch native"] = lambda: native(X, weight, bias, *statistics, True, 0.1, 1e-5)
        _, m, v = native(X, weight, bias, *statistics, True, 0.1, 1e-5)
        back = torch.ops.aten.cudnn_batch_norm_backward
        backward["torch cuDNN"] = lambda: back(X, dY, weight, *statistics, M, V, 1e-5, reserve)
        native_back = torch.ops.aten.native_batch_norm_backward
        wanted = [True, True, True]
        backward["torch native"] = lambda: native_back(dY, X, weight, *statistics, m, v, True, 1e-5, wanted)
    return [
        row("forward", 2 * x.nbytes, measure(forward, rounds), copy),
        row("backward", 3 * x.nbytes, measure(backward, rounds), copy),
    ]


def row(name: str, moved: int, ms: dict[str, float], copy: float) -> dict[str, Any]:
    mine = ms["samestep"]
    peers = {peer: t for peer, t in ms.items() if peer != "samestep"}
    found = {"name": name, "ms": mine, "gb_per_s": moved / mine / 1e6, "of_copy": moved / mine / 1e6 / copy}
    return {**found, **{f"x {peer}": t / mine for peer, t in peers.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the GPU's kernels beside torch's and CuPy's.")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: does it run?")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    rounds = 1 if args.quick else 10
    large = 1 << 20 if args.quick else 1 << 26
    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    copy = copy_rate(large, rounds)
    print(f"{device}: a copy moves {copy:.0f} GB/s")
    tables = {
        f"rules, {large >> 20} Mi float32 elements": bench_rules([large], rounds, copy),
        "rules, 1000 tensors of 1000 float32 elements": bench_rules([1000] * 1000, rounds, copy),
        "batch norm, NCHW 32x256x56x56 float32": bench_batchnorm((32, 256, 56, 56), rounds, copy),
    }
    for title, rows in tables.items():
        print(f"\n{title}; milliseconds, then the peers' time as a multiple")
        for r in rows:
            peers = "  ".join(f"{t:5.2f}{peer}" for peer, t in r.items() if peer.startswith("x "))
            rate = f"{r['gb_per_s']:6.0f} GB/s  {r['of_copy']:4.0%} of copy"
            print(f"{r['name']:9} {r['ms']:8.4f}  {rate}  {peers}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(
                {"device": device, "copy_gb_per_s": copy, "info": ss.info(), "tables": tables}, file, indent=1
            )


if __name__ == "__main__":
    main()
