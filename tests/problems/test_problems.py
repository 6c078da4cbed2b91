"""MSE: the figures of A1, A2, A4, A5 and B4, and every error with its message. Function; sizes of others."""

import hashlib

import numpy as np
import pytest

import samestep as ss
from samestep.commands import table
from samestep.problems import MSE, Function, Higham, Hyperbola, Rosenbrock
from text_problems import PHI, Y, diabetes, fixed

SCALES = {"half_sum": 1.0, "half_mean": 1 / 3, "mean": 2 / 3, "sum": 2.0}


class TestFixedProblem:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_figures(self, dtype):
        problem = fixed(dtype)
        zero = np.zeros(2, dtype)
        assert (problem.size, problem.dimension, problem.dtype) == (3, 2, dtype)
        assert problem.loss(zero) == 10.5
        gradient = problem.gradient(zero)
        assert gradient.dtype == dtype
        assert gradient.tolist() == [-5.0, -6.0]
        assert problem.hessian().dtype == dtype
        assert problem.hessian().tolist() == [[2.0, 1.0], [1.0, 2.0]]
        assert problem.eigenvalues == pytest.approx([1.0, 3.0], rel=1e-14)
        assert (problem.mu, problem.beta, problem.kappa) == pytest.approx((1.0, 3.0, 3.0), rel=1e-14)
        assert problem.minimizer().dtype == dtype
        assert problem.minimizer() == pytest.approx([4 / 3, 7 / 3], rel=4 * float(np.finfo(dtype).eps))
        assert problem.optimum == pytest.approx(1 / 6, rel=1e-14)
        assert type(problem.loss(zero)) is type(problem.optimum) is float

    @pytest.mark.parametrize("scale", SCALES)
    def test_everything_scales_by_c(self, scale):
        problem, c = fixed(scale=scale), SCALES[scale]
        w = np.array([0.5, -1.0])
        assert problem.c == c
        assert problem.loss(w) == pytest.approx(c * fixed().loss(w), rel=1e-15)
        assert problem.gradient(w) == pytest.approx(c * fixed().gradient(w), rel=1e-15)
        assert problem.hessian() == pytest.approx(c * fixed().hessian(), rel=1e-15)
        assert problem.beta == pytest.approx(3 * c, rel=1e-14)
        assert problem.mu == pytest.approx(c, rel=1e-14)
        assert problem.optimum == pytest.approx(c / 6, rel=1e-14)
        assert problem.minimizer() == pytest.approx([4 / 3, 7 / 3], rel=1e-14)

    @pytest.mark.parametrize("w", [(0.0, 0.0), (3.0, -5.0)])
    def test_gradient_and_hessian_are_the_derivatives(self, w):
        problem, w, h = fixed(scale="mean"), np.array(w), 0.125
        # Central differences of a quadratic are exact but for rounding, at any h.
        for i, step in enumerate(h * np.eye(2)):
            slope = (problem.loss(w + step) - problem.loss(w - step)) / (2 * h)
            assert problem.gradient(w)[i] == pytest.approx(slope, rel=1e-12)
            column = (problem.gradient(w + step) - problem.gradient(w - step)) / (2 * h)
            assert problem.hessian(w)[:, i] == pytest.approx(column, rel=1e-12)


class TestDiabetes:
    def test_the_data_are_those_of_the_figures(self):
        assert hashlib.sha256(diabetes().Phi.tobytes()).hexdigest()[:16] == "3108d770fbdb92eb"

    def test_figures(self):
        problem = diabetes()
        assert problem.beta == pytest.approx(4.0242107502, rel=1e-10)
        assert problem.mu == pytest.approx(0.0085607298, rel=1e-8)
        assert problem.kappa == pytest.approx(470.077999, rel=1e-8)
        first = problem.loss(np.zeros(10))
        assert first == pytest.approx(1310504.562217, rel=1e-12)
        assert problem.optimum == pytest.approx(631992.892817, rel=1e-12)
        assert 1 - problem.optimum / first == pytest.approx(0.517748, abs=5e-7)
        assert np.linalg.norm(problem.minimizer()) == pytest.approx(1377.841039, rel=1e-9)
        assert diabetes("half_mean").beta == pytest.approx(0.0091045492, rel=1e-8)

    def test_two_passes_keep_what_the_normal_form_cancels(self):
        problem = diabetes(dtype=np.float32)
        w = problem.minimizer()
        normal_form = problem.hessian() @ w - problem.Phi.T @ problem.y
        two_passes = np.linalg.norm(problem.gradient(w))
        assert two_passes < 2e-4  # 5.9e-5 seen; 1.2e-3 for the normal form
        assert two_passes < np.linalg.norm(normal_form) / 5


class TestBatches:
    @pytest.mark.parametrize("scale", SCALES)
    def test_a_batch_is_a_problem_of_its_own(self, scale):
        w, rows = np.array([0.5, -1.0]), np.array([2, 0])
        alone = MSE(np.array(PHI, float)[rows], np.array(Y, float)[rows], scale)
        assert fixed(scale=scale).gradient(w, rows).tolist() == alone.gradient(w).tolist()

    def test_repeated_rows_count_as_often(self):
        problem, w = fixed(), np.zeros(2)
        twice = problem.gradient(w, np.array([2, 2]))
        assert twice.tolist() == (2 * problem.gradient(w, np.array([2]))).tolist() == [-8.0, -8.0]

    @pytest.mark.parametrize("scale", ["half_mean", "mean"])
    def test_the_mean_over_all_single_rows_is_the_full_gradient(self, scale):
        problem, w = fixed(scale=scale), np.array([0.5, -1.0])
        single = [problem.gradient(w, np.array([i])) for i in range(3)]
        assert np.mean(single, axis=0) == pytest.approx(problem.gradient(w), rel=1e-14)


class TestSingular:
    PROBLEM = MSE(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), np.array([1.0, 2.0, 4.0]))

    def test_the_shortest_minimiser(self):
        assert self.PROBLEM.minimizer() == pytest.approx([17 / 28, 17 / 28], rel=1e-14)
        assert self.PROBLEM.gradient(self.PROBLEM.minimizer()) == pytest.approx([0, 0], abs=1e-13)

    def test_mu_is_zero_and_kappa_infinite(self):
        assert self.PROBLEM.mu == 0.0
        assert self.PROBLEM.kappa == float("inf")
        assert self.PROBLEM.beta == pytest.approx(28.0, rel=1e-14)

    def test_more_weights_than_rows(self):
        problem = MSE(np.array([[1.0, 2.0, 2.0]]), np.array([9.0]))
        assert problem.eigenvalues == pytest.approx([0, 0, 9], abs=1e-14)
        assert problem.minimizer() == pytest.approx([1, 2, 2], rel=1e-14)

    def test_features_that_are_all_zero(self):
        problem = MSE(np.zeros((2, 2)), np.ones(2))
        assert (problem.beta, problem.mu, problem.kappa) == (0.0, 0.0, float("inf"))
        assert problem.optimum == 1.0


def test_what_is_known_stays_true_when_the_callers_arrays_change():
    Phi, y = np.array(PHI, float), np.array(Y, float)
    problem = MSE(Phi, y)
    Phi[:], y[:] = 0, 0
    assert problem.loss(np.zeros(2)) == 10.5
    with pytest.raises(ValueError, match="read-only"):
        problem.Phi[0, 0] = 0
    problem.minimizer()[:] = 0
    assert problem.minimizer()[0] == pytest.approx(4 / 3)


def test_any_layout_gives_the_same_problem():
    Phi, w = np.array(PHI, float), np.array([0.5, -1.0])
    spread = np.zeros((3, 4))
    spread[:, ::2] = Phi
    for other in (np.asfortranarray(Phi), spread[:, ::2]):
        assert MSE(other, np.array(Y, float)).gradient(w).tolist() == fixed().gradient(w).tolist()


def test_a_diverged_w_is_a_result_and_not_a_warning():
    w = np.array([1e200, 1e200])
    assert fixed().loss(w) == float("inf")
    assert np.isinf(fixed().loss(w * np.inf)) or np.isnan(fixed().loss(w * np.inf))
    assert not np.isfinite(fixed().gradient(np.array([np.inf, -np.inf]))).any()


PHI64, Y64 = np.array(PHI, float), np.array(Y, float)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, r"Phi: got list, expected a numpy array; make one with numpy.asarray", (PHI, Y64)),
        (TypeError, r"Phi: got MaskedArray", (np.ma.masked_array(PHI64), Y64)),
        (TypeError, r"Phi: got dtype int64, expected float32 or float64", (np.array(PHI, np.int64), Y64)),
        (TypeError, r"Phi: got dtype >f8", (PHI64.astype(">f8"), Y64)),
        (TypeError, r"y: got float32, expected float64 as Phi", (PHI64, Y64.astype(np.float32))),
        (ValueError, r"Phi: got shape \(3,\), expected \(N, p\)", (Y64, Y64)),
        (ValueError, r"y: got shape \(3, 1\), expected \(N,\); .*y\.ravel", (PHI64, Y64[:, None])),
        (ValueError, r"y: got shape \(\), expected \(N,\)$", (PHI64, np.array(1.0))),
        (ValueError, r"Phi: got shape \(0, 2\), expected at least one row", (PHI64[:0], Y64[:0])),
        (ValueError, r"Phi: got shape \(3, 0\), expected at least one row", (PHI64[:, :0], Y64)),
        (ValueError, r"3 targets for the 2 rows .* transposed: pass Phi\.T", (PHI64.T, Y64)),
        (ValueError, r"y: got 2 targets for the 3 rows of Phi", (PHI64, Y64[:2])),
        (ValueError, r"scale: got 'half', expected one of 'half_sum', ", (PHI64, Y64, "half")),
        (ValueError, r"y: got nan at \[1\]", (PHI64, np.array([1.0, np.nan, 4.0]))),
        (ValueError, r"Phi: got inf at \[2, 1\]", (np.array([[1, 0], [0, 1], [1, np.inf]]), Y64)),
    ],
)
def test_problems_that_are_none(error, message, arguments):
    with pytest.raises(error, match=message):
        MSE(*arguments)


@pytest.mark.parametrize(
    ("error", "message", "w"),
    [
        (TypeError, r"w: got list", [0.0, 0.0]),
        (TypeError, r"w: got float32, expected float64 .* w\.astype\(numpy\.float64\)", np.zeros(2, "f4")),
        (ValueError, r"w: got shape \(3,\), expected \(2,\), one weight for each column", np.zeros(3)),
        (ValueError, r"w: got shape \(2, 1\)", np.zeros((2, 1))),
    ],
)
def test_weights_that_do_not_fit(error, message, w):
    for function in (fixed().loss, fixed().gradient):
        with pytest.raises(error, match=message):
            function(w)


@pytest.mark.parametrize(
    ("error", "message", "rows"),
    [
        (TypeError, r"rows: got list", [0, 1]),
        (TypeError, r"rows: got bool", np.array([True, False, True])),
        (TypeError, r"rows: got float64", np.array([0.0])),
        (ValueError, r"rows: got shape \(0,\), expected \(m,\) with m >= 1", np.array([], int)),
        (ValueError, r"rows: got shape \(1, 1\)", np.array([[0]])),
        (IndexError, r"rows: got index 3, expected 0 to 2", np.array([0, 3])),
        (IndexError, r"rows: got index -1, expected 0 to 2", np.array([0, -1])),
    ],
)
def test_batches_that_do_not_fit(error, message, rows):
    with pytest.raises(error, match=message):
        fixed().gradient(np.zeros(2), rows)


def test_a_table_may_have_lines_of_spaces(tmp_path):
    path = tmp_path / "houses.csv"
    path.write_text("size,price\n1,2\n \t\n\n2,4\n  \n", encoding="utf-8")
    assert table.read_csv(path, "price").y.tolist() == [-1.0, 1.0]


STEEP = np.array([1.0, 4.0])


def bowl(**known):
    return Function(lambda w: float(STEEP @ (w * w)) / 2, lambda w: STEEP * w, 2, **known)


class TestFunction:
    """A loss of one's own: what it must return, and what an error says of it."""

    def test_minimize_takes_it(self):
        run = ss.minimize(bowl(), np.ones(2), lambda w: ss.SGD(w, lr=0.25), steps=1)
        assert run.w.tolist() == [0.75, 0.0]
        assert run.losses.tolist() == [2.5, 0.28125]

    def test_float32_with_float32(self):
        problem = Function(lambda w: w @ w / 2, lambda w: w, 2, dtype=np.float32, minimizer=[0.0, 0.0])
        run = ss.minimize(problem, np.ones(2, np.float32), lambda w: ss.Momentum(w, lr=0.5), steps=2)
        assert run.w.dtype == problem.minimizer().dtype == np.float32
        assert type(problem.loss(np.ones(2, np.float32))) is float

    def test_a_gradient_that_is_w_itself_or_a_buffer_is_copied(self):
        buffer = np.empty(2)
        for gradient in (lambda w: w, lambda w: np.multiply(w, 1.0, out=buffer)):
            problem = Function(lambda w: float(w @ w) / 2, gradient, 2)
            w = np.ones(2)
            g = problem.gradient(w)
            problem.gradient(2 * w)
            assert g.tolist() == [1.0, 1.0]
            run = ss.minimize(problem, w, lambda w: ss.SGD(w, lr=0.5), steps=1)
            assert run.w.tolist() == [0.5, 0.5]

    def test_batches_are_handed_on_if_there_is_more_than_one_example(self):
        Phi, y = np.array(PHI, float), np.array(Y, float)
        seen = []

        def gradient(w, rows):
            seen.append(rows)
            at = slice(None) if rows is None else rows
            return Phi[at].T @ (Phi[at] @ w - y[at]) / len(y[at])

        own = Function(lambda w: float(np.sum((Phi @ w - y) ** 2)) / 6, gradient, 2, size=3)
        twin = MSE(Phi, y, "half_mean")
        for sampling, batch_size in (("full", None), ("shuffle", 2), ("with_replacement", 2)):
            ends = [
                ss.minimize(
                    problem,
                    np.zeros(2),
                    lambda w: ss.SGD(w, lr=0.25),
                    steps=7,
                    sampling=sampling,
                    batch_size=batch_size,
                ).w
                for problem in (own, twin)
            ]
            assert ends[0] == pytest.approx(ends[1], rel=1e-12)
            assert (seen[-1] is None) is (sampling == "full")
        with pytest.raises(IndexError, match="rows: got index 3, expected 0 to 2"):
            own.gradient(np.zeros(2), np.array([3]))

    def test_the_one_example_is_every_batch(self):
        assert bowl().gradient(np.ones(2), np.array([0, 0])).tolist() == [1.0, 4.0]

    def test_what_is_known(self):
        least = np.array([1.0, 2.0])
        problem = bowl(beta=4, mu=1, optimum=0, minimizer=least)
        least[:] = problem.minimizer()[:] = 7.0
        assert problem.minimizer().tolist() == [1.0, 2.0]
        assert (problem.beta, problem.mu, problem.optimum, problem.convex) == (4.0, 1.0, 0.0, True)
        assert type(problem.beta) is float
        assert (bowl().beta, bowl().mu, bowl().optimum, bowl().minimizer(), bowl().convex) == (None,) * 5
        assert bowl(mu=1.0, convex=False).convex is bowl(convex=np.bool_(False)).convex is False
        assert repr(problem) == "Function(p=2, float64, N=1, beta=4, mu=1, optimum=0)"

    @pytest.mark.parametrize(
        ("error", "message", "change"),
        [
            (TypeError, "loss: got float, expected a function of w", {"loss": 1.0}),
            (TypeError, "gradient: got ndarray, expected a function of w", {"gradient": np.ones(2)}),
            (TypeError, r"loss: cannot be called as loss\(w\)", {"loss": lambda: 0.0}),
            (TypeError, r"as gradient\(w, rows\), as size=3 does; let it take the rows", {"size": 3}),
            (TypeError, r"as gradient\(w\), as size=1 does; .* size=", {"gradient": lambda w, rows: w}),
            (TypeError, "minimizer: got .*, expected 2 real numbers, as w", {"minimizer": [1j, 0.0]}),
            (TypeError, "minimizer: got .*, expected 2 real numbers, as w", {"minimizer": ["a", "b"]}),
            (TypeError, "dimension: got 2.0, expected a whole number", {"dimension": 2.0}),
            (ValueError, "dimension: got 0, expected 1 or more", {"dimension": 0}),
            (ValueError, "size: got 0, expected 1 or more", {"size": 0}),
            (ValueError, "beta: got -1.0, expected a finite number, 0 or more", {"beta": -1}),
            (ValueError, "beta: got nan", {"beta": np.nan}),
            (TypeError, "beta: got str, expected a number", {"beta": "4"}),
            (ValueError, "mu: got 5.0, expected at most beta = 4.0", {"mu": 5, "beta": 4}),
            (ValueError, "optimum: got -inf, expected a finite number$", {"optimum": -np.inf}),
            (ValueError, r"minimizer: got shape \(3,\), expected \(2,\)", {"minimizer": np.ones(3)}),
            (ValueError, "minimizer: got NaN or infinity", {"minimizer": [1, np.nan]}),
            (TypeError, "convex: got 'yes', expected True, False or None", {"convex": "yes"}),
            (TypeError, "dtype: got int64, expected float32 or float64", {"dtype": int}),
        ],
    )
    def test_arguments_that_do_not_fit(self, error, message, change):
        arguments = {"loss": lambda w: 0.0, "gradient": lambda w: w, "dimension": 2, **change}
        with pytest.raises(error, match=message):
            Function(**arguments)

    @pytest.mark.parametrize(
        ("error", "message", "returned"),
        [
            (TypeError, r"gradient: returned list, expected a numpy array of float64; return n", [1.0, 2.0]),
            (TypeError, r"gradient: returned NoneType", None),
            (ValueError, r"gradient: returned shape \(2, 1\), expected \(2,\) as w", np.ones((2, 1))),
            (ValueError, r"gradient: returned shape \(\), expected \(2,\)", np.array(1.0)),
            (TypeError, r"returned float32, .* or pass Function\(..., dtype=", np.ones(2, np.float32)),
            (TypeError, r"returned int64, expected float64 as w; convert it with \.astype", np.ones(2, int)),
        ],
    )
    def test_gradients_that_are_none(self, error, message, returned):
        problem, w = Function(lambda w: 0.0, lambda w: returned, 2), np.zeros(2)
        with pytest.raises(error, match=message):
            ss.minimize(problem, w, lambda w: ss.SGD(w, lr=0.1), steps=1)

    @pytest.mark.parametrize("returned", [np.ones(1), 1j, "1", None, True])
    def test_losses_that_are_none(self, returned):
        problem = Function(lambda w: returned, lambda w: w, 2)
        got = type(returned).__name__
        with pytest.raises(TypeError, match=f"loss: returned {got}.*, expected a real number; return float"):
            problem.loss(np.zeros(2))
        assert Function(lambda w: np.array(2.0), lambda w: w, 2).loss(np.zeros(2)) == 2.0

    @pytest.mark.parametrize(
        ("error", "message", "w"),
        [
            (TypeError, "w: got list", [0.0, 0.0]),
            (TypeError, r"w: got float32, expected float64; convert it with w\.astype", np.zeros(2, "f4")),
            (ValueError, r"w: got shape \(3,\), expected \(2,\)", np.zeros(3)),
        ],
    )
    def test_weights_that_do_not_fit(self, error, message, w):
        for function in (bowl().loss, bowl().gradient, bowl().check_gradient):
            with pytest.raises(error, match=message):
                function(w)

    def test_a_right_gradient_passes_everywhere(self):
        random = np.random.RandomState(0)
        rosenbrock = Rosenbrock()
        problem = Function(rosenbrock.loss, rosenbrock.gradient, 2)
        for scale in (1e-6, 1.0, 1e3):
            assert problem.check_gradient(scale * random.standard_normal(2)) < 1e-5
        assert bowl().check_gradient(np.zeros(2)) == 0.0
        single = Function(
            lambda w: np.float32(np.sum(w**4)), lambda w: (4 * w**3).astype("f4"), 3, dtype="f4"
        )
        assert single.check_gradient(np.float32([1.0, -2.0, 0.5])) < 0.01
        far_away = Function(lambda w: 1e9 + float(w @ w), lambda w: 2 * w, 2)
        assert 0 < far_away.check_gradient(np.ones(2)) < 0.1  # the differences know no more

    def test_a_wrong_one_is_named_by_its_worst_component(self):
        def gradient(w):
            return np.array([1.0, 1.001, -1.0, 1.0]) * w

        problem = Function(lambda w: float(w @ w) / 2, gradient, 4)
        with pytest.raises(ValueError, match=r"component 2 is -3, but .* rate 3 along it; 2 of 4 compon"):
            problem.check_gradient(np.array([1.0, 2.0, 3.0, 4.0]))
        with pytest.raises(ValueError, match=r"gradient: component 1 is 2\.002, "):
            problem.check_gradient(np.array([1.0, 2.0, 0.0, 4.0]))
        broken = Function(lambda w: 0.0, lambda w: w * np.nan, 2)
        with pytest.raises(ValueError, match="gradient: not finite in component 0"):
            broken.check_gradient(np.ones(2))


class TestSizes:
    """Hyperbola and Higham with targets, points and widths of one's own."""

    @pytest.mark.parametrize("target", [-2.0, 0.0, 0.5])
    def test_hyperbola(self, target):
        problem, w = Hyperbola(target), np.array([1.5, -0.7])
        p = w[0] * w[1]
        own = Function(problem.loss, problem.gradient, 2)
        assert own.check_gradient(w) < 1e-7
        assert np.allclose(ss.theory.hessian_fd(problem.gradient, w), problem.hessian(w), atol=1e-8)
        assert np.linalg.det(problem.hessian(w)) == pytest.approx((target - p) * (3 * p - target))
        g = problem.gradient(w)
        assert g @ g == pytest.approx(2 * problem.tangent_kernel(w) * problem.loss(w))

    @pytest.mark.parametrize("hidden", [(), (4,), (2, 3), (3, 2, 5)])
    def test_higham(self, hidden):
        random = np.random.RandomState(0)
        x, y = random.standard_normal((6, 3)), np.eye(4)[random.randint(0, 4, 6)]
        problem = Higham(x, y, hidden)
        assert problem.widths == (3, *hidden, 4)
        w = random.standard_normal(problem.dimension)
        assert Function(problem.loss, problem.gradient, problem.dimension).check_gradient(w) < 1e-7
        single = [problem.gradient(w, np.array([i])) for i in range(6)]
        assert problem.gradient(w) == pytest.approx(np.mean(single, axis=0), rel=1e-12)
        assert 0 <= problem.correct(w) <= 6

    def test_xor_is_learned(self):
        corners = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        problem = Higham(corners, np.repeat(np.eye(2), 2, axis=0), hidden=(4,))
        w0 = np.random.RandomState(0).standard_normal(problem.dimension)
        run = ss.minimize(problem, w0, lambda w: ss.Adam(w, lr=0.1), steps=300)
        assert problem.correct(run.w) == 4

    @pytest.mark.parametrize(
        ("error", "message", "make"),
        [
            (TypeError, "target: got str, expected a number", lambda: Hyperbola("1")),
            (ValueError, "target: got nan, expected a finite number", lambda: Hyperbola(np.nan)),
            (ValueError, r"points: got shape \(3,\), expected \(N, n\)", lambda: Higham(np.ones(3))),
            (ValueError, "targets: got 10 rows for 4 points", lambda: Higham(np.ones((4, 2)))),
            (ValueError, "targets: got shape .* n >= 2", lambda: Higham(np.ones((4, 2)), np.ones((4, 1)))),
            (ValueError, "points: got NaN", lambda: Higham(np.full((10, 2), np.nan))),
            (ValueError, r"hidden: got \(0,\), expected whole numbers", lambda: Higham(hidden=(0,))),
        ],
    )
    def test_sizes_that_are_none(self, error, message, make):
        with pytest.raises(error, match=message):
            make()
