"""The attributes of an optimizer that the other modules of this package use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ..backends.arrays import Array
from ..backends.options import Options
from ..ledger.writer import Ledger
from .groups import Group
from .hyper import Hyper
from .param import Param, StateStore


class Owner(Protocol):
    """An ``Optimizer``."""

    state_dict_keys: ClassVar[Sequence[str]]
    rule: str
    form: str | None
    variant: str | None
    backend: str
    options: Options
    groups: list[Group]

    _grouped: bool
    _decides: bool
    _default_hyper: dict[str, Any]
    _has_schedules: bool
    _hyper_names: tuple[str, ...]
    _hyper_values: list[float]
    _plan: Any
    _skipped: bool
    _state_names: tuple[str, ...]
    _steps: Array
    _store: StateStore
    _times_steps: bool
    _ledger: Ledger | None
    _step_sums: Any  # optim.recorded.StepSums, or None

    @property
    def t(self) -> int: ...

    @property
    def steps(self) -> list[int]: ...

    @property
    def state(self) -> dict[str, list[Array]]: ...

    @property
    def _module(self) -> Any: ...

    @property
    def _params(self) -> list[Param]: ...

    def _hyper_of(self, name: str) -> Hyper: ...

    def _refresh_hyper(self) -> None: ...

    def _bind(self) -> None: ...

    def _settle(self) -> None: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None: ...
