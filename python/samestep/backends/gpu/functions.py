"""Functions of one value on a GPU. The formulas are in reference/functions.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .kernels import FUNCTION, run_kernel, struct_of, threads


def _launcher(name: str) -> Callable[[Any, Any], None]:
    def function(x: Any, out: Any) -> None:
        with x.device:
            argument = struct_of(FUNCTION, x=x, n=x.size, out=out)
            run_kernel("FUNCTION_KERNELS()", f"{name}_{x.dtype}", threads(x.size), argument)

    return function


exp, log, tanh, sigmoid = (_launcher(name) for name in ("exp", "log", "tanh", "sigmoid"))
