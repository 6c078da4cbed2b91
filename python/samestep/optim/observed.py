"""What an optimizer tells of its steps: how many there were, what they cost, and what they computed."""

from __future__ import annotations

from ..arguments import switch, whole_number
from ..backends.face import NONFINITE, settle
from ..ledger.records import Path
from ..ledger.writer import Ledger
from .owner import Owner
from .param import check_layouts
from .recorded import RecordedPlan, header_of
from .stats import StepStats


class Observed:
    """The part of an optimizer that observes its steps."""

    @property
    def skipped(self: Owner) -> bool:
        """Whether the last step was left out for a gradient that is not finite; on a GPU, waits for it."""
        self._settle()
        return self._skipped

    @property
    def t(self: Owner) -> int:
        """How many steps have been made."""
        self._settle()
        return int(self._steps[-1])

    @property
    def steps(self: Owner) -> list[int]:
        """How many steps each parameter has made: a step whose gradient is None does not count."""
        self._settle()
        return [int(n) for n in self._steps[:-1]]

    def _settle(self: Owner) -> None:
        """Waits until it is known whether the last step was left out, which on a GPU the device decides."""
        outcome = settle(vars(self).get("_plan"))
        if outcome is not None:
            self._skipped = outcome == NONFINITE

    def record_stats(self: Owner, on: bool = True) -> None:
        """Has every further step timed, or no longer; costs nothing while off. See ``stats``.

        Raises:
            TypeError: ``on`` is neither True nor False.
            ValueError: the arrays live on a GPU, whose steps have not ended when the call returns.
        """
        on = switch("on", on)
        if on and self.backend == "cuda":
            raise ValueError("record_stats: steps on a GPU end after the call; time them with CUDA's events")
        check_layouts(self._params)
        self._times_steps = on
        self._bind()

    @property
    def stats(self: Owner) -> StepStats | None:
        """What the last step cost: ``bytes`` moved, ``seconds``, ``gb_per_s``; None if none was recorded.

        Example:
            >>> import numpy as np, samestep as ss
            >>> opt = ss.Adam(np.zeros(1000, np.float32))
            >>> opt.record_stats()
            >>> opt.step(np.ones(1000, np.float32))
            >>> opt.stats.bytes, opt.stats.gb_per_s > 0
            (28000, True)
        """
        stats: StepStats | None = getattr(self._plan, "stats", None)
        return stats

    def record(
        self: Owner,
        path: Path | None,
        *,
        every: int = 1,
        state: bool = True,
        sync: bool = False,
        merkle: bool = False,
        append: bool = False,
    ) -> Ledger | None:
        """Writes what every further step computes into a file, a line a step, or no longer.

        Of each parameter the line has the fingerprints of the gradient as it was handed in, and of the
        parameter and its states after the step, made in the step's own pass; besides, the hyper-parameters in
        use. Equal runs write equal files, on any machine. ``samestep diff`` finds where two part.

        Args:
            path: of a new file, by custom ``*.jsonl``; ``*.jsonl.gz`` is compressed. None: no further step is
                recorded.
            every: steps from one line to the next.
            state: whether the states are recorded too.
            sync: whether each line is waited for until it is on the disk.
            merkle: whether each line has the Merkle root of its tensors, so that one can be checked alone.
            append: go on with a file of the same optimizer, if it is there, such as after a checkpoint.

        Returns:
            The ledger, a context manager that ends the record. None if ``path`` is None.

        Raises:
            FileExistsError: the file is there, and ``append`` is not asked for.
            OSError: the file cannot be written: nothing is changed. A step raises it once it is made; the
                file is then as before, and the next step begins with another start.
            LedgerError, ValueError: the file to go on with is not whole, or of other parameters; or it is the
                optimizer of one worker's part, whose ``Sharded`` records.

        Example:
            >>> import numpy as np, samestep as ss, tempfile, os
            >>> w = np.ones(2)
            >>> opt = ss.SGD({"w": w}, lr=0.5)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = os.path.join(folder, "run.jsonl")
            ...     with opt.record(path):
            ...         opt.step({"w": np.ones(2)})
            ...     last = ss.ledger.read_ledger(path).records[-1]
            >>> last.step, last.hyper
            (1, ({'lr': 0.5, 'weight_decay': 0.0},))
            >>> last.tensors == {"params['w']": tuple(f"{ss.fingerprint(a):016x}" for a in (np.ones(2), w))}
            True
        """
        if not self._decides:
            raise ValueError("record: got an optimizer of one worker's part; record the Sharded that has it")
        check_layouts(self._params)
        new = None
        if path is not None:
            header = header_of(self, whole_number("every", every, at_least=1), switch("state", state))
            new = Ledger(path, header, sync=sync, merkle=merkle, append=append)
        before, self._ledger = self._ledger, new
        try:
            self._bind()
            if isinstance(self._plan, RecordedPlan):
                self._plan.start()
        except BaseException:
            if new is not None:
                new.abandon()
            self._ledger = before
            self._bind()
            raise
        if before is not None:
            before.close()
        return new
