"""Compiles the core for Windows and macOS, links the program of the golden digests, and runs it where it can.

    python tools/other_systems.py [--only WORD] [--compile] [--jobs N]

The compiler is zig's clang, which has the headers and libraries of both systems. Windows on x86_64 runs under
wine, on every instruction set of this machine; nothing here runs the others. What is missing here is SKIPPED
by name, and fails nothing. ``--compile`` stops before linking, and so needs no C++ library of the system,
which zig builds once, in minutes. Everything lies in build/other-systems.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import wheels
from wheels import ROOT, environment_of, run

BUILD = ROOT / "build" / "other-systems"
GOLDEN = ROOT / "python" / "samestep" / "proof" / "golden.json"
WINES = ("wine64", "/usr/lib/wine/wine64", "wine")  # Debian puts the second one off the PATH
SECONDS = 1200  # for all digests, under wine on a busy machine


@dataclass(frozen=True)
class System:
    name: str  # CMake's
    processor: str
    target: str  # in zig's words


SYSTEMS = (
    System("Windows", "x86_64", "x86_64-windows-gnu"),
    System("Windows", "aarch64", "aarch64-windows-gnu"),
    System("Darwin", "aarch64", "aarch64-macos"),
    System("Darwin", "x86_64", "x86_64-macos"),
)


@dataclass
class Row:
    """What came of a system: a word, or why not. Only what begins with "failed" fails."""

    compiled: str = "-"
    linked: str = "-"
    where: str = "nowhere"
    digests: str = "-"
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return any(word.startswith("failed") for word in (self.compiled, self.linked, self.digests))


def configure(bin_: Path, zig: Path, system: System, links: bool) -> Path:
    cmake = BUILD / system.target / ("linked" if links else "compiled")
    cmake.mkdir(parents=True, exist_ok=True)
    defines = {
        "CMAKE_MAKE_PROGRAM": str(bin_ / "ninja"),
        "CMAKE_SYSTEM_NAME": system.name,
        "CMAKE_SYSTEM_PROCESSOR": system.processor,
        "CMAKE_TRY_COMPILE_TARGET_TYPE": "EXECUTABLE" if links else "STATIC_LIBRARY",
        "SAMESTEP_NATIVE": "ON",
        "SAMESTEP_WERROR": "ON",
    }
    for name, command in (
        # With -c zig links nothing, not even for CMake, which would have it build the C++ library.
        ("CMAKE_CXX_COMPILER", f"c++ -target {system.target}{'' if links else ' -c'}"),
        ("CMAKE_AR", "ar"),
        ("CMAKE_RANLIB", "ranlib"),
    ):
        script = cmake / name.lower()
        script.write_text(f'#!/bin/sh\nexec "{zig}" {command} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
        defines[name] = str(script)
    options = [f"-D{name}={value}" for name, value in defines.items()]
    run(bin_ / "cmake", "-G", "Ninja", "-S", ROOT, "-B", cmake, *options)
    return cmake


def wine() -> list[str] | None:
    """The command that runs a program of Windows; None: there is none."""
    found = next(filter(None, map(shutil.which, WINES)), None)
    return None if found is None else [found]


def run_golden(command: list[str], expected_isas: list[str]) -> tuple[str, str]:
    """Where it ran, and how many digests are right."""
    # A folder of its own for what wine keeps, and none of its own messages.
    environment = os.environ | {"WINEDEBUG": "-all", "WINEPREFIX": str(BUILD / "wine")}
    try:
        done = subprocess.run(
            [*command, "--threads", "2"],
            env=environment, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "wine", f"failed: no end after {SECONDS} s"
    digests = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if " " in line)
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["digests"]
    right = sum(digests.get(name) == digest for name, digest in golden.items())
    told = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
    isas = told.partition(" on ")[2].partition(",")[0].split()
    count = f"{right} of {len(golden)}"
    if done.returncode != 0 or right != len(golden):
        return "wine", f"failed: {count}, exit code {done.returncode}, {told}"
    if isas != expected_isas:
        return "wine", f"failed: {count}, but on {isas}, expected {expected_isas}"
    return f"wine: {', '.join(isas)}", count


def isas_here() -> list[str]:
    """The instruction sets of this machine, best first, which wine hides from no program."""
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags", 1)[1].split("\n")[0].split())
    needs = {"avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"}, "avx2": {"avx2", "fma"}}
    return [isa for isa, need in needs.items() if need <= flags] + ["baseline"]


def cpu_seconds() -> float:
    """Of all programs that were run so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def prove(bin_: Path, zig: Path, system: System, links: bool, jobs: int) -> Row:
    row, began = Row(), cpu_seconds()
    try:
        cmake = configure(bin_, zig, system, links)
        run(bin_ / "ninja", "-C", cmake, f"-j{jobs}", "samestep_core")
        row.compiled = "yes"
        if links:
            run(bin_ / "ninja", "-C", cmake, f"-j{jobs}", "golden")
            row.linked = "yes"
    except SystemExit as error:
        print(error)
        row.linked = "failed" if row.compiled == "yes" else row.linked
        row.compiled = row.compiled if row.compiled == "yes" else "failed"
    can_run = row.linked == "yes" and system.target == "x86_64-windows-gnu"
    if can_run and platform.machine() == "x86_64":
        command = wine()
        if command is None:
            print("SKIPPED: wine is not installed, and so golden.exe did not run (Debian: wine64)")
        else:
            row.where, row.digests = run_golden([*command, str(cmake / "golden.exe")], isas_here())
    row.seconds = cpu_seconds() - began
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a word of a target's name, such as windows")
    parser.add_argument("--compile", action="store_true", help="compile the core; link and run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    arguments = parser.parse_args()

    BUILD.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(wheels.BUILD / "zig"))
    try:
        bin_ = environment_of(sys.executable, wheels.BUILD / "tools", "wheel-requirements.txt")
    except SystemExit as error:
        print(f"{error}\nSKIPPED: zig could not be installed, and so nothing was compiled for other systems")
        return
    zig = Path(run(bin_ / "python", "-c", "import ziglang; print(*ziglang.__path__)").strip()) / "zig"
    named = [system for system in SYSTEMS if arguments.only in system.target]
    if not named:
        sys.exit(f"--only: got {arguments.only}, expected a word of {[s.target for s in SYSTEMS]}")
    rows = {s: prove(bin_, zig, s, not arguments.compile, arguments.jobs) for s in named}
    print("| system | processor | compiled | linked | run where | golden digests | CPU s |")
    print("|---|---|---|---|---|---|---:|")
    for system, row in rows.items():
        words = (system.name, system.processor, row.compiled, row.linked, row.where, row.digests)
        print(f"| {' | '.join(words)} | {row.seconds:.0f} |")
    failed = sum(row.failed for row in rows.values())
    print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    main()
