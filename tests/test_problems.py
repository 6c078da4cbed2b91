"""MSE: the figures of A1, A2, A4, A5 and B4, and every error with its message."""

import hashlib

import numpy as np
import pytest

from samestep import table
from samestep.problems import MSE
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
    path.write_text("size,price\n1,2\n \t\n\n2,4\n  \n")
    assert table.read_csv(path, "price").y.tolist() == [-1.0, 1.0]
