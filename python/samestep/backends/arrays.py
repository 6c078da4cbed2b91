"""The front door: every array is checked here, once, before the first byte is written.

An array that is to be updated in place is never copied or cast. If kernels cannot update it where it is,
an error names the argument, what came, what was expected and the fix.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
HALVES = ("float16", "bfloat16")  # names: NumPy has no bfloat16 of its own, ml_dtypes brings it

CUDA_DEVICES = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged


def lives_on_gpu(a: Any) -> bool:
    """Whether ``a`` is an array on an NVIDIA GPU, of whatever library."""
    kind = type(a)
    if kind is np.ndarray:
        return False
    if hasattr(kind, "__dlpack_device__"):
        try:
            return bool(a.__dlpack_device__()[0] in CUDA_DEVICES)
        except Exception:  # not one array, such as JAX's arrays that are spread over several devices
            return False
    return hasattr(kind, "__cuda_array_interface__")


def is_array(a: Any) -> bool:
    """Whether ``a`` is one array: a NumPy array, or one on a GPU."""
    return isinstance(a, np.ndarray) or lives_on_gpu(a)


def as_plain(a: Any) -> Any:
    """An array of a subclass of np.ndarray as a plain view; masked arrays and all else as they are."""
    if type(a) is np.ndarray or not isinstance(a, np.ndarray) or isinstance(a, np.ma.MaskedArray):
        return a
    return np.asarray(a)


def address(a: Any) -> int:
    """The address of the first element."""
    return int(a.__array_interface__["data"][0] if isinstance(a, np.ndarray) else a.data.ptr)


def may_overlap(a: Any, b: Any) -> bool:
    """Whether the address ranges of two arrays meet."""
    if isinstance(a, np.ndarray):
        return np.may_share_memory(a, b)
    return bool(address(a) < address(b) + b.nbytes and address(b) < address(a) + a.nbytes)


class Layout(NamedTuple):
    """An array's dtype, shape and strides when it was bound. NumPy lets all three be set later."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, a: Any) -> Layout:
        return cls(a.dtype, a.shape, a.strides)


def flatten(params: Any, name: str = "params") -> tuple[list[Any], list[str]]:
    """The arrays in nested lists, tuples and dicts, and the path of each, such as ``params['W'][0]``."""
    found: list[Any] = []
    names: list[str] = []

    def collect(branch: Any, path: str, enclosing: dict[int, str]) -> None:
        if isinstance(branch, Mapping):
            entries = [(branch[key], f"{path}[{key!r}]") for key in branch]
        elif isinstance(branch, (list, tuple)):
            entries = [(entry, f"{path}[{i}]") for i, entry in enumerate(branch)]
        else:
            found.append(branch)
            names.append(path)
            return
        if id(branch) in enclosing:
            raise ValueError(
                f"{path}: is {enclosing[id(branch)]} itself, in which it lies; expected arrays, or lists, "
                "tuples and dicts of them that do not contain themselves"
            )
        for entry, entry_path in entries:
            collect(entry, entry_path, {**enclosing, id(branch): path})

    collect(params, name, {})
    return found, names


def is_dense(a: Array) -> bool:
    """Whether ``a`` fills one block of memory, its axes in any order."""
    expected = a.itemsize
    for stride, length in sorted(zip(a.strides, a.shape, strict=True)):
        if length != 1:
            if stride != expected:
                return False
            expected *= length
    return True


def same_layout(a: Array | Layout, b: Array | Layout) -> bool:
    """Whether the elements of ``a`` and ``b`` have the same order in memory."""
    if a.shape != b.shape:
        return False
    axes = zip(a.strides, b.strides, a.shape, strict=True)
    return 0 in a.shape or all(sa == sb or length <= 1 for sa, sb, length in axes)


def is_half(a: Array) -> bool:
    """Whether ``a`` is float16 or bfloat16 in the machine's byte order."""
    return a.dtype.name in HALVES and a.dtype.isnative


def check_array(name: str, a: Any, purpose: str, halves: bool = False) -> None:
    """Raises unless ``a`` is an array of float32 or float64, or with ``halves`` of 16 bits."""
    if not is_array(a) or isinstance(a, np.ma.MaskedArray):
        fix = _conversion_hint(name, a)
        raise TypeError(f"{name}: got {type(a).__name__}, expected a NumPy array{purpose}{fix}")
    if a.dtype not in DTYPES and not (halves and is_half(a)):
        expected = "float32, float64, float16 or bfloat16" if halves else "float32 or float64"
        dtype = a.dtype if a.dtype.isnative else a.dtype.str
        got = f"{name}: got dtype {dtype}, expected native {expected}"
        if a.dtype.names:
            raise TypeError(f"{got}; pass its fields one by one, such as {name}[{a.dtype.names[0]!r}]")
        if a.dtype.kind == "c":
            raise TypeError(f"{got}; pass its parts, {name}.view(np.float{4 * a.itemsize})")
        nearest = "float32" if a.itemsize <= 4 else "float64"
        raise TypeError(f"{got}; convert it once with {name}.astype(np.{nearest}) and use that array")


def _conversion_hint(name: str, a: Any) -> str:
    """How to make an array of a value that is none, or "" if the fix is not known."""
    if isinstance(a, np.ma.MaskedArray):
        return f"; pass {name}.filled(value), with a value for what is masked"
    if isinstance(a, np.generic):
        return f"; it is a scalar, of which np.array({name}) makes an array"
    if isinstance(a, (list, tuple, int, float)) or hasattr(type(a), "__array__"):
        return f"; make one of it with np.array({name}, np.float32), or np.float64"
    return ""


def _is_aligned(a: Array) -> bool:
    return a.flags.aligned if isinstance(a, np.ndarray) else address(a) % a.itemsize == 0


def _is_writeable(a: Array) -> bool:
    return getattr(a.flags, "writeable", True)  # CuPy's flags have no such entry: gpu/arrays.py checks there


def is_in_place(a: Array) -> bool:
    """Whether kernels can write to the memory of ``a``: it is writeable and aligned."""
    return _is_writeable(a) and _is_aligned(a)


def _alignment_error(name: str, a: Array) -> Exception | None:
    """The error of an array whose address is no multiple of its item size, else None."""
    if _is_aligned(a):
        return None
    return ValueError(f"{name}: its data do not lie on a multiple of {a.itemsize} bytes; pass {name}.copy()")


def check_aligned(name: str, a: Array) -> None:
    """Raises unless the address of ``a`` is a multiple of its item size."""
    if error := _alignment_error(name, a):
        raise error


def check_aligned_array(name: str, a: Any) -> None:
    """Raises unless ``a`` is an aligned array of float32 or float64."""
    check_array(name, a, "")
    check_aligned(name, a)


def check_writeable(name: str, a: Array, fix: str = "") -> None:
    """Raises if ``a`` is read-only; ``fix`` tells the user what to do."""
    if not _is_writeable(a):
        fix = fix or f"pass a writeable one, such as {name}.copy()"
        raise ValueError(f"{name}: the array is read-only; {fix}")


def check_inplace(name: str, a: Any, halves: bool = False) -> Array:
    """Returns ``a`` if kernels can update it in place, else raises; ``halves`` allows 16-bit types."""
    check_array(name, a, " that can be updated in place", halves)
    check_writeable(name, a)
    check_aligned(name, a)
    if a.size and not is_dense(a):
        raise ValueError(
            f"{name}: strides {a.strides} for shape {a.shape} leave gaps or repeat elements, so it "
            f"cannot be updated in place as one block; pass {name}.copy() and write the result back"
        )
    checked: Array = a
    return checked


def check_bound(name: str, a: Array, bound: Layout) -> None:
    """Raises if dtype, shape or strides of ``a`` have been set since it was bound."""
    now = Layout.of(a)
    for what, got, expected in zip(Layout._fields, now, bound, strict=True):
        if got != expected and not (what == "strides" and same_layout(now, bound)):
            are = "are" if what == "strides" else "is"
            raise ValueError(
                f"{name}: its {what} {are} now {got}, expected {expected} as at the start; set it back, or "
                "make a new optimizer"
            )


def check_readable(name: str, a: Any) -> Array:
    """Returns ``a`` if it is aligned and in C order, as kernels read it; else raises."""
    check_aligned_array(name, a)
    if not a.flags.c_contiguous:
        raise ValueError(
            f"{name}: strides {a.strides} for shape {a.shape} are not those of one block in C order; "
            f"pass np.ascontiguousarray({name})"
        )
    checked: Array = a
    return checked


def check_disjoint(named: Iterable[tuple[str, Array]]) -> None:
    """Raises if two of the arrays, all of them dense, share memory."""
    ranges = sorted((*_extent(a), name) for name, a in named if a.size)
    for (_, end, first), (begin, _, second) in pairwise(ranges):
        if begin < end:
            raise ValueError(
                f"{second}: overlaps {first} in memory, so a step would update it twice; pass each array once"
            )


def _extent(a: Array) -> tuple[int, int]:
    """The addresses of a dense array's first byte and of the one after its last."""
    begin = address(a)
    return begin, begin + a.nbytes


def extents(written: Iterable[Array]) -> list[tuple[int, int]]:
    """The address ranges of disjoint arrays, sorted; :func:`gradient_error` searches them."""
    return sorted(_extent(a) for a in written if a.size)


def gradient_error(name: str, g: Any, w: Layout, written: list[tuple[int, int]]) -> Exception | None:
    """Why ``g`` cannot be the gradient of a parameter that was bound as ``w``, or None if it can.

    ``written`` comes from :func:`extents`.
    """
    if error := _kind_error(name, g, w) or _alignment_error(name, g):
        return error
    if not same_layout(g, w):
        return ValueError(
            f"{name}: strides {g.strides} differ from the parameter's {w.strides}, so the two cannot "
            "be walked together; lay the gradient out like the parameter (a = np.empty_like(w); a[...] = "
            f"{name}), or make the optimizer with copy_grads=True"
        )
    low, high = _extent(g)
    before = bisect_left(written, (high, 0))  # those that begin before g ends; the last of them ends last
    if g.size and before and written[before - 1][1] > low:
        return ValueError(
            f"{name}: overlaps a parameter or state in memory, which the step writes; pass {name}.copy()"
        )
    return None


def has_other_order(g: Any, w: Array) -> bool:
    """Whether ``g`` is a gradient of ``w`` but for the order of its elements in memory."""
    kind = np.ndarray if isinstance(w, np.ndarray) else type(w)
    return isinstance(g, kind) and _kind_error("", g, Layout.of(w)) is None and not same_layout(g, w)


def _kind_error(name: str, g: Any, w: Layout) -> Exception | None:
    """Why ``g`` has not the type and shape of ``w``, or None if it has them."""
    if not is_array(g) or isinstance(g, np.ma.MaskedArray):
        return TypeError(
            f"{name}: got {type(g).__name__}, expected a NumPy array or None; "
            f"use np.asarray({name}, np.{w.dtype})"
        )
    if g.dtype != w.dtype:
        return TypeError(
            f"{name}: got dtype {g.dtype.str if not g.dtype.isnative else g.dtype}, expected the "
            f"parameter's {w.dtype}; use {name}.astype(np.{w.dtype})"
        )
    if g.shape != w.shape:
        fix = f"; use {name}.reshape({w.shape})" if g.size == math.prod(w.shape) else ""
        return ValueError(f"{name}: got shape {g.shape}, expected the parameter's {w.shape}{fix}")
    return None


def _half_bytes(a: Array) -> bytes:
    """The little-endian bytes of float16 or bfloat16 values, every NaN as the one quiet NaN."""
    native = np.array(a, dtype=a.dtype.newbyteorder("="), order="C")
    bits = native.view(np.uint16)
    infinity, quiet = (0x7C00, 0x7E00) if native.dtype == np.float16 else (0x7F80, 0x7FC0)
    return np.where((bits & 0x7FFF) > infinity, quiet, bits).astype("<u2").tobytes()


def digest(arrays: Any) -> str:
    """sha256, in 64 hexadecimal digits, of the values of one array, or of nested lists, tuples and dicts.

    The hashed bytes are the little-endian elements in C order, array after array, dicts in their own
    order. Every NaN is hashed as the quiet NaN ``0x7fc00000`` (float32), ``0x7ff8000000000000`` (float64),
    ``0x7e00`` (float16) or ``0x7fc0`` (bfloat16), since a NaN's payload differs between processors. Shapes
    and dtypes are not hashed. Equal digests mean equal bits, -0 and subnormals included.

    Args:
        arrays: float32, float64, float16 or bfloat16 arrays of any shape, layout and byte order, NumPy's
            or CuPy's.

    Raises:
        TypeError: an array of another dtype, or no array.
        ValueError: a list or dict contains itself.

    Source:
        FIPS 180-4 for sha256; the bytes are those of docs/numerics.md.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.digest(np.zeros(3))[:16] == ss.digest(-np.zeros(3))[:16]
        False
        >>> ss.digest([np.float64([1.0, np.nan])]) == ss.digest([np.float64([1.0, -np.nan])])
        True
    """
    items, names = flatten(arrays, "arrays")
    import hashlib  # here: it loads OpenSSL

    sha = hashlib.sha256()
    for a, name in zip(items, names, strict=True):
        if lives_on_gpu(a) and hasattr(a, "get"):
            a = a.get()
        is_plain = isinstance(a, np.ndarray) and not isinstance(a, np.ma.MaskedArray)
        if not is_plain or (a.dtype.newbyteorder("=") not in DTYPES and a.dtype.name not in HALVES):
            got = a.dtype if is_plain else type(a).__name__
            raise TypeError(f"{name}: got {got}, expected a float32, float64, float16 or bfloat16 array")
        if a.itemsize == 2:
            sha.update(_half_bytes(a))
            continue
        little = np.array(a, dtype=a.dtype.newbyteorder("<"), order="C")
        quiet = 0x7FC00000 if a.itemsize == 4 else 0x7FF8000000000000
        little.view(f"<u{a.itemsize}")[np.isnan(little)] = quiet
        sha.update(little.tobytes())
    return sha.hexdigest()


# What a backend offers besides kernels, for arrays in main memory. gpu/arrays.py has the GPU's.


def zeros_like(a: Array, dtype: Any = None) -> Array:
    """Zeros with the layout of ``a``, and with its dtype if none is given."""
    zeros: Array = np.zeros_like(a, dtype, subok=False)
    return zeros


def empty_like(a: Array) -> Array:
    """Memory with the layout of ``a``."""
    return np.empty_like(a, subok=False)


def gradient_views(grads: Sequence[Any], w: Array) -> list[Any]:
    """Gradients of ``w`` as arrays of the backend's kind, if possible; None stays None."""
    return list(grads)


def empty(n: int, dtype: Any, like: Array) -> Array:
    """Memory for n values, on the device of ``like``."""
    return np.empty(n, dtype)


def contiguous(a: Array) -> Array:
    """``a`` itself, or an aligned copy in C order."""
    return np.require(a, requirements=("C", "A"))


def copy(a: Array) -> Array:
    """A copy in C order."""
    return np.array(a, order="C")


def read_only_copy(a: Array) -> Array:
    """A read-only copy in C order."""
    copied = copy(a)
    copied.flags.writeable = False
    return copied


def from_host(a: Array) -> Array:
    """A NumPy array in the backend's memory: here itself."""
    return a


def to_host(a: Array) -> Array:
    """A copy as a NumPy array."""
    return a.copy()


def assign(to: Array, values: Any) -> None:
    """Overwrites an array with the values of a NumPy array, or with one number."""
    to[...] = values
