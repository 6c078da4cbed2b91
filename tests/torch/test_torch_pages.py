"""The Python of the pages that need torch, and the README's two results."""

import os
import re
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep as ss
import snippets
from snippets import ROOT

README = ROOT / "README.md"
TORCH = ROOT / "docs" / "guide" / "torch.md"


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own, of run_decompositions
@pytest.mark.parametrize("page", snippets.pages_with("torch"), ids=lambda page: page.name)
def test_python_runs(page):
    snippets.run(page, [one for one in snippets.snippets(page) if snippets.package_of(one) == "torch"])


@pytest.mark.skipif("avx2" not in ss.info()["isas"], reason="needs AVX2, beside the baseline")
def test_torch_gives_two_results_and_samestep_one(tmp_path):
    (code,) = (one.code for one in snippets.snippets(README) if "ss.digest(w." in one.code)
    (tmp_path / "twice.py").write_text(code, encoding="utf-8")
    (shown,) = re.findall(r"^```console\n(\$ ATEN.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    runs = re.findall(r"^\$ (.+) python twice\.py\n((?:[^$].*\n)+)", shown, re.M)
    assert len(runs) == 2
    found = []
    for settings, said in runs:
        env = {**os.environ, **dict(one.split("=") for one in settings.split())}
        command = [sys.executable, "twice.py"]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", check=True
        )
        found.append(done.stdout.splitlines())
        assert found[-1][1] == said.splitlines()[1]
    (theirs, ours), (their_second, our_second) = found
    assert ours == our_second
    assert theirs != their_second
    if torch.__version__.startswith("2.13."):
        of_intel = tuple(said.splitlines()[0].split()[1] for _, said in runs)
        of_amd = re.search(
            r"On an AMD EPYC torch gives .*?`(\w+)` and `(\w+)`", README.read_text(encoding="utf-8")
        ).groups()
        assert tuple(line.split()[1] for line in (theirs, their_second)) in (of_intel, of_amd)


@pytest.mark.parametrize(("capability", "threads"), [("default", "1"), ("avx2", "2"), ("avx512", "1")])
def test_a_whole_training_loop_prints_one_line_everywhere(capability, threads):
    """From torch.manual_seed on, with whatever instructions torch's kernels use."""
    (loop,) = (one for one in snippets.snippets(TORCH) if "DataLoader" in one.code)
    env = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-c", loop.code]
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == loop.printed
