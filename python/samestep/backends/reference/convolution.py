"""Convolution in NumPy; twin of csrc/contract/convolution.h. The order of operations fixes the bits.

The patches of a sample are a matrix of K = C*R*S rows k = (c, r, s) and P = H'*W' columns p = (h', w')::

    patches[k, p] = x[c, h'*stride + r*dilation - padding, w'*stride + s*dilation - padding],  +0 outside of x
    forward    y (O, P) = product(w (O, K), patches) + bias, then ReLU
    backward   dw (O, K) = product(dy (O, N*P), patches^T (N*P, K))
               dbias = T(csum over the terms (n, p) of dy)
               dpatches (K, P) = product(w^T (K, O), dy (O, P))
               dx[c, h, w] = +0, then + each of its dpatches[(c, r, s), p], in the order of (r, s)

Each group of channels is a convolution of its own. ``product`` is that of product.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..arrays import Array
from ..face import Window
from .product import product
from .sums import csum


def _padded(x: Array, window: Window) -> Array:
    """x (N, C, H, W) with the zeros around it."""
    (top, left), (N, C, H, W) = window.padding, x.shape
    padded = np.zeros((N, C, H + 2 * top, W + 2 * left), x.dtype)
    padded[:, :, top : top + H, left : left + W] = x
    return padded


def _taps(w: Array, sizes: tuple[int, ...], window: Window) -> Iterator[tuple[int, int, slice, slice]]:
    """(r, s) in order, with the rows and columns of the padded input that each output finds there."""
    for r in range(w.shape[2]):
        for s in range(w.shape[3]):
            where = [
                slice(start := tap * dilation, start + stride * (size - 1) + 1, stride)
                for tap, dilation, stride, size in zip(
                    (r, s), window.dilation, window.stride, sizes[2:], strict=True
                )
            ]
            yield r, s, where[0], where[1]


def _patches(x: Array, w: Array, y: Array, window: Window) -> Array:
    """(N, G, K, P), of x (N, G*C, H, W), from the shapes of w and of the result y."""
    padded, (N, G) = _padded(x, window), (x.shape[0], window.groups)
    patches = np.empty((N, x.shape[1], *w.shape[2:], *y.shape[2:]), x.dtype)
    for r, s, rows, columns in _taps(w, y.shape, window):
        patches[:, :, r, s] = padded[:, :, rows, columns]
    return patches.reshape(N, G, w.shape[1] * w.shape[2] * w.shape[3], y.shape[2] * y.shape[3])


def conv2d(x: Array, w: Array, bias: Array | None, window: Window, relu: bool, out: Array) -> None:
    """y (N, G*O, H', W'), to ``out``."""
    G, outputs = window.groups, w.shape[0] // window.groups
    patches = _patches(x, w, out, window)
    matrices = w.reshape(G, outputs, patches.shape[2])
    with np.errstate(all="ignore"):
        for n in range(x.shape[0]):
            for g in range(G):
                y = product(matrices[g], patches[n, g]).reshape(outputs, *out.shape[2:])
                mine = slice(g * outputs, (g + 1) * outputs)
                if bias is not None:
                    y = y + bias[mine, np.newaxis, np.newaxis]
                out[n, mine] = np.where(y <= 0, y.dtype.type(0), y) if relu else y


def conv2d_backward(
    dy: Array,
    x: Array | None,
    w: Array | None,
    y: Array | None,
    window: Window,
    dx: Array | None,
    dw: Array | None,
    dbias: Array | None,
) -> None:
    """The gradients that there are arrays for."""
    (N, GO, H, W), G = dy.shape, window.groups
    with np.errstate(all="ignore"):
        if y is not None:
            dy = np.where(y <= 0, dy.dtype.type(0), dy)
        terms = np.ascontiguousarray(np.moveaxis(dy, 1, 0)).reshape(GO, N * H * W)
        if dw is not None:
            assert x is not None
            patches = np.moveaxis(_patches(x, dw, dy, window), 0, 2)  # (G, K, N, P)
            matrices = dw.reshape(G, GO // G, patches.shape[1])
            for g in range(G):
                columns = np.ascontiguousarray(patches[g]).reshape(patches.shape[1], N * H * W)
                matrices[g] = product(terms.reshape(G, GO // G, N * H * W)[g], columns.T)
        if dbias is not None:
            dbias[...] = csum(np.ascontiguousarray(terms.T).astype(np.float64)).astype(dy.dtype)
        if dx is not None:
            assert w is not None
            dx[...] = _input_gradient(dy, w, dx, window)


def _input_gradient(dy: Array, w: Array, x: Array, window: Window) -> Array:
    """dx, of the shape of ``x``."""
    (N, GO, H, W), (_, C, R, S), G = dy.shape, w.shape, window.groups
    outputs = GO // G
    matrices = w.reshape(G, outputs, C * R * S)
    padded = _padded(np.zeros_like(x), window)
    groups = padded.reshape(N, G, C, *padded.shape[2:])
    for n in range(N):
        for g in range(G):
            columns = dy[n, g * outputs : (g + 1) * outputs].reshape(outputs, H * W)
            dpatches = product(matrices[g].T, columns).reshape(C, R, S, H, W)
            for r, s, rows, across in _taps(w, dy.shape, window):
                groups[n, g, :, rows, across] = groups[n, g, :, rows, across] + dpatches[:, r, s]
    (top, left) = window.padding
    return padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
