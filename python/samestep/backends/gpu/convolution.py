"""Convolution on a GPU: launches the kernels of csrc/gpu/convolution.cuh. The formulas are in
reference/convolution.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from ..face import Window
from .arrays import assign
from .device import get_cupy
from .kernels import (
    CONVOLUTION,
    PRODUCT_BLOCK,
    PRODUCT_SIDE,
    PRODUCT_SLICE,
    TERM,
    ceil_div,
    multiprocessors,
    run_kernel,
    run_tiles,
    struct_of,
    threads,
)
from .product import round_sums
from .sums import sum_terms

KERNELS = "CONVOLUTION_KERNELS()"
# Of what is added up to a gradient, at a time: patches of the input's, of which one channel of each group may
# take more, and blocks of terms of the weight's, of which one may.
PART_BYTES = 256 << 20


def _kernel_argument(
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], window: Window, **values: Any
) -> NDArray[Any]:
    """The struct that the kernels read; shapes are those of x, w and y."""
    x, w, y = shapes
    return struct_of(
        CONVOLUTION,
        samples=x[0],
        groups=window.groups,
        channels=w[1],
        outputs=w[0] // window.groups,
        size=x[2:],
        kernel=w[2:],
        out_size=y[2:],
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        row_slice=_slice(*w[2:]),
        column_slice=_slice(*y[2:]),
        **{name: value for name, value in values.items() if value is not None},
    )


def _slice(rows: int, columns: int) -> tuple[int, int, int]:
    """PRODUCT_SLICE as the number of an element of (.., rows, columns)."""
    rows, columns = max(1, rows), max(1, columns)
    plane = rows * columns
    return PRODUCT_SLICE // plane, PRODUCT_SLICE % plane // columns, PRODUCT_SLICE % columns


def conv2d(x: Any, w: Any, bias: Any | None, window: Window, relu: bool, out: Any) -> None:
    (N, GO, H, W), G = out.shape, window.groups
    with x.device:
        argument = _kernel_argument((x.shape, w.shape, out.shape), window, x=x, w=w, bias=bias, y=out)
        argument["relu"] = relu
        run_tiles(KERNELS, "convolve", x.dtype, (N * G, GO // G, H * W), argument)


def conv2d_backward(
    dy: Any,
    x: Any | None,
    w: Any | None,
    y: Any | None,
    window: Window,
    dx: Any | None,
    dw: Any | None,
    dbias: Any | None,
) -> None:
    N, GO, H, W = dy.shape
    of_x, of_w = x if dx is None else dx, w if dw is None else dw
    assert of_x is not None
    assert of_w is not None
    x_shape, w_shape = of_x.shape, of_w.shape
    with dy.device:
        terms = _terms(dy, y)
        argument = _kernel_argument((x_shape, w_shape, dy.shape), window, x=x, w=w, dy=terms, dx=dx, dw=dw)
        if dx is not None:
            _input_gradient(argument.copy(), x_shape, w_shape, H * W, dx.dtype)
        if dw is not None and dy.size:
            _weight_gradient(argument, dw, window.groups, N * H * W)
        elif dw is not None and dw.size:
            assign(dw, 0.0)
        if dbias is not None:
            round_sums(sum_terms("values", terms, GO, N * H * W, 1), dbias)


def _terms(dy: Any, y: Any | None) -> Any:
    """The terms (n, p) of each output, as rows: ``dy`` with the channels first, +0 wherever ``y`` <= 0."""
    N, GO, H, W = dy.shape
    if y is None and N == 1:
        return dy
    out = get_cupy().empty((GO, N, H, W), dy.dtype)
    argument = struct_of(TERM, dy=dy, samples=N, outputs=GO, positions=H * W, out=out)
    if y is not None:
        argument["y"] = y.data.ptr
    run_kernel(KERNELS, f"order_terms_{dy.dtype}", threads(dy.size), argument)
    return out


def _weight_gradient(argument: NDArray[Any], dw: Any, G: int, terms: int) -> None:
    """Where there are fewer tiles than processors, a tile of each block of terms, which are then added."""
    GO, columns = dw.shape[0], dw.size // dw.shape[0]
    blocks = ceil_div(terms, PRODUCT_BLOCK)
    tiles = G * ceil_div(GO // G, PRODUCT_SIDE) * ceil_div(columns, PRODUCT_SIDE)
    if blocks == 1 or tiles >= multiprocessors(get_cupy().cuda.runtime.getDevice()):
        argument["span"], argument["parts"] = terms, dw.data.ptr
        run_tiles(KERNELS, "convolve_weight", dw.dtype, (G, GO // G, columns), argument)
        return
    at_once = min(blocks, max(1, PART_BYTES // max(1, dw.nbytes)))
    scratch = get_cupy().empty(at_once * dw.size, dw.dtype)
    argument["span"], argument["parts"] = PRODUCT_BLOCK, scratch.data.ptr
    for begin in range(0, blocks, at_once):
        end = min(blocks, begin + at_once)
        argument["begin"], argument["end"] = begin, end
        run_tiles(KERNELS, "convolve_weight", dw.dtype, ((end - begin) * G, GO // G, columns), argument)
        run_kernel(KERNELS, f"add_spans_{dw.dtype}", threads(dw.size), argument)


def _input_gradient(
    argument: NDArray[Any], x: tuple[int, ...], w: tuple[int, ...], positions: int, dtype: Any
) -> None:
    """dx, part by part; x and w are shapes."""
    N, C, taps = x[0], w[1], w[2] * w[3]
    if 0 in x:
        return
    G = x[1] // C
    of_channel = G * taps * positions  # elements of the patches of one channel of each group, of a sample
    scratch = None
    for begin, end, first, last in _parts(N, C, max(1, PART_BYTES // dtype.itemsize), of_channel):
        if scratch is None:  # the first part is the largest
            scratch = get_cupy().empty((end - begin) * (last - first) * of_channel, dtype)
            argument["parts"] = scratch.data.ptr
        for name, value in zip(("begin", "end", "first", "last"), (begin, end, first, last), strict=True):
            argument[name] = value
        matrices, channels = (end - begin) * G, last - first
        run_tiles(KERNELS, "multiply_taps", dtype, (matrices, channels * taps, positions), argument)
        grid = threads(matrices * channels * x[2] * x[3])
        run_kernel(KERNELS, f"add_taps_{dtype}", grid, argument)


def _parts(N: int, C: int, most: int, of_channel: int) -> Iterator[tuple[int, int, int, int]]:
    """Samples begin..end-1, and channels first..last-1 of each group: so many elements at a time."""
    channels = max(1, most // max(1, of_channel))
    samples = max(1, channels // C)
    for begin in range(0, N, samples):
        for first in range(0, C, channels):
            yield begin, min(N, begin + samples), first, min(C, first + channels)
