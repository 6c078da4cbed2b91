"""A step of a list of tensors in NumPy; twin of csrc/run/plan.h."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, Layout, check_disjoint, extents, gradient_error, is_in_place
from ..face import MISMATCHED, MOVED, NONFINITE, STEPPED, Tensor
from ..options import Options
from ..recorded_sums import check_sums
from .fingerprint import block_sum
from .options import Decayed, all_finite, average, clipped_scale, flush_subnormals, prepare_gradient
from .rules import RULES
from .storage import is_bfloat16, join, narrow, narrow_at_random, split, widen
from .sums import global_norm


def _can_be_zeroed(grads: Sequence[Array | None]) -> bool:
    """Whether the gradients can be set to zero: writeable, and none shares memory with another."""
    given = [g for g in grads if g is not None]
    try:
        check_disjoint(("grads", g) for g in given)
    except ValueError:
        return False
    return all(g.flags.writeable for g in given)


def _place_of(at: int, a: Array) -> int:
    """Of the element that is number ``at`` in C order, its number in the order of the memory."""
    index = np.unravel_index(at, a.shape)
    return int(sum(i * stride for i, stride in zip(index, a.strides, strict=True))) // a.itemsize


def _widened(tensor: Tensor) -> Array:
    """The parameter in the type of the arithmetic."""
    if tensor.master is not None:
        return np.asarray(tensor.master)
    return widen(tensor.w) if tensor.low is None else join(tensor.w, tensor.low)


class Plan:
    """A rule bound to a list of tensors; the same face as ``_core.Plan``."""

    def __init__(
        self,
        rule: str,
        tensors: Sequence[Tensor],
        steps: NDArray[np.int64],
        options: Options | None = None,
    ) -> None:
        self._rule = RULES[rule]
        self._tensors = tensors
        self._steps = steps
        self._options = Options() if options is None else options
        self._weight_decay = [0.0] * (1 + max((tensor.group for tensor in tensors), default=0))
        self._arrays = [a for tensor in tensors for a in tensor.arrays()]
        self._layouts = [Layout.of(a) for a in self._arrays]
        self._bound = [Layout.of(tensor.w) for tensor in tensors]
        self._written = extents(self._arrays)
        self._lock = threading.Lock()
        self.norm = float("nan")
        self.mismatch = (0, 0, 0, 0, 0)

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        self._weight_decay = weight_decay

    def step(
        self,
        grads: Sequence[Array | None],
        hyper: Sequence[float],
        scale: float = 1.0,
        sums: NDArray[np.uint64] | None = None,
        checks: int = 0,
    ) -> int:
        check_sums(sums, len(self._tensors))
        if self._layouts != [Layout.of(a) for a in self._arrays] or not all(map(is_in_place, self._arrays)):
            return MOVED
        for i, (bound, g) in enumerate(zip(self._bound, grads, strict=True)):
            if g is not None and gradient_error("grads", g, bound, self._written):
                return i
        if self._options.zero_grads and not _can_be_zeroed(grads):
            return 0
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("another thread is inside step() of this optimizer")
        try:
            return self._step(grads, hyper, scale, sums, checks)
        finally:
            self._lock.release()

    def _step(
        self,
        grads: Sequence[Array | None],
        hyper: Sequence[float],
        scale: float,
        sums: NDArray[np.uint64] | None,
        checks: int,
    ) -> int:
        given = [widen(g) for g in grads if g is not None]
        if self._options.clip_norm is not None:
            self.norm = abs(scale) * global_norm(given)
            scale = clipped_scale(scale, self.norm, self._options.clip_norm)
        with np.errstate(all="ignore"):
            if self._options.nonfinite != "propagate" and not all(all_finite(g) for g in given):
                return NONFINITE
            updates = self._updates(grads, hyper, scale)
            if checks > 0 and not self._are_computed_again(updates, grads, hyper, scale):
                return MISMATCHED
            self._write(updates)
        if sums is not None:
            self._fill(sums, grads)
        if self._options.zero_grads:
            for g in grads:
                if g is not None:
                    g[...] = 0
        return STEPPED

    def _are_computed_again(
        self, updates: list[Any], grads: Sequence[Array | None], hyper: Sequence[float], scale: float
    ) -> bool:
        """Whether another thread computes the same bits, of all elements."""
        again: list[Any] = []

        def run() -> None:
            with np.errstate(all="ignore"):
                again.extend(self._updates(grads, hyper, scale))

        other = threading.Thread(target=run)
        other.start()
        other.join()
        for (i, targets), (_, others) in zip(updates, again, strict=True):
            for (target, x), (_, y) in zip(targets, others, strict=True):
                a, b = (np.ascontiguousarray(v).reshape(-1).view(f"u{v.itemsize}") for v in (x, y))
                parted = np.nonzero((a != b) & ~(np.isnan(x) & np.isnan(y)).reshape(-1))[0]
                if parted.size:
                    at = int(parted[0])
                    kind = 1 + next(k for k, own in enumerate(self._tensors[i].arrays()) if own is target)
                    self.mismatch = i, kind, _place_of(at, target), int(a[at]), int(b[at])
                    return False
        return True

    def _fill(self, sums: NDArray[np.uint64], grads: Sequence[Array | None]) -> None:
        sums[...] = 0
        for row, tensor, g in zip(sums, self._tensors, grads, strict=True):
            if g is not None:
                found = [block_sum(a, tensor.first) for a in (g, *tensor.arrays())[: len(row)]]
                row[: len(found)] = found

    def _updates(self, grads: Sequence[Array | None], hyper: Sequence[float], scale: float) -> list[Any]:
        """Of every tensor that steps its number and (array, new values) pairs; nothing is written yet."""
        updates = []
        for i, (tensor, g) in enumerate(zip(self._tensors, grads, strict=True)):
            if g is None:
                continue
            group, n = tensor.group, len(self._rule.hyper)
            values = dict(zip(self._rule.hyper, hyper[group * n : (group + 1) * n], strict=True))
            new = self._update(
                [_widened(tensor), *map(widen, tensor.states)],
                widen(g),
                int(self._steps[i]) + 1,
                values,
                self._weight_decay[group],
                scale,
            )
            targets = self._targets_of(i, new[0])
            targets += [(s, narrow(value, s)) for s, value in zip(tensor.states, new[1:], strict=True)]
            if tensor.ema is not None:
                e, decay = tensor.ema, self._options.ema or 0.0
                targets.append((e, average(e, new[0], e.dtype.type, decay)))
            assert all(value.dtype == target.dtype for target, value in targets)
            updates.append((i, targets))
        return updates

    def _targets_of(self, i: int, new: Array) -> list[tuple[Array, Array]]:
        """The arrays that store the parameter, each with the new value in its own form."""
        tensor, options = self._tensors[i], self._options
        w, targets = tensor.w, []
        if tensor.copy is not None:
            targets.append((tensor.copy, narrow(new, tensor.copy)))
        if tensor.master is not None:
            targets.append((tensor.master, new))
        if tensor.low is not None:
            upper, lower = split(new, w)
            return [*targets, (w, upper), (tensor.low, lower)]
        if options.stochastic_rounding is not None and is_bfloat16(w):
            step = int(self._steps[i]) + 1
            return [*targets, (w, narrow_at_random(new, w, options.stochastic_rounding, step, i))]
        return [*targets, (w, narrow(new, w))]

    def _update(
        self, old: list[Any], g: Array, t: int, hyper: dict[str, float], weight_decay: float, scale: float
    ) -> list[Array]:
        options = self._options
        w, *states = old
        T = w.dtype.type
        coupled = 0.0 if options.decoupled_weight_decay else weight_decay
        g = prepare_gradient(g, w, T, scale, coupled, options)
        if options.decoupled_weight_decay and weight_decay != 0.0:
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
