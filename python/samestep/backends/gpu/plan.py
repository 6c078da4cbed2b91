"""A rule bound to arrays on a GPU: the arguments of a step's kernels, and the launches that step them."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ..arrays import Layout, extents, gradient_error, same_layout
from ..face import STEPPED, Tensor
from ..options import Options
from .arrays import gradient_view
from .device import get_cupy
from .kernels import ITEM, STEP, WORD, WORDS, launch_kernel, ready_kernel, run_kernel, struct_of

# The arguments of an optimizer that a step here follows, besides groups, schedules and the scale of step().
SUPPORTED = ("decoupled_weight_decay", "maximize", "clip_value", "flush_subnormals", "copy_grads")


def check_options(options: Options, state_dir: str | None) -> None:
    """Raises ValueError, with its name, for an option that has no kernels here yet."""
    asked = {**options.arguments(), "state_dir": state_dir}
    for name, absent in {**Options().arguments(), "state_dir": None}.items():
        if asked[name] != absent and name not in SUPPORTED:
            raise ValueError(
                f"{name}: got {asked[name]!r}, which is not on the GPU yet; leave it out, or step copies in "
                "main memory with backend='cpu', for example of cupy.asnumpy(params)"
            )


class _Coefficients:
    """The scalar arguments of the kernels of one step, for each group of parameters."""

    def __init__(
        self, options: Options, hyper: Sequence[float], weight_decay: list[float], scale: float
    ) -> None:
        self._options = options
        self._clip_value = math.inf if options.clip_value is None else options.clip_value
        self._n_hyper = len(hyper) // len(weight_decay)
        self._hyper = hyper
        self._weight_decay = weight_decay
        self._scale = -scale if options.maximize else scale

    def fill(self, argument: NDArray[Any], rule: str, dtype: np.dtype[Any], group: int, t: int) -> str:
        """Writes those of step t into a kernel's argument; returns the suffix of the kernel's name."""
        options, decay = self._options, self._weight_decay[group]
        hyper = self._hyper[group * self._n_hyper : (group + 1) * self._n_hyper]
        argument["coefficients"] = np.void(_core.coefficients(rule, dtype, t, hyper, decay))
        argument["scale"], argument["clip_value"] = self._scale, self._clip_value
        argument["weight_decay"] = 0.0 if options.decoupled_weight_decay else decay
        argument["flush"] = options.flush_subnormals
        if options.decoupled_weight_decay and decay != 0.0:
            return "_decoupled"
        asks = self._scale != 1.0 or self._clip_value < math.inf or decay != 0.0 or options.flush_subnormals
        return "_options" if asks else ""


Launch = tuple[Any, int, NDArray[Any]]  # kernel, blocks of threads, argument


class _Tensors:
    """The tensors of a plan that are of one type, and the tables on the device that their kernel reads."""

    def __init__(
        self,
        rule: str,
        dtype: np.dtype[Any],
        numbers: list[int],
        tensors: Sequence[Tensor],
    ) -> None:
        cupy = get_cupy()
        self._rule = rule
        self._dtype = dtype
        self._numbers = numbers
        self._groups = {i: tensor.group for i, tensor in zip(numbers, tensors, strict=True)}
        self._in_c_order = np.array([tensor.w.flags.c_contiguous for tensor in tensors], bool)
        self._kinds = 1 + len(tensors[0].arrays())
        rows = [[t.w.data.ptr, t.w.size, *(s.data.ptr for s in t.states)] for t in tensors]
        items = [(i, begin) for i, t in enumerate(tensors) for begin in range(0, t.w.size, ITEM)]
        self._items = len(items)
        # Blocking: the first step may run on another stream.
        tables = [np.array(rows, np.int64), np.array(items, np.int64), np.zeros((len(tensors), 2), np.int64)]
        self._tables = [cupy.asarray(table, blocking=True) for table in tables]
        # Per tensor: (address of the gradient, number of its launch). _on_device mirrors the device's table,
        # _wanted is what it should hold.
        self._on_device = tables[2]
        self._wanted = np.zeros_like(self._on_device)
        names = dict(zip(("rows", "items", "given"), self._tables, strict=True))
        self._argument = struct_of(STEP, **names, per_item=ITEM)
        self._firsts: list[int] = []  # of each launch, the number of one parameter

    def set_gradients(self, grads: Sequence[Any], steps: NDArray[np.int64]) -> None:
        """Writes the addresses of the gradients into the device's table.

        Parameters of one group that have made as many steps share a launch.
        """
        launches: dict[tuple[int, int], int] = {}
        self._firsts = []
        for row, i in enumerate(self._numbers):
            g = grads[i]
            if g is None:
                self._wanted[row] = 0, -1
                continue
            launch = launches.setdefault((self._groups[i], int(steps[i])), len(launches))
            if launch == len(self._firsts):
                self._firsts.append(i)
            self._wanted[row] = g.data.ptr, launch
        self._update_table()

    def zero_sums(self) -> Any:
        """Zeros on the device, a row a tensor: gradient, parameter and states."""
        return get_cupy().zeros((len(self._numbers), self._kinds), np.uint64)

    def read_sums(self, table: Any, sums: NDArray[np.uint64]) -> None:
        """Copies the rows to those of all tensors, once the step has run; 0 of tensors not in C order."""
        sums[self._numbers, : self._kinds] = table.get() * self._in_c_order[:, None]

    def prepare_launches(
        self, steps: NDArray[np.int64], coefficients: _Coefficients, sums: Any
    ) -> list[Launch]:
        """The launches of a step of the gradients that were set, with their arguments.

        Their kernels add the block sums of fingerprints to ``sums``, from ``zero_sums``, unless it is None.
        """
        out = []
        for launch, first in enumerate(self._firsts):
            t, group = int(steps[first]) + 1, self._groups[first]
            argument = self._argument.copy()
            variant = coefficients.fill(argument, self._rule, self._dtype, group, t)
            argument["launch"] = launch
            kernels = "OPTION" if variant else "STEP"
            if sums is not None:
                argument["sums"] = sums.data.ptr
                # Of the plain step there is no such kernel: options that are not asked for change no bit.
                variant, kernels = f"{variant or '_options'}_fingerprints", "FINGERPRINTED"
            name = f"step_{self._rule}{variant}_{self._dtype}"
            kernel = ready_kernel(f"{kernels}_KERNELS({self._rule})", name)
            out.append((kernel, self._items, argument))
        return out

    def _update_table(self) -> None:
        """Writes the rows of the device's table that have changed; mostly none has."""
        changed = np.flatnonzero(self._wanted.ravel() != self._on_device.ravel())
        if changed.size == 0:
            return
        words = self._wanted.ravel()
        for first in range(int(changed[0]), int(changed[-1]) + 1, WORDS):
            count = min(WORDS, int(changed[-1]) + 1 - first)
            argument = struct_of(WORD, to=self._tables[2].data.ptr + 8 * first, count=count)
            argument["words"][0, :count] = words[first : first + count]
            run_kernel("WORD_KERNELS()", "write_words", 1, argument)
        self._on_device[...] = self._wanted


class _SeenLayout(NamedTuple):
    """A gradient's address and layout in the last step: its shape and strides can be set between steps."""

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, a: Any) -> _SeenLayout:
        return cls(a.data.ptr, a.dtype, a.shape, a.strides)

    def is_of(self, a: Any) -> bool:
        """Whether ``a`` still has this address and layout."""
        same = a.data.ptr == self.address and a.shape == self.shape and a.strides == self.strides
        return bool(same and a.dtype == self.dtype)


class Plan:
    """The same face as ``_core.Plan``: a rule bound to a list of arrays, stepped by one launch a type."""

    norm = math.nan  # of all gradients: clip_norm, which needs it, is not on the GPU yet

    def __init__(
        self,
        rule: str,
        tensors: Sequence[Tensor],
        steps: NDArray[np.int64],
        options: Options | None = None,
    ) -> None:
        self._options = Options() if options is None else options
        check_options(self._options, None)
        self._weight_decay = [0.0] * (1 + max(tensor.group for tensor in tensors))
        self._held = tensors  # the lists below know addresses only
        self._bound = [Layout.of(tensor.w) for tensor in tensors]
        for w, *states in (tensor.arrays() for tensor in tensors):
            for s in states:
                if s.dtype != w.dtype or s.device.id != w.device.id or not same_layout(s, w):
                    raise ValueError("states: expected arrays like the parameters")
        # While a step is launched the first count is below zero, so that every copy of the optimizer, and
        # what is saved of it, tells that the step was interrupted there.
        self._steps = steps
        self._device = tensors[0].w.device
        self._kind = get_cupy().ndarray
        with self._device:
            self._lists = [
                _Tensors(rule, dtype, numbers, [tensors[i] for i in numbers])
                for dtype in dict.fromkeys(tensor.w.dtype for tensor in tensors)
                if (numbers := [i for i, t in enumerate(tensors) if t.w.dtype == dtype and t.w.size])
            ]
        self._written = extents(a for tensor in tensors for a in tensor.arrays())
        # Of the last step: weak references to the gradients with their layouts, None for one that was None;
        # what it added to the step counts, and the counts after it.
        self._seen: list[tuple[weakref.ref[Any], _SeenLayout] | None] = []
        self._counts = np.zeros_like(steps)
        self._after = steps.copy()
        self._inside: dict[int, bool] = {}  # threads, by their number

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        """One for each group."""
        self._weight_decay = weight_decay

    def step(
        self,
        grads: Sequence[Any],
        hyper: Sequence[float],
        scale: float = 1.0,
        sums: NDArray[np.uint64] | None = None,
    ) -> int:
        """Steps, or returns the index of the first gradient that does not fit.

        Args:
            sums: (tensors, kinds), which takes the sums over blocks of the fingerprints of each tensor's
                gradient, parameter and states; 0 of a tensor without a gradient or not in C order. The call
                then returns when the step has run.

        Raises:
            RuntimeError: another thread is inside, or an earlier step was interrupted between two launches.
        """
        get_cupy()  # or, in a child process, the reason why not
        me = threading.get_ident()
        if me in self._inside:
            raise RuntimeError("step() of this optimizer was called from within it")
        try:  # a signal may raise after any call; the claim goes with the first call of `finally`
            self._inside[me] = True
            if len(self._inside) > 1:
                raise RuntimeError("another thread is inside step() of this optimizer")
            if self._steps[0] < 0:
                raise RuntimeError(
                    "an earlier step was interrupted, so that parameters, states and counts no longer belong "
                    "together; put all of them back, the states with load_state_dict"
                )
            with self._device:
                grads = [g if g is None or isinstance(g, self._kind) else gradient_view(g) for g in grads]
                if not self._has_seen(grads):
                    for i, g in enumerate(grads):
                        if g is not None and not self._fits(i, g):
                            return i
                    self._seen = []
                    for tensors in self._lists:
                        tensors.set_gradients(grads, self._steps)
                    self._counts[:] = [*(g is not None for g in grads), True]
                    self._seen = [None if g is None else (weakref.ref(g), _SeenLayout.of(g)) for g in grads]
                coefficients = _Coefficients(self._options, hyper, self._weight_decay, scale)
                # All that may fail comes before the first launch.
                tables = [None if sums is None else tensors.zero_sums() for tensors in self._lists]
                launches = [
                    one
                    for tensors, table in zip(self._lists, tables, strict=True)
                    for one in tensors.prepare_launches(self._steps, coefficients, table)
                ]
                after = self._steps + self._counts
                self._steps[0] = ~self._steps[0]
                for one in launches:
                    launch_kernel(*one)
                self._steps[:] = after
                self._after[:] = after
                if sums is not None:
                    sums[...] = 0
                    for tensors, table in zip(self._lists, tables, strict=True):
                        tensors.read_sums(table, sums)
        finally:
            self._inside.pop(me, None)
        return STEPPED

    def _has_seen(self, grads: Sequence[Any]) -> bool:
        """Whether these are the very arrays of the last step, in the same layout.

        False after somebody has set the step counts: these may need other launches.
        """
        if len(grads) != len(self._seen) or not np.array_equal(self._steps, self._after):
            return False
        return all(
            g is None if seen is None else g is not None and g is seen[0]() and seen[1].is_of(g)
            for g, seen in zip(grads, self._seen, strict=True)
        )

    def _fits(self, i: int, g: Any) -> bool:
        if not isinstance(g, self._kind) or g.device.id != self._device.id:
            return False
        return gradient_error("", g, self._bound[i], self._written) is None
