"""Two arrays, element by element: the first bit in which they differ, and how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Element:
    """The first element, in C order, in which two arrays differ.

    Attributes:
        index: of the element.
        values: in A and in B.
        bits: the patterns of both, in binary, sign first.
        ulps: how many steps from one number of the dtype to the next lie between them; None: one is NaN.
        differing: how many elements of the arrays differ.
    """

    index: tuple[int, ...]
    values: tuple[float, float]
    bits: tuple[str, str]
    ulps: int | None
    differing: int


def first_element(x: NDArray[Any], y: NDArray[Any]) -> Element | None:
    """The first element that differs in its bits, where every NaN counts as one; None: the arrays are equal.

    Args:
        x, y: arrays of A and of B, of one shape and dtype.

    Raises:
        ValueError: the shapes or dtypes differ.

    Example:
        >>> import numpy as np
        >>> from samestep.ledger import first_element
        >>> x = np.ones((2, 2), np.float32)
        >>> y = x.copy()
        >>> y[1, 0] = np.nextafter(y[1, 0], np.float32(2))
        >>> found = first_element(x, y)
        >>> found.index, found.ulps, found.bits[1]
        ((1, 0), 1, '00111111100000000000000000000001')
    """
    a, b = _places(x, y)
    parted = np.flatnonzero(a != b)
    if not parted.size:
        return None
    at = int(parted[0])
    index = tuple(int(i) for i in np.unravel_index(at, x.shape))
    values = (float(x[index]), float(y[index]))
    width = 8 * x.dtype.itemsize
    bits = [f"{int(side[index].view(f'u{x.dtype.itemsize}')):0{width}b}" for side in (x, y)]
    has_nan = any(np.isnan(values))
    return Element(
        index,
        values,
        (bits[0], bits[1]),
        None if has_nan else abs(int(a[at]) - int(b[at])),
        int(parted.size),
    )


def most_ulps(x: NDArray[Any], y: NDArray[Any]) -> int:
    """The largest distance of two arrays' elements, in units of last place; of a NaN, the range of the dtype.

    Args:
        x, y: arrays of one shape and dtype.

    Raises:
        ValueError: the shapes or dtypes differ.

    Example:
        >>> import numpy as np
        >>> from samestep.ledger import most_ulps
        >>> most_ulps(np.zeros(3, np.float32), np.array([0, -0.0, 1e-45], np.float32))
        1
    """
    a, b = _places(x, y)
    return int((np.maximum(a, b) - np.minimum(a, b)).max(initial=0))


def _places(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The numbers of a dtype counted upwards, -0 just below 0; every NaN is the last one."""
    if x.shape != y.shape or x.dtype != y.dtype:
        raise ValueError(
            f"y: got {y.dtype} of shape {y.shape}, expected {x.dtype} of shape {x.shape}, as x has it"
        )
    bits = 8 * x.dtype.itemsize
    places = []
    for side in (x, y):
        word = np.ascontiguousarray(side).reshape(-1).view(f"u{x.dtype.itemsize}").astype(np.uint64)
        if x.dtype != np.uint16:  # half a parameter of 32 bits is no number of its own
            sign, all_ones = np.uint64(1 << (bits - 1)), np.uint64((1 << bits) - 1)
            word = np.where(word & sign, all_ones - word, word | sign)
            word[np.isnan(side.reshape(-1))] = all_ones
        places.append(word)
    return places[0], places[1]
