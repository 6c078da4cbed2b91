"""How groups of parameters are added to an optimizer: all of them or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import backends
from ..backends import arrays
from ..backends.options import Options
from .gradients import Structure
from .groups import Group
from .hyper import pair
from .owner import Owner
from .param import Param, check_disjoint, check_layouts, check_storage


def add_groups(optimizer: Owner, given: Sequence[Mapping[str, Any]]) -> None:
    """Adds these groups with their states, or on an error none of them."""
    optimizer._settle()
    before = {**vars(optimizer), "groups": list(optimizer.groups)}
    n_params, n_files = len(optimizer._params), len(optimizer._store.files)
    check_layouts(optimizer._params)
    try:
        for group in given:
            _add_group(optimizer, group)
        check_disjoint(optimizer._params)
        optimizer._store.make_states(optimizer._params, n_params, optimizer._module)
        optimizer._bind()
    except BaseException:
        optimizer._store.remove_files(n_files)
        vars(optimizer).update(before)
        raise


def is_grouped(params: Any) -> bool:
    """Whether ``params`` is a list of groups: dicts with the key "params"."""
    return (
        isinstance(params, (list, tuple))
        and bool(params)
        and all(isinstance(entry, Mapping) and "params" in entry for entry in params)
    )


def _add_group(optimizer: Owner, given: Mapping[str, Any]) -> None:
    """Adds a group whose parameters have no states yet."""
    default = optimizer._default_hyper
    hyper = {**default, **_hyper_arguments(given, default)}
    i = len(optimizer.groups)
    names = ("params", "grads")
    if optimizer._grouped or i > 0:
        names = (f"params[{i}]['params']", f"grads[{i}]")
    first, folder = optimizer._params[:1], optimizer._store.folder
    backend, params = _make_params(
        given["params"], names, optimizer.backend, first, optimizer.options, folder
    )
    if optimizer.backend == "auto":  # the first parameter tells
        optimizer.backend = backend
    structure = Structure(given["params"], len(params), names[1])
    optimizer.groups.append(Group(optimizer, params, structure, hyper))
    counts = np.zeros(len(params), np.int64)
    optimizer._steps = np.concatenate([optimizer._steps[:-1], counts, optimizer._steps[-1:]])


def _make_params(
    given: Any,
    names: tuple[str, str],
    backend: str,
    first: Sequence[Param],
    options: Options,
    folder: str | None,
) -> tuple[str, list[Param]]:
    """The parameters of one group and the backend that steps them.

    Args:
        given: an array, or nested lists, tuples and dicts of arrays.
        names: of ``given`` and of its gradients.
        backend: the constructor's argument, or that of the groups before.
        first: the optimizer's first parameter, if there is one: all others are where it is.
        options, folder: of the optimizer's states.

    Raises:
        TypeError, ValueError: an array cannot be updated in place, or not under these options.
    """
    found, paths = arrays.flatten(given, names[0])
    if not found:
        raise ValueError(f"{names[0]}: got none, expected at least one array")
    bound = {param.name: param.array for param in first}
    backend, seen = backends.choose_backend(backend, bound, dict(zip(paths, found, strict=True)))
    if backend == "cuda":
        backends.module(backend).check_state_dir(folder)
    params = []
    for path, w in zip(paths, seen[len(bound) :], strict=True):
        arrays.check_inplace(path, w, halves=True)
        check_storage(path, w, options)
        params.append(Param(path, names[1] + path.removeprefix(names[0]), w))
    return backend, params


def _hyper_arguments(group: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a group as it was given, by their own names; ``betas`` are two of them."""
    given = {name: value for name, value in group.items() if name != "params"}
    if "betas" in given and "beta1" in expected:
        given["beta1"], given["beta2"] = pair(given.pop("betas"))
    for name in given:
        if name not in expected:
            raise ValueError(f"params: a group has the key {name!r}, expected some of {', '.join(expected)}")
    return given
