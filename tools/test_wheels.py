"""Installs each wheel of build/wheels/dist where there is no compiler, and has it print the certificate.

    python tools/test_wheels.py [--only WORD]

A wheel for this machine goes into a new virtual environment. One for aarch64 with glibc goes to a CPython of
Debian under qemu, one for musl to a CPython that was built for it here. Where none can be had, the program of
the golden digests runs in its place: the same libsamestep_core.a, all digests. The table says which it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import debian
import interpreters
from debian import MissingError
from wheels import BUILD, DIST, PLATFORMS, ROOT, Platform, pip, run

NATIVE = {"avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"}, "avx2": {"avx2", "fma"}}


@dataclass(frozen=True)
class Proof:
    where: str
    shown: str  # the certificate, or what stands for it
    seconds: float  # of the installation and `samestep verify`, or of the core's digests
    good: bool


def certificate_of(python: list[str | Path], environment: dict[str, str]) -> str:
    """What `samestep verify` prints."""
    said = run(*python, "-m", "samestep", "verify", **environment)
    found = re.search(r"sha256 ([0-9a-f]{64}).*all bits as promised", said)
    return found[1] if found else said.splitlines()[-1]


def isas_of(python: list[str | Path], environment: dict[str, str]) -> list[str]:
    """The instruction sets that `samestep info` names."""
    isas: list[str] = json.loads(run(*python, "-m", "samestep", "info", "--json", **environment))["isas"]
    return isas


def in_a_venv(wheel: Path, python: str, promised: str) -> Proof:
    """In a bare virtual environment whose PATH has nothing but itself."""
    folder, base = BUILD / "bare", BUILD / "python" / python / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    install = pip(folder / "bin" / "python")
    if python.endswith("t"):  # of whose tag the pip that runs this may not know
        run(base, "-m", "venv", folder)
        install = (folder / "bin" / "python", "-m", "pip", "install", "--quiet")
    else:
        run(base, "-m", "venv", "--without-pip", folder)
    began = time.monotonic()
    alone = {"PATH": str(folder / "bin"), "PYTHONPATH": ""}
    run(*install, "--only-binary", ":all:", wheel, **alone)
    shown = certificate_of([folder / "bin" / "python"], alone)
    seconds = time.monotonic() - began
    isas = isas_of([folder / "bin" / "python"], alone)
    expected = ["baseline"]
    if platform.machine() == "x86_64":
        flags = set(
            Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags", 1)[1].split("\n")[0].split()
        )
        expected = [isa for isa, needs in NATIVE.items() if needs <= flags] + expected
    where = f"a virtual environment without a compiler: {', '.join(isas)}"
    return Proof(where, shown, seconds, shown == promised and isas == expected)


@dataclass(frozen=True)
class Elsewhere:
    """A CPython of another platform: Debian's of a suite for aarch64, under qemu; without a suite, musl's."""

    version: str
    suite: str | None = None

    def command(self) -> list[str | Path]:
        """How it is called; MissingError, with the reason, where it cannot be had."""
        if self.suite is None:
            return [interpreters.find(f"{self.version}-musl")]
        if shutil.which("qemu-aarch64") is None:
            raise MissingError("qemu-aarch64 is not installed")
        packages = interpreters.packages_of(self.version)
        root = debian.root_folder(BUILD / f"{self.suite}-arm64", self.suite, "arm64", packages)
        return ["qemu-aarch64", "-L", root, root / f"usr/bin/python{self.version}"]

    def __str__(self) -> str:
        return (
            f"CPython {self.version} for musl, built from Debian's source"
            if self.suite is None
            else f"Debian's CPython {self.version} for aarch64 under qemu"
        )


# By platform and tag of a wheel.
ELSEWHERE = {
    ("manylinux_2_17_aarch64", "cp311"): Elsewhere("3.11", "bookworm"),
    ("manylinux_2_17_aarch64", "cp314"): Elsewhere("3.14", "sid"),
    ("musllinux_1_2_x86_64", "cp313"): Elsewhere("3.13"),
}


def elsewhere(wheel: Path, target: Platform, python: Elsewhere, promised: str) -> Proof:
    """With NumPy's own wheel for that platform."""
    command = python.command()
    site = BUILD / f"site-{target.tag}"
    shutil.rmtree(site, ignore_errors=True)
    began = time.monotonic()
    oldest = (
        ("musllinux_1_2",) if target.libc == "musl" else ("manylinux2014", "manylinux_2_27", "manylinux_2_28")
    )
    platforms = [word for libc in oldest for word in ("--platform", f"{libc}_{target.machine}")]
    only = ("--only-binary", ":all:", "--python-version", python.version, *platforms)
    # This pip would write bytecode of its own CPython. The one that runs writes what it imports.
    run(*pip(Path(sys.executable)), *only, "--no-compile", "--target", site, wheel)
    alone = {"PYTHONPATH": str(site), "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": ""}
    shown = certificate_of(command, alone)
    seconds = time.monotonic() - began
    isas = isas_of(command, alone)
    return Proof(f"{python}: {', '.join(isas)}", shown, seconds, shown == promised)


def core_alone(target: Platform) -> Proof:
    """The golden digests by the platform's core, without Python."""
    under: list[str | Path] = []
    if target.machine != platform.machine():
        try:  # with glibc in a root folder; what is linked with musl is whole
            under = ELSEWHERE["manylinux_2_17_aarch64", "cp311"].command()[:-1]
        except MissingError as missing:
            return Proof(f"nowhere: {missing}", "", 0.0, False)
    command = [*under, BUILD / target.tag / "core" / "golden", "--threads", "2"]
    began = time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", check=False)
    digests = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    golden = json.loads((ROOT / "python/samestep/proof/golden.json").read_text(encoding="utf-8"))["digests"]
    right = sum(digests.get(name) == digest for name, digest in golden.items())
    where = f"its core alone{', under qemu' if under else ''}"
    good = done.returncode == 0 and right == len(golden)
    return Proof(where, f"{right} of {len(golden)} golden digests", time.monotonic() - began, good)


def prove(wheel: Path, promised: str, cores: dict[str, Proof]) -> Proof:
    """By the wheel itself where a CPython for it can be had; cores: what was proved, by platform."""
    [target] = [one for one in PLATFORMS if one.tag in wheel.name]
    abi = wheel.name.split("-")[3]
    if target.libc == "gnu" and target.machine == platform.machine() and (BUILD / "python" / abi).exists():
        return in_a_venv(wheel, abi, promised)
    try:
        if python := ELSEWHERE.get((target.tag, abi)):
            return elsewhere(wheel, target, python, promised)
        reason = f"no CPython {abi[2:3]}.{abi[3:]} for {target.tag} is here"
    except MissingError as missing:
        reason = str(missing)
    if target.tag not in cores:
        cores[target.tag] = core_alone(target)
    proof = cores[target.tag]
    return replace(proof, where=f"{proof.where}, since {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Tests the wheels of build/wheels/dist.")
    parser.add_argument("--only", default="", metavar="WORD", help="wheels with this word in their names")
    only = parser.parse_args().only
    found = re.search(r"sha256 ([0-9a-f]{64})", (ROOT / "README.md").read_text(encoding="utf-8"))
    wheels = sorted(wheel for wheel in DIST.glob("*.whl") if only in wheel.name)
    if found is None or not wheels:
        sys.exit("nothing to test: make wheels builds them" if found else "README.md names no certificate")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    failed, cores = 0, dict[str, Proof]()
    print("| wheel | MiB | seconds | where run | certificate |\n|---|---|---|---|---|", flush=True)
    for wheel in wheels:
        proof = prove(wheel, found[1], cores)
        failed += not proof.good
        size = wheel.stat().st_size / 2**20
        shown = proof.shown if proof.good else f"FAILED: {proof.shown}"
        print(f"| {wheel.name} | {size:.2f} | {proof.seconds:.0f} | {proof.where} | {shown} |", flush=True)
    print(f"{len(wheels) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
