"""Recomputes steps that a ledger records, on this machine, and says whether they are what it claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..fingerprints import fingerprint
from ..ledger.records import Entry, Record, Records
from ..optim.optimizer import Optimizer
from ..optim.recorded import header_of


@dataclass(frozen=True)
class Verdict:
    """What a replay found.

    Attributes:
        first, last: the steps that were recomputed.
        compared: how many of these the ledger has a line for.
        step, tensor, kind: where the ledger differs at first from what was recomputed; None if nowhere. The
            kind is "gradient" where what was given is not what was recorded.
        expected, found: the two fingerprints there, in hexadecimal digits; None where one has no gradient.

    Example:
        >>> from samestep.replay import Verdict
        >>> str(Verdict(1, 3, 3, 2, "params['w']", "v", "a634b0a0cfd0c2e1", "31449edf9ce1b344"))
        "rejected at step 2, tensor params['w'], v: recorded a634b0a0cfd0c2e1, recomputed 31449edf9ce1b344"
    """

    first: int
    last: int
    compared: int
    step: int | None = None
    tensor: str | None = None
    kind: str | None = None
    expected: str | None = None
    found: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether every line was as recomputed."""
        return self.step is None

    def __str__(self) -> str:
        if self.accepted:
            return f"accepted: steps {self.first} to {self.last} recomputed, {self.compared} lines compared"
        return (
            f"rejected at step {self.step}, tensor {self.tensor}, {self.kind}: "
            f"recorded {self.expected}, recomputed {self.found}"
        )


def replay(
    ledger: Records, optimizer: Optimizer, gradients: Iterable[Sequence[Any]], *, only: str | None = None
) -> Verdict:
    """Steps an optimizer along recorded gradients and compares each step with the ledger's line.

    The hyper-parameters are those that the ledger claims. It stops at the first difference.

    Args:
        ledger: what ``samestep.ledger.read_ledger`` returned.
        optimizer: as it was after some step, such as ``optimizer_at`` makes it; its parameters are stepped.
        gradients: of each step after that, one for every tensor of the ledger, None for those without.
        only: the name of a tensor, if no other is to be compared; the others may then lack gradients.

    Raises:
        ValueError: the ledger is of another rule or other options, has no line for a step that it should
            have, or does not say with which hyper-parameters a step was made that has no line; with ``only``,
            a gradient is missing whose norm counts.

    Example:
        >>> import numpy as np, samestep as ss, tempfile, os
        >>> from samestep.replay import replay
        >>> def make(lr):
        ...     return ss.Adam(np.ones(3, np.float32), lr=lr)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "run.jsonl")
        ...     opt = make(0.5)
        ...     with opt.record(path):
        ...         for i in range(3):
        ...             opt.step(np.full(3, i, np.float32))
        ...     ledger = ss.ledger.read_ledger(path)
        >>> str(replay(ledger, make(0.5), [[np.full(3, i, np.float32)] for i in range(3)]))
        'accepted: steps 1 to 3 recomputed, 3 lines compared'
        >>> str(replay(ledger, make(0.5), [[np.full(3, 2*i, np.float32)] for i in range(3)]))[:53]
        'rejected at step 2, tensor params, gradient: recorded'
    """
    _check_rule(ledger, optimizer)
    by_step = ledger.by_step()
    first, compared = optimizer.t + 1, 0
    if optimizer.t in by_step:
        entries = _left_by(optimizer, ledger)
        # Of a tensor without a gradient the line says nothing.
        claimed = {name: entry for name, entry in by_step[optimizer.t].tensors.items() if entry is not None}
        parted = _first_difference(ledger, claimed, entries, only, kinds_from=1)
        if parted is not None:
            return Verdict(optimizer.t, optimizer.t, 1, optimizer.t, *parted)
    for grads in gradients:
        step = optimizer.t + 1
        record = _record_of(ledger, by_step, step)
        _set_hyper(optimizer, record)
        given: dict[str, Entry | None] = {
            name: None if g is None else (f"{fingerprint(g):016x}",)
            for name, g in zip(ledger.header.tensors, grads, strict=True)
        }
        if step in by_step:
            compared += 1
            parted = _first_difference(ledger, record.tensors, given, only, kinds_to=1)
            if parted is not None:  # before the step, which may refuse what nobody has stepped along
                return Verdict(first, step, compared, step, *parted)
        optimizer._step_flat(_stepped_along(ledger, optimizer, grads, record, only), record.scale)
        if step not in by_step:
            continue
        left = _left_by(optimizer, ledger)
        stepped = {name: None if given[name] is None else entry for name, entry in left.items()}
        parted = _first_difference(ledger, record.tensors, stepped, only, kinds_from=1)
        if parted is not None:
            return Verdict(first, step, compared, step, *parted)
    return Verdict(first, optimizer.t, compared)


def _check_rule(ledger: Records, optimizer: Optimizer) -> None:
    """Raises unless the optimizer does what the header says."""
    claimed, found = ledger.header, header_of(optimizer, 1, True)
    for name in ("contract", "rule", "options"):
        if getattr(claimed, name) != getattr(found, name):
            raise ValueError(
                f"{name}: got {getattr(found, name)!r} of the optimizer, expected "
                f"{getattr(claimed, name)!r}, which {ledger.path} records"
            )
    if claimed.kinds != found.kinds[: len(claimed.kinds)] or len(claimed.tensors) != len(found.tensors):
        raise ValueError(
            f"ledger: {ledger.path} records {', '.join(claimed.kinds)} of {len(claimed.tensors)} tensors, "
            f"expected {', '.join(found.kinds)} of {len(found.tensors)}, those of the optimizer"
        )


def _stepped_along(
    ledger: Records, optimizer: Optimizer, grads: Sequence[Any], record: Record, only: str | None
) -> list[Any]:
    """The gradients of a step; of one tensor alone, unless they are clipped by the norm of all together."""
    if only is None:
        return list(grads)
    tensors = ledger.header.tensors
    if optimizer.options.clip_norm is None:
        return [g if name == only else None for name, g in zip(tensors, grads, strict=True)]
    for name, g in zip(tensors, grads, strict=True):
        if g is None and record.tensors[name] is not None:
            raise ValueError(
                f"gradients: lack {name} in step {optimizer.t + 1}, expected every tensor's, even for {only} "
                "alone: clip_norm goes by the norm of them all"
            )
    return list(grads)


def _record_of(ledger: Records, by_step: Mapping[int, Record], step: int) -> Record:
    """The line of a step, or, of one between two lines, the next: hyper-parameters are as there."""
    every = ledger.header.every
    recorded = -(-step // every) * every
    record, before = by_step.get(recorded), by_step.get(recorded - every)
    if record is None or record.is_start:
        raise ValueError(f"ledger: {ledger.path} has no line for step {recorded}, expected one")
    if step == recorded or before is None or before.is_start:
        return record
    if (before.hyper, before.scale) != (record.hyper, record.scale):
        raise ValueError(
            f"ledger: {ledger.path} has other hyper-parameters in step {recorded} than in step "
            f"{before.step}, and no line that says which of them step {step} had; record every step"
        )
    return record


def _set_hyper(optimizer: Optimizer, record: Record) -> None:
    expected = [set(group) for group in optimizer.groups]
    if [set(hyper) for hyper in record.hyper] != expected:
        names = " and ".join(", ".join(group) for group in optimizer.groups)
        raise ValueError(f"ledger: line {record.line} has other hyper-parameters than {names}")
    for group, hyper in zip(optimizer.groups, record.hyper, strict=True):
        for name, value in hyper.items():
            if group[name] != value or group._schedules.get(name) is not None:
                group[name] = value


def _left_by(optimizer: Optimizer, ledger: Records) -> dict[str, tuple[str, ...]]:
    """The fingerprints of parameters and states as they are; the gradient's place is empty."""
    n = len(ledger.header.kinds) - 1
    return {
        name: ("", *(f"{fingerprint(a):016x}" for a in [param.array, *param.states.values()][:n]))
        for name, param in zip(ledger.header.tensors, optimizer._params, strict=True)
    }


def _first_difference(
    ledger: Records,
    claimed: Mapping[str, Entry | None],
    found: Mapping[str, Entry | None],
    only: str | None,
    kinds_from: int = 0,
    kinds_to: int | None = None,
) -> tuple[str, str, str | None, str | None] | None:
    """Tensor, kind and both fingerprints: a gradient first, since what follows from it differs anyway."""
    kinds = ledger.header.kinds
    names = list(claimed) if only is None else [only]
    for k in range(len(kinds))[kinds_from:kinds_to]:
        for name in names:
            a, b = claimed[name], found[name]
            values = (None if a is None else a[k], None if b is None else b[k])
            if values[0] != values[1]:
                return name, kinds[k], *values
    return None
