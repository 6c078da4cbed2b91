"""Whatever floating-point mode the process is in: the same bits, and the mode as it was after."""

import ctypes
import os

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from control_register import DAZ, EXCEPTION_FLAGS, FTZ, MODES, mxcsr, needs_x86
from samestep import _core
from samestep.proof import golden, vectors

pytestmark = needs_x86


def test_the_helper_does_change_arithmetic():
    tiny = np.full(64, np.finfo(np.float32).tiny)
    with mxcsr(FTZ):
        halves = tiny * np.float32(0.5)
    assert not halves.any()
    assert (tiny * np.float32(0.5)).all()


def test_the_helper_sees_a_mode_that_was_not_kept():
    def lose_the_mode():
        with mxcsr(FTZ):
            ctypes.CDLL("libm.so.6").fesetround(0x400)

    with pytest.raises(AssertionError):
        lose_the_mode()


@pytest.mark.parametrize("bits", MODES)
def test_mode_changes_no_bit_and_is_kept(case, bits, threads):
    size = 70_001
    w = vectors.random_values(size, case.dtype, 1)
    grads = [vectors.random_values(size, case.dtype, s) for s in (2, 3)]
    expected = case.run(w, grads)
    got = w.copy()
    optimizer = case.make(got)
    with mxcsr(bits):
        for g in grads:
            optimizer.step(g)
    same_bits([got, *(s[0] for s in optimizer.state.values())], expected)


@pytest.mark.parametrize("flags", [0, EXCEPTION_FLAGS])
def test_exception_flags_of_the_caller_are_kept(flags, isa):
    """Also where the values overflow, underflow, are subnormal or have no result."""
    largest, tiny = np.finfo(np.float32).max, np.finfo(np.float32).tiny
    w = np.array([largest, np.inf, tiny, tiny / 8], np.float32)
    g = np.array([-largest, np.inf, tiny, tiny / 16], np.float32)
    optimizers = [ss.SGD(w.copy(), lr=0.5), ss.Adam(w.copy())]
    with mxcsr(0, flags):
        for optimizer in optimizers:
            optimizer.step(g)
        ss.canonical_sum(w)
    stepped = optimizers[0].params[0]
    assert np.isposinf(stepped[0])
    assert np.isnan(stepped[1])


def test_workers_started_in_another_mode(settings):
    """Threads inherit the mode of the thread that starts them: none of it may reach a task."""
    w = vectors.random_values(900_000, np.dtype(np.float32), 1)
    g = vectors.random_values(900_000, np.dtype(np.float32), 2)
    (case,) = [c for c in golden.cases() if str(c) == "adam_outside float32"]
    expected = case.run(w, [g], backend="reference")
    alive = len(os.listdir("/proc/self/task"))
    got = w.copy()
    optimizer = case.make(got)
    with mxcsr(FTZ | DAZ | 0x2000):
        ss.set_num_threads(alive + 2)  # more than there can be already
        optimizer.step(g)
    assert len(os.listdir("/proc/self/task")) > alive, "no thread was born in that mode"
    same_bits([got, *(s[0] for s in optimizer.state.values())], expected)


@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_and_batch_norm(dtype, bits, threads, isa):
    x = vectors.random_values(60_000, np.dtype(dtype), 1).reshape(20, 30, 100)
    x[~np.isfinite(x) | (abs(x) > 1e30)] = 1e-40
    dy = np.flip(x, 0).copy()
    gamma, beta = (vectors.finite_values(30, np.dtype(dtype), s) for s in (3, 5))
    running = [np.zeros(30, dtype), np.ones(30, dtype)]
    tiny = np.full(5, np.finfo(np.float64).tiny / 4)

    def everything():
        y, mean, inv = ss.batchnorm_forward(x, gamma, beta, relu=True)
        layer = ss.BatchNorm(30, dtype=dtype)
        layer.forward(x)
        return [
            np.array([ss.canonical_sum(x), ss.global_norm([x, dy])]),
            ss.canonical_sum(x, 1),
            _core.pair_sums(_core.block_sums(x, 20, 30, 100, True), 20, 1, 100),
            np.array([_core.norm_of(tiny, 0.3), _core.clipped_scale(1e-300, 3.0, 1e-9)]),
            *(y, mean, inv, layer.running_mean, layer.running_var),
            *ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, relu=True),
            ss.batchnorm_inference(x, gamma, beta, *running),
        ]

    expected = everything()
    with mxcsr(bits):
        got = everything()
    same_bits(got, expected)


@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_norm_in_two_halves(dtype, bits, threads, isa):
    """Subnormal values, sums of them, and results."""
    N, C, S = sizes = (5, 3, 700)
    tiny = np.finfo(dtype).tiny
    x, dy = (vectors.finite_values(N * C * S, np.dtype(dtype), seed) * tiny for seed in (1, 2))
    gamma, beta, inv = (np.full(C, value, dtype) for value in (0.3, tiny / 3, 0.7))
    mean = x[:C].copy()

    def everything():
        results = []
        for channels_last in (False, True):
            layout = sizes, channels_last
            of_x, of_dy = np.empty((2, 2 * C * 4))
            out, dx, dgamma, dbeta = (
                np.empty_like(x),
                np.empty_like(x),
                np.empty(C, dtype),
                np.empty(C, dtype),
            )
            mean64, var64 = np.empty((2, C))
            own_mean, own_inv = np.empty((2, C), dtype)
            _core.batchnorm_forward_blocks(x, mean, of_x, *layout, 0)
            _core.batchnorm_backward_blocks(dy, x, gamma, beta, mean, inv, of_dy, *layout, True, 0)
            forward = (out, own_mean, own_inv, mean64, var64)
            _core.batchnorm_forward_apply(
                x, mean, gamma, beta, of_x[: 2 * C], *forward, *layout, True, 1e-5, N * S
            )
            _core.batchnorm_backward_apply(
                dy, x, gamma, beta, mean, inv, of_dy[: 2 * C], dx, dgamma, dbeta, *layout, True, N * S
            )
            results += [of_x, of_dy, *forward, dx, dgamma, dbeta]
        return results

    expected = everything()
    with mxcsr(bits):
        got = everything()
    same_bits(got, expected)


@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leaves(dtype, bits, threads, isa):
    """Subnormal products, sums and quotients, also of 16-bit gradients and to 16 bits."""
    tiny = np.finfo(dtype).tiny
    a, b = (vectors.finite_values(40_000, np.dtype(dtype), seed) * tiny for seed in (1, 2))
    half = (np.arange(40_000) % 1000).astype(np.uint16).view(np.float16)

    def everything():
        total, out, weighed = a.copy(), np.empty_like(a), np.empty_like(a)
        _core.weigh_leaf(a, 0.3, weighed)
        _core.add_leaves(total, b)
        _core.average_leaves(total, 3.0, out)
        results = [total, out, weighed]
        if dtype == np.float32:
            widened, small = np.empty_like(a), np.empty_like(half)
            _core.weigh_leaf(half, 0.3, widened)
            _core.average_leaves(widened, 3.0, small)
            results += [widened, small]
        return results

    expected = everything()
    for found in expected[:3]:
        assert ((found != 0) & (abs(found) < tiny)).any()
    with mxcsr(bits):
        got = everything()
    same_bits(got, expected)


@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_convolution(dtype, bits, threads, isa):
    """Subnormal terms, sums and results, in all three products, the fold and the sums."""
    tiny = np.finfo(dtype).tiny
    x, w, dy = (
        vectors.finite_values(int(np.prod(shape)), np.dtype(dtype), seed).reshape(shape)
        for shape, seed in (((3, 30, 5, 6), 1), ((4, 30, 3, 3), 2), ((3, 4, 5, 6), 3))
    )
    x, dy, bias = x * tiny, dy * tiny, vectors.finite_values(4, np.dtype(dtype), 4) * tiny
    window = ((1, 1), (1, 1), (1, 1), 1)

    def everything():
        results = [np.empty_like(a) for a in (dy, x, w, bias)]
        _core.conv2d(x, w, bias, window, True, results[0])
        _core.conv2d_backward(dy, x, w, results[0], window, *results[1:])
        return results

    expected = everything()
    assert ((expected[0] != 0) & (expected[0] < tiny)).any()
    with mxcsr(bits):
        got = everything()
    same_bits(got, expected)


@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_linear_layer(dtype, bits, threads, isa):
    """Subnormal terms, sums and results, and a ReLU that lets subnormals through."""
    tiny = np.finfo(dtype).tiny
    x, w, dy = (
        vectors.finite_values(a * b, np.dtype(dtype), seed).reshape(a, b)
        for a, b, seed in ((40, 300, 1), (300, 33, 2), (40, 33, 3))
    )
    x, dy = x * tiny, dy * tiny
    bias = vectors.finite_values(33, np.dtype(dtype), 4) * tiny

    def everything():
        y = ss.linear(x, w, bias, relu=True)
        return [ss.linear(x, w), y, *ss.linear_backward(dy, x, w, y=y)]

    expected = everything()
    assert ((expected[1] != 0) & (expected[1] < tiny)).any()
    with mxcsr(bits):
        got = everything()
    same_bits(got, expected)


@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_one_value_and_softmax(dtype, bits, threads, isa):
    """Also where results are subnormal."""
    x = vectors.random_values(40_000, np.dtype(dtype), 1)
    x[::2] = np.linspace(-105 if dtype == np.float32 else -750, 90, 20_000)

    z, labels = x[1:].reshape(-1, 3), np.arange(13_333) % 3

    def everything():
        loss, dz = ss.softmax_cross_entropy(z, labels)
        values = [function(x) for function in (ss.exp, ss.log, ss.tanh, ss.sigmoid)]
        return [*values, np.array([loss]), dz]

    expected = everything()
    with mxcsr(bits):
        got = everything()
    same_bits(got, expected)
