"""Parameter groups: which parameters share hyper-parameters, and the values of these."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from .gradients import Structure
from .hyper import Hyper
from .param import Param


class HasHyper(Protocol):
    """What a group uses of its optimizer."""

    @property
    def t(self) -> int: ...

    def _hyper_of(self, name: str) -> Hyper: ...

    def _refresh_hyper(self) -> None: ...


class Group(MutableMapping[str, float]):
    """The hyper-parameters of one group, by name; settable at any time.

    ``lr``, and ``momentum`` and ``momentum_next`` of Momentum and NAG, may be set to a callable of t = 1,
    2, ..., see ``samestep.schedules``; reading them gives the value of the last step. What is set to None
    follows another, as ``momentum_next`` does ``momentum``, and reads like it.

    Example:
        >>> import numpy as np, samestep as ss
        >>> body, head = np.ones(2), np.ones(2)
        >>> opt = ss.SGD([{"params": body}, {"params": head, "lr": 0.5}], lr=0.25)
        >>> opt.groups[1]["lr"], dict(opt.groups[0])
        (0.5, {'lr': 0.25, 'weight_decay': 0.0})
        >>> opt.groups[0]["lr"] = 0.0
        >>> opt.step([np.ones(2), np.ones(2)])
        >>> body, head
        (array([1., 1.]), array([0.5, 0.5]))
    """

    def __init__(
        self, optimizer: HasHyper, params: list[Param], structure: Structure, hyper: Mapping[str, Any]
    ) -> None:
        self._optimizer = optimizer
        self._hyper: dict[str, float | None] = {}  # None: as the one that it follows
        self._schedules: dict[str, Any] = {}
        self.params = params
        self.structure = structure
        # What is narrower than float32 is computed in it.
        self._is_single = any(param.array.dtype.itemsize <= 4 for param in params)
        for name, value in hyper.items():
            self._set(name, *self._checked(name, value))

    def __setattr__(self, name: str, value: Any) -> None:
        # An attribute would change nothing.
        if not name.startswith("_") and (name not in ("params", "structure") or name in vars(self)):
            raise AttributeError(
                f"{name}: a group is a dict, whose values are set by their keys, {', '.join(self)}: "
                "groups[0]['lr'] = 0.1"
            )
        super().__setattr__(name, value)

    def check(self, name: str, value: Any) -> tuple[float | None, Any]:
        """The arguments of ``_set`` that set `name` to ``value``, checked; nothing is set."""
        if name not in self._hyper:
            raise KeyError(f"{name}: expected one of {', '.join(self._hyper)}")
        return self._checked(name, value)

    def _checked(self, name: str, value: Any) -> tuple[float | None, Any]:
        """The value of the next step, and the schedule if ``value`` is one."""
        hyper = self._optimizer._hyper_of(name)
        if callable(value) and hyper.scheduled:
            return self._value(name, value, self._optimizer.t + 1), value
        return hyper.check(value, self._is_single), None

    def _value(self, name: str, schedule: Any, t: int) -> float | None:
        return self.check_number(name, schedule(t))

    def check_number(self, name: str, value: Any) -> float | None:
        """The number that a state dict sets `name` to; it may be what a fading schedule has come to."""
        hyper = self._optimizer._hyper_of(name)
        return hyper.check(value, self._is_single, may_vanish=hyper.scheduled)

    def _set(self, name: str, value: float | None, schedule: Any) -> None:
        self._hyper[name] = value
        if schedule is None:
            self._schedules.pop(name, None)
        else:
            self._schedules[name] = schedule

    def values_with(self, changed: Mapping[str, float | None], names: Iterable[str]) -> list[float]:
        """The values of these names, with the changed ones in the place of those that are set."""
        values = {**self._hyper, **changed}
        return [self._follow(values, name) for name in names]

    def _follow(self, values: Mapping[str, float | None], name: str) -> float:
        value = values[name]
        if value is None:
            followed = self._optimizer._hyper_of(name).follows
            assert followed is not None
            value = self._follow(values, followed)
        return value

    def scheduled(self, t: int) -> dict[str, float | None]:
        """The values at step t of what follows a schedule; nothing is set."""
        return {name: self._value(name, schedule, t) for name, schedule in self._schedules.items()}

    def __getitem__(self, name: str) -> float:
        return self._follow(self._hyper, name)

    def __setitem__(self, name: str, value: Any) -> None:
        set_together([(self, name, self.check(name, value))], self._optimizer._refresh_hyper)

    def __delitem__(self, name: str) -> None:
        raise TypeError("a hyper-parameter cannot be deleted; set it instead")

    def __iter__(self) -> Iterator[str]:
        return iter(self._hyper)

    def __len__(self) -> int:
        return len(self._hyper)

    def __copy__(self) -> dict[str, float]:
        """The values as they are now: a second view of the group would set the optimizer's."""
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Group | dict[str, float]:
        """The group of the optimizer's copy while one is made, else as ``copy.copy``."""
        if id(self._optimizer) not in memo:
            return dict(self)
        memo[id(self)] = twin = Group.__new__(Group)
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def __repr__(self) -> str:
        return f"Group({dict(self)!r})"


def set_together(
    checked: Iterable[tuple[Group, str, tuple[float | None, Any]]], refresh: Callable[[], None]
) -> None:
    """Sets checked values, then calls ``refresh``; if that fails, all values are as they were before."""
    checked = list(checked)
    before = [(g, name, (g._hyper[name], g._schedules.get(name))) for g, name, _ in checked]
    try:
        for group, name, found in checked:
            group._set(name, *found)
        refresh()
    except BaseException:
        for group, name, found in before:
            group._set(name, *found)
        refresh()
        raise


def scheduled_hyper(
    groups: Sequence[Group], names: Sequence[str], t: int
) -> tuple[list[dict[str, float | None]], list[float]]:
    """What the schedules of each group give for step t, and the values of all groups with these."""
    scheduled = [group.scheduled(t) for group in groups]
    pairs = zip(groups, scheduled, strict=True)
    return scheduled, [value for group, given in pairs for value in group.values_with(given, names)]


def flatten_gradients(groups: Sequence[Group], grads: Any) -> Any:
    """The gradients of all groups as a sequence, one for each parameter; ``grads``: an entry a group."""
    if not isinstance(grads, (list, tuple)) or len(grads) != len(groups):
        got = len(grads) if isinstance(grads, (list, tuple)) else type(grads).__name__
        raise ValueError(f"grads: got {got}, expected a list of {len(groups)}, one entry a group")
    flat: list[Any] = []
    for group, given in zip(groups, grads, strict=True):
        flat += [None] * len(group.params) if given is None else group.structure.flatten(given)
    return flat
