"""The sums of the leaves that are here: a binary counter of vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..arguments import check_rounded, finite_number, whole_number
from ..backends.arrays import Array, is_half, lives_on_gpu
from ..tree import Node, Sums
from .vector import Vector


class LeafSums:
    """Adds up leaves along the tree, each as soon as its neighbour is here.

    Args:
        params: arrays, like which the gradients are.
        leaves: M, how many leaves there are in all.
        own: the numbers of those that come here.
        module: of the backend.
        like: an array on whose device the sums are; None: on that of the first parameter.

    Attributes:
        module: of the backend; another one of the same memory may be set while no leaf is here.
        vector: how a sum lies in its buffer; 16-bit gradients are added in float32.
        narrowest: the type of the sums, of several the narrower: weights are rounded to it.
        weights: of the leaves that are here, by number.
        has_gradient: for each parameter whether any leaf has one.
    """

    def __init__(
        self, params: Sequence[Array], leaves: int, own: range, module: Any, like: Any = None
    ) -> None:
        self._params, self._leaves, self._own, self.module = params, leaves, own, module
        types = [np.dtype(np.float32) if is_half(w) else w.dtype for w in params]
        if like is None:
            like = next(iter(params), None)
        self.vector = Vector([w.size for w in params], types, module, like)
        self.narrowest = min(types, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float64))
        self._spare: list[Array] = []
        self.start()

    def start(self) -> None:
        """Begins a step: no leaf is here."""
        self.weights: dict[int, float] = {}
        self.has_gradient = np.zeros(len(self._params), bool)
        self._sums: Sums[Array] = Sums(self._leaves, self._add_whole, self._spare.append)

    def put(self, leaf: int, grads: Sequence[Any], weight: float, names: Sequence[str]) -> None:
        """Adds a leaf.

        Args:
            leaf: its number.
            grads: one for each parameter, or None.
            weight: that of the leaf; 0: no gradient is read.
            names: what errors call the gradients.

        Raises:
            TypeError, ValueError: one of these does not fit; nothing has been added.
        """
        leaf, weight = self.check(leaf, weight)
        if lives_on_gpu(next(iter(self._params), None)):
            named = {"params": self._params[0], **dict(zip(names, grads, strict=True))}
            _, *grads = self.module.cupy_views(named, frozenset())
        for name, g, w in zip(names, grads, self._params, strict=True):
            if g is not None:
                _check_gradient(name, g, w)
        buffer = self.buffer()
        for i, g in enumerate(grads):
            to = self.vector.whole(buffer, i)
            if g is None or weight == 0.0:
                self.module.weigh_leaf(None, 0.0, to)
            else:
                self.module.weigh_leaf(self.module.contiguous(g).reshape(-1), weight, to)
                self.has_gradient[i] = True
        self.keep(leaf, weight, buffer)

    def check(self, leaf: int, weight: float) -> tuple[int, float]:
        """The number and the weight of a leaf that may be added, or the error that it may not."""
        leaf = whole_number("leaf", leaf, at_least=0)
        if leaf not in self._own:
            numbers = f"{self._own.start} to {self._own.stop - 1}" if self._own else "none, as it has none"
            raise ValueError(f"leaf: got {leaf}, expected one of this worker's: {numbers}")
        if leaf in self.weights:
            raise ValueError(f"leaf: got {leaf}, which was added before; expected each once a step")
        weight = finite_number("weight", weight, at_least=0.0)
        check_rounded("weight", weight, self.narrowest)
        return leaf, weight

    def keep(self, leaf: int, weight: float, buffer: Array) -> None:
        """Takes over a leaf whose weighed gradients lie in a buffer."""
        self.weights[leaf] = weight
        self._sums.put(Node(0, leaf), buffer)

    def take(self, nodes: Iterable[Node]) -> list[Array]:
        """Hands out the sums of these nodes: whole vectors, the caller's until it gives them back."""
        return list(self._sums.take(list(nodes)))

    def buffer(self) -> Array:
        """A vector, of unknown values."""
        return self._spare.pop() if self._spare else self.vector.buffer()

    def give_back(self, buffers: Iterable[Array]) -> None:
        """Takes vectors back for later leaves; the same one may come twice."""
        self._spare[:] = {id(buffer): buffer for buffer in (*self._spare, *buffers)}.values()

    def add(self, to: Array, other: Array, first: int, last: int) -> None:
        """Adds blocks ``first`` to ``last - 1`` of a vector, as bytes, to those of lower leaves."""
        for run, dtype in self.vector.runs(first, last):
            self.module.add_leaves(to[run].view(dtype), other[run].view(dtype))

    def _add_whole(self, to: Array, other: Array) -> None:
        self.add(to, other, 0, self.vector.blocks)

    def divide(self, total: Array, weight: float, first: int, last: int) -> None:
        """Divides blocks ``first`` to ``last - 1`` of a vector by the weight of all leaves."""
        part = self.vector.part(total, first, last)
        for run, dtype in self.vector.runs(first, last):
            values = part[run].view(dtype)
            self.module.average_leaves(values, weight, values)

    def stored(self, g: Array, param: int) -> Array:
        """Values of a vector in the parameter's own type: themselves, or rounded to 16 bits."""
        dtype = self._params[param].dtype
        if g.dtype == dtype:
            return g
        narrow: Array = self.module.empty(g.size, dtype, g)
        self.module.average_leaves(g, 1.0, narrow)
        return narrow


def total_weight(weights: Array, module: Any, dtype: Any = np.float64) -> float:
    """The sum of the weights of all leaves, in order.

    Args:
        module: of a backend in main memory.
        dtype: the type in which gradients are divided by it.

    Raises:
        ValueError: it is 0, or not finite in that type.
    """
    weight = float(module.canonical_sum(weights, 1, weights.size, 1)[0])
    if not 0.0 < weight < np.inf:
        raise ValueError(f"weight: those of all leaves add up to {weight}, expected a finite number above 0")
    check_rounded("weight: the sum of those of all leaves", weight, dtype)
    return weight


def _check_gradient(name: str, g: Any, w: Any) -> None:
    kind: Any = np.ndarray if isinstance(w, np.ndarray) else type(w)
    if not isinstance(g, kind) or isinstance(g, np.ma.MaskedArray):
        got = "an array on a GPU" if lives_on_gpu(g) else type(g).__name__
        raise TypeError(f"{name}: got {got}, expected a plain NumPy array of {w.dtype} and shape {w.shape}")
    if (g.dtype, g.shape) != (w.dtype, w.shape):
        raise (ValueError if g.dtype == w.dtype else TypeError)(
            f"{name}: got {g.dtype} of shape {g.shape}, expected {w.dtype} of shape {w.shape}"
        )
