"""The matrix product: golden digests, kernels against the twin bit for bit, fma against exact numbers."""

from __future__ import annotations

import mmap
from fractions import Fraction

import numpy as np
import pytest

import samestep as ss
from batchnorm_arrays import same
from bits import ISAS, special
from samestep.backends.reference import product as twin
from samestep.proof import vectors

DTYPES = ("float32", "float64")

# N, K, J around the borders of blocks (256 terms), of pieces (4, 8 or 12 rows; one to three vectors), of the
# rows up to which B is not packed, and of tiles (1024 rows, 512 columns).
BORDERS = [
    *((3, k, 5) for k in (0, 1, 2, 3, 4, 5, 255, 256, 257, 511, 512, 513, 1030)),
    *((m, 3, 35) for m in (1, 2, 4, 5, 7, 8, 9, 11, 12, 13, 25, 95, 96, 97, 109)),
    *(
        (14, 5, n)
        for n in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97)
    ),
    (33, 258, 17),
    (1, 257, 40),
    (130, 257, 1),
    (1025, 2, 3),
    (2, 7, 513),
    (100, 2, 577),
    (0, 3, 2),
    (2, 3, 0),
    (0, 0, 0),
]


def problem(rows, inputs, columns, dtype, **how):
    """dy, x, w and bias."""
    shapes = (rows, columns), (rows, inputs), (inputs, columns), (columns,)
    return [special(shape, dtype, seed, **how) for seed, shape in enumerate(shapes, 7)]


def everything(dy, x, w, bias, **how):
    """What both passes return, with a ReLU and without."""
    y = ss.linear(x, w, bias, relu=True, **how)
    plain = ss.linear_backward(dy, x, w, **how)
    return [
        ss.linear(x, w, **how),
        ss.linear(x, w, bias, **how),
        y,
        *plain,
        *ss.linear_backward(dy, x, w, y=y, **how),
    ]


def all_same(got, expected, what=""):
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        same(a, b, f"{what} result {i}")


@pytest.mark.more
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("finite", [True, False])
def test_kernels_equal_the_twin(dtype, finite, settings):
    for rows, inputs, columns in BORDERS:
        arrays = problem(rows, inputs, columns, dtype, finite=finite)
        expected = everything(*arrays, backend="reference")
        for isa in ISAS:
            ss.set_isa(isa)
            all_same(everything(*arrays), expected, f"{isa}, {rows}x{inputs}x{columns}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_is_the_contracts(dtype):
    """One element, written out one operation at a time, each rounded from the exact number."""
    _, x, w, _ = problem(1, 600, 1, dtype)
    T = x.dtype.type

    def rounded(exact):
        return T(exact.numerator / exact.denominator) if dtype == "float64" else round_to_float32(exact)

    total = None
    for start in (0, 256, 512):
        s = T(0)
        for p in range(start, min(start + 256, 600)):
            s = rounded(Fraction(float(x[0, p])) * Fraction(float(w[p, 0])) + Fraction(float(s)))
        total = s if total is None else total + s
    same(ss.linear(x, w), np.array([[total]]))


def round_to_float32(exact):
    """The float32 number nearest to a fraction, ties to even: with a float64 beside it, rounded to odd."""
    near = exact.numerator / exact.denominator
    if Fraction(near) != exact:
        bits = np.float64(near).view(np.int64)
        if bits & 1 == 0:  # the odd neighbour on the other side of the exact number
            near = float((bits + (1 if abs(exact) > abs(Fraction(near)) else -1)).view(np.float64))
    with np.errstate(over="ignore"):
        return np.float32(near)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fma_of_any_numbers_is_rounded_once(dtype, settings):
    """fma(a, b, c) of random bits, subnormals, ties and near-ties, as the second of two terms."""
    T = np.dtype(dtype)
    with np.errstate(all="ignore"):
        a, b, c = (
            vectors.random_words(4000, seed).view(f"u{T.itemsize}")[:4000].view(T).copy()
            for seed in (1, 2, 3)
        )
        c[::3] = -(a * b)[::3]  # cancels
        c[1::6] = (a * b)[1::6] * T.type(2.0**-30)
        # a*b is a little less than half a unit of c's last place: rounding to a wider type first, which makes
        # a tie of it, then goes the wrong way where c is odd. Both signs of both.
        n, unit = 1200, np.finfo(T).eps
        i = np.arange(n) % 200 + 1
        signs = np.where(np.arange(n) % 2, 1, -1), np.where(np.arange(n) % 4 < 2, 1, -1)
        a[:n], b[:n] = (1 + i * unit) * signs[0], (unit / 2) * (1 - i * unit)
        c[:n] = (1 + (2 * i - 1) * unit) * signs[1]
        a[-9:], b[-9:] = 0.0, -1.0
        expected = twin.fused(a, b, c)
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    for i in np.flatnonzero(finite)[:3000]:
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        if exact == 0 or abs(exact) > Fraction(float(np.finfo(T).max)):
            continue
        right = round_to_float32(exact) if dtype == "float32" else exact.numerator / exact.denominator
        assert expected[i] == right, (a[i], b[i], c[i])
    for isa in ISAS:
        ss.set_isa(isa)
        for i in range(0, 4000, 80):  # the diagonal: c*1 + a*b
            x = np.stack([c[i : i + 80], a[i : i + 80]], 1)
            w = np.stack([np.ones(80, T), b[i : i + 80]])
            got = np.diagonal(ss.linear(x, w)).copy()
            with np.errstate(all="ignore"):
                # The chain begins with fma(c, 1, +0), which turns -0 into +0.
                want = twin.fused(a[i : i + 80], b[i : i + 80], c[i : i + 80] + T.type(0))
            same(got, want, isa)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_any_number_of_threads_and_any_cut(isa, dtype, settings):
    ss.set_isa(isa)
    deep = 300 if isa == "baseline" else 600
    arrays = problem(201, deep, 170, dtype)
    _, x, w, bias = arrays
    ss.set_num_threads(1)
    expected = everything(*arrays)
    for threads in range(2, 9):
        ss.set_num_threads(threads)
        all_same(everything(*arrays), expected, f"{threads} threads")
    # Any rows and columns of the result, computed alone.
    for rows in (slice(0, 1), slice(3, 100), slice(77, 201), slice(200, None)):
        for columns in (slice(0, 1), slice(1, 18), slice(64, 170)):
            same(ss.linear(x[rows], w[:, columns], bias[columns].copy()), expected[1][rows, columns])


def test_results_on_all_instruction_sets_at_a_size_beyond_the_twins(settings):
    for dtype in DTYPES:
        _, x, w, _ = problem(1100, 520, 530, dtype)
        found = set()
        for isa in ISAS:
            ss.set_isa(isa)
            found.add(ss.digest(ss.linear(x if isa != "baseline" else x[:40], w)[:40]))
        assert len(found) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_and_alignment_do_not_matter(dtype, isa):
    for rows, inputs, columns in ((30, 70, 41), (130, 300, 20), (5, 3, 100)):
        dy, x, w, bias = problem(rows, inputs, columns, dtype)
        y = ss.linear(x, w, bias, relu=True)
        expected = [y, *ss.linear_backward(dy, x, w, y=y)]
        for lay_out in (transposed, spread, reversed_rows, shifted(1), shifted(3)):
            a, b, g, h = (lay_out(m) for m in (x, w, dy, y))
            for m, n in ((a, x), (b, w), (g, dy), (h, y)):
                assert np.array_equal(m, n)
            found = [ss.linear(a, b, bias, relu=True), *ss.linear_backward(g, a, b, y=h)]
            all_same(found, expected, str(lay_out))
    # A row that is repeated without a copy.
    many = np.broadcast_to(x[:1], (50, x.shape[1]))
    same(ss.linear(many, w), np.repeat(ss.linear(x[:1], w), 50, 0))


def transposed(a):
    return np.ascontiguousarray(a.T).T


def spread(a):
    room = np.full((2 * a.shape[0], 3 * a.shape[1]), np.nan, a.dtype)
    room[1::2, ::3] = a
    return room[1::2, ::3]


def reversed_rows(a):
    return np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1]


def shifted(by):
    def lay_out(a):
        room = np.full(a.size + by, np.nan, a.dtype)[by:]
        room[:] = a.ravel()
        return room.reshape(a.shape)

    return lay_out


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_times_a_transposed_view(dtype, isa):
    """It is turned in registers, and not packed, up to the rows of one panel: 4, 8 or 12."""
    for rows in range(1, 14):
        for inputs, columns in ((15, 67), (83, 16), (530, 40)):  # tails of squares, of vectors, and blocks
            _, x, w, bias = problem(rows, inputs, columns, dtype)
            for added, relu in ((None, False), (bias, True)):
                expected = ss.linear(x, w, added, relu=relu)
                same(ss.linear(x, transposed(w), added, relu=relu), expected, f"{rows} {inputs}x{columns}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_written_and_nothing_beside_it(dtype, isa):
    dy, x, w, bias = problem(29, 40, 37, dtype)
    expected = [ss.linear(x, w, bias), *ss.linear_backward(dy, x, w)]
    rooms = [np.full(a.size + 20, 7, dtype) for a in expected]
    outs = [room[3 : 3 + a.size].reshape(a.shape) for room, a in zip(rooms, expected, strict=True)]
    assert ss.linear(x, w, bias, out=outs[0]) is outs[0]
    found = ss.linear_backward(dy, x, w, out=tuple(outs[1:]))
    assert all(a is b for a, b in zip(found, outs[1:], strict=True))
    all_same(outs, expected)
    for room, a in zip(rooms, expected, strict=True):
        assert (room[:3] == 7).all()
        assert (room[3 + a.size :] == 7).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_without_terms_products_are_positive_zeros(backend):
    x, w = np.zeros((3, 0), np.float32), np.zeros((0, 2), np.float32)
    y = ss.linear(x, w, backend=backend)
    assert y.tolist() == [[0, 0]] * 3
    assert not np.signbit(y).any()
    y = ss.linear(x, w, np.float32([-0.0, -2]), backend=backend)
    assert not np.signbit(y[:, 0]).any()
    dx, dw, dbias = ss.linear_backward(y, x, w, backend=backend)
    assert (dx.shape, dw.shape, dbias.tolist()) == ((3, 0), (0, 2), [0, -6])
    dx, dw, dbias = ss.linear_backward(y[:0], x[:0], w, backend=backend)
    assert dbias.tolist() == [0, 0]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_at_its_edge(dtype, backend):
    """NaN passes, -0 becomes +0, and dy is cut off where y is 0, not where it is NaN."""
    x, w = np.array([[-1.0], [0.0], [2.0], [np.nan]], dtype), np.ones((1, 1), dtype)
    y = ss.linear(x, w, relu=True, backend=backend)
    assert y[:3].ravel().tolist() == [0, 0, 2]
    assert np.isnan(y[3, 0])
    assert not np.signbit(y[:3]).any()
    dy = np.array([[3.0], [5.0], [7.0], [11.0]], dtype)
    dx, _, dbias = ss.linear_backward(dy, x, w, y=y, backend=backend)
    assert dx.ravel().tolist() == [0, 0, 7, 11]
    assert dbias.tolist() == [18]
    y[1] = -0.0
    assert ss.linear_backward(dy, x, w, y=y, backend=backend)[0][1, 0] == 0


def test_the_gradients_are_those_of_the_forward_pass():
    rng = np.random.default_rng(3)
    x, w, bias, dy = (rng.standard_normal(shape) for shape in ((6, 4), (4, 5), (5,), (6, 5)))
    y = ss.linear(x, w, bias, relu=True)
    dx, dw, dbias = ss.linear_backward(dy, x, w, y=y)
    for a, gradient in ((x, dx), (w, dw), (bias, dbias)):
        for i in np.ndindex(a.shape):
            before, losses = a[i], []
            for a[i] in (before + 1e-6, before - 1e-6):
                losses.append((ss.linear(x, w, bias, relu=True) * dy).sum())
            a[i] = before
            assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(gradient[i], abs=1e-7)


def test_dbias_is_the_canonical_sum():
    dy, x, w, _ = problem(2500, 2, 7, "float32")
    same(ss.linear_backward(dy, x, w)[2], ss.canonical_sum(dy, 0).astype(np.float32))


def test_the_first_layer_needs_no_gradient_of_its_input():
    dy, x, w, _ = problem(20, 9, 7, "float32")
    for backend in ("cpu", "reference"):
        dx, dw, dbias = ss.linear_backward(dy, x, w, input_gradient=False, backend=backend)
        assert dx is None
        all_same((dw, dbias), ss.linear_backward(dy, x, w)[1:])


def test_blocks_are_more_exact_than_one_chain():
    rng = np.random.default_rng(5)
    x, w = (rng.uniform(0, 1, shape).astype(np.float32) for shape in ((4, 100_000), (100_000, 4)))
    exact = x.astype(np.float64) @ w.astype(np.float64)
    error = abs(ss.linear(x, w) / exact - 1).max()
    chain = np.zeros((4, 4), np.float32)
    for p in range(100_000):
        chain = chain + x[:, p, None] * w[p]
    assert error < 1e-5
    assert error < abs(chain / exact - 1).max() / 3


def test_strides_beyond_32_bits():
    """Two rows 2^31 + 64 elements apart; only their pages are ever in memory."""
    apart = (1 << 31) + 64
    try:
        room = mmap.mmap(-1, 4 * (apart + 1024), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    except (OSError, ValueError):
        pytest.skip("no addresses for 8 GiB")
    flat = np.frombuffer(room, np.float32)
    x = np.lib.stride_tricks.as_strided(flat, (2, 300), (4 * apart, 4))
    _, values, w, _ = problem(2, 300, 5, "float32")
    x[...] = values
    same(ss.linear(x, w), ss.linear(values, w))
    same(ss.linear(w.T, x.T), ss.linear(w.T, values.T))


@pytest.mark.slow
def test_more_terms_than_32_bits_count():
    n = (1 << 31) + 256  # and the sum is a float32 number
    one = np.float32([[1.0]])
    y = ss.linear(np.broadcast_to(one, (1, n)), np.broadcast_to(one, (n, 1)))
    assert y[0, 0] == n
