"""The kernels: the text of csrc/gpu/kernels.cu, compiled once and kept, their arguments, and their launch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
import tempfile
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import get_cupy

# The contract's: no fused multiply-add unless written, subnormals kept, division and root rounded once.
# CuPy's own compile step would flush subnormals.
OPTIONS = (
    "--std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--device-as-default-execution-space",
)

THREADS = 256  # of a block; any multiple of 32 up to 1024 gives the same bits
UNNAMED_SHARED = 1024  # bytes of shared memory: what CUDA keeps of each block; a kernel's own variables
ITEM = 4096  # elements of a block of threads

# Sizes that the kernels know as well: kSumBlock in csrc/contract/types.h, the others in csrc/gpu/.
WARP = 32  # threads
SUM_BLOCK = 1024  # terms
SHARING_THREADS = 768  # of the one, two or three blocks that fill a processor's shared memory
TILE = 32  # columns that a block of threads sums
PAIRED_ROWS = 1024  # block sums that a block of threads pairs
HASHED_BLOCKS = 32  # of 1024 bytes that a block of threads hashes
PRODUCT_THREADS = 256  # of a block that multiplies matrices
PRODUCT_BLOCK = 256  # terms, kProductBlock in csrc/contract/types.h
PRODUCT_SLICE = 16  # terms that lie in shared memory at a time
PRODUCT_SIDE, LARGE_PRODUCT_SIDE = 64, 128  # rows and columns of the product that such a block computes
WORDS = 480  # 8-byte words that one launch of write_words writes
HYPER = 256  # numbers of the groups that one launch of form_updates takes
RUN = 32768  # elements of a gradient that a block of threads reads for its norm
ROW_STATES = 4  # kMaxStates in csrc/contract/types.h
UPDATE_BYTES = 144  # of the table that form_updates writes, a tensor


@functools.cache
def source() -> str:
    """kernels.cu and what it includes, headers and .cuh files, as one text: a hash of it covers them all."""
    folder = resources.files("samestep").joinpath("csrc")
    seen = set()

    def lines(name: str) -> list[str]:
        out = []
        for line in folder.joinpath(name).read_text(encoding="utf-8").splitlines():
            included = re.fullmatch(r'#include "([\w/]+\.(?:h|cuh))"', line)
            if included is None:
                out += [] if line.startswith(("#include <", "#pragma once")) else [line]
            elif included[1] not in seen:
                seen.add(included[1])
                out += lines(included[1])
        return out

    return "\n".join(lines("gpu/kernels.cu"))


def text_of(kernels: str) -> str:
    """What is compiled for a list of kernels, such as ``SUM_KERNELS()``."""
    return f"{source()}\nnamespace samestep {{ {kernels} }}\n"


def _cache() -> Path:
    """The folder of compiled kernels: SAMESTEP_CACHE, or in the user's folder of caches."""
    own, home = os.environ.get("SAMESTEP_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    try:
        return Path(home or Path.home() / ".cache") / "samestep"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        raise OSError("this user has no home") from None


def _compile(text: str, options: tuple[str, ...]) -> bytes:
    nvrtc = get_cupy().cuda.nvrtc
    program = nvrtc.createProgram(text, "samestep.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        code: bytes = nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise RuntimeError(f"backend='cuda': the kernels do not compile ({error}):\n{log}") from error
    finally:
        nvrtc.destroyProgram(program)
    return code


# A kept file is run, so only files of this user or root are read. The folders above need no check: whoever
# replaces the folder or a file owns the new one.


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody but this user and root can have written there."""
    if not hasattr(os, "geteuid"):  # Windows, where no mode tells it: see _folder
        return True
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _folder() -> Path:
    """The folder of compiled kernels, created if it is missing; OSError says why none can be kept."""
    folder = _cache()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder.stat()):
        raise OSError(f"{folder} belongs to another user, or others can write there (chmod go-w)")
    if not hasattr(os, "geteuid") and not folder.resolve().is_relative_to(Path.home().resolve()):
        raise OSError(f"{folder} lies outside {Path.home()}, and others may be able to write there")
    return folder


def _digest(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + code).digest()


def _kept(path: Path) -> bytes | None:
    """The code that ``_keep`` wrote to the file; None if it is another user's, incomplete or missing."""
    try:
        # Neither follows a link nor waits for a pipe, where the system knows how.
        careful: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | careful)) as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            digest, code = file.read(32), file.read()
    except OSError:
        return None
    return code if digest == _digest(path.stem, code) else None


def _keep(path: Path, code: bytes) -> None:
    """All of the file or nothing, also where several processes write it."""
    file = tempfile.NamedTemporaryFile(dir=path.parent, delete=False)  # noqa: SIM115
    try:
        with file:  # closed before it is moved: Windows moves no open file
            file.write(_digest(path.stem, code) + code)
        os.replace(file.name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(file.name)
        raise


_warnings_given: set[str] = set()


def _warn_not_kept(error: OSError) -> None:
    message = f"compiled kernels are not kept, so that every process compiles them anew: {error}"
    if message not in _warnings_given:
        _warnings_given.add(message)
        warnings.warn(f"{message}; name a folder of yours in SAMESTEP_CACHE", RuntimeWarning, stacklevel=2)


def _loaded(code: bytes) -> Any:
    module = get_cupy().cuda.function.Module()
    module.load(code)
    return module


@functools.cache
def _module(kernels: str, device: int) -> Any:
    cupy = get_cupy()
    options = (*OPTIONS, f"--gpu-architecture=sm_{cupy.cuda.Device(device).compute_capability}")
    text = text_of(kernels)
    key = hashlib.sha256(repr((text, options, cupy.cuda.nvrtc.getVersion())).encode()).hexdigest()
    path = None
    try:
        path = _folder() / f"{key}.cubin"
    except OSError as error:
        _warn_not_kept(error)
    code = None if path is None else _kept(path)
    if code is not None:
        with contextlib.suppress(RuntimeError):  # then it is compiled anew
            return _loaded(code)
    code = _compile(text, options)
    try:
        module = _loaded(code)
    except RuntimeError as error:
        raise RuntimeError(
            f"backend='cuda': the GPU's driver does not load the compiled kernels ({error}); it may be older "
            "than CuPy's CUDA: update it, or install the extra of its version, 'samestep[cuda12]' or "
            "'samestep[cuda13]'"
        ) from error
    if path is not None:
        try:
            _keep(path, code)
        except OSError as error:
            _warn_not_kept(error)
    return module


@functools.cache
def shared_memory(device: int, at_once: int = 1) -> int:
    """Bytes that a launch on this device may name, of which a processor has room for ``at_once`` blocks."""
    most: int = get_cupy().cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]
    return most // at_once - UNNAMED_SHARED


@functools.cache
def multiprocessors(device: int) -> int:
    """How many blocks of threads run at the same time, if each takes most of what there is for one."""
    count: int = get_cupy().cuda.Device(device).attributes["MultiProcessorCount"]
    return count


@functools.cache
def _kernel(kernels: str, name: str, device: int, shared_bytes: int = 0) -> Any:
    """The kernel, which may be launched with as many bytes of shared memory."""
    kernel = _module(kernels, device).get_function(name)
    if shared_bytes:
        driver = get_cupy().cuda.driver
        for attribute, value in (
            (driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes),
            # In percent of what it shares with the first-level cache.
            (driver.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100),
        ):
            driver.funcSetAttribute(kernel.ptr, attribute, value)
    return kernel


def ready_kernel(kernels: str, name: str) -> Any:
    """A kernel of the current device, compiled and loaded if it is the first of its list."""
    return _kernel(kernels, name, get_cupy().cuda.runtime.getDevice())


Launch = tuple[Any, int, NDArray[Any]]  # kernel, blocks of threads, argument


def launch_kernel(kernel: Any, blocks: int, argument: NDArray[Any]) -> None:
    """On the current device and stream."""
    if blocks:
        kernel((blocks,), (THREADS,), (argument,))


def run_kernel(kernels: str, name: str, blocks: int, argument: NDArray[Any]) -> None:
    if blocks:
        launch_kernel(ready_kernel(kernels, name), blocks, argument)


def are_large(m: int, n: int, tiles: int) -> bool:
    """Whether to compute matrices (m, n) in so many large tiles; bits do not depend on it.

    They read less than small ones, but leave processors idle where there are few of them, and compute more
    than is wanted where a small tile covers a side of the matrix.
    """
    enough = tiles >= multiprocessors(get_cupy().cuda.runtime.getDevice())
    return enough and min(m, n) > PRODUCT_SIDE


def run_tiles(
    kernels: str, name: str, dtype: Any, sizes: tuple[int, int, int], argument: NDArray[Any]
) -> None:
    """Launches a block of PRODUCT_THREADS threads for each tile of some matrices.

    Args:
        name: of the kernel, without its type.
        sizes: how many matrices, and their rows and columns.
    """
    matrices, m, n = sizes
    large, small = (
        matrices * ceil_div(m, side) * ceil_div(n, side) for side in (LARGE_PRODUCT_SIDE, PRODUCT_SIDE)
    )
    is_large = dtype == np.float32 and are_large(m, n, large)
    if blocks := large if is_large else small:
        kernel = ready_kernel(kernels, f"{name}_large_{dtype}" if is_large else f"{name}_{dtype}")
        kernel((blocks,), (PRODUCT_THREADS,), (argument,))


def run_shared(
    kernels: str, name: str, blocks: int, at_once: int, argument: NDArray[Any], shared_bytes: int
) -> None:
    """Launches ``blocks`` blocks with so much shared memory that ``at_once`` of them fit a processor."""
    device = get_cupy().cuda.runtime.getDevice()
    kernel = _kernel(kernels, name, device, shared_memory(device))
    kernel((blocks,), (SHARING_THREADS // at_once,), (argument,), shared_mem=shared_bytes)


# The kernels' arguments, field by field as in csrc/gpu/*.cuh; tests/backends/gpu/test_gpu_arguments.py
# compares the two. All fields are of 8 bytes, so that nothing is padded.


def _fields(names: str, **formats: Any) -> np.dtype[Any]:
    return np.dtype([(name, formats.get(name, "<i8")) for name in names.split()])


# StepArguments, UpdateArguments, GradientArguments, NormArguments, ConvertArguments.
STEP = _fields(
    "rows given updates items per_item clip_value ema flush decoupled zeroes rounds_randomly seed sums kinds",
    clip_value="<f8",
    ema="<f8",
    seed="<u8",
)
UPDATE = np.dtype(
    [
        *_fields("rows given tensors counts updates stamp found_inf norm").descr,
        *[("scale", "<f8"), ("clip_norm", "<f8")],
        *_fields("maximize first_group groups").descr,
        ("hyper", "<f8", HYPER),
    ]
)
GRADIENT = _fields("rows given runs sums bad stamp", stamp="<u8")
NORM = _fields("rows given sums squares gradients scale norm", scale="<f8")
CONVERT = _fields("from low to n from_storage to_storage")
# WordArguments, BlockSumArguments, PairArguments, FingerprintArguments, BatchNormArguments, RunningArguments,
# MseArguments, ProductArguments, ReluGradientArguments, RoundArguments, ConvolutionArguments, TermArguments,
# LeafArguments, FunctionArguments, SoftmaxArguments.
WORD = np.dtype([("to", "<i8"), ("count", "<i8"), ("words", "<i8", WORDS)])
BLOCK_SUMS = _fields("x outer n inner out")
PAIRS = _fields("sums sets n width stride set_stride")
FINGERPRINT = _fields("x n sum")
BATCHNORM = _fields(
    "samples channels positions channels_last eps x dy gamma beta var mean inv mean64 var64 dgamma dbeta out "
    "coefficients sums left stride per_block part counters",
    eps="<f8",
)
RUNNING = _fields("mean64 var64 channels values momentum batches mean var", momentum="<f8")
MSE = _fields("Phi y w rows count p factor per_row r sums squares g loss", factor="<f8")
PRODUCT = _fields("m n k a b bias a_row a_k b_k b_column c c_row relu")
RELU_GRADIENT = _fields("dy y rows columns dy_row dy_column y_row y_column out")
ROUND = _fields("sums n out")
CONVOLUTION = _fields(
    "samples groups channels outputs size kernel out_size stride padding dilation x w bias dy w_by_tap y dx "
    "dw relu begin end first last span parts row_slice column_slice",
    **dict.fromkeys(("size", "kernel", "out_size", "stride", "padding", "dilation"), ("<i8", 2)),
    **dict.fromkeys(("row_slice", "column_slice"), ("<i8", 3)),
)
TERM = _fields("dy y samples outputs positions out")
LEAF = _fields("from to n from_storage to_storage weight per_block", weight="<f8")
FUNCTION = _fields("x n out")
SOFTMAX = _fields("z labels rows columns losses dz")
BATCHNORM_COEFFICIENTS = 7  # rows of scratch; kCoefficients in csrc/contract/types.h


def struct_of(layout: np.dtype[Any], **values: Any) -> NDArray[Any]:
    """A struct that is passed to a kernel by value; arrays become their addresses."""
    argument = np.zeros(1, layout)
    for name, value in values.items():
        argument[name] = value.data.ptr if hasattr(value, "data") else value
    return argument


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def threads(units: int) -> int:
    """Blocks of threads with a thread for each unit of work."""
    return ceil_div(units, THREADS)


def warps(units: int) -> int:
    """Blocks of threads with a warp for each unit of work."""
    return ceil_div(units, THREADS // WARP)
