"""Convolution on a GPU, by CuPy's stand-in on the host: the bits of the processor and of the reference."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

import host_cupy
from batchnorm_arrays import same
from bits import special
from host_cupy import device
from samestep.backends import cpu, gpu, reference
from samestep.backends.face import Window

DTYPES = ("float32", "float64")
PLAIN = Window((1, 1), (0, 0), (1, 1), 1)
PADDED = Window((1, 1), (1, 1), (1, 1), 1)

# N, C and O of a group, (H, W), (R, S), and how: around the borders of tiles (64 and 128), of slices (16) and
# of blocks (256 terms of k, of (n, p) and of o).
CASES = {
    "plain": (2, 3, 5, (8, 9), (3, 3), PLAIN),
    "padded": (2, 3, 5, (8, 9), (3, 3), PADDED),
    "groups, steps and gaps": (2, 2, 3, (9, 8), (3, 2), Window((2, 3), (2, 1), (2, 1), 2)),
    "one of everything": (1, 1, 1, (1, 1), (1, 1), PLAIN),
    "depthwise": (3, 1, 1, (5, 4), (3, 3), Window((2, 2), (1, 1), (1, 1), 4)),
    "two outputs of a channel": (1, 1, 2, (5, 5), (3, 3), Window((1, 1), (1, 1), (1, 1), 3)),
    "most of it zeros": (1, 1, 2, (2, 3), (2, 2), Window((1, 2), (5, 7), (1, 1), 1)),
    "far apart": (1, 2, 2, (7, 19), (3, 3), Window((1, 1), (2, 4), (2, 4), 1)),
    "inputs that no output reads": (1, 2, 2, (9, 9), (2, 2), Window((3, 3), (0, 0), (1, 1), 1)),
    "rows of one output": (2, 3, 2, (5, 3), (2, 3), PLAIN),
    "columns of one output": (2, 3, 2, (3, 5), (3, 2), PLAIN),
    "a matrix of many channels": (2, 8, 67, (3, 3), (1, 1), PLAIN),
    "261 terms, cut within a patch": (1, 29, 3, (4, 5), (3, 3), PADDED),
    "513 terms": (1, 513, 2, (3, 4), (1, 1), PLAIN),
    "256 terms": (1, 64, 2, (3, 4), (2, 2), PLAIN),
    "blocks of dw that cross samples": (3, 2, 2, (9, 11), (2, 2), PLAIN),
    "840 terms of dw": (3, 2, 2, (15, 21), (2, 2), PLAIN),
    "1024 terms of dw, in groups": (4, 1, 3, (16, 16), (3, 3), Window((1, 1), (1, 1), (1, 1), 2)),
    "257 outputs": (1, 1, 257, (2, 3), (1, 2), PLAIN),
    "a long row": (1, 1, 1, (3, 140), (2, 3), PADDED),
    "a kernel of 7 x 7": (1, 3, 2, (11, 9), (7, 7), Window((2, 2), (3, 3), (1, 1), 1)),
    "many rows and columns": (1, 16, 130, (12, 12), (3, 3), PADDED),
}
EMPTY = {
    "no sample": (0, 2, 3, (4, 4), (3, 3), PLAIN),
    "no channel": (2, 0, 3, (4, 4), (3, 3), PLAIN),
    "no output": (2, 2, 0, (4, 4), (3, 3), PLAIN),
    "no input, all padding": (2, 2, 3, (0, 2), (2, 2), Window((1, 1), (1, 0), (1, 1), 1)),
}


def shapes_of(samples, channels, outputs, size, kernel, window):
    """Of dy, x, w and bias."""
    out = (
        (there + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for there, taps, stride, padding, dilation in zip(size, kernel, *window[:3], strict=True)
    )
    w = window.groups * outputs, channels, *kernel
    return (samples, w[0], *out), (samples, window.groups * channels, *size), w, w[:1]


def problem(case, dtype, **how):
    return [special(shape, dtype, seed, **how) for seed, shape in enumerate(shapes_of(*case), 7)]


def on_host(module):
    return module, lambda a: a, lambda a: a


ON_GPU = (gpu, device, lambda a: a.get())


def forward(on, x, w, bias, window, relu, shape):
    module, place, fetch = on
    out = place(np.full(shape, 7, x.dtype))
    module.conv2d(place(x), place(w), None if bias is None else place(bias), window, relu, out)
    return fetch(out)


def backward(on, dy, x, w, y, window):
    module, place, fetch = on
    outs = [place(np.full(shape, 7, x.dtype)) for shape in (x.shape, w.shape, w.shape[:1])]
    module.conv2d_backward(place(dy), place(x), place(w), None if y is None else place(y), window, *outs)
    return [fetch(a) for a in outs]


def everything(on, dy, x, w, bias, window):
    """What both passes return, with a ReLU and without."""
    y = forward(on, x, w, bias, window, True, dy.shape)
    return {
        "product": forward(on, x, w, None, window, False, dy.shape),
        "y": forward(on, x, w, bias, window, False, dy.shape),
        "relu": y,
        **dict(zip(("dx", "dw", "dbias"), backward(on, dy, x, w, None, window), strict=True)),
        **dict(
            zip(("masked dx", "masked dw", "masked dbias"), backward(on, dy, x, w, y, window), strict=True)
        ),
    }


def all_same(got, expected, what=""):
    assert list(got) == list(expected)
    for name in expected:
        same(got[name], expected[name], f"{what} {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("finite", [True, False], ids=["finite", "any"])
@pytest.mark.parametrize("name", [*CASES, *EMPTY])
def test_bits_are_those_of_the_processor(kernels, name, dtype, finite):
    case = {**CASES, **EMPTY}[name]
    arrays = problem(case, dtype, finite=finite)
    all_same(everything(ON_GPU, *arrays, case[-1]), everything(on_host(cpu), *arrays, case[-1]))


@pytest.mark.parametrize("name", ["padded", "groups, steps and gaps", "depthwise", *EMPTY])
def test_bits_are_those_of_the_reference(kernels, name):
    case = {**CASES, **EMPTY}[name]
    arrays = problem(case, "float32", finite=False)
    all_same(everything(ON_GPU, *arrays, case[-1]), everything(on_host(reference), *arrays, case[-1]))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["plain", "groups, steps and gaps", "many rows and columns", "257 outputs"])
def test_tiles_of_both_sizes(kernels, monkeypatch, name, large):
    monkeypatch.setattr(gpu.kernels, "are_large", lambda m, n, tiles: large)
    case = CASES[name]
    arrays = problem(case, "float32")
    all_same(everything(ON_GPU, *arrays, case[-1]), everything(on_host(cpu), *arrays, case[-1]))
    size = "large_float32" if large else "float32"
    tiles = {name for name, _, threads in kernels.launches if "convolve" in name or "taps" in name}
    assert tiles == {f"{n}_{size}" for n in ("convolve", "convolve_weight", "multiply_taps")} | {
        "add_taps_float32"
    }


@pytest.mark.parametrize(
    ("m", "n", "tiles", "large"),
    [(65, 65, 4, True), (64, 1000, 8, False), (1000, 64, 8, False), (65, 65, 3, False)],
)
def test_which_tiles_are_large(kernels, m, n, tiles, large):
    """Where they keep the stand-in's 4 processors busy, and no small one covers a side."""
    assert gpu.kernels.are_large(m, n, tiles) == large


@pytest.mark.parametrize("threads", [96, 1024])
def test_the_number_of_threads_does_not_matter(kernels, monkeypatch, threads):
    monkeypatch.setattr(gpu.kernels, "THREADS", threads)
    case = CASES["groups, steps and gaps"]
    arrays = problem(case, "float32")
    all_same(everything(ON_GPU, *arrays, case[-1]), everything(on_host(cpu), *arrays, case[-1]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "launches"),
    [
        # Bytes that hold no channel, one, two, all of a sample, of two samples, and more than there are.
        ("blocks of dw that cross samples", (6, 6, 3, 3, 2, 1)),
        ("groups, steps and gaps", (4, 4, 2, 2, 1, 1)),
        ("plain", (6, 6, 4, 2, 1, 1)),
    ],
)
def test_the_gradient_of_the_input_part_by_part(kernels, monkeypatch, name, launches, dtype):
    case = CASES[name]
    samples, channels, _, _, kernel, window = case
    dy, x, w, _ = problem(case, dtype, finite=False)
    expected = backward(on_host(cpu), dy, x, w, None, window)[0]
    of_channel = window.groups * math.prod(kernel) * math.prod(dy.shape[2:]) * dy.itemsize
    limits = (1, of_channel, 2 * of_channel, channels * of_channel, 2 * channels * of_channel, 1 << 30)
    made, empty = [], sys.modules["cupy"].empty

    def noting(shape, dtype):
        made.append(empty(shape, dtype))
        return made[-1]

    monkeypatch.setattr(sys.modules["cupy"], "empty", noting)
    for limit, count in zip(limits, launches, strict=True):
        monkeypatch.setattr(gpu.convolution, "PART_BYTES", limit)
        kernels.launches.clear()
        made.clear()
        dx = device(np.full_like(x, 7))
        gpu.conv2d_backward(device(dy), None, device(w), None, window, dx, None, None)
        same(dx.get(), expected, f"{limit} bytes")
        names = [name for name, *_ in kernels.launches]
        assert names.count(f"multiply_taps_{dtype}") == names.count(f"add_taps_{dtype}") == count
        _, scratch = made  # beside dy with the channels first
        assert scratch.nbytes <= max(limit, of_channel)
        assert scratch.nbytes <= samples * channels * of_channel


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["840 terms of dw", "1024 terms of dw, in groups"])
def test_the_gradient_of_the_weight_block_by_block(kernels, monkeypatch, name, dtype):
    case = CASES[name]
    dy, x, w, _ = problem(case, dtype, finite=False)
    window = case[-1]
    expected = backward(on_host(cpu), dy, x, w, None, window)[1]
    made, empty = [], sys.modules["cupy"].empty

    def noting(shape, dtype):
        made.append(empty(shape, dtype))
        return made[-1]

    monkeypatch.setattr(sys.modules["cupy"], "empty", noting)
    for limit, launches in ((1, 4), (w.nbytes, 4), (2 * w.nbytes, 2), (3 * w.nbytes, 2), (1 << 30, 1)):
        monkeypatch.setattr(gpu.convolution, "PART_BYTES", limit)
        kernels.launches.clear()
        made.clear()
        dw = device(np.full_like(w, 7))
        gpu.conv2d_backward(device(dy), device(x), None, None, window, None, dw, None)
        same(dw.get(), expected, f"{limit} bytes")
        names = [name for name, *_ in kernels.launches]
        assert names.count(f"convolve_weight_{dtype}") == names.count(f"add_spans_{dtype}") == launches
        _, scratch = made  # beside dy with the channels first
        assert scratch.nbytes <= max(limit, w.nbytes)
        assert scratch.nbytes <= 4 * w.nbytes


@pytest.mark.parametrize("processors", [1, 3])
def test_the_gradient_of_the_weight_at_once(kernels, monkeypatch, processors):
    """Where its tiles, of which there is one for each of the two groups, keep the processors busy."""
    monkeypatch.setattr(gpu.convolution, "multiprocessors", lambda device: processors)
    case = CASES["1024 terms of dw, in groups"]
    dy, x, w, _ = problem(case, "float32")
    dw = device(np.full_like(w, 7))
    gpu.conv2d_backward(device(dy), device(x), None, None, case[-1], None, dw, None)
    same(dw.get(), backward(on_host(cpu), dy, x, w, None, case[-1])[1])
    assert any(name.startswith("add_spans") for name, *_ in kernels.launches) == (processors == 3)


@pytest.mark.parametrize("module", [cpu, gpu], ids=["cpu", "gpu"])
def test_only_what_is_wanted_is_computed(kernels, module):
    case = CASES["groups, steps and gaps"]
    window = case[-1]
    dy, x, w, _ = problem(case, "float32")
    expected = backward(on_host(reference), dy, x, w, None, window)
    place = device if module is gpu else np.array
    dy, x, w = place(dy), place(x), place(w)
    found = [place(np.full_like(a, 7)) for a in expected]
    module.conv2d_backward(dy, None, w, None, window, found[0], None, None)
    module.conv2d_backward(dy, x, None, None, window, None, found[1], None)
    module.conv2d_backward(dy, x, w, None, window, None, None, found[2])
    for a, b in zip(found, expected, strict=True):
        same(a.get() if module is gpu else a, b)
    names = [name for name, *_ in kernels.launches]
    for once in ("convolve_weight", "multiply_taps", "add_taps", "round_sums"):
        assert names.count(f"{once}_float32") == (module is gpu)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by", [1, 3])
def test_any_offset_and_nothing_outside_is_touched(kernels, dtype, by):
    case = (2, 3, 5, (7, 9), (3, 3), PADDED)
    arrays = problem(case, dtype)
    dy, x, w, bias = arrays
    y = forward(on_host(cpu), x, w, bias, PADDED, True, dy.shape)
    results = [y, *backward(on_host(cpu), dy, x, w, y, PADDED)]
    rooms = [np.full(a.size + 20, 7, dtype) for a in (*arrays, *results)]
    placed = [
        room[by : by + a.size].reshape(a.shape) for room, a in zip(rooms, (*arrays, *results), strict=True)
    ]
    for a, b in zip(placed, arrays, strict=False):
        a[...] = b
    dy1, x1, w1, bias1, y, *gradients = (host_cupy.ndarray(a) for a in placed)
    gpu.conv2d(x1, w1, bias1, PADDED, True, y)
    gpu.conv2d_backward(dy1, x1, w1, y, PADDED, *gradients)
    for a, b in zip(placed[4:], results, strict=True):
        same(a, b, f"{by} elements on")
    for room, a in zip(rooms, placed, strict=True):
        assert (room[:by] == 7).all()
        assert (room[by + a.size :] == 7).all()


def test_padding_is_a_term_and_nothing_is_a_positive_zero(kernels):
    window = Window((3, 3), (1, 1), (1, 1), 1)
    x, w = np.full((1, 1, 2, 2), -0.0, np.float32), np.ones((1, 1, 3, 3), np.float32)
    w[0, 0, 0, 0] = np.inf  # reaches the padding alone
    assert np.isnan(forward(ON_GPU, x, w, None, window, False, (1, 1, 1, 1))).all()
    w[0, 0, 0, 0] = -1
    y = forward(ON_GPU, x, w, None, window, False, (1, 1, 1, 1))
    assert y.tolist() == [[[[0]]]]
    assert not np.signbit(y).any()
    dx, _, _ = backward(ON_GPU, y - 1, x, 0 * w, None, window)
    assert not np.signbit(dx).any()  # +0 + -0
    y = forward(ON_GPU, x, w, np.float32([-3]), window, True, (1, 1, 1, 1))
    assert not np.signbit(y).any()


@pytest.mark.parametrize("on", [ON_GPU, on_host(cpu), on_host(reference)], ids=["gpu", "cpu", "reference"])
def test_zeros_of_the_padding_are_positive(kernels, on):
    """-0 of a product too small for its type, plus 1*(+0), is +0; plus 1*(-0) it would be -0."""
    x, w = np.full((1, 1, 1, 1), -1e-30, np.float32), np.float32([1e-30, 1]).reshape(1, 1, 1, 2)
    window = Window((1, 1), (0, 1), (1, 1), 1)
    y = forward(on, x, w, None, window, False, (1, 1, 1, 2))
    assert y.ravel().tolist() == [np.float32(-1e-30), 0]
    assert not np.signbit(y[..., 1])


def test_a_sample_has_the_same_bits_in_any_batch(kernels):
    case = CASES["padded"]
    dy, x, w, bias = problem(case, "float32")
    y = forward(ON_GPU, x, w, bias, PADDED, True, dy.shape)
    dx, _, _ = backward(ON_GPU, dy, x, w, y, PADDED)
    for n in range(2):
        one = slice(n, n + 1)
        same(forward(ON_GPU, x[one], w, bias, PADDED, True, dy[one].shape), y[one])
        same(backward(ON_GPU, dy[one], x[one], w, y[one], PADDED)[0], dx[one])


def test_on_the_device_of_the_arrays(kernels, monkeypatch):
    devices, launch = set(), host_cupy.HostKernels.launch

    def noting(self, *args, **kwargs):
        devices.add(host_cupy.Device.current)
        return launch(self, *args, **kwargs)

    monkeypatch.setattr(host_cupy.HostKernels, "launch", noting)
    case = CASES["plain"]
    there = (gpu, lambda a: device(a, 1), lambda a: a.get())
    everything(there, *problem(case, "float32"), PLAIN)
    assert devices == {1}


def test_inputs_are_not_changed(kernels):
    case = CASES["groups, steps and gaps"]
    arrays = problem(case, "float64")
    dy, x, w, bias = (device(a) for a in arrays)
    y = device(arrays[0])
    outs = [device(np.zeros_like(a)) for a in arrays[1:]]
    gpu.conv2d(x, w, bias, case[-1], True, device(arrays[0]))
    gpu.conv2d_backward(dy, x, w, y, case[-1], *outs)
    for a, b in zip((dy, x, w, bias, y), (*arrays, arrays[0]), strict=True):
        same(a.get(), b)
