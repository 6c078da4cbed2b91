"""What `make debug` shows of a fault."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A sanitizer writes to file descriptor 2 and ends the process.
FAULT = """
import os

def test_fault():
    os.write(2, b"heap-buffer-overflow")
    os._exit(1)
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_report_of_a_sanitizer_is_not_captured(tmp_path):
    made = ["make", "--dry-run", "--no-print-directory", "debug", "TESTS=test_fault.py"]
    commands = subprocess.run(made, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    arguments = commands.splitlines()[-1].partition("/pytest ")[2].split()
    assert arguments[-1] == "test_fault.py"
    (tmp_path / "test_fault.py").write_text(FAULT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 1
    assert "heap-buffer-overflow" in done.stderr
