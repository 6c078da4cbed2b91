"""A network of workers that are threads of this process, one running at a time: seeded and so repeatable.

Which message arrives next and which worker runs next are drawn from the seed: messages of different senders
overtake one another, some workers are slow, and workers die at a transfer of their own. A failure is replayed
by its seed.
"""

from __future__ import annotations

import collections
import random
import threading

import numpy as np

from samestep.parallel.groups import Group, WorkerLost


class Killed(BaseException):
    """The end of a worker: nothing in the package catches it."""


class SimulatedGroup(Group):
    def __init__(self, rank, network):
        self.rank, self.size, self._network = rank, network.size, network

    def transfer(self, send, receive):
        self._network._transfer(self.rank, send, receive)


class Network:
    """Args: size: how many workers; seed: of every choice; kills: rank: at which of its transfers it dies.

    Attributes:
        sent: bytes that each worker has sent.
        transfers: how many each has made.
    """

    def __init__(self, size, seed=0, kills=None):
        self.size, self.kills = size, kills or {}
        self.sent, self.transfers = [0] * size, [0] * size
        self._draw = random.Random(seed)
        self._pace = [self._draw.choice([1.0, 1.0, 1.0, 0.05]) for _ in range(size)]  # a few stragglers
        self._flight = collections.defaultdict(collections.deque)  # (sender, receiver): messages on their way
        self._boxes = collections.defaultdict(collections.deque)  # those that have arrived
        self._waits = [set() for _ in range(size)]  # for whose messages a worker waits
        self._ended = [False] * size
        self._go = [threading.Event() for _ in range(size)]
        self._back = threading.Event()

    def run(self, function):
        """What ``function(group)`` returns on each worker, or the exception that it raises there."""
        results = [None] * self.size

        def work(rank):
            self._go[rank].wait()
            self._go[rank].clear()
            try:
                results[rank] = function(SimulatedGroup(rank, self))
            except BaseException as error:
                results[rank] = error
            self._ended[rank] = True
            self._back.set()

        workers = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(self.size)]
        for worker in workers:
            worker.start()
        while not all(self._ended):
            self._let_one_thing_happen()
        for worker in workers:
            worker.join()
        return results

    def _let_one_thing_happen(self):
        alive = [rank for rank in range(self.size) if not self._ended[rank]]
        ready = [rank for rank in alive if all(self._boxes[sender, rank] for sender in self._waits[rank])]
        flying = [pair for pair, messages in self._flight.items() if messages]
        if not ready and not flying:  # somebody waits for one that has ended, and learns of it
            ready = [rank for rank in alive if any(self._ended[sender] for sender in self._waits[rank])]
            assert ready, f"workers wait for one another: {self._waits}"
        choices = [*ready, *flying]
        weights = [self._pace[r] for r in ready] + [self._pace[sender] for sender, _ in flying]
        (chosen,) = self._draw.choices(choices, weights)
        if chosen in flying:
            self._boxes[chosen].append(self._flight[chosen].popleft())
            return
        self._back.clear()
        self._go[chosen].set()
        self._back.wait()

    def _transfer(self, rank, send, receive):
        self.transfers[rank] += 1
        if self.kills.get(rank) == self.transfers[rank]:
            raise Killed
        assert rank not in send
        assert rank not in receive
        for other, array in send.items():
            assert array.flags.c_contiguous
            self.sent[rank] += array.nbytes
            self._flight[rank, other].append(np.array(array, copy=True))
        self._waits[rank] = set(receive)
        self._back.set()
        self._go[rank].wait()
        self._go[rank].clear()
        self._waits[rank] = set()
        for other, array in receive.items():
            if not self._boxes[other, rank]:
                raise WorkerLost(f"worker {other} is gone")
            message = self._boxes[other, rank].popleft()
            assert (message.nbytes, array.flags.c_contiguous) == (array.nbytes, True)
            array.reshape(-1).view(np.uint8)[...] = message.reshape(-1).view(np.uint8)
