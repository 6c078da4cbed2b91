"""Scripts that are run again: for `samestep replay --script`, and for the element where two runs part."""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import samestep as ss
from samestep.commands import cli
from samestep.ledger import read_ledger
from samestep.ledger.watch import VARIABLE, Watch, arrays_of

SCRIPT = """
import sys
import numpy as np
import samestep as ss

out, step, element, lr = sys.argv[1], *map(int, sys.argv[2:4]), float(sys.argv[4])
dtype = np.dtype(np.float32)
w = np.full((3, 4), 1, dtype)
opt = ss.Adam({"a": np.zeros(2, dtype), "w": w}, lr=lr, zero_grads=True)
with opt.record(out, every=EVERY) as ledger:
    for t in range(1, 7):
        g = np.full((3, 4), 0.5, dtype)
        if t == step:
            g.view("u4").flat[element] ^= 1
        ledger.note(loss=float(t))
        opt.step({"a": np.ones(2, dtype), "w": g})
"""


def in_here(script, arguments, folder, monkeypatch):
    """Runs a script as it is at first, in this process: that takes less time."""
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    monkeypatch.chdir(folder)
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), {"__name__": "__main__"})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where scripts run, which must find the package."""
    where = str(Path(ss.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (where, os.environ.get("PYTHONPATH")))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, text=SCRIPT, name="train.py", every=1):
    path = folder / name
    path.write_text(text.replace("EVERY", str(every)), encoding="utf-8")
    return path


def test_accepted(folder, monkeypatch, capsys):
    script = write(folder)
    in_here(script, ("run.jsonl", 0, 0, 0.1), folder, monkeypatch)
    before = (folder / "run.jsonl").read_bytes()
    assert cli.main(["replay", "run.jsonl", "--script", "train.py run.jsonl 0 0 0.1"]) == 0
    assert capsys.readouterr().out == "accepted: steps 0 to 6 recomputed, 7 lines compared\n"
    assert cli.main(["replay", "run.jsonl", "--script", "train.py run.jsonl 0 0 0.1", "--step", "4"]) == 0
    assert capsys.readouterr().out == "accepted: steps 0 to 4 recomputed, 5 lines compared\n"
    assert (folder / "run.jsonl").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["run.jsonl", "train.py"]


def test_rejected(folder, monkeypatch, capsys):
    script = write(folder)
    in_here(script, ("run.jsonl", 4, 7, 0.1), folder, monkeypatch)
    again = ["replay", "run.jsonl", "--script", "train.py run.jsonl 0 0 0.1"]
    assert cli.main(again) == 1
    told = capsys.readouterr().out
    assert re.fullmatch(
        r"rejected: step 4: the gradient of params\['w'\] differs: recorded \w{16}, recomputed \w{16}\n", told
    )
    assert cli.main([*again, "--json", "--step", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["accepted"] is True


def test_what_the_script_does_not_record(folder, monkeypatch, capsys):
    """The name of a loss, changed in one line, and the lines linked anew."""
    in_here(write(folder), ("run.jsonl", 0, 0, 0.1), folder, monkeypatch)
    lines = (folder / "run.jsonl").read_bytes().splitlines()
    lines[4] = lines[4].replace(b'{"loss":', b'{"win":')
    for i in range(1, len(lines)):
        link = hashlib.sha256(lines[i - 1]).hexdigest().encode()
        lines[i] = lines[i].replace(json.loads(lines[i])["previous"].encode(), link)
    (folder / "run.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert cli.main(["replay", "run.jsonl", "--script", "train.py run.jsonl 0 0 0.1"]) == 1
    assert capsys.readouterr().out == "rejected: step 3: recorded win besides, recomputed loss\n"


def test_another_header(folder, monkeypatch, capsys):
    script = write(folder, every=2)
    in_here(script, ("run.jsonl", 0, 0, 0.1), folder, monkeypatch)
    write(folder, every=1)
    assert cli.main(["replay", "run.jsonl", "--script", "train.py run.jsonl 0 0 0.1"]) == 1
    assert "rejected: the header's every differ: recorded 2, recomputed 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("raise ValueError('no data')", "train.py x: ended with exit code 1: ValueError: no data"),
        (
            "pass",
            "train.py x: recorded no ledger of the name run.jsonl, expected optimizer.record(...run.jsonl)",
        ),
        (
            "import numpy as np, samestep as ss\n"
            "opt = ss.SGD(np.ones(2), lr=0.5)\n"
            "with opt.record('run.jsonl'):\n    opt.step(np.ones(2))",
            "train.py x: ended after step 1, expected step 6",
        ),
    ],
    ids=["fails", "records nothing", "ends too early"],
)
def test_a_script_that_cannot_be_replayed(folder, monkeypatch, capsys, script, told):
    in_here(write(folder), ("run.jsonl", 0, 0, 0.1), folder, monkeypatch)
    write(folder, script)
    assert cli.main(["replay", "run.jsonl", "--script", "train.py x"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"samestep replay: {told}\n"


@pytest.mark.parametrize("command", ["", "  ", "train.py 'x"])
def test_what_is_no_command(folder, monkeypatch, capsys, command):
    in_here(write(folder), ("run.jsonl", 0, 0, 0.1), folder, monkeypatch)
    in_here(write(folder), ("other.jsonl", 0, 0, 0.2), folder, monkeypatch)
    told = f"script: got {command!r}, expected "
    assert cli.main(["replay", "run.jsonl", "--script", command]) == 2
    assert told in capsys.readouterr().err
    assert cli.main(["diff", "run.jsonl", "other.jsonl", "--replay", command]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--tensor", "params['w']"], ["--isa", "baseline"], ["--backend", "cuda"]])
def test_what_a_script_decides_itself(folder, monkeypatch, capsys, more):
    in_here(write(folder), ("run.jsonl", 0, 0, 0.1), folder, monkeypatch)
    with pytest.raises(SystemExit) as caught:
        cli.main(["replay", "run.jsonl", "--script", "train.py run.jsonl 0 0 0.1", *more])
    assert caught.value.code == 2
    assert f"{more[0]} goes with --from, and a script recomputes as it says itself" in capsys.readouterr().err


def test_a_ledger_with_no_line_but_the_header(folder, monkeypatch, capsys):
    in_here(write(folder), ("run.jsonl", 0, 0, 0.1), folder, monkeypatch)
    with open("run.jsonl", "rb+") as file:
        file.truncate(len(file.readline()))
    assert cli.main(["replay", "run.jsonl", "--script", "train.py run.jsonl 0 0 0.1"]) == 2
    assert "run.jsonl: has a header and no other line" in capsys.readouterr().err


def test_the_start_alone(folder, monkeypatch, capsys):
    in_here(write(folder), ("run.jsonl", 0, 0, 0.1), folder, monkeypatch)
    command = "train.py run.jsonl 0 0 0.1"
    assert cli.main(["replay", "run.jsonl", "--script", command, "--step", "0"]) == 0
    assert capsys.readouterr().out == "accepted: steps 0 to 0 recomputed, 1 lines compared\n"


def test_the_element_where_two_runs_start_apart(folder, monkeypatch, capsys):
    in_here(write(folder), ("a.jsonl", 0, 0, 0.1), folder, monkeypatch)
    apart = SCRIPT.replace("opt =", "w[2, 3] = 1.5\nopt =")
    in_here(write(folder, apart, "other.py"), ("b.jsonl", 0, 0, 0.1), folder, monkeypatch)
    scripts = ["train.py a.jsonl 0 0 0.1", "other.py b.jsonl 0 0 0.1"]
    assert cli.main(["diff", "a.jsonl", "b.jsonl", "--replay", *scripts]) == 1
    told = capsys.readouterr().out
    assert "Step 0: the parameter of params['w'] that it starts from differs." in told
    assert "[2, 3]" in told
    assert "1.5" in told


def test_a_step_without_a_line(folder, monkeypatch, capsys):
    """It is not run for nothing."""
    in_here(write(folder, every=2), ("run.jsonl", 0, 0, 0.1), folder, monkeypatch)
    write(folder, "raise ValueError")
    for step in ("3", "7", "-1"):
        assert cli.main(["replay", "run.jsonl", "--script", "train.py", "--step", step]) == 2
        told = capsys.readouterr().err
        assert f"run.jsonl: has no line for step {step}, expected one of 0 to 6, every 2" in told


def test_arguments_in_quotes_and_a_ledger_elsewhere(folder, monkeypatch, capsys):
    """The ledger was moved, and its script takes a name with a blank."""
    (folder / "a b").mkdir()
    in_here(write(folder), ("a b/run 1.jsonl", 0, 0, 0.1), folder, monkeypatch)
    (folder / "kept").mkdir()
    (folder / "a b" / "run 1.jsonl").rename(folder / "kept" / "run 1.jsonl")
    command = "train.py 'a b/run 1.jsonl' 0 0 0.1"
    assert cli.main(["replay", "kept/run 1.jsonl", "--script", command]) == 0
    assert not list((folder / "a b").iterdir())


TWO = """
import numpy as np, samestep as ss
first, second = (ss.SGD(np.ones(3), lr=0.5) for _ in range(2))
with first.record("first.jsonl"), second.record("second.jsonl.gz"):
    for _ in range(3):
        first.step(np.ones(3))
        first.step(np.ones(3))
        second.step(np.ones(3))
"""


def test_two_ledgers_of_one_script(folder, monkeypatch, capsys):
    """It ends after the step of the ledger that is replayed, not of the one that comes there first."""
    in_here(write(folder, TWO), (), folder, monkeypatch)
    for name, steps in (("first.jsonl", 6), ("second.jsonl.gz", 3)):
        assert cli.main(["replay", name, "--script", "train.py"]) == 0
        assert capsys.readouterr().out == (
            f"accepted: steps 0 to {steps} recomputed, {steps + 1} lines compared\n"
        )


@pytest.fixture
def parted(folder, monkeypatch):
    """Two runs whose gradients differ in element [1, 3] of step 4."""
    script = write(folder)
    in_here(script, ("a.jsonl", 0, 0, 0.1), folder, monkeypatch)
    in_here(script, ("b.jsonl", 4, 7, 0.1), folder, monkeypatch)
    return ["diff", "a.jsonl", "b.jsonl", "--replay", "train.py a.jsonl 0 0 0.1", "train.py b.jsonl 4 7 0.1"]


def test_the_element_where_two_runs_part(parted, capsys):
    other = np.nextafter(np.float32(0.5), np.float32(1))
    assert cli.main([*parted, "--html", "page.html"]) == 1
    told = capsys.readouterr().out
    assert "Step 4: the gradient of params['w'] differs." in told
    assert "[1, 3]" in told
    assert "0.5" in told
    assert f"{float(other)!r}"[:8] in told
    bits = ("00111111000000000000000000000000", "00111111000000000000000000000001")
    assert all(text in told.replace(" ", "") for text in bits)
    page = Path("page.html").read_text(encoding="utf-8")
    assert "[1, 3]" in page
    assert "1 unit" in told or "1 ulp" in told

    assert cli.main([*parted, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    text = json.dumps(found)
    assert '"index": [1, 3]' in text
    assert all(b in text for b in bits)
    assert '"ulps": 1' in text


def test_equal_runs_are_not_run_again(folder, monkeypatch, capsys):
    script = write(folder)
    in_here(script, ("a.jsonl", 0, 0, 0.1), folder, monkeypatch)
    write(folder, "raise ValueError")
    assert cli.main(["diff", "a.jsonl", "a.jsonl", "--replay", "train.py"]) == 0
    assert "Equal in all" in capsys.readouterr().out


def test_a_hyper_parameter_has_no_element(folder, monkeypatch, capsys):
    script = write(folder)
    in_here(script, ("a.jsonl", 0, 0, 0.1), folder, monkeypatch)
    in_here(script, ("b.jsonl", 0, 0, 0.2), folder, monkeypatch)
    scripts = ["train.py a.jsonl 0 0 0.1", "train.py b.jsonl 0 0 0.2"]
    assert cli.main(["diff", "a.jsonl", "b.jsonl", "--replay", *scripts]) == 1
    assert "lr of group 0 differs" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        cli.main(["diff", "a.jsonl", "b.jsonl", "--replay", *scripts, "x"])
    assert caught.value.code == 2


HALF = SCRIPT.replace("np.dtype(np.float32)", "np.dtype(__import__('ml_dtypes').bfloat16)").replace(
    '"u4"', '"u2"'
)


@pytest.mark.parametrize("more", ["", ', master="split"'])
def test_the_element_of_16_bits(folder, monkeypatch, capsys, more):
    script = write(folder, HALF.replace("zero_grads=True", f"zero_grads=True{more}"))
    in_here(script, ("a.jsonl", 0, 0, 0.1), folder, monkeypatch)
    in_here(script, ("b.jsonl", 4, 7, 0.1), folder, monkeypatch)
    scripts = ["train.py a.jsonl 0 0 0.1", "train.py b.jsonl 4 7 0.1"]
    assert cli.main(["diff", "a.jsonl", "b.jsonl", "--replay", *scripts]) == 1
    told = capsys.readouterr().out
    assert "[1, 3]" in told
    assert "0011111100000001" in told.replace(" ", "")


def test_a_watched_script_ends_in_its_step(folder, monkeypatch):
    """What it leaves behind are the arrays of that step, the gradient as it was handed in."""
    watch = Watch(str(folder), "run.jsonl", 4)
    monkeypatch.setenv(VARIABLE, watch.environment()[VARIABLE])
    script = write(folder)
    with pytest.raises(SystemExit) as ended:
        in_here(script, ("elsewhere/run.jsonl", 4, 7, 0.1), folder, monkeypatch)
    assert ended.value.code == 0
    path = str(folder / "run.jsonl")
    record = read_ledger(path).records[-1]
    assert record.step == 4
    for name, entry in record.tensors.items():
        for kind, value in zip(("gradient", "parameter", "m", "v"), entry, strict=True):
            assert f"{ss.fingerprint(arrays_of(path, name, kind)):016x}" == value
    assert arrays_of(path, "params['w']", "x") is None
