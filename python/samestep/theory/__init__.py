"""What the texts prove, as functions of a problem: to be held against a run."""

from . import flows, landscape
from .basins import DoubleWell, Well, double_well, stationary_variance
from .bounds import max_step, step_bound
from .deadline import DeadlineRun, run_until
from .tuning import Tuning, tune_heavy_ball, tune_look_ahead, tune_sgd

__all__ = [
    "DeadlineRun",
    "DoubleWell",
    "Tuning",
    "Well",
    "double_well",
    "flows",
    "landscape",
    "max_step",
    "run_until",
    "stationary_variance",
    "step_bound",
    "tune_heavy_ball",
    "tune_look_ahead",
    "tune_sgd",
]
