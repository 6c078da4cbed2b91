"""Arrays on a GPU: CuPy's views of those of other libraries, and memory of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from ..arrays import Array, lives_on_gpu
from .device import get_cupy


def views(named: Mapping[str, Any], written: frozenset[str]) -> list[Any]:
    """CuPy's views of arrays that are on one GPU, whatever library they come from; None stays None."""
    out = [None if a is None else _view(name, a, name in written) for name, a in named.items()]
    first, where = "", None
    for name, a in zip(named, out, strict=True):
        if a is None:
            continue
        if where is None:
            first, where = name, a.device.id
        elif a.device.id != where:
            raise ValueError(
                f"{name}: lives on GPU {a.device.id}, expected GPU {where} as {first}; move it there with "
                f"cupy.asarray under `with cupy.cuda.Device({where}):`"
            )
    return out


def _view(name: str, a: Any, written: bool) -> Any:
    cupy = get_cupy()
    if isinstance(a, cupy.ndarray):
        return a
    kind = f"{type(a).__module__}.{type(a).__qualname__}"
    if not lives_on_gpu(a):
        raise TypeError(
            f"{name}: got {kind}, which is not on a GPU, expected an array that is; move it there once, "
            f"for example with cupy.asarray({name})"
        )
    try:
        view, may_write = _shared(a, written)
    except _CANNOT_SHARE as error:
        raise TypeError(
            f"{name}: got {kind}, whose memory cannot be shared ({error}); pass a float32 or float64 array "
            f"that takes no part in automatic differentiation, for torch {name}.detach()"
        ) from error
    if not may_write:
        raise ValueError(f"{name}: the array is read-only; pass a writeable one, such as cupy.array({name})")
    return view


_CANNOT_SHARE = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)
_READ_ONLY, _IS_COPIED = 1, 2  # flags of DLPack
_is_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Export:
    """Another library's array on its way through cupy.from_dlpack, which does not look at the flags."""

    def __init__(self, a: Any) -> None:
        self._a = a
        self.flags = 0  # versions of DLPack before 1 have none: they refuse what is read-only

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self._a.__dlpack_device__()
        return device

    def __dlpack__(self, **how: Any) -> Any:
        capsule, name = self._a.__dlpack__(**how), b"dltensor_versioned"
        if _is_capsule(capsule, name):  # two numbers of the version, two pointers, the flags
            self.flags = ctypes.c_uint64.from_address(_pointer_in(capsule, name) + 24).value
        return capsule


def _shared(a: Any, written: bool) -> tuple[Any, bool]:
    """CuPy's view of another library's array, and whether it may be used so.

    By DLPack, which has CuPy's current stream wait for the library's, or by the CUDA array interface. An
    array whose library names no stream there has its GPU waited for.
    """
    cupy, error = get_cupy(), None
    if hasattr(type(a), "__dlpack__"):
        export = _Export(a)
        try:
            view = cupy.from_dlpack(export)
        except _CANNOT_SHARE as raised:  # it may be read-only, or on a stream that it cannot name
            error = raised
        else:
            if not written:
                return view, True
            if export.flags & _IS_COPIED:
                raise BufferError("its library hands out a copy")
            return view, not (export.flags & _READ_ONLY or _is_read_only(a))
    try:
        interface = a.__cuda_array_interface__
        view = cupy.asarray(a)
    except _CANNOT_SHARE as raised:
        raise (error or raised) from None
    if interface.get("version", 0) < 3:
        view.device.synchronize()
    return view, not (written and interface["data"][1])


def _is_read_only(a: Any) -> bool:
    """Whether the CUDA array interface says so: libraries with a DLPack before 1 may leave it at that."""
    try:
        return bool(a.__cuda_array_interface__["data"][1])
    except _CANNOT_SHARE:
        return False


def gradient_views(grads: Sequence[Any], w: Any) -> list[Any]:
    """CuPy's views of gradients of whatever library, as seen from where ``w`` is; None stays None."""
    kind = get_cupy().ndarray
    with w.device:
        return [g if g is None or isinstance(g, kind) else gradient_view(g) for g in grads]


def gradient_view(g: Any) -> Any:
    """CuPy's view of another library's gradient; what has none is left to whoever says what is wrong."""
    try:
        return _view("grads", g, False)
    except TypeError:
        return g


def zeros_like(a: Any, dtype: Any = None) -> Any:
    """Zeros with the layout of ``a``, where it is, and with its dtype if none is given."""
    with a.device:
        return get_cupy().zeros_like(a, dtype)


def empty_like(a: Any) -> Any:
    """Memory with the layout of ``a``, where it is."""
    with a.device:
        return get_cupy().empty_like(a)


def empty(n: int, dtype: Any, beside: Any) -> Any:
    """Memory for n values, where ``beside`` is."""
    with beside.device:
        return get_cupy().empty(n, dtype)


def contiguous(a: Any) -> Any:
    """``a`` itself, or a copy in C order."""
    with a.device:
        return a if a.flags.c_contiguous else a.copy()


def frozen(a: Any) -> Any:
    """A copy in C order; a GPU knows no read-only memory."""
    with a.device:
        return a.copy()


def place(a: Array) -> Any:
    """A copy of a NumPy array on the current GPU."""
    return get_cupy().asarray(a)


def to_host(a: Any) -> Array:
    """A copy in main memory; waits for what is under way."""
    host: Array = a.get()
    return host


def assign(to: Any, values: Any) -> None:
    """Overwrites an array with values in main memory, or with one number."""
    with to.device:
        to[...] = get_cupy().asarray(values)
