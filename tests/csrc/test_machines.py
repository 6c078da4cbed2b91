"""The Python-free program built by other compilers, with other flags, for other processors: the digests
of this one file, python/samestep/proof/golden.json, each time. What is not installed is skipped by name.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import samestep as ss
from native_programs import build_native
from samestep.proof import golden

pytestmark = pytest.mark.slow

ISAS_HERE = f"-DSAMESTEP_ISAS={';'.join(ss.info()['isas'])}"  # the others would only be compiled
X86 = platform.machine() == "x86_64"
QEMU_AARCH64 = ("qemu-aarch64", "-cpu", "max,sve512=on")
# The fuzzer's library is a package of its own (Debian: libclang-rt-14-dev), with those of the sanitizers.
SANITIZED = (
    "-DSAMESTEP_FUZZ=ON",
    ISAS_HERE,
    "-DCMAKE_CXX_COMPILER=clang++-14",
    "-DCMAKE_CXX_FLAGS=-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined",
    "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -g1",
)

# name: what must be installed, options for CMake, how to run the program
MACHINES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "gcc": (("g++",), ("-DCMAKE_CXX_COMPILER=g++",), ()),
    "gcc -O0": (("g++",), ("-DCMAKE_CXX_COMPILER=g++", "-DCMAKE_CXX_FLAGS_RELEASE=-O0", ISAS_HERE), ()),
    "clang": (("clang++-14",), ("-DCMAKE_CXX_COMPILER=clang++-14",), ()),
    "threads": (
        ("g++",),
        (
            "-DCMAKE_CXX_COMPILER=g++",
            "-DSAMESTEP_ISAS=baseline",  # the baseline alone: threads meet in csrc/run, whatever the vectors
            "-DCMAKE_CXX_FLAGS=-fsanitize=thread",
            "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -g1",
        ),
        (),
    ),
    "valgrind": (("g++", "valgrind"), (), ("valgrind", "-q", "--error-exitcode=9")),
    "x86-64 of 2008": (("g++", "qemu-x86_64"), (), ("qemu-x86_64", "-cpu", "Nehalem")),
    "aarch64": (
        ("aarch64-linux-gnu-g++", "qemu-aarch64"),
        (
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
            "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
            "-DCMAKE_EXE_LINKER_FLAGS=-static",
        ),
        QEMU_AARCH64,
    ),
    "aarch64 with 512-bit SVE": (
        ("aarch64-linux-gnu-g++", "qemu-aarch64"),
        (
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
            "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
            "-DCMAKE_CXX_FLAGS=-march=armv8.2-a+sve",
            "-DCMAKE_EXE_LINKER_FLAGS=-static",
        ),
        QEMU_AARCH64,
    ),
    "riscv64": (
        ("riscv64-linux-gnu-g++", "qemu-riscv64"),
        (
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=riscv64",
            "-DCMAKE_CXX_COMPILER=riscv64-linux-gnu-g++",
            "-DCMAKE_EXE_LINKER_FLAGS=-static",
        ),
        ("qemu-riscv64",),
    ),
    # Last, beside the fuzzer, which is of the same build.
    "sanitizers": (("clang++-14",), SANITIZED, ()),
}
X86_ONLY = {"x86-64 of 2008", "valgrind"}


@pytest.mark.parametrize("isas", ["avx2", "baseline;neon"])
def test_tables_that_a_build_cannot_have_are_refused(tmp_path, isas):
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert cmake, "cmake comes with the test extra"
    command = [cmake, "-S", Path(__file__).parents[2], "-B", tmp_path, f"-DSAMESTEP_ISAS={isas}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode != 0
    assert f"SAMESTEP_ISAS is {isas}, expected baseline and others of" in " ".join(done.stderr.split())


def clang_has_fuzzer() -> bool:
    if shutil.which("clang++-14") is None:
        return False
    source = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
    command = ["clang++-14", "-fsanitize=fuzzer", "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input=source, encoding="utf-8", capture_output=True).returncode == 0


@pytest.mark.parametrize("machine", MACHINES)
def test_golden_digests(machine, record_property):
    needs, options, runner = MACHINES[machine]
    missing = [tool for tool in needs if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if machine in X86_ONLY and not X86:
        pytest.skip("for x86-64 alone")
    if options == SANITIZED and not clang_has_fuzzer():
        pytest.skip("not installed: clang++-14 with sanitizers and libFuzzer")
    folder = "native" if not options else "native-" + machine.replace(" ", "-")
    build = build_native(folder, *options, target="golden")
    # One thread count where it is slow: with instruments, and in emulators.
    few = [] if machine in ("gcc", "clang") else ["--threads", "2"]
    done = subprocess.run(
        [*runner, build / "golden", *few], capture_output=True, encoding="utf-8", timeout=600
    )
    assert done.returncode == 0, done.stderr
    digests = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    found = {name: digests.get(name) for name in golden.DIGESTS}
    assert found == golden.DIGESTS
    of_all = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
    counts = done.stderr.splitlines()[-1]
    record_property("shown", f"{machine}: {len(found)} digests, of all {of_all}; {counts}")


def test_fuzzed_inputs_agree_on_every_instruction_set(record_property):
    """SAMESTEP_FUZZ_SECONDS: how long; CI gives it a minute."""
    if not clang_has_fuzzer():
        pytest.skip("not installed: clang++-14 with libFuzzer")
    build = build_native("native-sanitizers", *SANITIZED, target="fuzz")
    seconds = os.environ.get("SAMESTEP_FUZZ_SECONDS", "5")
    # No limit on memory: the peak that the fuzzer reads is that of the process that started it.
    options = ["-rss_limit_mb=0", "-max_len=4096", "-seed=1", "-print_final_stats=1"]
    command = [build / "fuzz", f"-max_total_time={seconds}", *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=build)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = int(done.stderr.split("stat::number_of_executed_units:")[1].split()[0])
    record_property("shown", f"libFuzzer: {runs} inputs in {seconds} s, every instruction set agrees")
    assert runs > 100


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="not installed: qemu-x86_64")
@pytest.mark.skipif(not X86, reason="for x86-64 alone")
def test_python_suite_on_a_processor_of_2008(record_property):
    """No AVX there: an instruction that leaks into the baseline stops the program."""
    tests = Path(__file__).parents[1]
    command = [
        "qemu-x86_64",
        "-cpu",
        "Nehalem",
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    # These are slow in the emulator; the golden program has run there with two threads.
    slow = "million", "products", "every_size", "every_thread_count", "2threads", "3threads"
    quick = " and ".join(f"not {word}" for word in slow)
    subset = [f"{tests}/backends/test_rules.py", f"{tests}/optim/test_optimizer.py", "-k", quick]
    # The environment may say which processor OpenBLAS is to take this one for; the emulated one has less.
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run(
        [*command, *subset], capture_output=True, encoding="utf-8", timeout=900, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    record_property("shown", f"x86-64 of 2008, from Python: {done.stdout.splitlines()[-1]}")
