"""Times steps of several processes over gloo, on this machine, beside torch's own data parallelism.

    python bench/bench_ddp.py [--workers 2] [--parameters 25] [--rounds N] [--json] [--quick]

First a step, from zero_grad to the new parameters: DistributedDataParallel with torch's fused Adam, and ours
in the same processes, in turns. The model is six square layers and a batch of 32 rows a worker: most of
the time goes to what the workers exchange. Then the bytes that a worker sends, the memory that its process
took, and the time of the exchange alone for 1 to 8 workers beside a model of it, up to 1024.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import samestep as ss
import samestep.torch
from samestep.commands.bench import machine
from samestep.commands.bench.compare import TABLE, Comparison
from samestep.commands.bench.turns import Sample
from samestep.parallel import Group, Sharded

LAYERS, ROWS = 6, 32
GOAL = 1 / 1.10  # of the stock step's time over ours
STOCK = "torch DDP, Adam(fused)"
DDP, SHARDED = "samestep.torch.parallel.ddp", "samestep.parallel.Sharded"
JUST_BEFORE = "another's step"
# Imported once, by the process that workers are forked from.
PRELOADED = ["torch", "torch.distributed.fsdp", "samestep.torch", __name__]
USE = (
    "| step | bytes that a worker sends | a ring's | memory beyond the stock step's, in gradient buffers |\n"
    "|---|---|---|---|"
)
EXCHANGE = (
    "| workers | ms | model, all on this machine | model, each on a machine of its own |\n|---|---|---|---|"
)

Step = Callable[[], None]


def model_of(parameters: int) -> torch.nn.Module:
    torch.manual_seed(0)
    side = round((parameters / LAYERS) ** 0.5)
    return torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False) for _ in range(LAYERS)))


def backward(model: torch.nn.Module, x: torch.Tensor) -> None:
    model(x).square().mean().backward()


def stock(parameters: int, group: Group) -> Step:
    model = model_of(parameters)
    x = torch.ones(ROWS, model[0].in_features)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        backward(parallel, x)
        optimizer.step()

    return step


def ddp(parameters: int, group: Group) -> Step:
    model = model_of(parameters)
    x = torch.ones(ROWS, model[0].in_features)
    optimizer = ss.torch.Adam(model.parameters(), lr=1e-4)
    sync = ss.torch.parallel.ddp(model, optimizer, leaves=group.size, group=group)

    def step() -> None:
        for leaf in sync.leaves:
            with sync.leaf(leaf):
                backward(model, x)
        optimizer.step()

    return step


def sharded(parameters: int, group: Group) -> Step:
    model = model_of(parameters)
    x = torch.ones(ROWS, model[0].in_features)
    weights = list(model.parameters())
    arrays = [w.detach().numpy() for w in weights]
    optimizer = Sharded(lambda part: ss.Adam(part, lr=1e-4), arrays, group, leaves=group.size)

    def step() -> None:
        for leaf in optimizer.leaves:
            model.zero_grad()
            backward(model, x)
            optimizer.add(leaf, [w.grad.numpy() for w in weights])
        optimizer.step()

    return step


CONTENDERS = {STOCK: stock, DDP: ddp, SHARDED: sharded}


# ---- in every process ----


def counted(group: Group) -> list[int]:
    """From now on, the bytes that this worker has sent."""
    sent, transfer = [0], group.transfer

    def counting(send: Any, receive: Any) -> None:
        sent[0] += sum(array.nbytes for array in send.values())
        transfer(send, receive)

    group.transfer = counting  # type: ignore[method-assign]
    return sent


def time_steps(group: Group, parameters: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round's steps. All workers begin a step together, and it ends with the last one's."""
    steps = {name: make(parameters, group) for name, make in CONTENDERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 2):  # two to warm up
        for name in list(steps) if round_ % 2 else reversed(steps):
            dist.barrier()
            start = time.perf_counter()
            steps[name]()
            dist.barrier()
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def use(group: Group, parameters: int, name: str) -> tuple[int, int]:
    """The bytes that a worker sends in a step, and the most memory that its process took."""
    step = CONTENDERS[name](parameters, group)
    step()
    sent = counted(group)
    step()
    sent_in_a_step = sent[0]
    step()
    with open("/proc/self/status", encoding="utf-8") as file:
        (peak,) = (int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return sent_in_a_step, 1024 * peak


def time_exchange(group: Group, parameters: int, rounds: int) -> float:
    """Seconds of a step without any backward pass: one leaf a worker."""
    w, g = np.ones(parameters, np.float32), np.ones(parameters, np.float32)
    optimizer = Sharded(lambda part: ss.SGD(part, lr=1e-4), w, group, leaves=group.size)
    seconds = []
    for _ in range(rounds + 2):
        dist.barrier()
        start = time.perf_counter()
        for leaf in optimizer.leaves:
            optimizer.add(leaf, g)
        optimizer.step()
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def time_link(group: Group, size: int, rounds: int) -> float:
    """Seconds in which two workers send each other so many bytes."""
    out, back = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    seconds = []
    for _ in range(rounds + 2):
        dist.barrier()
        start = time.perf_counter()
        group.transfer({1 - group.rank: out}, {1 - group.rank: back})
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def _work(rank: int, size: int, folder: str, pipe: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    ss.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    found = function(ss.parallel.torch_distributed(), *arguments)
    dist.barrier()
    if rank == 0:
        pipe.send(found)
    os._exit(0)


def on_workers(size: int, function: Any, *arguments: Any) -> Any:
    """What the function returns on worker 0 of so many processes, one thread each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    mine, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        works = [
            functools.partial(_work, rank, size, folder, theirs, function, arguments) for rank in range(size)
        ]
        workers = [context.Process(target=work) for work in works]
        for worker in workers:
            worker.start()
        found = mine.recv()
        for worker in workers:
            worker.join()
    return found


# ---- the model of the exchange ----


def model_seconds(workers: int, size: int, latency: float, rate: float, alone: float, sharing: int) -> float:
    """Seconds of an exchange of so many bytes.

    Each worker sends 2 (W - 1)/W of the vector, half of that in log2 W messages of halves, half in W - 1
    messages of parts; what it does with a vector alone takes ``alone`` seconds.

    Args:
        latency, rate: seconds of a message, bytes per second each way.
        sharing: how many workers share the processors and the memory of one machine, which two shared when
            ``rate`` was measured.
    """
    if workers == 1:
        return alone
    messages = (workers - 1).bit_length() + workers - 1
    share = max(1.0, sharing / 2)
    return share * (2 * (workers - 1) / workers * size / rate + alone) + messages * latency


def exchange_rows(parameters: int, rounds: int, most: int) -> Iterator[dict[str, Any]]:
    size = 4 * parameters
    latency = on_workers(2, time_link, 1024, 200)
    large = size // 2
    rate = large / on_workers(2, time_link, large, rounds)
    alone = on_workers(1, time_exchange, parameters, rounds)
    yield {"latency": latency, "rate": rate, "alone": alone}
    for workers in (*range(1, most + 1), 16, 64, 256, 1024):
        measured = on_workers(workers, time_exchange, parameters, rounds) if workers <= most else None
        model = functools.partial(model_seconds, workers, size, latency, rate, alone)
        yield {"workers": workers, "measured": measured, "here": model(workers), "apart": model(1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parameters", type=float, default=25, help="millions of them")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--quick", action="store_true", help="few parameters and rounds, to see that it runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.parameters, options.rounds = 0.1, 2
    parameters = round(1e6 * options.parameters)
    about, result = machine.about(1), {}
    if not options.json:
        print(
            f"{machine.in_words(about)}\n{options.workers} processes over gloo, a thread each.\n\n{TABLE}",
            flush=True,
        )

    seconds = on_workers(options.workers, time_steps, parameters, options.rounds)
    samples = {name: Sample(tuple(found)) for name, found in seconds.items()}
    compared = [
        Comparison(f"{name} {options.parameters:g}M", JUST_BEFORE, samples[name], samples[STOCK], STOCK, GOAL)
        for name in (DDP, SHARDED)
    ]
    result["steps"] = [one.as_dict() for one in compared]
    if not options.json:
        print("\n".join(one.row() for one in compared))
        print(f"\n{USE}")

    ring = round(2 * (options.workers - 1) / options.workers * 4 * parameters)
    used = {name: on_workers(options.workers, use, parameters, name) for name in CONTENDERS}
    for name in (DDP, SHARDED):
        sent, peak = used[name]
        beyond = (peak - used[STOCK][1]) / (4 * parameters)
        result.setdefault("use", []).append({"name": name, "sent": sent, "ring": ring, "beyond": beyond})
        if not options.json:
            print(f"| {name} | {sent:,} | {ring:,} | {beyond:.2f} |", flush=True)

    link, *rows = exchange_rows(parameters, max(2, options.rounds // 3), 2 if options.quick else 8)
    result["exchange"] = {**link, "rows": rows}
    if options.json:
        print(json.dumps({"about": about, **result}, indent=1))
        return
    print(
        "\nA step of SGD alone, one leaf a worker. Between two processes a message takes "
        f"{1e6 * link['latency']:.0f} us, and {link['rate'] / 1e9:.2f} GB/s travel each way.\n\n{EXCHANGE}"
    )
    for row in rows:
        here = "" if row["measured"] is None else f"{1e3 * row['measured']:.1f}"
        there = f"{1e3 * row['here']:.1f}" if here else ""
        print(f"| {row['workers']} | {here} | {there} | {1e3 * row['apart']:.1f} |")


if __name__ == "__main__":
    main()
