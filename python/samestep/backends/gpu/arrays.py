"""Arrays on a GPU: CuPy's views of other libraries' arrays, and new memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import Array, lives_on_gpu
from .device import get_cupy
from .storage import convert


def cupy_views(named: Mapping[str, Any], written: frozenset[str]) -> list[Any]:
    """CuPy's views of arrays of any library, which must all be on one GPU; None stays None.

    Args:
        named: the arrays by name.
        written: the names of those that are to be written.

    Raises:
        ValueError: arrays on different GPUs, or a read-only array that is to be written.
        TypeError: an array that is not on a GPU, or whose library does not share the memory.
    """
    found = [None if a is None else _view(name, a, name in written) for name, a in named.items()]
    first, device = "", None
    for name, a in zip(named, found, strict=True):
        if a is None:
            continue
        if device is None:
            first, device = name, a.device.id
        elif a.device.id != device:
            raise ValueError(
                f"{name}: lives on GPU {a.device.id}, expected GPU {device} as {first}; move it there with "
                f"cupy.asarray under `with cupy.cuda.Device({device}):`"
            )
    return found


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
        view, is_allowed = _share(a, written)
    except _SHARING_ERRORS as error:
        raise TypeError(
            f"{name}: got {kind}, whose memory cannot be shared ({error}); pass an array that takes no part "
            f"in automatic differentiation, for torch {name}.detach()"
        ) from error
    if not is_allowed:
        raise ValueError(f"{name}: the array is read-only; pass a writeable one, such as cupy.array({name})")
    return view


_SHARING_ERRORS = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)
_READ_ONLY, _IS_COPIED = 1, 2  # flags of DLPack


def _flags_of(capsule: Any) -> int:
    """DLPack's; before its version 1 there are none, and libraries refuse to export what is read-only."""
    import ctypes  # CPython may be built without it, and needs it here alone

    name, words = b"dltensor_versioned", (ctypes.py_object, ctypes.c_char_p)
    is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, *words)(("PyCapsule_IsValid", ctypes.pythonapi))
    if not is_valid(capsule, name):
        return 0
    pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, *words)(("PyCapsule_GetPointer", ctypes.pythonapi))
    # DLManagedTensorVersioned: a version of 8 bytes, 2 pointers, the flags.
    return ctypes.c_uint64.from_address(pointer_in(capsule, name) + 24).value


class _Export:
    """Passes another library's array to cupy.from_dlpack and keeps DLPack's flags, which CuPy ignores."""

    def __init__(self, a: Any) -> None:
        self._a = a
        self.flags = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self._a.__dlpack_device__()
        return device

    def __dlpack__(self, **arguments: Any) -> Any:
        capsule = self._a.__dlpack__(**arguments)
        self.flags = _flags_of(capsule)
        return capsule


def _share(a: Any, written: bool) -> tuple[Any, bool]:
    """CuPy's view of another library's array, and whether it may be used: read-only memory is not written.

    DLPack comes first: it makes CuPy's current stream wait for the library's. Else the CUDA array interface
    is used; before its version 3 it names no stream to wait for, so the call waits for the whole GPU.
    """
    cupy, error = get_cupy(), None
    if hasattr(type(a), "__dlpack__"):
        export = _Export(a)
        try:
            view = cupy.from_dlpack(export)
        except _SHARING_ERRORS as raised:  # the array is read-only, or the library cannot name its stream
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
    except _SHARING_ERRORS as raised:
        raise (error or raised) from None
    if interface.get("version", 0) < 3:
        view.device.synchronize()
    return view, not (written and interface["data"][1])


def _is_read_only(a: Any) -> bool:
    """Whether the CUDA array interface calls it read-only, which DLPack before version 1 cannot say."""
    try:
        return bool(a.__cuda_array_interface__["data"][1])
    except _SHARING_ERRORS:
        return False


def gradient_views(grads: Sequence[Any], w: Any) -> list[Any]:
    """CuPy's views of gradients of any library, on the device of ``w``; None stays None."""
    kind = get_cupy().ndarray
    with w.device:
        return [g if g is None or isinstance(g, kind) else gradient_view(g) for g in grads]


def gradient_view(g: Any, written: bool = False) -> Any:
    """CuPy's view of another library's gradient; without one ``g``, which the check of gradients refuses."""
    try:
        return _view("grads", g, written)
    except (TypeError, ValueError):
        return g


def zeros_like(a: Any, dtype: Any = None) -> Any:
    """Zeros with the layout of ``a``, on its device, and with its dtype if none is given."""
    with a.device:
        return get_cupy().zeros_like(a, dtype)


def empty_like(a: Any) -> Any:
    """Memory with the layout of ``a``, on its device."""
    with a.device:
        return get_cupy().empty_like(a)


def empty(n: int, dtype: Any, like: Any) -> Any:
    """Memory for n values, on the device of ``like``."""
    with like.device:
        return get_cupy().empty(n, dtype)


def contiguous(a: Any) -> Any:
    """``a`` itself, or a copy in C order."""
    with a.device:
        return a if a.flags.c_contiguous else a.copy()


def copy(a: Any) -> Any:
    """A copy in C order, on the device of ``a``."""
    with a.device:
        return a.copy()


def read_only_copy(a: Any) -> Any:
    """A copy in C order; a GPU has no read-only memory."""
    return copy(a)


def from_host(a: Array) -> Any:
    """A copy of a NumPy array on the current GPU."""
    return get_cupy().asarray(a)


def to_host(a: Any) -> Array:
    """A copy in main memory, made when all kernels before it have run."""
    host: Array = a.get()
    return host


def assign(to: Any, values: Any) -> None:
    """Overwrites an array with the values of a NumPy array, of a GPU's, or with one number.

    Where the GPU's is of another dtype, it is of the same layout.
    """
    with to.device:
        if not isinstance(values, get_cupy().ndarray):
            to[...] = get_cupy().asarray(np.asarray(values, to.dtype))
        elif values.dtype == to.dtype:
            to[...] = values
        else:
            convert(to, values)
