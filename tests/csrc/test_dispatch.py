"""The instruction set that was asked for is the one that runs."""

import os
import subprocess
import sys

import pytest

import samestep as ss
from control_register import needs_x86
from samestep import _core
from samestep.backends import cpu

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


@needs_x86
def test_matches_what_the_processor_reports():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        flags = set(next(line for line in f if line.startswith("flags")).split())
    needs = {"avx2": "avx2 fma", "avx512": "avx512f avx512dq avx512bw avx512vl fma"}
    for isa, features in needs.items():
        assert (isa in ss.info()["isas"]) == (set(features.split()) <= flags)


def run_python(isa: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", CODE]
    environment = {**os.environ, "SAMESTEP_ISA": isa}
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60)


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


class TestSelfCheck:
    def test_every_kernel_is_checked(self, isa):
        found = dict(_core.self_check())
        assert len(cpu.SELF_CHECK) >= 14
        assert {name: found.get(name) for name in cpu.SELF_CHECK} == cpu.SELF_CHECK
        others = {"options", "sum", "leaves", "batchnorm", "linear", "mse", "functions", "fingerprint"}
        assert set(found) == {name for name, *_ in _core.rules()} | others

    @pytest.mark.skipif("avx2" not in ss.info()["isas"], reason="only the baseline here")
    @pytest.mark.parametrize("bad", ["avx2", "all"])
    def test_wrong_kernels_are_switched_off_with_a_warning(self, bad):
        """As if they had been miscompiled: the hashes of one table, or of all, come out wrong."""
        code = f"""if True:
            import warnings, numpy as np, samestep as ss
            from samestep import _core
            from samestep.backends import cpu
            class Broken:
                def __getattr__(self, name):
                    return getattr(_core, name)
                def self_check(self):
                    wrong = {bad!r} in (_core.get_isa(), "all")
                    return [(n, h + 1 if wrong and n == "sgd" else h) for n, h in _core.self_check()]
            cpu._core = Broken()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                cpu._self_check()
            for warning in caught:
                print(warning.category.__name__, str(warning.message).split(" kernels of sgd ")[0])
            print(ss.info()["isas"], ss.info()["isa"])
            w = np.ones(3); ss.SGD(w, 0.5).step(w.copy()); print(w)
        """
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
        before = ss.info()["isas"]
        withdrawn = [name for name in before[:-1] if bad in (name, "all")]
        warned = [*withdrawn, "baseline"] if bad == "all" else withdrawn
        left = [name for name in before if name not in withdrawn]
        expected = [f"RuntimeWarning the {name}" for name in warned]
        assert done.stdout.splitlines() == [*expected, f"{left} {left[0]}", "[0.5 0.5 0.5]"], done.stderr
