"""Functions of one value, and softmax with cross-entropy, on a GPU. The formulas are in
reference/functions.py and reference/softmax.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .device import get_cupy
from .kernels import FUNCTION, SOFTMAX, run_kernel, struct_of, threads, warps
from .sums import sum_terms


def _launcher(name: str) -> Callable[[Any, Any], None]:
    def function(x: Any, out: Any) -> None:
        with x.device:
            argument = struct_of(FUNCTION, x=x, n=x.size, out=out)
            run_kernel("FUNCTION_KERNELS()", f"{name}_{x.dtype}", threads(x.size), argument)

    return function


exp, log, tanh, sigmoid = (_launcher(name) for name in ("exp", "log", "tanh", "sigmoid"))


def softmax_cross_entropy(z: Any, labels: Any, dz: Any) -> float:
    """Writes the gradient to ``dz``; returns L when it is known."""
    rows, columns = z.shape
    with z.device:
        losses = get_cupy().empty(rows, z.dtype)
        argument = struct_of(SOFTMAX, z=z, labels=labels, rows=rows, columns=columns, losses=losses, dz=dz)
        run_kernel("FUNCTION_KERNELS()", f"softmax_rows_{z.dtype}", warps(rows), argument)
        total = float(sum_terms("values", losses, 1, rows, 1).get()[0])
        return total / float(rows)
