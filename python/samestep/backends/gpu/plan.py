"""A rule bound to arrays on a GPU, and the launches that step them: what is decided, the device decides."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import Layout, check_disjoint, extents, gradient_error, is_half, same_layout
from ..face import NONFINITE, STEPPED, Tensor
from ..options import Options
from ..recorded_sums import check_sums
from .arrays import gradient_view
from .device import get_cupy
from .gradients import Gradients
from .kernels import (
    HYPER,
    ITEM,
    RUN,
    STEP,
    UPDATE,
    UPDATE_BYTES,
    Launch,
    launch_kernel,
    ready_kernel,
    struct_of,
    threads,
)
from .tables import GIVEN, TYPES, Table, items_of, on_device, rows_of, type_of


def check_state_dir(folder: str | None) -> None:
    """Raises ValueError for a folder of mapped files."""
    if folder is not None:
        raise ValueError(
            f"state_dir: got {folder!r}, but files are mapped into main memory, and the state of arrays on a "
            "GPU lies in the GPU's; leave it out, or step copies in main memory with backend='cpu', for "
            "example of cupy.asnumpy(params)"
        )


def _is_like(s: Any, w: Any) -> bool:
    """Whether two arrays have their elements in the same order, of whatever size these are."""
    strides = tuple(stride // s.itemsize * w.itemsize for stride in s.strides)
    return same_layout(Layout(w.dtype, s.shape, strides), Layout.of(w))


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


class _Tensors(NamedTuple):
    """Tensors of a plan that one kernel steps."""

    type: str
    is_stored: bool  # whether more is written than parameters and states, or something in 16 bits
    items: Any
    blocks: int  # of threads


def _lists_of(tensors: Sequence[Tensor], zeroes: bool) -> list[_Tensors]:
    kinds = [
        (TYPES[type_of(t.w)], zeroes or is_half(t.w) or len(t.arrays()) > 1 + len(t.states)) for t in tensors
    ]
    lists = []
    for kind in dict.fromkeys(kinds):
        items = items_of(tensors, (i for i, k in enumerate(kinds) if k == kind), ITEM)
        if len(items):
            lists.append(_Tensors(*kind, on_device(items), len(items)))
    return lists


class Plan:
    """The same face as ``_core.Plan``: a rule bound to a list of arrays, stepped by one launch a list.

    Whether gradients are clipped by their norm, and whether a step is left out for one that is not finite,
    the device decides: ``step`` does not wait for it, and returns STEPPED for a step that may be left out.
    ``settle`` waits, and brings the step counts up to date.

    Attributes:
        found_inf: address of a float32 on the device; unless 0 lies there, it leaves further steps out, and
            the step counts are those of steps that were made: see ``take_back``. 0: there is none.
    """

    found_inf = 0
    norm: Any = math.nan  # with clip_norm a float64 array without axes, on the device

    def __init__(
        self,
        rule: str,
        tensors: Sequence[Tensor],
        steps: NDArray[np.int64],
        options: Options | None = None,
    ) -> None:
        self._rule = rule
        self._options = options = Options() if options is None else options
        self._weight_decay = [0.0] * (1 + max(tensor.group for tensor in tensors))
        self._held = tensors  # the tables below know addresses only
        self._bound = [Layout.of(tensor.w) for tensor in tensors]
        for w, *states in (tensor.arrays() for tensor in tensors):
            for s in states:
                fits = s.dtype == w.dtype or is_half(w) or is_half(s)
                if not fits or s.device.id != w.device.id or not _is_like(s, w):
                    raise ValueError("states: expected arrays like the parameters")
        # While a step is launched the first count is below zero, so that every copy of the optimizer, and
        # what is saved of it, tells that the step was interrupted there.
        self._steps = steps
        self._device = tensors[0].w.device
        self._kind = get_cupy().ndarray
        self._in_c_order = np.array([tensor.w.flags.c_contiguous for tensor in tensors], bool)
        self._kinds = max(1 + len(tensor.arrays()) for tensor in tensors)
        self._skips, self._raises = options.nonfinite == "skip", options.nonfinite == "raise"
        clips = options.clip_norm is not None
        with self._device:
            self._rows = on_device(rows_of(tensors, RUN))
            self._given = Table(np.full((len(tensors), len(GIVEN)), -1))
            # The steps of each tensor, those of the plan, the stamp of the last that had a bad gradient.
            self._counts = Table(np.append(steps, 0))
            self._updates = get_cupy().empty(len(tensors) * UPDATE_BYTES, np.uint8)
            self._lists = _lists_of(tensors, options.zero_grads)
            self._gradients = None
            if clips or self._skips or self._raises:
                bad = self._counts.array.data.ptr + 8 * len(steps)
                self._gradients = Gradients(tensors, self._rows, self._given.array, bad, clips)
        self._written = extents(a for tensor in tensors for a in tensor.arrays())
        self._stamp = 0  # how many steps have been tried
        # Of the last step: weak references to the gradients with their layouts, None for one that was None;
        # what it added to the step counts, and the counts after it.
        self._seen: list[tuple[weakref.ref[Any], _SeenLayout] | None] = []
        self._added = np.zeros_like(steps)
        self._after = steps.copy()
        self._is_open = False  # whether the device alone knows if the last step was left out
        self._stream: Any = None  # on which it then runs
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
        checks: int = 0,
    ) -> int:
        """Steps, or returns NONFINITE or the index of the first gradient that does not fit.

        Args:
            sums: (tensors, kinds), which takes the sums over blocks of the fingerprints of each tensor's
                gradient, parameter and all else that is written; 0 of a tensor without a gradient or not in C
                order. The call then returns when the step has run.
            checks: 0; nothing is computed a second time here.

        Raises:
            ValueError: ``sums`` is another array.
            RuntimeError: another thread is inside, or an earlier step was interrupted between two launches.
        """
        get_cupy()  # or, in a child process, the reason why not
        check_sums(sums, len(self._bound))
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
                return self._step(grads, hyper, scale, sums)
        finally:
            self._inside.pop(me, None)

    def _step(
        self, grads: Sequence[Any], hyper: Sequence[float], scale: float, sums: NDArray[np.uint64] | None
    ) -> int:
        writes = self._options.zero_grads
        grads = [g if g is None or isinstance(g, self._kind) else gradient_view(g, writes) for g in grads]
        if not self._has_seen(grads):
            refused = self._take(grads)
            if refused is not None:
                return refused
        # All that may fail comes before the first launch that writes.
        cupy = get_cupy()
        table = None if sums is None else cupy.zeros((len(self._bound), self._kinds), np.uint64)
        norm = None
        if self._options.clip_norm is not None:
            norm = cupy.empty(1, np.float64).reshape(())  # the caller may keep it: each step has its own
        self._stamp += 1
        questions = self._questions(grads, scale, norm)
        launches = [*self._update_launches(hyper, scale, norm), *self._step_launches(scale, table)]
        for one in questions:
            launch_kernel(*one)
        if norm is not None:
            self.norm = norm
        if self._raises and self._counts.array[-1:].get()[0] == self._stamp:
            return NONFINITE
        after = self._steps + self._added
        self._steps[0] = ~self._steps[0]
        for one in launches:
            launch_kernel(*one)
        if self._skips:
            self._is_open, self._stream = True, cupy.cuda.get_current_stream()
            self._steps[0] = ~self._steps[0]
            if sums is not None and self.settle() != STEPPED:
                return NONFINITE
        else:
            self._steps[:] = after
            self._after[:] = self._counts.known[:-1] = after
        if sums is not None and table is not None:
            n = min(self._kinds, sums.shape[1])
            sums[:, n:] = 0
            sums[:, :n] = table.get()[:, :n] * self._in_c_order[:, None]
        return STEPPED

    def compile(self, hyper: Sequence[float]) -> None:
        """Compiles what a step launches, with these hyper-parameters and the weight decay that is set."""
        with self._device:
            self._update_launches(hyper, 1.0, None)
            self._step_launches(1.0, None)

    def settle(self) -> int | None:
        """Waits for what came of the last step, STEPPED or NONFINITE; None if that was known."""
        if not self._is_open or self._steps[0] < 0:
            return None
        self._counts.known[...] = self._counts.array.get(stream=self._stream)
        self._steps[:] = self._after[:] = self._counts.known[:-1]
        self._is_open = False
        return NONFINITE if self._counts.known[-1] == self._stamp else STEPPED

    def take_back(self, steps: NDArray[np.int64]) -> None:
        """Puts back the counts before the last step, which ``found_inf`` has had the device leave out."""
        self._steps[:] = self._after[:] = self._counts.known[:-1] = steps

    def _take(self, grads: Sequence[Any]) -> int | None:
        """Writes the addresses of the gradients into the device's table; the first that does not fit."""
        for i, g in enumerate(grads):
            if g is not None and not self._fits(i, g):
                return i
        if self._options.zero_grads:
            try:
                check_disjoint(("grads", g) for g in grads if g is not None)
            except ValueError:
                return 0
        self._seen = []
        if not self._is_open:  # somebody may have set the step counts
            self._counts.update(np.append(self._steps, self._counts.known[-1]))
        rows, place = [], 0
        for i, g in enumerate(grads):
            if g is None:
                rows.append((0, 0, -1))
                continue
            other = None if self._gradients is None else self._gradients.in_order(i)
            rows.append((g.data.ptr, (g if other is None else other).data.ptr, place))
            place += 1
        self._given.update(np.array(rows, np.int64))
        self._added[:] = [*(g is not None for g in grads), True]
        self._seen = [None if g is None else (weakref.ref(g), _SeenLayout.of(g)) for g in grads]
        return None

    def _questions(self, grads: Sequence[Any], scale: float, norm: Any) -> list[Launch]:
        """The launches that read all gradients before anything is written."""
        if self._gradients is None:
            return []
        launches = self._gradients.launches(self._stamp, scale, int(self._added[:-1].sum()), norm)
        self._gradients.copy_in_order(grads)
        return launches

    def _update_launches(self, hyper: Sequence[float], scale: float, norm: Any) -> list[Launch]:
        """The launches that form each tensor's coefficients, on the device."""
        options, groups = self._options, len(self._weight_decay)
        tables = {"rows": self._rows, "given": self._given.array, "counts": self._counts.array}
        argument = struct_of(UPDATE, **tables, updates=self._updates, tensors=len(self._bound), scale=scale)
        argument["maximize"], argument["stamp"] = options.maximize, self._stamp if self._skips else 0
        argument["found_inf"] = self.found_inf
        if norm is not None:
            argument["norm"], argument["clip_norm"] = norm.data.ptr, options.clip_norm
        n = len(hyper) // groups
        values = np.empty((groups, n + 1))
        values[:, :n] = np.reshape(hyper, (groups, n))
        values[:, n] = self._weight_decay
        kernel = ready_kernel(f"STEP_KERNELS({self._rule})", f"form_updates_{self._rule}")
        launches: list[Launch] = []
        for first in range(0, groups, HYPER // (n + 1)):
            some = values[first : first + HYPER // (n + 1)]
            one = argument.copy()
            one["first_group"], one["groups"] = first, len(some)
            one["hyper"][0, : some.size] = some.ravel()
            launches.append((kernel, threads(len(self._bound)), one))
        return launches

    def _step_launches(self, scale: float, table: Any) -> list[Launch]:
        """The launches that step every list; with a table they add the block sums of fingerprints to it."""
        options = self._options
        argument = struct_of(
            STEP,
            rows=self._rows,
            given=self._given.array,
            updates=self._updates,
            per_item=ITEM,
            clip_value=math.inf if options.clip_value is None else options.clip_value,
            ema=options.ema or 0.0,
            flush=options.flush_subnormals,
            decoupled=options.decoupled_weight_decay,
            zeroes=options.zero_grads,
            rounds_randomly=options.stochastic_rounding is not None,
            seed=options.stochastic_rounding or 0,
            kinds=self._kinds,
        )
        if table is not None:
            argument["sums"] = table.data.ptr
        launches: list[Launch] = []
        for tensors in self._lists:
            variant, group = self._variant(scale, tensors.is_stored), "STEP"
            if table is not None:
                # Of the plain step there is no such kernel: options that are not asked for change no bit.
                variant, group = f"{variant or '_options'}_fingerprints", "FINGERPRINTED"
            elif variant:
                group = "OPTION"
            if tensors.is_stored:
                group = "STORED" if table is None else "STORED_FINGERPRINTED"
            name = f"step_{self._rule}{variant}_{tensors.type}"
            one = argument.copy()
            one["items"] = tensors.items.data.ptr
            launches.append((ready_kernel(f"{group}_KERNELS({self._rule})", name), tensors.blocks, one))
        return launches

    def _variant(self, scale: float, is_stored: bool) -> str:
        """The least that suffices; csrc/gpu/step.cuh."""
        options, decays = self._options, any(self._weight_decay)
        if is_stored:
            return "_stored"
        if options.decoupled_weight_decay and decays:
            return "_decoupled"
        limits = options.clip_norm is not None or options.clip_value is not None
        asks = scale != 1.0 or options.maximize or limits or decays or options.flush_subnormals
        return "_options" if asks else ""

    def _has_seen(self, grads: Sequence[Any]) -> bool:
        """Whether these are the very arrays of the last step, in the same layout.

        False after somebody has set the step counts.
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
