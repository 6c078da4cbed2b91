"""The choice of the backend: the named one or, for "auto", that of the memory in which the arrays live."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from .arrays import lives_on_gpu

# Name of each backend, and of its module in this package.
BACKENDS = {"cpu": "cpu", "reference": "reference", "cuda": "gpu"}


@functools.cache
def module(backend: str) -> ModuleType:
    """The module of a backend, imported at the first call."""
    return importlib.import_module(f".{BACKENDS[backend]}", __package__)


def choose_backend(
    backend: str, read: Mapping[str, Any], written: Mapping[str, Any] | None = None
) -> tuple[str, list[Any]]:
    """Chooses the backend for some arrays.

    Args:
        backend: "auto", "cpu", "reference" or "cuda".
        read, written: the arrays by name; None stays None. Arrays on a GPU may be of any library.

    Returns:
        The backend's name, and all of the arrays, ``read`` before ``written``: as they are, or for "cuda" as
        CuPy's views of the same memory. Nothing is copied.

    Raises:
        ValueError: an unknown backend; arrays on different GPUs; a read-only array in ``written``.
        TypeError: an array on a GPU for a backend of main memory; some arrays on a GPU and some not; an
            array on a GPU whose library does not share the memory.
        ImportError, RuntimeError: an array on a GPU, or backend "cuda", without CuPy or without a GPU.
    """
    check_name(backend)
    named = {**read, **(written or {})}
    on_gpu = [name for name, a in named.items() if a is not None and lives_on_gpu(a)]
    if backend in ("cpu", "reference") and on_gpu:
        raise TypeError(
            f"{on_gpu[0]}: lives on a GPU, where backend={backend!r} does not reach; leave backend out, or "
            f"pass a copy in main memory, for example cupy.asnumpy({on_gpu[0]})"
        )
    if backend == "cuda" or on_gpu:
        return "cuda", module("cuda").cupy_views(named, frozenset(written or ()))
    return "cpu" if backend == "auto" else backend, list(named.values())


def host_module(backend: str) -> ModuleType:
    """The module for what lies in main memory, whichever backend the arrays have."""
    return module("cpu" if backend == "cuda" else backend)


def in_main_memory(a: Any) -> Any:
    """A NumPy array: ``a`` itself, or a copy of an array of CuPy's."""
    return module("cuda").to_host(a) if lives_on_gpu(a) else a


def check_name(backend: str) -> None:
    """Raises ValueError if there is no backend of that name."""
    if not isinstance(backend, str) or backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(('auto', *BACKENDS))}")
