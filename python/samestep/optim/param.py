"""A parameter, the states that a step writes with it, and how all of these lay when they were bound."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..arguments import check_rounded
from ..backends import arrays
from ..backends.arrays import Array, Layout
from ..backends.face import Tensor
from ..backends.options import Options
from ..optional import require

READ_ONLY_FIX = "set its flag, or step copy.deepcopy(optimizer) and its params"


class Param:
    """One parameter of an optimizer.

    Attributes:
        name, grad_name: how errors name it, and its gradient.
        array: the caller's own array.
        states: the states of the rule, then what options keep for the parameter ("ema", "master", "low",
            "copy"), by name.
        first: of the whole array's elements the first that is here; a worker's part begins later.
        layout, state_layouts: how these lay when they were bound. Kernels walk what was bound.
    """

    def __init__(self, name: str, grad_name: str, array: Any) -> None:
        self.name = name
        self.grad_name = grad_name
        self.array: Array = array
        self.states: dict[str, Array] = {}
        self.first = 0

    def remember_layouts(self) -> None:
        self.layout = Layout.of(self.array)
        self.state_layouts = {name: Layout.of(state) for name, state in self.states.items()}

    def tensor(self, rule_states: Sequence[str], group: int) -> Tensor:
        """The parameter of that group as a plan binds it."""
        ema, master, low, copy = (self.states.get(name) for name in ("ema", "master", "low", "copy"))
        states = [self.states[name] for name in rule_states]
        return Tensor(self.array, states, group, ema, master, low, copy, self.first)

    def widened(self, module: Any) -> Array:
        """A copy of the parameter in the type of the arithmetic, by a function of the backend's module."""
        widened: Array = module.widened(self.states.get("master", self.array), self.states.get("low"))
        return widened

    def moved_bytes(self, options: Options) -> int:
        """Bytes that a step moves: g is read, w and states are read and written; a copy is only written, and
        so is w where a master is kept.
        """
        of_w = (2 if options.master == "float32" else 3) + bool(options.zero_grads)
        of_states = sum((1 if name == "copy" else 2) * s.nbytes for name, s in self.states.items())
        return of_w * self.array.nbytes + of_states


def written(params: Sequence[Param]) -> Iterator[tuple[str, Array, Layout]]:
    """What a step writes: every array with its name and the layout in which it was bound."""
    for param in params:
        yield param.name, param.array, param.layout
    for name in params[0].states if params else ():
        for i, param in enumerate(params):
            yield f"state[{name!r}][{i}]", param.states[name], param.state_layouts[name]


def check_layouts(params: Sequence[Param]) -> None:
    """Raises unless everything that a step writes lies as it was bound."""
    for name, a, bound in written(params):
        arrays.check_bound(name, a, bound)


def check_writeable(params: Sequence[Param]) -> None:
    """Raises unless a step can write all arrays: they lie as they were bound, aligned and writeable."""
    check_layouts(params)
    for name, a, _ in written(params):
        arrays.check_writeable(name, a, READ_ONLY_FIX)
        arrays.check_aligned(name, a)
    check_disjoint(params)


def check_disjoint(params: Sequence[Param]) -> None:
    """Raises if two parameters share memory."""
    arrays.check_disjoint((param.name, param.array) for param in params)


def check_storage(name: str, w: Array, options: Options) -> None:
    """Raises if the type or layout of a parameter is not one that the options are for."""
    if options.master == "split" and w.dtype.name != "bfloat16":
        raise TypeError(f"{name}: got {w.dtype}, expected bfloat16 for master='split'")
    if options.master == "float32" and not arrays.is_half(w):
        raise TypeError(f"{name}: got {w.dtype}, expected 16 bits for master='float32'")
    if options.copy_dtype is not None and w.dtype != np.float32:
        raise TypeError(f"{name}: got {w.dtype}, expected float32 for a copy in {options.copy_dtype}")
    if options.stochastic_rounding is not None:
        if w.dtype.name != "bfloat16":
            raise TypeError(f"{name}: got {w.dtype}, expected bfloat16 for stochastic_rounding")
        if not w.flags.c_contiguous:
            raise ValueError(f"{name}: its elements are not in C order, in which they are rounded")
    T = np.float32 if w.dtype.itemsize <= 4 else np.float64
    for name in ("clip_value", "clip_norm"):
        limit = getattr(options, name)
        if limit is not None:  # beyond the largest number of T it is none
            check_rounded(name, min(limit, 1.0), T)
    if options.ema is not None:
        check_rounded("ema", options.ema, T, below=1.0)


class StateStore:
    """Makes the first states of parameters: in memory, or as files that are mapped into it.

    Args:
        rule_states: the names of the rule's states.
        initial: what a state starts at, by name; the others start at 0.
        folder: where the files are; None: in memory.

    Attributes:
        names: of all states of a parameter, in the order of the state dict.
        files: the paths of those made so far.
    """

    def __init__(
        self, rule_states: Sequence[str], options: Options, initial: Mapping[str, float], folder: str | None
    ) -> None:
        kept = {
            "ema": options.ema,
            "master": options.master == "float32",
            "low": options.master == "split",
            "copy": options.copy_dtype,
        }
        self.names = [*rule_states, *(name for name, is_asked in kept.items() if is_asked)]
        self.options = options
        self.initial = dict(initial)
        self.folder = folder
        self.files: list[str] = []

    def in_memory(self) -> StateStore:
        """The store of an optimizer's copy, whose states lie in main memory."""
        twin = StateStore([], self.options, self.initial, None)
        twin.names = self.names
        return twin

    def make_states(self, params: Sequence[Param], first: int, module: Any) -> None:
        """Gives the parameters from that number on their states, with functions of the backend's module."""
        for name in self.names:
            for i in range(first, len(params)):
                params[i].states[name] = self._first_state(name, i, params[i].array, module)
        for param in params[first:]:
            param.remember_layouts()

    def remove_files(self, first: int = 0) -> None:
        for path in self.files[first:]:
            try:
                os.unlink(path)
            except PermissionError:
                if sys.platform != "win32":  # where a file that is still mapped stays
                    raise
        del self.files[first:]

    def _first_state(self, name: str, i: int, w: Array, module: Any) -> Array:
        dtype = self._dtype_of(name, w)
        state: Array
        if self.folder is None or w.size == 0:
            state = module.zeros_like(w, dtype)
        else:
            path = os.path.join(self.folder, f"{name}.{i}")
            state = _mapped_like(path, w, dtype)
            self.files.append(path)
        if name in ("ema", "master", "copy"):
            with np.errstate(all="ignore"):
                module.assign(state, w)
        elif name in self.initial:
            check_rounded("initial_accumulator", self.initial[name], dtype)
            module.assign(state, self.initial[name])
        return state

    def _dtype_of(self, name: str, w: Array) -> Any:
        if name == "low":
            return np.dtype(np.uint16)
        if name == "copy":
            return np.dtype(_half_type(self.options.copy_dtype))
        if arrays.is_half(w) and (self.options.state_dtype == "float32" or name in ("ema", "master")):
            return np.dtype(np.float32)
        return w.dtype


def _mapped_like(path: str, a: Array, dtype: Any) -> Array:
    """Zeros with the shape and layout of a dense ``a`` that is not empty, in a new file of that name.

    Raises:
        FileExistsError: there is one already; to cut it off would end a process that has it mapped.
    """
    order = sorted(range(a.ndim), key=lambda d: -a.strides[d])
    try:
        file = open(path, "x+b")  # noqa: SIM115
    except FileExistsError:
        raise FileExistsError(
            f"state_dir: the file {path} is there already, expected none of that name; remove it if no "
            "optimizer needs it, or name another folder"
        ) from None
    try:
        with file:
            mapped: Array = np.memmap(file, dtype, "w+", shape=tuple(a.shape[d] for d in order) or (1,))
    except BaseException:
        os.unlink(path)
        raise
    return mapped.transpose(np.argsort(order)) if a.ndim else mapped.reshape(())


def _half_type(name: str | None) -> Any:
    if name == "bfloat16":
        return require("ml_dtypes", "bfloat16", "bfloat16").bfloat16
    return np.float16
