"""The lines of a ledger: a header and a record for each step, chained by sha256; reading checks every link.

A ledger says what a run computed and nothing about where: equal runs have equal files, on any machine and for
any number of threads. The first line, ``HEADER_KEYS``, says what is recorded. Each other line is a record.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = 1
NO_LINE = "0" * 64  # what the first line names as the line before
HEADER_KEYS = ("ledger", "contract", "rule", "options", "every", "kinds", "tensors")
GRADIENT, PARAMETER = "gradient", "parameter"

Path = str | os.PathLike[str]
Entry = tuple[str | None, ...]  # of one tensor: a fingerprint for each kind, the gradient's None at the start


class LedgerError(ValueError):
    """A ledger is not as it was written.

    Attributes:
        line: the number of the line, from 1 on.
    """

    def __init__(self, path: Path, line: int, what: str) -> None:
        super().__init__(f"{os.fspath(path)}, line {line}: {what}")
        self.line = line


@dataclass(frozen=True)
class Header:
    """What a ledger records.

    Attributes:
        contract: version of the bit contract.
        rule: of the optimizer, as in ``samestep.rules``; of others' what they are called.
        options: of the optimizer, those that are not as by default.
        every: steps between records.
        kinds: "gradient", "parameter" and the names of the states, in the order of each entry.
        tensors: by name, the ``dtype``, ``shape`` and ``group`` of each, in the order of the optimizer.
    """

    contract: int
    rule: str
    options: Mapping[str, Any]
    every: int
    kinds: tuple[str, ...]
    tensors: Mapping[str, Mapping[str, Any]]

    def line(self) -> str:
        values = (FORMAT, self.contract, self.rule, self.options, self.every, self.kinds, self.tensors)
        return to_json({**dict(zip(HEADER_KEYS, values, strict=True)), "previous": NO_LINE})


@dataclass(frozen=True)
class Record:
    """One line of a ledger: what a step was given, and what it left.

    Attributes:
        line: its number in the file, from 2 on; the header is line 1.
        step: how many steps had been made, this one included.
        hyper: the hyper-parameters in use, for each group; empty at the start.
        scale: of the gradients.
        extras: what was noted besides, by name: numbers as ``float.hex`` writes them, arrays as fingerprints.
        tensors: of each tensor its fingerprints in the order of ``Header.kinds``, or None where it had no
            gradient and was not stepped.
        root: the Merkle root of ``tensors``, if it was asked for.
        digest: sha256 of the line, which the next one names.
    """

    line: int
    step: int
    hyper: tuple[Mapping[str, float], ...]
    scale: float
    extras: Mapping[str, str]
    tensors: Mapping[str, Entry | None]
    root: str | None
    digest: str

    @property
    def is_start(self) -> bool:
        """Whether it says where a run, or what goes on after a checkpoint, began."""
        return not self.hyper


@dataclass(frozen=True)
class Records:
    """A ledger that has been read and is whole."""

    path: str
    header: Header
    records: tuple[Record, ...]
    last_line: bytes  # without its end

    def by_step(self) -> dict[int, Record]:
        """The record of each step; of a step that was made again, the last one."""
        return {record.step: record for record in self.records}


def to_json(value: Any) -> str:
    """The JSON of a line: one way to write it, so that equal runs have equal bytes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(line: bytes) -> str:
    """sha256 of a line without its end."""
    return hashlib.sha256(line).hexdigest()


def read_ledger(path: Path) -> Records:
    """Reads a ledger, ``.gz`` or not, and checks its chain, its steps and the form of every line.

    Raises:
        LedgerError: a line is missing, cut off, altered or not of this format.
        OSError: the file cannot be read.

    Example:
        >>> import numpy as np, samestep as ss, tempfile, os
        >>> w = np.ones(2)
        >>> opt = ss.SGD(w, lr=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "run.jsonl")
        ...     with opt.record(path):
        ...         opt.step(np.ones(2))
        ...     found = ss.ledger.read_ledger(path)
        >>> found.header.kinds, [record.step for record in found.records]
        (('gradient', 'parameter'), [0, 1])
    """
    lines = _lines_of(path)
    number, line = next(lines, (1, b""))
    header = _header_of(path, _parsed(path, number, line))
    records: list[Record] = []
    before = line
    for number, line in lines:
        found = _parsed(path, number, line)
        if found.get("previous") != digest_of(before):
            raise LedgerError(
                path, number, "the chain is broken: this line, or one before it, was altered or left out"
            )
        records.append(_record_of(path, number, found, header, digest_of(line)))
        _check_order(path, header, records)
        before = line
    return Records(os.fspath(path), header, tuple(records), before)


def _lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers, without their ends."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:2] == b"\x1f\x8b":
        data = _unzipped(data)
    *lines, rest = data.split(b"\n")
    yield from enumerate(lines, 1)
    if rest or not lines:
        raise LedgerError(
            path, len(lines) + 1, "cut off: it has no end, so the run was stopped while it was written"
        )


def _unzipped(data: bytes) -> bytes:
    """What was compressed, as far as the file goes: a run that was stopped leaves it without an end."""
    parts = []
    while data:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        parts.append(stream.decompress(data))
        data = stream.unused_data
    return b"".join(parts)


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LedgerError(path, number, "expected a line of a ledger, a JSON object")
    return found


def _header_of(path: Path, found: Mapping[str, Any]) -> Header:
    if found.get("ledger") != FORMAT or found.get("previous") != NO_LINE:
        raise LedgerError(path, 1, f"expected the header of a ledger of format {FORMAT}")
    try:
        values = {key: found[key] for key in HEADER_KEYS[1:]}
        return Header(**{**values, "kinds": tuple(values["kinds"]), "tensors": dict(values["tensors"])})
    except (KeyError, TypeError, ValueError):
        raise LedgerError(path, 1, f"expected a header with the keys {', '.join(HEADER_KEYS)}") from None


def _record_of(path: Path, number: int, found: Mapping[str, Any], header: Header, digest: str) -> Record:
    try:
        tensors = {name: None if entry is None else tuple(entry) for name, entry in found["tensors"].items()}
        record = Record(
            number,
            int(found["step"]),
            tuple(found["hyper"]),
            float(found.get("scale", 1.0)),
            dict(found.get("extras", {})),
            tensors,
            found.get("root"),
            digest,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise LedgerError(path, number, "expected a record with step, hyper and tensors") from None
    fits = list(tensors) == list(header.tensors) and all(
        entry is None or len(entry) == len(header.kinds) for entry in tensors.values()
    )
    if not fits:
        raise LedgerError(path, number, "expected the tensors of the header, each with all its kinds")
    return record


def _check_order(path: Path, header: Header, records: list[Record]) -> None:
    """Raises unless the last record follows the one before it, or starts anew."""
    last = records[-1]
    if last.is_start:
        return
    before = records[-2].step if len(records) > 1 else None
    expected = None if before is None else (before // header.every + 1) * header.every
    if expected is None or last.step != expected:
        wanted = "a start" if expected is None else expected
        raise LedgerError(path, last.line, f"a line is missing: got step {last.step}, expected {wanted}")
