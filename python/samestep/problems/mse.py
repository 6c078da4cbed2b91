"""Least squares: the squared error of a linear model, computed by the kernels."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
import numpy.typing as npt

from .. import backends
from ..backends import arrays

Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]
Scale = Literal["half_sum", "half_mean", "mean", "sum"]


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

    A class derived from this one that overrides ``loss`` or ``gradient`` has another loss: to the theory it
    is no quadratic, and has a ``beta``, ``mu``, ``optimum`` or ``minimizer`` if it overrides that, too.

    Both arrays are copied, so that beta, mu and the optimum stay true. If they are on a GPU, so must be the
    weights, and so are the results; beta, mu and the optimum are computed in main memory.

    Attributes:
        Phi: the features, read-only, C order.
        y: the targets, read-only.
        scale: the name of c.
        backend: "cpu", "reference" or "cuda".

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

    def __init__(self, Phi: Floats, y: Floats, scale: Scale = "half_sum", backend: str = "auto") -> None:
        if scale not in get_args(Scale):
            expected = ", ".join(repr(name) for name in get_args(Scale))
            raise ValueError(f"scale: got {scale!r}, expected one of {expected}")
        self.backend, (Phi, y) = backends.choose_backend(backend, {"Phi": Phi, "y": y})
        _check_floats("Phi", Phi, 2)
        _check_floats("y", y, 1)
        if y.dtype != Phi.dtype:
            raise TypeError(
                f"y: got {y.dtype}, expected {Phi.dtype} as Phi; convert one of them with .astype"
            )
        if 0 in Phi.shape:
            raise ValueError(f"Phi: got shape {Phi.shape}, expected at least one row and one column")
        if len(y) != len(Phi):
            turned = "; Phi looks transposed: pass Phi.T" if len(y) == Phi.shape[1] else ""
            raise ValueError(
                f"y: got {len(y)} targets for the {len(Phi)} rows of Phi, expected one for each row" + turned
            )
        _check_finite("Phi", self._module.to_host(Phi))
        _check_finite("y", self._module.to_host(y))
        self.Phi: Floats = self._module.read_only_copy(Phi)
        self.y: Floats = self._module.read_only_copy(y)
        self.scale: Scale = scale
        self._bind()

    def __setattr__(self, name: str, value: Any) -> None:
        # After a change beta, mu and the optimum would be wrong. Any other public name is misspelt.
        if name in ("Phi", "y", "scale", "backend"):
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
        self._kernels = self._module.Mse(self.Phi, self.y, *_SCALES[self.scale])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kernels"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._bind()

    def __repr__(self) -> str:
        return f"MSE(N={self.size}, p={self.dimension}, {self.dtype}, scale={self.scale!r})"

    @property
    def size(self) -> int:
        """N, the number of examples."""
        return len(self.y)

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
        return float(self._kernels.evaluate(self._check_weights(w), None, None, None))

    def residual(self, w: Floats) -> Floats:
        """r = Phi w - y, a new array: shape (N,), the problem's dtype.

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
        r: Floats = self._module.empty(self.size, self.dtype, self.y)
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
        w = self._check_weights(w)
        if rows is not None:
            rows = check_rows(rows, self.size)
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
        Phi = self._in_memory(self.Phi)
        hessian: Floats = self._module.from_host(self.c * (Phi.T @ Phi))
        return hessian

    @cached_property
    def eigenvalues(self) -> Float64s:
        """The p eigenvalues of H, increasing, float64.

        They are c sigma^2 for the singular values sigma of Phi. That keeps digits of the small ones which are
        lost in H, whose condition number is the square of Phi's. Those that rounding cannot tell from 0 are
        0.
        """
        sigma = np.zeros(self.dimension)
        found = np.linalg.svd(self._in_memory(self.Phi).astype(np.float64), compute_uv=False)
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
        minimizer: Floats = self._module.from_host(self._minimizer.astype(self.dtype))
        return minimizer

    @cached_property
    def optimum(self) -> float:
        """L*, the least value of L, in float64 for every dtype: L(w*) with w* before it is rounded."""
        Phi, y = self._in_memory(self.Phi), self._in_memory(self.y)
        r = Phi.astype(np.float64) @ self._minimizer - y.astype(np.float64)
        return 0.5 * self.c * float(r @ r)

    @cached_property
    def _minimizer(self) -> Floats:
        Phi = self._in_memory(self.Phi).astype(np.float64)
        y = self._in_memory(self.y).astype(np.float64)
        solution: Floats = np.linalg.lstsq(Phi, y, rcond=None)[0]
        return solution

    def _in_memory(self, a: Floats) -> Floats:
        """The array as a NumPy array, for what the theory computes in main memory."""
        host: Floats = a if isinstance(a, np.ndarray) else self._module.to_host(a)
        return host

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


def check_rows(rows: Integers, size: int) -> Integers:
    """The indices, checked, as an int64 copy: another thread may change the caller's during the kernels."""
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iu":
        got = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
        raise TypeError(f"rows: got {got}, expected a numpy array of integers")
    if rows.ndim != 1 or len(rows) == 0:
        raise ValueError(f"rows: got shape {rows.shape}, expected (m,) with m >= 1")
    rows = np.array(rows, order="C")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= size:
        raise IndexError(f"rows: got index {low if low < 0 else high}, expected 0 to {size - 1}")
    return rows.astype(np.int64, copy=False)


def _check_floats(name: str, array: Floats, ndim: int) -> None:
    if not arrays.is_array(array) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got {type(array).__name__}, expected a numpy array; "
            f"make one with numpy.asarray({name}, dtype=numpy.float64)"
        )
    if array.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(
            f"{name}: got dtype {array.dtype}, expected float32 or float64; "
            f"convert it with {name}.astype(numpy.float64)"
        )
    if array.ndim != ndim:
        shape = "(N, p), one example a row" if ndim == 2 else "(N,)"
        column = ndim == 1 <= array.ndim and array.size == len(array)
        flat = f"; flatten it with {name}.ravel()" if column else ""
        raise ValueError(f"{name}: got shape {array.shape}, expected {shape}{flat}")


def _check_finite(name: str, array: Floats) -> None:
    if np.isfinite(array).all():
        return
    place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    raise ValueError(
        f"{name}: got {array[place]} at [{', '.join(map(str, place))}], expected finite numbers; "
        "remove the example or fill the gap"
    )
