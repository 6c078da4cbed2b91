"""Convolution: kernels against the twin bit for bit, both against the formulas, any cut and thread."""

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


# N, C and O of a group, (H, W), (R, S), and how: around the borders of blocks (256 terms of k, of (n, p) and
# of o), of vectors and panels, and of tiles (512 columns of y, of dw and of dx's rows).
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


@pytest.mark.more
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


@pytest.mark.parametrize("module", [cpu, reference], ids=["cpu", "reference"])
def test_the_order_is_the_contracts(module):
    """One element of each result, written out: a term of the padding is a term, blocks end after 256."""
    window = Window((2, 1), (1, 2), (1, 2), 1)
    dy, x, w, bias = problem(2, 30, 290, (5, 6), (3, 3), window, "float32")
    T = np.float32

    def at(n, c, i, j):
        inside = 0 <= i < 5 and 0 <= j < 6
        return x[n, c, i, j] if inside else T(0)

    def chain(pairs):
        total = None
        for start in range(0, len(pairs), 256):
            s = T([0])
            for a, b in pairs[start : start + 256]:
                s = fused(T([a]), T([b]), s)
            total = s if total is None else total + s
        return total[0]

    taps = list(itertools.product(range(30), range(3), range(3)))
    n, o, h, v = 1, 3, 2, 0
    patch = [at(n, c, 2 * h + r - 1, v + 2 * s - 2) for c, r, s in taps]
    assert patch.count(0) > 60
    y = chain(list(zip(w[o].ravel(), patch, strict=True))) + bias[o]
    assert forward(module, x, w, bias, window)[n, o, h, v] == y

    dx, dw, dbias = backward(module, dy, x, w, window)
    c, r, s = 7, 0, 2
    terms = list(itertools.product(range(2), range(3), range(6)))
    pairs = [(dy[n, o, i, j], at(n, c, 2 * i + r - 1, j + 2 * s - 2)) for n, i, j in terms]
    assert dw[o, c, r, s] == chain(pairs)
    same(dbias, ss.canonical_sum(np.ascontiguousarray(np.moveaxis(dy, 1, 0)).reshape(290, 36), 1).astype(T))
    i, j = 3, 2
    expected = T(0)
    for r, s in itertools.product(range(3), range(3)):
        h, v = (i + 1 - r) / 2, j + 2 - 2 * s
        if h in range(3) and v in range(6):
            expected = expected + chain([(w[o, c, r, s], dy[n, o, int(h), v]) for o in range(290)])
    assert dx[n, c, i, j] == expected


@pytest.mark.parametrize("module", [cpu, reference], ids=["cpu", "reference"])
def test_padding_is_a_term_and_nothing_is_a_positive_zero(module):
    window = Window((3, 3), (1, 1), (1, 1), 1)
    x, w = np.full((1, 1, 2, 2), -0.0, np.float32), np.ones((1, 1, 3, 3), np.float32)
    w[0, 0, 0, 0] = np.inf  # reaches the padding alone
    assert np.isnan(forward(module, x, w, None, window)).all()
    w[0, 0, 0, 0] = -1
    y = forward(module, x, w, None, window)
    assert y.tolist() == [[[[0]]]]
    assert not np.signbit(y).any()
    dx, _, _ = backward(module, y - 1, x, 0 * w, window)
    assert not np.signbit(dx).any()  # +0 + -0
    y = forward(module, x, w, np.float32([-3]), window, relu=True)
    assert not np.signbit(y).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_offset_and_nothing_outside_is_touched(dtype, isa):
    case = (2, 3, 5, (7, 9), (3, 3), Window((1, 1), (1, 1), (1, 1), 1))
    arrays = problem(*case, dtype)
    dy, x, w, bias = arrays
    expected = [forward(cpu, x, w, bias, case[-1]), *backward(cpu, dy, x, w, case[-1])]
    for by in (1, 3):
        rooms = [np.full(a.size + 20, 7, dtype) for a in (*arrays, *expected)]
        placed = [
            room[by : by + a.size].reshape(a.shape)
            for room, a in zip(rooms, (*arrays, *expected), strict=True)
        ]
        for a, b in zip(placed, arrays, strict=False):
            a[...] = b
        dy1, x1, w1, bias1, y, *gradients = placed
        cpu.conv2d(x1, w1, bias1, case[-1], False, y)
        cpu.conv2d_backward(dy1, x1, w1, None, case[-1], *gradients)
        all_same(placed[4:], expected, f"{by} elements on")
        for room, a in zip(rooms, placed, strict=True):
            assert (room[:by] == 7).all()
            assert (room[by + a.size :] == 7).all()


@pytest.mark.parametrize("module", [cpu, reference], ids=["cpu", "reference"])
def test_only_what_is_wanted_is_computed(module):
    window = Window((1, 2), (1, 0), (1, 1), 2)
    dy, x, w, _ = problem(2, 3, 4, (5, 6), (3, 2), window, "float32")
    dx, dw, dbias = backward(module, dy, x, w, window)
    found = [np.empty_like(a) for a in (dx, dw, dbias)]
    module.conv2d_backward(dy, None, w, None, window, found[0], None, None)
    module.conv2d_backward(dy, x, None, None, window, None, found[1], None)
    module.conv2d_backward(dy, x, w, None, window, None, None, found[2])
    all_same(found, (dx, dw, dbias))


def test_the_gradients_are_those_of_the_forward_pass():
    rng = np.random.default_rng(3)
    window = Window((2, 1), (1, 1), (1, 2), 2)
    shapes = (2, 4, 5, 6), (6, 2, 3, 2), (6,)
    x, w, bias = (rng.standard_normal(shape) for shape in shapes)
    y = forward(cpu, x, w, bias, window, relu=True)
    dy = rng.standard_normal(y.shape)
    for a, gradient in zip((x, w, bias), backward(cpu, dy, x, w, window, y), strict=True):
        for i in list(np.ndindex(a.shape))[::7]:
            before, losses = a[i], []
            for a[i] in (before + 1e-6, before - 1e-6):
                losses.append((forward(cpu, x, w, bias, window, relu=True) * dy).sum())
            a[i] = before
            assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(gradient[i], abs=1e-7)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": np.zeros((2, 3, 4, 4))}, "w: expected an aligned C array"),
        ({"x": np.zeros((3, 4, 4), np.float32)}, "expected four axes"),
        ({"x": np.zeros((2, 5, 4, 4), np.float32)}, r"expected shape \(G\*O, C, R, S\)"),
        ({"x": np.zeros((2, 4, 4, 3), np.float32).transpose(0, 3, 1, 2)}, "x: expected an aligned C array"),
        ({"x": np.zeros((2, 3, 1, 4), np.float32)}, "do not fit into the padded x"),
        ({"bias": np.zeros(1, np.float32)}, "bias: expected an aligned"),
        ({"out": np.zeros((2, 2, 4, 4), np.float32)}, "out: expected an aligned"),
        ({"window": Window((0, 1), (0, 0), (1, 1), 1)}, "expected stride and dilation of 1 or more"),
        ({"window": Window((1, 1), (0, 0), (1, 1), 0)}, r"expected shape \(G\*O"),
    ],
)
def test_the_binding_refuses_what_does_not_fit(change, says):
    good = {
        "x": np.zeros((2, 3, 4, 4), np.float32),
        "w": np.zeros((2, 3, 2, 2), np.float32),
        "bias": np.zeros(2, np.float32),
        "window": PLAIN,
        "relu": False,
        "out": np.zeros((2, 2, 3, 3), np.float32),
    }
    with pytest.raises(ValueError, match=says):
        cpu.conv2d(*{**good, **change}.values())
