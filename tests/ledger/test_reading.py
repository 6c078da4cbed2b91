"""Reading a ledger finds what was done to it, and names the line."""

import gzip
import hashlib
import json
import os
import random

import numpy as np
import pytest

from ledgers import write_run
from samestep.ledger import Ledger, LedgerError, read_ledger
from samestep.ledger.lines import to_json
from samestep.ledger.merkle import root_of

STEPS = 6
LINES = STEPS + 2  # with the header and the start


@pytest.fixture
def lines(tmp_path):
    """Of a ledger with Merkle roots."""
    return write_run(tmp_path / "run.jsonl", steps=STEPS, merkle=True).read_bytes().splitlines()


def read_lines(tmp_path, lines, end=b"\n"):
    path = tmp_path / "changed.jsonl"
    path.write_bytes(b"\n".join(lines) + end)
    return read_ledger(path)


def line_of_error(tmp_path, lines, end=b"\n"):
    with pytest.raises(LedgerError) as caught:
        read_lines(tmp_path, lines, end)
    assert f"line {caught.value.line}: " in str(caught.value)
    return caught.value.line


def chained(lines):
    """The lines with their links made anew, as a forger would."""
    before, found = None, []
    for line in lines:
        facts = json.loads(line)
        if before is not None:
            facts["previous"] = hashlib.sha256(before).hexdigest()
        before = to_json(facts).encode()
        found.append(before)
    return found


def edited(lines, number, edit):
    """The lines with one changed, linked anew."""
    facts = json.loads(lines[number - 1])
    edit(facts)
    return chained([*lines[: number - 1], to_json(facts).encode(), *lines[number:]])


def test_what_was_written_is_read(tmp_path, lines):
    found = read_lines(tmp_path, lines)
    assert [record.step for record in found.records] == list(range(STEPS + 1))
    assert [record.line for record in found.records] == list(range(2, LINES + 1))
    assert found.header.kinds == ("gradient", "parameter", "m", "v")
    assert found.records[0].is_start
    assert found.records[0].tensors["wte"][0] is None
    assert found.records[2].extras == {"loss": (1 / 2).hex()}
    assert found.records[2].hyper[1] == {"lr": 0.02, "beta1": 0.9}
    assert list(found.digests) == [hashlib.sha256(line).hexdigest() for line in lines]
    assert found.digest == found.digests[-1]
    assert chained(lines) == lines  # so that the forgeries below differ in what they change alone


@pytest.mark.parametrize("number", range(1, LINES + 1))
def test_a_flipped_bit(tmp_path, lines, number):
    """Anywhere in a line; in the last one, which no line names, anywhere in what its root covers."""
    rng = random.Random(number)
    for _ in range(60):
        line = bytearray(lines[number - 1])
        place = rng.randrange(len(line))
        if number == LINES and not line.find(b'"tensors"') < place < line.find(b'"previous"'):
            continue
        line[place] ^= 1 << rng.randrange(8)
        changed = [*lines[: number - 1], bytes(line), *lines[number:]]
        assert line_of_error(tmp_path, changed) in (number, number + 1)


def test_the_digest_tells_two_last_lines_apart(tmp_path, lines):
    """What no link and no root covers in the last line still changes the digest that names the ledger."""
    other = read_lines(tmp_path, edited(lines, LINES, lambda facts: facts["hyper"][0].update(lr=0.5)))
    assert other.digest != read_lines(tmp_path, lines).digest


@pytest.mark.parametrize("number", range(1, LINES))
def test_a_dropped_line(tmp_path, lines, number):
    assert line_of_error(tmp_path, lines[: number - 1] + lines[number:]) == number


@pytest.mark.parametrize("number", range(3, LINES))
def test_a_dropped_line_that_was_chained_anew(tmp_path, lines, number):
    assert line_of_error(tmp_path, chained(lines[: number - 1] + lines[number:])) == number


@pytest.mark.parametrize("number", range(1, LINES))
def test_a_swapped_pair(tmp_path, lines, number):
    swapped = list(lines)
    swapped[number - 1 : number + 1] = swapped[number - 1 : number + 1][::-1]
    assert line_of_error(tmp_path, swapped) == number
    if number > 2:
        assert line_of_error(tmp_path, chained(swapped)) == number


def test_a_line_twice(tmp_path, lines):
    assert line_of_error(tmp_path, [*lines[:4], lines[3], *lines[4:]]) == 5


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"lr":0.01', b'"lr":0.02'), (b'"loss":"0x1.0', b'"loss":"0x1.1'), (b'"step":3', b'"step":2')],
)
def test_another_setting(tmp_path, lines, old, new):
    number = next(i for i, line in enumerate(lines, 1) if old in line)
    changed = [line.replace(old, new, 1) if i == number else line for i, line in enumerate(lines, 1)]
    assert line_of_error(tmp_path, changed) in (number, number + 1)


@pytest.mark.parametrize("number", range(1, LINES + 1))
def test_a_file_cut_off_within_a_line(tmp_path, lines, number):
    for kept in (0, 1, len(lines[number - 1]) // 2, len(lines[number - 1])):
        cut = [*lines[: number - 1], lines[number - 1][:kept]]
        if kept or number == 1:
            assert line_of_error(tmp_path, cut, end=b"") == number


def put(facts, name, i, value):
    """Puts another fingerprint into an entry of a line."""
    values = facts["tensors"][name].split(" ")
    values[i] = value
    facts["tensors"][name] = " ".join(values)


@pytest.mark.parametrize("number", range(2, LINES + 1))
def test_a_forged_entry_under_the_old_root(tmp_path, lines, number):
    def forge(facts):
        put(facts, "h.weight", 1, "0" * 16)

    assert line_of_error(tmp_path, edited(lines, number, forge)) == number


def _start_with_gradient(facts):
    put(facts, "wte", 0, "0" * 16)
    entries = {name: tuple(text.split(" ")) for name, text in facts["tensors"].items()}
    facts["root"] = root_of({name: (None if e[0] == "-" else e[0], *e[1:]) for name, e in entries.items()})


RECORD_FORGERIES = {
    "a step that is no number": lambda facts: facts.update(step="3"),
    "a step that is a switch": lambda facts: facts.update(step=True),
    "a step below zero": lambda facts: facts.update(step=-1),
    "no step": lambda facts: facts.pop("step"),
    "hyper that is no list": lambda facts: facts.update(hyper={}),
    "hyper of no groups": lambda facts: facts.update(hyper=[1, 2]),
    "too few groups": lambda facts: facts["hyper"].pop(),
    "a scale that is text": lambda facts: facts.update(scale="2"),
    "a scale beyond float64": lambda facts: facts.update(scale=10**400),
    "no tensors under a root": lambda facts: facts.update(tensors={}),
    "extras that are numbers": lambda facts: facts.update(extras={"loss": 1.0}),
    "tensors that are a list": lambda facts: facts.update(tensors=[], root=None),
    "a root that is none": lambda facts: facts.update(root="0" * 64),
    "a key of nobody": lambda facts: facts.update(rcale=2.0),
    "a tensor too many": lambda facts: facts.update(tensors={**facts["tensors"], "x": None}, root=None),
    "a tensor too few": lambda facts: (facts["tensors"].popitem(), facts.update(root=None)),
    "tensors in another order": lambda facts: facts.update(
        tensors=dict(reversed(facts["tensors"].items())), root=None
    ),
    "a kind too few": lambda facts: (
        facts["tensors"].update(wte=facts["tensors"]["wte"][:-17]),
        facts.update(root=None),
    ),
    "digits that are none": lambda facts: (
        put(facts, "wte", 1, "z" * 16),
        facts.update(root=None),
    ),
    "too many digits": lambda facts: (
        (put(facts, "wte", 1, "0" * 17), put(facts, "wte", 2, "0" * 15)),
        facts.update(root=None),
    ),
    "capital digits": lambda facts: (
        put(facts, "wte", 1, "A" * 16),
        facts.update(root=None),
    ),
    "no parameter": lambda facts: (
        put(facts, "wte", 1, "-"),
        facts.update(root=None),
    ),
    "a list for an entry": lambda facts: (
        facts["tensors"].update(wte=facts["tensors"]["wte"].split(" ")),
        facts.update(root=None),
    ),
}


@pytest.mark.parametrize("forgery", RECORD_FORGERIES)
def test_a_record_of_another_form(tmp_path, lines, forgery):
    assert line_of_error(tmp_path, edited(lines, 5, RECORD_FORGERIES[forgery])) == 5


def test_a_start_has_no_gradient(tmp_path, lines):
    assert line_of_error(tmp_path, edited(lines, 2, _start_with_gradient)) == 2


HEADER_FORGERIES = {
    "another format": lambda facts: facts.update(ledger=2),
    "no format": lambda facts: facts.pop("ledger"),
    "a line before": lambda facts: facts.update(previous="1" * 64),
    "no options": lambda facts: facts.pop("options"),
    "a key of nobody": lambda facts: facts.update(machine="m"),
    "a contract that is text": lambda facts: facts.update(contract="2"),
    "a rule that is a number": lambda facts: facts.update(rule=1),
    "options that are a list": lambda facts: facts.update(options=[]),
    "every zero": lambda facts: facts.update(every=0),
    "every a half": lambda facts: facts.update(every=0.5),
    "no gradient": lambda facts: facts.update(kinds=["parameter", "m", "v", "w"]),
    "a kind twice": lambda facts: facts.update(kinds=["gradient", "parameter", "m", "m"]),
    "kinds that are numbers": lambda facts: facts.update(kinds=["gradient", 1, 2, 3]),
    "tensors that are a list": lambda facts: facts.update(tensors=[]),
    "a tensor without a dtype": lambda facts: facts["tensors"]["wte"].pop("dtype"),
    "a shape below zero": lambda facts: facts["tensors"]["wte"].update(shape=[-1]),
    "a group that is text": lambda facts: facts["tensors"]["wte"].update(group="0"),
}


@pytest.mark.parametrize("forgery", HEADER_FORGERIES)
def test_a_header_of_another_form(tmp_path, lines, forgery):
    assert line_of_error(tmp_path, edited(lines, 1, HEADER_FORGERIES[forgery])) == 1


def test_half_a_letter_is_no_text(tmp_path, lines):
    changed = [lines[0].replace(b'"wte"', b'"\\ud800"'), *lines[1:]]
    assert line_of_error(tmp_path, changed) == 1
    changed = [lines[0].replace(b'"wte"', b'"w\\u0074e"'), *lines[1:]]  # another way to write a letter
    assert line_of_error(tmp_path, changed) == 2


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"[]\n", b"nan\n", b"\xff\n", b"[" * 100_000 + b"\n", b'{"a":NaN}\n']
)
def test_a_file_that_is_no_ledger(tmp_path, text):
    path = tmp_path / "other.jsonl"
    path.write_bytes(text)
    with pytest.raises(LedgerError, match="line 1"):
        read_ledger(path)


def test_infinity_is_no_number_of_a_ledger(tmp_path, lines):
    for number in (b"Infinity", b"NaN", b"1e999"):
        changed = [*lines[:-1], lines[-1].replace(b'"lr":0.01', b'"lr":' + number)]
        assert line_of_error(tmp_path, changed) == LINES


class TestCompressed:
    @pytest.fixture
    def path(self, tmp_path):
        return write_run(tmp_path / "run.jsonl.gz", steps=STEPS)

    def test_it_holds_the_plain_lines(self, tmp_path, path):
        plain = write_run(tmp_path / "run.jsonl", steps=STEPS)
        assert gzip.decompress(path.read_bytes()) == plain.read_bytes()
        assert read_ledger(path).digest == read_ledger(plain).digest

    def test_it_is_read_as_far_as_it_goes(self, tmp_path, path):
        """Cut anywhere: whole lines, or an error that names the first that is not."""
        data, cut = path.read_bytes(), tmp_path / "cut.jsonl.gz"
        outcomes = set()
        for size in range(0, len(data), 7):
            cut.write_bytes(data[:size])
            try:
                outcomes.add(len(read_ledger(cut).digests))
            except LedgerError as error:
                outcomes.add(f"line {error.line} is cut off")
        assert outcomes >= {LINES, "line 1 is cut off", f"line {LINES} is cut off"}
        assert outcomes <= {*range(1, LINES + 1), *(f"line {n} is cut off" for n in range(1, LINES + 1))}

    def test_a_flipped_bit(self, tmp_path, path):
        data, changed = path.read_bytes(), tmp_path / "changed.jsonl.gz"
        rng = random.Random(5)
        for _ in range(100):
            place = rng.randrange(10, len(data))  # after the header, which may say anything
            changed.write_bytes(
                data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
            )
            with pytest.raises(LedgerError, match=r"line \d+"):
                read_ledger(changed)

    def test_what_follows_the_end_is_refused(self, tmp_path, path):
        with open(path, "ab") as file:
            file.write(b"more")
        with pytest.raises(LedgerError, match=f"line {LINES + 1}: the compressed data are damaged"):
            read_ledger(path)


def test_no_line_is_written_in_part(tmp_path, monkeypatch):
    """A full disk: the file is as before, and the run goes on once there is room, plain or compressed."""
    for name in ("run.jsonl", "run.jsonl.gz"):
        path = tmp_path / name
        write_run(tmp_path / f"whole-{name}", steps=3)
        header = read_ledger(tmp_path / f"whole-{name}").header
        rows = np.arange(12, dtype=np.uint64).reshape(3, 4)
        with Ledger(path, header) as ledger:
            ledger.start(0, rows)
            ledger.add(1, rows, [{}, {}])
            size = path.stat().st_size
            with monkeypatch.context() as patch:
                patch.setattr("os.write", _Full(4))
                with pytest.raises(OSError, match="no room"):
                    ledger.add(2, rows + np.uint64(1), [{}, {}])
            assert path.stat().st_size == size
            ledger.add(2, rows + np.uint64(2), [{}, {}])
        assert read_ledger(path).records[-1].tensors["wte"][0] == f"{2:016x}"
        if name.endswith(".gz"):
            gzip.decompress(path.read_bytes())  # with its checksum


class _Full:
    """os.write on a disk with room for some bytes."""

    def __init__(self, room):
        self.write, self.room = os.write, room

    def __call__(self, file, data):
        if self.room == 0:
            raise OSError("no room")
        written = self.write(file, data[: self.room])
        self.room -= written
        return written
