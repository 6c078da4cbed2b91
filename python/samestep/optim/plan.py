"""The plan of an optimizer's step: what the backend has bound to its arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ..backends import arrays, cpu
from ..backends.arrays import Array
from ..backends.face import MISMATCHED, MOVED, NONFINITE, STEPPED
from .gradients import check_gradients
from .groups import scheduled_hyper
from .owner import Owner
from .param import check_writeable, written
from .recorded import RecordedPlan, SummedPlan
from .stats import TimedPlan

MADE = (STEPPED, NONFINITE, MISMATCHED)  # what a plan returns unless it refuses what it was given


class UnboundPlan:
    """The plan of arrays that cannot be stepped in place, such as read-only ones that were read from a file.

    Its step steps nothing: ``step_with_care`` then raises the reason.
    """

    norm = math.nan

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        pass

    def step(self, *_: Any) -> int:
        return MOVED

    def train(self, trainer: Any, hyper: list[float], steps: int) -> int:
        return MOVED


def bind_plan(optimizer: Owner) -> Any:
    """The plan of a step of all groups. A backend trusts what it binds: the layouts have been checked."""
    params = optimizer._params
    if not all(arrays.is_in_place(a) for _, a, _ in written(params)):
        return UnboundPlan()
    tensors = [
        param.tensor(optimizer._state_names, i)
        for i, group in enumerate(optimizer.groups)
        for param in group.params
    ]
    options = optimizer.options
    if not optimizer._decides:
        options = dataclasses.replace(options, clip_norm=None, nonfinite="propagate")
    plan = optimizer._module.Plan(optimizer.rule, tensors, optimizer._steps, options)
    if optimizer._times_steps:
        plan = TimedPlan(plan, [param.moved_bytes(optimizer.options) for param in params])
    if optimizer._ledger is not None and not optimizer._ledger.is_closed:
        plan = RecordedPlan(plan, optimizer, optimizer._ledger)
    if optimizer._step_sums is not None:
        plan = SummedPlan(plan, optimizer._step_sums)
    return plan


def next_hyper(optimizer: Owner) -> tuple[list[dict[str, float | None]] | None, list[float]]:
    """What the schedules of each group give for the next step, if any, and the values of all groups."""
    if optimizer._has_schedules:
        return scheduled_hyper(optimizer.groups, optimizer._hyper_names, optimizer.t + 1)
    return None, optimizer._hyper_values


def step_with_care(
    optimizer: Owner, grads: Sequence[Any], hyper: list[float], scale: float, *more: Any
) -> int:
    """A step after the plan has refused one: binds what has moved and converts subclasses, or raises."""
    params = optimizer._params
    check_writeable(params)
    plain = check_gradients(grads, params, optimizer.backend, optimizer.options.zero_grads)
    status: int = optimizer._plan.step(plain, hyper, scale, *more)
    if status not in MADE:  # what was bound has moved
        optimizer._bind()
        status = optimizer._plan.step(plain, hyper, scale, *more)
    if status not in MADE:
        raise RuntimeError("params, grads: changed by another thread during the step")
    return status


def train(optimizer: Owner, trainer: cpu.Trainer, steps: int) -> None:
    """So many steps along the gradient of the trainer's problem, in one native call."""
    if optimizer._plan.train(trainer, optimizer._hyper_values, steps) != STEPPED:
        check_writeable(optimizer._params)
        optimizer._bind()
        if optimizer._plan.train(trainer, optimizer._hyper_values, steps) != STEPPED:
            raise RuntimeError("params: moved by another thread during the steps")


def like_params(optimizer: Owner, g: Array) -> Any:
    """The gradient of the one parameter in the structure in which the optimizer was given it."""
    structured = optimizer.groups[0].structure.unflatten([g])
    return [structured] if optimizer._grouped else structured
