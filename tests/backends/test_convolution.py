"""Convolution: the kernels against the twin bit for bit, the twin against the formulas, any cut and thread."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import samestep as ss
from batchnorm_arrays import same
from bits import ISAS, special
from samestep.backends import cpu, reference
from samestep.backends.face import Window
from samestep.backends.reference.product import fused

DTYPES = ("float32", "float64")
PLAIN = Window((1, 1), (0, 0), (1, 1), 1)


# N, C and O of a group, (H, W), (R, S), and how: around the borders of blocks (256 terms of k, of (n, p) and of o),
# of vectors and panels, and of tiles (512 columns of y, of dw and of dx's rows).
CASES = [
    (2, 3, 5, (8, 9), (3, 3), PLAIN),
    (2, 3, 5, (8, 9), (3, 3), Window((1, 1), (1, 1), (1, 1), 1)),
    (2, 2, 3, (9, 8), (3, 2), Window((2, 3), (2, 1), (2, 1), 2)),
    (1, 1, 1, (1, 1), (1, 1), PLAIN),
    (3, 1, 1, (5, 4), (3, 3), Window((2, 2), (1, 1), (1, 1), 4)),  # depthwise
    (1, 1, 2, (2, 3), (2, 2), Window((1, 2), (5, 7), (1, 1), 1)),  # most of it zeros
    (1, 2, 2, (7, 19), (3, 3), Window((1, 1), (2, 4), (2, 4), 1)),
    (1, 2, 2, (9, 9), (2, 2), Window((3, 3), (0, 0), (1, 1), 1)),  # some inputs are read by no output
    (1, 1, 14, (4, 17), (3, 3), Window((1, 1), (1, 1), (1, 1), 1)),
    (2, 8, 97, (3, 3), (1, 1), PLAIN),
    *((1, c, 2, (3, 4), (1, 1), PLAIN) for c in (255, 256, 257, 513)),
    (1, 29, 3, (4, 5), (3, 3), Window((1, 1), (1, 1), (1, 1), 1)),  # 261 terms, cut within a patch
    (3, 2, 2, (9, 11), (2, 2), Window((1, 1), (0, 0), (1, 1), 1)),  # blocks of dw that cross samples
    *((1, 2, 2, (1, width), (1, 3), PLAIN) for width in (257, 258, 259)),
    (1, 1, 257, (2, 3), (1, 2), PLAIN),
    *((1, 1, 3, (2, width), (2, 2), Window((1, 1), (1, 1), (1, 1), 1)) for width in (31, 32, 33, 63, 64, 65)),
    (1, 1, 1, (3, 530), (2, 3), Window((1, 1), (1, 1), (1, 1), 1)),
    (1, 1, 1, (2, 1100), (2, 3), Window((2, 2), (1, 2), (1, 3), 1)),
    (1, 1, 1, (45, 40), (3, 3), Window((1, 1), (1, 1), (1, 1), 1)),
    (1, 300, 1, (2, 2), (2, 2), Window((1, 1), (1, 1), (1, 1), 1)),
    (0, 2, 3, (4, 4), (3, 3), PLAIN),
    (2, 0, 3, (4, 4), (3, 3), PLAIN),
    (2, 2, 0, (4, 4), (3, 3), PLAIN),
]


def out_shape(shape, w_shape, window):
    sizes = (
        (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for size, taps, stride, padding, dilation in zip(shape[2:], w_shape[2:], *window[:3], strict=True)
    )
    return shape[0], w_shape[0], *sizes


def problem(samples, channels, outputs, size, kernel, window, dtype, **how):
    """dy, x, w and bias."""
    x_shape = samples, window.groups * channels, *size
    w_shape = window.groups * outputs, channels, *kernel
    shapes = out_shape(x_shape, w_shape, window), x_shape, w_shape, w_shape[:1]
    return [special(shape, dtype, seed, **how) for seed, shape in enumerate(shapes, 7)]


def forward(module, x, w, bias, window, relu=False):
    out = np.full(out_shape(x.shape, w.shape, window), 7, x.dtype)
    module.conv2d(x, w, bias, window, relu, out)
    return out


def backward(module, dy, x, w, window, y=None):
    outs = [np.full(shape, 7, x.dtype) for shape in (x.shape, w.shape, w.shape[:1])]
    module.conv2d_backward(dy, x, w, y, window, *outs)
    return outs


def everything(module, dy, x, w, bias, window):
    """What both passes return, with a ReLU and without."""
    y = forward(module, x, w, bias, window, relu=True)
    return [
        forward(module, x, w, None, window),
        forward(module, x, w, bias, window),
        y,
        *backward(module, dy, x, w, window),
        *backward(module, dy, x, w, window, y),
    ]


def all_same(got, expected, what=""):
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        same(a, b, f"{what} result {i}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("finite", [True, False])
def test_kernels_equal_the_twin(dtype, finite, settings):
    for case in CASES:
        arrays = problem(*case, dtype, finite=finite)
        expected = everything(reference, *arrays, case[-1])
        for isa, threads in itertools.product(ISAS, (1, 2, 8)):
            ss.set_isa(isa)
            ss.set_num_threads(threads)
            all_same(everything(cpu, *arrays, case[-1]), expected, f"{isa}, {threads} threads, {case}")
