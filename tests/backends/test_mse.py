"""The mean squared error: kernels equal to the NumPy twin bit for bit, exact values, errors."""

from __future__ import annotations

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

import samestep as ss
from control_register import DAZ, FTZ, MODES, mxcsr, needs_x86
from samestep import _core
from samestep.backends import reference
from samestep.problems import MSE

ISAS = ss.info()["isas"]
DTYPES = (np.float32, np.float64)
SCALES = ("half_sum", "half_mean", "mean", "sum")

# Rows and columns about the lanes, the vectors, the groups of 128 rows and the blocks of 1024 terms.
ROWS = (1, 2, 31, 32, 33, 63, 65, 127, 128, 129, 160, 1023, 1024, 1025, 2500)
COLUMNS = (1, 2, 3, 5, 7, 8, 9, 10, 13, 16, 31, 32, 33, 37, 64, 70)
SHAPES = (
    *((n, p) for n in (1, 33, 161, 1025) for p in range(1, 71)),
    *((n, p) for n in ROWS for p in (1, 10, 33)),
    *((n, p) for n in (3, 130) for p in (1023, 1024, 1025, 2500)),
    (2500, 1025),
)

GOLDEN = {
    np.float32: ("d50a9c038390c2d2", "7974757a2d177006", "0x1.2fad834ae2ad4p+12"),
    np.float64: ("3a92b75a98e16990", "dd75dc7e90b1db89", "0x1.2fad8256dcd07p+12"),
}


def data(shape, a, b, m, s, d, dtype):
    i = np.arange(int(np.prod(shape)))
    return (((i * a + (i // 7) * b) % m - s) / d).astype(dtype).reshape(shape)


def golden_inputs(dtype):
    return (
        data((1500, 37), 29, 13, 907, 450, 331.1, dtype),
        data((1500,), 31, 3, 401, 200, 77.7, dtype),
        data((37,), 7, 1, 19, 9, 6.3, dtype),
    )


def random_inputs(n, p, dtype, seed=0):
    rng = np.random.default_rng([n, p, seed])
    return (rng.standard_normal(shape).astype(dtype) for shape in ((n, p), n, p))


def evaluate(backend, Phi, y, w, factor=1.0, per_row=False, rows=None):
    r = np.full(len(y) if rows is None else len(rows), 77, Phi.dtype)
    g = np.full(Phi.shape[1], 77, Phi.dtype)
    loss = backend.Mse(Phi, y, factor, per_row).evaluate(w, rows, r, g)
    return r, g, np.float64(loss)


def bits(a):
    a = np.atleast_1d(a)
    pattern = a.view(f"u{a.itemsize}").copy()
    pattern[np.isnan(a)] = 0  # a NaN's payload is outside the contract
    return pattern


def same(got, expected, what=""):
    for name, a, b in zip(("residual", "gradient", "loss"), got, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        different = np.flatnonzero(bits(a) != bits(b))
        if len(different):
            i = different[0]
            a, b = np.atleast_1d(a), np.atleast_1d(b)
            pytest.fail(
                f"{what} {name}[{i}]: {a[i]!r} {bits(a)[i]:#x}, expected {b[i]!r} {bits(b)[i]:#x}; "
                f"{len(different)} differ"
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", [_core, reference], ids=("kernels", "reference"))
def test_golden_digests(dtype, backend):
    r, g, loss = evaluate(backend, *golden_inputs(dtype))
    digests = [hashlib.sha256(a.tobytes()).hexdigest()[:16] for a in (r, g)]
    assert (*digests, float(loss).hex()) == GOLDEN[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_golden_digests_at_any_thread_count(isa, dtype, settings):
    Phi, y, w = golden_inputs(dtype)
    ss.set_isa(isa)
    for threads in range(1, 9):
        ss.set_num_threads(threads)
        problem = MSE(Phi, y)
        digests = [ss.digest(a)[:16] for a in (problem.residual(w), problem.gradient(w))]
        assert (*digests, problem.loss(w).hex()) == GOLDEN[dtype], threads


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_equal_the_reference_over_shapes(dtype, settings):
    for n, p in SHAPES:
        Phi, y, w = random_inputs(n, p, dtype)
        expected = evaluate(reference, Phi, y, w, 2.0, True)
        for isa in ISAS:
            ss.set_isa(isa)
            same(evaluate(_core, Phi, y, w, 2.0, True), expected, f"{n}x{p} {isa}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "p"), [(9001, 5), (5000, 64), (2049, 70), (3072, 33)])
def test_work_shared_by_threads(machine, dtype, n, p):
    Phi, y, w = random_inputs(n, p, dtype)
    expected = evaluate(reference, Phi, y, w)
    for _ in range(5):  # who takes which block is chance
        same(evaluate(_core, Phi, y, w), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_of_rows(machine, dtype):
    Phi, y, w = random_inputs(700, 19, dtype)
    rng = np.random.default_rng(5)
    for m in (1, 2, 31, 32, 33, 129, 700, 1025, 3000):
        rows = rng.integers(0, 700, m)
        expected = evaluate(reference, Phi, y, w, 2.0, True, rows)
        same(evaluate(_core, Phi, y, w, 2.0, True, rows), expected, f"{m} rows")
        same(evaluate(_core, Phi[rows], y[rows], w, 2.0, True), expected, f"{m} copied rows")
    everyone = np.arange(700)
    same(evaluate(_core, Phi, y, w, rows=everyone), evaluate(_core, Phi, y, w))


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_two_halves(machine, dtype):
    """Block sums are the twin's, and paired and finished they are one evaluation."""
    for n, p in ((1, 1), (33, 10), (1024, 3), (1025, 33), (2500, 70), (3000, 5)):
        Phi, y, w = random_inputs(n, p, dtype)
        for rows in (None, np.random.default_rng(n).integers(0, n, 2100)):
            for factor, per_row in ((1.0, False), (2.0, True)):
                problem, twin = (kind.Mse(Phi, y, factor, per_row) for kind in (_core, reference))
                count = n if rows is None else len(rows)
                squares, sums = problem.block_sums(w, rows, True)
                blocks = -(-count // 1024)
                for found, expected in zip((squares, sums), twin.block_sums(w, rows, True), strict=True):
                    assert found.shape == expected.shape
                    assert (bits(found) == bits(expected)).all()
                alone, nothing = problem.block_sums(w, rows, False)
                assert (bits(alone) == bits(squares)).all()
                assert nothing is None
                total = float(_core.pair_sums(squares, 1, blocks, 1)[0])
                of_columns = _core.pair_sums(sums, 1, blocks, p)
                _, g, loss = evaluate(_core, Phi, y, w, factor, per_row, rows)
                for kind in (problem, twin):
                    found = np.full(p, 77, dtype)
                    assert kind.finish(count, total, of_columns, found) == loss
                    assert (bits(found) == bits(g)).all()
                    assert kind.finish(count, total, None, None) == loss


def test_halves_that_do_not_fit():
    problem = _core.Mse(np.ones((3, 2)), np.ones(3), 1.0, False)
    g = np.full(2, 7.0)
    for call, says in (
        (lambda: problem.block_sums(np.ones(3), None, True), "w: expected"),
        (lambda: problem.finish(0, 1.0, None, None), "rows: expected 1 or more"),
        (lambda: problem.finish(3, 1.0, None, g), "gradient: got None"),
        (lambda: problem.finish(3, 1.0, np.ones(3), g), "gradient: expected"),
        (lambda: problem.finish(3, 1.0, np.ones(2), np.ones(2, np.float32)), "g: expected"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    with pytest.raises(IndexError, match="rows: no such row"):
        problem.block_sums(np.ones(2), np.array([3]), True)
    assert (g == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(machine, dtype):
    info = np.finfo(dtype)
    positive = [0.0, info.smallest_subnormal, info.tiny, 1e-30, 1.0, 3.0, 1e30, info.max]
    finite = np.array([*positive, *(-x for x in positive)], dtype)
    every = np.concatenate([finite, np.array([np.inf, -np.inf, np.nan], dtype)])
    rng = np.random.default_rng(1)
    for values in (finite, every, finite[:3], finite[8:11], np.array([0.0, -0.0], dtype)):
        for n, p in ((1, 1), (1, 9), (40, 10), (1030, 3), (33, 35)):
            Phi, y, w = (rng.choice(values, size) for size in ((n, p), n, p))
            same(evaluate(_core, Phi, y, w), evaluate(reference, Phi, y, w), f"{n}x{p}")


def test_no_term_is_minus_zero():
    """Lanes start at +0: the gradient of a row whose terms are all -0 is +0, in every way to compute it."""
    Phi, y, w = -np.zeros((1, 3)), -np.ones(1), np.ones(3)
    g = evaluate(_core, Phi, y, w)[1]
    assert not np.signbit(g).any()
    run = ss.minimize(
        MSE(Phi, y),
        w,
        lambda w: ss.Momentum(w, 0.0, 0.0, form="torch"),
        steps=1,
        sampling="shuffle",
        batch_size=1,
    )
    assert not np.signbit(run.optimizer.state["b"][0]).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_any_offset_and_nothing_outside_is_touched(isa, dtype, settings):
    ss.set_isa(isa)
    Phi, y, w = random_inputs(37, 11, dtype)
    expected = evaluate(reference, Phi, y, w)
    for offset in range(17):
        placed = []
        for a in (Phi, y, w):
            block = np.full(a.size + 40, np.nan, dtype)
            inside = block[offset : offset + a.size].reshape(a.shape)
            inside[...] = a
            placed.append(inside)
        out = [np.full(size + 40, 7, dtype) for size in (37, 11)]
        r, g = out[0][offset : offset + 37], out[1][16 - offset :][:11]
        loss = _core.Mse(placed[0], placed[1], 1.0, False).evaluate(placed[2], None, r, g)
        same((r, g, np.float64(loss)), expected, f"offset {offset}")
        assert (out[0][:offset] == 7).all()
        assert (out[0][offset + 37 :] == 7).all()
        assert (out[1][: 16 - offset] == 7).all()
        assert (out[1][16 - offset + 11 :] == 7).all()


def test_close_to_exact_sums():
    Phi, y, w = random_inputs(300, 40, np.float64)
    r, g, loss = evaluate(_core, Phi, y, w)
    exact_r = [
        sum((Fraction(a) * Fraction(b) for a, b in zip(row.tolist(), w.tolist(), strict=True)), -Fraction(t))
        for row, t in zip(Phi, y.tolist(), strict=True)
    ]
    np.testing.assert_allclose(r, np.array([float(x) for x in exact_r]), rtol=0, atol=1e-14)
    exact_g = [
        float(sum(x * Fraction(a) for x, a in zip(exact_r, column.tolist(), strict=True))) for column in Phi.T
    ]
    np.testing.assert_allclose(g, exact_g, rtol=0, atol=1e-11)
    assert loss == pytest.approx(float(sum(x * x for x in exact_r) / 2), rel=1e-14)


@pytest.mark.parametrize("scale", SCALES)
def test_gradient_is_the_slope_of_the_loss(scale):
    Phi, y, w = random_inputs(50, 6, np.float64)
    problem = MSE(Phi, y, scale=scale)
    h = 1e-3  # the loss is quadratic: central differences have no error but rounding
    slopes = [(problem.loss(w + h * e) - problem.loss(w - h * e)) / (2 * h) for e in np.eye(6)]
    np.testing.assert_allclose(problem.gradient(w), slopes, rtol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fixed_problem(dtype):
    problem = MSE(np.array([[1, 0], [0, 1], [1, 1]], dtype), np.array([1, 2, 4], dtype))
    w = np.zeros(2, dtype)
    assert problem.loss(w) == 10.5
    assert problem.gradient(w).tolist() == [-5, -6]
    trace = [(1.25, 1.5), (1.5, 1.9375), (1.515625, 2.09375), (1.484375, 2.16796875)]
    for steps, expected in enumerate(trace, 1):
        assert ss.minimize(problem, w, lambda w: ss.SGD(w, 0.25), steps=steps).w.tolist() == list(expected)


def test_diabetes():
    datasets = pytest.importorskip("sklearn.datasets")
    Phi, y = datasets.load_diabetes(return_X_y=True)
    problem = MSE(Phi, y - y.mean())
    w = problem.minimizer()
    assert problem.loss(np.zeros(10)) == pytest.approx(1310504.562217, abs=1e-6)
    assert problem.loss(w) == pytest.approx(631992.892817, abs=1e-6)
    assert problem.beta == pytest.approx(4.0242107502, abs=1e-10)
    assert problem.mu == pytest.approx(0.0085607298, abs=1e-10)
    assert problem.kappa == pytest.approx(470.077999, abs=1e-5)
    assert np.linalg.norm(w) == pytest.approx(1377.841039, abs=1e-6)
    assert np.linalg.norm(problem.gradient(w)) < 1e-9
    narrow = MSE(Phi.astype(np.float32), (y - y.mean()).astype(np.float32))
    # The residual is rounded to float32; the normal form H w - Phi'y leaves 1.2e-3.
    assert np.linalg.norm(narrow.gradient(narrow.minimizer())) < 3e-4


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_backends_agree_through_the_problem(dtype, scale):
    Phi, y, w = random_inputs(77, 12, dtype)
    kernels, twin = MSE(Phi, y, scale), MSE(Phi, y, scale, backend="reference")
    rows = np.array([3, 76, 0, 3], np.int32)
    assert (kernels.backend, twin.backend) == ("cpu", "reference")
    assert kernels.loss(w) == twin.loss(w)
    assert ss.digest(kernels.residual(w)) == ss.digest(twin.residual(w))
    assert ss.digest(kernels.gradient(w)) == ss.digest(twin.gradient(w))
    assert ss.digest(kernels.gradient(w, rows)) == ss.digest(twin.gradient(w, rows))
    assert ss.digest(kernels.gradient(np.repeat(w, 2)[::2])) == ss.digest(kernels.gradient(w))
    again = pickle.loads(pickle.dumps(kernels))
    assert ss.digest(again.gradient(w)) == ss.digest(kernels.gradient(w))


def test_one_problem_from_several_threads():
    Phi, y, _ = random_inputs(4000, 40, np.float64)
    problem = MSE(Phi, y)
    ws = [np.random.default_rng(i).standard_normal(40) for i in range(24)]
    expected = [ss.digest(problem.gradient(w)) for w in ws]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda w: ss.digest(problem.gradient(w)), ws)) == expected


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64])
def test_the_kernels_get_a_copy_of_the_rows(dtype):
    """Another thread may change the caller's rows while the kernels read theirs unchecked."""
    problem = MSE(np.ones((4, 3)), np.ones(4))
    kernels, given = problem._kernels, []

    class Watch:
        def evaluate(self, w, rows, r, g):
            given.append(rows)
            mine[:] = 99  # as another thread might, after the check
            return kernels.evaluate(w, rows, r, g)

    mine = np.array([0, 3, 3], dtype)
    problem._kernels = Watch()
    assert problem.gradient(np.zeros(3), mine).tolist() == [-3, -3, -3]
    assert not np.shares_memory(given[0], mine)
    assert (given[0].dtype, given[0].tolist()) == (np.int64, [0, 3, 3])


def test_a_row_beyond_63_bits():
    with pytest.raises(IndexError, match=f"got index {2**64 - 1}, expected 0 to 3"):
        MSE(np.ones((4, 3)), np.ones(4)).gradient(np.zeros(3), np.array([2**64 - 1], np.uint64))


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: got 'gpu'"):
        MSE(np.ones((2, 1)), np.ones(2), backend="gpu")


def wrong_arguments():
    Phi, y, w = np.ones((4, 3)), np.ones(4), np.ones(3)
    rows = np.array([0, 1])
    narrow = np.ones(3, np.float32)
    return {
        "w of another dtype": (narrow, rows),
        "w of another shape": (np.ones(4), rows),
        "w with strides": (np.ones(6)[::2], rows),
        "row too large": (w, np.array([0, 4])),
        "row negative": (w, np.array([0, -1])),
        "rows of two axes": (w, np.array([[0, 1]])),
        "rows of another dtype": (w, np.array([0, 1], np.int32)),
    }, (Phi, y)


@pytest.mark.parametrize("case", list(wrong_arguments()[0]))
def test_wrong_arguments_leave_every_byte(case):
    cases, (Phi, y) = wrong_arguments()
    w, rows = cases[case]
    r, g = np.full(2, 7.0), np.full(3, 7.0)
    with pytest.raises((ValueError, TypeError, IndexError)):
        _core.Mse(Phi, y, 1.0, False).evaluate(w, rows, r, g)
    assert (r == 7).all()
    assert (g == 7).all()


@pytest.mark.parametrize("name", ["r", "g"])
def test_wrong_results_leave_every_byte(name):
    Phi, y, w = np.ones((4, 3)), np.ones(4), np.ones(3)
    sizes = {"r": 4, "g": 3}
    for wrong in (
        np.full(9, 7.0),
        np.full(sizes[name], 7, np.float32),
        np.full(2 * sizes[name], 7.0)[::2],
        np.full(8 * sizes[name] + 1, 7, np.uint8)[1:].view(np.float64),
    ):
        before = wrong.tobytes()
        out = {other: np.full(size, 7.0) for other, size in sizes.items()} | {name: wrong}
        with pytest.raises(ValueError, match=f"{name}: expected"):
            _core.Mse(Phi, y, 1.0, False).evaluate(w, None, out["r"], out["g"])
        assert wrong.tobytes() == before
        assert all((a == 7).all() for other, a in out.items() if other != name)
    frozen = np.full(sizes[name], 7.0)
    frozen.flags.writeable = False
    out = {other: np.full(size, 7.0) for other, size in sizes.items()} | {name: frozen}
    with pytest.raises(ValueError, match="writeable"):
        _core.Mse(Phi, y, 1.0, False).evaluate(w, None, out["r"], out["g"])
    assert all((a == 7).all() for a in out.values())


@needs_x86
@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_floating_point_mode_reaches_the_kernels(dtype, bits):
    Phi, y, w = random_inputs(3001, 13, dtype)
    Phi *= dtype(np.finfo(dtype).tiny)  # products and residuals among the subnormals
    y *= dtype(np.finfo(dtype).tiny)
    problem, rows = MSE(Phi, y, scale="mean"), np.arange(0, 3001, 7)
    expected = evaluate(reference, Phi, y, w, 2.0, True), evaluate(reference, Phi, y, w, 2.0, True, rows)
    kernels = _core.Mse(problem.Phi, problem.y, 2.0, True)
    out = [(np.empty(n, dtype), np.empty(13, dtype)) for n in (3001, len(rows))]
    with mxcsr(bits):
        losses = [kernels.evaluate(w, k, r, g) for k, (r, g) in zip((None, rows), out, strict=True)]
        squares, sums = kernels.block_sums(w, None, True)
        total, of_columns = _core.pair_sums(squares, 1, 3, 1), _core.pair_sums(sums, 1, 3, 13)
        out.append((out[0][0], np.empty(13, dtype)))
        losses.append(kernels.finish(3001, total[0], of_columns, out[-1][1]))
    for (r, g), loss, right in zip(out, losses, (*expected, expected[0]), strict=True):
        same((r, g, np.float64(loss)), right)


@needs_x86
@pytest.mark.parametrize("sampling", ["full", "shuffle"])
def test_no_floating_point_mode_reaches_the_loop(sampling):
    Phi, y, _ = random_inputs(60, 7, np.float32)
    problem = MSE(Phi, y, scale="mean")
    how = {"sampling": sampling, "batch_size": None if sampling == "full" else 1, "record_every": 50}

    def run(deadline=None):
        return ss.minimize(
            problem, np.zeros(7, np.float32), lambda w: ss.Adam(w, 1e-2), steps=99, deadline=deadline, **how
        )

    expected = run(deadline=1e9)
    with mxcsr(FTZ | DAZ | 0x4000):
        got = run()
    assert ss.digest(got.w) == ss.digest(expected.w)
    assert ss.digest(got.losses) == ss.digest(expected.losses)


def test_a_shape_that_is_set_later_adds_no_rows():
    Phi, y, g = np.ones((4, 4)), np.ones(4), np.zeros(4)
    mse = ss.backends.cpu.Mse(Phi, y, 1.0, False)
    Phi.shape = (8, 2)
    for rows in ([7], [4], [-1]):
        with pytest.raises(IndexError, match="rows: no such row"):
            mse.evaluate(np.ones(4), np.array(rows), None, g)
    mse.evaluate(np.ones(4), None, None, g)
    assert g.tolist() == [12.0] * 4


@pytest.mark.parametrize("name", ["Phi", "y", "scale", "backend", "scales", "lr"])
def test_a_problem_stays_what_it_was_made_of(name):
    problem = MSE(np.ones((3, 2)), np.ones(3))
    before = vars(problem).copy()
    with pytest.raises(
        AttributeError, match=rf"^{name}: a problem stays what it was made of, .*make another"
    ):
        setattr(problem, name, "mean")
    assert vars(problem) == before
    derived = type("Derived", (MSE,), {})(np.ones((3, 2)), np.ones(3))
    derived.lr = 0.5  # of its own
    with pytest.raises(AttributeError, match=r"^scale: a problem stays"):
        derived.scale = "mean"
