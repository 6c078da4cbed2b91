"""Problems and runs that pictures and items share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ...optim.optimizer import Optimizer
from ...problems import MSE, Float64s
from ...theory import pl_constant
from ..table import diabetes

Make = Callable[[Any], Optimizer]

LARGEST = 2**24  # elements that an intermediate matrix may have: a user's table may be long


@cache
def patients() -> MSE:
    """The diabetes problem, from w = 0: beta 4.02, kappa 470."""
    table = diabetes()
    return MSE(table.Phi, table.y)


def small() -> MSE:
    """Three rows, two weights, H = [[2, 1], [1, 2]]: its first steps are exact in binary."""
    return MSE(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([1.0, 2.0, 4.0]))


def wide() -> MSE:
    """Three rows, five weights: every y can be fitted, in many ways."""
    Phi = np.array([[1.0, 0, 2, 0, 1], [0, 1, 0, 1, 1], [1, 1, 0, 0, -1]])
    return MSE(Phi, np.array([3.0, -2.0, 1.0]))


def walk(problem: Any, make: Make, steps: int, w0: Any = None) -> Float64s:
    """The rows w_0, w_1, ... of a run, from w0 or else from 0."""
    w = np.zeros(problem.dimension) if w0 is None else np.array(w0, dtype=np.float64)
    opt = make(w)
    path = np.empty((steps + 1, len(w)))
    path[0] = w
    for t in range(1, steps + 1):
        opt.step(problem.gradient(w))
        path[t] = w
    return path


def gaps(problem: MSE, path: Any) -> Float64s:
    """L(w_t) - L* = c |Phi (w_t - w*)|^2/2 along a path: no difference of losses, so nothing cancels."""
    some = max(1, LARGEST // problem.size)
    found = []
    for first in range(0, len(path), some):
        e = (path[first : first + some] - problem.minimizer()) @ problem.Phi.T
        found.append(np.einsum("ti,ti->t", e, e))
    gap: Float64s = 0.5 * problem.c * np.concatenate(found)
    return gap


def norms(vectors: Any) -> Any:
    """The length of each row."""
    return np.linalg.norm(vectors, axis=-1)


def gradients(problem: Any, path: Float64s) -> Float64s:
    """The gradient at every point of a path."""
    return np.array([problem.gradient(w) for w in path])


class Wells:
    """L = sum w_j^2/(1 + w_j^2): smooth with beta = 2, and not convex."""

    beta = 2.0
    dimension = 3

    def loss(self, w: Any) -> float:
        """L(w)."""
        return float(np.sum(w * w / (1 + w * w)))

    def gradient(self, w: Any) -> Any:
        """2w/(1 + w^2)^2."""
        return 2 * w / (1 + w * w) ** 2


class Bent:
    """L = |F - y|^2/2, F = z + sin(z)/2, z = Phi w: over-parameterised and not convex.

    DF = diag(1 + cos(z)/2) Phi, so that 1/2 <= 1 + cos(z)/2 <= 3/2 bounds the curvature and K = DF DF'.

    Attributes:
        beta: (3/2)^2 b + sqrt(2 L_0) b/2, b = lambda_max(Phi'Phi), where L <= L_0 = L(0).
        mu: lambda_min(Phi Phi')/4, below the smallest eigenvalue of K at every w.
    """

    def __init__(self, linear: MSE) -> None:
        self.Phi, self.y, self.dimension = linear.Phi, linear.y, linear.dimension
        first = self.loss(np.zeros(self.dimension))
        self.beta = 1.5**2 * linear.beta + 0.5 * (2 * first) ** 0.5 * linear.beta
        self.mu = 0.25 * pl_constant(linear)

    def residual(self, w: Any) -> Any:
        """F - y."""
        z = self.Phi @ w
        return z + 0.5 * np.sin(z) - self.y

    def loss(self, w: Any) -> float:
        """L(w)."""
        r = self.residual(w)
        return 0.5 * float(r @ r)

    def jacobian(self, w: Any) -> Any:
        """DF."""
        return (1 + 0.5 * np.cos(self.Phi @ w))[:, None] * self.Phi

    def gradient(self, w: Any) -> Any:
        """DF'r."""
        z = self.Phi @ w
        return self.Phi.T @ ((1 + 0.5 * np.cos(z)) * self.residual(w))
