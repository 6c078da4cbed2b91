"""Workers that are threads of this process: for tests, for trying things out, for sums spread over arrays."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from ..arguments import finite_number, whole_number
from ..backends.arrays import Array
from .groups import Group, WorkerLost

T = TypeVar("T")

_TICK = 0.05  # seconds after which one that waits looks whether a worker is lost


class ThreadGroup(Group):
    """A worker that is a thread: what it sends is copied into the receiver's mailbox."""

    def __init__(self, rank: int, hub: _Hub) -> None:
        self.rank, self.size, self._hub = rank, hub.size, hub

    def transfer(self, send: Mapping[int, Array], receive: Mapping[int, Array]) -> None:
        for rank, array in send.items():
            self._hub.boxes[self.rank, rank].put(np.array(array, order="C", copy=True))
        for rank, array in receive.items():
            array[...] = self._take(rank)

    def _take(self, rank: int) -> Array:
        until = time.monotonic() + self._hub.timeout
        while True:
            has_ended = rank in self._hub.ended  # before the look into the box: it may have left something
            try:
                found: Array = self._hub.boxes[rank, self.rank].get(timeout=_TICK)
                return found
            except queue.Empty:
                if has_ended:
                    raise WorkerLost(f"worker {rank} of {self.size} has ended") from None
                if time.monotonic() > until:
                    raise WorkerLost(
                        f"worker {rank} of {self.size} did not answer in {self._hub.timeout:g} s"
                    ) from None


class _Hub:
    """What the threads share: a mailbox for each pair, and who has ended."""

    def __init__(self, size: int, timeout: float) -> None:
        self.size, self.timeout = size, timeout
        self.ended: set[int] = set()
        self.boxes: dict[tuple[int, int], queue.SimpleQueue[Array]] = {
            (one, other): queue.SimpleQueue() for one in range(size) for other in range(size)
        }


def threads(size: int, *, timeout: float = 300.0) -> list[Group]:
    """Groups for ``size`` workers of this process; each is handed to a thread of its own.

    Args:
        size: how many workers, 1 or more.
        timeout: seconds after which a worker that waits for another one raises ``WorkerLost``.

    Returns:
        One group a worker, in order of rank.

    Raises:
        TypeError, ValueError: ``size`` is no whole number of 1 or more, or ``timeout`` no number
            of 0 or more.

    Example:
        >>> import samestep as ss
        >>> ss.parallel.threads(2)
        [ThreadGroup(rank=0, size=2), ThreadGroup(rank=1, size=2)]
    """
    hub = _Hub(whole_number("size", size, at_least=1), finite_number("timeout", timeout, at_least=0.0))
    return [ThreadGroup(rank, hub) for rank in range(hub.size)]


def run_threads(size: int, function: Callable[[Group], T], *, timeout: float = 300.0) -> list[T]:
    """Runs ``function(group)`` on ``size`` threads at once and waits for all of them.

    Args:
        size: how many workers, 1 or more.
        function: called with the worker's group.
        timeout: as for ``threads``.

    Returns:
        What each worker returned, in order of rank.

    Raises:
        Exception: what a worker raised; of several the one that came first. The others, which miss that
            worker, end with ``WorkerLost``.

    Example:
        >>> import numpy as np, samestep as ss
        >>> x = np.random.default_rng(0).random(4096)
        >>> def total(group):
        ...     mine = x[2048 * group.rank :][:2048]
        ...     return float(ss.canonical_sum(mine, group=group))
        >>> ss.parallel.run_threads(2, total) == 2 * [float(ss.canonical_sum(x))]
        True
    """
    groups = threads(size, timeout=timeout)
    results: list[T | None] = [None] * len(groups)
    errors: list[BaseException] = []

    def work(group: Group) -> None:
        try:
            results[group.rank] = function(group)
        except BaseException as error:
            errors.append(error)
        assert isinstance(group, ThreadGroup)
        group._hub.ended.add(group.rank)

    workers = [threading.Thread(target=work, args=(group,), daemon=True) for group in groups]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value]  # no error: each has returned
