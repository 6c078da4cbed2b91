"""The front door: every array is checked here, once, before the first byte is written.

Arrays that are updated in place are never copied or cast: what cannot be walked in place is an
error that names the argument, what came, what was expected and the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def flatten(params: Any, name: str = "params") -> tuple[list[Any], list[str], list[Any] | None]:
    """The arrays in ``params``, a name for each in messages, and the keys of a dict."""
    if isinstance(params, np.ndarray):
        return [params], [name], None
    if isinstance(params, Mapping):
        keys = list(params)
        return [params[k] for k in keys], [f"{name}[{k!r}]" for k in keys], keys
    if isinstance(params, (list, tuple)):
        return list(params), [f"{name}[{i}]" for i in range(len(params))], None
    raise TypeError(
        f"{name}: got {type(params).__name__}, expected a NumPy array, or a list, tuple or dict of them"
    )


def is_dense(a: Array) -> bool:
    """Whether ``a`` fills one block of memory, its axes in any order."""
    expected = a.itemsize
    for stride, length in sorted(zip(a.strides, a.shape, strict=True)):
        if length != 1:
            if stride != expected:
                return False
            expected *= length
    return True


def same_layout(a: Array, b: Array) -> bool:
    """Whether one flat walk over memory visits the same indices in ``a`` and ``b``."""
    if a.shape != b.shape:
        return False
    walks = zip(a.strides, b.strides, a.shape, strict=True)
    return a.size == 0 or all(sa == sb or length <= 1 for sa, sb, length in walks)


def _check_array(name: str, a: Any, purpose: str) -> None:
    """Raises unless ``a`` is an aligned NumPy array of a working type."""
    if not isinstance(a, np.ndarray) or isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name}: got {type(a).__name__}, expected a NumPy array{purpose}")
    if a.dtype not in DTYPES:
        raise TypeError(
            f"{name}: got dtype {a.dtype.str if not a.dtype.isnative else a.dtype}, expected native "
            f"float32 or float64; convert it once with {name}.astype(np.float32) and use that array"
        )


def _check_aligned(name: str, a: Array) -> None:
    if not a.flags.aligned:
        raise ValueError(
            f"{name}: its data do not lie on a multiple of {a.itemsize} bytes; pass {name}.copy()"
        )


def check_aligned_array(name: str, a: Any) -> None:
    """Raises unless ``a`` is a NumPy array of a working type on an address of its type."""
    _check_array(name, a, "")
    _check_aligned(name, a)


def check_inplace(name: str, a: Any) -> Array:
    """Returns ``a`` if kernels can update it where it lies; else raises."""
    _check_array(name, a, " that can be updated in place")
    if not a.flags.writeable:
        raise ValueError(f"{name}: the array is read-only; pass a writeable one, such as {name}.copy()")
    _check_aligned(name, a)
    if a.size and not is_dense(a):
        raise ValueError(
            f"{name}: strides {a.strides} for shape {a.shape} leave gaps or repeat elements, so it "
            f"cannot be updated in place as one block; pass {name}.copy() and write the result back"
        )
    assert isinstance(a, np.ndarray)
    return a


def check_readable(name: str, a: Any) -> Array:
    """Returns ``a`` if kernels can read it in C order where it lies; else raises."""
    check_aligned_array(name, a)
    if not a.flags.c_contiguous:
        raise ValueError(
            f"{name}: strides {a.strides} for shape {a.shape} are not those of one block in C order; "
            f"pass np.ascontiguousarray({name})"
        )
    assert isinstance(a, np.ndarray)
    return a


def check_disjoint(named: Iterable[tuple[str, Array]]) -> None:
    """Raises if two of the (dense) arrays share memory: a step would update it twice."""
    ranges = sorted((a.ctypes.data, a.ctypes.data + a.nbytes, name) for name, a in named if a.size)
    for (_, end, first), (begin, _, second) in pairwise(ranges):
        if begin < end:
            raise ValueError(
                f"{second}: overlaps {first} in memory, so a step would update it twice; pass each array once"
            )


def gradient_error(name: str, g: Any, w: Array, written: Iterable[Array]) -> Exception | None:
    """Why ``g`` cannot be the gradient of ``w``, or None if it can."""
    if not isinstance(g, np.ndarray) or isinstance(g, np.ma.MaskedArray):
        return TypeError(f"{name}: got {type(g).__name__}, expected a NumPy array or None")
    if g.dtype != w.dtype:
        return TypeError(
            f"{name}: got dtype {g.dtype.str if not g.dtype.isnative else g.dtype}, expected the "
            f"parameter's {w.dtype}; use {name}.astype(np.{w.dtype})"
        )
    if g.shape != w.shape:
        return ValueError(f"{name}: got shape {g.shape}, expected the parameter's {w.shape}")
    if not g.flags.aligned:
        return ValueError(
            f"{name}: its data do not lie on a multiple of {g.itemsize} bytes; pass {name}.copy()"
        )
    if not same_layout(g, w):
        return ValueError(
            f"{name}: strides {g.strides} differ from the parameter's {w.strides}, so the two cannot "
            "be walked together; lay the gradient out like the parameter: "
            f"a = np.empty_like(w); a[...] = {name}"
        )
    low, high = g.ctypes.data, g.ctypes.data + g.nbytes
    if any(a.size and a.ctypes.data < high and low < a.ctypes.data + a.nbytes for a in written):
        return ValueError(
            f"{name}: overlaps a parameter or state in memory, which the step writes; pass {name}.copy()"
        )
    return None


def digest(arrays: Any) -> str:
    """sha256 over the values of one array, or of a list, tuple or dict of them, as 64 hex digits.

    The bytes hashed are the little-endian elements in C order, array after array (a dict in its
    own order); every NaN counts as the one quiet NaN ``0x7fc00000`` or ``0x7ff8000000000000``, since
    a NaN's payload differs between processors. Shapes and dtypes are not hashed. Equal digests
    mean equal bits, -0 and subnormals included.

    Args:
        arrays: float32 or float64 arrays of any shape and layout.

    Raises:
        TypeError: something else is among them.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.digest(np.zeros(3))[:16] == ss.digest(-np.zeros(3))[:16]
        False
        >>> ss.digest([np.float64([1.0, np.nan])]) == ss.digest([np.float64([1.0, -np.nan])])
        True
    """
    items, names, _ = flatten(arrays, "arrays")
    import hashlib  # here: it loads OpenSSL

    sha = hashlib.sha256()
    for a, name in zip(items, names, strict=True):
        if not isinstance(a, np.ndarray) or a.dtype.newbyteorder("=") not in DTYPES:
            got = a.dtype if isinstance(a, np.ndarray) else type(a).__name__
            raise TypeError(f"{name}: got {got}, expected a float32 or float64 array")
        little = np.array(a, dtype=a.dtype.newbyteorder("<"), order="C")
        quiet = 0x7FC00000 if a.itemsize == 4 else 0x7FF8000000000000
        little.view(f"<u{a.itemsize}")[np.isnan(little)] = quiet
        sha.update(little.tobytes())
    return sha.hexdigest()
