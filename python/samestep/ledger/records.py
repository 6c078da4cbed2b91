"""The lines of a ledger: a header and a record for each step, chained by sha256; reading checks every link.

A ledger says what a run computed and nothing about where: equal runs have equal files, on any machine and for
any number of threads. The first line, ``HEADER_KEYS``, says what is recorded. Each other line is a record.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .lines import NONE, digest_of, from_json, to_json
from .merkle import root_of
from .zipped import MAGIC, unzipped

FORMAT = 1
NO_LINE = "0" * 64  # what the first line names as the line before
HEADER_KEYS = ("ledger", "contract", "rule", "options", "every", "kinds", "tensors")
RECORD_KEYS: Mapping[str, Any] = {
    "step": None,
    "hyper": None,
    "scale": 1.0,
    "extras": {},
    "tensors": None,
    "root": None,
}
GRADIENT, PARAMETER = "gradient", "parameter"
DIGITS = 16  # of a fingerprint, hexadecimal

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

    def repeats(self, other: Record) -> bool:
        """Whether parameters and states are those that another record left."""
        return all(
            entry is not None and left is not None and entry[1:] == left[1:]
            for entry, left in zip(self.tensors.values(), other.tensors.values(), strict=True)
        )


@dataclass(frozen=True)
class Records:
    """A ledger that has been read and is whole."""

    path: str
    header: Header
    records: tuple[Record, ...]
    last_line: bytes  # without its end
    digests: tuple[str, ...]  # sha256 of each line

    @property
    def digest(self) -> str:
        """sha256 of the last line and, through the chain, of all lines: it names the ledger."""
        return self.digests[-1]

    def by_step(self) -> dict[int, Record]:
        """The record of each step; of a step that was made again, the last one.

        A start that repeats what its step left does not take that step's place: its record says more.
        """
        found: dict[int, Record] = {}
        for record in self.records:
            before = found.get(record.step)
            if before is None or not record.is_start or not record.repeats(before):
                found[record.step] = record
        return found


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
    number, line = next(lines)
    header = _header_of(path, _parsed(path, number, line))
    records: list[Record] = []
    digests = [digest_of(line)]
    for number, line in lines:
        found = _parsed(path, number, line)
        if found.get("previous") != digests[-1]:
            raise LedgerError(
                path,
                number,
                f"it does not name line {number - 1} as that one is: one of the two was altered, "
                "or lines between them were left out or put elsewhere",
            )
        digests.append(digest_of(line))
        records.append(_record_of(path, number, found, header, digests[-1]))
        _check_order(path, header, records)
    return Records(os.fspath(path), header, tuple(records), line, tuple(digests))


def _lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers, without their ends."""
    with open(path, "rb") as file:
        data = file.read()
    is_damaged = False
    if data.startswith(MAGIC):
        data, _, is_damaged = unzipped(data)
    *lines, rest = data.split(b"\n")
    yield from enumerate(lines, 1)
    if is_damaged:
        raise LedgerError(path, len(lines) + 1, "the compressed data are damaged here")
    if rest or not lines:
        raise LedgerError(
            path, len(lines) + 1, "cut off: it has no end, so the run was stopped while it was written"
        )


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = from_json(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LedgerError(path, number, "expected a line of a ledger, a JSON object")
    return found


def _header_of(path: Path, found: Mapping[str, Any]) -> Header:
    if found.get("ledger") != FORMAT or found.get("previous") != NO_LINE:
        raise LedgerError(path, 1, f"expected the header of a ledger of format {FORMAT}")
    if found.keys() != {*HEADER_KEYS, "previous"}:
        raise LedgerError(path, 1, f"expected a header with the keys {', '.join(HEADER_KEYS)}")
    _, contract, rule, options, every, kinds, tensors = (found[key] for key in HEADER_KEYS)
    fits = {
        "contract": _is_whole(contract, 1),
        "rule": isinstance(rule, str),
        "options": isinstance(options, dict),
        "every": _is_whole(every, 1),
        "kinds": isinstance(kinds, list)
        and all(isinstance(kind, str) for kind in kinds)
        and kinds[:1] == [GRADIENT]
        and len(set(kinds)) == len(kinds),
        "tensors": isinstance(tensors, dict) and all(map(_is_tensor, tensors.values())),
    }
    for key, is_as_expected in fits.items():
        if not is_as_expected:
            raise LedgerError(
                path, 1, f"{key}: got {_shortened(found[key])}, expected what a ledger has there"
            )
    return Header(contract, rule, options, every, tuple(kinds), tensors)


def _record_of(path: Path, number: int, found: Mapping[str, Any], header: Header, digest: str) -> Record:
    values: tuple[Any, ...] = tuple(found.get(key, default) for key, default in RECORD_KEYS.items())
    step, hyper, scale, extras, tensors, root = values
    fits = {
        "step": _is_whole(step, 0),
        "hyper": isinstance(hyper, list)
        and all(isinstance(group, dict) for group in hyper)
        and (
            not hyper or len(hyper) > max((facts["group"] for facts in header.tensors.values()), default=-1)
        ),
        "scale": isinstance(scale, (int, float))
        and not isinstance(scale, bool)
        and abs(scale) <= sys.float_info.max,
        "extras": isinstance(extras, dict) and all(isinstance(value, str) for value in extras.values()),
        "tensors": isinstance(tensors, dict),
        "root": root is None or isinstance(root, str),
    }
    for key, is_as_expected in fits.items():
        if not is_as_expected:
            got = _shortened(found[key]) if key in found else "nothing"
            raise LedgerError(path, number, f"{key}: got {got}, expected what a record has there")
    if strange := found.keys() - RECORD_KEYS.keys() - {"previous"}:
        raise LedgerError(path, number, f"{min(strange)!r} is no key of a record")
    if list(tensors) != list(header.tensors):
        raise LedgerError(path, number, "tensors: expected those of the header, in their order")
    entries: dict[str, Entry | None] = {}
    for name, text in tensors.items():
        entries[name] = None if text is None and hyper else _entry_of(text, len(header.kinds), not hyper)
        if entries[name] is None and not (text is None and hyper):
            raise LedgerError(
                path,
                number,
                f"{name}: got {_shortened(text)}, expected 16 hexadecimal digits for each of "
                f"{', '.join(header.kinds)}, with blanks between them and a dash for the gradient of a start",
            )
    if root is not None and root != root_of(entries):
        raise LedgerError(
            path, number, "root: it is not that of these tensors: one of them, or it, was altered"
        )
    return Record(number, step, tuple(hyper), float(scale), extras, entries, root, digest)


def _entry_of(text: Any, kinds: int, is_start: bool) -> Entry | None:
    """The fingerprints of an entry; None: it is of another form."""
    first = NONE if is_start else _FINGERPRINT
    if not isinstance(text, str) or not re.fullmatch(" ".join([first] + [_FINGERPRINT] * (kinds - 1)), text):
        return None
    gradient, *others = text.split(" ")
    return (None if is_start else gradient, *others)


_FINGERPRINT = f"[0-9a-f]{{{DIGITS}}}"


def _is_whole(value: Any, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def _is_tensor(facts: Any) -> bool:
    """Whether they are what the header says of a tensor."""
    return (
        isinstance(facts, dict)
        and isinstance(facts.get("dtype"), str)
        and isinstance(facts.get("shape"), list)
        and all(_is_whole(length, 0) for length in facts["shape"])
        and _is_whole(facts.get("group"), 0)
    )


def _shortened(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _check_order(path: Path, header: Header, records: list[Record]) -> None:
    """Raises unless the last record follows the one before it, or starts anew."""
    last = records[-1]
    if last.is_start:
        return
    before = records[-2].step if len(records) > 1 else None
    expected = None if before is None else (before // header.every + 1) * header.every
    if expected is None or last.step != expected:
        wanted = "a start" if expected is None else f"step {expected}"
        raise LedgerError(path, last.line, f"got step {last.step}, expected {wanted}: a line is missing")
