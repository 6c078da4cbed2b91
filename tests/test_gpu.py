"""The GPU backend without a GPU: gpu.py launches csrc/kernels.cu, which fibers on the host run (host_cupy.py)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import host_cupy
from samestep import golden, gpu


@pytest.fixture
def kernels(native: Path, tmp_path: Path) -> Iterator[host_cupy.HostKernels]:
    with host_cupy.installed(native / "libcuda_on_host.so", tmp_path) as kernels:
        yield kernels


@pytest.mark.parametrize("threads", [32, 96, 256, 1024])
def test_golden_digests(kernels, monkeypatch, threads):
    """Long programs, of 10 000 launches each, with one block size."""
    monkeypatch.setattr(gpu, "THREADS", threads)
    for program in (p for group in golden.programs().values() for p in group if str(p) in golden.DIGESTS):
        if threads == 32 or not isinstance(program, golden.RuleProgram) or program.steps < 100:
            found = golden.program_digest(program, backend="cuda")
            assert found == golden.DIGESTS[str(program)], str(program)
    assert {n for _, _, n in kernels.launches} == {threads}
