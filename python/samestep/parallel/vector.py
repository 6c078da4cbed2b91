"""Parameters as one vector, which is cut for the workers between blocks of 1024 elements of a parameter.

So a canonical sum over a parameter is made of whole blocks of each worker's part.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backends.arrays import Array
from ..backends.reference.sums import SUM_BLOCK

ALIGNMENT = 64  # bytes: where a parameter begins, and with it every block


class Piece(NamedTuple):
    """Elements ``begin`` to ``end - 1`` of a parameter, in C order."""

    param: int
    begin: int
    end: int

    @property
    def blocks(self) -> int:
        """How many blocks of 1024 elements these are."""
        return -(-(self.end - self.begin) // SUM_BLOCK)


class Vector:
    """How parameters lie one after another in a buffer of bytes.

    Args:
        sizes: the number of elements of each parameter.
        dtypes: of each of them, as it lies in the buffer.
        module: of the backend whose memory buffers are, an attribute too.
        like: an array of it, on whose device they are, an attribute too; None: in main memory.

    Attributes:
        blocks: how many blocks of 1024 elements there are, each parameter's last one perhaps shorter.
        nbytes: of the buffer.
    """

    def __init__(self, sizes: Sequence[int], dtypes: Sequence[np.dtype[Any]], module: Any, like: Any) -> None:
        self.module, self.like = module, like
        self._sizes, self._dtypes = list(sizes), [np.dtype(dtype) for dtype in dtypes]
        self._first_block, self._offset = [0], []
        at = 0
        for size, dtype in zip(self._sizes, self._dtypes, strict=True):
            at += -at % ALIGNMENT
            self._offset.append(at)
            at += size * dtype.itemsize
            self._first_block.append(self._first_block[-1] + -(-size // SUM_BLOCK))
        self.blocks, self.nbytes = self._first_block[-1], at

    def buffer(self) -> Array:
        """Memory for the vector, of unknown values."""
        return self.memory(self.nbytes)

    def memory(self, nbytes: int) -> Array:
        """So many bytes where buffers are, of unknown values."""
        found: Array = self.module.empty(nbytes, np.uint8, self.like)
        return found

    def parts(self, n: int, first: int, last: int) -> tuple[Array, list[Array]]:
        """Memory for ``part`` of n buffers, one after another and each aligned, and these parts of it."""
        size = self.byte(last) - self.byte(first)
        apart = size + -size % ALIGNMENT
        memory = self.memory(n * apart)
        return memory, [memory[i * apart : i * apart + size] for i in range(n)]

    def pieces(self, first: int, last: int) -> list[Piece]:
        """The elements of blocks ``first`` to ``last - 1``, one piece a parameter, empty ones too."""
        found = []
        for i, size in enumerate(self._sizes):
            begin, end = (
                min(size, max(0, block - self._first_block[i]) * SUM_BLOCK) for block in (first, last)
            )
            found.append(Piece(i, begin, end))
        return found

    def blocks_of(self, param: int) -> range:
        """The blocks of a parameter."""
        return range(self._first_block[param], self._first_block[param + 1])

    def byte(self, block: int) -> int:
        """Where in the buffer a block begins; ``blocks``: the end."""
        if block == self.blocks:
            return self.nbytes
        param = bisect.bisect_right(self._first_block, block) - 1
        within = (block - self._first_block[param]) * SUM_BLOCK
        return self._offset[param] + within * self._dtypes[param].itemsize

    def part(self, buffer: Array, first: int, last: int) -> Array:
        """The bytes of blocks ``first`` to ``last - 1``."""
        return buffer[self.byte(first) : self.byte(last)]

    def view(self, buffer: Array, piece: Piece, first: int = 0) -> Array:
        """The elements of a piece, in a buffer that begins with block ``first``."""
        dtype, offset = self._dtypes[piece.param], self._offset[piece.param] - self.byte(first)
        begin, end = (offset + at * dtype.itemsize for at in (piece.begin, piece.end))
        return buffer[begin:end].view(dtype)

    def whole(self, buffer: Array, param: int) -> Array:
        """All elements of a parameter."""
        return self.view(buffer, Piece(param, 0, self._sizes[param]))

    def runs(self, first: int, last: int) -> Iterator[tuple[slice, np.dtype[Any]]]:
        """Blocks ``first`` to ``last - 1`` as slices of their ``part``, as few as have one dtype each."""
        at = self.byte(first)
        begin = end = 0
        of: np.dtype[Any] | None = None
        for piece in self.pieces(first, last):
            if piece.begin == piece.end:
                continue
            dtype, offset = self._dtypes[piece.param], self._offset[piece.param] - at
            if of is None or dtype != of:
                if of is not None:
                    yield slice(begin, end), of
                begin, of = offset + piece.begin * dtype.itemsize, dtype
            end = offset + piece.end * dtype.itemsize
        if of is not None:
            yield slice(begin, end), of
