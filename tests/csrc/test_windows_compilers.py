"""What CMake makes of the compilers for Windows. clang-cl is clang by that name; the kernels need no
header of Microsoft's.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
CLANG = shutil.which("clang-14")
PROCESSORS = {"x86_64": ["baseline", "avx2", "avx512"], "aarch64": ["baseline"]}


def configured(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [CMAKE, "-S", ROOT, "-B", folder, "-G", "Unix Makefiles", *options]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)


def kernels_by_clang_cl(folder: Path, processor: str) -> dict[str, list[str]]:
    """The command that compiles isa.cpp, by instruction set."""
    if CLANG is None:
        pytest.skip("not installed: clang-14")
    (folder / "clang-cl").symlink_to(CLANG)
    done = configured(
        folder / "build",
        *("-DCMAKE_SYSTEM_NAME=Windows", f"-DCMAKE_CXX_COMPILER={folder / 'clang-cl'}"),
        *(f"-DCMAKE_CXX_COMPILER_TARGET={processor}-pc-windows-msvc", "-DCMAKE_CXX_COMPILER_FORCED=ON"),
        *(
            "-DCMAKE_AR=/bin/true",
            "-DCMAKE_LINKER=/bin/true",
            "-DCMAKE_MT=/bin/true",
        ),  # only sources are compiled
        f"-DSAMESTEP_IS_X86_64={processor == 'x86_64'}",  # which CMake would ask of a linked program
        *("-DSAMESTEP_WERROR=ON", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"),
    )
    assert done.returncode == 0, done.stderr
    entries = json.loads((folder / "build" / "compile_commands.json").read_text(encoding="utf-8"))
    commands = [shlex.split(e["command"]) for e in entries if e["file"].endswith("isa.cpp")]
    # Freestanding, or clang's immintrin.h would want Microsoft's stdlib.h.
    isas = [next(word for word in c if "SAMESTEP_ISA=" in word).partition("=")[2] for c in commands]
    return {isa: [c[0], "/clang:-ffreestanding", *c[1:]] for isa, c in zip(isas, commands, strict=True)}


def test_microsoft_s_compiler_is_refused(tmp_path):
    done = configured(
        tmp_path,
        *("-DCMAKE_CXX_COMPILER=g++", "-DCMAKE_CXX_COMPILER_FORCED=ON"),
        *("-DCMAKE_CXX_COMPILER_ID=MSVC", "-DCMAKE_CXX_COMPILER_ID_RUN=ON"),
    )
    assert done.returncode
    assert "expected clang-cl" in " ".join(done.stderr.split())
    assert "cmake -T ClangCL" in " ".join(done.stderr.split())


@pytest.mark.parametrize("processor", PROCESSORS)
def test_clang_cl_has_the_flags_of_the_contract(tmp_path, processor):
    commands = kernels_by_clang_cl(tmp_path, processor)
    assert sorted(commands) == sorted(PROCESSORS[processor])
    vectors = {"baseline": "", "avx2": "+fma", "avx512": "+avx512bw"}
    for isa, command in commands.items():
        done = subprocess.run(
            [command[0], "-###", *command[1:]],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        told = done.stderr.replace('"', "")
        assert done.returncode == 0, told
        assert "warning:" not in told
        assert "-ffp-contract=off" in told
        assert "-ffp-exception-behavior=ignore" in told
        assert vectors[isa] in told
        for unwanted in ("-fmath-errno", "-menable-no-infs", "-mreassociate", "-freciprocal-math", "fast"):
            assert unwanted not in told


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_clang_cl_compiles_the_kernels(tmp_path, processor):
    for isa, command in kernels_by_clang_cl(tmp_path, processor).items():
        output = f"/Fo{tmp_path / isa}.obj"
        command = [output if word.startswith("/Fo") else word for word in command]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / f"{isa}.obj").stat().st_size > 100_000
