"""What workers train in tests. Processes find it here, as they do not find the tests themselves."""

from __future__ import annotations

import functools

import numpy as np

import samestep as ss
from samestep.parallel import Sharded, threads
from samestep.proof import golden

STEPS = 6
SHAPES = [(3000,), (40, 70), (5,)]


def sharded(group):
    draw = np.random.default_rng(0)
    own = [draw.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    return Sharded(functools.partial(ss.Adam, lr=0.1, clip_norm=1.0), own, group, leaves=12)


def step(opt):
    for leaf in opt.leaves:
        draw = np.random.default_rng([opt.t, leaf])
        opt.add(leaf, [draw.standard_normal(w.shape).astype(np.float32) for w in opt.params])
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


def alone(steps):
    opt = sharded(threads(1)[0])
    for _ in range(steps):
        step(opt)
    return ss.digest(opt.params)


NETWORKS = [golden.programs()[f"whole run {dtype}"][1] for dtype in golden.DTYPES]  # in leaves
GOLDEN = [golden.DIGESTS[str(network)] for network in NETWORKS]


def network_digests(group):
    return [golden.program_digest(network, group=group) for network in NETWORKS]
