"""Groups of workers: the small face behind which an engine carries bytes.

A group knows its rank and size and has one primitive, ``transfer``, that sends and receives at once. Arrays
on a GPU go by way of main memory, unless the engine reaches them there. The engines are
``torch_distributed``, ``mpi`` and ``threads``; each has a module of its own here.
"""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from .. import backends
from ..backends.arrays import Array

# What the others raise for an error of one worker, by names: the first of its kinds that is here.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (TypeError, ValueError, IndexError, OSError, ImportError, MemoryError, NotImplementedError)
}
_KINDS["Exception"] = RuntimeError  # of any other kind


class WorkerLost(RuntimeError):  # noqa: N818 - it says what has happened
    """Another worker died, left, or did not answer in time; nothing has been stepped here.

    The group is of no more use. Start again from the last checkpoint, with any number of workers.
    """


class Group(ABC):
    """A worker's place among all workers.

    Every worker calls the same functions of its group in the same order.

    Attributes:
        rank: the number of this worker, from 0.
        size: how many workers there are.
    """

    rank: int
    size: int

    @abstractmethod
    def transfer(self, send: Mapping[int, Array], receive: Mapping[int, Array]) -> None:
        """Sends an array to each rank of ``send`` and fills the array of each rank of ``receive``.

        Returns when all has been sent and has come. Sender and receiver agree on the size.

        Args:
            send: rank: an array in C order, not this rank.
            receive: rank: a writeable array in C order, not this rank.

        Raises:
            WorkerLost: a worker is gone.
        """

    def meet(self, like: Any) -> None:  # noqa: B027 - most engines need nothing
        """Readies the engine for arrays on the GPU of this one, if it lies on one. Every worker calls it.

        Raises:
            WorkerLost: a worker is gone.
        """

    def carry(self, send: Mapping[int, Array], receive: Mapping[int, Array]) -> None:
        """As ``transfer``, of arrays that may be CuPy's: here by way of main memory."""
        here = {id(array): backends.in_main_memory(array) for array in send.values()}
        came = {
            rank: array if isinstance(array, np.ndarray) else np.empty(array.shape, array.dtype)
            for rank, array in receive.items()
        }
        self.transfer({rank: here[id(array)] for rank, array in send.items()}, came)
        for rank, array in receive.items():
            if came[rank] is not array:
                backends.module("cuda").assign(array, came[rank])

    def all_gather(self, mine: Array, counts: Sequence[int]) -> list[Array]:
        """The arrays of all workers, in order of rank.

        Args:
            mine: shape (counts[rank],), in C order.
            counts: how many elements each worker gives; the same on every worker.
        """
        ends = np.cumsum([0, *counts], dtype=np.int64)
        out = np.empty(ends[-1], mine.dtype)
        parts = [out[begin:end] for begin, end in itertools.pairwise(ends)]
        others = [rank for rank in range(self.size) if rank != self.rank]
        parts[self.rank][...] = mine
        send = {rank: mine for rank in others if mine.size}
        self.transfer(send, {rank: parts[rank] for rank in others if counts[rank]})
        return parts

    def all_gather_json(self, value: Any) -> list[Any]:
        """What each worker gives, in order of rank: numbers, texts, lists and dicts, for facts and checks."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = self.all_gather(np.array([text.size], np.int64), [1] * self.size)
        texts = self.all_gather(text, [int(length[0]) for length in lengths])
        return [json.loads(one.tobytes()) for one in texts]

    def all_or_none(self, error: Exception | None, facts: Any = None) -> list[Any]:
        """What each worker has found, in order of rank, or an error on all: none waits for one that gave up.

        Args:
            error: what this worker has found wrong, or None.
            facts: as for ``all_gather_json``.

        Raises:
            Exception: ``error`` itself; without one of its own a worker raises that of the lowest rank that
                has one, as an error of the same kind that says whose it is.
        """
        told: dict[str, Any] = {"facts": facts}
        if error is not None:
            kinds = [kind.__name__ for kind in type(error).__mro__]  # its own first
            told = {
                "kind": next(kind for kind in kinds if kind in _KINDS),
                "says": f"{type(error).__name__}: {error}",
            }
        found = self.all_gather_json(told)
        if error is not None:
            raise error
        for rank, each in enumerate(found):
            if "kind" in each:
                raise _KINDS[each["kind"]](f"worker {rank} of {self.size} has given up: {each['says']}")
        return [each["facts"] for each in found]

    def __deepcopy__(self, memo: Any) -> Group:
        return self  # a copy of a layer that has it is at the same place

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}, size={self.size})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"group: got {type(self).__name__}, which is a process's place among others; neither it nor what "
            "is made with it can be copied or pickled: save the state, and make another in the new place"
        )


class Alone(Group):
    """The group of one worker, whose engine has nothing to carry."""

    rank, size = 0, 1

    def transfer(self, send: Mapping[int, Array], receive: Mapping[int, Array]) -> None:
        assert not send
        assert not receive


def bytes_of(array: Array) -> Array:
    """The memory of an array in C order as bytes: no engine knows all of NumPy's types."""
    return array.reshape(-1).view(np.uint8)


def check_group(group: Any) -> Group:
    """The group itself, or an error that names the three ways to one."""
    if not isinstance(group, Group):
        raise TypeError(
            f"group: got {type(group).__name__}, expected what samestep.parallel.torch_distributed(), "
            "mpi() or threads() returns"
        )
    return group
