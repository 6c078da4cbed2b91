"""Copies and pickles of an optimizer."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from .groups import Group
from .owner import Owner
from .param import check_layouts

AnyOwner = TypeVar("AnyOwner", bound=Owner)


def share_params(optimizer: AnyOwner) -> AnyOwner:
    """An optimizer of the same parameters, with hyper-parameters, states and step counts of its own."""
    own = ("groups", "_steps")
    shared = [value for name, value in vars(optimizer).items() if name not in own]
    params = optimizer._params
    memo = {id(value): value for value in (*(param.array for param in params), *shared)}
    # A derived class may keep one of these under another name, which must then not count as shared.
    copied = [optimizer, *(vars(optimizer)[name] for name in own)]
    copied += [value for group in optimizer.groups for value in (group, group.params)]
    for value in (*copied, *(v for param in params for v in (param, param.states, *param.states.values()))):
        memo.pop(id(value), None)
    return copy.deepcopy(optimizer, memo)


def state_to_pickle(optimizer: Owner) -> dict[str, Any]:
    """The attributes of an optimizer's copy but for its plan. Its states lie in main memory."""
    check_layouts(optimizer._params)
    optimizer._settle()
    _check_picklable(optimizer.groups)
    state = {**vars(optimizer), "_store": optimizer._store.in_memory()}
    del state["_plan"]
    for name in ("_ledger", "_step_sums"):  # of the original alone
        state.pop(name, None)
    return state


def restore_state(optimizer: Owner, state: Mapping[str, Any]) -> None:
    """Gives a new optimizer these attributes and a plan of its own."""
    vars(optimizer).update(state)
    optimizer._steps = np.array(optimizer._steps)  # it may be read-only, and a step counts in it
    for param in optimizer._params:
        param.remember_layouts()
    optimizer._bind()


def _check_picklable(groups: Sequence[Group]) -> None:
    """Raises if a schedule is a function that pickle cannot store; copy, cloudpickle and dill can."""
    if not any(group._schedules for group in groups):
        return
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        module = frame.f_globals.get("__name__", "")
        if module == "copy" or any(part in module for part in ("cloudpickle", "dill")):  # or a copy of these
            return
    for i, group in enumerate(groups):
        for name, schedule in group._schedules.items():
            try:
                pickle.dumps(schedule)
            except Exception as error:
                raise pickle.PicklingError(
                    f"groups[{i}][{name!r}]: got {schedule!r}, which pickle cannot store; use one of "
                    "samestep.schedules, a function at the top level of a module, or cloudpickle"
                ) from error
