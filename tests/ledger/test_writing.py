"""A ledger is written whole lines at a time, and a run that was stopped is taken up again."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ledgers import write_run
from samestep.ledger import Header, Ledger, LedgerError, read_ledger

TENSORS = {name: {"dtype": "float32", "shape": [2], "group": 0} for name in ("a", "ß", 'q"')}
HEADER = Header(2, "sgd", {"clip": 1.0}, 1, ("gradient", "parameter"), TENSORS)
ENDS = ["jsonl", "jsonl.gz"]


def rows(x):
    return np.arange(6, dtype=np.uint64).reshape(3, 2) + np.uint64(x)


def content(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


@pytest.fixture(params=ENDS)
def path(request, tmp_path):
    return tmp_path / f"run.{request.param}"


def test_the_form_of_the_lines(path):
    with Ledger(path, HEADER) as ledger:
        ledger.start(0, rows(0))
        ledger.note(loss=0.5, mean=np.zeros(3, np.float32))
        ledger.add(1, rows(10), [{"lr": 0.1}], scale=2.0, stepped=[True, False, True])
        ledger.add(2, rows(2**64 - 6), [{"lr": 0.1}])
    header, start, first, second = map(json.loads, content(path).splitlines())
    assert list(header) == ["ledger", "contract", "rule", "options", "every", "kinds", "tensors", "previous"]
    assert start["tensors"] == {"a": f"- {1:016x}", "ß": f"- {3:016x}", 'q"': f"- {5:016x}"}
    assert list(start) == ["step", "hyper", "tensors", "previous"]
    assert list(first) == ["step", "hyper", "scale", "extras", "tensors", "previous"]
    assert first["tensors"]["ß"] is None
    assert first["extras"] == {"loss": "0x1.0000000000000p-1", "mean": "b7f2a444b2956e4b"}
    assert list(second) == ["step", "hyper", "tensors", "previous"]
    assert second["tensors"]['q"'] == "fffffffffffffffe ffffffffffffffff"
    assert [record.step for record in read_ledger(path).records] == [0, 1, 2]


@pytest.mark.parametrize("extra", [{}, {"merkle": True}, {"sync": True}])
@pytest.mark.thread_unsafe(reason="a fixture makes its file")
def test_both_ways_of_making_a_line_agree(path, tmp_path, extra):
    """With a tensor that was not stepped, and without one, entries are put together by other code."""
    with Ledger(path, HEADER, **extra) as ledger:
        ledger.start(0, rows(0))
        ledger.add(1, rows(1), [{}])
    whole = json.loads(content(path).splitlines()[2])["tensors"]
    other = tmp_path / "other.jsonl"
    with Ledger(other, HEADER) as ledger:
        ledger.start(0, rows(0))
        ledger.add(1, rows(1), [{}], stepped=[False, True, True])
    for name in ("ß", 'q"'):
        assert json.loads(content(other).splitlines()[2])["tensors"][name] == whole[name]


def test_every_line_is_in_the_file_at_once(path):
    with Ledger(path, HEADER) as ledger:
        for step in range(5):
            if step == 0:
                ledger.start(0, rows(0))
            else:
                ledger.add(step, rows(step), [{}])
            assert [record.step for record in read_ledger(path).records] == list(range(step + 1))


KILLED = """
import os, sys
from test_writing import HEADER, rows
from samestep.ledger import Ledger
ledger = Ledger(sys.argv[1], HEADER)
ledger.start(0, rows(0))
for step in range(1, 4):
    ledger.add(step, rows(step), [{"lr": 0.5}])
os._exit(9)  # as a run that is killed: nothing is closed
"""


@pytest.mark.thread_unsafe(reason="a fixture makes its file")
def test_a_killed_run_is_taken_up_again(path, tmp_path):
    """Twice: what is then read is what a run without an interruption writes."""
    folders = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": folders}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path], env=environment, check=False, capture_output=True
    )
    assert done.returncode == 9, done.stderr
    for last in (5, 7):
        ledger = Ledger(path, HEADER, append=True)
        ledger.start(last - 2, rows(last - 2))
        for step in range(last - 1, last + 1):
            ledger.add(step, rows(step), [{"lr": 0.5}])
        if last == 7:
            ledger.close()
    whole = tmp_path / "whole.jsonl"
    with Ledger(whole, HEADER) as ledger:
        ledger.start(0, rows(0))
        for step in range(1, 8):
            ledger.add(step, rows(step), [{"lr": 0.5}])
    assert content(path) == content(whole)
    assert read_ledger(path).digest == read_ledger(whole).digest
    assert {file.name for file in tmp_path.iterdir()} == {path.name, whole.name}


def test_a_line_that_is_cut_off_is_not_gone_on_from(path):
    write_run(path, steps=3)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content(path)[:-9]))
    else:
        path.write_bytes(content(path)[:-9])
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="line 5: cut off"):
        write_run(path, append=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("other", [{"every": 2}, {"options": {"clip": 2.0}}, {"contract": 3}])
def test_another_run_is_not_gone_on_with(path, other):
    write_run(path, steps=3)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="records other tensors, options or kinds"):
        write_run(path, append=True, header=other)
    assert path.read_bytes() == before


def test_a_file_that_is_there_is_kept(path):
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="append=True"):
        Ledger(path, HEADER)
    assert path.read_bytes() == b"mine"


def test_after_the_end_nothing_is_recorded(path):
    ledger = Ledger(path, HEADER)
    assert not ledger.is_closed
    ledger.close()
    ledger.close()
    assert ledger.is_closed
    assert content(path) == f"{HEADER.line()}\n".encode()


@pytest.mark.parametrize("other", [3, b"run.jsonl", None])
def test_what_is_no_path(other):
    with pytest.raises(TypeError, match=f"path: got {other!r}, expected a str or os.PathLike"):
        Ledger(other, HEADER)


def test_a_header_without_tensors(path):
    with pytest.raises(ValueError, match="header: got no tensors"):
        Ledger(path, Header(2, "sgd", {}, 1, ("gradient", "parameter"), {}))
    assert not path.exists()


def test_arguments_that_do_not_fit(path):
    with Ledger(path, HEADER) as ledger:
        for step, found in (
            ("a", rows(0)),
            (-1, rows(0)),
            (0, rows(0)[:2]),
            (0, rows(0).astype(float)),
            (0, [[1]]),
        ):
            for call in (ledger.start, lambda *given: ledger.add(*given, [{}])):
                with pytest.raises((TypeError, ValueError), match=r"step|fingerprints"):
                    call(step, found)
        ledger.start(0, rows(0))
    for call in (lambda: ledger.note(x=1.0), lambda: ledger.add(1, rows(0), [{}])):
        with pytest.raises(ValueError, match="is closed"):
            call()
    assert len(read_ledger(path).records) == 1


def test_the_gradient_is_the_first_kind(tmp_path):
    header = dataclasses.replace(HEADER, kinds=("parameter", "gradient"))
    with pytest.raises(ValueError, match="expected 'gradient' as the first"):
        Ledger(tmp_path / "x.jsonl", header)


def test_hyper_parameters_that_are_changed_in_place(path):
    hyper = [{"lr": 0.5}]
    with Ledger(path, HEADER) as ledger:
        ledger.start(0, rows(0))
        for step in (1, 2, 3):
            hyper[0]["lr"] = 0.5 / step
            ledger.add(step, rows(step), hyper)
    assert [record.hyper[0]["lr"] for record in read_ledger(path).records[1:]] == [0.5, 0.25, 0.5 / 3]


@pytest.mark.parametrize(("first", "second"), [(0.0, -0.0), (1, 1.0), (True, 1)])
def test_numbers_that_are_equal_are_written_as_they_are(path, first, second):
    with Ledger(path, HEADER) as ledger:
        ledger.start(0, rows(0))
        ledger.add(1, rows(1), [{"weight_decay": first}])
        ledger.add(2, rows(2), [{"weight_decay": second}])
    found = [repr(record.hyper[0]["weight_decay"]) for record in read_ledger(path).records[1:]]
    assert found == [repr(first), repr(second)]
