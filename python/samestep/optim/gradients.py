"""Gradients: the structure in which they come, and how each fits the parameter that it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import backends
from ..arguments import check_rounded, finite_number
from ..backends import arrays
from ..backends.arrays import Array
from .param import Param, written


class Structure:
    """How parameters are nested in lists, tuples and dicts, and gradients like them.

    Args:
        params: an array, or nested lists, tuples and dicts of arrays.
        n_params: how many arrays these are.
        grads_name: what errors call the gradients.
    """

    def __init__(self, params: Any, n_params: int, grads_name: str) -> None:
        self._n_params = n_params
        self._structure = _structure(params)
        # A plain list or tuple, which most are: its gradients need no walk.
        self._is_flat_list = self._structure == [None] * n_params
        self._grads_name = grads_name

    def flatten(self, grads: Any) -> Any:
        """The gradients as a sequence, one for each array, or an error that says what is wrong."""
        if self._structure is None:
            return (grads,)
        if self._is_flat_list and isinstance(grads, (list, tuple)) and len(grads) == self._n_params:
            return grads
        return list(_walk(self._structure, grads, self._grads_name))

    def unflatten(self, grads: list[Array]) -> Any:
        """The gradients in this structure."""
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
    """The number of arrays in a structure."""
    if structure is None:
        return 1
    return sum(map(_count, structure.values() if isinstance(structure, dict) else structure))


def copy_into_layouts(grads: Sequence[Any], params: Sequence[Param], module: Any) -> tuple[list[Any], int]:
    """The gradients, each in its parameter's layout, and how many bytes were copied for that.

    ``module``: of the backend.
    """
    out, copied = module.gradient_views(grads, params[0].array), 0
    for i, (g, param) in enumerate(zip(out, params, strict=True)):
        if g is not None and arrays.has_other_order(g, param.array):
            out[i] = module.empty_like(param.array)
            out[i][...] = g
            copied += g.nbytes
    return out, copied


def check_gradients(
    grads: Sequence[Any], params: Sequence[Param], backend: str, zero_grads: bool
) -> list[Any]:
    """The gradients as plain arrays, or an error that says why a plan refuses one of them."""
    names = [param.grad_name for param in params]
    given = dict(zip(names, grads, strict=True))
    read = {params[0].name: params[0].array}
    chosen = (read, given) if zero_grads else ({**read, **given},)
    _, (_, *grads) = backends.choose_backend(backend, *chosen)
    extents = arrays.extents(a for _, a, _ in written(params))
    for g, param in zip(grads, params, strict=True):
        error = g is not None and arrays.gradient_error(param.grad_name, g, param.layout, extents)
        if error:
            raise error
    plain = [np.asarray(g) if isinstance(g, np.ndarray) else g for g in grads]
    if zero_grads:
        zeroed = [(name, g) for name, g in zip(names, plain, strict=True) if g is not None]
        for name, g in zeroed:
            arrays.check_inplace(name, g, halves=True)
        arrays.check_disjoint(zeroed)
    return plain


def check_scale(value: Any, is_single: bool) -> float:
    """A factor of all gradients: a finite number. ``is_single``: some of them are multiplied in float32."""
    scale = finite_number("scale", value)
    if is_single:
        check_rounded("scale", scale, np.float32)
    return scale


def first_nonfinite(grads: Sequence[Any], params: Sequence[Param], module: Any) -> str:
    """The name of the first gradient that holds an infinity or NaN. ``module``: of the backend."""
    for g, param in zip(module.gradient_views(grads, params[0].array), params, strict=True):
        if g is not None and not np.isfinite(module.to_host(g).astype(float)).all():
            return param.grad_name
    return "grads"
