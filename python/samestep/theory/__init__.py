"""What the texts prove, as functions of a problem: to be held against a run."""

from . import flows, landscape
from .basins import DoubleWell, Well, double_well, stationary_variance
from .bounds import cauchy_step, max_step, step_bound
from .curvature import beta, hessian_fd
from .deadline import DeadlineRun, run_until
from .descent import backtracking, descent_ok
from .edges import heavy_ball_edge, look_ahead_edge, sgd_edge
from .gaps import GapBounds, accelerated_gap_bound, gap_bounds, gradient_bound, iterations_bound
from .modes import mode_factors, mode_matrices, spectral_radius
from .momentum import ema_step, nesterov_momenta, polyak_step, terminal_step
from .newton import newton_step
from .pl import pl_constant, pl_radius, pl_rate, pl_star_constant, sgd_step_interpolation, tangent_kernel
from .run_check import BoundCheck, RunCheck, check_run
from .sam import sam_step
from .step_size import StepSizeCheck, check_step_size
from .tuning import Tuning, tune_heavy_ball, tune_look_ahead, tune_nesterov, tune_sgd

__all__ = [
    "BoundCheck",
    "DeadlineRun",
    "DoubleWell",
    "GapBounds",
    "RunCheck",
    "StepSizeCheck",
    "Tuning",
    "Well",
    "accelerated_gap_bound",
    "backtracking",
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
