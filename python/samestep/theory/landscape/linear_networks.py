"""Two linear layers: not convex, many saddles, and yet every minimum is global.

L(W1, W2) = |W2 W1 - T|^2 / 2 with the squared Frobenius norm. The critical points choose a set of modes
of T, its singular directions, to fit; all but the one that fits every mode are saddles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from ...optimizer import Optimizer
from ...optimizers import SGD
from ...problems import Float64s


class DeepLinear:
    """L over the pairs W = (W1, W2) of a diagonal target T = diag(strengths), as wide as it is large.

    ``W`` has shape (..., 2, n, n): leading axes are networks side by side.

    Args:
        strengths: the diagonal of T, positive and finite, each once.

    Raises:
        ValueError: other strengths; of the methods: W of another shape.

    Source:
        Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear
        neural networks (2014); Kawaguchi, Deep learning without poor local minima (2016).

    Example:
        >>> import samestep as ss
        >>> network = ss.theory.landscape.DeepLinear([3.0, 2.0, 1.0])
        >>> saddle = network.critical_point([0])
        >>> float(network.loss(saddle)), network.hessian_eigenvalues(saddle).round(6)[:4].tolist()
        (2.5, [-2.0, -2.0, -1.0, -1.0])
    """

    def __init__(self, strengths: Iterable[float]) -> None:
        self.strengths = tuple(float(s) for s in strengths)
        good = [0.0 < s < float("inf") for s in self.strengths]
        if not good or not all(good) or len(set(self.strengths)) < len(self.strengths):
            raise ValueError(f"strengths: got {self.strengths}, expected different positive finite numbers")
        self.n = len(self.strengths)
        self.target: Float64s = np.diag(self.strengths)

    def loss(self, W: Float64s) -> Float64s:
        """L of each network."""
        W1, W2 = self._layers(W)
        loss: Float64s = np.sum((W2 @ W1 - self.target) ** 2, axis=(-2, -1)) / 2.0
        return loss

    def gradient(self, W: Float64s) -> Float64s:
        """(W2'R, R W1') with R = W2 W1 - T: the shape of W."""
        W1, W2 = self._layers(W)
        R = W2 @ W1 - self.target
        return np.stack([_transposed(W2) @ R, R @ _transposed(W1)], axis=-3)

    def critical_point(self, modes: Iterable[int]) -> Float64s:
        """W1 = W2 = diag(sqrt s_i) over the modes to fit, 0 elsewhere; L = half the squares of the rest.

        Args:
            modes: indices of strengths.

        Raises:
            IndexError: a mode that there is not.
        """
        fitted = np.zeros(self.n)
        for mode in modes:
            fitted[mode] = self.strengths[mode] ** 0.5
        return np.stack([np.diag(fitted)] * 2)

    def hessian_eigenvalues(self, W: Float64s) -> Float64s:
        """All 2n^2 eigenvalues of the Hessian at one network, increasing.

        Of its rows: along D = (D1, D2) the gradient changes by (D2'R + W2'dR, R D1' + dR W1') with
        dR = D2 W1 + W2 D1.
        """
        directions = np.eye(2 * self.n**2).reshape(-1, 2, self.n, self.n)
        W1, W2 = self._layers(W)
        D1, D2 = directions[:, 0], directions[:, 1]
        R, dR = W2 @ W1 - self.target, D2 @ W1 + W2 @ D1
        rows = np.stack([_transposed(D2) @ R + W2.T @ dR, R @ _transposed(D1) + dR @ W1.T], axis=1)
        eigenvalues: Float64s = np.linalg.eigvalsh(rows.reshape(len(directions), -1).astype(np.float64))
        return eigenvalues

    def imbalance(self, W: Float64s) -> Float64s:
        """W2'W2 - W1 W1', which gradient flow conserves and steps change by O(lr): shape (..., n, n)."""
        W1, W2 = self._layers(W)
        difference: Float64s = _transposed(W2) @ W2 - W1 @ _transposed(W1)
        return difference

    def _layers(self, W: Float64s) -> tuple[Float64s, Float64s]:
        if W.shape[-3:] != (2, self.n, self.n):
            raise ValueError(f"W: got shape {W.shape}, expected (..., 2, {self.n}, {self.n})")
        return W[..., 0, :, :], W[..., 1, :, :]


def deep_linear(
    network: DeepLinear,
    W: Float64s,
    lr: float,
    steps: int,
    optimizer: Callable[[Float64s], Optimizer] | None = None,
) -> Float64s:
    """Gradient descent from W: the networks after so many steps, a new array.

    Args:
        network: whose loss.
        W: the start, shape (..., 2, n, n), float64.
        lr: step size.
        steps: how many.
        optimizer: makes the optimizer of the copy of W; None: SGD with lr.

    Raises:
        ValueError: W of another shape.

    Example:
        >>> import numpy as np, samestep as ss
        >>> network = ss.theory.landscape.DeepLinear([2.0])
        >>> W = ss.theory.landscape.deep_linear(network, np.full((2, 1, 1), 0.1), lr=0.05, steps=500)
        >>> W.ravel().round(6).tolist()
        [1.414214, 1.414214]
    """
    W = np.array(W, order="C")
    opt = SGD(W, lr=lr) if optimizer is None else optimizer(W)
    for _ in range(steps):
        opt.step(network.gradient(W))
    return W


def mode_strength(t: npt.ArrayLike, strength: float, start: float) -> Float64s:
    """a(t) = s e^(2st) / (e^(2st) - 1 + s/a0): how a mode is learned, a sigmoid in time.

    The solution of a' = 2a (s - a), for balanced layers along gradient flow; t = lr times steps.

    Args:
        t: times, 0 or more.
        strength: s, what there is to learn.
        start: a0, positive.

    Raises:
        ValueError: a strength or start that is not positive.

    Source:
        Saxe, McClelland and Ganguli (2014).

    Example:
        >>> import samestep as ss
        >>> ss.theory.landscape.mode_strength([0.0, 100.0], 3.0, 0.001).round(6).tolist()
        [0.001, 3.0]
    """
    if not (strength > 0 and start > 0):
        raise ValueError(f"strength, start: got {strength}, {start}, expected positive numbers")
    decay = np.exp(-2.0 * strength * np.asarray(t, dtype=np.float64))
    a: Float64s = strength / (1.0 + (strength / start - 1.0) * decay)
    return a


def _transposed(A: Float64s) -> Float64s:
    return A.swapaxes(-2, -1)
