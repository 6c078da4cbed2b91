"""`samestep doctor`: each finding for machines of every kind, and the command as a whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import samestep as ss
from samestep import _core
from samestep.commands import cli, doctor

INFO = {"isa": "avx512", "isas": ["avx512", "avx2", "baseline"], "withdrawn": []}


@pytest.mark.parametrize(
    ("change", "environment", "state", "words"),
    [
        ({}, {}, "good", "the best that this processor has"),
        ({"isa": "avx2"}, {"SAMESTEP_ISA": "avx2"}, "note", "SAMESTEP_ISA=avx2 asks for it; without, avx512"),
        ({"isa": "avx2"}, {}, "note", "ss.set_isa() asked for it"),
        (
            {"isa": "avx2", "isas": ["avx2"], "withdrawn": ["avx512"]},
            {},
            "wrong",
            "the kernels for avx512 gave wrong bits at import",
        ),
    ],
)
def test_instruction_set(change, environment, state, words):
    finding = doctor.instruction_set(INFO | change, environment)
    assert finding.state == state
    assert words in finding.why


@pytest.mark.parametrize(
    ("granted", "allowed", "machine", "environment", "state", "words"),
    [
        (8, 8, 8, {}, "good", "neither an affinity mask nor a quota"),
        (2, 8, 8, {}, "note", "quota grants the time of 2"),
        (4, 4, 8, {}, "note", "affinity mask (taskset) allows 4"),
        (2, 4, 8, {}, "note", "quota grants the time of 2"),
        (8, 8, 8, {"SAMESTEP_THREADS": "3"}, "good", "SAMESTEP_THREADS=3 asks for them"),
        (2, 2, 2, {"SAMESTEP_THREADS": "3"}, "note", "more than the 2 granted"),
    ],
)
def test_threads(granted, allowed, machine, environment, state, words, monkeypatch):
    monkeypatch.setattr(_core, "default_num_threads", lambda: granted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)))
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    used = int(environment.get("SAMESTEP_THREADS", granted))
    finding = doctor.threads(used, environment)
    assert (finding.found, finding.state) == (f"{used}, of {machine} processors", state)
    assert words in finding.why


@pytest.mark.parametrize(
    ("setting", "found", "state"),
    [
        ("[always] madvise never", "always", "good"),
        ("always [madvise] never", "madvise", "good"),
        ("always madvise [never]", "never", "note"),
        (None, "not known", "note"),
    ],
)
def test_huge_pages(setting, found, state, tmp_path):
    file = tmp_path / "enabled"
    if setting is not None:
        file.write_text(setting + "\n", encoding="utf-8")
    finding = doctor.huge_pages(file)
    assert (finding.found, finding.state) == (found, state)


def test_openmp_runtimes(tmp_path):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 fe:00 1 /lib/libgomp-a34b3233.so.1\n"
        "7f01-7f02 r--p 00000000 fe:00 1 /lib/libgomp-a34b3233.so.1\n"
        "7f02-7f03 r-xp 00000000 fe:00 2 /opt/a b/libiomp5.so\n"
        "7f03-7f04 r-xp 00000000 fe:00 3 /lib/libompcommon.so\n"
        "7f04-7f05 rw-p 00000000 00:00 0 [heap]\n",
        encoding="utf-8",
    )
    assert doctor.openmp_runtimes(maps) == ["libgomp-a34b3233.so.1", "libiomp5.so"]
    assert doctor.openmp_runtimes(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("pool", "runtimes", "environment", "state", "words"),
    [
        ("libtorch_cpu.so", ["libgomp.so.1"], {}, "good", "one team does the work of both"),
        ("own", ["libgomp.so.1"], {"SAMESTEP_POOL": "own"}, "note", "SAMESTEP_POOL=own asks for it"),
        ("own", ["libiomp5.so"], {}, "note", "torch's runtime is not GNU's"),
        ("libtorch_cpu.so", ["libgomp.so.1", "libomp.so"], {}, "note", "several OpenMP runtimes"),
    ],
)
def test_threads_beside_torch(pool, runtimes, environment, state, words):
    finding = doctor.shared_pool(pool, *runtimes, environment=environment)
    assert finding.state == state
    assert words in finding.why
    assert all(runtime in finding.found for runtime in runtimes)


def test_a_torch_that_cannot_be_imported(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libfoo.so is missing')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(ss.__file__).parents[1]}")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = doctor.openmp()
    assert finding.state == "wrong"
    assert "libfoo.so is missing" in finding.why


@pytest.mark.parametrize(
    ("name", "version", "state", "words"),
    [
        ("torch", "2.13.0+cpu", "good", "the tests run with 2.13"),
        ("torch", "2.1.0", "note", "not looked at"),
        ("torch", "2.130.0", "note", "not looked at"),
        ("jax", "0.10.2", "good", "the tests run with 0.10"),
        ("cupy", "14.0.1", "note", "tested without one so far"),
        ("torch", None, "good", "nothing else does"),
    ],
)
def test_package(name, version, state, words):
    finding = doctor.package(name, version)
    assert (finding.found, finding.state) == (version or "not installed", state)
    assert words in finding.why


@pytest.mark.parametrize(
    ("is_compiled", "jax", "found", "state"),
    [
        (True, "0.10.2", "compiled in", "good"),
        (False, "0.10.2", "not compiled in", "note"),
        (False, None, "not compiled in", "good"),
    ],
)
def test_the_calls_for_jax(is_compiled, jax, found, state):
    finding = doctor.calls_for_jax(is_compiled, jax)
    assert (finding.found, finding.state) == (found, state)
    assert is_compiled or "SAMESTEP_JAX=1 pip install" in finding.why


def test_what_the_tests_run_with_is_what_is_called_tested():
    assert doctor.package("numpy", doctor.installed("numpy")).state == "good"


@pytest.mark.thread_unsafe(reason="how many threads a step may use is the process's")
def test_the_command():
    command = [sys.executable, "-m", "samestep", "doctor"]
    text = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    done = subprocess.run([*command, "--json"], capture_output=True, encoding="utf-8", check=False)
    assert (text.returncode, done.returncode) == (0, 0), text.stdout + text.stderr
    shown = json.loads(done.stdout)
    assert shown["info"] == {**ss.info(), "pool": "own"}  # here torch may have been imported
    for finding in shown["findings"]:
        assert f"{finding['what']}: {finding['found']}\n       {finding['why']}\n" in text.stdout
    assert [finding["what"] for finding in shown["findings"]][:3] == [
        "instruction set",
        "threads",
        "huge pages",
    ]
    assert "samestep diff A B" in text.stdout


def test_exit_code_of_what_must_be_mended(monkeypatch, capsys):
    wrong = doctor.Finding("torch", "not known", "it fails", "wrong")
    monkeypatch.setattr(doctor, "examine", lambda: [wrong])
    assert cli.main(["doctor"]) == 1
    assert "wrong  torch: not known" in capsys.readouterr().out
