"""What the texts prove, as functions of a problem: to be held against a run."""

from .bounds import max_step, step_bound
from .tuning import Tuning, tune_heavy_ball, tune_look_ahead, tune_sgd

__all__ = [
    "Tuning",
    "max_step",
    "step_bound",
    "tune_heavy_ball",
    "tune_look_ahead",
    "tune_sgd",
]
