"""The network of Higham and Higham's introduction: ten points in the plane, two classes, 23 weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import tanh
from operator import mul

import numpy as np

from .mse import Float64s, Floats, Integers, own_rows
from .smooth import Smooth

X = [
    (0.1, 0.1), (0.3, 0.4), (0.1, 0.5), (0.6, 0.9), (0.4, 0.2),
    (0.6, 0.3), (0.5, 0.6), (0.9, 0.2), (0.4, 0.4), (0.7, 0.6),
]  # fmt: skip
Y = [(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 5

Matrix = Sequence[Sequence[float]]


class Higham(Smooth):
    """Cost(w) = (1/10) sum_i (1/2) |y_i - F(x_i)|^2, F three layers of sigmoids, 2 - 2 - 3 - 2.

    a2 = s(W2 x + b2), a3 = s(W3 a2 + b3), F = a4 = s(W4 a3 + b4), s(z) = 1/(1 + e^-z). The weights lie
    in w as W2, W3, W4, b2, b3, b4, matrices row by row. ``gradient`` is the mean over its rows, so that
    a step with one row at random and lr 0.05 is the paper's. The listing in the paper sums |y - F|^2
    where the paper's formula has a mean of halves: figures taken from it are 20 times as large.

    In Python's own floats: for 23 of them NumPy's arrays cost more than they save.

    Source:
        Higham and Higham, Deep learning: an introduction for applied mathematicians (2018).

    Example:
        >>> import numpy as np, samestep as ss
        >>> problem, w = ss.problems.Higham(), np.zeros(23)
        >>> problem.loss(w)  # every output is 1/2
        0.25
        >>> problem.gradient(w, rows=np.array([0]))[-2:]
        array([-0.125,  0.125])
    """

    size = len(X)
    dimension = 23

    def loss(self, w: Floats) -> float:
        """Cost(w) over the ten points; w has shape (23,), float64."""
        misses = zip(chain.from_iterable(self._outputs(w)), chain.from_iterable(Y), strict=True)
        return sum((a - t) ** 2 for a, t in misses) / (2 * self.size)

    def correct(self, w: Floats) -> int:
        """How many of the ten points lie on the right side: the larger output is that of their class."""
        return sum((F[0] > F[1]) == (y[0] > y[1]) for F, y in zip(self._outputs(w), Y, strict=True))

    def gradient(self, w: Floats, rows: Integers | None = None) -> Float64s:
        """The mean over the rows of the gradient of (1/2) |y_i - F(x_i)|^2, by backpropagation.

        Args:
            w: the weights, shape (23,), float64.
            rows: indices 0..9, shape (m,), m >= 1; None: all ten.

        Raises:
            TypeError, ValueError: another dtype or shape, or no rows.
            IndexError: a point that there is not.
        """
        self._check_weights(w)
        points = range(self.size) if rows is None else own_rows(rows, self.size).tolist()
        layers = _unpack(w)
        gradients = [_backpropagate(layers, X[i], Y[i]) for i in points]
        return np.array(gradients[0]) if len(gradients) == 1 else np.mean(gradients, axis=0)

    def _outputs(self, w: Floats) -> list[list[float]]:
        self._check_weights(w)
        W2, W3, W4, b2, b3, b4 = _unpack(w)
        return [_layer(W4, b4, _layer(W3, b3, _layer(W2, b2, x))) for x in X]


def _unpack(w: Floats) -> tuple[Matrix, Matrix, Matrix, list[float], list[float], list[float]]:
    p: list[float] = w.tolist()
    W2, W3, W4 = (p[0:2], p[2:4]), (p[4:6], p[6:8], p[8:10]), (p[10:13], p[13:16])
    return W2, W3, W4, p[16:18], p[18:21], p[21:23]


def _layer(W: Matrix, b: Sequence[float], a: Sequence[float]) -> list[float]:
    """s(W a + b), by s(z) = (1 + tanh(z/2))/2, which no z overflows."""
    return [0.5 * (1.0 + tanh(0.5 * (sum(map(mul, row, a)) + c))) for row, c in zip(W, b, strict=True)]


def _columns(W: Matrix) -> Matrix:
    return list(zip(*W, strict=True))


def _backpropagate(
    layers: tuple[Matrix, Matrix, Matrix, list[float], list[float], list[float]],
    x: Sequence[float],
    y: Sequence[float],
) -> list[float]:
    W2, W3, W4, b2, b3, b4 = layers
    a2 = _layer(W2, b2, x)
    a3 = _layer(W3, b3, a2)
    a4 = _layer(W4, b4, a3)
    # d4 = a4 (1 - a4) (a4 - y);  d3 = a3 (1 - a3) (W4'd4);  d2 = a2 (1 - a2) (W3'd3)
    d4 = [a * (1.0 - a) * (a - t) for a, t in zip(a4, y, strict=True)]
    d3 = [a * (1.0 - a) * sum(map(mul, d4, column)) for a, column in zip(a3, _columns(W4), strict=True)]
    d2 = [a * (1.0 - a) * sum(map(mul, d3, column)) for a, column in zip(a2, _columns(W3), strict=True)]
    # dC/dW = d a' of the layer before, dC/db = d
    outer = ([d * a for d in ds for a in before] for ds, before in ((d2, x), (d3, a2), (d4, a3)))
    return [*chain.from_iterable(outer), *d2, *d3, *d4]
