"""Training over a network that delays, reorders and kills, by seeds: any failure is replayed by its seed."""

import copy
import functools
import random

import numpy as np
import pytest

import samestep as ss
from samestep.parallel import Sharded, WorkerLost, threads
from simulated import Killed, Network

STEPS = 3


class Run:
    """What a seed decides: parameters, leaves, optimizer; nothing of it depends on the number of workers."""

    def __init__(self, seed):
        draw = random.Random(seed)
        self.seed = seed
        self.leaves = draw.randint(1, 12)
        self.shapes = [draw.choice([(1,), (5,), (0,), (1024,), (1500,), (40, 70), (3000,)]) for _ in range(3)]
        self.dtype = draw.choice(["f4", "f4", "f8", "f2"])
        options = {"clip_norm": draw.choice([None, 1.0]), "nonfinite": draw.choice(["propagate", "skip"])}
        rule = draw.choice([ss.SGD, ss.Momentum, ss.Adam, ss.RMSProp])
        self.make = functools.partial(rule, lr=0.1, ema=draw.choice([None, 0.5]), **options)
        self.weights = [draw.choice([1.0, 1.0, 0.0, 2.5]) for _ in range(self.leaves)]
        self.weights[draw.randrange(self.leaves)] = 1.0
        self.grads = functools.cache(self._draw)  # every worker wants them again

    def params(self):
        draw = np.random.default_rng(self.seed)
        return [draw.standard_normal(shape).astype(self.dtype) for shape in self.shapes]

    def _draw(self, t, leaf):
        draw = np.random.default_rng([self.seed, t, leaf])
        return [draw.standard_normal(shape).astype(self.dtype) for shape in self.shapes]

    def train(self, group, first=0, start=None, seen=None):
        """Steps ``first`` to the last, from ``start``: parameters and state. ``seen``: each beginning."""
        own = self.params() if start is None else [w.copy() for w in start[0]]
        opt = Sharded(self.make, own, group, leaves=self.leaves)
        if start is not None:
            opt.load_state_dict(start[1])
        for t in range(first, STEPS):
            if seen is not None:
                seen.append(own)
            for leaf in np.random.default_rng([t, group.rank]).permutation(opt.leaves):
                opt.add(leaf, self.grads(t, leaf), weight=self.weights[leaf])
            opt.step()
        return own, opt.state_dict()

    def alone(self):
        """Parameters and state in one process, before each step and after the last."""
        own = self.params()
        opt = Sharded(self.make, own, threads(1)[0], leaves=self.leaves)
        for t in range(STEPS):
            yield [w.copy() for w in own], copy.deepcopy(opt.state_dict())
            for leaf in opt.leaves:
                opt.add(leaf, self.grads(t, leaf), weight=self.weights[leaf])
            opt.step()
        yield own, opt.state_dict()


def digest(params, state_dict=None):
    return ss.digest([*params, *(a for s in (state_dict or {"state": {}})["state"].values() for a in s)])


def check_delays(seed):
    run, size = Run(seed), random.Random(-seed).randint(1, 8)
    expected = digest(*list(run.alone())[STEPS])
    for found in Network(size, seed).run(run.train):
        if isinstance(found, BaseException):
            raise found
        assert digest(*found) == expected


def check_a_kill(seed):
    """A worker dies anywhere. The others say so, nothing is half stepped, and any number goes on."""
    run, draw = Run(seed), random.Random(-seed)
    size, after = draw.randint(2, 6), draw.randint(1, 6)
    network = Network(size, seed, {draw.randrange(size): draw.randint(1, 40)})
    alone = list(run.alone())
    at_steps = [digest(params) for params, _ in alone]
    seen = [[] for _ in range(size)]
    results = network.run(lambda group: run.train(group, seen=seen[group.rank]))
    killed = any(isinstance(found, Killed) for found in results)
    for rank, found in enumerate(results):
        if isinstance(found, BaseException):
            assert isinstance(found, (Killed, WorkerLost)), found
            assert killed
            if seen[rank] and not isinstance(found, Killed):  # else it was lost before the first step
                assert digest(seen[rank][-1]) in at_steps
        else:
            assert digest(found[0]) == at_steps[STEPS]
    done = draw.randrange(STEPS)
    for found in Network(after, seed).run(lambda group: run.train(group, done, alone[done])):
        assert digest(*found) == digest(*alone[STEPS])
    return killed


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.more) for n in (20, 40))])
def test_delays_reorderings_and_kills(first):
    for seed in range(first, first + 20):
        check_delays(seed)
    assert sum(check_a_kill(seed) for seed in range(first, first + 20)) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("first", range(60, 1060, 100))
def test_a_thousand_seeds(first):
    for seed in range(first, first + 100):
        check_delays(seed)
        check_a_kill(seed)


def test_after_a_loss_the_optimizer_refuses_to_go_on():
    def one(group):
        w = np.ones(3000)
        opt = Sharded(functools.partial(ss.SGD, lr=0.1), w, group, leaves=2)
        for leaf in opt.leaves:
            opt.add(leaf, w)
        with pytest.raises(WorkerLost):
            opt.step()
        for call in (opt.step, lambda: opt.add(0, w), lambda: opt.save("nowhere")):
            with pytest.raises(RuntimeError, match=r"a worker was lost, or .* was broken off: start again"):
                call()
        return "refused"

    calls = Network(2)
    calls.run(lambda group: Sharded(functools.partial(ss.SGD, lr=0.1), np.ones(3000), group, leaves=2))
    network = Network(2, kills={1: calls.transfers[1] + 1})
    assert network.run(one)[0] == "refused"


def test_the_network_repeats_itself():
    def log(seed):
        order = []

        def one(group):
            for i in range(5):
                group.all_gather(np.array([i]), [1] * group.size)
                order.append(group.rank)

        Network(4, seed).run(one)
        return order

    assert log(3) == log(3)
    assert len({tuple(log(seed)) for seed in range(10)}) > 5
