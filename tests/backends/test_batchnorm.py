"""Batch norm: golden digests, kernels against the NumPy twin bit for bit, worked numbers."""

from __future__ import annotations

import ctypes
import math
from fractions import Fraction

import numpy as np
import pytest

import samestep as ss
from batchnorm_arrays import passes, same, special
from bits import same_bits
from samestep import _core

ISAS = ss.info()["isas"]
DTYPES = ("float32", "float64")


pytestmark = pytest.mark.usefixtures("settings")


# ---- golden digests of the contract ----

GOLDEN = {
    ("float32", False): ("c2b39e3955bbf6ef", "649bbcc5be9dd347", "694992eca0cae201"),
    ("float32", True): ("c2b39e3955bbf6ef", "f78aa0c5fffe3e19", "d2705c829199c62b"),
    ("float64", False): ("6ad366131cfacdc5", "94685a78a0954ed5", "fa9a5460da580f9e"),
    ("float64", True): ("6ad366131cfacdc5", "148c8842b978cfbf", "55e95be3b6c91689"),
}


def data(shape, a, b, m, s, d):
    i = np.arange(math.prod(shape), dtype=np.int64)
    return (((i * a + (i // 7) * b) % m - s) / d).reshape(shape)


def golden_inputs(dtype):
    x = data((5, 2500), 37, 11, 1009, 400, 128.3).astype(dtype)
    dy = data((5, 2500), 53, 17, 911, 455, 257.7).astype(dtype)
    return x, dy, data((5,), 3, 1, 7, 3, 2.5).astype(dtype), data((5,), 5, 2, 11, 5, 9.1).astype(dtype)


# Where the 2500 values of a channel lie: as N samples of S positions, channels before or after the positions.
LAYOUTS = [
    (1, 2500, 1),
    (4, 625, 1),
    (50, 50, 1),
    (100, 25, 1),
    (1, 2500, -1),
    (50, 50, -1),
    (2500, 1, 1),
    (500, 5, "strides"),
]


def lay_out(a, N, S, axis):
    a = a.reshape(5, N, S).transpose(1, 0, 2)  # (N, C, S)
    if axis == "strides":  # shape (N, C, S), channels last in memory
        return np.ascontiguousarray(a.transpose(0, 2, 1)).transpose(0, 2, 1), 1
    return np.ascontiguousarray(a if axis == 1 else np.moveaxis(a, 1, -1)), axis


def take_back(a, N, S, axis):
    a = np.moveaxis(a, -1, 1) if axis == -1 else a
    return np.ascontiguousarray(a.reshape(N, 5, S).transpose(1, 0, 2)).reshape(5, 2500)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "isa", [ISAS[0], *(pytest.param(isa, marks=pytest.mark.more) for isa in ISAS[1:]), "reference"]
)
def test_golden_digests(isa, dtype, relu):
    x, dy, gamma, beta = golden_inputs(dtype)
    how = {"relu": relu, "backend": "reference" if isa == "reference" else "cpu"}
    if isa != "reference":
        ss.set_isa(isa)
    for threads in range(1, 9) if isa != "reference" else [1]:
        ss.set_num_threads(threads)
        for N, S, where in LAYOUTS:
            (X, axis), (DY, _) = lay_out(x, N, S, where), lay_out(dy, N, S, where)
            y, mean, inv = ss.batchnorm_forward(X, gamma, beta, axis=axis, **how)
            dx, dgamma, dbeta = ss.batchnorm_backward(DY, X, gamma, beta, mean, inv, axis=axis, **how)
            assert y.flags.c_contiguous == X.flags.c_contiguous == dx.flags.c_contiguous
            y, dx = take_back(y, N, S, axis), take_back(dx, N, S, axis)
            got = tuple(ss.digest(a)[:16] for a in ([mean, inv], [y], [dx, dgamma, dbeta]))
            assert got == GOLDEN[dtype, relu], (threads, N, S, where)


# ---- kernels and the twin ----

SHAPES = [
    ((2, 1), 1),
    ((5, 3), 1),
    ((1025, 10), 1),
    ((3000, 256), 1),
    ((700, 257), -1),
    ((70, 600), 1),
    ((3, 2, 1), 1),
    ((40, 19, 7, 7), 1),
    ((6, 33, 14, 14), 1),
    ((9, 16, 5), 1),
    ((3, 8, 1500), 1),
    ((2, 3, 70001), 1),
    ((4, 1, 9000), 1),
    ((1, 40000, 1), -1),
    ((6, 7, 7, 48), -1),
    ((2, 33, 31, 5), -1),
    ((33, 17, 2, 2), 1),
    ((2, 12, 33000), 1),
    ((33, 64, 14, 14), 1),  # fetches the next plane
    ((2, 256), 1),  # fewer rows than lanes
    ((20, 130), 1),
    ((33, 127), 1),  # the most columns that are joined
    ((95, 128), -1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_kernels_equal_the_twin(shape, axis, dtype):
    C = shape[axis]
    for seed in (1, 2):
        finite = seed == 1
        x, dy = special(shape, dtype, seed, finite), special(shape, dtype, seed + 7)
        gamma, beta = special((C,), dtype, seed + 20), special((C,), dtype, seed + 21)
        for relu in (False, True):
            how = {"axis": axis, "relu": relu}
            expected = passes(x, dy, gamma, beta, **how, backend="reference")
            for isa in ISAS:
                ss.set_isa(isa)
                for threads in (1, 3):
                    ss.set_num_threads(threads)
                    for name, got in passes(x, dy, gamma, beta, **how).items():
                        same(got, expected[name], f"{name}, {isa}, {threads} threads, relu {relu}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_inf_stay_in_their_channel(isa, dtype):
    ss.set_isa(isa)
    x = special((50, 6, 30), dtype, 3)
    x[0, 1, 0] = np.inf  # the first value, by which the others would be shifted
    x[7, 2, 3] = np.nan
    x[9, 4, 1] = -np.inf
    one, zero = np.ones(6, dtype), np.zeros(6, dtype)
    expected = passes(x, x.copy(), one, zero, relu=True, backend="reference")
    got = passes(x, x.copy(), one, zero, relu=True)
    for name in got:
        same(got[name], expected[name], name)
    assert np.isnan(got["y"]).all(axis=(0, 2)).tolist() == [False, True, True, False, True, False]
    assert np.isfinite(got["y"][:, [0, 3, 5]]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 24, 11), (300, 40), (3, 2, 600)], ids=str)
def test_alignment_does_not_matter(shape, dtype):
    C, size = shape[1], math.prod(shape)
    x, dy, gamma, beta = (special(s, dtype, i) for i, s in enumerate((shape, shape, (C,), (C,))))
    expected = passes(x, dy, gamma, beta, relu=True)
    rooms = [np.empty(size + 16, dtype) for _ in range(3)]
    for isa in ISAS:
        ss.set_isa(isa)
        for offset in range(16):
            shifted = [
                r[o : o + size].reshape(shape)
                for r, o in zip(rooms, (offset, 5 * offset % 16, 0), strict=True)
            ]
            shifted[0][...], shifted[1][...] = x, dy
            out = rooms[2][(3 * offset) % 16 :][:size].reshape(shape)
            y, mean, inv = ss.batchnorm_forward(shifted[0], gamma, beta, relu=True, out=out)
            assert y is out
            same(y, expected["y"])
            dx, _, _ = ss.batchnorm_backward(
                shifted[1], shifted[0], gamma, beta, mean, inv, relu=True, out=out
            )
            same(dx, expected["dx"])


@pytest.mark.parametrize(
    ("shape", "axis"), [((16, 24, 80, 80), 1), ((40000, 60), 1), ((9001, 7, 37), -1), ((2, 4, 300000), 1)]
)
def test_stores_past_the_caches_give_the_same_bits(shape, axis):
    """Results above 8 MiB are written past the caches: all alignments of such a result."""
    C, size = shape[axis], math.prod(shape)
    x, dy = special(shape, "float32", 1), special(shape, "float32", 2)
    gamma, beta = special((C,), "float32", 3), special((C,), "float32", 4)
    expected = passes(x, dy, gamma, beta, axis=axis, relu=True, backend="reference")
    room = np.empty(size + 16, np.float32)
    for isa in ISAS:
        ss.set_isa(isa)
        for offset in (0, 1, 4, 13):
            out = room[offset : offset + size].reshape(shape)
            how = {"axis": axis, "relu": True, "out": out}
            y, mean, inv = ss.batchnorm_forward(x, gamma, beta, **how)
            same(y, expected["y"])
            same(ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, **how)[0], expected["dx"])
            same(
                ss.batchnorm_inference(x, gamma, beta, mean, inv * inv, eps=0.5, **how), expected["inference"]
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 32, 9), (20, 16, 800), (900, 3)], ids=str)
def test_results_may_overwrite_what_is_no_longer_needed(shape, dtype):
    C = shape[1]
    x, dy, gamma, beta = (special(s, dtype, i) for i, s in enumerate((shape, shape, (C,), (C,))))
    for relu in (False, True):
        expected = passes(x, dy, gamma, beta, relu=relu)
        over = dy.copy()
        dx, _, _ = ss.batchnorm_backward(
            over, x, gamma, beta, expected["mean"], expected["inv"], relu=relu, out=over
        )
        assert dx is over
        same(dx, expected["dx"])
        over = x.copy()
        inv = expected["inv"]
        z = ss.batchnorm_inference(
            over, gamma, beta, expected["mean"], inv * inv, eps=0.5, relu=relu, out=over
        )
        same(z, expected["inference"])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "fesetround"), reason="no fesetround in libc")
@pytest.mark.parametrize("isa", ISAS)
def test_the_callers_rounding_mode_does_not_matter(isa):
    libm = ctypes.CDLL("libm.so.6")
    ss.set_isa(isa)
    shape = (40, 8, 100)
    x, dy, gamma, beta = (special(s, "float32", i) for i, s in enumerate((shape, shape, (8,), (8,))))
    tensors = [x.reshape(-1), dy.reshape(-1)]

    def everything():
        layer = ss.BatchNorm(8, relu=True, momentum=0.3)
        layer.forward(x)
        state = [layer.running_mean, layer.running_var]
        return [
            *passes(x, dy, gamma, beta, relu=True).values(),
            *state,
            ss.canonical_sum(x, 0),
        ], ss.global_norm(tensors)

    expected, norm = everything()
    for mode in (0x400, 0x800, 0xC00):  # down, up, to zero
        assert libm.fesetround(mode) == 0
        try:
            got, got_norm = everything()
            assert libm.fegetround() == mode
        finally:
            libm.fesetround(0)
        assert norm == got_norm
        for a, b in zip(got, expected, strict=True):
            same(a, b)


# ---- values ----

Z = np.array([[1.0, 2], [3, 6], [5, 4], [7, 8]])
GAMMA, BETA = np.array([2.0, -1.0]), np.array([-1.0, 0.5])
DY = np.array([[1, -1], [2, 0.5], [-1, 3], [0.5, 1]])


def test_worked_example():
    """Table B22 of the theory notes."""
    y, mean, inv = ss.batchnorm_forward(Z, GAMMA, BETA, relu=True)
    assert mean.tolist() == [4, 5]
    assert inv == pytest.approx([1 / math.sqrt(5 + 1e-5)] * 2, rel=1e-15)
    column = [1.841639444861, 0.052786851713, 0.947213148287, 0]
    assert y == pytest.approx(np.array([[0, 0, 0, 1.683278889722], column]).T, abs=1e-12)
    dx, dgamma, dbeta = ss.batchnorm_backward(DY, Z, GAMMA, BETA, mean, inv, relu=True)
    assert dgamma == pytest.approx([0.670819722431, 0.223606574144], abs=1e-12)
    assert dbeta.tolist() == [0.5, 2.5]
    rows = [
        [0.089442227166, 0.693180446927],
        [-0.044721448992, 0.067081949882],
        [-0.178885125151, -1.073311533528],
        [0.134164346977, 0.313049136719],
    ]
    assert dx == pytest.approx(np.array(rows), abs=1e-12)


def test_backward_is_the_papers_chain_rule():
    """Ioffe and Szegedy's three steps, by way of the variance and the mean, on the worked example."""
    _, mean, inv = ss.batchnorm_forward(Z, GAMMA, BETA)
    dx, _, _ = ss.batchnorm_backward(DY, Z, GAMMA, BETA, mean, inv)
    m, centred = len(Z), Z - mean
    d_hat = DY * GAMMA
    d_var = (d_hat * centred).sum(0) * -0.5 * inv**3
    d_mean = (d_hat * -inv).sum(0) + d_var * (-2 * centred).sum(0) / m
    assert dx == pytest.approx(d_hat * inv + d_var * 2 * centred / m + d_mean / m, abs=5e-16)


def test_a_step_moves_the_raw_statistics_and_not_the_normalised_ones():
    """The slides' before and after: XW of a batch changes its mean and spread, its batch norm neither."""
    rng = np.random.default_rng(6)
    X, W, dy = rng.standard_normal((64, 9)) + 1.0, rng.standard_normal((9, 4)), rng.standard_normal((64, 4))
    gamma, beta = np.full(4, 2.0), np.full(4, 0.5)
    opt, spreads = ss.SGD(W, lr=0.5), []
    for _ in range(2):
        x = X @ W
        y, mean, inv = ss.batchnorm_forward(x, gamma, beta, eps=0.0)
        assert y.mean(0) == pytest.approx(beta, abs=1e-13)
        assert y.std(0) == pytest.approx(gamma, rel=1e-13)
        spreads.append(x.std(0))
        dx, _, _ = ss.batchnorm_backward(dy, x, gamma, beta, mean, inv)
        opt.step(X.T @ dx)
    assert (abs(spreads[1] / spreads[0] - 1) > 0.05).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_running_statistics(backend):
    """Three batches of table B22; the unbiased variance is kept, the biased one normalises."""
    layer = ss.BatchNorm(2, momentum=0.1, dtype=np.float64, backend=backend)
    for _ in range(3):
        layer.forward(Z)
    assert layer.running_mean == pytest.approx([1.084, 1.355], rel=1e-14)
    assert layer.running_var == pytest.approx([2.535666666667] * 2, rel=1e-12)
    assert layer.running_var != pytest.approx([2.084] * 2, rel=1e-3)
    layer.weight[...], layer.bias[...] = GAMMA, BETA
    y = layer.eval().forward(np.array([[0.0, 0], [1, 1]]))
    assert y[1] - y[0] == pytest.approx([1.255980967946, -0.627990483973], abs=1e-11)
    assert y[0] == pytest.approx([-2.361483369254, 1.350927105784], abs=1e-11)
    assert layer.num_batches_tracked == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_running_statistics_have_the_twins_bits(dtype):
    for momentum in (0.1, 0.0, 1.0, None):
        layers = [ss.BatchNorm(7, momentum=momentum, dtype=dtype, backend=b) for b in ("cpu", "reference")]
        for t in range(5):
            x = special((9, 7, 5), dtype, t)
            for layer in layers:
                layer.forward(x)
        for name, value in layers[0].state_dict().items():
            if name != "num_batches_tracked":
                same(value, layers[1].state_dict()[name], f"{name}, momentum {momentum}")


def test_momentum_none_is_the_plain_average():
    layer = ss.BatchNorm(3, momentum=None, dtype=np.float64)
    xs = [np.random.default_rng(t).standard_normal((10, 3)) for t in range(6)]
    for x in xs:
        layer.forward(x)
    assert layer.running_mean == pytest.approx(np.mean([x.mean(0) for x in xs], 0), rel=1e-12)
    assert layer.running_var == pytest.approx(np.mean([x.var(0, ddof=1) for x in xs], 0), rel=1e-12)


def test_invariances():
    rng = np.random.default_rng(5)
    X, W = rng.standard_normal((64, 9)), rng.standard_normal((9, 4))
    gamma, beta, dy = rng.standard_normal(4), rng.standard_normal(4), rng.standard_normal((64, 4))

    def through(W, shift=0.0, eps=0.0):
        x = X @ W + shift
        y, mean, inv = ss.batchnorm_forward(x, gamma, beta, eps=eps)
        dx, dgamma, _ = ss.batchnorm_backward(dy, x, gamma, beta, mean, inv)
        return x, y, inv, dx, dgamma, X.T @ dx

    x, y, _, _, _, dW = through(W)
    _, y7, _, _, _, dW7 = through(7 * W)
    assert y7 == pytest.approx(y, abs=1e-13)
    assert dW7 == pytest.approx(dW / 7, abs=1e-13)
    assert (W * dW).sum(0) == pytest.approx(0.0, abs=1e-12)
    assert through(W, shift=3.0)[1] == pytest.approx(y, abs=1e-13)
    # sum dx = 0; sum dx*xhat = gamma/sd * dgamma * eps/(var + eps); before a ReLU, y has mean beta.
    eps = 0.3
    x, y, inv, dx, dgamma, _ = through(W, eps=eps)
    var, xhat = x.var(0), (x - x.mean(0)) * inv
    assert dx.sum(0) == pytest.approx(0.0, abs=1e-13)
    assert (dx * xhat).sum(0) == pytest.approx(gamma * inv * dgamma * eps / (var + eps), abs=1e-13)
    assert y.mean(0) == pytest.approx(beta, abs=1e-14)
    assert y.std(0) == pytest.approx(abs(gamma) * np.sqrt(var / (var + eps)), rel=1e-13)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((7, 3), 1), ((3, 4, 5), 1), ((3, 5, 4), -1)])
def test_backward_is_the_derivative_of_forward(shape, axis, relu):
    rng = np.random.default_rng(8)
    C = shape[axis]
    x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
    gamma, beta = rng.standard_normal(C), rng.standard_normal(C)

    def loss():
        return (dy * ss.batchnorm_forward(x, gamma, beta, relu=relu, axis=axis)[0]).sum()

    _, mean, inv = ss.batchnorm_forward(x, gamma, beta, relu=relu, axis=axis)
    grads = ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, relu=relu, axis=axis)
    for values, grad in zip((x, gamma, beta), grads, strict=True):
        for i in np.ndindex(values.shape):
            before, h = values[i], 1e-5
            values[i] = before + h
            up = loss()
            values[i] = before - h
            down = loss()
            values[i] = before
            assert grad[i] == pytest.approx((up - down) / (2 * h), abs=2e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((7, 3), 1), ((1, 3), 1), ((30, 4, 500), 1), ((3, 5, 4), -1)])
def test_the_gradients_of_inference(shape, axis, relu, dtype):
    """Those of the formula in float64; the same bits from the twin; sums over nothing are 0."""
    rng = np.random.default_rng(8)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    gamma, beta, mean, var = rng.uniform(0.5, 2, (4, shape[axis])).astype(dtype)
    how = {"eps": 0.1, "relu": relu, "axis": axis}
    found = ss.batchnorm_inference_backward(dy, x, gamma, beta, mean, var, **how)
    twins = ss.batchnorm_inference_backward(dy, x, gamma, beta, mean, var, **how, backend="reference")
    for a, b in zip(found, twins, strict=True):
        same(a, b)
    along = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    x64, dy64, gamma64, var64, mean64 = (
        np.expand_dims(a.astype("f8"), along) if a.ndim == 1 else a.astype("f8")
        for a in (x, dy, gamma, var, mean)
    )
    inv = 1 / np.sqrt(var64 + 0.1)
    if relu:
        dy64 = dy64 * (ss.batchnorm_inference(x, gamma, beta, mean, var, **how) > 0)
    expected = dy64 * gamma64 * inv, (dy64 * (x64 - mean64) * inv).sum(along), dy64.sum(along)
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12}
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
    nothing = ss.batchnorm_inference_backward(dy[:0], x[:0], gamma, beta, mean, var, **how)
    assert [a.tolist() for a in nothing[1:]] == [[0.0] * shape[axis]] * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ratio", [0, 1, 1e3, 1e6])
def test_the_variance_is_accurate(ratio, dtype):
    """Within 1e-8 of the exact value, though the mean is up to 1e6 standard deviations from 0.

    Near 0 the deviations of float32 values are rounded to float32: there, within its unit of rounding.
    """
    tolerance = 1e-8 if dtype == "float64" or ratio >= 1e3 else 2.0**-23
    rng = np.random.default_rng(11)
    x = (rng.standard_normal((5000, 2)) + ratio).astype(dtype)
    x64 = x.astype(np.float64)
    one = np.ones(2, dtype)
    mean64, var64 = ss.layers.batchnorm.forward_and_statistics(x, one, one, 1e-5, False, 1, None, "auto")[3:]
    for c in range(2):
        values = [Fraction(v) for v in x64[:, c].tolist()]
        mean = sum(values) / 5000
        var = sum((v - mean) ** 2 for v in values) / 5000
        assert abs(float((Fraction(var64[c]) - var) / var)) < tolerance
        assert abs(float(Fraction(mean64[c]) - mean)) < 1e-8 * float(var) ** 0.5
    if ratio == 1e6 and dtype == "float64":  # what the shift is for: the plain formula fails by far
        plain = (x64 * x64).mean(0) - x64.mean(0) ** 2
        assert abs(plain / x64.var(0) - 1).max() > 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values(dtype):
    one, zero = np.ones(1, dtype), np.zeros(1, dtype)
    constant = np.full((300, 1), 0.1, dtype)
    y, mean, inv = ss.batchnorm_forward(constant, one, zero, eps=1e-5)
    assert mean[0] == constant[0, 0]
    assert inv[0] == constant.dtype.type(1 / math.sqrt(1e-5))
    assert not y.any()
    big = np.array([[1e30], [-1e30], [3e30], [1e30]], dtype)
    y, mean, inv = ss.batchnorm_forward(big, one, zero)
    assert y == pytest.approx((big - 1e30) / 2**0.5 / 1e30, rel=1e-5, abs=1e-6)
    small = 1e-30 * np.array([[1], [-1], [3], [1]], dtype)
    y, _, _ = ss.batchnorm_forward(small, one, zero, eps=0.0)
    assert y == pytest.approx((small * 1e30 - 1) / 2**0.5, rel=1e-5, abs=1e-6)


def test_relu_at_its_edge():
    """NaN passes, -0 becomes +0, and where y was +0 for it dy is cut off."""
    x = np.array([[-1.0], [0.0], [1.0], [np.nan]])
    one, zero = np.ones(1), np.zeros(1)
    for backend in ("cpu", "reference"):
        y = ss.batchnorm_inference(x, one, -zero, zero, one, eps=0.0, relu=True, backend=backend)
        assert y[:3, 0].tolist() == [0, 0, 1]
        assert np.isnan(y[3, 0])
        assert not np.signbit(y[:3]).any()
        dy = np.ones((4, 1))
        _, _, dbeta = ss.batchnorm_backward(dy, x, one, zero, zero, one, relu=True, backend=backend)
        assert dbeta[0] == 2  # of 1 and NaN


@pytest.mark.more
def test_more_values_than_32_bits_count():
    """2^31 + 4096 values of one channel, in one MiB of memory mapped again and again."""
    import mmap
    import os

    MiB, times = 1 << 20, (1 << 33) // (1 << 20) + 1
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "memfd_create"):
        pytest.skip("no memfd_create")
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fd = os.memfd_create("x")
    os.ftruncate(fd, MiB)
    room = libc.mmap(None, times * MiB, 0, 0x22, -1, 0)  # reserves addresses, PROT_NONE
    assert room not in (None, ctypes.c_void_p(-1).value)
    try:
        for i in range(times):
            assert libc.mmap(room + i * MiB, MiB, 3, mmap.MAP_SHARED | 0x10, fd, 0) == room + i * MiB
        n = (1 << 31) + 4096
        x = np.frombuffer((ctypes.c_char * (4 * n)).from_address(room), np.float32)
        x[: MiB // 4] = np.random.default_rng(0).standard_normal(MiB // 4, np.float32)
        page, rest = x[: MiB // 4].astype(np.float64), x[: n % (MiB // 4)].astype(np.float64)
        expected = page.sum() * (n // (MiB // 4)) + rest.sum()
        assert ss.canonical_sum(x) == pytest.approx(expected, rel=1e-9)
        # Indices run past 2^31. No other array of that size would fit, so inference over x itself.
        one = np.ones(1, np.float32)
        shaped = x.reshape(n, 1)
        x[: MiB // 4] = 0
        ss.batchnorm_inference(shaped, one, one, 0 * one, one, eps=0.0, out=shaped)
        assert x[-1] >= 1
    finally:
        libc.munmap(ctypes.c_void_p(room), ctypes.c_size_t(times * MiB))
        os.close(fd)


def test_a_count_is_raised_with_the_statistics():
    """The bits of update_running; and where the count cannot be raised, nothing is written."""
    new = np.linspace(0.1, 2.0, 5), np.linspace(3.0, 0.2, 5)
    expected, found = ([np.full(5, 0.5, np.float32), np.full(5, 1.5, np.float32)] for _ in range(2))
    count = np.array(41)
    _core.update_running(*expected, *new, 7, 0.3, 0)
    _core.update_running_and_count(*found, *new, 7, 0.3, count)
    same_bits(found, expected)
    assert count == 42
    for wrong in (np.array(41, np.int32), np.array([1, 2]), np.broadcast_to(np.array(41), (1,))):
        with pytest.raises(ValueError, match="count: expected a writeable array of one int64"):
            _core.update_running_and_count(*found, *new, 7, 0.3, wrong)
    same_bits(found, expected)
