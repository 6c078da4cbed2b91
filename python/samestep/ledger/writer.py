"""Writes a ledger while a run goes on: a whole line after each step that is recorded."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import file_path, number, switch, whole_number
from ..fingerprints import fingerprint
from .lines import as_text, digest_of, to_json
from .merkle import root_of
from .records import DIGITS, GRADIENT, Entry, Header, Path, read_ledger
from .watch import watch_of_environment
from .zipped import GZIP, unzipped

if TYPE_CHECKING:
    from typing_extensions import Self

Fingerprints = NDArray[np.uint64]


class Ledger:
    """The record of a run, by which two runs are compared and one is recomputed.

    ``optimizer.record`` makes one. By itself it records any arrays: say in ``header`` what they are, and call
    ``add`` after every step. Calls from several threads take turns.

    Args:
        path: of a new file, by custom ``*.jsonl``; ``*.jsonl.gz`` is compressed.
        header: what is recorded.
        sync: wait after every line until it is on the disk.
        merkle: add the Merkle root of the tensors, so that one tensor can be checked alone.
        append: go on with the file if it is there.

    Raises:
        FileExistsError: the file is there, and ``append`` is not asked for.
        LedgerError: the file to go on with is not whole.
        ValueError: it records something else, or the header has no tensors.

    Example:
        >>> import numpy as np, samestep as ss, tempfile, os
        >>> w = np.ones(2)
        >>> opt = ss.SGD(w, lr=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "run.jsonl")
        ...     with opt.record(path) as ledger:
        ...         ledger.note(loss=2.0)
        ...         opt.step(np.ones(2))
        ...     ss.ledger.read_ledger(path).records[1].extras
        {'loss': '0x1.0000000000000p+1'}
    """

    def __init__(
        self, path: Path, header: Header, *, sync: bool = False, merkle: bool = False, append: bool = False
    ) -> None:
        if not header.tensors:
            raise ValueError("header: got no tensors, expected at least one to record")
        if header.kinds[:1] != (GRADIENT,):
            raise ValueError(f"header: got the kinds {header.kinds}, expected {GRADIENT!r} as the first")
        self._lock, self._process = threading.RLock(), os.getpid()
        self.watch = watch_of_environment()
        where = file_path("path", path)
        self.path = where if self.watch is None else self.watch.path(where)
        self.header = header
        self._syncs, self._has_roots = switch("sync", sync), switch("merkle", merkle)
        self._names = list(header.tensors)
        self.at = -1  # how many steps its optimizer had made when it last came by; below 0: a start is due
        self.extras: dict[str, str] = {}  # of the next line
        self._before = b""  # the line before, without its end
        # What the lines so far have come to: the last step, and each tensor's fingerprints after it.
        self._step: int | None = None
        self._left = np.zeros((len(self._names), len(header.kinds)), np.uint64)
        self._hyper = "", ""  # those of the last step, and their JSON
        self._template: tuple[bytes, NDArray[np.intp]] | None = None
        self._zip = _compressor() if self.path.endswith(".gz") else None
        goes_on, exists = switch("append", append), os.path.exists(self.path)
        if exists and not goes_on:
            raise FileExistsError(
                errno.EEXIST,
                "path: there is a file already; name another one, or go on with append=True",
                self.path,
            )
        if exists:
            self._go_on()
        self._is_new = not exists
        flags = os.O_WRONLY | os.O_APPEND | (0 if exists else os.O_CREAT | os.O_EXCL)
        flags |= getattr(os, "O_BINARY", 0)  # on Windows each "\n" would become "\r\n"
        self._file = os.open(self.path, flags, 0o666)
        if self._is_new:
            try:
                self._write(header.line().encode())
            except BaseException:
                self.abandon()
                raise

    def note(self, **extras: Any) -> None:
        """Has the next line hold more: a number, such as the loss, or an array's fingerprint.

        Args:
            extras: by name, numbers, NaN and infinity among them, or arrays, such as ``running_mean``.

        Raises:
            TypeError, ValueError: one is neither, or the ledger is closed; nothing is noted.
        """
        found = noted(extras)
        with self._alone():
            self._check_open()
            self.extras.update(found)

    def start(self, step: int, fingerprints: Fingerprints) -> None:
        """Says where a run begins: the fingerprints of parameters and states before the first step.

        Nothing is written where the last line has the same: the run goes on where it was left.

        Args:
            step: how many steps have been made.
            fingerprints: (tensors, kinds), in the order of the header; of gradients, not read.

        Raises:
            TypeError, ValueError: an argument does not fit, or the ledger is closed.
            OSError: the line cannot be written; the file is as it was before.
        """
        with self._alone():
            self._check(step, fingerprints)
            if self._step == step and np.array_equal(self._left[:, 1:], fingerprints[:, 1:]):
                return
            entries = {name: (None, *entry[1:]) for name, entry in self._entries(fingerprints).items()}
            self._write_record(f'{{"step":{step},"hyper":[]', entries, fingerprints)
            self._step, self._left = step, fingerprints.copy()

    def add(
        self,
        step: int,
        fingerprints: Fingerprints,
        hyper: Sequence[Mapping[str, float]],
        *,
        scale: float = 1.0,
        stepped: Sequence[bool] | None = None,
    ) -> None:
        """Writes the line of a step, whole or not at all.

        Args:
            step: its number.
            fingerprints: (tensors, kinds), in the order of the header.
            hyper: the hyper-parameters in use, for each group.
            scale: of the gradients.
            stepped: of each tensor, whether it had a gradient; all had one if this is None.

        Raises:
            TypeError, ValueError: an argument does not fit, or the ledger is closed.
            OSError: the line cannot be written; the file is as it was before.
        """
        with self._alone():
            self._check(step, fingerprints)
            self._add(step, fingerprints, hyper, scale, stepped)

    def _add(
        self,
        step: int,
        fingerprints: Fingerprints,
        hyper: Sequence[Mapping[str, float]],
        scale: float,
        stepped: Sequence[bool] | None,
    ) -> None:
        told = repr(hyper)  # which tells -0.0 from 0.0, and 1 from 1.0
        if self._hyper[0] != told:  # mostly those of the last step, whose text is at hand
            self._hyper = told, to_json(list(hyper))
        facts = f'{{"step":{step},"hyper":{self._hyper[1]}'
        if scale != 1.0:
            facts += f',"scale":{to_json(scale)}'
        if self.extras:
            facts += f',"extras":{to_json(self.extras)}'
        entries: dict[str, Entry | None] | None = None
        if stepped is not None and not all(stepped):
            found = zip(self._entries(fingerprints).items(), stepped, strict=True)
            entries = {name: entry if has else None for (name, entry), has in found}
        self._write_record(facts, entries, fingerprints)
        self.extras, self._step = {}, step
        if entries is None:
            self._left[...] = fingerprints
        else:
            self._left[np.array(stepped)] = fingerprints[np.array(stepped)]

    def close(self) -> None:
        """Ends the file. What an optimizer does from now on is not recorded."""
        with self._alone():
            if self._file < 0:
                return
            try:
                if self._zip is not None and not self.is_closed:
                    self._append(self._zip.flush(zlib.Z_FINISH))
            finally:  # a compressed file without an end can be read, and gone on with
                os.close(self._file)
                self._file = -1

    def abandon(self) -> None:
        """Ends the file as it is; one that was made for this ledger is removed."""
        os.close(self._file)
        self._file = -1
        if self._is_new:
            os.unlink(self.path)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is recorded; in a child process nothing is, for the file is its parent's."""
        return self._file < 0 or os.getpid() != self._process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _alone(self) -> AbstractContextManager[Any]:
        """Held by one thread at a time. In a child process, which writes nothing, nobody may give it back."""
        return self._lock if os.getpid() == self._process else nullcontext()

    def _check_open(self) -> None:
        if self.is_closed:
            raise ValueError(
                f"ledger: {self.path} is closed, or was opened by a parent process; make another one"
            )

    def _check(self, step: int, fingerprints: Fingerprints) -> None:
        self._check_open()
        whole_number("step", step, at_least=0)
        expected = (len(self._names), len(self.header.kinds))
        if getattr(fingerprints, "dtype", None) != np.uint64 or fingerprints.shape != expected:
            got = getattr(fingerprints, "shape", type(fingerprints).__name__)
            raise TypeError(f"fingerprints: got {got}, expected uint64 of shape {expected}, (tensors, kinds)")

    def _go_on(self) -> None:
        """Takes over where the file ends."""
        found = read_ledger(self.path)
        if found.header.line() != self.header.line():
            raise ValueError(
                f"path: {self.path} records other tensors, options or kinds; name another file for this run"
            )
        self._before = found.last_line
        if self._zip is not None:
            self._end_streams()
        for record in found.records:
            self._step = record.step
            for left, entry in zip(self._left, record.tensors.values(), strict=True):
                if entry is not None:
                    left[...] = [int(value or "0", 16) for value in entry]

    def _end_streams(self) -> None:
        """Writes a stopped run's gzip file anew: what follows a stream without an end cannot be read."""
        with open(self.path, "rb") as file:
            content, is_ended, _ = unzipped(file.read())
        if is_ended:
            return
        whole = _compressor()
        unfinished = f"{self.path}.unfinished"
        with open(unfinished, "wb") as file:
            file.write(whole.compress(content) + whole.flush())
            os.fsync(file.fileno())
        os.replace(unfinished, self.path)

    def _write_record(
        self, facts: str, entries: Mapping[str, Entry | None] | None, fingerprints: Fingerprints
    ) -> None:
        """Adds a line that begins with these facts; without ``entries``, of all fingerprints."""
        if entries is None:
            tensors = self._filled(fingerprints)
        else:
            tensors = to_json({name: as_text(entry) for name, entry in entries.items()}).encode()
        root = ""
        if self._has_roots:
            root = f',"root":"{root_of(self._entries(fingerprints) if entries is None else entries)}"'
        head = f'{facts},"tensors":'.encode()
        self._write(b"".join((head, tensors, f'{root},"previous":"{digest_of(self._before)}"}}'.encode())))

    def _entries(self, fingerprints: Fingerprints) -> dict[str, tuple[str, ...]]:
        rows = zip(self._names, fingerprints.tolist(), strict=True)
        return {name: tuple(f"{value:016x}" for value in row) for name, row in rows}

    def _filled(self, fingerprints: Fingerprints) -> bytes:
        """The JSON of all entries: the digits are put into their places, which are found once."""
        if self._template is None:
            self._template = _template_of(self._names, len(self.header.kinds))
        text, places = self._template
        line = np.frombuffer(text, np.uint8).copy()
        line[places] = np.frombuffer(fingerprints.astype(">u8").tobytes().hex().encode(), np.uint8)
        return line.tobytes()

    def _write(self, line: bytes) -> None:
        """Adds a line, or, on an error or an interrupt, leaves file and chain as they were."""
        data, before, stream = line + b"\n", self._before, self._zip
        if stream is not None:
            after = stream.copy()
            data = after.compress(data) + after.flush(zlib.Z_SYNC_FLUSH)
        size = os.fstat(self._file).st_size
        try:
            self._append(data)
            self._before = line
            if stream is not None:
                self._zip = after
        except BaseException:
            os.ftruncate(self._file, size)
            self._before, self._zip = before, stream
            raise

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]
        if self._syncs:
            os.fsync(self._file)


def noted(extras: Mapping[str, Any]) -> dict[str, str]:
    """What is noted besides a step, as a line has it.

    Raises:
        TypeError, ValueError: a value is neither a number nor an array.
    """
    return {
        name: f"{fingerprint(value):016x}"
        if isinstance(value, np.ndarray) and value.ndim > 0
        else number(name, value).hex()
        for name, value in extras.items()
    }


def _compressor() -> Any:
    """Writes gzip. Digits without a pattern are letters to it, not repetitions: that is a tenth shorter."""
    return zlib.compressobj(wbits=GZIP, strategy=zlib.Z_FILTERED)


def _template_of(names: Sequence[str], kinds: int) -> tuple[bytes, NDArray[np.intp]]:
    """The JSON of entries with blanks for the fingerprints, and where each of their digits goes."""
    text, places = b"{", []
    for name in names:
        text += f'{to_json(name)}:"'.encode()
        places += [len(text) + k * (DIGITS + 1) for k in range(kinds)]
        text += b" " * (kinds * (DIGITS + 1) - 1) + b'",'
    return text[:-1] + b"}", np.add.outer(np.array(places), np.arange(DIGITS)).ravel()
