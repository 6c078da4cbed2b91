"""The examples for any number of processes: one digest however they are started, and the one of the guide."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from worker_processes import mpirun

ROOT = Path(__file__).parents[2]
DIGITS, LEAST_SQUARES = (
    ROOT / "examples" / f"{name}.py" for name in ("digits_torchrun", "least_squares_mpi")
)
GUIDE = (ROOT / "docs" / "guide" / "workers.md").read_text(encoding="utf-8")


def printed(*command):
    """The lines that a command prints."""
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(map(str, command), env=env, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def by_workers(lines, size):
    """The lines of one worker as so many print them."""
    return [line.replace("workers 1", f"workers {size}") for line in lines]


def test_digits_alone():
    pytest.importorskip("sklearn.datasets")
    (line,) = printed(sys.executable, DIGITS)
    assert line in GUIDE
    assert float(re.search(r"accuracy ([\d.]+)%", line)[1]) > 97


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_digits_by_torchrun():
    pytest.importorskip("sklearn.datasets")
    alone = printed(sys.executable, DIGITS, "--epochs", 2)
    for size in (1, 2, 3):
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", size]
        assert printed(*start, DIGITS, "--epochs", 2) == by_workers(alone, size)


def test_least_squares():
    alone = printed(sys.executable, LEAST_SQUARES)
    assert [line in GUIDE for line in alone] == [True, True]


def test_least_squares_by_mpirun():
    launcher = mpirun()
    alone = printed(sys.executable, LEAST_SQUARES, "--steps", 50)
    for size in (1, 2, 3):
        found = printed(launcher, "-n", size, sys.executable, LEAST_SQUARES, "--steps", 50)
        assert found == by_workers(alone, size)
