"""The record of an optimizer that is spread over workers: one file, in which their number cannot be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import backends
from ..backends.arrays import Array
from ..backends.reference.fingerprint import block_sum
from ..fingerprints import finish
from ..ledger.records import Header, Path
from ..ledger.writer import Ledger
from ..optim.optimizer import Optimizer
from ..optim.recorded import StepSums, header_of, named_hyper
from ..spread import do_together
from .groups import Group
from .parts import Parts

if TYPE_CHECKING:
    from typing_extensions import Self

Following = tuple[list[dict[str, float | None]] | None, list[float]]


class SpreadLedger:
    """A ledger to which every worker gives the sums over its blocks; worker 0 writes the file.

    A context manager: at its end, to which every worker comes after the same step, nothing more is recorded.

    Args:
        optimizer: of this worker's part.
        params: all parameters, whole.
        parts: how they are cut.
        group: the worker's place among all.
        path, every, state, how: as for ``Optimizer.record``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        params: Sequence[Array],
        parts: Parts,
        group: Group,
        path: Path,
        every: int,
        state: bool,
        how: dict[str, Any],
    ) -> None:
        header = header_of(optimizer, every, state)
        whole = {
            name: {**tensor, "shape": list(w.shape)}
            for (name, tensor), w in zip(header.tensors.items(), params, strict=True)
        }
        self.header = Header(**{**vars(header), "tensors": whole})
        self._optimizer, self._params, self._parts, self._group = optimizer, params, parts, group
        self._states = [[param.states[name] for name in header.kinds[2:]] for param in optimizer._params]
        self._nbytes = np.array(
            [
                [w.nbytes, w.nbytes, *(w.size * state.itemsize for state in states)]
                for w, states in zip(params, self._states, strict=True)
            ],
            np.uint64,
        )
        self.sums = StepSums(optimizer, len(header.kinds))
        self._at = -1  # how many steps have been seen
        self.lacks_line = False  # on worker 0, once a line could not be written: the next step needs a start
        self._is_closed = False
        self._ledger = Ledger(path, self.header, **how) if group.rank == 0 else None

    def note(self, **extras: Any) -> None:
        """As ``samestep.Ledger.note``; what worker 0 notes is written."""
        if self._ledger is not None:
            self._ledger.note(**extras)

    def close(self) -> None:
        """Ends the file. Every worker calls it after the same step."""
        self._is_closed = True
        self.sums.are_wanted = False
        if self._ledger is not None:
            self._ledger.close()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is recorded."""
        return self._is_closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(self) -> tuple[bool, bool]:
        """Whether the next step is recorded, and whether a start comes before it; on every worker alike."""
        if self._is_closed:
            return False, False
        t = self._optimizer.t
        return (t + 1) % self.header.every == 0, t != self._at  # at first, and after load_state_dict

    def begin(self, lacks_line: bool) -> None:
        """Says where the run begins, if the next step needs that, or goes on after a line that is lacking."""
        self.sums.are_wanted, has_start = self.plan()
        if self._is_closed or not (has_start or lacks_line):
            return
        own = zip(self._parts.pieces, self._parts.cut(self._params), self._states, strict=True)
        rows = [
            [0, *(block_sum(backends.in_main_memory(a), piece.begin) for a in (w, *states))]
            for piece, w, states in own
        ]
        mine = np.array(rows, np.uint64)
        total = np.add.reduce(self._group.all_gather(mine.ravel(), [mine.size] * self._group.size))
        do_together(self._group, lambda: self._write_start(total))
        self._at = self._optimizer.t

    def _write_start(self, total: Array) -> None:
        if self._ledger is not None:
            self._ledger.start(self._optimizer.t, self._finished(total))
            self.lacks_line = False

    def end(self, following: Following, scale: float, stepped: Array) -> None:
        """Writes the line of a step that has been made.

        Args:
            following: the hyper-parameters of the step, as ``next_hyper`` has returned them.
            scale: of the gradients.
            stepped: whether each parameter had a gradient.
        """
        self._at = self._optimizer.t
        if not self.sums.are_wanted or self._ledger is None:
            return
        optimizer = self._optimizer
        named = named_hyper(optimizer._hyper_names, following[1], optimizer._weight_decay)
        self.lacks_line = True
        self._ledger.add(
            self._at, self._finished(self.sums.total), named, scale=scale, stepped=stepped.tolist()
        )
        self.lacks_line = False

    def _finished(self, total: Array) -> Array:
        return finish(total.reshape(self._nbytes.shape), self._nbytes)
