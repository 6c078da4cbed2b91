"""minimize(): a problem, a rule and a stopping time make a run. No arithmetic of its own.

One step after another in Python; or, where nobody has to look at every step, many of them in one call
of the compiled loop (csrc/run/train.cpp), with the same bits.
"""

from __future__ import annotations

import contextlib
import numbers
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TypeGuard, get_args

import numpy as np

from ..backends import cpu
from ..backends.arrays import check_writeable, frozen
from ..backends.reference.sampling import Sampler
from ..optim.optimizer import Optimizer, like_params
from ..optional import require
from ..problems import MSE, Floats, Integers, Problem
from ..problems.function import own_gradient, takes
from ..result import Result, Stopped

Sampling = Literal["full", "shuffle", "with_replacement"]
Callback = Callable[[int, Floats, float], object]

# Nanoseconds of steps that one call of the compiled loop is asked for; then Ctrl-C is heard and the progress
# bar moves. A single step that takes longer is still made.
CALL = 10**8

LARGEST_BATCH = 2**31 - 1  # rows; their indices alone take 16 GiB


def minimize(
    problem: Problem,
    w0: Floats,
    optimizer: Callable[[Floats], Optimizer] | Optimizer,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    deadline: float | None = None,
    batch_size: int | None = None,
    sampling: Sampling = "full",
    seed: int = 0,
    callback: Callback | None = None,
    record_every: int | None = None,
    record_w: bool = False,
    progress: bool = False,
    check: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Steps an optimizer along a problem's gradient until a stopping rule says so.

    ====================  ======================================================================
    sampling              the rows behind a step's gradient
    ====================  ======================================================================
    ``full``              all of them
    ``shuffle``           every epoch a new permutation, cut into batches of batch_size rows; the
                          last may be shorter (the slides' approach 1)
    ``with_replacement``  batch_size independent draws (the slides' approach 2)
    ====================  ======================================================================

    A run that diverges goes on: the number of steps never depends on the values. Result.diverged
    tells.

    Args:
        problem: problems.MSE, problems.Function, or anything else with the attributes ``size``,
            ``dimension`` and ``dtype`` (float32 or float64) and the methods ``loss(w)``, which returns a
            number, and ``gradient(w, rows)``, which returns an array like w; for ``full`` batches
            ``gradient(w)`` is enough. What they return is checked when they return it.
        w0: the start, shape (p,), the problem's dtype.
        optimizer: a callable that is given a copy of w0 and returns an optimizer of it, such as
            ``lambda w: ss.Adam(w, lr=0.1)``; or an optimizer of one array of that shape and dtype,
            into which w0 is written. Its state is left as it is.
        steps: stop after so many. Of ``steps``, ``epochs`` and ``deadline`` at least one must be
            given; the first to be met ends the run.
        epochs: stop after so many rounds of ceil(N / batch_size) steps; a full batch is a round.
        deadline: make no step once so many seconds have passed, by ``clock``. It is tested before
            each step, so the run may overstay by one step, and 0 makes none.
        batch_size: rows a step, for the two sampling ways that draw; at most 2^31 - 1.
        sampling: see the table.
        seed: of the draws, 0 to 2^64 - 1: same seed, same rows, on every machine.
        callback: called as ``callback(step, w, loss)`` for each recorded loss; something true ends
            the run. w is a copy, to be kept if wanted, and read-only, since the run would not see what
            is written to it.
        record_every: the loss of the full problem is computed at step 0, every so many steps, and at
            the end. None: every step of full batches; where rows are drawn, every epoch of
            ceil(N / batch_size) steps, as the full loss may cost a thousand times what a step does.
        record_w: keep the weights of every recorded step, in ``Result.ws``.
        progress: a progress bar on stderr, if that is a terminal.
        check: warn (RuntimeWarning) if lr is not below the method's stability edge on a quadratic of the
            problem's ``beta``, which it must know, in the words of theory.check_step_size: a verdict for
            problems.MSE, for other losses what is known.
        clock: seconds as a function; its first call starts the time.

    Returns:
        A Result.

    Raises:
        TypeError, ValueError: an argument of another type, shape or range, or arguments that do not go
            together: nothing has been written then. Or what the problem returned is no loss or gradient:
            the steps before have been made.
        ImportError: ``progress`` without tqdm.

    Example:
        >>> import numpy as np, samestep as ss
        >>> Phi = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> problem = ss.problems.MSE(Phi, np.array([1.0, 2.0, 4.0]))
        >>> run = ss.minimize(problem, np.zeros(2), lambda w: ss.SGD(w, lr=0.25), steps=4)
        >>> run.w, run.steps, run.stopped
        (array([1.484375  , 2.16796875]), 4, 'steps')
        >>> run = ss.minimize(problem, np.zeros(2), lambda w: ss.SGD(w, lr=0.25),
        ...                   callback=lambda step, w, loss: loss < 0.2, steps=100)
        >>> run.steps, run.stopped
        (4, 'callback')
        >>> run = ss.minimize(problem, np.zeros(2), lambda w: ss.SGD(w, lr=0.25), steps=100, record_every=50,
        ...                   record_w=True)
        >>> run.recorded, run.ws.round(3)
        (array([  0,  50, 100]), array([[0.   , 0.   ],
               [1.333, 2.333],
               [1.333, 2.333]]))
    """
    _check_problem(problem, sampling)
    batch_size = _batch_size(problem, sampling, batch_size)
    per_epoch = 1 if batch_size is None else -(-problem.size // batch_size)
    limit, limited_by = _limit(steps, epochs, per_epoch)
    if limit is None and deadline is None:
        raise ValueError("steps, epochs, deadline: got none of them; give at least one, or no end")
    if deadline is not None:
        _check_deadline(deadline)
    record_every = per_epoch if record_every is None else _count("record_every", record_every, 1)
    for name, switch in (("record_w", record_w), ("progress", progress), ("check", check)):
        if not isinstance(switch, (bool, np.bool_)):
            raise TypeError(f"{name}: got {switch!r}, expected True or False")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback: got {type(callback).__name__}, expected a callable or None")
    if callback is not None and not takes(callback, 3):
        raise TypeError("callback: cannot be called as callback(step, w, loss)")
    if not callable(clock):
        raise TypeError(f"clock: got {type(clock).__name__}, expected a callable that returns seconds")
    sampler = Sampler(seed)
    opt = _start(problem, w0, optimizer)
    w = opt.params[0]
    stepper: _Steps
    if deadline is None and _compiled_can(problem, opt):
        stepper = _CompiledSteps(problem, opt, sampling, batch_size, seed)
    else:
        stepper = _PythonSteps(problem, opt, _batches(problem.size, sampling, batch_size, sampler))
    bar = _bar(limit) if progress else contextlib.nullcontext()
    if check:
        from ..theory.step_size import check_step_size  # here, since few ask and it takes the theory along

        known = check_step_size(problem, opt, batch_size)
        if known.below is False:
            warnings.warn(f"{known}{_scaling_hint(problem)}", RuntimeWarning, stacklevel=2)
    start = clock()
    if isinstance(start, bool) or not isinstance(start, numbers.Real):
        raise TypeError(f"clock: returned {start!r}, expected seconds as a number")
    # Last, when nothing can be wrong any more: these are the caller's weights.
    if opt is optimizer:
        w[...] = w0
    first, before = w.copy(), {**opt.state_dict(), "hyper": _hyper(opt)}

    losses: list[float] = []
    recorded: list[int] = []
    ws: list[Floats] = []

    def record() -> bool:
        loss = _own_loss(problem, w)
        losses.append(loss)
        recorded.append(step)
        if record_w:
            ws.append(w.copy())
        return callback is not None and bool(callback(step, frozen(w), loss))

    step = 0
    stopped: Stopped
    with bar as shown:
        while True:
            if step % record_every == 0 and record():
                stopped = "callback"
                break
            if step == limit:
                stopped = limited_by
                break
            if deadline is not None:
                seconds = clock() - start
                if seconds >= deadline:
                    stopped = "deadline"
                    break
            ahead = record_every - step % record_every
            made = stepper.make(ahead if limit is None else min(ahead, limit - step))
            step += made
            if shown is not None:
                shown.update(made)
        if recorded[-1] != step:
            record()
        if stopped != "deadline":
            seconds = clock() - start
    return Result(
        w=w.copy(),
        loss=losses[-1],
        losses=np.array(losses),
        recorded=np.array(recorded),
        steps=step,
        seconds=seconds,
        stopped=stopped,
        optimizer=opt,
        w0=first,
        start=before,
        batch_size=batch_size,
        ws=np.array(ws) if record_w else None,
    )


def _check_problem(problem: Problem, sampling: Sampling) -> None:
    """That it has what a Problem has, and draws what is to be drawn."""
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
        _count(f"problem.{name}", getattr(problem, name), 1)
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
    if not takes(problem.gradient, 2) and (sampling != "full" or not takes(problem.gradient, 1)):
        fix = "" if sampling == "full" else "; sampling='full' does with gradient(w)"
        raise TypeError(
            f"problem.gradient: cannot be called as gradient(w, rows), as sampling={sampling!r} does{fix}"
        )


def _own_loss(problem: Problem, w: Floats) -> float:
    """L(w) as Python's float."""
    loss: Any = problem.loss(w)
    if isinstance(loss, np.ndarray) and loss.shape == ():
        loss = loss[()]
    if isinstance(loss, (bool, np.bool_)) or not isinstance(loss, numbers.Real):
        shape = f" of shape {loss.shape}" if isinstance(loss, np.ndarray) else ""
        raise TypeError(f"problem.loss: returned {type(loss).__name__}{shape}, expected a number")
    return float(loss)


def _scaling_hint(problem: Problem) -> str:
    """What scaling the columns would bring, where that is much."""
    if not isinstance(problem, MSE) or problem.backend == "cuda":
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


def _batch_size(problem: Problem, sampling: Sampling, batch_size: int | None) -> int | None:
    """Rows a step; None: all, without a draw."""
    if sampling not in get_args(Sampling):
        expected = ", ".join(repr(name) for name in get_args(Sampling))
        raise ValueError(f"sampling: got {sampling!r}, expected one of {expected}")
    if sampling == "full":
        if batch_size is not None:
            raise ValueError(
                f"batch_size: got {batch_size} with sampling='full', which takes every row; "
                "add sampling='shuffle' or 'with_replacement', or leave batch_size out"
            )
        return None
    if batch_size is None:
        raise ValueError(f"batch_size: got None, expected the rows a step for sampling={sampling!r}")
    batch_size = _count("batch_size", batch_size, 1)
    if sampling == "shuffle" and batch_size > problem.size:
        there = "one row there is" if problem.size == 1 else f"{problem.size} rows there are"
        raise ValueError(f"batch_size: got {batch_size}, expected at most the {there}")
    if batch_size > LARGEST_BATCH:
        raise ValueError(f"batch_size: got {batch_size}, expected at most {LARGEST_BATCH} (2^31 - 1)")
    return batch_size


def _limit(steps: int | None, epochs: int | None, per_epoch: int) -> tuple[int | None, Stopped]:
    """The step at which the run ends at the latest, and the rule that says so."""
    if steps is not None:
        steps = _count("steps", steps, 0)
    if epochs is None:
        return steps, "steps"
    epochs = _count("epochs", epochs, 0)
    if steps is not None and steps <= epochs * per_epoch:
        return steps, "steps"
    return epochs * per_epoch, "epochs"


def _check_deadline(deadline: float) -> None:
    if isinstance(deadline, bool) or not isinstance(deadline, numbers.Real):
        raise TypeError(f"deadline: got {deadline!r}, expected seconds as a number")
    if not 0.0 <= deadline < float("inf"):
        raise ValueError(f"deadline: got {deadline}, expected seconds, 0 or more and finite")


def _count(name: str, value: int, least: int) -> int:
    """The value as Python's int, which never overflows."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: got {value!r}, expected a whole number")
    if value < least:
        raise ValueError(f"{name}: got {value}, expected {least} or more")
    return int(value)


def _batches(
    size: int, sampling: Sampling, batch_size: int | None, sampler: Sampler
) -> Iterator[Integers | None]:
    """The rows of step after step, without end; None for all."""
    while sampling == "full" or batch_size is None:
        yield None
    while sampling == "with_replacement":
        yield sampler.draws(batch_size, size)
    while True:
        order = sampler.shuffle(size)
        for first in range(0, size, batch_size):
            yield order[first : first + batch_size]


def _start(problem: Problem, w0: Floats, optimizer: Callable[[Floats], Optimizer] | Optimizer) -> Optimizer:
    """An optimizer of one array like w0: a made one of a copy, a given one as it is, nothing written."""
    if not isinstance(w0, np.ndarray) or isinstance(w0, np.ma.MaskedArray):
        raise TypeError(f"w0: got {type(w0).__name__}, expected a numpy array of {problem.dtype}")
    if w0.dtype != problem.dtype:
        raise TypeError(
            f"w0: got {w0.dtype}, expected the problem's {problem.dtype}; "
            f"convert it with w0.astype(numpy.{problem.dtype})"
        )
    if w0.shape != (problem.dimension,):
        raise ValueError(f"w0: got shape {w0.shape}, expected the problem's {(problem.dimension,)}")
    if isinstance(optimizer, Optimizer):
        params = optimizer.params
        if len(params) != 1 or params[0].shape != w0.shape or params[0].dtype != w0.dtype:
            got = ", ".join(f"{a.dtype} {a.shape}" for a in params)
            raise ValueError(
                f"optimizer: got one of {got}, expected one of a single {w0.dtype} array of shape "
                f"{w0.shape}, as w0"
            )
        check_writeable("optimizer.params[0]", params[0])
        return optimizer
    if not callable(optimizer):
        raise TypeError(
            f"optimizer: got {type(optimizer).__name__}, expected an optimizer or a callable that "
            "makes one, such as lambda w: ss.SGD(w, lr=0.1)"
        )
    w = np.array(w0, order="C")
    made = optimizer(w)
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


def _hyper(optimizer: Optimizer) -> Any:
    """As in a state dict, but all of them numbers."""
    hypers = [dict(group) for group in optimizer.groups]
    return hypers[0] if len(hypers) == 1 else hypers


class _Steps(Protocol):
    def make(self, wanted: int) -> int:
        """Makes at least one step and at most so many; returns how many."""


class _PythonSteps:
    """One step a call: any problem, any optimizer, and a clock to be read before each."""

    def __init__(self, problem: Problem, optimizer: Optimizer, batches: Iterator[Integers | None]) -> None:
        self._problem = problem
        self._optimizer = optimizer
        self._batches = batches
        self._alone = takes(problem.gradient, 1)

    def make(self, wanted: int) -> int:
        w, rows = self._optimizer.params[0], next(self._batches)
        g = self._problem.gradient(w) if rows is None and self._alone else self._problem.gradient(w, rows)
        self._optimizer.step(like_params(self._optimizer, own_gradient(g, w)))
        return 1


class _CompiledSteps:
    """Many steps a call, with the bits of as many calls of _PythonSteps."""

    def __init__(
        self,
        problem: MSE,
        optimizer: Optimizer,
        sampling: Sampling,
        batch_size: int | None,
        seed: int,
    ) -> None:
        rows = problem.size if batch_size is None else batch_size
        self._optimizer = optimizer
        self._trainer = cpu.Trainer(problem._kernels, sampling, rows, seed)
        self._most = max(1, CALL // _step_cost(rows, problem.dimension))

    def make(self, wanted: int) -> int:
        steps = min(wanted, self._most)
        self._optimizer._train(self._trainer, steps)
        return steps


def _step_cost(rows: int, dimension: int) -> int:
    """Nanoseconds that a step of the compiled loop takes, within a factor of three or so.

    Those of a step whatever its size, of a row, which may come from memory, of an element of Phi, and of a
    weight, which Adam takes some 2 ns for.
    """
    return 100 + 32 * rows + rows * dimension // 2 + 2 * dimension


def _compiled_can(problem: Problem, optimizer: Optimizer) -> TypeGuard[MSE]:
    """Whether the compiled loop does what the two objects' own methods would."""
    return (
        type(problem) is MSE
        and problem.backend == "cpu"
        and optimizer.backend == "cpu"
        and type(optimizer).step is Optimizer.step
        and not optimizer._has_schedules
        and optimizer.options.nonfinite == "propagate"
    )


def _bar(total: int | None) -> Any:
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    tqdm = require("tqdm", "progress=True").tqdm
    return tqdm(total=total, unit=" steps", leave=False)
