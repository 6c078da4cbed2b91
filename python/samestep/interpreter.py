"""Refuses sub-interpreters, before anything compiled is loaded.

There NumPy fails in words about an installation, or warns that it may; and the kernels' bindings may wait for
the main interpreter's lock for ever. CPython's module of interpreters has had two names.
"""

from importlib import import_module


def _is_main() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True  # an implementation of Python that has only one


if not _is_main():
    raise ImportError(
        "samestep: this is a sub-interpreter, in which neither NumPy nor samestep works; use threads "
        "(threading, ThreadPoolExecutor) or processes (multiprocessing, ProcessPoolExecutor)"
    )
