"""The network of Higham and Higham's introduction: ten points in the plane, two classes, 23 weights.

Points, classes and the widths of the layers between are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from math import tanh
from operator import mul

import numpy as np
import numpy.typing as npt

from .mse import Float64s, Floats, Integers, check_rows
from .smooth import Smooth

X = [
    (0.1, 0.1), (0.3, 0.4), (0.1, 0.5), (0.6, 0.9), (0.4, 0.2),
    (0.6, 0.3), (0.5, 0.6), (0.9, 0.2), (0.4, 0.4), (0.7, 0.6),
]  # fmt: skip
Y = [(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 5

Matrix = Sequence[Sequence[float]]


Layer = tuple[Matrix, Sequence[float]]  # W and b


class Higham(Smooth):
    """Cost(w) = (1/N) sum_i (1/2) |y_i - F(x_i)|^2, F three layers of sigmoids, 2 - 2 - 3 - 2.

    a2 = s(W2 x + b2), a3 = s(W3 a2 + b3), F = a4 = s(W4 a3 + b4), s(z) = 1/(1 + e^-z). The weights lie
    in w as W2, W3, W4, b2, b3, b4, matrices row by row. ``gradient`` is the mean over its rows, so that
    a step with one row at random and lr 0.05 is the paper's. The paper's listing computes the sum of |y -
    F|^2, 20 times the Cost of the paper's formula.

    It computes in Python's floats: for 23 weights NumPy's arrays cost more than they save.

    Args:
        points: x_i, one a row, shape (N, inputs); None: the paper's ten.
        targets: y_i, one a row, shape (N, outputs), at least two of them, one for each class; None: the
            paper's, (1, 0) for its first five points and (0, 1) for the others.
        hidden: the widths of the hidden layers.

    Attributes:
        size: N.
        dimension: the number of weights, 23 by default.
        widths: the widths of all layers, (2, 2, 3, 2) by default.

    Raises:
        ValueError: points or targets have another shape, differ in number or are not finite; a width is no
            whole number or below 1.

    Source:
        Higham and Higham, Deep learning: an introduction for applied mathematicians (2018).

    Example:
        >>> import numpy as np, samestep as ss
        >>> problem, w = ss.problems.Higham(), np.zeros(23)
        >>> problem.loss(w)  # every output is 1/2
        0.25
        >>> problem.gradient(w, rows=np.array([0]))[-2:]
        array([-0.125,  0.125])
        >>> corners = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        >>> xor = ss.problems.Higham(corners, np.repeat(np.eye(2), 2, axis=0), hidden=(4,))
        >>> xor.widths, xor.dimension
        ((2, 4, 2), 22)
    """

    size = len(X)
    dimension = 23

    def __init__(
        self,
        points: npt.ArrayLike | None = None,
        targets: npt.ArrayLike | None = None,
        hidden: Sequence[int] = (2, 3),
    ) -> None:
        self._points = _check_matrix("points", X if points is None else points, 1)
        self._targets = _check_matrix("targets", Y if targets is None else targets, 2)
        self.size = len(self._points)
        if len(self._targets) != self.size:
            raise ValueError(
                f"targets: got {len(self._targets)} rows for {self.size} points, expected one for each"
            )
        hidden = tuple(hidden)
        if not all(isinstance(n, (int, np.integer)) and n >= 1 for n in hidden):
            raise ValueError(f"hidden: got {hidden}, expected whole numbers, 1 or more")
        self.widths = (len(self._points[0]), *map(int, hidden), len(self._targets[0]))
        self.dimension = sum((before + 1) * after for before, after in pairwise(self.widths))

    def loss(self, w: Floats) -> float:
        """Cost(w) over all points; w has shape (dimension,), float64."""
        misses = zip(chain.from_iterable(self._outputs(w)), chain.from_iterable(self._targets), strict=True)
        return sum((a - t) ** 2 for a, t in misses) / (2 * self.size)

    def correct(self, w: Floats) -> int:
        """The number of points that are classified right: their largest output is that of their class."""
        return sum(_class(F) == _class(y) for F, y in zip(self._outputs(w), self._targets, strict=True))

    def gradient(self, w: Floats, rows: Integers | None = None) -> Float64s:
        """The mean over the rows of the gradient of (1/2) |y_i - F(x_i)|^2, by backpropagation.

        Args:
            w: the weights, shape (dimension,), float64.
            rows: indices of points, shape (m,), m >= 1; None: all.

        Raises:
            TypeError: w or rows have another dtype.
            ValueError: w or rows have another shape, or there are no rows.
            IndexError: an index is out of range.
        """
        self._check_weights(w)
        points = range(self.size) if rows is None else check_rows(rows, self.size).tolist()
        layers = self._unpack(w)
        gradients = [_backpropagate(layers, self._points[i], self._targets[i]) for i in points]
        return np.array(gradients[0]) if len(gradients) == 1 else np.mean(gradients, axis=0)

    def _outputs(self, w: Floats) -> list[Sequence[float]]:
        self._check_weights(w)
        layers = self._unpack(w)
        return [_activations(layers, x)[-1] for x in self._points]

    def _unpack(self, w: Floats) -> list[Layer]:
        p: list[float] = w.tolist()
        matrices, at = [], 0
        for before, after in pairwise(self.widths):
            end = at + before * after
            matrices.append([p[i : i + before] for i in range(at, end, before)])
            at = end
        layers: list[Layer] = []
        for W in matrices:
            layers.append((W, p[at : at + len(W)]))
            at += len(W)
        return layers


def _check_matrix(name: str, values: npt.ArrayLike, least: int) -> list[list[float]]:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] < least:
        raise ValueError(f"{name}: got shape {rows.shape}, expected (N, n) with N >= 1, n >= {least}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: got NaN or infinity, expected finite numbers")
    found: list[list[float]] = rows.tolist()
    return found


def _class(outputs: Sequence[float]) -> int:
    """The index of the largest output; the last one of equal outputs."""
    return max(range(len(outputs)), key=lambda i: (outputs[i], i))


def _layer(W: Matrix, b: Sequence[float], a: Sequence[float]) -> list[float]:
    """s(W a + b) with s(z) = (1 + tanh(z/2))/2, which overflows for no z."""
    return [0.5 * (1.0 + tanh(0.5 * (sum(map(mul, row, a)) + c))) for row, c in zip(W, b, strict=True)]


def _activations(layers: list[Layer], x: Sequence[float]) -> list[Sequence[float]]:
    """a1 = x, and the outputs of the layers: a2, a3, ..."""
    a: list[Sequence[float]] = [x]
    for W, b in layers:
        a.append(_layer(W, b, a[-1]))
    return a


def _backpropagate(layers: list[Layer], x: Sequence[float], y: Sequence[float]) -> list[float]:
    a = _activations(layers, x)
    # d4 = a4 (1 - a4) (a4 - y);  d3 = a3 (1 - a3) (W4'd4);  d2 = a2 (1 - a2) (W3'd3)
    deltas = [[out * (1.0 - out) * (out - t) for out, t in zip(a[-1], y, strict=True)]]
    for (W, _), out_of in zip(layers[:0:-1], a[-2:0:-1], strict=True):
        columns = zip(*W, strict=True)
        later = deltas[-1]
        deltas.append(
            [
                out * (1.0 - out) * sum(map(mul, later, column))
                for out, column in zip(out_of, columns, strict=True)
            ]
        )
    deltas.reverse()
    # dC/dW = d a' of the layer before, dC/db = d
    outer = ([d * out for d in ds for out in before] for ds, before in zip(deltas, a[:-1], strict=True))
    return [*chain.from_iterable(outer), *chain.from_iterable(deltas)]
