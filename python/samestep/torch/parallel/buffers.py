"""A model's buffers, such as batch norm's running statistics, over the leaves of a step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module

from ...backends.arrays import Array
from ...parallel.groups import Group
from ..tensors import TYPES, as_array, bytes_of
from .sums import TensorSums


class LeafBuffers:
    """Every leaf starts from the buffers that the step started with; the step leaves their mean.

    That is the mean of what the leaves left, weighted as gradients are. Buffers of whole numbers, such as
    counts of batches, become what the first leaf with a weight left: it counts a step as one batch. A buffer
    that no leaf changes stays as it is.

    Args:
        model: with dense buffers, on the CPU or on one GPU.
        leaves: M.
    """

    def __init__(self, model: Module, leaves: int, group: Group) -> None:
        self._group = group
        buffers = list(model.buffers())
        self._floats = [b for b in buffers if b.dtype in TYPES]
        self._others = [b for b in buffers if b.dtype not in TYPES]
        self._sums = TensorSums(self._floats, leaves, group)
        self._before: list[Tensor] = []
        self.start()

    def start(self) -> None:
        """Begins a step.

        ``changed`` then says, for each buffer of floating-point numbers and last for all others together,
        whether a leaf of this worker has changed it.
        """
        self.changed = np.zeros(len(self._floats) + 1, bool)
        self._first: tuple[int, list[Tensor]] | None = None
        self._sums.leaf_sums.start()
        self._sums.release()

    def begin_leaf(self) -> None:
        self._before = [b.detach().clone() for b in (*self._floats, *self._others)]

    def end_leaf(self, leaf: int, weight: float, is_kept: bool) -> None:
        """Takes what a leaf has left, if it is kept, and puts back what the step started with."""
        buffers = [b.detach() for b in (*self._floats, *self._others)]
        if is_kept and self._floats:
            buffer = self._sums.buffer()
            for i, b in enumerate(self._floats):
                self._sums.place(buffer, i, b, weight)
            self._sums.keep(leaf, weight, buffer)
        if is_kept and weight > 0.0:
            changed = _changed(buffers, self._before)
            self.changed |= np.append(changed[: len(self._floats)], changed[len(self._floats) :].any())
            if self._first is None or leaf < self._first[0]:
                self._first = leaf, [b.clone() for b in buffers[len(self._floats) :]]
        with torch.no_grad():
            for b, before in zip(buffers, self._before, strict=True):
                b.copy_(before)
        self._before = []

    def finish(self, weights: Array, total_weight: float, changed: Array) -> None:
        """Writes the step's buffers. Every worker calls it.

        Args:
            weights: of all leaves.
            changed: as the attribute, of all workers together.
        """
        new: list[tuple[Tensor, Tensor]] = []
        if changed[:-1].any():
            means = self._sums.mean(total_weight)
            pairs = zip(self._floats, means, changed[:-1], strict=True)
            new += [(b, mean) for b, mean, is_new in pairs if is_new]
        if changed[-1]:
            first = int(np.flatnonzero(weights)[0])
            source = [first in own for own in self._sums.ranges].index(True)
            mine = np.zeros(0, np.uint8)
            if source == self._group.rank:
                assert self._first is not None
                mine = np.concatenate([as_array(bytes_of(b).cpu(), "buffer") for b in self._first[1]])
            counts = [0] * self._group.size
            counts[source] = sum(b.nbytes for b in self._others)
            at = torch.from_numpy(self._group.all_gather(mine, counts)[source].copy())
            for b in self._others:
                new.append((b, at[: b.nbytes].view(b.dtype).reshape(b.shape)))
                at = at[b.nbytes :]
        with torch.no_grad():
            for b, value in new:
                b.copy_(value)
        self.start()


def _changed(now: list[Tensor], before: list[Tensor]) -> NDArray[np.bool_]:
    """Which tensors have other bits; on a GPU the host waits once for all."""
    differ = [(bytes_of(a) != bytes_of(b)).any() for a, b in zip(now, before, strict=True)]
    return torch.stack(differ).cpu().numpy() if differ else np.zeros(0, bool)
