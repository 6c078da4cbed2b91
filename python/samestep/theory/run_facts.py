"""A run and its problem in the letters of the bounds: lr, a, beta, mu, D and G_t with its rounding.

Computes no bound.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np

from ..backends import in_main_memory
from ..problems import MSE, Float64s
from ..problems.mse import claimed, is_least_squares, rows_in_memory
from ..result import Result
from .bound_check import Condition
from .checks import known
from .pl import pl_constant
from .plain import plain_hyper


class RunFacts:
    """What the bounds are computed from.

    Attributes:
        lr, a: the step size and momentum of the steps, rounded to the problem's dtype.
        beta, mu, optimum, distance: the problem's, distance being D = |w_0 - w*|; None: not known.
        t: the recorded steps.
        gaps: G_t = L(w_t) - L*; the losses where L* is not known.
        rounding: by how much each gap may be off.
        gap0: G_0.
        largest: a bound above this number is beyond what the loss can be in the problem's dtype.
        curvatures, error, velocity: of least squares, along the eigenvectors of H, before the first step.
        plain, convex, at_rest, constant, finite: conditions of bounds.
    """

    def __init__(self, problem: Any, result: Result) -> None:
        self.problem, self.result = problem, result
        self.family = result.optimizer.family
        present = plain_hyper(result.optimizer)
        self.start_hyper: dict[str, float] = {name: result.start["hyper"][name] for name in present}
        # The kernels step with the hyper-parameters in the problem's dtype.
        self.hyper = {name: float(problem.dtype.type(value)) for name, value in self.start_hyper.items()}
        self.lr = self.hyper["lr"]
        self.a = self.hyper.get("momentum", 0.0)
        self.beta = known(problem, "beta")
        self.t = result.recorded
        self.unknown: dict[str, None] = {}  # a set that keeps the order in which bounds missed the numbers
        self.quadratic = is_least_squares(problem)
        self.velocity = self._start_velocity()
        if is_least_squares(problem):
            self._read_least_squares(problem)
        else:
            self._read_other_problem(problem)
        self.gap0 = float(self.gaps[0])
        if self.optimum is not None:
            self.gap0 = max(self.gap0, 0.0)
        self.finite: list[Condition] = []
        if not np.isfinite(result.losses[0]):  # every bound by G_0 would hold of any run
            self.finite = [("a finite loss at w0", False)]
        self.constant = ("constant hyper-parameters", present == self.start_hyper)
        self.plain = [("full gradients", result.batch_size is None), self.constant, *self.finite]
        self.at_rest = ("a start at rest", not self.velocity.any())
        self.convex = ("a convex loss", self.quadratic or bool(getattr(problem, "convex", None)))

    def _read_least_squares(self, problem: MSE) -> None:
        all_Phi, all_y = rows_in_memory(problem)
        self.optimum: float | None = problem.optimum
        self.mu: float | None = pl_constant(problem)
        # The rounding of residuals is relative to c |y|^2/2, the loss at w = 0; that of steps from far away
        # to the loss at w_0.
        y = all_y.astype(np.float64)
        self._read_losses(problem.c / 2.0 * float(y @ y), abs(self.result.losses[0]))
        # The sum of squares overflows before it is multiplied by c/2.
        self.largest = float(np.finfo(problem.dtype).max) * min(1.0, problem.c / 2.0)
        # Error and velocity along the eigenvectors of H. Nothing moves where the curvature is 0.
        Phi = all_Phi.astype(np.float64)
        e = in_main_memory(self.result.w0).astype(np.float64) - problem._minimizer
        sigma, V = np.linalg.svd(Phi, full_matrices=False)[1:]
        self.curvatures = problem.c * sigma * sigma
        self.curvatures[self.curvatures < self.mu * (1.0 - 1e-9)] = 0.0
        self.error, self.velocity = V @ e, V @ self.velocity
        self.distance: float | None = _length(self.error[self.curvatures > 0.0])

    def _read_other_problem(self, problem: Any) -> None:
        self.optimum = None if claimed(problem, "optimum") is None else float(problem.optimum)
        self.mu = None if claimed(problem, "mu") is None else known(problem, "mu")
        self._read_losses(0.0 if self.optimum is None else abs(self.optimum), abs(self.result.losses[0]))
        # The loss may be the mean of `size` halves, whose sum overflows 2 size times earlier.
        self.largest = float(np.finfo(problem.dtype).max) / (2.0 * problem.size)
        minimizer = claimed(problem, "minimizer")
        w_star = minimizer() if callable(minimizer) else minimizer
        self.distance = None
        if w_star is not None:
            w0 = in_main_memory(self.result.w0).astype(np.float64)
            self.distance = _length(w0 - in_main_memory(w_star))
        lowest = int(np.argmin(np.nan_to_num(self.gaps + self.rounding, nan=inf)))
        if self.optimum is not None and self.gaps[lowest] < -self.rounding[lowest]:
            raise ValueError(
                f"problem.optimum: got {self.optimum}, expected the least value of the loss, which was "
                f"{self.result.losses[lowest]} at step {self.t[lowest]}"
            )

    def _read_losses(self, *sizes: float) -> None:
        """rounding_t = eps (8 p max(L_t, sizes) + 4 t L_t), for p weights."""
        losses = np.where(np.isfinite(self.result.losses), self.result.losses, 0.0)
        size = np.maximum.reduce([np.abs(losses), *(np.full(len(losses), size) for size in sizes)])
        size = np.where(np.isfinite(size), size, 0.0)
        eps = float(np.finfo(self.problem.dtype).eps)
        self.rounding = eps * (8.0 * self.problem.dimension * size + 4.0 * self.t * np.abs(losses))
        self.gaps = self.result.losses - (0.0 if self.optimum is None else self.optimum)

    def _start_velocity(self) -> Float64s:
        """v before the first step; v = -lr b for torch's forms."""
        state = self.result.start["state"]
        if "b" in state:
            velocity: Float64s = -self.lr * np.asarray(state["b"][0], np.float64)
            return velocity
        if "v" in state and self.family in ("momentum", "nag"):
            return np.asarray(state["v"][0], np.float64)
        return np.zeros(self.problem.dimension)

    def knows(self, *names: str) -> bool:
        """Whether the problem has these numbers of a bound; adds the others to ``unknown``."""
        numbers = {"minimizer": self.distance, "optimum": self.optimum, "mu": self.mu}
        lacking = [name for name in names if numbers[name] is None]
        self.unknown.update(dict.fromkeys(lacking))
        return not lacking

    def at_most(self, text: str, limit: Callable[[float], float]) -> Condition:
        """lr beta <= limit(a), for the numbers of the start or for those rounded to the dtype.

        The float32 nearest to 1/beta may lie above 1/beta, and the product of beta and the float64 nearest to
        x/beta above x. The bound is then off by less than the rounding that each comparison allows.
        """
        exact_limit = limit(self.start_hyper.get("momentum", 0.0)) * (1.0 + float(np.finfo(np.float64).eps))
        holds_exactly = self.start_hyper["lr"] * self.beta <= exact_limit
        return f"lr <= {text}", holds_exactly or self.lr * self.beta <= limit(self.a)

    def below(self, text: str, limit: float) -> Condition:
        """lr beta < limit."""
        return f"lr < {text}", self.lr * self.beta < limit


def _length(e: Float64s) -> float:
    """|e|; the largest float where its square overflows, so that the bounds stay bounds."""
    return min(float(np.linalg.norm(e)), float(np.finfo(np.float64).max))
