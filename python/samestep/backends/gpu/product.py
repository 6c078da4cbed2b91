"""The linear layer on a GPU: launches the kernels of csrc/gpu/product.cuh. The formulas are in
reference/product.py.
"""

from __future__ import annotations

from typing import Any

from .device import get_cupy
from .kernels import (
    PRODUCT,
    RELU_GRADIENT,
    ROUND,
    run_kernel,
    run_tiles,
    struct_of,
    threads,
)
from .sums import sum_terms


def _strides(a: Any) -> tuple[int, int]:
    """In elements."""
    return a.strides[0] // a.itemsize, a.strides[1] // a.itemsize


def _multiply(a: Any, b: Any, bias: Any | None, relu: bool, out: Any | None) -> Any:
    (m, k), n = a.shape, b.shape[1]
    c = get_cupy().empty((m, n), a.dtype) if out is None else out
    (a_row, a_k), (b_k, b_column) = _strides(a), _strides(b)
    argument = struct_of(
        PRODUCT, m=m, n=n, k=k, a=a, b=b, a_row=a_row, a_k=a_k, b_k=b_k, b_column=b_column, c=c, c_row=n
    )
    argument["relu"] = relu
    argument["bias"] = 0 if bias is None else bias.data.ptr
    run_tiles("PRODUCT_KERNELS()", "multiply", a.dtype, (1, m, n), argument)
    return c


def _relu_gradient(dy: Any, y: Any | None) -> Any:
    """``dy`` in C order, +0 wherever ``y`` <= 0."""
    if y is None and dy.flags.c_contiguous:
        return dy
    out = get_cupy().empty(dy.shape, dy.dtype)
    rows, columns = dy.shape
    dy_row, dy_column = _strides(dy)
    argument = struct_of(
        RELU_GRADIENT, dy=dy, rows=rows, columns=columns, dy_row=dy_row, dy_column=dy_column, out=out
    )
    if y is not None:
        argument["y"], (argument["y_row"], argument["y_column"]) = y.data.ptr, _strides(y)
    run_kernel("PRODUCT_KERNELS()", f"relu_gradient_{dy.dtype}", threads(dy.size), argument)
    return out


def round_sums(sums: Any, out: Any) -> None:
    """out = T(sums)."""
    argument = struct_of(ROUND, sums=sums, n=out.size, out=out)
    run_kernel("PRODUCT_KERNELS()", f"round_sums_{out.dtype}", threads(out.size), argument)


def linear(x: Any, w: Any, bias: Any | None, relu: bool, out: Any | None) -> Any:
    with x.device:
        return _multiply(x, w, bias, relu, out)


def linear_backward(
    dy: Any,
    x: Any,
    w: Any,
    y: Any | None,
    input_gradient: bool,
    dx: Any | None,
    dw: Any | None,
    dbias: Any | None,
) -> tuple[Any, Any, Any]:
    with x.device:
        dy = _relu_gradient(dy, y)
        dx = _multiply(dy, w.transpose(), None, False, dx) if input_gradient else None
        dw = _multiply(x.transpose(), dy, None, False, dw)
        rows, columns = dy.shape
        sums = sum_terms("values", dy, 1, rows, columns)
        dbias = get_cupy().empty(columns, dy.dtype) if dbias is None else dbias
        round_sums(sums, dbias)
    return dx, dw, dbias
