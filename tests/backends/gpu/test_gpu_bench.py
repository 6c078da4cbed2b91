"""What bench/gpu.sh runs on a GPU, tried small on the host's stand-in. Times mean nothing here."""

import importlib
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import host_cupy
from samestep.proof import golden

BENCH = Path(__file__).parents[3] / "bench"
STAGES = ("digests", "words", "verify", "tests", "speed")


@pytest.fixture
def script(monkeypatch):
    """Imports a script of bench/, which imports the stand-in as cupy."""

    def load(name):
        monkeypatch.syspath_prepend(BENCH)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    yield load
    for name in ("bench_gpu", "bench_gpu_words"):
        sys.modules.pop(name, None)


class TestWords:
    def test_none_differs(self, kernels, script, tmp_path, capsys, monkeypatch):
        words = script("bench_gpu_words")
        monkeypatch.setattr(words, "CHUNK", 1000)
        assert words.main(["200000", "--json", str(tmp_path / "words.json")]) == 0
        rules = [case.rule for case in golden.cases() if case.dtype == np.float32]
        found = json.loads((tmp_path / "words.json").read_text(encoding="utf-8"))["rules"]
        assert [count["rule"] for count in found] == rules
        assert 200_000 <= sum(count["given"] for count in found) < 200_000 + 10 * len(rules)
        assert {count["differ"] for count in found} == {0}
        assert {name for name, _, _ in kernels.launches} >= {f"step_{rule}_float32" for rule in rules}
        assert f"through {len(rules)} rules: 0 words of the results differ" in capsys.readouterr().out

    def test_a_fault_is_counted(self, kernels, script, monkeypatch, capsys):
        """One element of each parameter is not what the kernel made."""
        words, get = script("bench_gpu_words"), host_cupy.ndarray.get

        def wrong(a):
            out = get(a)
            out.view(np.uint32)[0] ^= 0x40000000
            return out

        monkeypatch.setattr(host_cupy.ndarray, "get", wrong)
        assert words.main(["1000"]) == 1
        assert " 0 words of the results differ" not in capsys.readouterr().out

    def test_random_words(self, script):
        words = script("bench_gpu_words")
        x = words.random_words(np.random.default_rng(0), 1_000_000)
        assert abs(np.mean((x != 0) & (abs(x) < np.finfo(np.float32).tiny)) - 0.05) < 0.002
        assert abs(np.mean(np.isnan(x)) - 0.005) < 0.0005
        assert abs(np.mean(np.isinf(x)) - 0.005) < 0.0005
        normal = x[np.isfinite(x) & (abs(x) >= np.finfo(np.float32).tiny)]
        assert set(np.frexp(normal)[1] - 1) == set(range(-63, 65))
        assert words.differing(x, x.copy()) == 0
        assert words.differing(np.float32([1, 0, np.nan]), np.float32([1, -0.0, -np.nan])) == 1


class Event:
    def record(self):
        pass

    def synchronize(self):
        pass


class TestSpeed:
    @pytest.fixture
    def bench(self, kernels, script, monkeypatch):
        """As much more of CuPy as the benchmark uses."""
        cupy = sys.modules["cupy"]
        rng = np.random.default_rng(0)
        cupy.random = types.SimpleNamespace(
            standard_normal=lambda shape, dtype: host_cupy.device(rng.standard_normal(shape, dtype))
        )
        cupy.matmul = lambda a, b, out: np.matmul(a.host, b.host, out=out.host)
        cupy.get_default_memory_pool = lambda: types.SimpleNamespace(free_all_blocks=lambda: None)
        cupy.cuda.Event, cupy.cuda.get_elapsed_time = Event, lambda start, end: 1.0
        cupy.cuda.runtime.memcpyAsync = lambda *_: None
        monkeypatch.setitem(sys.modules, "torch", None)
        bench = script("bench_gpu")
        monkeypatch.setattr(bench, "CALLS", 1)
        return bench

    def test_it_runs(self, bench, tmp_path, capsys):
        bench.main(["--quick", "--json", str(tmp_path / "speed.json")])
        rows = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["rows"]
        results = [result for row in rows for result in row["results"]]
        goals = [(r["row"].partition(",")[0], r["beside"], r["goal"]) for r in results if r["goal"]]
        rules = ("SGD", "Momentum", "NAG", "AdaGrad", "RMSProp", "Adam")
        assert sorted(goals) == sorted(
            [
                *((rule, "copy", 0.90) for rule in rules),
                *((rule, "torch fused", goal) for rule in rules for goal in (1.0, 1.5)),
                *[("Adam with clip_norm", "torch fused", 1.3)] * 2,
                *((f"batch norm {way}", "copy", 0.80) for way in ("forward", "backward")),
                *((f"batch norm {way}", "torch cuDNN", 1.0) for way in ("forward", "backward")),
                ("product", "cuBLAS", 0.6),
                *((f"conv2d {way}", "torch cuDNN", 0.3) for way in ("forward", "backward")),
            ]
        )
        for r in (r for r in results if r["goal"]):
            expected = "skipped" if r["beside"].startswith("torch") else "inconclusive"  # one round
            assert r["verdict"].partition(":")[0] == expected
        assert "goals inconclusive" in capsys.readouterr().out

    def test_verdicts(self, bench):
        """Of times that are known: 100 bytes in 1 ms are half of the rate of a copy of 400 in 2 ms."""
        row = bench.Row("name", 100, {}, {"copy": 0.5, "torch fused": 2.0, "cuBLAS": 1.0})
        times = {"samestep": [1.0] * 9, "copy": [2.0] * 9, "torch fused": [1.5, 2.5] * 4 + [1.9]}
        found = {r.beside: r for r in bench.judge(row, times, 400)}
        assert found["copy"].ratio.median == 0.5
        assert {beside: r.verdict for beside, r in found.items()} == {
            "copy": "met",
            "torch fused": "inconclusive",
            "cuBLAS": "skipped: it is not here",
        }
        assert bench.judge(row, {**times, "copy": [1.9] * 9}, 400)[0].verdict == "missed"
        assert bench.judge(row, {**times, "other": [2.0] * 9}, 400)[2].verdict == ""
        assert math.isinf(bench.judge(row, {"samestep": [1.0], "copy": [2.0]}, 400)[0].ratio.high)


def test_every_stage_writes_its_result_and_the_next_one_runs(tmp_path):
    """With an interpreter that fails in one stage and prints what it is asked for in the others."""
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *bench_gpu_words*) echo broken; exit 3;; *) echo "$@";; esac\n',
        encoding="utf-8",
    )
    fake.chmod(0o755)
    command = ["bash", BENCH / "gpu.sh", tmp_path / "results"]
    environment = {**os.environ, "PYTHON": str(fake)}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 1, done.stderr
    summary = (tmp_path / "results" / "summary.txt").read_text(encoding="utf-8").splitlines()
    assert [line.partition(",")[0] for line in summary] == [
        f"{name}: {'failed with status 3' if name == 'words' else 'passed'}" for name in STAGES
    ]
    written = {name: (tmp_path / "results" / f"{name}.txt").read_text(encoding="utf-8") for name in STAGES}
    assert written["words"] == "broken\n"
    assert "-k golden_digests" in written["digests"]
    assert "bench/bench_gpu.py --json" in written["speed"]


def test_its_stages_take_less_than_ten_minutes():
    text = (BENCH / "gpu.sh").read_text(encoding="utf-8")
    limits = [int(line.split()[2]) for line in text.splitlines() if line.startswith("stage ")]
    assert len(limits) == len(STAGES)
    assert sum(limits) < 600 - 60  # and the installation
