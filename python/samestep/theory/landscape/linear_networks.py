"""Two linear layers: not convex, many saddles, and yet every minimum is global.

L(W1, W2) = |W2 W1 - T|^2 / 2 with the squared Frobenius norm. The critical points choose a set of modes
of T, its singular directions, to fit; all but the one that fits every mode are saddles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arguments import whole_number
from ...optim.optimizer import Optimizer
from ...optim.optimizers import SGD
from ...problems import Float64s
from ..checks import as_number


class DeepLinear:
    """L = |W2 W1 - T|^2 / 2 over pairs of layers W = (W1, W2), fitted to the target T.

    Args:
        strengths: the diagonal of a square T, positive and finite, each once; or T itself, a matrix of
            shape (outputs, inputs), whose singular values but 0 are each there once.
        hidden: the width of the layer between, 1 or more; None: as many as the inputs.

    Attributes:
        target: T.
        strengths: its singular values but 0, in the order given or falling.
        n: the inputs.
        hidden: as given.

    ``W`` holds networks side by side along its leading axes. Where inputs, hidden and outputs are all n, it
    has shape (..., 2, n, n); else (..., hidden (inputs + outputs)), W1 and then W2, row by row: ``join``
    packs two matrices into it and ``layers`` returns them.

    Raises:
        TypeError, ValueError: other strengths or hidden; of the methods: W of another shape.

    Source:
        Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear
        neural networks (2014); Kawaguchi, Deep learning without poor local minima (2016).

    Example:
        >>> import numpy as np, samestep as ss
        >>> network = ss.theory.landscape.DeepLinear([3.0, 2.0, 1.0])
        >>> saddle = network.critical_point([0])
        >>> float(network.loss(saddle)), network.hessian_eigenvalues(saddle).round(6)[:4].tolist()
        (2.5, [-2.0, -2.0, -1.0, -1.0])
        >>> narrow = ss.theory.landscape.DeepLinear(np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), hidden=1)
        >>> float(narrow.loss(narrow.critical_point([0])))
        2.0
    """

    def __init__(self, strengths: npt.ArrayLike | Iterable[float], hidden: int | None = None) -> None:
        given: Float64s = np.array(
            strengths if isinstance(strengths, np.ndarray) else list(strengths),  # type: ignore[arg-type]
            dtype=np.float64,
        )
        if given.ndim == 2:
            self._check_target(given)
            U, sigma, Vt = np.linalg.svd(given, full_matrices=False)
            kept = sigma > max(given.shape) * np.finfo(np.float64).eps * sigma[0]
            self.strengths = tuple(sigma[kept].tolist())
            if len(self.strengths) > 1 and np.diff(sigma[kept]).max() > -1e-9 * sigma[0]:
                raise ValueError(
                    f"strengths: got a matrix of singular values {self.strengths}, expected different ones"
                )
            self.target, self._left, self._right = given, U[:, kept], Vt[kept]
        else:
            self.strengths = tuple(given.tolist()) if given.ndim == 1 else ()
            good = [0.0 < s < float("inf") for s in self.strengths]
            if not good or not all(good) or len(set(self.strengths)) < len(self.strengths):
                raise ValueError(
                    f"strengths: got {self.strengths}, expected different positive finite numbers"
                )
            self.target = np.diag(self.strengths)
            self._left = self._right = np.eye(len(self.strengths))
        self.n = self.target.shape[1]
        self.hidden = self.n if hidden is None else whole_number("hidden", hidden, at_least=1)
        self._stacked = self.target.shape == (self.hidden, self.hidden)

    @staticmethod
    def _check_target(T: Float64s) -> None:
        if 0 in T.shape or not np.isfinite(T).all() or not T.any():
            raise ValueError(
                f"strengths: got the matrix {T.tolist()}, expected finite numbers, not all of them 0"
            )

    def layers(self, W: Float64s) -> tuple[Float64s, Float64s]:
        """W1, shape (..., hidden, inputs), and W2, shape (..., outputs, hidden): views of W."""
        outputs, inputs = self.target.shape
        first, whole = self.hidden * inputs, self.hidden * (inputs + outputs)
        if self._stacked:
            if W.shape[-3:] != (2, self.n, self.n):
                raise ValueError(f"W: got shape {W.shape}, expected (..., 2, {self.n}, {self.n})")
            return W[..., 0, :, :], W[..., 1, :, :]
        if W.shape[-1:] != (whole,):
            raise ValueError(
                f"W: got shape {W.shape}, expected (..., {whole}): W1, {self.hidden} x {inputs}, and then "
                f"W2, {outputs} x {self.hidden}, by join(W1, W2)"
            )
        W1 = W[..., :first].reshape(*W.shape[:-1], self.hidden, inputs)
        return W1, W[..., first:].reshape(*W.shape[:-1], outputs, self.hidden)

    def join(self, W1: Float64s, W2: Float64s) -> Float64s:
        """W of its two layers, a new array."""
        outputs, inputs = self.target.shape
        for name, layer, shape in (("W1", W1, (self.hidden, inputs)), ("W2", W2, (outputs, self.hidden))):
            if layer.shape[-2:] != shape:
                raise ValueError(f"{name}: got shape {layer.shape}, expected (..., {shape[0]}, {shape[1]})")
        if self._stacked:
            return np.stack([W1, W2], axis=-3)
        flat = [layer.reshape(*layer.shape[:-2], -1) for layer in (W1, W2)]
        return np.concatenate(flat, axis=-1)

    def loss(self, W: Float64s) -> Float64s:
        """L of each network."""
        W1, W2 = self.layers(W)
        loss: Float64s = np.sum((W2 @ W1 - self.target) ** 2, axis=(-2, -1)) / 2.0
        return loss

    def gradient(self, W: Float64s) -> Float64s:
        """(W2'R, R W1') with R = W2 W1 - T: the shape of W."""
        W1, W2 = self.layers(W)
        R = W2 @ W1 - self.target
        return self.join(_transposed(W2) @ R, R @ _transposed(W1))

    def critical_point(self, modes: Iterable[int]) -> Float64s:
        """The fit of some modes, sqrt s_i to and from a hidden unit; L = half the squares of the rest.

        Args:
            modes: indices of strengths, at most as many as there are hidden units.

        Raises:
            IndexError: a mode that there is not.
            ValueError: more modes than hidden units.
        """
        count = len(self.strengths)
        chosen = sorted({range(count)[mode] for mode in modes})
        if len(chosen) > self.hidden:
            raise ValueError(f"modes: got {len(chosen)}, expected at most the {self.hidden} hidden units")
        # Unit i is that of mode i, where there are enough of them.
        units = chosen if self.hidden >= count else range(len(chosen))
        outputs, inputs = self.target.shape
        W1, W2 = np.zeros((self.hidden, inputs)), np.zeros((outputs, self.hidden))
        for unit, mode in zip(units, chosen, strict=True):
            root = self.strengths[mode] ** 0.5
            W1[unit], W2[:, unit] = root * self._right[mode], root * self._left[:, mode]
        return self.join(W1, W2)

    def hessian_eigenvalues(self, W: Float64s) -> Float64s:
        """All eigenvalues of the Hessian of each network, increasing: hidden (inputs + outputs) of them.

        Of its rows: along D = (D1, D2) the gradient changes by (D2'R + W2'dR, R D1' + dR W1') with
        dR = D2 W1 + W2 D1.
        """
        W1, W2 = self.layers(W)
        if W1.ndim > 2:
            return np.stack([self.hessian_eigenvalues(one) for one in W])
        directions = np.eye(W1.size + W2.size).reshape(-1, *W.shape[-3 if self._stacked else -1 :])
        D1, D2 = self.layers(directions)
        R, dR = W2 @ W1 - self.target, D2 @ W1 + W2 @ D1
        rows = self.join(_transposed(D2) @ R + W2.T @ dR, R @ _transposed(D1) + dR @ W1.T)
        eigenvalues: Float64s = np.linalg.eigvalsh(rows.reshape(len(directions), -1).astype(np.float64))
        return eigenvalues

    def imbalance(self, W: Float64s) -> Float64s:
        """W2'W2 - W1 W1', which gradient flow conserves and steps change by O(lr): (..., hidden, hidden)."""
        W1, W2 = self.layers(W)
        difference: Float64s = _transposed(W2) @ W2 - W1 @ _transposed(W1)
        return difference


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
        W: the start, as DeepLinear describes it, float64.
        lr: step size.
        steps: how many.
        optimizer: a function that returns the optimizer of the copy of W; None: SGD with lr.

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


def mode_strength(t: npt.ArrayLike, strength: Any, start: Any) -> Float64s:
    """a(t) = s e^(2st) / (e^(2st) - 1 + s/a0): how a mode is learned, a sigmoid in time.

    The solution of a' = 2a (s - a), for balanced layers along gradient flow; t = lr times steps.

    Args:
        t: times, 0 or more.
        strength: s, what there is to learn.
        start: a0, positive.

    Numbers or arrays, which broadcast.

    Raises:
        ValueError: a strength or start that is not positive.

    Source:
        Saxe, McClelland and Ganguli (2014).

    Example:
        >>> import samestep as ss
        >>> ss.theory.landscape.mode_strength([0.0, 100.0], 3.0, 0.001).round(6).tolist()
        [0.001, 3.0]
    """
    strength, start = as_number(strength), as_number(start)
    if not (np.all(strength > 0) and np.all(start > 0)):
        raise ValueError(f"strength, start: got {strength}, {start}, expected positive numbers")
    decay = np.exp(-2.0 * strength * np.asarray(t, dtype=np.float64))
    a: Float64s = strength / (1.0 + (strength / start - 1.0) * decay)
    return a


def _transposed(A: Float64s) -> Float64s:
    return A.swapaxes(-2, -1)
