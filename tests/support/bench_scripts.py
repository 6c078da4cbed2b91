"""Runs a script of bench/ with --quick."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import samestep

BENCH = Path(__file__).parents[2] / "bench"
FOLDER = str(Path(samestep.__file__).parents[1])


def run(script, *options):
    """What it prints."""
    path = os.pathsep.join(filter(None, (FOLDER, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, BENCH / f"bench_{script}.py", "--quick", *options]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_rows(found, cold, hot):
    """Of the JSON of a script: it names the machine, and what ran before each call of too few rounds.

    cold, hot: whether there are calls after other work, and after the same call.
    """
    assert {"date", "processor", "caches", "isa", "threads", "commit", "versions"} <= found["about"].keys()
    assert len(found["rows"]) >= (8 if importlib.util.find_spec("torch") else 4)  # rows beside torch
    in_use = {"8 MB of NumPy", "8 MB of torch backward"}
    before = {row["just_before"] for row in found["rows"]}
    assert before <= in_use | {"itself", "import numpy"}
    assert bool(before & in_use) == cold
    assert ("itself" in before) == hot
    for row in found["rows"]:
        assert row["rounds"] == 3
        assert row["verdict"] == (None if row["goal"] is None else "inconclusive")
        assert 0 < row["own"]["minimum_us"] <= row["own"]["median_us"]
