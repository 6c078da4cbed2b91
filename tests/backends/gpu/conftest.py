"""A GPU for the tests: CuPy's stand-in on the host. Blocks and threads run in another order in every test,
and every access to shared memory is checked (tests/native/cuda_shim.cpp).
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import host_cupy

SEED = "SAMESTEP_GPU_SEED"


@pytest.fixture
def kernels(cuda_on_host: Path, tmp_path: Path) -> Iterator[host_cupy.HostKernels]:
    seed = int(os.environ.get(SEED) or random.getrandbits(63))
    print(f"{SEED}={seed} in the environment repeats this order of blocks and threads")
    with host_cupy.installed(cuda_on_host, tmp_path, seed) as kernels:
        yield kernels
