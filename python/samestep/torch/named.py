"""What a record calls the parameters, hyper-parameters and class of a torch optimizer."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Names = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]

# How torch computes a step, not what: equal runs have equal files whatever is chosen.
HOW = {"capturable", "differentiable", "foreach", "fused"}


def params_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters, each once."""
    return list({id(p): p for group in optimizer.param_groups for p in group["params"]}.values())


def names_of(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], names: Names | None) -> list[str]:
    """What the parameters are called."""
    called: dict[int, str] = {}
    for i, group in enumerate(optimizer.param_groups):
        told = group.get("param_names") or [f"params[{i}][{k}]" for k in range(len(group["params"]))]
        for param, name in zip(group["params"], told, strict=True):
            called.setdefault(id(param), name)
    if names is not None:
        pairs = names.items() if isinstance(names, Mapping) else names
        given = {id(tensor): name for name, tensor in pairs}
        nameless = [called[id(param)] for param in params if id(param) not in given]
        if nameless:
            raise ValueError(f"names: got none for {nameless[0]}, expected one for every parameter")
        called = given
    found = [called[id(param)] for param in params]
    for name in found:
        if not isinstance(name, str):
            raise TypeError(f"names: got {name!r}, expected a str for every parameter")
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise ValueError(f"names: got {twice!r} for two parameters, expected a name for each")
    return found


def hyper_of(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a group as JSON has them: of ``betas=(a, b)``, ``beta1`` and ``beta2``."""
    found: dict[str, Any] = {}
    for name in defaults:
        value = group.get(name)
        if name not in HOW and isinstance(value, (tuple, list)):
            found |= {f"{name.removesuffix('s')}{i}": _number(one) for i, one in enumerate(value, 1)}
        elif name not in HOW and isinstance(value, (bool, int, float, Tensor)):
            found[name] = _number(value)
    return found


def _number(value: Any) -> bool | int | float | str:
    plain: bool | int | float = value.item() if isinstance(value, Tensor) else value
    return plain if math.isfinite(plain) else str(plain)  # which JSON has no number for


def public_name(kind: type) -> str:
    """The name by which a class is imported: "torch.optim.Adam", wherever it is defined."""
    parts = kind.__module__.split(".")
    modules = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    public = [m for m in modules if getattr(sys.modules.get(m), kind.__qualname__, None) is kind]
    return f"{public[0] if public else kind.__module__}.{kind.__qualname__}"
