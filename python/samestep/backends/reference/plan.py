"""A step of a list of tensors in NumPy; twin of csrc/run/plan.h."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, Layout, check_disjoint, extents, gradient_error, is_in_place
from ..face import MOVED, NONFINITE, STEPPED
from ..options import Options
from .options import Decayed, all_finite, average, clip_scale, flush_subnormals, prepare_gradient
from .rules import RULES
from .storage import is_bfloat16, join, narrow, narrow_at_random, split, widen
from .sums import global_norm


def _each_its_own(grads: Sequence[Array | None]) -> bool:
    """Whether the gradients can be set to zero: writeable, and none shares memory with another."""
    given = [g for g in grads if g is not None]
    try:
        check_disjoint(("grads", g) for g in given)
    except ValueError:
        return False
    return all(g.flags.writeable for g in given)


class Plan:
    """A rule bound to a list of tensors; the same face as ``_core.Plan``."""

    def __init__(
        self,
        rule: str,
        params: list[Array],
        states: list[list[Array]],
        steps: NDArray[np.int64],
        options: Options | None = None,
    ) -> None:
        self._rule = RULES[rule]
        self._params = params
        self._states = states
        self._steps = steps
        self._options = o = Options() if options is None else options
        self._groups = self._options.groups or (0,) * len(params)
        self._weight_decay = [0.0] * (max(self._groups) + 1)
        flat = (state for each in states for state in each)
        self._arrays = [*params, *flat, *o.averages, *o.masters, *o.lows, *o.copies]
        self._layouts = [Layout.of(a) for a in self._arrays]  # the params' come first
        self._written = extents(self._arrays)
        self._alone = threading.Lock()
        self.norm = float("nan")

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        self._weight_decay = weight_decay

    def step(self, grads: Sequence[Array | None], hyper: Sequence[float], scale: float = 1.0) -> int:
        if self._layouts != [Layout.of(a) for a in self._arrays] or not all(map(is_in_place, self._arrays)):
            return MOVED
        for i, (bound, g) in enumerate(zip(self._layouts[: len(self._params)], grads, strict=True)):
            if g is not None and gradient_error("grads", g, bound, self._written):
                return i
        if self._options.zero_grads and not _each_its_own(grads):
            return 0
        if not self._alone.acquire(blocking=False):
            raise RuntimeError("another thread is inside step() of this optimizer")
        try:
            return self._step(grads, hyper, scale)
        finally:
            self._alone.release()

    def _step(self, grads: Sequence[Array | None], hyper: Sequence[float], scale: float) -> int:
        given = [widen(g) for g in grads if g is not None]
        if self._options.clip_norm < float("inf"):
            self.norm = abs(scale) * global_norm(given)
            scale = clip_scale(scale, self.norm, self._options.clip_norm)
        with np.errstate(all="ignore"):
            if self._options.nonfinite != "propagate" and not all(all_finite(g) for g in given):
                return NONFINITE
            self._write(self._updates(grads, hyper, scale))
        if self._options.zero_grads:
            for g in grads:
                if g is not None:
                    g[...] = 0
        return STEPPED

    def _updates(self, grads: Sequence[Array | None], hyper: Sequence[float], scale: float) -> list[Any]:
        """(index, (target, new values) pairs) of every parameter that steps; nothing is written yet."""
        updates = []
        for i, g in enumerate(grads):
            if g is None:
                continue
            group, n = self._groups[i], len(self._rule.hyper)
            values = dict(zip(self._rule.hyper, hyper[group * n : (group + 1) * n], strict=True))
            states = [states[i] for states in self._states]
            new = self._update(
                [self._working(i), *map(widen, states)],
                widen(g),
                int(self._steps[i]) + 1,
                values,
                self._weight_decay[group],
                scale,
            )
            targets = self._stored(i, new[0])
            targets += [(s, narrow(value, s)) for s, value in zip(states, new[1:], strict=True)]
            if self._options.averages:
                ema = self._options.averages[i]
                targets.append((ema, average(ema, new[0], ema.dtype.type, self._options.ema)))
            assert all(value.dtype == target.dtype for target, value in targets)
            updates.append((i, targets))
        return updates

    def _working(self, i: int) -> Array:
        """The parameter in the type of the arithmetic."""
        w, options = self._params[i], self._options
        if options.masters and w.itemsize == 2:
            return options.masters[i]
        if options.lows and is_bfloat16(w):
            return join(w, options.lows[i])
        return widen(w)

    def _stored(self, i: int, new: Array) -> list[tuple[Array, Array]]:
        """Where the new parameter goes, and in which form."""
        w, options = self._params[i], self._options
        stored = []
        if options.copies and new.dtype == np.float32:
            stored.append((options.copies[i], narrow(new, options.copies[i])))
        if options.masters and w.itemsize == 2:
            stored.append((options.masters[i], new))
        if options.lows and is_bfloat16(w):
            upper, lower = split(new, w)
            return [*stored, (w, upper), (options.lows[i], lower)]
        if options.stochastic_rounding is not None and is_bfloat16(w):
            step = int(self._steps[i]) + 1
            return [*stored, (w, narrow_at_random(new, w, options.stochastic_rounding, step, i))]
        return [*stored, (w, narrow(new, w))]

    def _update(
        self, old: list[Any], g: Array, t: int, hyper: dict[str, float], weight_decay: float, scale: float
    ) -> list[Array]:
        options = self._options
        w, *states = old
        T = w.dtype.type
        coupled = 0.0 if options.decoupled else weight_decay
        g = prepare_gradient(g, w, T, -scale if options.maximize else scale, options.clip_value, coupled)
        if options.decoupled and weight_decay != 0.0:
            w = Decayed(w, T(hyper["lr"] * weight_decay))
        new = list(self._rule.update(w, g, *states, T=T, t=t, **hyper))
        assert all(value.dtype == T for value in new)
        if options.flush_subnormals:
            new[1:] = [flush_subnormals(state, T) for state in new[1:]]
        return new

    def _write(self, updates: list[Any]) -> None:
        for i, targets in updates:
            for target, value in targets:
                target[...] = value
            self._steps[i] += 1
        self._steps[-1] += 1
