"""The calls that bench_torch.py times. As a script it serves them to bench_torch.py --against.

It then runs on another checkout's package, which may be an older one: what it imports has to be there too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import samestep as ss
import samestep.torch
from samestep.commands.bench.cases import LISTS, LR
from samestep.commands.bench.peers import TORCH, torch_steps

Calls = dict[str, Callable[[], Any]]

BATCHES = 10
BATCH_SECONDS = 3e-4
TURN_SECONDS = 0.1  # the most, if that holds a batch that is timed and one that is not

SMALL = {f"{n} x 64": [(64,)] * n for n in (1, 100)}
STEPS = {
    f"{rule} {name}": (rule, shapes)
    for rule in ("Adam", "SGD", "Momentum")
    for name, shapes in {**SMALL, **LISTS}.items()
    if name != "1000 x 1000" and (rule == "Adam" or name != "GPT-2 small")
}
INPUTS = {"BatchNorm1d 32x64": (32, 64), "BatchNorm2d 8x64x14x14": (8, 64, 14, 14)}
PASSES = ("forward", "forward, backward", "inference")
LAYERS = {f"{name}, {kind}": (name, kind) for name in INPUTS for kind in PASSES}


def steps(rule: str, shapes: Any, threads: int, with_peers: bool = True) -> tuple[Calls, Any]:
    """A step of samestep.torch's optimizer, and of torch's three implementations; the optimizer."""
    rng = np.random.default_rng(0)
    params, grads = ([rng.standard_normal(s, dtype=np.float32) for s in shapes] for _ in range(2))
    weights = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in params]
    for w, g in zip(weights, grads, strict=True):
        w.grad = torch.from_numpy(g.copy())
    name, options = TORCH[rule]
    optimizer = getattr(samestep.torch, name)(weights, lr=LR, **options)
    peers = torch_steps(rule, params, grads, threads) if with_peers else {}
    return {"samestep": optimizer.step, **peers}, optimizer


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


def serve(call_of: Callable[[str], Callable[[], Any]]) -> None:
    """For every name on stdin a turn, whose times it prints: see checkouts.py.

    Args:
        call_of: makes the call of a name. Only the last one is kept.
    """
    print(json.dumps(ss.__file__), flush=True)
    last, repeats, batches = "", 0, 0
    call: Callable[[], Any] = int
    for name in map(str.strip, sys.stdin):
        if name != last:
            last, call = name, call_of(name)
            call()
            once = min(_time(call, 1) for _ in range(5))
            repeats = max(1, round(BATCH_SECONDS / once))
            batches = min(BATCHES, max(1, round(TURN_SECONDS / 2 / once)))
        times = [_time(call, repeats) for _ in range(2 * batches)]
        print(json.dumps(times[batches:]), flush=True)


def _time(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    ss.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    serve(lambda case: calls_of(case, options.threads, with_peers=False)["samestep"])


if __name__ == "__main__":
    main()
