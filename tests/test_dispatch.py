"""The instruction set that was asked for is the one that runs."""

import os
import subprocess
import sys

import pytest

import samestep as ss
from samestep import _core

VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64}
CODE = "import samestep as ss; from samestep import _core; print(ss.info()['isa'], _core.vector_bytes())"


def test_set_isa_switches_the_table(isa):
    assert ss.info()["isa"] == isa
    assert _core.vector_bytes() == VECTOR_BYTES[isa]


def test_best_first_and_baseline_last():
    isas = ss.info()["isas"]
    assert isas[-1] == "baseline"
    widths = [VECTOR_BYTES[name] for name in isas]
    assert widths == sorted(widths, reverse=True)


def test_matches_what_the_processor_reports():
    with open("/proc/cpuinfo") as f:
        flags = set(next(line for line in f if line.startswith("flags")).split())
    needs = {"avx2": "avx2 fma", "avx512": "avx512f avx512dq avx512bw avx512vl fma"}
    for isa, features in needs.items():
        assert (isa in ss.info()["isas"]) == (set(features.split()) <= flags)


def run_python(isa: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", CODE]
    environment = {**os.environ, "SAMESTEP_ISA": isa}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ss.info()["isas"])
def test_environment_variable(name):
    assert run_python(name).stdout == f"{name} {VECTOR_BYTES[name]}\n"


def test_unknown_names_list_what_there_is():
    before = ss.info()["isa"]
    with pytest.raises(ValueError, match=r"isa: got 'neon9', expected one that this machine has: .*baseline"):
        ss.set_isa("neon9")
    assert ss.info()["isa"] == before
    failed = run_python("neon9")
    assert failed.returncode
    assert "SAMESTEP_ISA: isa: got 'neon9'" in failed.stderr
