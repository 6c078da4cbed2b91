"""Least squares: the squared error of a linear model, computed by the kernels."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeGuard

import numpy as np

from .. import backends
from ..backends import arrays
from ..spread import Workers, check_workers
from .examples import Float64s, Floats, Integers, Scale, check_examples, check_rows
from .spread import SpreadMse, check_spread

# c of L = (c/2) |Phi w - y|^2 as a factor, and whether that is divided by the number of rows.
_SCALES = {
    "half_sum": (1.0, False),
    "half_mean": (1.0, True),
    "mean": (2.0, True),
    "sum": (2.0, False),
}


class MSE:
    """The squared error of a linear model: L(w) = (c/2) |Phi w - y|^2.

    =============  =====  ============================================
    scale          c      L
    =============  =====  ============================================
    ``half_sum``   1      half the sum of squares (the notes)
    ``half_mean``  1/N    half the mean
    ``mean``       2/N    the mean
    ``sum``        2      the sum (the slides)
    =============  =====  ============================================

    The minimiser is the same for all four; gradient, Hessian, beta and mu grow with c, and the largest
    step size shrinks with it.

    Args:
        Phi: the features, one example a row: shape (N, p), float32 or float64, finite.
        y: the targets: shape (N,), the dtype of Phi, finite.
        scale: the name of c, see the table.
        backend: what computes the loss and its gradient: "auto" (by the memory in which the arrays live),
            "cpu", "reference" or "cuda". All give the same bits.
        group: the workers, a group of ``samestep.parallel``, over which the rows are spread in order of rank.
            Each passes its own, a multiple of 1024, but for the last that has any.

    A class derived from this one that overrides ``loss`` or ``gradient`` has another loss: to the theory it
    is no quadratic, and has a ``beta``, ``mu``, ``optimum`` or ``minimizer`` if it overrides that, too.

    Both arrays are copied, so that beta, mu and the optimum stay true. If they are on a GPU, so must be the
    weights, and so are the results; beta, mu and the optimum are computed in main memory.

    With a group N is the number of all rows, and loss, gradient and all else but ``residual`` are of all of
    them: the same bits on every worker as in one process that has all rows. Every worker calls the same
    methods with the same weights; an error of one is raised on all. Where the gradient's ``rows``, which are
    numbers among all, are drawn at random, most travel to another worker. Hessian, eigenvalues, beta, mu,
    minimizer and optimum are computed by worker 0, for which at the first of them all rows come into its
    memory.

    Attributes:
        Phi: the features, read-only, C order; with a group this worker's own.
        y: the targets, read-only; likewise.
        scale: the name of c.
        backend: "cpu", "reference" or "cuda".
        group: the workers, or None.

    Raises:
        TypeError: an argument is no array of float32 or float64, or the dtypes differ.
        ValueError: shapes that do not fit, no rows or no columns, NaN or infinity, an unknown scale or
            backend.

    Source:
        The notes' loss, with the prediction Phi w. The notes print Phi'w, which contradicts their gradient.

    Example:
        >>> import numpy as np, samestep as ss
        >>> Phi = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> problem = ss.problems.MSE(Phi, np.array([1.0, 2.0, 4.0]))
        >>> w = np.zeros(2)
        >>> problem.loss(w), problem.gradient(w)
        (10.5, array([-5., -6.]))
        >>> problem.hessian()
        array([[2., 1.],
               [1., 2.]])
        >>> round(problem.beta, 12), round(problem.mu, 12), round(problem.optimum, 12)
        (3.0, 1.0, 0.166666666667)
    """

    def __init__(
        self,
        Phi: Floats,
        y: Floats,
        scale: Scale = "half_sum",
        backend: str = "auto",
        *,
        group: Workers | None = None,
    ) -> None:
        if group is None:
            self.backend, Phi, y = check_examples(Phi, y, scale, backend)
        else:
            (self.backend, Phi, y), self._counts = check_spread(
                check_workers(group), lambda: check_examples(Phi, y, scale, backend, are_spread=True), scale
            )
        self.Phi: Floats = self._module.read_only_copy(Phi)
        self.y: Floats = self._module.read_only_copy(y)
        self.scale: Scale = scale
        self.group = group
        self._bind()

    def __setattr__(self, name: str, value: Any) -> None:
        # After a change beta, mu and the optimum would be wrong. Any other public name is misspelt.
        if name in ("Phi", "y", "scale", "backend", "group"):
            is_refused = name in vars(self)
        else:
            is_refused = type(self) is MSE and not name.startswith("_") and not hasattr(MSE, name)
        if is_refused:
            raise AttributeError(
                f"{name}: a problem stays what it was made of, Phi, y, scale and backend; make another MSE"
            )
        super().__setattr__(name, value)

    @property
    def _module(self) -> Any:
        return backends.module(self.backend)

    def _bind(self) -> None:
        self._spread: SpreadMse | None = None
        if self.group is None:
            self._kernels = self._module.Mse(self.Phi, self.y, *_SCALES[self.scale])
        else:
            scale, backend = self.scale, self.backend
            self._spread = self._kernels = SpreadMse(
                self.group,
                self._module,
                self.Phi,
                self.y,
                _SCALES[scale],
                self._counts,
                lambda Phi, y: MSE(Phi, y, scale, backend),
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_kernels", "_spread")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._bind()

    def __repr__(self) -> str:
        return f"MSE(N={self.size}, p={self.dimension}, {self.dtype}, scale={self.scale!r})"

    @property
    def size(self) -> int:
        """N, the number of examples."""
        return len(self.y) if self.group is None else sum(self._counts)

    @property
    def dimension(self) -> int:
        """p, the number of weights."""
        return int(self.Phi.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The working type: float32 or float64."""
        return self.Phi.dtype

    @property
    def c(self) -> float:
        """The factor c of the scale, for all N rows."""
        factor, per_row = _SCALES[self.scale]
        return factor / self.size if per_row else factor

    def loss(self, w: Floats) -> float:
        """L(w) = (c/2) |Phi w - y|^2, added up in float64.

        Args:
            w: the weights, shape (p,), the problem's dtype.

        Raises:
            TypeError, ValueError: another dtype or shape.

        Example:
            >>> import numpy as np, samestep as ss
            >>> problem = ss.problems.MSE(np.array([[1.0], [1.0]]), np.array([1.0, 3.0]), scale="mean")
            >>> problem.loss(np.array([2.0]))
            1.0
        """
        return float(self._kernels.evaluate(self._check_batch(w)[0], None, None, None))

    def residual(self, w: Floats) -> Floats:
        """r = Phi w - y, a new array: shape (N,), the problem's dtype; with a group of this worker's rows.

        Args:
            w: the weights, shape (p,), the problem's dtype.

        Raises:
            TypeError, ValueError: another dtype or shape.

        Example:
            >>> import numpy as np, samestep as ss
            >>> ss.problems.MSE(np.array([[1.0], [1.0]]), np.array([1.0, 3.0])).residual(np.array([2.0]))
            array([ 1., -1.])
        """
        w = self._check_weights(w)
        r: Floats = self._module.empty(len(self.y), self.dtype, self.y)
        self._kernels.evaluate(w, None, r, None)
        return r

    def gradient(self, w: Floats, rows: Integers | None = None) -> Floats:
        """g = c Phi'(Phi w - y), over all rows or over a batch of them, in one pass over Phi.

        c (H w - Phi'y) with H = Phi'Phi would need only one small product a step. But near the minimum it
        subtracts two nearly equal numbers: in float32, at the minimum of the diabetes problem, it leaves |g|
        twenty times as large.

        The gradient of a batch of m rows is that of a problem with these rows alone. With ``half_mean`` and
        ``mean`` its mean over all batches is the full gradient, with ``half_sum`` and ``sum`` m/N of that.

        Args:
            w: the weights, shape (p,), the problem's dtype.
            rows: indices of the batch, shape (m,), from 0 to N - 1. Rows are added in this order, and a
                repeated row counts each time. None: all rows.

        Returns:
            A new array, shape (p,), the problem's dtype.

        Raises:
            TypeError: another dtype.
            ValueError: another shape, an empty batch.
            IndexError: an index is out of range.

        Example:
            >>> import numpy as np, samestep as ss
            >>> problem = ss.problems.MSE(np.array([[1.0], [2.0]]), np.array([1.0, 3.0]), scale="half_mean")
            >>> problem.gradient(np.zeros(1)), problem.gradient(np.zeros(1), rows=np.array([1]))
            (array([-3.5]), array([-6.]))
        """
        w, rows = self._check_batch(w, rows)
        g: Floats = self._module.empty(self.dimension, self.dtype, self.y)
        self._kernels.evaluate(w, rows, None, g)
        return g

    def hessian(self, w: Floats | None = None) -> Floats:
        """H = c Phi'Phi, shape (p, p), the problem's dtype. It is the same at every w, which may be left out.

        Example:
            >>> import numpy as np, samestep as ss
            >>> ss.problems.MSE(np.array([[1.0], [2.0]]), np.zeros(2)).hessian()
            array([[5.]])
        """
        if self._spread is not None:
            return self._spread.of_whole("hessian").copy()
        Phi = backends.in_main_memory(self.Phi)
        hessian: Floats = self._module.from_host(self.c * (Phi.T @ Phi))
        return hessian

    @property
    def eigenvalues(self) -> Float64s:
        """The p eigenvalues of H, increasing, float64.

        They are c sigma^2 for the singular values sigma of Phi. That keeps digits of the small ones which are
        lost in H, whose condition number is the square of Phi's. Those that rounding cannot tell from 0 are
        0.
        """
        return self._eigenvalues if self._spread is None else self._spread.of_whole("eigenvalues")

    @cached_property
    def _eigenvalues(self) -> Float64s:
        sigma = np.zeros(self.dimension)
        found = np.linalg.svd(backends.in_main_memory(self.Phi).astype(np.float64), compute_uv=False)
        # The threshold is that of numpy.linalg.lstsq, so that mu > 0 exactly if the minimiser is unique.
        found[found <= np.finfo(np.float64).eps * max(self.Phi.shape) * found[0]] = 0.0
        sigma[: len(found)] = found
        return arrays.read_only_copy(np.sort(self.c * sigma * sigma))

    @property
    def beta(self) -> float:
        """lambda_max(H), the smoothness of L: |g(u) - g(w)| <= beta |u - w|."""
        return float(self.eigenvalues[-1])

    @property
    def mu(self) -> float:
        """lambda_min(H); 0 where the minimiser is not unique."""
        return float(self.eigenvalues[0])

    @property
    def kappa(self) -> float:
        """beta/mu, the condition number; infinite where mu is 0."""
        return self.beta / self.mu if self.mu > 0 else float("inf")

    def minimizer(self) -> Floats:
        """w*, the least-squares solution, and the shortest of several. Solved in float64.

        Returns:
            A new array, shape (p,), rounded to the problem's dtype.

        Example:
            >>> import numpy as np, samestep as ss
            >>> ss.problems.MSE(np.array([[1.0, 1.0]]), np.array([3.0])).minimizer()
            array([1.5, 1.5])
        """
        found = self._minimizer if self._spread is None else self._spread.of_whole("_minimizer")
        minimizer: Floats = self._module.from_host(found.astype(self.dtype))
        return minimizer

    @property
    def optimum(self) -> float:
        """L*, the least value of L, in float64 for every dtype: L(w*) with w* before it is rounded."""
        return self._optimum if self._spread is None else float(self._spread.of_whole("optimum"))

    @cached_property
    def _optimum(self) -> float:
        Phi, y = backends.in_main_memory(self.Phi), backends.in_main_memory(self.y)
        r = Phi.astype(np.float64) @ self._minimizer - y.astype(np.float64)
        return 0.5 * self.c * float(r @ r)

    @cached_property
    def _minimizer(self) -> Floats:
        Phi = backends.in_main_memory(self.Phi).astype(np.float64)
        y = backends.in_main_memory(self.y).astype(np.float64)
        solution: Floats = np.linalg.lstsq(Phi, y, rcond=None)[0]
        return solution

    def _check_batch(self, w: Floats, rows: Integers | None = None) -> tuple[Floats, Integers | None]:
        """The weights and the rows in use, checked; with a group, that they are the same everywhere."""

        def check() -> tuple[Floats, Integers | None]:
            return self._check_weights(w), None if rows is None else check_rows(rows, self.size)

        return check() if self._spread is None else self._spread.check(check)

    def _check_weights(self, w: Floats) -> Floats:
        """The weights, checked and in C order, in the memory of Phi."""
        if not arrays.is_array(w):
            raise TypeError(f"w: got {type(w).__name__}, expected a numpy array of {self.dtype}")
        _, (_, w) = backends.choose_backend(self.backend, {"Phi": self.Phi, "w": w})
        if w.dtype != self.dtype:
            raise TypeError(
                f"w: got {w.dtype}, expected {self.dtype} as Phi; "
                f"convert it with w.astype(numpy.{self.dtype})"
            )
        if w.shape != (self.dimension,):
            raise ValueError(
                f"w: got shape {w.shape}, expected {(self.dimension,)}, one weight for each column of Phi"
            )
        contiguous: Floats = self._module.contiguous(w)
        return contiguous


def is_least_squares(problem: Any) -> TypeGuard[MSE]:
    """Whether loss and gradient are those of MSE; a class derived from it may override them."""
    return isinstance(problem, MSE) and all(
        getattr(type(problem), name) is getattr(MSE, name) and name not in vars(problem)
        for name in ("loss", "gradient")
    )


def claimed(problem: Any, name: str) -> Any:
    """What a problem says of its loss by the attribute ``name``, such as beta; None: nothing.

    A class that overrides the loss or the gradient of MSE has another loss. MSE's numbers, which it
    inherits, say nothing of that one; those that it overrides do.
    """
    value = getattr(type(problem), name, None)
    if isinstance(problem, MSE) and not is_least_squares(problem) and value is getattr(MSE, name, None):
        return None
    return getattr(problem, name, None)


def rows_in_memory(problem: MSE) -> tuple[Floats, Floats]:
    """Features and targets of all rows in main memory, where no worker has a part of them alone."""
    if problem.group is not None and problem.group.size > 1:
        raise ValueError(
            f"problem: has its rows on {problem.group.size} workers, expected all in one process; make an "
            "MSE of all rows without a group for this"
        )
    return backends.in_main_memory(problem.Phi), backends.in_main_memory(problem.y)
