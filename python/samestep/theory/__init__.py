"""What the texts prove, as functions of a problem: to be held against a run."""

from . import flows
from .basins import DoubleWell, Well, double_well, stationary_variance
from .bounds import max_step, step_bound
from .tuning import Tuning, tune_heavy_ball, tune_look_ahead, tune_sgd

__all__ = [
    "DoubleWell",
    "Tuning",
    "Well",
    "double_well",
    "flows",
    "max_step",
    "stationary_variance",
    "step_bound",
    "tune_heavy_ball",
    "tune_look_ahead",
    "tune_sgd",
]
