"""Every kernel in several orders of blocks and threads. And what the host's stand-in for a GPU finds, shown
on faults: races for shared memory, reads of what nobody wrote there, results that depend on an order. The
fixture ``kernels`` looks for these in all other tests as well, at every launch.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import host_cupy
import samestep as ss
from bits import same_bits
from samestep import backends
from samestep.backends import gpu
from samestep.backends.face import Window
from samestep.proof import golden

pytestmark = pytest.mark.more
ROOT = Path(__file__).parents[3]
GPU, NATIVE = ROOT / "csrc" / "gpu", ROOT / "tests" / "native"
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-Wno-unknown-pragmas")
CHECKED = ("-fsanitize=thread", "-fno-tree-loop-distribute-patterns")  # as in CMakeLists.txt


def build(folder: Path, kernels: str, file: str, old: str, new: str) -> Path:
    """The library of some kernels, with ``old`` replaced in one of their sources."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    assert compiler
    shutil.copytree(GPU, folder / "gpu")
    text = (folder / "gpu" / file).read_text(encoding="utf-8")
    assert text.count(old) == 1, text.count(old)
    (folder / "gpu" / file).write_text(text.replace(old, new), encoding="utf-8")
    include = (f"-I{folder}", f"-I{ROOT / 'csrc'}", f"-DKERNELS={kernels}")
    for source, flags in (("cuda_on_host", CHECKED), ("cuda_shim", ())):
        output = ("-c", NATIVE / f"{source}.cpp", "-o", folder / f"{source}.o")
        subprocess.run([compiler, *FLAGS, *flags, *include, *output], check=True)
    library = folder / "libfaulty.so"
    objects = [folder / "cuda_on_host.o", folder / "cuda_shim.o"]
    subprocess.run([compiler, "-shared", *objects, "-o", library], check=True)
    return library


X = np.random.default_rng(0).standard_normal((1100, 3))

# The barrier of tile_block.
HALVE = "for (Index half = kLanes / 2; half > 0; half /= 2) {\n    __syncthreads();"
RACE, UNWRITTEN = "without a barrier between", "nobody wrote it in this block"
FAULTS = {
    "no barrier in a loop": (HALVE, HALVE.replace("__syncthreads();", ""), f"{RACE}|{UNWRITTEN}"),
    "one barrier for two": (
        HALVE,
        HALVE.replace("__syncthreads();", "if (half > kLanes / 4) __syncthreads();"),
        RACE,
    ),
    "a lane that nobody writes": (
        "lane < kLanes; lane += blockDim.x / kTile",
        "lane < kLanes - 1; lane += blockDim.x / kTile",
        UNWRITTEN,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_shared_memory_is_named(tmp_path, fault):
    old, new, what = FAULTS[fault]
    library = build(tmp_path, "SUM_KERNELS()", "sums.cuh", old, new)
    named = rf"sum_columns_values_float64: thread \d+ of block \d+ accesses byte \d+ of lanes: .*({what})"
    for seed in range(3):
        with (
            host_cupy.installed(library, tmp_path / "cache", seed),
            pytest.raises(host_cupy.SharedMemoryError, match=named),
        ):
            ss.canonical_sum(host_cupy.device(X), 0)


def fingerprint(library: Path, folder: Path, seed: int) -> int:
    with host_cupy.installed(library, folder, seed):
        x = np.random.default_rng(1).standard_normal(100_000)
        return ss.fingerprint(host_cupy.device(x))


def test_a_result_that_depends_on_the_order_of_blocks(tmp_path):
    """It is as good as any while they run as they are numbered."""
    add = "atomicAdd(sums + threadIdx.x, sum);"
    fault = f"sum += sums[threadIdx.x] >> 1;\n    {add}"
    library = build(tmp_path, "FINGERPRINT_KERNELS()", "fingerprint.cuh", add, fault)
    found = [fingerprint(library, tmp_path / "cache", seed) for seed in (0, 0, 1, 2, 1)]
    assert found[0] == found[1]
    assert found[2] == found[4]
    assert len(set(found)) == 3


def test_a_result_that_depends_on_the_order_of_threads(tmp_path):
    """Pairs of the next level are added before those of the last one, in memory that is not shared."""
    barrier = "sums[(i + step) * stride + j];\n    }\n    __syncthreads();"
    library = build(tmp_path, "SUM_KERNELS()", "sums.cuh", barrier, barrier.replace("__syncthreads();", ""))
    x = np.random.default_rng(2).standard_normal(40 * gpu.kernels.SUM_BLOCK)
    found = set()
    for seed in range(1, 6):
        with host_cupy.installed(library, tmp_path / "cache", seed):
            found.add(float(ss.canonical_sum(host_cupy.device(x))))
    assert len(found) > 1


def test_those_libraries_are_right_without_a_fault(tmp_path):
    library = build(tmp_path, "SUM_KERNELS()", "sums.cuh", HALVE, HALVE)
    for seed in (0, 1, 2):
        with host_cupy.installed(library, tmp_path / "cache", seed):
            found = ss.canonical_sum(host_cupy.device(X), 0).get()
        same_bits([found], [ss.canonical_sum(X, 0)])


def normalised(library: Path, folder: Path, seed: int) -> list[np.ndarray]:
    """By teams of four blocks of threads, as many as run at the same time."""
    x, ones = np.random.default_rng(3).standard_normal((3, 3, 2700)), np.ones(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu.batchnorm, "shared_memory", lambda device, at_once: 2 * 8192 + 200)
        patch.setattr(gpu.batchnorm, "multiprocessors", lambda device: 32)
        with host_cupy.installed(library, folder, seed) as kernels:
            found = ss.batchnorm_forward(*(host_cupy.device(a) for a in (x, ones, ones)))
            assert kernels.launches == [("whole_forward_float64", 12, 256)]
            return [a.get() for a in found]


# In threads.cuh: all of what blocks of threads tell each other.
WAITING = {
    "a block does not wait": ("(arrived_) <= size_)", "(arrived_) < 0)"),
    "it waits until all have arrived, not longer": ("(arrived_) <= size_)", "(arrived_) < size_)"),
    "it arrives before all of its threads": (
        "unsigned before;\n    __syncthreads();\n",
        "unsigned before;\n    if (size_ == 1) __syncthreads();\n",
    ),
    "the last but one pairs the sums": ("before + 1 == size_", "before + 2 == size_"),
}


@pytest.mark.parametrize("fault", WAITING)
def test_a_result_that_depends_on_when_blocks_wait(tmp_path, fault):
    library = build(tmp_path, "BATCHNORM_KERNELS()", "threads.cuh", *WAITING[fault])
    found = {
        b"".join(a.tobytes() for a in normalised(library, tmp_path / "cache", seed)) for seed in range(1, 6)
    }
    assert len(found) > 1


def test_blocks_that_wait_for_one_another(tmp_path):
    """Members that are numbered as the launch numbers them need not run at the same time."""
    ticket = "ticket = atomicAdd(counters, 1u);"
    library = build(tmp_path, "BATCHNORM_KERNELS()", "threads.cuh", ticket, "ticket = blockIdx.x;")
    call = "import sys; from test_gpu_threads import *; normalised(Path(sys.argv[1]), Path(sys.argv[2]), 1)"
    path = os.pathsep.join(p for p in (str(Path(__file__).parent), *sys.path) if p)
    done = subprocess.run(
        [sys.executable, "-c", call, library, tmp_path / "cache"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == -signal.SIGABRT
    assert "blocks that wait for one another" in done.stderr


# Options with which a step takes each of its kernels; the last three record, which makes fingerprints.
WAYS = [
    ({}, False),
    ({"weight_decay": 0.25}, False),
    ({"weight_decay": 0.25, "decoupled_weight_decay": True}, False),
    ({"ema": 0.5, "clip_norm": 1.0}, False),
    ({"weight_decay": 0.25}, True),
    ({"weight_decay": 0.25, "decoupled_weight_decay": True}, True),
    ({"ema": 0.5, "nonfinite": "skip"}, True),
]


def convolved(place, backend: str, input: tuple[int, ...], weight: tuple[int, ...], dtype: Any) -> list[Any]:
    """y, and its gradients by input, weight and bias."""
    rng, module = np.random.default_rng(4), backends.module(backend)
    shape = input[0], weight[0], input[2] - weight[2] + 1, input[3] - weight[3] + 1
    x, w, bias, dy = (place(rng.standard_normal(s).astype(dtype)) for s in (input, weight, weight[:1], shape))
    y, dx, dw, dbias = (module.empty_like(a) for a in (dy, x, w, bias))
    window = Window((1, 1), (0, 0), (1, 1), 1)
    module.conv2d(x, w, bias, window, True, y)
    module.conv2d_backward(dy, x, w, y, window, dx, dw, dbias)
    return [y, dx, dw, dbias]


def results(place, backend: str, folder: Path) -> list[np.ndarray]:
    """Of calls that need every kernel, with small arrays that ``place`` puts where they are wanted."""
    rng, out = np.random.default_rng(3), []

    def keep(*found):
        out.extend(np.array(a.get() if hasattr(a, "get") else a) for a in found)

    for case in golden.cases():
        values, g = rng.standard_normal((2, 1500)).astype(case.dtype)
        for options, recorded in WAYS:
            w = place(values)
            optimizer = case.make([w], **options)
            path = folder / f"{len(out)}.jsonl"
            with optimizer.record(path) if recorded else nullcontext():
                optimizer.step([place(g)])
            keep(w, *(states[0] for states in optimizer.state.values()))
            if recorded:
                keep(np.frombuffer(path.read_bytes(), np.uint8))
    for dtype in (np.float16, ml_dtypes.bfloat16):
        values, g = rng.standard_normal((2, 1500)).astype(dtype)
        for way in ({"clip_norm": 1.0}, {"nonfinite": "skip"}):
            optimizer = ss.Adam(w := place(values), master="float32", **way)
            optimizer.step(place(g))
            keep(w)
    for dtype in (np.float32, np.float64):
        x = rng.standard_normal((3, 40, 1100)).astype(dtype)
        keep(*(ss.canonical_sum(place(x), axis) for axis in (None, 0, 1, 2)), ss.global_norm([place(x)]))
        for axis, relu in ((1, False), (1, True), (-1, False), (-1, True)):
            layer = ss.BatchNorm(x.shape[axis], relu=relu, axis=axis, dtype=dtype, backend=backend)
            keep(layer.forward(place(x)), *layer.backward(place(x)), layer.running_mean, layer.running_var)
            keep(layer.eval().forward(place(x)))
        a, b = rng.standard_normal((2, 140, 140)).astype(dtype)
        y = ss.linear(place(a), place(b), relu=True)
        keep(y, *ss.linear_backward(place(b), place(a), place(b), y=y), ss.linear(place(a[:3]), place(b)))
        keep(*convolved(place, backend, (2, 3, 20, 20), (5, 3, 3, 2), dtype))
        if dtype == np.float32:  # in large tiles
            keep(*convolved(place, backend, (2, 15, 7, 15), (130, 15, 3, 3), dtype))
        keep(*(function(place(x)) for function in (ss.exp, ss.log, ss.tanh, ss.sigmoid)))
        keep(ss.parallel.weighted_mean([place(x[0]), place(x[1]), place(x[2])], [1, 0, 3]))
        keep(*ss.softmax_cross_entropy(place(x[0]), place(np.arange(40))))
        problem = ss.problems.MSE(place(x[0]), place(x[1, :, 0].copy()))
        keep(problem.gradient(place(x[2, 0].copy())), problem.loss(place(x[2, 0].copy())))
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.uint16):
        keep(ss.fingerprint(place(rng.integers(0, 2**16, 200_000, np.uint16).view(dtype))))
    return out


@pytest.mark.slow
def test_every_kernel_in_any_order_of_blocks_and_threads(cuda_on_host, tmp_path):
    """The CPU's bits, and no fault in shared memory."""
    (tmp_path / "cpu").mkdir()
    expected = results(np.array, "cpu", tmp_path / "cpu")
    for seed in (0, 1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with host_cupy.installed(cuda_on_host, tmp_path / "cache", seed) as kernels:
            found = results(host_cupy.device, "cuda", folder)
        same_bits(found, expected)
        # What this leaves out, a call above must be added for.
        assert set(kernels.names()) - {name for name, _, _ in kernels.launches} == set()
