"""The network of Higham and Higham's introduction: ten points in the plane, two classes, 23 weights.

Points, classes and the widths of the layers between are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..layers.functions import sigmoid
from ..layers.linear import linear, linear_backward
from ..sums import canonical_sum
from .examples import Float64s, Floats, Integers, check_rows
from .smooth import Smooth

X = [
    (0.1, 0.1), (0.3, 0.4), (0.1, 0.5), (0.6, 0.9), (0.4, 0.2),
    (0.6, 0.3), (0.5, 0.6), (0.9, 0.2), (0.4, 0.4), (0.7, 0.6),
]  # fmt: skip
Y = [(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 5

Layer = tuple[Floats, Floats]  # W and b


class Higham(Smooth):
    """Cost(w) = (1/N) sum_i (1/2) |y_i - F(x_i)|^2, F three layers of sigmoids, 2 - 2 - 3 - 2.

    a2 = s(W2 x + b2), a3 = s(W3 a2 + b3), F = a4 = s(W4 a3 + b4), s(z) = 1/(1 + e^-z). The weights lie
    in w as W2, W3, W4, b2, b3, b4, matrices row by row. ``gradient`` is the mean over its rows, so that
    a step with one row at random and lr 0.05 is the paper's. The paper's listing computes the sum of |y -
    F|^2, 20 times the Cost of the paper's formula.

    Products, sigmoids and sums are those of the bit contract: loss and gradient have the same bits on every
    machine.

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
        self.dimension = 0
        self._places: list[tuple[slice, tuple[int, int], slice]] = []  # of each layer: W, its shape, b
        biases = sum(before * after for before, after in pairwise(self.widths))
        for before, after in pairwise(self.widths):
            W = slice(self.dimension, self.dimension + before * after)
            self._places.append((W, (after, before), slice(biases, biases + after)))
            self.dimension, biases = W.stop, biases + after
        self.dimension = biases

    def loss(self, w: Floats) -> float:
        """Cost(w) over all points; w has shape (dimension,), float64."""
        misses = self._outputs(w) - self._targets
        return float(canonical_sum(misses * misses)) / (2 * self.size)

    def correct(self, w: Floats) -> int:
        """The number of points that are classified right: their largest output is that of their class."""
        return int((_classes(self._outputs(w)) == _classes(self._targets)).sum())

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
        if rows is None:
            x, y = self._points, self._targets
        else:
            rows = check_rows(rows, self.size)
            x, y = self._points[rows], self._targets[rows]
        layers = self._unpack(w)
        a = _activations(layers, x)
        gradient = np.empty(self.dimension)
        # d4 = a4 (1 - a4) (a4 - y);  d3 = a3 (1 - a3) (W4'd4);  d2 = a2 (1 - a2) (W3'd3)
        d = _slope(a[-1]) * (a[-1] - y)
        for k in range(len(layers) - 1, -1, -1):
            W, shape, b = self._places[k]
            later, dW, _ = linear_backward(
                d, a[k], layers[k][0].T, input_gradient=k > 0, out=(None, None, gradient[b])
            )
            gradient[W].reshape(shape)[...] = dW.T
            if later is not None:
                d = _slope(a[k]) * later
        return gradient if len(x) == 1 else gradient / len(x)

    def _outputs(self, w: Floats) -> Float64s:
        self._check_weights(w)
        return _activations(self._unpack(w), self._points)[-1]

    def _unpack(self, w: Floats) -> list[Layer]:
        return [(w[W].reshape(shape), w[b]) for W, shape, b in self._places]


def _check_matrix(name: str, values: npt.ArrayLike, least: int) -> Float64s:
    rows = np.array(values, dtype=np.float64, order="C")
    if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] < least:
        raise ValueError(f"{name}: got shape {rows.shape}, expected (N, n) with N >= 1, n >= {least}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: got NaN or infinity, expected finite numbers")
    return rows


def _classes(outputs: Float64s) -> Integers:
    """Of each row the index of the largest output; the last one of equal outputs."""
    classes: Integers = outputs.shape[1] - 1 - outputs[:, ::-1].argmax(axis=1)
    return classes


def _activations(layers: list[Layer], x: Float64s) -> list[Float64s]:
    """a1 = x, and the outputs of the layers: a2, a3, ..."""
    a = [x]
    for W, b in layers:
        z = linear(a[-1], W.T, b)
        a.append(sigmoid(z, out=z))
    return a


def _slope(a: Float64s) -> Float64s:
    """s'(z) for a = s(z)."""
    return a * (1.0 - a)
