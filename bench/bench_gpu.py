"""Times the GPU's kernels beside torch's, cuBLAS and a plain copy, with a verdict on each goal. All
contenders of a row take turns in one process. No GPU has run it so far.

    python bench/bench_gpu.py [--quick] [--json FILE]

Times are those between CUDA events before and after a row of calls, so that the overhead of a call counts if
it is longer than its kernel. A ratio is the other's time over ours, paired by rounds; beside the copy it is
the share of its rate, by the bytes that must move at least. A goal is met where the whole interval of 95 %
reaches it, missed where none of it does, inconclusive else. The file is written anew after every row.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cupy
import numpy as np

import samestep as ss
from samestep.backends import gpu
from samestep.backends.face import Window
from samestep.commands.bench.cases import LR, RULES
from samestep.commands.bench.peers import TORCH
from samestep.commands.bench.ratios import Ratio, median_of, verdict

CALLS = 10  # in a row, between two events
Call = Callable[[], Any]
FUSED, FOREACH = "torch fused", "torch foreach"


class Sizes(NamedTuple):
    large: int = 1 << 26  # elements
    tensors: int = 1000
    elements: int = 1000  # of each of them
    batch: tuple[int, int, int, int] = (32, 256, 56, 56)
    side: int = 4096  # of matrices
    images: tuple[int, int, int, int] = (32, 128, 56, 56)
    rounds: int = 20


QUICK = Sizes(1 << 16, 20, 100, (2, 4, 7, 7), 130, (2, 4, 7, 7), 1)


class Row(NamedTuple):
    name: str
    moved: int  # bytes, at least; 0: memory does not bound it
    contenders: dict[str, Call]  # "samestep" is ours
    goals: dict[str, float]  # by contender, "copy" is the share of the copy's rate


class Result(NamedTuple):
    row: str
    beside: str
    ratio: Ratio | None
    goal: float | None
    verdict: str  # met, missed, inconclusive; without a goal nothing; or why there is none

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "ratio": self.ratio and self.ratio.as_dict()}

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"goal {self.goal:.2f}"
        return f"{self.row:40} {self.beside:14} {self.ratio or ''!s:26} {goal:10} {self.verdict}"


# ---- time ----


def milliseconds(call: Call) -> float:
    """The time of one call, as the mean of CALLS in a row."""
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) / CALLS


def measure(contenders: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each contender in each round, in which all take turns."""
    for call in contenders.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(milliseconds(call))
    return times


class Copy:
    """A copy on the GPU, the roof of what is bound by its memory."""

    def __init__(self, elements: int) -> None:
        self._from, self._to = cupy.zeros(elements, np.float32), cupy.empty(elements, np.float32)
        self.moved = 2 * self._from.nbytes

    def __call__(self) -> None:
        cupy.cuda.runtime.memcpyAsync(self._to.data.ptr, self._from.data.ptr, self._from.nbytes, 3, 0)


def judge(row: Row, times: dict[str, list[float]], copied: int) -> list[Result]:
    """A result for each other contender, and for each goal without one."""
    own, results = times["samestep"], []
    for beside, theirs in times.items():
        if beside == "samestep":
            continue
        share = row.moved / copied if beside == "copy" else 1.0
        ratio = median_of([share * b / a for a, b in zip(own, theirs, strict=True)])
        goal = row.goals.get(beside)
        results.append(Result(row.name, beside, ratio, goal, "" if goal is None else verdict(ratio, goal)))
    absent = {beside: goal for beside, goal in row.goals.items() if beside not in times}
    return results + [
        Result(row.name, beside, None, goal, "skipped: it is not here") for beside, goal in absent.items()
    ]


# ---- rows ----


def torch_module() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def random(*shape: int) -> Any:
    return cupy.random.standard_normal(shape, dtype=np.float32)


def torch_steps(rule: str, shapes: list[int], clip: float | None = None) -> dict[str, Call]:
    """Both implementations, after clip_grad_norm_ if asked for; without it our class for torch, too."""
    torch, calls = torch_module(), {}
    if torch is None:
        return {}
    name, options = TORCH[rule]
    for kind in (FOREACH, FUSED):
        parameters = [torch.nn.Parameter(torch.randn(n, device="cuda")) for n in shapes]
        for p in parameters:
            p.grad = torch.randn_like(p)
        try:
            made = getattr(torch.optim, name)(parameters, lr=LR, **options, **{kind.split()[1]: True})
            made.step()
        except (TypeError, RuntimeError):  # torch does not have this implementation
            continue

        def clipped(step: Call = made.step, parameters: Any = parameters) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
            step()

        calls[kind] = made.step if clip is None else clipped
    if clip is None:
        calls["samestep.torch"] = of_torch(name, shapes, options)
    return calls


def of_torch(name: str, shapes: list[int], options: dict[str, Any]) -> Call:
    """Our step as torch's users have it: what its look at their tensors costs."""
    import samestep.torch

    parameters = [torch_module().nn.Parameter(torch_module().randn(n, device="cuda")) for n in shapes]
    for p in parameters:
        p.grad = torch_module().randn_like(p)
    step: Call = getattr(samestep.torch, name)(parameters, lr=LR, **options).step
    return step


def rule_rows(title: str, shapes: list[int], goals: dict[str, float], copy: Copy) -> Iterator[Row]:
    for rule, make in RULES.items():
        params, grads = [random(n) for n in shapes], [random(n) for n in shapes]
        optimizer = make(params)
        moved = sum(shapes) * 4 * (3 + 2 * len(optimizer.state))
        own: dict[str, Call] = {"samestep": lambda step=optimizer.step, g=grads: step(g)}
        yield Row(f"{rule}, {title}", moved, {**own, **torch_steps(rule, shapes), "copy": copy}, goals)


def clip_row(title: str, shapes: list[int]) -> Row:
    params, grads = [random(n) for n in shapes], [random(n) for n in shapes]
    optimizer = ss.Adam(params, LR, clip_norm=1.0)
    own: dict[str, Call] = {"samestep": lambda: optimizer.step(grads)}
    return Row(f"Adam with clip_norm, {title}", 0, {**own, **torch_steps("Adam", shapes, 1.0)}, {FUSED: 1.3})


def batchnorm_rows(shape: tuple[int, ...], copy: Copy) -> Iterator[Row]:
    torch = torch_module()
    x, dy, out = (random(*shape) for _ in range(3))
    gamma, beta = random(shape[1]), random(shape[1])
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
    size, goals = "x".join(map(str, shape)), {"copy": 0.80, "torch cuDNN": 1.0}
    yield Row(f"batch norm forward, {size}", 2 * x.nbytes, {**forward, "copy": copy}, goals)
    yield Row(f"batch norm backward, {size}", 3 * x.nbytes, {**backward, "copy": copy}, goals)


def product_rows(side: int) -> Iterator[Row]:
    """CuPy's matmul is cuBLAS, without TF32 unless CUPY_TF32 is set."""
    a, b, c = (random(side, side) for _ in range(3))
    contenders: dict[str, Call] = {
        "samestep": lambda: ss.linear(a, b, out=c),
        "cuBLAS": lambda: cupy.matmul(a, b, out=c),
    }
    yield Row(f"product, {side}x{side}x{side}", 0, contenders, {"cuBLAS": 0.6})


def convolution_rows(shape: tuple[int, ...]) -> Iterator[Row]:
    """3 x 3, as many outputs as channels; torch's is cuDNN's, without TF32."""
    torch, window = torch_module(), Window((1, 1), (1, 1), (1, 1), 1)
    x, y, dy, dx = (random(*shape) for _ in range(4))
    w, dw = (random(shape[1], shape[1], 3, 3) for _ in range(2))
    forward: dict[str, Call] = {"samestep": lambda: gpu.conv2d(x, w, None, window, False, y)}
    backward: dict[str, Call] = {
        "samestep": lambda: gpu.conv2d_backward(dy, x, w, None, window, dx, dw, None)
    }
    if torch is not None:
        torch.backends.cudnn.allow_tf32 = False
        X, dY, W = (torch.from_dlpack(a) for a in (x, dy, w))
        forward["torch cuDNN"] = lambda: torch.nn.functional.conv2d(X, W, padding=1)
        back, pair = torch.ops.aten.convolution_backward, ([1, 1], [1, 1], [1, 1])
        wanted = [True, True, False]
        backward["torch cuDNN"] = lambda: back(dY, X, W, None, *pair, False, [0, 0], 1, wanted)
    size = "x".join(map(str, shape))
    yield Row(f"conv2d forward, {size}, 3x3", 0, forward, {"torch cuDNN": 0.3})
    yield Row(f"conv2d backward, {size}, 3x3", 0, backward, {"torch cuDNN": 0.3})


def all_rows(sizes: Sizes, copy: Copy) -> Iterator[Row]:
    large, many = [sizes.large], [sizes.elements] * sizes.tensors
    of_many = f"{sizes.tensors} x {sizes.elements}"
    yield from rule_rows(f"1 x {sizes.large}", large, {"copy": 0.90, FUSED: 1.0}, copy)
    yield from rule_rows(of_many, many, {FUSED: 1.5}, copy)
    yield clip_row(f"1 x {sizes.large}", large)
    yield clip_row(of_many, many)
    yield from batchnorm_rows(sizes.batch, copy)
    yield from product_rows(sizes.side)
    yield from convolution_rows(sizes.images)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time the GPU's kernels beside torch's, cuBLAS and a copy.")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: does it run?")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(arguments)
    sizes = QUICK if args.quick else Sizes()
    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    copy = Copy(sizes.large)
    about = {"device": device, "info": ss.info(), "rounds": sizes.rounds}
    print(f"{device}: a copy moves {copy.moved / milliseconds(copy) / 1e6:.0f} GB/s", flush=True)
    results, rows = list[Result](), list[dict[str, Any]]()
    for row in all_rows(sizes, copy):
        times = measure(row.contenders, sizes.rounds)
        found = judge(row, times, copy.moved)
        results += found
        print(*found, sep="\n", flush=True)
        rows.append({"row": found[0].row, "ms": times, "results": [r.as_dict() for r in found]})
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump({**about, "rows": rows}, file, indent=1)
        cupy.get_default_memory_pool().free_all_blocks()
    goals = [r.verdict.partition(":")[0] for r in results if r.goal is not None]
    print(", ".join(f"{goals.count(v)} goals {v}" for v in dict.fromkeys(goals)))


if __name__ == "__main__":
    main()
