"""What the texts prove, as functions of a problem: to be held against a run.

Before a run and after it
    check_step_size      lr against the edge of its rule, and what is known of it: StepSizeCheck
    check_run            every bound of the rule against every recorded loss: RunCheck, a BoundCheck each

Curvature
    beta                 the largest curvature, of a problem or a Hessian, exact or iterated
    hessian_fd           the Hessian from gradients alone
    pl_constant          mu of |g|^2/2 >= mu (L - L*): the smallest curvature but 0
    tangent_kernel       K = J J' of a model's Jacobian
    pl_star_constant     mu of |g|^2/2 >= mu L, from the tangent kernel

How large a step may be
    step_bound           2 g'g/(g'Hg), at one point
    cauchy_step          half of it, the best step there
    max_step             2/beta, for every point
    sgd_edge             2/beta, from which on gradient descent diverges on a quadratic
    heavy_ball_edge      2(1 + a)/beta, likewise
    look_ahead_edge      (2 + 2a)/((1 + 2a) beta), likewise of Nesterov's rule
    backtracking         a step size by trying, without a beta

The best step and momentum on a quadratic, each a Tuning
    tune_sgd             of gradient descent
    tune_heavy_ball      of the heavy ball
    tune_nesterov        of Nesterov's rule, for every strongly convex loss
    tune_look_ahead      of Nesterov's rule, for quadratics

How fast
    descent_ok           whether a step gained what the descent lemma promises
    gap_bounds           of L - L* after t steps on a convex loss: GapBounds
    iterations_bound     steps until |g|^2 is small, convex or not
    gradient_bound       of |g| after t steps on a convex loss
    accelerated_gap_bound  of L - L* by Nesterov's rule
    pl_rate              the factor a step under the PL condition
    pl_radius            how far such a run can go
    sgd_step_interpolation  step and rate where every example can be fitted: InterpolationStep

Mode by mode on a quadratic
    mode_factors         1 - lr lambda_i
    mode_matrices        what a step does to error and velocity
    spectral_radius      the rate in the long run

Steps
    newton_step          -H^-1 g, damped, shortest or saddle-free
    sam_step             along the gradient at the worst point near by
    polyak_step          the heavy ball without a velocity
    ema_step             momentum as a true average
    terminal_step        the heavy ball's step after many equal gradients
    nesterov_momenta     Nesterov's momenta for a convex loss
    run_until            the slides' algorithms 3.4 to 3.6, until a deadline: DeadlineRun

Noise
    batch_gradient_variance  tr(S)/m, with and without replacement
    stationary_variance  of w under noise, on a parabola
    double_well          the share of runs in the wide basin
    DoubleWell           that landscape, a Well on each side

Modules
    flows                momentum methods as differential equations
    landscape            random Hessians, spin glasses, deep linear networks

A method has several names, and each function accepts all of them: "momentum" is "heavy_ball"; "nag",
"nesterov" and "look_ahead" are one. Where an argument is called problem_or_H, and where edges and tunings
want curvatures, a problem that knows them will do. docs/theory has a chapter about each subject.
"""

from . import flows, landscape
from .basins import DoubleWell, Well, batch_gradient_variance, double_well, stationary_variance
from .bound_check import BoundCheck, RunCheck
from .bounds import cauchy_step, max_step, step_bound
from .curvature import beta, hessian_fd
from .deadline import DeadlineRun, run_until
from .descent import backtracking, descent_ok
from .edges import heavy_ball_edge, look_ahead_edge, sgd_edge
from .gaps import GapBounds, accelerated_gap_bound, gap_bounds, gradient_bound, iterations_bound
from .modes import mode_factors, mode_matrices, spectral_radius
from .momentum import ema_step, nesterov_momenta, polyak_step, terminal_step
from .newton import newton_step
from .pl import (
    InterpolationStep,
    pl_constant,
    pl_radius,
    pl_rate,
    pl_star_constant,
    sgd_step_interpolation,
    tangent_kernel,
)
from .run_check import check_run
from .sam import sam_step
from .step_size import StepSizeCheck, check_step_size
from .tuning import Tuning, tune_heavy_ball, tune_look_ahead, tune_nesterov, tune_sgd

__all__ = [
    "BoundCheck",
    "DeadlineRun",
    "DoubleWell",
    "GapBounds",
    "InterpolationStep",
    "RunCheck",
    "StepSizeCheck",
    "Tuning",
    "Well",
    "accelerated_gap_bound",
    "backtracking",
    "batch_gradient_variance",
    "beta",
    "cauchy_step",
    "check_run",
    "check_step_size",
    "descent_ok",
    "double_well",
    "ema_step",
    "flows",
    "gap_bounds",
    "gradient_bound",
    "heavy_ball_edge",
    "hessian_fd",
    "iterations_bound",
    "landscape",
    "look_ahead_edge",
    "max_step",
    "mode_factors",
    "mode_matrices",
    "nesterov_momenta",
    "newton_step",
    "pl_constant",
    "pl_radius",
    "pl_rate",
    "pl_star_constant",
    "polyak_step",
    "run_until",
    "sam_step",
    "sgd_edge",
    "sgd_step_interpolation",
    "spectral_radius",
    "stationary_variance",
    "step_bound",
    "tangent_kernel",
    "terminal_step",
    "tune_heavy_ball",
    "tune_look_ahead",
    "tune_nesterov",
    "tune_sgd",
]


def __dir__() -> list[str]:
    """Without the modules that the functions are in, some of which are called like them."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
