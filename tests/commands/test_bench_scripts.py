"""The scripts of bench/ run, and say of every ratio what ran just before; no time is asserted."""

import importlib.util
import json

import pytest

from bench_scripts import check_rows, run

NEEDS = {
    "options": ("ml_dtypes",),
    "mse": ("sklearn",),
    "tuner": (),
    "batchnorm": (),
    "product": ("threadpoolctl",),
    "functions": (),
    "recording": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", NEEDS)
def test_a_script_runs(script):
    for package in NEEDS[script]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    check_rows(json.loads(run(script, "--json")), cold=True, hot=script != "tuner")


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
