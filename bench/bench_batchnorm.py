"""Times batch norm beside PyTorch's and beside the memory: copies of x.

    python bench/bench_batchnorm.py [--threads N] [--seconds S] [--json] [--quick] [--case NHWC]

Each pass is timed hot and right after a backward pass of torch (without torch: NumPy's work). Both sides
allocate their results, except in rows with "out=", which write into existing arrays. torch's functions have
no such form; these rows stand beside torch's time with allocation. A copy of x is np.copyto on all threads
into an existing array. "N copies of x" is the least that a pass must take at that speed: x read and y written
is one copy; x and dy read and dx written is one and a half.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import samestep as ss
from samestep.commands.bench.compare import Comparison
from samestep.commands.bench.situations import Situation
from samestep.commands.bench.turns import Sample
from table import Table, both_situations, parse, parser_of

CASES: dict[str, tuple[tuple[int, ...], int]] = {
    "NCHW 32x64x56x56": ((32, 64, 56, 56), 1),
    "NHWC 32x56x56x64": ((32, 56, 56, 64), -1),
    "NxC 65536x256": ((65536, 256), 1),
    "NCHW 32x256x14x14": ((32, 256, 14, 14), 1),
}
# The goals: torch's time over ours.
GOALS = {
    ("NCHW 32x64x56x56", "forward"): 2.5,
    ("NCHW 32x64x56x56", "backward"): 1.4,
    ("NCHW 32x64x56x56", "bn+relu both"): 2.5,
    ("NHWC 32x56x56x64", "forward"): 1.7,
    ("NHWC 32x56x56x64", "backward"): 1.4,
    ("NHWC 32x56x56x64", "bn+relu both"): 2.0,
    ("NCHW 32x256x14x14", "forward"): 2.0,
    ("NCHW 32x256x14x14", "backward"): 1.5,
}
# The bytes that a pass must move, over those of a copy of x.
COPIES = {"forward": 1.0, "inference": 1.0, "backward": 1.5, "bn+relu both": 2.5}


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


def copy_of(x: Any, threads: int) -> Callable[[], Any]:
    """A copy of x on all threads: the speed of the memory."""
    pool = ThreadPoolExecutor(threads)
    flat, to = x.reshape(-1), np.empty(x.size, x.dtype)
    parts = list(itertools.pairwise(np.linspace(0, x.size, threads + 1).astype(int)))
    return lambda: list(pool.map(lambda p: np.copyto(to[p[0] : p[1]], flat[p[0] : p[1]]), parts))


def inputs(name: str, samples: int | None = None) -> tuple[Any, Any, int]:
    """x, dy and the axis of the channels; ``samples`` in place of the case's own number of them."""
    shape, axis = CASES[name]
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((samples or shape[0], *shape[1:]), dtype=np.float32) for _ in range(2))
    return x, dy, axis


def measure(
    name: str, x: Any, dy: Any, axis: int, situation: Situation, threads: int, seconds: float, rounds: int
) -> list[Comparison]:
    """All passes of a case beside torch's and beside copies of x."""
    own, theirs = ours(x, dy, axis), {}
    with contextlib.suppress(ImportError):
        theirs = torchs(x, dy, axis, threads)
    calls = {
        **{f"samestep: {what}": call for what, call in own.items()},
        **{f"torch: {what}": call for what, call in theirs.items()},
        "copy": copy_of(x, threads),
    }
    samples = situation.sample(calls, seconds, rounds)
    found = []
    for what in own:
        case, mine = f"{name} {what}", samples[f"samestep: {what}"]
        plain = what.removesuffix(", out=")
        if plain in theirs:
            goal = GOALS.get((name, what))
            found.append(
                Comparison(case, situation.just_before, mine, samples[f"torch: {plain}"], "torch", goal)
            )
        copies = Sample(tuple(COPIES[plain] * s for s in samples["copy"].seconds))
        found.append(Comparison(case, situation.just_before, mine, copies, f"{COPIES[plain]:g} copies of x"))
    return found


def main() -> None:
    parser = parser_of(__doc__, seconds=4.0)
    parser.add_argument("--case", default="", help="only cases with this in their name")
    options = parse(parser)
    situations = both_situations()
    table = Table(options)
    for name in CASES:
        if options.case in name:
            x, dy, axis = inputs(name, 2 if options.quick else None)
            for situation in situations:
                table.add(
                    measure(name, x, dy, axis, situation, options.threads, options.seconds, options.rounds)
                )
    table.close()


if __name__ == "__main__":
    main()
