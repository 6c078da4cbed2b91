"""What minimize() checks. All of it comes before the first byte of the caller's weights is written."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import whole_number
from ..backends import choose_backend, module
from ..backends.arrays import check_writeable, is_array, lives_on_gpu
from ..optim.optimizer import Optimizer
from ..problems import MSE, Floats, Function, Problem
from ..problems.function import can_call_with
from ..problems.mse import is_least_squares
from ..problems.smooth import Smooth
from ..result import Stopped
from .batches import Sampling

_PLACES = ("in main memory", "on a GPU")  # by whether an array lies on a GPU


def check_problem(problem: Problem, sampling: Sampling) -> None:
    """Raises unless it has the attributes and methods of a Problem, for these batches."""
    expected = (
        "expected an object with size, dimension, dtype, loss(w), gradient(w, rows=None), such as "
        "problems.MSE or problems.Function(loss, gradient, dimension)"
    )
    if isinstance(problem, type):
        raise TypeError(f"problem: got the class {problem.__name__}, expected an object that it made")
    names = ("size", "dimension", "dtype", "loss", "gradient")
    missing = [name for name in names if not hasattr(problem, name)]
    if missing:
        without = "" if len(missing) == len(names) else f" without {', '.join(missing)}"
        raise TypeError(f"problem: got {type(problem).__name__}{without}, {expected}")
    for name in ("size", "dimension"):
        whole_number(f"problem.{name}", getattr(problem, name), at_least=1)
    try:
        dtype = np.dtype(problem.dtype)
    except TypeError:
        raise TypeError(f"problem.dtype: got {problem.dtype!r}, expected float32 or float64") from None
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"problem.dtype: got {dtype}, expected float32 or float64")
    for name in ("loss", "gradient"):
        if not callable(getattr(problem, name)):
            got = type(getattr(problem, name)).__name__
            raise TypeError(f"problem.{name}: got {got}, expected a method")
    arguments = (1, 2) if sampling == "full" else (2,)
    if not any(can_call_with(problem.gradient, n) for n in arguments):
        fix = "" if sampling == "full" else "; sampling='full' does with gradient(w)"
        raise TypeError(
            f"problem.gradient: cannot be called as gradient(w, rows), as sampling={sampling!r} does{fix}"
        )


def check_limit(
    steps: int | None, epochs: int | None, deadline: float | None, steps_per_epoch: int
) -> tuple[int | None, Stopped]:
    """The last step that a run may make, and the rule that sets it; None: only the deadline ends it."""
    if steps is not None:
        steps = whole_number("steps", steps, at_least=0)
    if epochs is not None:
        epochs = whole_number("epochs", epochs, at_least=0)
    if steps is None and epochs is None and deadline is None:
        raise ValueError("steps, epochs, deadline: got none of them, expected at least one, or no end")
    if deadline is not None:
        if isinstance(deadline, bool) or not isinstance(deadline, numbers.Real):
            raise TypeError(f"deadline: got {deadline!r}, expected seconds as a number")
        if not 0.0 <= deadline < float("inf"):
            raise ValueError(f"deadline: got {deadline}, expected seconds, 0 or more and finite")
    if epochs is None or (steps is not None and steps <= epochs * steps_per_epoch):
        return steps, "steps"
    return epochs * steps_per_epoch, "epochs"


def check_switches(**switches: bool) -> None:
    """Raises unless each is True or False."""
    for name, switch in switches.items():
        if not isinstance(switch, (bool, np.bool_)):
            raise TypeError(f"{name}: got {switch!r}, expected True or False")


def check_functions(callback: Any, clock: Any) -> None:
    """Raises unless both can be called as the loop calls them."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback: got {type(callback).__name__}, expected a callable or None")
    if callback is not None and not can_call_with(callback, 3):
        raise TypeError("callback: cannot be called as callback(step, w, loss), expected three arguments")
    if not callable(clock):
        raise TypeError(f"clock: got {type(clock).__name__}, expected a callable that returns seconds")


def check_start(problem: Problem, w0: Any) -> Floats:
    """w0, on a GPU CuPy's view of it; raises unless it is an array of weights where the problem computes."""
    if not is_array(w0) or isinstance(w0, np.ma.MaskedArray):
        array = "an array on a GPU" if getattr(problem, "backend", None) == "cuda" else "a numpy array"
        raise TypeError(f"w0: got {type(w0).__name__}, expected {array} of {problem.dtype}")
    on_gpu = lives_on_gpu(w0)
    if isinstance(problem, (MSE, Function, Smooth)) and on_gpu != (
        getattr(problem, "backend", "cpu") == "cuda"
    ):
        fix = "cupy.asnumpy" if on_gpu else "cupy.asarray"
        raise TypeError(
            f"w0: lies {_PLACES[on_gpu]}, but the problem computes {_PLACES[not on_gpu]}; pass {fix}(w0)"
        )
    if on_gpu:
        beside = {"problem.Phi": problem.Phi} if isinstance(problem, MSE) else {}
        _, (*_, w0) = choose_backend("cuda", {**beside, "w0": w0})
    if w0.dtype != problem.dtype:
        raise TypeError(
            f"w0: got {w0.dtype}, expected the problem's {problem.dtype}; "
            f"convert it with w0.astype(numpy.{problem.dtype})"
        )
    if w0.shape != (problem.dimension,):
        raise ValueError(f"w0: got shape {w0.shape}, expected the problem's {(problem.dimension,)}")
    start: Floats = w0
    return start


def check_optimizer(optimizer: Optimizer, w0: Floats) -> None:
    """Raises unless w0 can be written into the optimizer's one array and the optimizer can step it."""
    params = optimizer.params
    if len(params) != 1 or params[0].shape != w0.shape or params[0].dtype != w0.dtype:
        got = ", ".join(f"{a.dtype} {a.shape}" for a in params)
        raise ValueError(
            f"optimizer: got one of {got}, expected one of a single {w0.dtype} array of shape "
            f"{w0.shape}, as w0"
        )
    on_gpu = lives_on_gpu(w0)
    if on_gpu != (optimizer.backend == "cuda"):
        raise TypeError(
            f"optimizer: its array lies {_PLACES[not on_gpu]}, but w0 {_PLACES[on_gpu]}; pass an optimizer "
            "of an array that lies where w0 does"
        )
    if on_gpu:
        choose_backend("cuda", {"w0": w0, "optimizer.params[0]": params[0]})
    check_writeable("optimizer.params[0]", params[0])
    optimizer._check_writeable()


def make_optimizer(make: Any, w0: Floats) -> Optimizer:
    """The optimizer that the caller's function makes of a copy of w0, checked."""
    if not callable(make):
        raise TypeError(
            f"optimizer: got {type(make).__name__}, expected an optimizer or a callable that "
            "makes one, such as lambda w: ss.SGD(w, lr=0.1)"
        )
    w = module("cuda" if lives_on_gpu(w0) else "cpu").copy(w0)
    made = make(w)
    if not isinstance(made, Optimizer):
        raise TypeError(
            f"optimizer: the callable returned {type(made).__name__}, expected an optimizer of the "
            "array that it was given"
        )
    if len(made.params) != 1 or made.params[0] is not w:
        raise ValueError(
            "optimizer: the callable returned one of other arrays, expected an optimizer of the array "
            "that it was given, itself and alone"
        )
    return made


def warn_of_step_size(problem: Problem, optimizer: Optimizer, batch_size: int | None) -> None:
    """A RuntimeWarning, at the caller of minimize(), if lr is not below the edge of stability."""
    from ..theory.step_size import check_step_size  # here: few ask for it, and it imports the theory

    found = check_step_size(problem, optimizer, batch_size)
    if found.below is False:
        warnings.warn(f"{found}{_scaling_hint(problem)}", RuntimeWarning, stacklevel=3)


def _scaling_hint(problem: Problem) -> str:
    """Advice to divide the columns of Phi by their lengths, where that cuts kappa to a tenth or less."""
    if not is_least_squares(problem) or problem.backend == "cuda" or problem.group is not None:
        return ""
    lengths = np.linalg.norm(problem.Phi.astype(np.float64), axis=0)
    scaled = problem.Phi / np.where(lengths > 0.0, lengths, 1.0).astype(problem.dtype)
    kappa = MSE(scaled, problem.y, problem.scale).kappa if np.isfinite(scaled).all() else np.inf
    if not 10.0 * kappa < problem.kappa:
        return ""
    return (
        f"; the columns of Phi differ in length: divided by numpy.linalg.norm(Phi, axis=0) they would cut "
        f"the condition number from {problem.kappa:.3g} to {kappa:.3g}"
    )


def seconds_of(clock: Callable[[], float]) -> float:
    """The clock's first answer, checked."""
    start = clock()
    if isinstance(start, bool) or not isinstance(start, numbers.Real):
        raise TypeError(f"clock: returned {start!r}, expected seconds as a number")
    return start
