"""The plan of an optimizer whose steps are recorded in a ledger."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from ..backends.cpu import CONTRACT
from ..backends.face import STEPPED, settle
from ..backends.options import Options
from ..fingerprints import fingerprint, finish
from ..ledger.records import GRADIENT, PARAMETER, Header
from ..ledger.writer import Fingerprints, Ledger
from .owner import Owner
from .param import Param
from .stats import StepStats


def header_of(optimizer: Owner, every: int, state: bool) -> Header:
    """What a ledger of these steps says first."""
    without = Options().arguments()
    options = {k: v for k, v in optimizer.options.arguments().items() if v != without[k]}
    tensors = {
        param.name: {"dtype": param.array.dtype.name, "shape": list(param.array.shape), "group": i}
        for i, group in enumerate(optimizer.groups)
        for param in group.params
    }
    kinds = (GRADIENT, PARAMETER, *(optimizer._store.names if state else ()))
    return Header(CONTRACT, optimizer.rule, options, every, kinds, tensors)


def named_hyper(
    names: Sequence[str], values: Sequence[float], weight_decay: Sequence[float]
) -> list[dict[str, float]]:
    """The hyper-parameters of each group, by name, as a record has them."""
    n = len(names)
    return [
        {**dict(zip(names, values[i * n : (i + 1) * n], strict=True)), "weight_decay": decay}
        for i, decay in enumerate(weight_decay)
    ]


class StepSums:
    """Where the steps of a part of the parameters leave the sums that fingerprints of the whole are made of.

    Attributes:
        rows: (tensors, kinds), as a plan takes them.
        are_wanted: whether the next step is to make them.
        total: of all parts together, modulo 2^64, in one row; nothing, if they were not wanted.
    """

    def __init__(self, optimizer: Owner, kinds: int) -> None:
        self.rows = np.zeros((len(optimizer._params), kinds), np.uint64)
        self.are_wanted = False
        self.total = np.zeros(0, np.uint64)


class PlanAround:
    """A plan that does more in its steps than the one in it; the same face as ``_core.Plan``."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plan, name)  # norm, mismatch, and trials and keep of those that have them

    @property
    def stats(self) -> StepStats | None:
        stats: StepStats | None = getattr(self.plan, "stats", None)
        return stats

    @stats.setter
    def stats(self, stats: StepStats) -> None:
        self.plan.stats = stats


class SummedPlan(PlanAround):
    """A plan whose steps make ``StepSums``."""

    def __init__(self, plan: Any, sums: StepSums) -> None:
        super().__init__(plan)
        self.sums = sums

    def step(
        self,
        grads: Sequence[Any],
        hyper: Sequence[float],
        scale: float = 1.0,
        sums: None = None,
        checks: int = 0,
    ) -> int:
        rows = self.sums.rows if self.sums.are_wanted else None
        status: int = self.plan.step(grads, hyper, scale, rows, checks)
        return status


class RecordedPlan(PlanAround):
    """A plan whose steps are recorded."""

    def __init__(self, plan: Any, optimizer: Owner, ledger: Ledger) -> None:
        if list(ledger.header.tensors) != [param.name for param in optimizer._params]:
            raise ValueError(
                f"params: other ones than {ledger.path} records; end it with record(None) first, and record "
                "into another file"
            )
        super().__init__(plan)
        # For the line of a step: it is made of sums that the next one overwrites. The thread that has it may
        # take it again, since an interrupt may have kept it from giving it back.
        self._lock = threading.RLock()
        self.ledger = ledger
        self._every = ledger.header.every
        self._hyper_names = optimizer._hyper_names
        self._steps = optimizer._steps
        self._to_host = optimizer._module.to_host
        self._weight_decay: Sequence[float] = [0.0] * len(optimizer.groups)
        self._recorded = [_arrays_of(param, optimizer._store.names, ledger) for param in optimizer._params]
        self._sums = np.zeros((len(self._recorded), len(ledger.header.kinds)), np.uint64)
        self._nbytes = np.array(
            [[arrays[0].nbytes, *(a.nbytes for a in arrays)] for arrays in self._recorded], np.uint64
        )
        # Their fingerprints are of the elements in C order, which a step does not pass over.
        self._unordered = [i for i, (w, *_) in enumerate(self._recorded) if not w.flags.c_contiguous]

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        self.plan.set_weight_decay(weight_decay)
        self._weight_decay = weight_decay

    def start(self) -> None:
        """Records what parameters and states are now: at first, and after ``load_state_dict``."""
        at = int(self._steps[-1])
        self.ledger.start(at, self._fingerprints())
        self.ledger.at = at

    def step(
        self,
        grads: Sequence[Any],
        hyper: Sequence[float],
        scale: float = 1.0,
        sums: None = None,
        checks: int = 0,
    ) -> int:
        if self.ledger.is_closed:
            status: int = self.plan.step(grads, hyper, scale, None, checks)
            return status
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("another thread is inside step() of this optimizer")
        try:
            return self._step(grads, hyper, scale, checks)
        finally:
            self._lock.release()

    def _step(self, grads: Sequence[Any], hyper: Sequence[float], scale: float, checks: int) -> int:
        if self._steps[-1] != self.ledger.at:
            self.start()
        if self.ledger.watch is not None and self.ledger.watch.ends_at(self.ledger.path, self.ledger.at):
            self._end([None] * len(grads))  # after a start: a step that has a line ends below
        status: int
        if (self.ledger.at + 1) % self._every:
            status = self.plan.step(grads, hyper, scale, None, checks)
            status = settle(self.plan) or status
        else:
            watch, watched = self.ledger.watch, []
            if watch is not None and watch.ends_at(self.ledger.path, self.ledger.at + 1):
                watched = [
                    None if g is None else self._to_host(g) for g in grads
                ]  # a step may set it to zero
            given = {i: fingerprint(grads[i]) for i in self._unordered if grads[i] is not None}
            status = self.plan.step(grads, hyper, scale, self._sums, checks)
            if status == STEPPED:
                self._write(grads, hyper, scale, given)
            if status == STEPPED and watched:
                self._end(watched)
        if status == STEPPED:
            self.ledger.at += 1
        return status

    def _write(
        self, grads: Sequence[Any], hyper: Sequence[float], scale: float, given: Mapping[int, int]
    ) -> None:
        found = finish(self._sums, self._nbytes)
        for i, g in given.items():
            found[i] = [g, *map(fingerprint, self._recorded[i])]
        stepped = None
        if not self._sums[:, 0].all():  # mostly all are there, and to look at each takes as long as a step
            stepped = [g is not None for g in grads]
        named = named_hyper(self._hyper_names, hyper, self._weight_decay)
        self.ledger.add(int(self._steps[-1]), found, named, scale=scale, stepped=stepped)

    def _end(self, grads: Sequence[Any]) -> NoReturn:
        """Ends a script that is run again, with these gradients and what the optimizer holds now."""
        ledger = self.ledger
        assert ledger.watch is not None
        rows = [(g, *map(self._to_host, own)) for g, own in zip(grads, self._recorded, strict=True)]
        tensors = dict(zip(ledger.header.tensors, rows, strict=True))
        ledger.watch.end(ledger.path, ledger.header.kinds, tensors)

    def _fingerprints(self) -> Fingerprints:
        """Of parameters and states as they are."""
        return np.array([[0, *map(fingerprint, arrays)] for arrays in self._recorded], np.uint64)


def _arrays_of(param: Param, states: Sequence[str], ledger: Ledger) -> list[Any]:
    """What is recorded of a parameter besides its gradient."""
    return [param.array, *(param.states[name] for name in states)][: len(ledger.header.kinds) - 1]
