"""State dicts: everything of an optimizer but its parameters, as plain numbers, strings and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backends import arrays, cpu
from ..backends.arrays import Array
from ..backends.options import Options
from .groups import Group
from .owner import Owner
from .param import READ_ONLY_FIX

# Contract versions whose steps have the bits of this one: version 2 added to the first and changed none.
_SAME_STEPS = (1, cpu.CONTRACT)


def facts_of(optimizer: Owner) -> dict[str, Any]:
    """All entries of the state dict but the arrays."""
    hypers = [dict(group._hyper) for group in optimizer.groups]
    return {
        "contract": cpu.CONTRACT,
        "rule": optimizer.rule,
        "options": optimizer.options.arguments(),
        "t": optimizer.t,
        "steps": optimizer.steps,
        "hyper": hypers[0] if len(hypers) == 1 else hypers,
    }


def check_state_dict(optimizer: Owner, state_dict: Mapping[str, Any]) -> list[dict[str, float | None]]:
    """Raises unless ``state_dict`` fits the optimizer; returns the hyper-parameters of each group."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: got {type(state_dict).__name__}, expected a dict")
    _expect_keys("state_dict", state_dict, optimizer.state_dict_keys)
    _expect_one_of("state_dict['contract']", state_dict["contract"], _SAME_STEPS)
    _expect("state_dict['rule']", state_dict["rule"], optimizer.rule)
    _check_options(optimizer.options, state_dict["options"])
    _check_steps(len(optimizer.steps), state_dict["t"], state_dict["steps"])
    hypers = _check_hyper(optimizer.groups, state_dict["hyper"])
    _check_states(optimizer.state, state_dict["state"])
    return hypers


def _check_options(own: Options, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"state_dict['options']: got {type(given).__name__}, expected a dict")
    # An option that came later is off in what was saved before; copy_grads is of this run alone.
    saved, expected = {**Options().arguments(), **given}, own.arguments()
    _expect("state_dict['options']", {**saved, "copy_grads": expected["copy_grads"]}, expected)


def _check_steps(n_params: int, t: Any, steps: Any) -> None:
    _expect_length("state_dict['steps']", steps, n_params)
    for count in (t, *steps):
        whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
        if not whole or not 0 <= count < 2**62:
            raise ValueError(f"state_dict: got step count {count!r}, expected a whole number >= 0")


def _check_hyper(groups: Sequence[Group], given: Any) -> list[dict[str, float | None]]:
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"state_dict['hyper']: got {type(given).__name__}, expected a dict or a list")
    _expect("number of groups in state_dict['hyper']", len(given), len(groups))
    hypers = []
    for group, hyper in zip(groups, given, strict=True):
        _expect_keys("state_dict['hyper']", hyper, group)
        hypers.append({name: group.check_number(name, value) for name, value in hyper.items()})
    return hypers


def _check_states(own: Mapping[str, list[Array]], given: Any) -> None:
    _expect_keys("state_dict['state']", given, own)
    for name, states in own.items():
        what = f"state_dict['state'][{name!r}]"
        _expect_length(what, given[name], len(states))
        for i, (new, old) in enumerate(zip(given[name], states, strict=True)):
            arrays.check_writeable(f"state[{name!r}][{i}]", old, READ_ONLY_FIX)
            if not isinstance(new, np.ndarray):
                raise TypeError(f"{what}[{i}]: got {type(new).__name__}, expected a NumPy array")
            _expect(
                f"dtype and shape of {what}[{i}]",
                (str(new.dtype), new.shape),
                (str(old.dtype), old.shape),
            )


def _expect(what: str, got: Any, expected: Any) -> None:
    if isinstance(got, np.ndarray) or got != expected:  # an array's != would compare each element
        raise ValueError(f"{what}: got {got!r}, expected {expected!r}")


def _expect_one_of(what: str, got: Any, expected: Sequence[int]) -> None:
    if not isinstance(got, int) or got not in expected:
        raise ValueError(f"{what}: got {got!r}, expected {' or '.join(map(str, expected))}")


def _expect_keys(what: str, got: Any, expected: Any) -> None:
    if not isinstance(got, Mapping):
        raise TypeError(f"{what}: got {type(got).__name__}, expected a dict")
    if set(got) != set(expected):
        raise ValueError(f"keys of {what}: got {list(got)}, expected {sorted(expected)}")


def _expect_length(what: str, got: Any, expected: int) -> None:
    if not isinstance(got, (list, tuple)) and not (isinstance(got, np.ndarray) and got.ndim == 1):
        raise TypeError(f"{what}: got {type(got).__name__}, expected a list")
    _expect(f"length of {what}", len(got), expected)
