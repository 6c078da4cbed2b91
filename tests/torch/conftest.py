"""samestep.torch with CuPy's stand-in on the host."""

from __future__ import annotations

import os
import random
import sys

import pytest

import host_cupy
from torch_place import Place


@pytest.fixture
def place(monkeypatch):
    """Tensors of main memory are taken for those of a GPU, as it says."""
    import samestep.torch.gpu
    from samestep.torch import launching

    place = Place()
    for name, module in list(sys.modules.items()):
        if name.startswith("samestep.torch.") and hasattr(module, "gpu_of"):
            monkeypatch.setattr(module, "gpu_of", place.gpu_of)
    for module in (samestep.torch.gpu, launching):
        monkeypatch.setattr(module, "current_stream", lambda number: place.stream + number)
        monkeypatch.setattr(module, "is_capturing", lambda number: place.is_capturing)
        monkeypatch.setattr(module, "on_gpu", place.on_gpu)
    monkeypatch.setattr(launching, "note_event", place.note_event)
    return place


@pytest.fixture
def kernels(cuda_on_host, tmp_path, place):
    seed = int(os.environ.get("SAMESTEP_GPU_SEED") or random.getrandbits(63))
    print(f"SAMESTEP_GPU_SEED={seed} in the environment repeats this order of blocks and threads")
    with host_cupy.installed(cuda_on_host, tmp_path, seed) as kernels:
        yield kernels
