"""The scripts of bench/ run, and say of every ratio what ran just before; no time is asserted."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import samestep

BENCH = Path(__file__).parents[2] / "bench"
NEEDS = {
    "goals": ("torch", "ml_dtypes", "sklearn"),
    "torch": ("torch",),
    "options": ("ml_dtypes",),
    "mse": ("sklearn",),
    "tuner": (),
    "batchnorm": (),
    "product": ("threadpoolctl",),
    "convolution": ("torch",),
    "functions": (),
    "run": ("torch", "threadpoolctl", "sklearn"),
    "recording": (),
}
FOLDER = str(Path(samestep.__file__).parents[1])


def run(script, *options):
    path = os.pathsep.join(filter(None, (FOLDER, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, BENCH / f"bench_{script}.py", "--quick", *options]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", NEEDS)
def test_a_script_runs(script):
    for package in NEEDS[script]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    found = json.loads(run(script, "--json"))
    assert {"date", "processor", "caches", "isa", "threads", "commit", "versions"} <= found["about"].keys()
    assert len(found["rows"]) >= (8 if importlib.util.find_spec("torch") else 4)  # rows beside torch
    in_use = {"8 MB of NumPy", "8 MB of torch backward"}
    before = {row["just_before"] for row in found["rows"]}
    assert before <= in_use | {"itself", "import numpy"}
    assert bool(before & in_use) == (script != "run")
    assert ("itself" in before) == (script not in ("goals", "tuner"))
    for row in found["rows"]:
        assert row["rounds"] == 3
        assert row["verdict"] == (None if row["goal"] is None else "inconclusive")
        assert 0 < row["own"]["minimum_us"] <= row["own"]["median_us"]
    if script == "run":
        for name in ("NT float64", "exp float32", "softmax float64", "epoch, batch 32", "epoch, batch 128"):
            assert any(name in row["case"] for row in found["rows"])
    if script == "goals":  # each of the targets
        cases = " ".join(row["case"] for row in found["rows"])
        wanted = (
            "SGD",
            "Momentum",
            "NAG",
            "AdaGrad",
            "RMSProp",
            "Adam",
            "300 x 64",
            "NCHW",
            "NHWC",
            "MSE",
            "bfloat16",
        )
        assert all(name in cases for name in wanted)
        assert sum(row["other"]["name"] == "roof" for row in found["rows"]) >= 5


@pytest.mark.slow
def test_a_table_is_markdown_under_the_machine():
    machine, empty, *table = run("batchnorm", "--case", "14x14", "--threads", "1").splitlines()
    assert "1 threads" in machine
    assert "samestep" in machine
    assert not empty
    assert len({line.count("|") for line in table}) == 1
    assert all("itself" in line or "8 MB of" in line for line in table[2:])


@pytest.mark.slow
def test_scaling_runs():
    rows = json.loads(run("scaling", "--json"))["rows"]
    assert [row["just_before"] for row in rows] == ["itself", "8 MB of NumPy"] * 4
    assert {row["memory"] for row in rows} == {"whole", "aliased"}


@pytest.mark.slow
def test_the_spinner_runs():
    times = json.loads(run("spinner", "--json"))["us"]
    assert list(times) == ["16,384", "16,384, with a spinner"]
    for contenders in times.values():
        assert list(contenders) == ["1 thread", "2 threads", "2 threads, tuned"]
        assert all(len(us) == 2 and min(us) > 0 for us in contenders.values())  # of three, one warms up


@pytest.mark.slow
def test_workers_have_one_digest_and_torch_more():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    found = json.loads(run("workers", "--json"))
    assert sum(len(row["digests"]) for row in found["rows"]) >= 27  # more with MPI
    assert (
        found["digests"].keys()
        == found["passed"].keys()
        == {"Sharded", "problems.MSE", "ddp", "fsdp", "torch DDP", "torch FSDP2"}
    )
    for name, count in found["digests"].items():
        assert count == 1 or name.startswith("torch")
        assert count > 1 or not name.startswith("torch")


@pytest.mark.slow
def test_the_ledger_s_sizes_and_times():
    rows = {row["what"]: row for row in json.loads(run("ledger", "--json"))["rows"]}
    assert [rows[name]["goal"] for name in ("file, plain", "file, compressed", "diff")] == [60, 6, 5]
    assert 0 < rows["file, compressed"]["median"] < rows["file, plain"]["median"] / 2
    for name in ("diff", "diff, compressed", "read, plain"):
        assert 0 < rows[name]["minimum"] <= rows[name]["median"]


@pytest.mark.slow
def test_flipped_bits_are_found():
    found = json.loads(run("faults", "--json"))
    assert found["wrong"] == []
    located = {row["where"]: row["faults"] for row in found["rows"] if row["told"] == "located"}
    assert located.keys() == {"gradient", "parameter", "state", "hyper"}
    assert sum(located.values()) == 8
