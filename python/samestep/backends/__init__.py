"""Which backend runs: the one asked for, or, for "auto", the one where the arrays live."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from .arrays import lives_on_gpu

BACKENDS = {"cpu": "cpu", "reference": "reference", "cuda": "gpu"}  # and the modules of this package


@functools.cache
def module(backend: str) -> ModuleType:
    """The backend itself, imported when it is first asked for."""
    return importlib.import_module(f".{BACKENDS[backend]}", __package__)


def enter(
    backend: str, read: Mapping[str, Any], written: Mapping[str, Any] | None = None
) -> tuple[str, list[Any]]:
    """The backend's name, and all of the arrays as that backend sees them; no copies.

    Args:
        backend: "auto", "cpu", "reference" or "cuda".
        read, written: the arrays by name; None stays None. Those on a GPU may be of any library.

    Raises:
        ValueError: an unknown backend; arrays on different GPUs; a read-only one that is to be written.
        TypeError: arrays in main memory beside some on a GPU, where the backend does not reach, or whose
            library does not share their memory.
        ImportError, RuntimeError: there is no CuPy, or no GPU, for those that are on one.
    """
    check(backend)
    named = {**read, **(written or {})}
    there = [name for name, a in named.items() if a is not None and lives_on_gpu(a)]
    if backend in ("cpu", "reference") and there:
        raise TypeError(
            f"{there[0]}: lives on a GPU, where backend={backend!r} does not reach; leave backend out, or "
            f"pass a copy in main memory, for example cupy.asnumpy({there[0]})"
        )
    if backend == "cuda" or there:
        return "cuda", module("cuda").views(named, frozenset(written or ()))
    return "cpu" if backend == "auto" else backend, list(named.values())


def check(backend: str) -> None:
    """Raises ValueError if there is no backend of that name."""
    if not isinstance(backend, str) or backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(('auto', *BACKENDS))}")
