"""Recomputes steps that a ledger records, on this machine, and says whether they are what it claims."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backends.arrays import Array
from .fingerprints import fingerprint
from .ledger.records import Entry, Path, Record, Records
from .optim import checkpoint
from .optim.optimizer import Optimizer
from .optional import require


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
        ValueError: the ledger has no line for a step that it should have.

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
        given = [None if g is None else f"{fingerprint(g):016x}" for g in grads]
        optimizer._step_flat(list(grads), record.scale)
        if step not in by_step:
            continue
        compared += 1
        entries = {
            name: None if g is None else (g, *entry[1:])
            for (name, entry), g in zip(_left_by(optimizer, ledger).items(), given, strict=True)
        }
        parted = _first_difference(ledger, record.tensors, entries, only)
        if parted is not None:
            return Verdict(first, step, compared, step, *parted)
    return Verdict(first, optimizer.t, compared)


def _record_of(ledger: Records, by_step: Mapping[int, Record], step: int) -> Record:
    """The line of a step, or, of one between two lines, the next: hyper-parameters are as there."""
    recorded = -(-step // ledger.header.every) * ledger.header.every
    if recorded not in by_step or by_step[recorded].is_start:
        raise ValueError(f"ledger: {ledger.path} has no line for step {recorded}, expected one")
    return by_step[recorded]


def _set_hyper(optimizer: Optimizer, record: Record) -> None:
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
) -> tuple[str, str, str | None, str | None] | None:
    """Tensor, kind and both fingerprints: a gradient first, since what follows from it differs anyway."""
    kinds = ledger.header.kinds
    names = list(claimed) if only is None else [only]
    for k in range(kinds_from, len(kinds)):
        for name in names:
            a, b = claimed[name], found[name]
            values = (None if a is None else a[k], None if b is None else b[k])
            if values[0] != values[1]:
                return name, kinds[k], *values
    return None


def optimizer_at(ledger: Records, state: Path, params: Path, *, backend: str = "auto") -> Optimizer:
    """An optimizer as it was when it was saved, over copies of parameters from a file.

    Args:
        ledger: whose tensors these are.
        state: what ``optimizer.save`` wrote.
        params: the parameters at that time: a file for ``read_arrays``.
        backend: "auto" or "cpu", "reference", or "cuda", which copies them to the current GPU.

    Raises:
        OSError, TypeError, ValueError: a file cannot be read, is altered, or does not fit the ledger.
    """
    groups: dict[int, list[Any]] = {}
    for (name, tensor), array in zip(ledger.header.tensors.items(), read_arrays(ledger, params), strict=True):
        if array is None:
            raise ValueError(f"params: {os.fspath(params)} lacks {name}, expected all tensors of the ledger")
        groups.setdefault(tensor["group"], []).append(array.copy())
    if backend == "cuda":
        cupy = require("cupy", "backend='cuda'", "cuda")
        groups = {i: [cupy.asarray(w) for w in arrays] for i, arrays in groups.items()}
    given: Any = groups[0] if len(groups) == 1 else [{"params": groups[i]} for i in sorted(groups)]
    return Optimizer.load(state, given, backend=backend)


def read_arrays(ledger: Records, path: Path) -> list[Array | None]:
    """One array for each tensor of a ledger from a file, None for those that it lacks.

    Args:
        ledger: whose tensors these are.
        path: ``.npz`` (``numpy.savez``) or ``.safetensors``. An array goes by the ledger's name of its tensor,
            such as ``params['w']``, or by what tells it from the others: ``w``; of a list its number, or
            ``arr_0`` as ``numpy.savez`` has it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is of another kind, has an array that is no tensor's, or one of another shape or dtype.
    """
    where = os.fspath(path)
    found = _file_arrays(where)
    arrays: list[Array | None] = []
    for i, (name, tensor) in enumerate(ledger.header.tensors.items()):
        keys = [key for key in (name, _short_name(name), str(i), f"arr_{i}") if key in found]
        array = found.pop(keys[0]) if keys else None
        if array is not None:
            like = np.empty(0, _dtype_of(tensor["dtype"]))
            array = checkpoint.with_dtype(array.view(np.uint16) if array.dtype.kind == "V" else array, like)
            assert array is not None
            if (array.dtype, list(array.shape)) != (like.dtype, tensor["shape"]):
                raise ValueError(
                    f"{where}: got {array.dtype} of shape {array.shape} for {name}, expected {like.dtype} of "
                    f"shape {tuple(tensor['shape'])} as in the ledger"
                )
        arrays.append(array)
    if found:
        names = ", ".join(ledger.header.tensors)
        raise ValueError(f"{where}: got the array {next(iter(found))!r}, expected some of {names}")
    return arrays


def _file_arrays(path: str) -> dict[str, Array]:
    if path.endswith(".npz"):
        with np.load(path) as file:
            return dict(file)
    if path.endswith(".safetensors"):
        safetensors = require("safetensors.numpy", "reading .safetensors")
        return dict(safetensors.load_file(path))
    raise ValueError(f"{path}: expected a file whose name ends in .npz or .safetensors")


def _short_name(name: str) -> str:
    """Of ``params['w']`` w, of ``params[3]`` 3; other names as they are."""
    return re.sub(r"^params\[['\"]?(.*?)['\"]?\]$", r"\1", name)


def _dtype_of(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        return np.dtype(require("ml_dtypes", "bfloat16", "bfloat16").bfloat16)
    return np.dtype(name)
