"""Parameter groups: which parameters share hyper-parameters, and the structure in which gradients come."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Protocol

from ..backends import arrays
from ..backends.arrays import Array
from .hyper import Hyper


class Owner(Protocol):
    """What a group asks of its optimizer."""

    @property
    def t(self) -> int: ...

    def _hyper_of(self, name: str) -> Hyper: ...

    def _followed(self, values: Mapping[str, float | None], name: str) -> float: ...

    def _put(self, checked: list[tuple[Group, str, tuple[float | None, Any]]]) -> None: ...


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

    def __init__(self, optimizer: Owner, params: GroupParams, hyper: Mapping[str, Any]) -> None:
        self._optimizer = optimizer
        self._hyper: dict[str, float | None] = {}  # None: as the one that it follows
        self._schedules: dict[str, Any] = {}
        self.params = params
        # What is narrower than float32 is computed in it.
        self._is_single = any(w.dtype.itemsize <= 4 for w in params.arrays)
        for name, value in hyper.items():
            self._set(name, *self._checked(name, value))

    def __setattr__(self, name: str, value: Any) -> None:
        # An attribute would change nothing.
        if not name.startswith("_") and (name != "params" or "params" in vars(self)):
            raise AttributeError(
                f"{name}: a group is a dict, whose values are set by their keys, {', '.join(self)}: "
                "groups[0]['lr'] = 0.1"
            )
        super().__setattr__(name, value)

    def check(self, name: str, value: Any) -> tuple[float | None, Any]:
        """What `name` may be set to, in the form that ``_set`` takes; nothing is set."""
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
        """What a state dict may set `name` to: no schedule, but what one that fades has come to."""
        hyper = self._optimizer._hyper_of(name)
        return hyper.check(value, self._is_single, may_vanish=hyper.scheduled)

    def _set(self, name: str, value: float | None, schedule: Any) -> None:
        self._hyper[name] = value
        if schedule is None:
            self._schedules.pop(name, None)
        else:
            self._schedules[name] = schedule

    def scheduled(self, t: int) -> dict[str, float | None]:
        """The values at step t of what follows a schedule; nothing is set."""
        return {name: self._value(name, schedule, t) for name, schedule in self._schedules.items()}

    def __getitem__(self, name: str) -> float:
        return self._optimizer._followed(self._hyper, name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._optimizer._put([(self, name, self.check(name, value))])

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


class GroupParams:
    """An array, or nested lists, tuples and dicts of arrays, and how gradients for it are taken apart."""

    def __init__(self, params: Any, name: str, grads_name: str) -> None:
        self.arrays: list[Array]
        self.arrays, self.names = arrays.flatten(params, name)
        self._structure = _structure(params)
        # A plain list or tuple, which most are: its gradients need no walk.
        self._is_flat_list = self._structure == [None] * len(self.arrays)
        self._grads_name = grads_name
        self.grads_names = [grads_name + given.removeprefix(name) for given in self.names]
        if not self.arrays:
            raise ValueError(f"{name}: got none, expected at least one array")

    def flatten(self, grads: Any) -> Any:
        """The gradients as a sequence, one for each array, or an error that says what is wrong."""
        if self._structure is None:
            return (grads,)
        if self._is_flat_list and isinstance(grads, (list, tuple)) and len(grads) == len(self.arrays):
            return grads
        return list(_walk(self._structure, grads, self._grads_name))

    def unflatten(self, grads: list[Array]) -> Any:
        """The gradients in the structure of the parameters."""
        left = iter(grads)

        def build(structure: Any) -> Any:
            if structure is None:
                return next(left)
            if isinstance(structure, dict):
                return {key: build(entry) for key, entry in structure.items()}
            return [build(entry) for entry in structure]

        return build(self._structure)


def _structure(params: Any) -> Any:
    """Dicts and lists as ``params`` nests them, with None in the place of each array."""
    if isinstance(params, Mapping):
        return {key: _structure(params[key]) for key in params}
    if isinstance(params, (list, tuple)):
        return [_structure(entry) for entry in params]
    return None


def _walk(structure: Any, grads: Any, name: str) -> Iterator[Any]:
    """The gradients in the order of the parameters; None in the place of a branch skips all of it."""
    if isinstance(structure, dict):
        if not isinstance(grads, Mapping):
            raise TypeError(f"{name}: got {type(grads).__name__}, expected a dict like params")
        for key in () if grads.keys() == structure.keys() else (*grads, *structure):
            if key not in grads or key not in structure:
                where = "params" if key in grads else "grads"
                raise ValueError(f"{name}: key {key!r} is not in {where}; expected params' own keys")
        branches = list(structure.items())
    else:
        if not isinstance(grads, (list, tuple)):
            raise TypeError(f"{name}: got {type(grads).__name__}, expected a list or tuple like params")
        if len(grads) != len(structure):
            raise ValueError(
                f"{name}: got {len(grads)} gradients, expected {len(structure)}, one for each "
                "parameter (None for those to skip)"
            )
        branches = list(enumerate(structure))
    for key, branch in branches:
        if branch is None:
            yield grads[key]
        elif grads[key] is None:
            yield from [None] * _count(branch)
        else:
            yield from _walk(branch, grads[key], f"{name}[{key!r}]")


def _count(structure: Any) -> int:
    """How many arrays there are."""
    if structure is None:
        return 1
    return sum(map(_count, structure.values() if isinstance(structure, dict) else structure))


def is_grouped(params: Any) -> bool:
    """Whether ``params`` is a list of groups: dicts with the key "params"."""
    return (
        isinstance(params, (list, tuple))
        and bool(params)
        and all(isinstance(entry, Mapping) and "params" in entry for entry in params)
    )
