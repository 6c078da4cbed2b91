"""What NVRTC makes of csrc/gpu/, for every architecture from 2018 on: no instruction that fuses,
flushes or estimates. Each gate is shown to fail on a fault. Some 40 seconds.
"""

import functools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import cubin
import host_cupy
import nvrtc
import samestep as ss
from samestep.backends.gpu import kernels

pytestmark = [
    pytest.mark.more,
    pytest.mark.skipif(nvrtc.library() is None, reason="not installed: nvidia-cuda-nvrtc"),
]

# All kernels for the first architecture, those of every rule for the last, some for those between.
ALL = "ALL_KERNELS()"
OTHERS = (
    "WORD_KERNELS() STORAGE_KERNELS() GRADIENT_KERNELS() SUM_KERNELS() FINGERPRINT_KERNELS() MSE_KERNELS() "
    "BATCHNORM_KERNELS() PRODUCT_KERNELS() CONVOLUTION_KERNELS() LEAF_KERNELS() FUNCTION_KERNELS() "
    "SOFTMAX_KERNELS()"
)
FINGERPRINTED = "FINGERPRINTED_KERNELS(adam_outside) STORED_FINGERPRINTED_KERNELS(adam_outside)"
ADAM = f"OPTION_KERNELS(adam_outside) STORED_KERNELS(adam_outside) {FINGERPRINTED}"
MOST = f"FOR_EACH_RULE(STEP_KERNELS) {ADAM} {OTHERS}"
SOME = f"STEP_KERNELS(adam_outside) {ADAM} {OTHERS}"
ARCHITECTURES = {75: ALL, 80: SOME, 86: SOME, 89: SOME, 90: SOME, 100: SOME, 103: SOME, 120: MOST}

FORBIDDEN = re.compile(
    r"[\w.]*\.(?:ftz|approx|full)[\w.]*"  # flushed, estimated
    r"|fma\.\w+\.f\d+|mad\.\w+\.f\d+"  # fused
    r"|(?:add|sub|mul)\.f\d+"  # without .rn the assembler may fuse it
    r"|(?:max|min)\.\w*\.?f\d+"  # lose a NaN
)
# Canonical sums of float32, and of less: the product of two is exact in float64, so fusing it changes no bit.
# And the matrix product, which is defined by fused multiply-adds.
MAY_FUSE = re.compile(
    r"(sum_runs_squares|add_blocks_\w+|whole_\w+|mse_residuals|mse_gradient_blocks)_float32 fma\.rn\.f64"
    r"|square_gradients_(float32|float16|bfloat16) fma\.rn\.f64"
    r"|(multiply|convolve)_\w*float32 fma\.rn\.f32|(multiply|convolve)_\w*float64 fma\.rn\.f64"
)


@functools.cache
def ptx(
    group: str,
    architecture: int = 75,
    options: tuple[str, ...] = kernels.OPTIONS,
    replace: tuple[str, str] = ("", ""),
) -> str:
    text = kernels.text_of(group)
    assert replace[0] in text
    if replace[0]:
        text = text.replace(*replace)
    return nvrtc.compile_text(text, (*options, f"--gpu-architecture=compute_{architecture}")).decode()


def entries(code: str) -> dict[str, str]:
    """The instructions of each kernel."""
    found = re.findall(r"\.entry (\w+)\((.*?)^}", code, re.S | re.M)
    return dict(found)


def forbidden_in(code: str) -> set[tuple[str, str]]:
    return {
        (name, instruction)
        for name, body in entries(code).items()
        for instruction in FORBIDDEN.findall(body)
        if not MAY_FUSE.fullmatch(f"{name} {instruction}")
    }


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(n, marks=[pytest.mark.slow] * (what == ALL)) for n, what in ARCHITECTURES.items()],
)
def test_nothing_fused_flushed_or_estimated_and_16_bytes_at_a_time(architecture):
    code = ptx(ARCHITECTURES[architecture], architecture)
    assert len(entries(code)) >= 20
    assert "sqrt.rn.f32" in code, "the listing shows no kernels"
    assert forbidden_in(code) == set()
    assert without_packs(code) == []


FAULTS = {
    "fused": (("--fmad=false", "--fmad=true"), "fma.rn.f32"),
    "flushed": (("--ftz=false", "--ftz=true"), "mul.rn.ftz.f32"),
    "division estimated": (("--prec-div=true", "--prec-div=false"), "div.full.f32"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_that_gate_fails_on_other_options(fault):
    (old, new), instruction = FAULTS[fault]
    options = tuple(option.replace(old, new) for option in kernels.OPTIONS)
    assert options != kernels.OPTIONS
    assert instruction in {i for _, i in forbidden_in(ptx("STEP_KERNELS(adam_outside)", 75, options))}


SEEDED = {
    "fused in the source": ("w = w - (step * q);", "w = __fmaf_rn(-step, q, w);", "fma.rn.f32"),
    "root estimated": ("return __fsqrt_rn(x);", "return x * __frsqrt_rn(x);", "rsqrt.approx"),
    "maximum for a select": ("w = w - (step * q);", "w = fmaxf(w, step * q);", "max.f32"),
}


@pytest.mark.parametrize("fault", SEEDED)
def test_that_gate_fails_on_a_fault(fault):
    old, new, instruction = SEEDED[fault]
    if "float" not in old and "step * q" in old:  # in the float32 kernel alone
        new = f"if constexpr (sizeof(T) == 4) {{ {new} }} else {{ {old} }}"
    found = {i for _, i in forbidden_in(ptx("STEP_KERNELS(adam_outside)", replace=(old, new)))}
    assert any(i.startswith(instruction) for i in found), found


def without_packs(code: str) -> list[str]:
    """Elementwise kernels that read or write their arrays only one by one."""
    return [
        name
        for name, body in entries(code).items()
        for access in ("ld", "st")
        if re.match(r"step_|apply_|whole_", name)
        and not re.search(rf"{access}(\.global)?\.v[24]\.(f|b|u)\d+", body)
    ]


def test_that_gate_fails_without_packs():
    narrow = ("Full = Pack<T, 16 / sizeof(T)>", "Full = Pack<T, 1>")
    assert len(without_packs(ptx("STEP_KERNELS(adam_outside)", replace=narrow))) == 4
    # Of these only the stores: they load packs of a table's words as well.
    assert len(without_packs(ptx("STORED_KERNELS(adam_outside)", replace=narrow))) == 2


def test_fingerprints_wait_for_the_threads_that_step_and_for_their_sums():
    """Two barriers. The host's stand-in would not miss the first: there all step before one hashes. With what
    is stored in 16 bits each kind of array is hashed by itself, and its sums are read before the next.
    """
    code = ptx(f"STEP_KERNELS(adam_outside) OPTION_KERNELS(adam_outside) {FINGERPRINTED}")
    barriers = {name: len(re.findall(r"\bbar(?:rier)?\.sync", body)) for name, body in entries(code).items()}
    expected = {"form_updates_adam_outside": 0}
    for dtype, stored in (("float32", 6), ("float64", 3)):
        expected[f"step_adam_outside_{dtype}"] = 0
        expected[f"step_adam_outside_stored_fingerprints_{dtype}"] = stored
        for way in ("options", "decoupled"):
            expected[f"step_adam_outside_{way}_{dtype}"] = 0
            expected[f"step_adam_outside_{way}_fingerprints_{dtype}"] = 2
    assert barriers == expected


def test_a_channel_is_read_several_packs_at_a_time():
    for name, body in entries(ptx("BATCHNORM_KERNELS()")).items():
        order = "".join(access[0] for access in re.findall(r"\b(ld\.global\.v[24]|st\.shared)", body))
        assert not name.startswith("whole_") or "llll" in order, name


# In threads.cuh; a fence that is missing the host's stand-in would not miss.
FENCES = {"arrival": "fence add fence barrier", "release": "fence add barrier", "waiting": "read fence"}
ORDER = {"fence": r"membar\.gl", "add": r"atom\.", "read": r"ld\.volatile", "barrier": r"bar(?:rier)?\.sync"}


def unordered(code: str) -> set[tuple[str, str]]:
    """What blocks that wait for each other lack, of packs or of single values."""
    pattern = re.compile("|".join(rf"(?P<{name}>\b{what})" for name, what in ORDER.items()))
    return {
        (name, step)
        for name, body in entries(code).items()
        for step, order in FENCES.items()
        if name.startswith("whole_")
        and " ".join(found.lastgroup for found in pattern.finditer(body)).count(order) != 2
    }


@pytest.mark.parametrize("architecture", [75, 120])
def test_blocks_that_wait_for_each_other_have_fences(architecture):
    code = ptx("BATCHNORM_KERNELS()", architecture)
    assert unordered(code) == set()
    # Through the cache that is not coherent, coefficients could be those of before the wait.
    assert "ld.global.nc" not in code


@pytest.mark.parametrize(
    ("step", "old"),
    [
        ("arrival", "__threadfence();\n      before"),
        ("release", "return;\n    __threadfence();"),
        ("waiting", "__nanosleep(50);\n    __threadfence();"),
    ],
)
def test_that_gate_fails_without_a_fence(step, old):
    fault = old, old.replace("__threadfence();", "")
    found = unordered(ptx("BATCHNORM_KERNELS()", replace=fault))
    assert len([name for name, missing in found if missing == step]) == 8


def test_names_are_those_that_are_launched(cuda_on_host):
    """The same list that the host's library has, whose kernels test_gpu.py launches by name."""
    names = host_cupy.HostKernels(cuda_on_host).names()
    empty = '\n#define KERNEL(name, ...) extern "C" __global__ void name() {}\n'  # a minute less to compile
    listed = ptx(ALL, replace=("\n#ifndef KERNEL\n", f"{empty}#ifndef KERNEL\n"))
    assert sorted(entries(listed)) == sorted(names)


@pytest.mark.parametrize("name", ["multiply", "convolve", "convolve_weight", "multiply_taps"])
def test_the_product_reads_16_bytes_at_a_time(name):
    """Of matrices, and of slices in shared memory."""
    found = entries(ptx("PRODUCT_KERNELS() CONVOLUTION_KERNELS()"))
    for which in ("float32", "large_float32", "float64"):
        for memory in ("global", "shared"):
            assert re.search(rf"ld\.{memory}\.v[24]\.\w+", found[f"{name}_{which}"]), (which, memory)


# Registers that a block of threads can have; kernels whose arrays with computed indices lie in the GPU's
# memory: sums of blocks that wait for their partner, addresses of the arrays of a fingerprinted step.
REGISTERS = 65536
MAY_BE_LOCAL = re.compile(r"mse_residuals_\w+|softmax_rows_\w+|step_\w+_fingerprints_\w+")


def resources(
    kernel_list: str, replace: tuple[str, str] = ("", ""), architecture: int = 90
) -> dict[str, cubin.Resources]:
    text = kernels.text_of(kernel_list)
    assert replace[0] in text
    text = text.replace(*replace) if replace[0] else text
    code = nvrtc.compile_text(text, (*kernels.OPTIONS, f"--gpu-architecture=sm_{architecture}"), "CUBIN")
    return cubin.resources(code)


def too_large(kernel_list: str, replace: tuple[str, str] = ("", "")) -> set[str]:
    """Kernels that spill registers, or of which a whole block of threads does not fit a processor."""
    found = resources(kernel_list, replace)
    assert any(name.startswith("multiply_") for name in found)
    threads = {"whole": kernels.SHARING_THREADS, "multiply": kernels.PRODUCT_THREADS}
    threads["convolve"] = kernels.PRODUCT_THREADS
    return {
        name
        for name, of in found.items()
        if (of.local_bytes and not MAY_BE_LOCAL.fullmatch(name))
        # Registers are given to a warp in units of 256.
        or -(-of.registers // 8) * 8 * threads.get(name.split("_")[0], kernels.THREADS) > REGISTERS
    }


def test_no_register_is_spilled_and_every_block_of_threads_fits():
    assert too_large(SOME) == set()


def sharing(architecture: int, replace: tuple[str, str] = ("", "")) -> dict[str, tuple[bool, int]]:
    """Of kernels whose blocks fill the shared memory: whether registers suffice for these; spilled bytes."""
    found = resources("BATCHNORM_KERNELS()", replace, architecture).items()
    return {
        name: (-(-of.registers // 8) * 8 * kernels.SHARING_THREADS <= REGISTERS, of.local_bytes)
        for name, of in found
        if name.startswith("whole_")
    }


@pytest.mark.parametrize("architecture", [75, 80, 86, 89, 100, 120])
def test_blocks_with_much_shared_memory_fit_every_gpu(architecture):
    found = sharing(architecture)
    spilled = {"whole_backward_relu_float64": 8} if architecture == 100 else {}  # one value of a thread
    assert found == {name: (True, spilled.get(name, 0)) for name in found}
    assert len(found) == 8


def test_that_gate_sees_too_many_registers():
    unbounded = "__launch_bounds__(kSharingThreads)", ""
    assert sharing(86, unbounded)["whole_backward_relu_float64"] == (False, 0)


def test_blocks_that_share_a_processor_have_room_for_their_variables(monkeypatch):
    """Of an H100 or H200: 228 KiB of shared memory, of which 1 KiB of each block is CUDA's."""
    attributes = {"MaxSharedMemoryPerBlockOptin": 227 << 10}
    device = SimpleNamespace(Device=lambda number: SimpleNamespace(attributes=attributes))
    monkeypatch.setattr(kernels, "get_cupy", lambda: SimpleNamespace(cuda=device))
    found = {name: of for name, of in resources("BATCHNORM_KERNELS()").items() if name.startswith("whole_")}
    assert len(found) == 8
    for at_once in (1, 2, 3):
        named = kernels.shared_memory.__wrapped__(0, at_once)
        for name, of in found.items():
            assert at_once * (of.shared_bytes + named) <= 228 << 10, name


def test_that_gate_fails_on_too_large_a_tile():
    larger = ("kMultipliers = 256, kAcross = 16", "kMultipliers = 64, kAcross = 8")  # 16 x 16 a thread
    assert "multiply_large_float32" in too_large("PRODUCT_KERNELS()", larger)


def test_a_real_architecture_gives_code_that_can_be_loaded():
    options = (*kernels.OPTIONS, "--gpu-architecture=sm_90")
    code = nvrtc.compile_text(kernels.text_of("STEP_KERNELS(adam_outside)"), options, "CUBIN")
    assert code.startswith(b"\x7fELF")
    assert b"step_adam_outside_float32" in code


def test_the_text_is_whole():
    """No include is left: a hash of the text covers every header."""
    text = kernels.source()
    assert "#include" not in text
    folder = Path(ss.__file__).parent / "csrc"
    headers = [*(folder / "contract").iterdir(), *(folder / "gpu").iterdir()]
    unused = {"sampling.h"}  # rows are drawn in main memory
    for header in headers:
        assert text.count(header.read_text(encoding="utf-8").splitlines()[0]) == (
            header.name not in unused
        ), header.name
