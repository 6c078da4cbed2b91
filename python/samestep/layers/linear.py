"""The linear layer with an optional ReLU: functions on arrays.

``backend`` is "auto" (by the memory in which the arrays live), "cpu", "reference" (the NumPy twin: the same
bits, slowly) or "cuda" (arrays on a GPU; the results are CuPy arrays).
"""

from __future__ import annotations

from typing import Any, Literal, overload

from .. import backends
from ..arguments import switch
from ..backends import arrays, cpu
from ..backends.arrays import Array
from .checks import Like, check_dtype, check_vector

Outputs = tuple[Array | None, Array | None, Array | None]


def linear(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    relu: bool = False,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """The matrix product ``y = x w + bias``; with ``relu``, ``y <= 0`` becomes +0 (NaN passes).

    Element (n, j) is a chain of fused multiply-adds over k, each rounded once to the type of the arrays: k
    runs upwards in blocks of 256, each block's chain starts at +0, and the blocks' results are added from
    left to right. Unlike that of a BLAS, this order does not depend on the memory layout, the instruction
    set, the number of threads or the other rows of ``x``. The rounding error is that of a plain loop, or
    smaller.

    Args:
        x: (N, K), float32 or float64, any strides: a transposed or sliced view is read where it lies.
        w: (K, J), likewise, the dtype of ``x``.
        bias: (J,), the dtype of ``x``, or None.
        relu: whether a ReLU follows.
        out: the array for y, in C order. It may not overlap another argument.
        backend: "auto", "cpu", "reference" or "cuda".

    Returns:
        y, (N, J). With K = 0, the products are +0.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or layout. In both cases nothing has been written.

    Source:
        docs/numerics.md and csrc/contract/product.h for the order; Higham, The accuracy of floating point
        summation (1993), for the error of sums by blocks.

    Example:
        >>> import numpy as np, samestep as ss
        >>> x, w = np.float32([[1, 2], [3, 4]]), np.float32([[1, 0, -1], [1, 1, 1]])
        >>> ss.linear(x, w, np.float32([0.5, 0, -2]), relu=True)
        array([[3.5, 2. , 0. ],
               [7.5, 4. , 0. ]], dtype=float32)
        >>> ss.linear(x.T, x)
        array([[10., 14.],
               [14., 20.]], dtype=float32)
    """
    if backend in ("auto", "cpu") and (y := cpu.linear(x, w, bias, relu, out)) is not None:
        return y
    # Something does not fit, or lies elsewhere.
    read = {"x": x, "w": w} if bias is None else {"x": x, "w": w, "bias": bias}
    backend, (x, w, bias, out) = _choose_backend(backend, {"x": x, "w": w, "bias": bias}, {"out": out})
    relu = switch("relu", relu)
    _check_matrix("x", x, ("x", x))
    _check_matrix("w", w, ("x", x), (x.shape[1], None), "as many rows as x has columns")
    if bias is not None:
        check_vector("bias", bias, ("x", x), w.shape[1], "column of w")
    _check_out("out", out, ("x", x), (x.shape[0], w.shape[1]), read)
    result: Array = backends.module(backend).linear(x, w, bias, relu, out)
    return result


@overload
def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    *,
    y: Array | None = None,
    input_gradient: Literal[True] = True,
    out: Outputs | None = None,
    backend: str = "auto",
) -> tuple[Array, Array, Array]: ...
@overload
def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    *,
    y: Array | None = None,
    input_gradient: Literal[False],
    out: Outputs | None = None,
    backend: str = "auto",
) -> tuple[None, Array, Array]: ...
@overload
def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    *,
    y: Array | None = None,
    input_gradient: bool,
    out: Outputs | None = None,
    backend: str = "auto",
) -> tuple[Array | None, Array, Array]: ...
def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    *,
    y: Array | None = None,
    input_gradient: bool = True,
    out: Outputs | None = None,
    backend: str = "auto",
) -> tuple[Array | None, Array, Array]:
    """The gradients of a loss by the arguments x, w and bias of ``linear``.

    ``dx = dy w^T`` and ``dw = x^T dy`` in the order of ``linear``, where the terms of dw are the rows of
    the batch; ``dbias_j = canonical_sum(dy[:, j])``, rounded to the dtype. With ``y``, the forward pass ended
    in a ReLU: ``dy`` is +0 in these formulas wherever ``y <= 0``.

    Args:
        dy: (N, J), the loss's gradient by y; float32 or float64, any strides.
        x: (N, K), that of the forward pass, as ``dy`` in dtype, any strides.
        w: (K, J), likewise.
        y: (N, J), what the forward pass returned with ``relu=True``; None without a ReLU.
        input_gradient: whether dx is wanted. The first layer of a network needs none: half the work.
        out: three arrays for dx, dw and dbias, in C order, each None for a new one. They may not overlap
            another argument.
        backend: "auto", "cpu", "reference" or "cuda".

    Returns:
        dx, (N, K), or None if it is not wanted; dw, (K, J); dbias, (J,).

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or layout. In both cases nothing has been written.

    Source:
        Goodfellow, Bengio & Courville, Deep Learning (2016), section 6.5.6.

    Example:
        >>> import numpy as np, samestep as ss
        >>> x, w = np.array([[1.0, 2], [3, 4]]), np.array([[1.0], [-1]])
        >>> dx, dw, dbias = ss.linear_backward(np.array([[1.0], [10]]), x, w)
        >>> dx, dw.ravel(), dbias
        (array([[  1.,  -1.],
               [ 10., -10.]]), array([31., 42.]), array([11.]))
    """
    if out is None:
        out = (None, None, None)
    elif not isinstance(out, (tuple, list)) or len(out) != 3:
        raise TypeError(
            f"out: got {type(out).__name__}, expected a tuple of three: dx, dw and dbias, each or None"
        )
    input_gradient = switch("input_gradient", input_gradient)
    if backend in ("auto", "cpu"):
        found = cpu.linear_backward(dy, x, w, y, input_gradient, *out)
        if found is not None:
            return found
    # Something does not fit, or lies elsewhere.
    read = {"dy": dy, "x": x, "w": w} if y is None else {"dy": dy, "x": x, "w": w, "y": y}
    names = ("out[0]", "out[1]", "out[2]")
    backend, (dy, x, w, y, *outputs) = _choose_backend(
        backend, {"dy": dy, "x": x, "w": w, "y": y}, dict(zip(names, out, strict=True))
    )
    _check_matrix("dy", dy, ("dy", dy))
    _check_matrix("x", x, ("dy", dy), (dy.shape[0], None), "as many rows as dy")
    _check_matrix(
        "w", w, ("dy", dy), (x.shape[1], dy.shape[1]), "a row for each column of x, a column for each of dy"
    )
    if y is not None:
        _check_matrix("y", y, ("dy", dy), dy.shape, "the shape of dy")
    shapes = ((dy.shape[0], x.shape[1]), w.shape, (dy.shape[1],))
    for name, a, shape in zip(names, outputs, shapes, strict=True):
        _check_out(name, a, ("dy", dy), shape, read)
        read = read if a is None else {**read, name: a}
    gradients: tuple[Array | None, Array, Array] = backends.module(backend).linear_backward(
        dy, x, w, y, input_gradient, *outputs
    )
    return gradients


def _choose_backend(backend: str, read: dict[str, Any], written: dict[str, Any]) -> tuple[str, list[Any]]:
    """As ``backends.choose_backend``, with plain arrays: subclasses of NumPy's may override arithmetic."""
    backend, chosen = backends.choose_backend(backend, read, written)
    return backend, [arrays.as_plain(a) for a in chosen]


def _check_matrix(
    name: str,
    a: Any,
    like: Like,
    shape: tuple[int | None, int | None] = (None, None),
    because: str = "",
) -> None:
    """Raises unless ``a`` is a matrix; None in ``shape`` is any length."""
    check_dtype(name, a, like)
    if a.ndim != 2:
        raise ValueError(f"{name}: got shape {a.shape}, expected a matrix, two axes; use {name}.reshape")
    if any(want is not None and got != want for got, want in zip(a.shape, shape, strict=True)):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        turned = (
            "; pass the transpose, " + name + ".T"
            if a.shape[0] != shape[0] and a.shape[1] == shape[0]
            else ""
        )
        raise ValueError(f"{name}: got shape {a.shape}, expected ({wanted}): {because}{turned}")


def _check_out(name: str, out: Any, like: Like, shape: tuple[int, ...], others: dict[str, Array]) -> None:
    """Raises unless results can be written to ``out``, which may be None."""
    if out is None:
        return
    arrays.check_inplace(name, out)
    check_dtype(name, out, like)
    if out.shape != shape:
        raise ValueError(f"{name}: got shape {out.shape}, expected {shape}")
    if not out.flags.c_contiguous:
        raise ValueError(
            f"{name}: strides {out.strides} are not those of C order; pass an array as of np.empty"
        )
    for other, a in others.items():
        if arrays.may_overlap(out, a):
            raise ValueError(f"{name}: overlaps {other} in memory; pass a separate array")
