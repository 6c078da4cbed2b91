"""The x86-64 control register of the tests' own thread: another floating-point mode for a while."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the x86-64 control register")

FTZ, DAZ = 0x8000, 0x0040  # results flushed to zero, operands taken as zero
MODES = [
    pytest.param(flush | rounding << 13, id=f"{name}-{direction}")
    for name, flush in (("ieee", 0), ("ftz", FTZ), ("daz", DAZ), ("both", FTZ | DAZ))
    for rounding, direction in enumerate(("nearest", "down", "up", "zero"))
]

_MXCSR_AT = 28  # offset in glibc's fenv_t
_MASKED, _INEXACT = 0x1F80, 0x20
EXCEPTION_FLAGS = 0x3F


def _environment(libm: ctypes.CDLL) -> ctypes.Array[ctypes.c_uint8]:
    environment = (ctypes.c_uint8 * 32)()
    libm.fegetenv(environment)
    return environment


@contextmanager
def mxcsr(bits: int, flags: int | None = None) -> Iterator[None]:
    """Sets the mode, and fails if it is another one at the end; likewise the exception flags, where they
    are given, but for "inexact", which Python's own arithmetic raises."""
    libm = ctypes.CDLL("libm.so.6")
    before = _environment(libm)
    changed = (ctypes.c_uint8 * 32)(*before)
    ctypes.c_uint32.from_buffer(changed, _MXCSR_AT).value = _MASKED | bits | (flags or 0)
    libm.fesetenv(changed)
    try:
        yield
        after = _environment(libm)
    finally:
        libm.fesetenv(before)
    of_no_interest = EXCEPTION_FLAGS if flags is None else _INEXACT
    changes = ctypes.c_uint32.from_buffer(after, _MXCSR_AT).value ^ (_MASKED | bits | (flags or 0))
    assert changes & ~of_no_interest == 0
