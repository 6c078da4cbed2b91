"""The root that vectors of AVX-512 take by multiplications."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import samestep as ss
from conftest import same_bits

ROOT = Path(__file__).parent.parent
AVX512 = ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma")


@pytest.mark.skipif("avx512" not in ss.info()["isas"], reason="this machine has no AVX-512")
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_every_float32_and_many_estimates(tmp_path):
    """All 2^32 roots; the estimates of every 521st mantissa. Without a stride it takes minutes."""
    source, program = ROOT / "tests" / "native" / "root.cpp", tmp_path / "root"
    subprocess.run(
        [
            "g++",
            "-std=c++17",
            "-O2",
            "-ffp-contract=off",
            *AVX512,
            f"-I{ROOT / 'csrc'}",
            source,
            "-o",
            program,
        ],
        check=True,
    )
    done = subprocess.run([program, "521"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("4294967296 roots, ")
    assert done.stdout.endswith(" 0 wrong\n")


@pytest.mark.parametrize("size", [1, 15, 16, 31, 32, 33, 63, 64, 65, 100])
def test_a_rule_between_ordinary_and_extraordinary_roots(size, isa):
    """0, subnormals, infinity and NaN stand at every place of a vector, among ordinary numbers."""
    odd = np.float32([0.0, 1e-45, 1e-38, 2.0**-97, 2.0**-96, np.inf, np.nan, 3e38, 1e-30])
    with np.errstate(all="ignore"):
        for at in range(0, size, 7):
            r = np.linspace(0.1, 9, size, dtype=np.float32)
            r[at : at + len(odd)] = odd[: len(r[at : at + len(odd)])]
            w, g = np.ones(size, np.float32), np.full(size, -0.0, np.float32)
            ours, twin = (ss.AdaGrad(w.copy(), 0.1, eps=0.0, backend=b) for b in ("cpu", "reference"))
            for optimizer in (ours, twin):
                optimizer.state["r"][0][:] = r
                optimizer.step(g)
            same_bits(ours.params, twin.params)
