"""The programs of `make bench` compile and run; no time is asserted."""

import subprocess

import pytest

from native_programs import build_native


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "rows"), [("bench_kernels", "adam_outside "), ("bench_tax", "worst ratio")]
)
def test_a_program_runs(program, rows):
    build = build_native("bench", "-DSAMESTEP_BENCH=ON", target=program)
    done = subprocess.run([build / program, "--quick"], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert sum(line.startswith(rows) for line in done.stdout.splitlines()) >= 2
