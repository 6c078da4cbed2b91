"""The spherical p-spin glass: a random landscape whose critical points can be counted by energy.

H(x) = N^(-(p-1)/2) sum J_ij... x_i x_j ... (p of each) on the sphere |x|^2 = N, J symmetric over standard
normal numbers; E = H/N. At a critical point grad H = pE x, and the Hessian on the sphere is a GOE matrix
shifted by -pE: the fraction of negative eigenvalues is F(E/E_inf), E_inf = 2 sqrt((p-1)/p). Loss functions
of networks are compared with it, mostly for p = 3, which is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from ...arguments import whole_number
from ...optim.optimizer import Optimizer
from ...optim.optimizers import SGD
from ...problems import Float64s
from ..checks import as_number, check_number
from .hessians import semicircle_fraction

THRESHOLD = 2.0 * math.sqrt(2.0 / 3.0)  # E_inf for p = 3
SAME = 1e-7  # energies nearer than this are those of one point


@dataclass(frozen=True, eq=False)
class CriticalPoints:
    """Critical points by increasing energy.

    Attributes:
        energy: E of each.
        index: the fraction of negative eigenvalues of the Hessian there: 0 at a minimum.
    """

    energy: Float64s
    index: Float64s


class SpinGlass:
    """One landscape.

    Args:
        n: N, the number of spins, 2 or more.
        seed: of NumPy's RandomState, whose stream is frozen; the couplings come first, then the starts.
        p: how many spins interact, 2 or more; there are N^p couplings.

    Raises:
        ValueError: n or p below 2; of the methods: x of another shape than (rows, N).

    Source:
        Auffinger, Ben Arous and Cerny, Random matrices and complexity of spin glasses (2013);
        Choromanska et al., The loss surfaces of multilayer networks (2015).

    Example:
        >>> import samestep as ss
        >>> glass = ss.theory.landscape.SpinGlass(6)
        >>> x = glass.starts(1)
        >>> H = 6 * glass.energy(x)
        >>> bool(abs(3 * H - (glass.gradient(x) * x).sum(axis=1)) < 1e-12)  # Euler, degree 3
        True
    """

    def __init__(self, n: int, seed: int = 0, p: int = 3) -> None:
        n = whole_number("n", n, at_least=2)
        p = whole_number("p", p, at_least=2)
        self.n, self.p = n, p
        self._norm: float = float(n) ** ((p - 1) / 2)
        self._random = np.random.RandomState(seed)
        J = self._random.standard_normal((n,) * p)
        total = np.zeros_like(J)
        for axes in permutations(range(p)):
            total += J.transpose(axes)
        self.J: Float64s = total / math.factorial(p)

    def starts(self, count: int) -> Float64s:
        """So many random points of the sphere, one a row: the next of the stream."""
        x = self._random.standard_normal((count, self.n))
        return self.on_sphere(x)

    def on_sphere(self, x: Float64s) -> Float64s:
        """Each row scaled to |x|^2 = N."""
        scaled: Float64s = x * (math.sqrt(self.n) / np.linalg.norm(x, axis=1, keepdims=True))
        return scaled

    def energy(self, x: Float64s) -> Float64s:
        """E = H/N of each row."""
        energy: Float64s = np.einsum("sij,si,sj->s", self._along(x), x, x) / (self.n * self._norm)
        return energy

    def gradient(self, x: Float64s) -> Float64s:
        """grad H = p N^(-(p-1)/2) J x ... x of each row, off the sphere as well."""
        gradient: Float64s = self.p / self._norm * np.einsum("sij,sj->si", self._along(x), x)
        return gradient

    def hessian(self, x: Float64s) -> Float64s:
        """p(p-1) N^(-(p-1)/2) J x ... of each row: shape (rows, N, N), without the sphere's multiplier."""
        return self.p * (self.p - 1) / self._norm * self._along(x)

    def index(self, x: Float64s) -> Float64s:
        """The fraction of negative eigenvalues of the Hessian on the sphere, at critical points x."""
        multiplier = self.p * self.energy(x)
        fractions = []
        for point, H, shift in zip(x, self.hessian(x), multiplier, strict=True):
            # An orthonormal basis whose first vector is x: the others span the tangent space.
            tangent = np.linalg.qr(point[:, None], mode="complete")[0][:, 1:]
            eigenvalues = np.linalg.eigvalsh(tangent.T @ H @ tangent) - shift
            fractions.append(np.mean(eigenvalues < 0))
        return np.array(fractions)

    def _along(self, x: Float64s) -> Float64s:
        """J x ... of each row, until two indices are left: shape (rows, N, N)."""
        if x.ndim != 2 or x.shape[1] != self.n:
            raise ValueError(f"x: got shape {x.shape}, expected (rows, {self.n})")
        if self.p == 2:
            return np.tile(self.J, (len(x), 1, 1))
        along: Float64s = (x @ self.J.reshape(self.n, -1)).reshape(len(x), *self.J.shape[1:])
        while along.ndim > 3:
            along = np.einsum("si,si...->s...", x, along)
        return along


def pspin_index(energy: Any, p: int = 3) -> Any:
    """F(E/E_inf): the fraction of negative eigenvalues at energy E, in the limit of large N.

    Args:
        energy: E, a number or an array.
        p: of the SpinGlass.

    Returns:
        The fraction, a float or an array of the energies' shape.

    Raises:
        TypeError, ValueError: energies that are no numbers, p below 2.

    Source:
        Auffinger, Ben Arous and Cerny (2013).

    Example:
        >>> import samestep as ss
        >>> round(ss.theory.landscape.pspin_index(-0.8), 3)
        0.201
    """
    p = whole_number("p", p, at_least=2)
    check_number("energy", energy)
    return semicircle_fraction(as_number(energy) / (2.0 * math.sqrt((p - 1) / p)))


def pspin_critical_points(
    n: int = 12, seed: int = 0, starts: int = 300, steps: int = 60, p: int = 3
) -> CriticalPoints:
    """The critical points that Newton's method finds from random starts: of every index, mostly saddles.

    Newton on (x, m) for grad H(x) = m x, |x|^2 = N; a step is cut to 0.7 sqrt N.

    Args:
        n, seed: of the SpinGlass.
        starts: how many.
        steps: Newton steps of each.
        p: of the SpinGlass; with 2 of them the points are few, the eigenvectors of J.

    Returns:
        Those with a residual below 1e-8, each energy once.

    Example:
        >>> import samestep as ss
        >>> found = ss.theory.landscape.pspin_critical_points(n=6, starts=40)
        >>> len(found.energy) > 10, bool((found.energy[1:] > found.energy[:-1]).all())
        (True, True)
    """
    glass = SpinGlass(n, seed, p)
    x = glass.starts(starts)
    m = p * glass.energy(x)
    longest = 0.7 * math.sqrt(n)
    for _ in range(steps):
        # [hess - m I, -x; -x', 0] (dx, dm) = -(grad - m x, (N - |x|^2)/2)
        A = np.zeros((starts, n + 1, n + 1))
        A[:, :n, :n] = glass.hessian(x) - m[:, None, None] * np.eye(n)
        A[:, :n, n] = A[:, n, :n] = -x
        step = np.linalg.solve(A, -_residual(glass, x, m)[..., None])[..., 0]
        length = np.linalg.norm(step[:, :n], axis=1)
        step *= np.minimum(1.0, longest / np.maximum(length, longest))[:, None]
        x, m = x + step[:, :n], m + step[:, n]
    x = x[np.linalg.norm(_residual(glass, x, m), axis=1) < 1e-8]
    energy = glass.energy(x)
    order = np.argsort(energy)
    distinct = order[np.diff(energy[order], prepend=-np.inf) > SAME]
    return CriticalPoints(energy[distinct], glass.index(x[distinct]))


def _residual(glass: SpinGlass, x: Float64s, m: Float64s) -> Float64s:
    """(grad H - m x, (N - |x|^2)/2), zero at a critical point of the sphere."""
    constraint = (glass.n - (x * x).sum(axis=1)) / 2.0
    return np.column_stack([glass.gradient(x) - m[:, None] * x, constraint])


def pspin_descent(
    n: int = 12,
    seed: int = 0,
    starts: int = 50,
    lr: float = 0.05,
    steps: int = 1500,
    optimizer: Callable[[Float64s], Optimizer] | None = None,
    p: int = 3,
) -> Float64s:
    """The energies at which gradient descent on the sphere ends: low ones, all minima.

    Args:
        n, seed: of the SpinGlass.
        starts: how many random points, side by side.
        lr: step size.
        steps: how many; after each, x is scaled back to the sphere.
        optimizer: a function that returns the optimizer of the points, shape (starts, n); None: SGD with lr.
        p: of the SpinGlass.

    Example:
        >>> import samestep as ss
        >>> bool(ss.theory.landscape.pspin_descent(n=6, starts=10, steps=500).max() < -0.5)
        True
    """
    glass = SpinGlass(n, seed, p)
    x = glass.starts(starts)
    opt = SGD(x, lr=lr) if optimizer is None else optimizer(x)
    for _ in range(steps):
        g = glass.gradient(x)
        opt.step(g - (g * x).sum(axis=1, keepdims=True) / n * x)
        x[...] = glass.on_sphere(x)
    return glass.energy(x)
