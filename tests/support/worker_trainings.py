"""What workers train in tests. Processes find it here, as they do not find the tests themselves."""

from __future__ import annotations

import collections
import contextlib
import functools
import tempfile

import numpy as np

import samestep as ss
from samestep.parallel import Sharded, nccl, threads, torch_distributed, torch_group
from samestep.proof import golden

STEPS = 6
SHAPES = [(3000,), (40, 70), (5,)]


def sharded(group, place=np.array):
    draw = np.random.default_rng(0)
    own = [place(draw.standard_normal(shape).astype(np.float32)) for shape in SHAPES]
    return Sharded(functools.partial(ss.Adam, lr=0.1, clip_norm=1.0), own, group, leaves=12)


def step(opt, place=np.array):
    for leaf in opt.leaves:
        draw = np.random.default_rng([opt.t, leaf])
        opt.add(leaf, [place(draw.standard_normal(w.shape).astype(np.float32)) for w in opt.params])
    opt.step()


def train(group, path, last, load):
    """Trains to step ``last``, saving every step: the digest of the parameters."""
    opt = sharded(group)
    if load:
        opt.load(path)
    while opt.t < last:
        step(opt)
        opt.save(path)
    return ss.digest(opt.params)


def train_on_gpu(group, library, engines):
    """As ``alone``, with the stand-in for a GPU: the digest, and which way what has gone.

    Gloo is in the place of NCCL, which it takes the arrays of the stand-in for.
    """
    import torch

    import host_cupy

    ways = collections.Counter()

    def counted(name, function):
        def call(*arguments):
            ways[name] += 1
            return function(*arguments)

        return call

    in_their_place = {
        "meet": lambda process_group, number: torch.distributed.barrier(process_group, async_op=True),
        "device_of": lambda process_group: torch.device("cpu"),
        "on_its_gpu": lambda array: torch.from_numpy(array.host.reshape(-1).view(np.uint8)),
        "stream_of": lambda array: contextlib.nullcontext(),
        "wait_on_gpu": torch_group._wait,
    }
    torch_group.engines_of = lambda process_group: engines
    for name, function in in_their_place.items():
        setattr(nccl, name, counted(name, function))
    group = torch_distributed(timeout=30)
    with tempfile.TemporaryDirectory() as folder, host_cupy.installed(library, folder):
        opt = sharded(group, host_cupy.device)
        for _ in range(STEPS):
            step(opt, host_cupy.device)
        return ss.digest(opt.params), dict(ways)


def train_on_real_gpus(group, engine):
    """As ``alone``, on a GPU for each process, or one for several."""
    import cupy
    import torch

    number = group.rank % cupy.cuda.runtime.getDeviceCount()
    torch.cuda.set_device(number)
    if engine != "gloo":
        group = torch_distributed(torch.distributed.new_group(backend=engine), timeout=30)
    with cupy.cuda.Device(number):
        opt = sharded(group, cupy.asarray)
        for _ in range(STEPS):
            step(opt, cupy.asarray)
        return ss.digest(opt.params)


def alone(steps):
    opt = sharded(threads(1)[0])
    for _ in range(steps):
        step(opt)
    return ss.digest(opt.params)


NETWORKS = [golden.programs()[f"whole run {dtype}"][1] for dtype in golden.DTYPES]  # in leaves
GOLDEN = [golden.DIGESTS[str(network)] for network in NETWORKS]


def network_digests(group):
    return [golden.program_digest(network, group=group) for network in NETWORKS]
