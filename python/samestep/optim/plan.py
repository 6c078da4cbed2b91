"""The plan of an optimizer's step: what the backend has bound to its arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..backends import arrays
from ..backends.arrays import Array
from ..backends.face import MOVED
from ..backends.options import Options
from .groups import Group
from .param import written
from .stats import RecordingPlan


class UnboundPlan:
    """The plan of arrays that cannot be stepped where they lie: what was read from a file may be read-only.
    A step finds the reason.
    """

    norm = math.nan

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        pass

    def step(self, grads: Any, hyper: list[float], scale: float = 1.0) -> int:
        return MOVED

    def train(self, trainer: Any, hyper: list[float], steps: int) -> int:
        return MOVED


def bind_plan(
    module: Any,
    rule: str,
    rule_states: Sequence[str],
    groups: Sequence[Group],
    steps: Array,
    options: Options,
    is_timed: bool,
) -> Any:
    """The plan of a step of all groups, by the module of a backend, which trusts what it binds."""
    params = [param for group in groups for param in group.params]
    if not all(arrays.is_in_place(a) for _, a, _ in written(params)):
        return UnboundPlan()
    tensors = [param.tensor(rule_states, i) for i, group in enumerate(groups) for param in group.params]
    plan = module.Plan(rule, tensors, steps, options)
    return RecordingPlan(plan, [param.moved_bytes(options) for param in params]) if is_timed else plan
