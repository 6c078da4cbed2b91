"""Sums in the canonical order: the same bits on every machine, at memory speed, for any number of workers."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import backends
from .backends.arrays import Array, as_plain, check_readable, flatten
from .backends.reference.sums import SUM_BLOCK
from .spread import Spread, Workers, blocks_of, check_cut, check_same, check_workers, do_together, total


def canonical_sum(
    x: Array, axis: int | None = None, *, backend: str = "auto", group: Workers | None = None
) -> NDArray[np.float64]:
    """The sum of ``x`` over one axis (or all of it) in float64, in one fixed order of additions.

    The terms are cut into blocks of 1024. Term i of a block is added to lane i mod 32, which starts at +0;
    the 32 lanes are added half to half; the sums of the blocks are added in pairs. Unlike that of ``np.sum``,
    this order does not depend on the memory layout, the instruction set, the number of threads or the NumPy
    version. The rounding error is that of a pairwise sum.

    Nor does it depend on how many workers hold the terms: with ``group`` each passes its part of ``x``, cut
    along ``axis`` at a multiple of 1024 terms, and gets the sum of all. Sums of blocks travel, or of many
    blocks that are neighbours: for each number of the result some 2 log2(terms/1024) from each worker.

    Args:
        x: float32 or float64, any shape, C order. If it is on a GPU, so is the result.
        axis: the axis to sum over; None sums over all elements in C order.
        backend: "auto" (by the memory in which the array lives), "cpu", "reference" (the NumPy twin: the same
            bits, slowly) or "cuda".
        group: the workers, a group of ``samestep.parallel``. The parts lie on them in order of rank. Each
            holds a multiple of 1024 terms (rows along ``axis``; elements where that is None), but for the
            last that holds any. All call this function; each gets the result, where its part lies.

    Returns:
        float64 array with the shape of ``x`` without ``axis``; 0-d for None. A sum of no terms is +0.0.

    Raises:
        TypeError: ``x`` is no array of float32 or float64, or ``axis`` no whole number; ``group`` is none.
        ValueError: ``x`` is not in C order or not aligned, or has no such axis; an unknown backend; with a
            group, parts that do not fit together. With a group the same error is raised on every worker.

    Source:
        Higham, The accuracy of floating point summation (1993), for the error of pairwise sums.
        docs/numerics.md and csrc/contract/sums.h for the order.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.canonical_sum(np.float32([[1, 2, 3], [4, 5, 6]]), axis=0)
        array([5., 7., 9.])
        >>> float(ss.canonical_sum(np.full(10, 0.1)))
        1.0
    """
    if group is None:
        terms = _check_terms(x, axis, backend)
        sums = backends.module(terms.backend).canonical_sum(terms.x, terms.outer, terms.n, terms.inner)
    else:
        workers = check_workers(group)
        terms, facts = do_together(workers, lambda: _check_terms(x, axis, backend), _facts_of_terms)
        check_same("axis", "the axis", [fact["axis"] for fact in facts])
        check_same("x", "the dtype", [fact["dtype"] for fact in facts])
        check_same("x", "the shape without the axis", [fact["shape"] for fact in facts])
        counts = [fact["terms"] for fact in facts]
        check_cut("x", counts, "elements" if axis is None else "rows along the axis")
        module = backends.module(terms.backend)
        own = backends.in_main_memory(module.block_sums(terms.x, terms.outer, terms.n, terms.inner, False))
        spread = Spread(blocks_of(counts), terms.as_blocks(own))
        (found,) = total(workers, backends.host_module(terms.backend), [spread])
        sums = module.empty(found.size, np.float64, terms.x)
        module.assign(sums, found)
    result: NDArray[np.float64] = sums.reshape(terms.shape)
    return result


def global_norm(arrays: Any, *, backend: str = "auto", group: Workers | None = None) -> float:
    """The Euclidean norm of all elements of all ``arrays`` together.

    ``sqrt(s_1 + s_2 + ...)`` with ``s_k = canonical_sum(g_k*g_k)``, the products in float64. The sums s_k are
    added in pairs, in the order of the list.

    Args:
        arrays: an array, or nested lists, tuples and dicts of arrays; float32 or float64, any shape, C order.
        backend: as in :func:`canonical_sum`.
        group: the workers, a group of ``samestep.parallel``. Each passes as many arrays: its part of every
            one, cut as in :func:`canonical_sum` of its elements. Each gets the norm of the whole.

    Returns:
        The norm; 0.0 without arrays.

    Raises:
        TypeError: an entry is no array of float32 or float64; ``group`` is none.
        ValueError: an array is not in C order or not aligned; an unknown backend; with a group, parts that
            do not fit together. With a group the same error is raised on every worker.

    Source:
        As :func:`canonical_sum`.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.global_norm([np.float32([3.0]), np.float64([4.0])])
        5.0
    """
    if group is None:
        name, checked, _ = _check_arrays(arrays, backend)
        return float(backends.module(name).global_norm(checked))
    workers = check_workers(group)
    (name, checked, paths), facts = do_together(
        workers, lambda: _check_arrays(arrays, backend), _facts_of_arrays
    )
    check_same("arrays", "so many arrays:", [len(fact) for fact in facts])
    module, host = backends.module(name), backends.host_module(name)
    spreads = []
    for i, (path, a) in enumerate(zip(paths, checked, strict=True)):
        check_same(path, "the dtype", [fact[i][0] for fact in facts])
        counts = [fact[i][1] for fact in facts]
        check_cut(path, counts, "elements")
        own = backends.in_main_memory(module.block_sums(a, 1, a.size, 1, True))
        spreads.append(Spread(blocks_of(counts), own.reshape(1, -1, 1)))
    return float(host.norm_of(np.concatenate([np.zeros(0), *total(workers, host, spreads)]), 1.0))


class _Terms(NamedTuple):
    """An array as the sum's kernels see it: (outer, n, inner), summed over n; the result has ``shape``."""

    backend: str
    x: Array
    axis: int | None
    outer: int
    n: int
    inner: int
    shape: tuple[int, ...]

    def as_blocks(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Block sums with their axes: (outer, blocks, inner)."""
        return sums.reshape(self.outer, -(-self.n // SUM_BLOCK), self.inner)


def _check_terms(x: Array, axis: int | None, backend: str) -> _Terms:
    backend, (x,) = backends.choose_backend(backend, {"x": x})
    x = as_plain(check_readable("x", x))
    if axis is None:
        return _Terms(backend, x, None, 1, x.size, 1, ())
    try:
        if isinstance(axis, (bool, np.bool_)):
            raise TypeError
        index = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: got {axis!r}, expected a whole number or None") from None
    if not -x.ndim <= index < x.ndim:
        raise ValueError(f"axis: got {axis}, expected one of the {x.ndim} axes of x with shape {x.shape}")
    index %= x.ndim
    before, after = x.shape[:index], x.shape[index + 1 :]
    return _Terms(backend, x, index, math.prod(before), x.shape[index], math.prod(after), before + after)


def _facts_of_terms(terms: _Terms) -> dict[str, Any]:
    return {"axis": terms.axis, "dtype": terms.x.dtype.name, "shape": terms.shape, "terms": terms.n}


def _check_arrays(arrays: Any, backend: str) -> tuple[str, list[Array], list[str]]:
    """The backend, the arrays, and the path of each."""
    given, names = flatten(arrays, "arrays")
    backend, items = backends.choose_backend(backend, dict(zip(names, given, strict=True)))
    return backend, [as_plain(check_readable(name, a)) for a, name in zip(items, names, strict=True)], names


def _facts_of_arrays(checked: tuple[str, list[Array], list[str]]) -> list[Any]:
    return [[a.dtype.name, a.size] for a in checked[1]]
