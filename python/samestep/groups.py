"""Parameter groups: which parameters share hyper-parameters, and the structure in which gradients come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from . import arrays
from .arrays import Array

if TYPE_CHECKING:
    from .optimizer import Optimizer


class Group(MutableMapping[str, float]):
    """The hyper-parameters of one group, by name; settable at any time.

    ``lr`` may be set to a callable of t = 1, 2, ..., see ``samestep.schedules``; reading it gives the
    value of the last step. What is set to None follows another, as ``momentum_next`` does ``momentum``,
    and reads like it.

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

    def __init__(self, optimizer: Optimizer, params: GroupParams, hyper: Mapping[str, Any]) -> None:
        self._optimizer = optimizer
        self._hyper: dict[str, float | None] = {}  # None: as the one that it follows
        self._schedules: dict[str, Any] = {}
        self.params = params
        for name, value in hyper.items():
            self._set(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        # An attribute would change nothing.
        if not name.startswith("_") and (name != "params" or "params" in vars(self)):
            raise AttributeError(
                f"{name}: a group is a dict, whose values are set by their keys, {', '.join(self)}: "
                "groups[0]['lr'] = 0.1"
            )
        super().__setattr__(name, value)

    def _set(self, name: str, value: Any) -> None:
        checked = self._optimizer._hyper_of(name)
        if callable(value) and checked.scheduled:
            self._hyper[name] = checked.check(value(self._optimizer.t + 1))
            self._schedules[name] = value
        else:
            self._hyper[name] = checked.check(value)
            self._schedules.pop(name, None)

    def scheduled(self, t: int) -> dict[str, float | None]:
        """The values at step t of what follows a schedule; nothing is set."""
        return {
            name: self._optimizer._hyper_of(name).check(schedule(t))
            for name, schedule in self._schedules.items()
        }

    def __getitem__(self, name: str) -> float:
        value = self._hyper[name]
        if value is None:
            followed = self._optimizer._hyper_of(name).follows
            assert followed is not None
            value = self[followed]
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._hyper:
            raise KeyError(f"{name}: expected one of {', '.join(self._hyper)}")
        self._set(name, value)
        self._optimizer._refresh_hyper()

    def __delitem__(self, name: str) -> None:
        raise TypeError("a hyper-parameter cannot be deleted; set it instead")

    def __iter__(self) -> Iterator[str]:
        return iter(self._hyper)

    def __len__(self) -> int:
        return len(self._hyper)

    def __repr__(self) -> str:
        return f"Group({dict(self)!r})"


class GroupParams:
    """An array, or a list, tuple or dict of arrays, and how gradients for it are taken apart."""

    def __init__(self, params: Any, name: str, grads_name: str) -> None:
        self._single = arrays.is_array(params)
        self.arrays: list[Array]
        self.arrays, self.names, self._keys = arrays.flatten(params, name)
        self._grads_name = grads_name
        self.grads_names = [grads_name + given.removeprefix(name) for given in self.names]
        if not self.arrays:
            raise ValueError(f"{name}: got none, expected at least one array")

    def flatten(self, grads: Any) -> Any:
        """The gradients as a sequence, one for each array, or an error that says what is wrong."""
        name = self._grads_name
        if self._single:
            return (grads,)
        if self._keys is not None:
            return self._by_key(grads, self._keys)
        if not isinstance(grads, (list, tuple)):
            raise TypeError(f"{name}: got {type(grads).__name__}, expected a list or tuple like params")
        if len(grads) != len(self.arrays):
            raise ValueError(
                f"{name}: got {len(grads)} gradients, expected {len(self.arrays)}, one for each "
                "parameter (None for those to skip)"
            )
        return grads

    def unflatten(self, grads: list[Array]) -> Any:
        """The gradients in the structure of the parameters."""
        if self._keys is not None:
            return dict(zip(self._keys, grads, strict=True))
        return grads[0] if self._single else grads

    def _by_key(self, grads: Any, keys: list[Any]) -> list[Any]:
        name = self._grads_name
        if not isinstance(grads, Mapping):
            raise TypeError(f"{name}: got {type(grads).__name__}, expected a dict like params")
        for key in (*grads, *keys):
            if key not in grads or key not in keys:
                where = "params" if key in grads else "grads"
                raise ValueError(f"{name}: key {key!r} is not in {where}; expected params' own keys")
        return [grads[key] for key in keys]


def is_grouped(params: Any) -> bool:
    """Whether ``params`` is a list of groups: dicts with the key "params"."""
    return (
        isinstance(params, (list, tuple))
        and bool(params)
        and all(isinstance(entry, Mapping) and "params" in entry for entry in params)
    )
