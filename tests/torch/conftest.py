"""samestep.torch with CuPy's stand-in on the host."""

from __future__ import annotations

import os
import random

import pytest

import host_cupy
from torch_place import Place


@pytest.fixture
def place(monkeypatch):
    """Tensors of main memory are taken for those of a GPU, as it says."""
    place = Place()
    place.install(monkeypatch)
    return place


@pytest.fixture
def kernels(cuda_on_host, tmp_path, place):
    seed = int(os.environ.get("SAMESTEP_GPU_SEED") or random.getrandbits(63))
    print(f"SAMESTEP_GPU_SEED={seed} in the environment repeats this order of blocks and threads")
    with host_cupy.installed(cuda_on_host, tmp_path, seed) as kernels:
        yield kernels
