"""A GPU for the tests: CuPy's stand-in on the host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import host_cupy


@pytest.fixture
def kernels(cuda_on_host: Path, tmp_path: Path) -> Iterator[host_cupy.HostKernels]:
    with host_cupy.installed(cuda_on_host, tmp_path) as kernels:
        yield kernels
