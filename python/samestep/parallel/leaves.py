"""Means of leaves, whoever computed them and in whatever order they came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import backends
from ..arguments import finite_number
from ..backends import arrays
from ..backends.arrays import Array
from ..optim.gradients import Structure
from ..tree import nodes_of
from .leaf_sums import LeafSums, total_weight


def mean_of_leaves(leaves: Sequence[Any], *, backend: str = "auto") -> Any:
    """The mean of leaves 0..M-1: ``(x_0 + x_1 + ...)/M``, added along one tree.

    Neighbours are added, 0+1, 2+3, ..., then these sums, an odd last one going up as it is; then comes one
    division. Each is rounded to the arrays' type, float32 for 16 bits. A worker that holds some leaves may
    add what of the tree it has: the bits are those of this function.

    Args:
        leaves: M arrays, or lists, tuples or dicts of arrays, all of one structure, with the same shapes and
            dtypes: float16, bfloat16, float32 or float64, any layout. They are only read.
        backend: "auto": where the arrays live; "cpu" and "cuda": the compiled kernels; "reference": the NumPy
            twin, with the same bits.

    Returns:
        New arrays in the structure of a leaf; lists in the place of tuples.

    Raises:
        TypeError, ValueError: no leaves, or one is None or not like the first.

    Source:
        docs/numerics.md, "Leaves".

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.parallel.mean_of_leaves([np.array([1.0, 2.0]), np.array([3.0, 5.0])])
        array([2. , 3.5])
    """
    return weighted_mean(leaves, [1.0] * _count(leaves), backend=backend)


def weighted_mean(leaves: Sequence[Any], weights: Sequence[float], *, backend: str = "auto") -> Any:
    """The weighted mean ``(v_0*x_0 + v_1*x_1 + ...)/(v_0 + v_1 + ...)``, added along one tree.

    Args:
        leaves: as for ``mean_of_leaves``. One of weight 0 is not read: it may hold anything, or be None.
        weights: M finite numbers of 0 or more, such as numbers of examples; not all 0. They are added in
            float64 and rounded to the arrays' type.
        backend: as for ``mean_of_leaves``.

    Returns:
        New arrays in the structure of a leaf.

    Raises:
        TypeError, ValueError: no leaves, one is not like the others, or the weights do not fit, each or
            their sum: where they are used in float32, that must not make 0 or infinity of them.

    Source:
        McMahan et al., Communication-efficient learning of deep networks from decentralized data (2017), for
        averages weighted by examples. docs/numerics.md, "Leaves", for the order.

    Example:
        >>> import numpy as np, samestep as ss
        >>> clients = {"w": np.array([1.0, 1.0])}, {"w": np.array([4.0, 7.0])}
        >>> ss.parallel.weighted_mean(clients, [2, 1])
        {'w': array([2., 3.])}
    """
    n = _count(leaves)
    numbers = _check_weights(weights, n)
    counted = [number for number in range(n) if numbers[number] > 0]
    like = leaves[counted[0]]
    given, paths = arrays.flatten(like, "")
    first = [f"leaves[{counted[0]}]{path}" for path in paths]
    for name, x in zip(first, given, strict=True):
        arrays.check_array(name, x, "", halves=True)
    backend, given = backends.choose_backend(backend, dict(zip(first, given, strict=True)))
    module = backends.module(backend)
    structure = Structure(like, len(given), "leaves")
    sums = LeafSums(given, n, range(n), module)
    for number in range(n):
        flat: Any = [None] * len(given)
        if numbers[number] > 0:
            flat = structure.flatten(leaves[number])
            if any(x is None for x in flat):
                raise TypeError(f"leaves[{number}]: got None, expected arrays where the weight is above 0")
        sums.put(number, flat, numbers[number], [f"leaves[{number}]{path}" for path in paths])
    weight = total_weight(numbers, backends.host_module(backend), sums.narrowest)
    (total,) = sums.take(nodes_of(0, n, n))
    sums.divide(total, weight, 0, sums.vector.blocks)
    means = [
        module.copy(sums.stored(sums.vector.whole(total, i), i).reshape(x.shape)) for i, x in enumerate(given)
    ]
    return structure.unflatten(means)


def _check_weights(weights: Any, n: int) -> Array:
    if not isinstance(weights, (Sequence, np.ndarray)) or isinstance(weights, str):
        raise TypeError(f"weights: got {type(weights).__name__}, expected a list of numbers")
    if len(weights) != n:
        raise ValueError(f"weights: got {len(weights)}, expected {n}, one for each leaf")
    numbers = [finite_number(f"weights[{i}]", weight, at_least=0.0) for i, weight in enumerate(weights)]
    if not any(numbers):
        raise ValueError("weights: got only zeros, expected some above 0")
    return np.array(numbers)


def _count(leaves: Any) -> int:
    if not isinstance(leaves, Sequence) or isinstance(leaves, str):
        raise TypeError(f"leaves: got {type(leaves).__name__}, expected a list of arrays or of structures")
    if not leaves:
        raise ValueError("leaves: got none, expected at least one")
    return len(leaves)
