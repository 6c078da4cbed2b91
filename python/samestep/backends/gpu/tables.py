"""The tables that the kernels of a step read, in the GPU's memory; twin of csrc/gpu/tensors.cuh."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import is_half
from ..face import Tensor
from .device import get_cupy
from .kernels import ROW_STATES, WORD, WORDS, ceil_div, run_kernel, struct_of

Words = NDArray[np.int64]

TYPES = ("float32", "float64")  # of the arithmetic; Type in csrc/contract/types.h
STORAGES = ("as it is", "bfloat16", "float16")  # Storage, likewise
GIVEN = ("g", "g_in_order", "place")


def on_device(words: Words) -> Any:
    """A copy on the current device. Blocking: the first step may run on another stream."""
    return get_cupy().asarray(words, blocking=True)


def storage_of(a: Any) -> int:
    """How an array of numbers is kept."""
    return STORAGES.index(a.dtype.name) if is_half(a) else 0


def type_of(w: Any) -> int:
    """In which type a parameter is stepped."""
    return int(w.dtype.itemsize == 8)


def rows_of(tensors: Sequence[Tensor], run: int) -> Words:
    """A row of every tensor: its arrays, how they are kept, the number of its first run of elements."""
    rows, runs = [], 0
    for t in tensors:
        states = [s.data.ptr for s in t.states]
        options = [0 if a is None else a.data.ptr for a in (t.ema, t.master, t.low, t.copy)]
        storage = storage_of(t.w)
        stores_states = bool(t.states) and storage != 0 and is_half(t.states[0])
        copy = 0 if t.copy is None else storage_of(t.copy)
        kept = [storage, stores_states, copy, type_of(t.w), t.group, runs]
        states += [0] * (ROW_STATES - len(states))
        rows.append([t.w.data.ptr, t.w.size, t.first, *states, *options, *kept])
        runs += ceil_div(t.w.size, run)
    return np.array(rows, np.int64)


def items_of(tensors: Sequence[Tensor], numbers: Iterable[int], per_item: int) -> Words:
    """The tensors of these numbers in pieces for a block of threads each: (tensor, first element)."""
    items = [(i, begin) for i in numbers for begin in range(0, tensors[i].w.size, per_item)]
    return np.array(items, np.int64).reshape(-1, 2)


class Table:
    """Words on the device that change now and then, and what they are known to be there."""

    def __init__(self, words: Words) -> None:
        self.array = on_device(words)
        self.known = words.copy()

    def update(self, wanted: Words) -> None:
        """Writes the words that have changed; mostly none has.

        They travel as the arguments of launches, in order with the step's.
        """
        words = wanted.ravel()
        changed = np.flatnonzero(words != self.known.ravel())
        if changed.size == 0:
            return
        for first in range(int(changed[0]), int(changed[-1]) + 1, WORDS):
            count = min(WORDS, int(changed[-1]) + 1 - first)
            argument = struct_of(WORD, to=self.array.data.ptr + 8 * first, count=count)
            argument["words"][0, :count] = words[first : first + count]
            run_kernel("WORD_KERNELS()", "write_words", 1, argument)
        self.known[...] = wanted
