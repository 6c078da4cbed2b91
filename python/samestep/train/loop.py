"""minimize(): a problem, an optimizer and a stopping rule make a run. No arithmetic of its own."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import whole_number
from ..backends.reference.sampling import Sampler
from ..optim.optimizer import Optimizer
from ..optional import require
from ..problems import Floats, Problem
from ..result import Result, Stopped
from .batches import Sampling, check_batch_size, draw_batches
from .checks import (
    check_functions,
    check_limit,
    check_optimizer,
    check_problem,
    check_start,
    check_switches,
    make_optimizer,
    seconds_of,
    warn_of_step_size,
)
from .records import Callback, Records
from .steppers import CompiledStepper, PythonStepper, Stepper, can_run_compiled


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
    """Steps an optimizer along a problem's gradient until a stopping rule is met.

    ====================  ======================================================================
    sampling              the rows behind a step's gradient
    ====================  ======================================================================
    ``full``              all of them
    ``shuffle``           every epoch a new permutation, cut into batches of batch_size rows; the
                          last may be shorter (the slides' approach 1)
    ``with_replacement``  batch_size independent draws (the slides' approach 2)
    ====================  ======================================================================

    The number of steps never depends on the values: a run that diverges goes on to its end, and
    Result.diverged is then True.

    Args:
        problem: problems.MSE, problems.Function, or anything else with the attributes ``size``,
            ``dimension`` and ``dtype`` (float32 or float64) and the methods ``loss(w)``, which returns a
            number, and ``gradient(w, rows)``, which returns an array like w; for ``full`` batches
            ``gradient(w)`` is enough. Each result is checked when it is returned. On a GPU, problems.MSE of
            arrays there, or a problem of your own that takes w there and returns its gradient there.
        w0: the start, shape (p,), the problem's dtype; where the problem is on a GPU, an array on that GPU.
        optimizer: a callable that gets a copy of w0 and returns an optimizer of it, such as
            ``lambda w: ss.Adam(w, lr=0.1)``. Or an optimizer of one array of that shape and dtype: w0 is
            written into the array, and the optimizer's state stays as it is.
        steps: the most steps to make. At least one of ``steps``, ``epochs`` and ``deadline`` must be
            given; the first to be met ends the run.
        epochs: the most rounds to make. A round is ceil(N / batch_size) steps, or one step of a full batch.
        deadline: seconds by ``clock`` after which no further step is made. It is tested before each
            step, so the run may end one step late; 0 allows no step. On a GPU each step is waited for. Not
            where the problem has a group: the workers' clocks differ.
        batch_size: rows a step, for ``shuffle`` and ``with_replacement``; at most 2^31 - 1.
        sampling: see the table.
        seed: of the draws, 0 to 2^64 - 1. The same seed draws the same rows on every machine.
        callback: called as ``callback(step, w, loss)`` for each recorded loss; a true result ends the
            run; where the problem has a group, on every worker. w is a copy, which may be kept. In main
            memory it is read-only, since writing to it would not change the run.
        record_every: the loss of the full problem is computed at step 0, after every so many steps, and at
            the end. None: every step of full batches; every epoch of ceil(N / batch_size) steps where rows
            are drawn, as the full loss may cost a thousand times what a step does.
        record_w: keep the weights of every recorded step, in ``Result.ws``.
        progress: show a progress bar on stderr, if that is a terminal.
        check: warn (RuntimeWarning) if lr is not below the method's edge of stability on a quadratic with the
            problem's ``beta``, which the problem must have. See theory.check_step_size: for problems.MSE its
            result is a verdict, for other losses it is what is known.
        clock: a function that returns seconds; its first call starts the time.

    Returns:
        A Result.

    Raises:
        TypeError, ValueError: an argument has another type, shape or range, or two arguments contradict
            each other; nothing has been written. Or the problem returned what is no loss or no gradient;
            the steps before that have been made.
        ImportError: ``progress`` without tqdm, or a start on a GPU without CuPy.
        RuntimeError: a start on a GPU where none can be used.

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
    check_problem(problem, sampling)
    batch_size = check_batch_size(problem, sampling, batch_size)
    steps_per_epoch = 1 if batch_size is None else -(-problem.size // batch_size)
    limit, limited_by = check_limit(steps, epochs, deadline, steps_per_epoch)
    if record_every is None:
        record_every = steps_per_epoch
    record_every = whole_number("record_every", record_every, at_least=1)
    check_switches(record_w=record_w, progress=progress, check=check)
    check_functions(callback, clock)
    if deadline is not None and getattr(problem, "group", None) is not None:
        raise ValueError(
            "deadline: got one with a problem whose rows are spread over workers, whose clocks differ; give "
            "steps or epochs"
        )
    batches = draw_batches(problem.size, sampling, batch_size, Sampler(seed))
    w0 = check_start(problem, w0)
    if isinstance(optimizer, Optimizer):
        check_optimizer(optimizer, w0)
        opt = optimizer
    else:
        opt = make_optimizer(optimizer, w0)
    stepper: Stepper
    if deadline is None and can_run_compiled(problem, opt):
        stepper = CompiledStepper(problem, opt, sampling, batch_size, seed)
    else:  # a deadline reads the clock before each step
        stepper = PythonStepper(problem, opt, batches, waits=deadline is not None)
    progress_bar = open_progress_bar(limit) if progress else contextlib.nullcontext()
    if check:
        warn_of_step_size(problem, opt, batch_size)
    start = seconds_of(clock)
    w = opt.params[0]
    if opt is optimizer:
        opt._module.assign(w, w0)  # the caller's weights: written last, when no check can fail any more
    first_w, first_state = opt._module.copy(w), {**opt.state_dict(), "hyper": _hyper_numbers(opt)}

    records = Records(problem, w, callback, record_w)
    step = 0
    stopped: Stopped
    with progress_bar as bar:
        while True:
            if step % record_every == 0 and records.add(step):
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
            until_record = record_every - step % record_every
            made = stepper.advance(until_record if limit is None else min(until_record, limit - step))
            step += made
            if bar is not None:
                bar.update(made)
        if records.steps[-1] != step:
            records.add(step)
        if stopped != "deadline":
            seconds = clock() - start
    return Result(
        w=opt._module.copy(w),
        loss=records.losses[-1],
        losses=np.array(records.losses),
        recorded=np.array(records.steps),
        steps=step,
        seconds=seconds,
        stopped=stopped,
        optimizer=opt,
        w0=first_w,
        start=first_state,
        batch_size=batch_size,
        ws=None if records.ws is None else np.array(records.ws),
    )


def _hyper_numbers(optimizer: Optimizer) -> Any:
    """As in a state dict, but a hyper-parameter that follows another is a number, not None."""
    hypers = [dict(group) for group in optimizer.groups]
    return hypers[0] if len(hypers) == 1 else hypers


def open_progress_bar(total: int | None) -> Any:
    """A progress bar on stderr; a context of None if that is no terminal."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    tqdm = require("tqdm", "progress=True").tqdm
    return tqdm(total=total, unit=" steps", leave=False)
