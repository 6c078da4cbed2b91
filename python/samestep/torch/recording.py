"""The record of a torch optimizer's steps, of which the native step or torch's hooks tell."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import file_path, switch, whole_number
from ..backends.arrays import Array
from ..backends.cpu import CONTRACT
from ..fingerprints import fingerprint, finish
from ..ledger.records import GRADIENT, PARAMETER, Header, Path
from ..ledger.watch import watch_of_environment
from ..ledger.writer import Ledger, noted
from ..optional import require
from .binding import Binding
from .memory import STATE_DTYPES
from .named import Names, hyper_of, names_of, params_of, public_name
from .tensors import as_array, full_tensor, is_dtensor

if TYPE_CHECKING:
    from typing_extensions import Self

Found = dict[str, int]  # of one tensor: the fingerprint of each kind

STEP = "step"  # in the state: how many steps the parameter has made
NOTHING = fingerprint(np.zeros(0, np.float32))  # of a state that a parameter does not have


class Recording:
    """The record of a torch optimizer's steps: see ``samestep.torch.record``.

    A context manager: at its end, no further step is recorded.

    Attributes:
        path: of the file.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        path: Path,
        *,
        names: Names | None,
        every: int,
        state: bool,
        sync: bool,
        merkle: bool,
        append: bool,
    ) -> None:
        self.path = file_path("path", path)
        self._optimizer = optimizer
        self._every = whole_number("every", every, at_least=1)
        self._has_state = switch("state", state)
        self._how = {
            "sync": switch("sync", sync),
            "merkle": switch("merkle", merkle),
            "append": switch("append", append),
        }
        self._params = params_of(optimizer)
        self._ids = list(map(id, self._params))
        self._names = names_of(optimizer, self._params, names)
        for name, param in zip(self._names, self._params, strict=True):
            if param.dtype not in STATE_DTYPES:
                raise TypeError(f"{name}: got {param.dtype}, expected one of {_listed(STATE_DTYPES)}")
        self._watch = watch_of_environment()
        if self._watch is None:  # else the file goes elsewhere
            _check_path(self.path, append)
        self._ledger: Ledger | None = None  # until the first step has shown which states there are
        self._extras: dict[str, str] = {}
        self._is_closed = False
        self._process = os.getpid()
        self._at = 0  # how many steps have been made
        self._is_sure = False  # of that; not while a step is being made, which may be broken off
        # Of the step that is being made.
        self._start: list[Found] | None = None  # what it began with, where the ledger does not say that yet
        self._start_arrays: list[dict[str, Array]] = []  # of which these are, if somebody is to look at them
        self._hyper: list[dict[str, Any]] = []
        self._is_due = False
        self._stepped: list[bool] | None = None  # whether each has a gradient; None: it is not known yet
        self._given: dict[int, int] = {}  # the gradients' fingerprints but for those of native sums, by row
        self._watched: list[Array | None] = []  # the gradients, if somebody is to look at them
        self._native: list[_NativeSums] = []
        self._bindings: list[Binding] = []  # of which these sums are
        self._apart: list[int] = []  # the rows of which they are not
        self._hooks = [optimizer.register_load_state_dict_post_hook(self._ask_states)]

    def note(self, **extras: Any) -> None:
        """Has the next line hold more: a number, such as the loss, or the fingerprint of a tensor or array.

        Args:
            extras: by name, numbers, tensors or arrays, such as a batch norm's ``running_mean``.

        Raises:
            TypeError, ValueError: one is none of these, or the recording is closed; nothing is noted.
        """
        if self.is_closed:
            raise ValueError(
                f"recording: {self.path} is closed, or was opened by a parent process; make another one"
            )
        for name, value in extras.items():
            if isinstance(value, Tensor):
                extras[name] = value.item() if value.ndim == 0 else values_of(value)
        if self._ledger is None:
            self._extras.update(noted(extras))
        else:
            self._ledger.note(**extras)

    def close(self) -> None:
        """Ends the file. What the optimizer does from now on is not recorded."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if vars(self._optimizer).get("_recording") is self:
            del self._optimizer._recording
        self._is_closed = True
        if self._ledger is not None:
            self._ledger.close()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is recorded; in a child process nothing is, for the file is its parent's."""
        return self._is_closed or os.getpid() != self._process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- by hooks ----

    def hook(self) -> None:
        """Has torch tell of every step of the optimizer."""
        self._before = self._optimizer.register_step_pre_hook(self._before_step)
        self._hooks += [self._before, self._optimizer.register_step_post_hook(self._after_step)]

    def _before_step(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.is_closed:
            return
        closure = (*args[1:], kwargs.get("closure"))[0]  # the first of args is the optimizer
        self.begin()
        # Gradients are made by the closure, if there is one, and by later hooks, such as those of ddp.
        is_last = next(reversed(self._optimizer._optimizer_step_pre_hooks)) == self._before.id
        if closure is None and is_last:
            self._take_gradients()

    def _after_step(self, *_: Any) -> None:
        if self.is_closed:
            return
        if self._stepped is None:
            self._take_gradients()
        self.end()

    def _ask_states(self, _: Any) -> None:
        self._is_sure = False

    # ---- a step ----

    def begin(self) -> None:
        """Notes what a step begins with.

        Raises:
            ValueError: the optimizer has got other parameters; no step should be made.
        """
        if list(map(id, params_of(self._optimizer))) != self._ids:
            raise ValueError(
                f"params: other ones than {self.path} records; end it with close() first, and record into "
                "another file"
            )
        self._start = None
        if not self._is_sure or self._ledger is None:
            self._at = self._steps_made()
            self._start = [self._left_by(param) for param in self._params]
            if self._watch is not None and self._watch.ends_at(self.path, self._at):
                self._start_arrays = [
                    {PARAMETER: values_of(p).copy()}
                    | {k: values_of(v).copy() for k, v in self._states_of(p).items()}
                    for p in self._params
                ]
        self._is_sure = False
        self._hyper = [hyper_of(group, self._optimizer.defaults) for group in self._optimizer.param_groups]
        self._is_due = (self._at + 1) % self._every == 0
        self._stepped = None

    def begin_native(self, bindings: list[Binding]) -> list[Array] | None:
        """The same for a step of ``AddressedPlan``: where it is to leave sums, if it can."""
        self.begin()
        if self._ledger is None or not self._is_due:
            self._take_gradients()
            return None
        if bindings != self._bindings:
            places = {key: row for row, key in enumerate(self._ids)}
            groups = self._optimizer.param_groups
            self._native = [
                _NativeSums(binding, group["params"], self._ledger.header.kinds, places)
                for binding, group in zip(bindings, groups, strict=True)
            ]
            self._bindings = list(bindings)
            native = {row for sums in self._native for row in sums.rows}
            self._apart = [row for row in range(len(self._params)) if row not in native]
        self._take_gradients(self._apart)
        return [native.sums for native in self._native]

    def _take_gradients(self, rows: Iterable[int] | None = None) -> None:
        """Notes which parameters have gradients, and the fingerprints of these: of all, or of some rows."""
        gradients = [p.grad for p in self._params]
        self._stepped = [g is not None for g in gradients]
        self._given = {}
        if self._is_due:
            own = range(len(gradients)) if rows is None else rows
            self._given = {row: fingerprint_of(g) for row in own if (g := gradients[row]) is not None}
        self._watched = []
        if self._watch is not None and self._watch.ends_at(self.path, self._at + 1):
            self._watched = [None if g is None else values_of(g).copy() for g in gradients]

    def end(self, is_native: bool = False) -> None:
        """Writes the line of a step that has been made.

        Args:
            is_native: whether the sums of ``begin_native`` have been made.
        """
        assert self._stepped is not None
        self._at += 1
        self._write(self._stepped, is_native)
        self._is_sure = True  # unless a line could not be written: then the next one comes after a start

    def _write(self, stepped: list[bool], is_native: bool) -> None:
        """Writes what is due of a step, after a start if it needs one."""
        if self._ledger is None:
            if not any(stepped):
                return  # no state has been made: the next step may tell which there are
            self._ledger = self._open()
        kinds = self._ledger.header.kinds
        if self._start is not None:
            self._ledger.start(self._at - 1, _table(self._start, kinds))
        if self._watch is not None and self._start_arrays:
            rows = [[found.get(kind) for kind in kinds] for found in self._start_arrays]
            self._watch.end(self._ledger.path, kinds, dict(zip(self._names, rows, strict=True)))
        if not self._is_due:
            return
        table = np.zeros((len(self._params), len(kinds)), np.uint64)
        if is_native:
            for native in self._native:
                native.put(table)
        for row, g in self._given.items():
            table[row] = _table([{**self._left_by(self._params[row]), GRADIENT: g}], kinds)
        self._ledger.add(self._at, table, self._hyper, stepped=stepped)
        if self._watch is not None and self._watched:
            self._watch.end(self._ledger.path, kinds, self._arrays(kinds))

    def _arrays(self, kinds: Sequence[str]) -> dict[str, list[Array | None]]:
        """What the fingerprints of the step are of, by the names of the parameters."""
        found = {}
        for name, param, gradient in zip(self._names, self._params, self._watched, strict=True):
            states = self._states_of(param)
            left = [param, *(states.get(kind) for kind in kinds[2:])]
            found[name] = [gradient, *(None if tensor is None else values_of(tensor) for tensor in left)]
        return found

    def _open(self) -> Ledger:
        """The ledger, once the states are known."""
        states = {name for param in self._params for name in self._states_of(param)}
        tensors: dict[str, dict[str, Any]] = {}
        for i, group in enumerate(self._optimizer.param_groups):
            for param in group["params"]:
                name = self._names[next(row for row, p in enumerate(self._params) if p is param)]
                dtype = str(param.dtype).removeprefix("torch.")
                tensors.setdefault(name, {"dtype": dtype, "shape": list(param.shape), "group": i})
        kinds = (GRADIENT, PARAMETER, *sorted(states))
        header = Header(CONTRACT, public_name(type(self._optimizer)), {}, self._every, kinds, tensors)
        ledger = Ledger(self.path, header, **self._how)
        ledger.extras.update(self._extras)
        self._extras = {}
        return ledger

    def _left_by(self, param: Tensor) -> Found:
        """Of a parameter and its states as they are."""
        states = {name: fingerprint_of(value) for name, value in self._states_of(param).items()}
        return {PARAMETER: fingerprint_of(param), **states}

    def _states_of(self, param: Tensor) -> dict[str, Tensor]:
        if not self._has_state:
            return {}
        state = self._optimizer.state.get(param, {})
        return {
            name: value
            for name, value in state.items()
            if name != STEP and isinstance(value, Tensor) and value.dtype in STATE_DTYPES
        }

    def _steps_made(self) -> int:
        """By the states; where these do not count, as many as have been seen."""
        states = [self._optimizer.state.get(param, {}) for param in self._params]
        return max((int(state[STEP]) for state in states if STEP in state), default=self._at)


class _NativeSums:
    """Where the native step leaves the sums of a group's tensors, and which fingerprints they make.

    Sums go in the order of memory, fingerprints in C order: of other parameters they make none.

    Attributes:
        sums: what the step fills.
        rows: the numbers of the parameters whose fingerprints they make.
    """

    def __init__(
        self, binding: Binding, params: Sequence[Tensor], kinds: Sequence[str], places: Mapping[int, int]
    ) -> None:
        bound = [params[i] for i in binding.bound_at]
        names = [GRADIENT, PARAMETER, *binding.key[1]][: len(kinds)]
        whole = [i for i, p in enumerate(bound) if p.is_contiguous() and not is_dtensor(p)]
        self.rows = [places[id(bound[i])] for i in whole]
        self._into, self._whole = np.array(self.rows, np.intp), np.array(whole, np.intp)
        self._missing = np.array([k for k, kind in enumerate(kinds) if kind not in names], np.intp)
        self._from = np.array([k for k, name in enumerate(names) if name in kinds], np.intp)
        self._to = np.array([kinds.index(name) for name in names if name in kinds], np.intp)
        self.sums = np.zeros((len(bound), len(names)), np.uint64)
        self._nbytes = np.array(
            [[p.numel() * (p if k < 2 else _of_state(p)).itemsize for k in range(len(names))] for p in bound],
            np.uint64,
        ).reshape(self.sums.shape)

    def put(self, table: Array) -> None:
        """Puts the fingerprints into the rows of all tensors."""
        found = finish(self.sums, self._nbytes)
        table[np.ix_(self._into, self._to)] = found[np.ix_(self._whole, self._from)]
        table[np.ix_(self._into, self._missing)] = NOTHING


def values_of(tensor: Tensor) -> Array:
    """The values of a tensor as an array in C order: complex ones as pairs, of a DTensor all of them."""
    plain = full_tensor(tensor.detach())
    plain = plain.to_dense() if plain.layout is not torch.strided else plain
    plain = plain.cpu().resolve_conj().resolve_neg()
    plain = torch.view_as_real(plain) if plain.is_complex() else plain
    plain = plain.clone() if plain._is_zerotensor() else plain.contiguous()
    if plain.dtype == torch.bfloat16:
        bits = as_array(plain.view(torch.int16), "tensor")
        return bits.view(require("ml_dtypes", "bfloat16", "bfloat16").bfloat16)
    return as_array(plain, "tensor")


def fingerprint_of(tensor: Tensor) -> int:
    """``samestep.fingerprint`` of the values of a tensor."""
    return fingerprint(values_of(tensor))


def _table(found: Sequence[Found], kinds: Sequence[str]) -> Array:
    return np.array([[each.get(kind, NOTHING) for kind in kinds] for each in found], np.uint64)


def _of_state(param: Tensor) -> torch.dtype:
    return STATE_DTYPES[param.dtype]


def _listed(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(map(str, dtypes))


def _check_path(path: str, append: bool) -> None:
    """Raises where no file can be begun: the first step writes it, once it is known what is recorded."""
    if os.path.exists(path) and not append:
        raise FileExistsError(
            errno.EEXIST, "path: there is a file already; name another one, or go on with append=True", path
        )
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "path: expected a file, got a folder", path)
    folder = os.path.dirname(path) or os.curdir
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "path: there is no such folder", folder)
