"""A loss of the user's own: two functions, and what the user knows about them."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arguments import whole_number
from ..backends import choose_backend, module
from ..backends.arrays import is_array, lives_on_gpu, may_overlap, read_only_copy
from .examples import Float64s, Floats, Integers, check_rows
from .smooth import finite


class Function:
    """A loss and its gradient as functions of w, for minimize() and for the theory.

    The theory's bounds are formed of ``beta``, ``mu``, ``optimum`` and ``minimizer``, which are not checked.
    Without ``beta`` there are no bounds, without ``optimum`` and ``minimizer`` none of the gap L(w) - L*,
    without ``mu`` none of its rate.

    Args:
        loss: L, called as ``loss(w)`` with an array of shape (dimension,); returns a real number.
        gradient: called as ``gradient(w)`` or, if size is above 1, as ``gradient(w, rows)``, where rows are
            the indices of a batch (int64, shape (m,), from 0 to size - 1) or None for all. Returns an array
            of w's shape and dtype; the gradient of a batch is the mean over its rows.
        dimension: p, the number of weights.
        beta: the smoothness, |g(u) - g(w)| <= beta |u - w| for all u and w. For a loss that is twice
            differentiable it is the largest absolute eigenvalue of the Hessian at any w.
        mu: the smallest curvature of a convex loss, or 0 if only convexity is known. With ``convex=False``
            the constant of Polyak and Lojasiewicz, |g|^2/2 >= mu (L - L*) everywhere.
        optimum: L*, the least value of L.
        minimizer: a w* with L(w*) = L*; shape (dimension,).
        size: N, the number of examples in the loss; 1: there are no batches.
        convex: whether L is convex. None means True if mu is given, and else that nothing is known.
        dtype: of the weights and the gradient, float64 or float32.

    Attributes:
        size, dimension, dtype, beta, mu, optimum, convex: the arguments; None: not known.

    Neither function may write into w. Their errors and warnings are passed on.

    Raises:
        TypeError: an argument has another type; of the methods: an argument of theirs, or a result of the two
            functions.
        ValueError: likewise, for another shape or range.

    Source:
        Nesterov, Introductory lectures on convex optimization (2004), section 1.2.2 for beta and 2.1.3 for
        mu; Karimi, Nutini and Schmidt (2016) for the inequality of Polyak and Lojasiewicz.

    Example:
        >>> import numpy as np, samestep as ss
        >>> steep = np.array([1.0, 4.0])
        >>> bowl = ss.problems.Function(lambda w: float(steep @ (w * w)) / 2, lambda w: steep * w, 2,
        ...                             beta=4.0, mu=1.0, optimum=0.0, minimizer=np.zeros(2))
        >>> bowl.check_gradient(np.ones(2)) < 1e-9
        True
        >>> run = ss.minimize(bowl, np.ones(2), lambda w: ss.SGD(w, lr=0.25), steps=20)
        >>> ss.theory.check_run(bowl, run).ok
        True
    """

    def __init__(
        self,
        loss: Callable[[Any], Any],
        gradient: Callable[..., Any],
        dimension: int,
        *,
        beta: float | None = None,
        mu: float | None = None,
        optimum: float | None = None,
        minimizer: npt.ArrayLike | None = None,
        size: int = 1,
        convex: bool | None = None,
        dtype: npt.DTypeLike = np.float64,
    ) -> None:
        for name, function in (("loss", loss), ("gradient", gradient)):
            if not callable(function):
                raise TypeError(f"{name}: got {type(function).__name__}, expected a function of w")
        self._loss, self._gradient = loss, gradient
        self.dimension = whole_number("dimension", dimension, at_least=1)
        self.size = whole_number("size", size, at_least=1)
        if not can_call_with(loss, 1):
            raise TypeError("loss: cannot be called as loss(w), expected a function of the weights alone")
        if self.size > 1 and not can_call_with(gradient, 2):
            raise TypeError(
                f"gradient: cannot be called as gradient(w, rows), as size={self.size} does; let it take the "
                "rows of a batch, None for all, or leave size out"
            )
        if self.size == 1 and not can_call_with(gradient, 1):
            raise TypeError(
                "gradient: cannot be called as gradient(w), as size=1 does; if it takes rows, pass size=..."
            )
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        if self.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise TypeError(f"dtype: got {self.dtype}, expected float32 or float64")
        self.beta = None if beta is None else finite("beta", beta, at_least=0.0)
        self.mu = None if mu is None else finite("mu", mu, at_least=0.0)
        self.optimum = None if optimum is None else finite("optimum", optimum)
        if self.beta is not None and self.mu is not None and self.mu > self.beta:
            raise ValueError(f"mu: got {self.mu}, expected at most beta = {self.beta}")
        if convex is not None and not isinstance(convex, (bool, np.bool_)):
            raise TypeError(f"convex: got {convex!r}, expected True, False or None")
        known = True if self.mu is not None else None
        self.convex = known if convex is None else bool(convex)
        self._minimizer: Float64s | None = None
        if minimizer is not None:
            if np.asarray(minimizer).dtype.kind not in "iuf":
                raise TypeError(f"minimizer: got {minimizer!r}, expected {self.dimension} real numbers, as w")
            least = np.array(minimizer, dtype=np.float64)
            if least.shape != (self.dimension,):
                raise ValueError(f"minimizer: got shape {least.shape}, expected {(self.dimension,)}, as w")
            if not np.isfinite(least).all():
                raise ValueError("minimizer: got NaN or infinity, expected finite numbers")
            self._minimizer = read_only_copy(least)

    def __repr__(self) -> str:
        known = {"N": self.size, "beta": self.beta, "mu": self.mu, "optimum": self.optimum}
        shown = "".join(f", {name}={value:g}" for name, value in known.items() if value is not None)
        return f"Function(p={self.dimension}, {self.dtype}{shown})"

    def minimizer(self) -> Floats | None:
        """w*, a new array of shape (dimension,) in the problem's dtype; None: not known."""
        return None if self._minimizer is None else self._minimizer.astype(self.dtype)

    def loss(self, w: Floats) -> float:
        """L(w), as a float.

        Args:
            w: the weights, shape (dimension,), the problem's dtype.

        Raises:
            TypeError: w has another dtype, or the function returned no real number.
            ValueError: w has another shape.
        """
        self._check_weights(w)
        return self._evaluate(w)

    def _evaluate(self, w: Floats) -> float:
        value = self._loss(w)
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            got = type(value).__name__
            shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
            raise TypeError(
                f"loss: returned {got}{shape}, expected a real number; return float(...) of a single one"
            )
        return float(value)

    def gradient(self, w: Floats, rows: Integers | None = None) -> Floats:
        """g(w), a new array of w's shape and dtype.

        Args:
            w: the weights, shape (dimension,), the problem's dtype.
            rows: indices of a batch, shape (m,), from 0 to size - 1; None: all. With size 1 every batch is
                the whole, and the function gets w alone.

        Raises:
            TypeError: an argument or the function's result has another dtype.
            ValueError: an argument or the function's result has another shape.
            IndexError: an index is out of range.
        """
        self._check_weights(w)
        if rows is not None:
            rows = check_rows(rows, self.size)
        g = self._gradient(w) if self.size == 1 else self._gradient(w, rows)
        if not isinstance(g, np.ndarray):
            raise TypeError(
                f"gradient: returned {type(g).__name__}, expected a numpy array of {self.dtype}; "
                f"return numpy.asarray(..., dtype=numpy.{self.dtype})"
            )
        if g.shape != w.shape:
            raise ValueError(
                f"gradient: returned shape {g.shape}, expected {w.shape} as w, a number for each weight"
            )
        if g.dtype != self.dtype:
            other = f" or pass Function(..., dtype=numpy.{g.dtype})" if g.dtype == np.float32 else ""
            raise TypeError(
                f"gradient: returned {g.dtype}, expected {self.dtype} as w; "
                f"convert it with .astype(numpy.{self.dtype}){other}"
            )
        # A copy: the function may return w itself, or a buffer that its next call overwrites.
        return np.array(g, order="C", subok=False)

    def check_gradient(self, w: Floats, tolerance: float = 1e-5) -> float:
        """Compares the gradient at w with central differences of the loss, component by component.

        d_j(h) = (L(w + h e_j) - L(w - h e_j))/(2h) with h = eps^(1/3) max(1, |w_j|). The error of d_j(h) is
        estimated by |d_j(2h) - d_j(h)| and the rounding of L; a component may deviate by that error and the
        tolerance.

        Args:
            w: a point at which the loss is smooth, shape (dimension,). At a special point, such as 0, a wrong
                gradient may be right by chance.
            tolerance: the deviation that is allowed, as a share of the largest component.

        Returns:
            The largest deviation, as a share of the largest component.

        Raises:
            ValueError: a component deviates by more; the error names the worst one. Or the gradient or a loss
                near w is not finite.
            TypeError, ValueError: as ``loss`` and ``gradient``.

        Source:
            Press et al., Numerical Recipes, section 5.7, for h.

        Example:
            >>> import numpy as np, samestep as ss
            >>> wrong = ss.problems.Function(lambda w: float(w @ w), lambda w: np.array([2.0, 1.0]) * w, 2)
            >>> wrong.check_gradient(np.array([1.0, 3.0]))  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ...
            ValueError: gradient: component 1 is 3, but the loss changes at the rate 6 along it; ...
        """
        finite("tolerance", tolerance, at_least=0.0)
        g = self.gradient(w).astype(np.float64)
        eps = float(np.finfo(self.dtype).eps)
        slope, unsure = np.empty_like(g), np.empty_like(g)
        for j in range(self.dimension):
            h = eps ** (1 / 3) * max(1.0, abs(float(w[j])))
            (near, rounding), (far, _) = self._slope(w, j, h), self._slope(w, j, 2 * h)
            slope[j], unsure[j] = near, abs(far - near) + 8.0 * eps * rounding
        for name, seen in (("gradient", g), ("loss near w", slope)):
            if not np.isfinite(seen).all():
                at = int(np.argmin(np.isfinite(seen)))
                raise ValueError(f"{name}: not finite in component {at}; choose a w where it is finite")
        largest = float(max(np.abs(g).max(), np.abs(slope).max())) or 1.0
        beyond = np.abs(g - slope) - unsure
        worst = int(np.argmax(beyond))
        if beyond[worst] > tolerance * largest:
            bad = int((beyond > tolerance * largest).sum())
            raise ValueError(
                f"gradient: component {worst} is {g[worst]:.6g}, but the loss changes at the rate "
                f"{slope[worst]:.6g} along it; {bad} of {self.dimension} components deviate, this one most"
            )
        return float(np.abs(g - slope).max()) / largest

    def _slope(self, w: Floats, j: int, h: float) -> tuple[float, float]:
        """The central difference along weight j, and max |L|/(2h), by which its rounding error scales."""
        ahead, behind = w.copy(), w.copy()
        ahead[j] += self.dtype.type(h)
        behind[j] -= self.dtype.type(h)
        up, down = self._evaluate(ahead), self._evaluate(behind)
        between = float(ahead[j]) - float(behind[j])
        return (up - down) / between, max(abs(up), abs(down)) / between

    def _check_weights(self, w: Floats) -> None:
        if not isinstance(w, np.ndarray):
            raise TypeError(f"w: got {type(w).__name__}, expected a numpy array of {self.dtype}")
        if w.dtype != self.dtype:
            raise TypeError(
                f"w: got {w.dtype}, expected {self.dtype}; convert it with w.astype(numpy.{self.dtype})"
            )
        if w.shape != (self.dimension,):
            raise ValueError(f"w: got shape {w.shape}, expected {(self.dimension,)}")


def can_call_with(function: Callable[..., object], arguments: int) -> bool:
    """Whether the function accepts so many arguments; True for a compiled one that does not tell."""
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def check_returned_gradient(g: Any, w: Floats) -> Floats:
    """The gradient that a problem returned, checked, in C order and in memory that is not w's."""
    on_gpu = lives_on_gpu(w)
    expected = (
        f"expected {'an array on a GPU' if on_gpu else 'a numpy array'} of {w.dtype}, shape {w.shape}, as w"
    )
    if not is_array(g) or lives_on_gpu(g) != on_gpu or isinstance(g, np.ma.MaskedArray):
        got = f"{type(g).__module__}.{type(g).__qualname__}" if is_array(g) else type(g).__name__
        raise TypeError(f"problem.gradient: returned {got}, {expected}")
    if on_gpu:
        _, (_, g) = choose_backend("cuda", {"w": w, "problem.gradient": g})
    if g.dtype != w.dtype:
        raise TypeError(
            f"problem.gradient: returned {g.dtype}, {expected}; convert it with .astype(numpy.{w.dtype})"
        )
    if g.shape != w.shape:
        flat = "; flatten it with .ravel()" if g.size == w.size else ""
        raise ValueError(f"problem.gradient: returned shape {g.shape}, {expected}{flat}")
    # The gradient of |w|^2/2 may be w itself, which the step writes.
    kernels = module("cuda" if on_gpu else "cpu")
    checked: Floats = kernels.copy(g) if may_overlap(g, w) else kernels.contiguous(g)
    return checked
