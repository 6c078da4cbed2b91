"""What a sharded optimizer tells of its steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from ..arguments import switch, whole_number
from ..backends.arrays import Array
from ..ledger.records import Path
from ..optim.optimizer import Optimizer
from ..optim.param import check_layouts
from ..spread import check_same, do_together
from .groups import Group
from .parts import Parts
from .spread_ledger import SpreadLedger


class Recorded:
    """The part of a ``Sharded`` that records its steps."""

    optimizer: Optimizer
    _params: list[Array]
    _parts: Parts
    _group: Group
    _together: Callable[[], AbstractContextManager[None]]
    _ledger: SpreadLedger | None = None

    def record(
        self, path: Path | None, *, every: int = 1, state: bool = True, **how: bool
    ) -> SpreadLedger | None:
        """Writes what every further step computes into one file, a line a step, or no longer.

        Every worker calls it, and has the record end, after the same step. The file is the one that
        ``samestep.Optimizer.record`` writes for one optimizer of all parameters, which is given the means of
        the leaves' gradients: it does not show how many workers there are. Each gives the sums of its own
        blocks; worker 0 writes.

        Args:
            path, every, state, how: as for ``samestep.Optimizer.record``. Worker 0 needs to reach the path.

        Returns:
            What ends the record, a context manager; ``note`` counts on worker 0. None if ``path`` is None.

        Raises:
            TypeError, ValueError, OSError: as there, or arguments differ; raised on all workers, and the
                record that was begun before goes on. Later a line that cannot be written is raised by
                worker 0's ``step``, once the step has been made on all.

        Example:
            >>> import numpy as np, samestep as ss, tempfile, os
            >>> folder = tempfile.TemporaryDirectory()
            >>> def train(group):
            ...     w = np.ones(3000, np.float32)
            ...     opt = ss.parallel.Sharded(lambda part: ss.Adam(part, lr=0.1), w, group, leaves=4)
            ...     with opt.record(os.path.join(folder.name, f"of {group.size}")):
            ...         for leaf in opt.leaves:
            ...             opt.add(leaf, (leaf + 1)*w)
            ...         opt.step()
            >>> for workers in (1, 3):
            ...     _ = ss.parallel.run_threads(workers, train)
            >>> one, three = (ss.ledger.read_ledger(os.path.join(folder.name, f"of {n}")) for n in (1, 3))
            >>> folder.cleanup()
            >>> one.last_line == three.last_line
            True
        """
        optimizer, group = self.optimizer, self._group

        def check() -> tuple[int, bool]:
            check_layouts(optimizer._params)
            return whole_number("every", every, at_least=1), switch("state", state)

        def make() -> SpreadLedger | None:
            if path is None:
                return None
            return SpreadLedger(optimizer, self._params, self._parts, group, path, *checked, how)

        with self._together():
            checked, facts = do_together(group, check, lambda found: [path is None, *found])
            check_same("path is None, every, state", "the values", facts, "pass the same on all")
            new, _ = do_together(group, make)
            if self._ledger is not None:
                self._ledger.close()
            self._ledger = new
            optimizer._step_sums = None if new is None else new.sums
            optimizer._bind()
        return new
