"""Which basin noise prefers: stochastic gradient descent between a sharp and a wide well.

Small steps with noise of variance s^2/B follow dw = -V' dt + sqrt(lr/B) s dW, whose stationary density
is exp(-V/T), T = lr s^2/(2B). The notes call lr/B the width of the minimum that is found; it is
a temperature, at which width is traded for depth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..optim.optimizer import Optimizer
from ..optim.optimizers import SGD
from ..optional import require
from ..problems import Float64s, Floats
from .checks import as_number, check_momentum, check_not_negative, check_number, check_positive


class Well(NamedTuple):
    """The parabola floor + curvature/2 (w - center)^2."""

    center: float
    curvature: float
    floor: float = 0.0


SHARP, WIDE = Well(-0.5, 8.0), Well(1.0, 1.0, 0.15)


class DoubleWell:
    """V(w) = -s log(e^(-q_sharp(w)/s) + e^(-q_wide(w)/s)): the lower of two parabolas, its kink rounded.

    Args:
        sharp: the parabola on the left.
        wide: the one on the right.
        softness: s, over which height they merge.

    Attributes:
        sharp, wide, softness: as given.

    Raises:
        ValueError: the wells stand in the other order, a curvature or s is not positive and finite, or one
            well lies inside the other.

    Example:
        >>> import samestep as ss
        >>> well = ss.theory.DoubleWell()
        >>> round(well.barrier, 4), round(well.boltzmann(0.16), 4)
        (-0.0606, 0.5247)
    """

    def __init__(
        self,
        sharp: Well = SHARP,
        wide: Well = WIDE,
        softness: float = 0.05,
    ) -> None:
        if not sharp.center < wide.center:
            raise ValueError(f"sharp, wide: got centers {sharp.center}, {wide.center}, expected sharp < wide")
        check_positive(softness=softness)
        for name, well in (("sharp", sharp), ("wide", wide)):
            check_positive(**{f"{name}.curvature": well.curvature})
        self.sharp = sharp
        self.wide = wide
        self.softness = softness
        for name, well in (("sharp", sharp), ("wide", wide)):
            if not well.floor <= min(self._heights(well.center)):
                raise ValueError(f"{name}: got {well}, which lies inside the other: there is no second well")

    def _heights(self, w: Any) -> tuple[Any, Any]:
        return tuple(q.floor + q.curvature / 2 * (w - q.center) ** 2 for q in (self.sharp, self.wide))

    def value(self, w: Any) -> Any:
        """V at each element of w."""
        q_sharp, q_wide = self._heights(w)
        return -self.softness * np.logaddexp(-q_sharp / self.softness, -q_wide / self.softness)

    def gradient(self, w: Any) -> Any:
        """V' at each element of w: the parabolas' slopes, weighted by exp(-q/s)."""
        q_sharp, q_wide = self._heights(w)
        # exp(-q_sharp/s) / (exp(-q_sharp/s) + exp(-q_wide/s)), without overflow
        share = 0.5 * (1.0 + np.tanh((q_wide - q_sharp) / (2.0 * self.softness)))
        up_sharp = self.sharp.curvature * (w - self.sharp.center)
        up_wide = self.wide.curvature * (w - self.wide.center)
        return share * up_sharp + (1.0 - share) * up_wide

    @cached_property
    def barrier(self) -> float:
        """Where V is highest between the two centers."""
        optimize = require("scipy.optimize", "the barrier of a double well")
        found = optimize.minimize_scalar(
            lambda w: -self.value(w),
            bounds=(self.sharp.center, self.wide.center),
            method="bounded",
            options={"xatol": 1e-10},
        )
        return float(found.x)

    def boltzmann(self, temperature: Any) -> Any:
        """The share of exp(-V/temperature) beyond the barrier, on the wide side; of each of an array.

        For equal floors and low temperatures 1/(1 + sqrt(h_wide/h_sharp)), whatever the temperature.

        Raises:
            ValueError: a temperature that is not positive and finite.
        """
        check_positive(temperature=temperature)
        if np.ndim(temperature) > 0:
            shares = [self.boltzmann(one) for one in np.ravel(temperature)]
            return np.reshape(shares, np.shape(temperature))
        integrate = require("scipy.integrate", "the Boltzmann share of a basin")
        lowest = min(self.sharp.floor, self.wide.floor)

        def mass(a: float, b: float) -> float:
            centers = (self.sharp.center, self.wide.center)
            inside = [c for c in centers if a < c < b]
            whole: float = integrate.quad(
                lambda w: np.exp((lowest - self.value(w)) / temperature), a, b, points=inside, limit=200
            )[0]
            return whole

        # 12 standard deviations: the rest is below 1e-30.
        left = self.sharp.center - 12.0 * (temperature / self.sharp.curvature) ** 0.5
        right = self.wide.center + 12.0 * (temperature / self.wide.curvature) ** 0.5
        sharp, wide = mass(left, self.barrier), mass(self.barrier, right)
        return wide / (sharp + wide)


def double_well(
    lr: float,
    batch_size: float,
    *,
    well: DoubleWell | None = None,
    noise: float = 4.0,
    particles: int = 2000,
    time: float = 120.0,
    seed: int = 0,
    optimizer: Callable[[Float64s], Optimizer] | None = None,
) -> float:
    """The share of particles in the wide basin after SGD from the bottom of the sharp one.

    Every step's gradient is V' plus noise/sqrt(batch_size) times a standard normal number. At equal
    lr/batch_size the share is the same, as long as lr times the sharp curvature stays well below 1.

    Args:
        lr: step size.
        batch_size: B.
        well: the landscape; None: DoubleWell().
        noise: the standard deviation of one example's gradient.
        particles: how many runs, side by side.
        time: lr times the number of steps.
        seed: of NumPy's RandomState, whose stream is frozen.
        optimizer: a function that returns the optimizer of the particles; None: SGD with lr.

    Returns:
        The share, a number in [0, 1].

    Raises:
        ValueError: lr, batch_size, particles or time not positive, noise negative, or one of them infinite.

    Source:
        Jastrzebski et al., Three factors influencing minima in SGD (2017).

    Example:
        >>> import samestep as ss
        >>> ss.theory.double_well(0.02, 1, time=20.0) > 0.2, ss.theory.double_well(0.02, 16, time=20.0)
        (True, 0.0)
    """
    check_positive(lr=lr, batch_size=batch_size, particles=particles, time=time)
    check_not_negative(noise=noise)
    well = DoubleWell() if well is None else well
    random = np.random.RandomState(seed)
    w = np.full(particles, well.sharp.center)
    opt = SGD(w, lr=lr) if optimizer is None else optimizer(w)
    scale = noise / batch_size**0.5
    for _ in range(round(time / lr)):
        opt.step(well.gradient(w) + scale * random.standard_normal(particles))
    return float(np.mean(w > well.barrier))


def stationary_variance(
    lr: Any, batch_size: Any, curvature: Any, noise_variance: Any, momentum: Any = 0.0
) -> Any:
    """Of w under SGD on h w^2/2: lr s^2 (1 + a) / (B h (1 - a) (2 (1 + a) - lr h)).

    Args:
        lr: step size.
        batch_size: B.
        curvature: h.
        noise_variance: s^2, of one example's gradient.
        momentum: a of the heavy ball; 0 for plain SGD.

    Each is a number or an array.

    Returns:
        The variance in the long run; infinity at and beyond the edge lr h = 2 (1 + a).

    Raises:
        ValueError: lr, batch_size or curvature not positive, a negative noise_variance, or momentum
            outside [0, 1).

    Example:
        >>> import samestep as ss
        >>> round(ss.theory.stationary_variance(0.05, 1, 2.0, 2.0), 7)
        0.0263158
    """
    check_positive(lr=lr, batch_size=batch_size, curvature=curvature)
    check_not_negative(noise_variance=noise_variance)
    check_momentum(momentum)
    lr, batch_size, curvature, noise_variance, momentum = map(
        as_number, (lr, batch_size, curvature, noise_variance, momentum)
    )
    room = 2.0 * (1.0 + momentum) - lr * curvature
    room = np.where(room > 0, room, np.nan)
    variance = lr * noise_variance * (1.0 + momentum) / (batch_size * curvature * (1.0 - momentum) * room)
    variance = np.where(np.isnan(room), np.inf, variance)
    return variance.item() if variance.ndim == 0 else variance


def batch_gradient_variance(gradients: Floats, m: Any, replacement: bool = True) -> Any:
    """E|g_m - g|^2 = tr(S)/m for a batch of m draws; without replacement times (N - m)/(N - 1).

    g_m is the mean over the batch, g that over all N, S = (1/N) sum_i (g_i - g)(g_i - g)' the covariance
    of the rows' gradients. minimize(sampling="with_replacement") draws with, every batch of "shuffle"
    without replacement.

    Args:
        gradients: g_i, one a row: shape (N, p). Of a problem ``np.stack([problem.gradient(w, np.array([i]))
            for i in range(problem.size)])``; with the scales ``half_sum`` and ``sum`` of problems.MSE, whose
            batches are sums, the variance of a batch's gradient is m^2 times as large.
        m: rows a batch, a whole number from 1 on or an array of them; without replacement at most N.
        replacement: whether a row may be drawn twice.

    Returns:
        The variance, a float, or an array of m's shape.

    Raises:
        TypeError, ValueError: gradients of another shape or not finite, an m out of range.

    Source:
        The slides' two ways to draw; Cochran, Sampling Techniques (1977), for the factor (recalled).

    Example:
        >>> import numpy as np, samestep as ss
        >>> rows = np.array([[0.0], [2.0], [4.0]])  # S = 8/3
        >>> [round(ss.theory.batch_gradient_variance(rows, 2, again), 6) for again in (True, False)]
        [1.333333, 0.666667]
    """
    rows = np.asarray(gradients, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(
            f"gradients: got shape {rows.shape}, expected (N, p), the gradient of an example a row"
        )
    if not np.isfinite(rows).all():
        raise ValueError("gradients: got NaN or infinity, expected finite numbers")
    check_number("m", m, "a whole number")
    draws, N = np.asarray(m), len(rows)
    most = np.inf if replacement else N
    good = (draws >= 1) & (draws <= most) & (draws == np.floor(draws)) & (draws < np.inf)
    if not good.all():
        limit = "" if replacement else f" to {N}, the rows there are"
        raise ValueError(f"m: got {draws[~good].flat[0]}, expected a whole number, 1{limit or ' or more'}")
    trace = float(((rows - rows.mean(axis=0)) ** 2).sum()) / N
    variance = trace / draws
    if not replacement:
        variance = variance * ((N - draws) / max(N - 1, 1))
    return variance.item() if draws.ndim == 0 else variance
