"""Installs each wheel of build/wheels/dist where there is no compiler, and has it print the certificate.

    python tools/test_wheels.py [--only WORD]

A wheel for this machine goes into a new virtual environment. One for aarch64 with glibc goes into a root
folder of Debian's packages, under qemu, where its CPython is Debian's. Where no CPython can be had, as for
musl, the program of the golden digests runs in its place: the same libsamestep_core.a, all digests. The table
says which it was.
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
from dataclasses import dataclass
from pathlib import Path

from wheels import BUILD, DIST, PLATFORMS, ROOT, Platform, run

ARM_ROOT = BUILD / "debian-arm64"
ARM_PACKAGES = [
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libc6", "libgcc-s1", "libstdc++6", "libexpat1", "zlib1g", "libffi8"),
]
NATIVE = {"avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"}, "avx2": {"avx2", "fma"}}


@dataclass(frozen=True)
class Proof:
    where: str
    shown: str  # the certificate, or what stands for it
    seconds: float
    good: bool


def certificate_of(python: list[str | Path], environment: dict[str, str]) -> tuple[str, list[str]]:
    """What `samestep verify` prints, and the instruction sets that `samestep info` names."""
    said = run(*python, "-m", "samestep", "verify", **environment)
    info = json.loads(run(*python, "-m", "samestep", "info", "--json", **environment))
    found = re.search(r"sha256 ([0-9a-f]{64}).*all bits as promised", said)
    return (found[1] if found else said.splitlines()[-1]), info["isas"]


def in_a_venv(wheel: Path, python: str, promised: str) -> Proof:
    """In a bare virtual environment whose PATH has nothing but itself."""
    folder = BUILD / "bare"
    shutil.rmtree(folder, ignore_errors=True)
    run(BUILD / "python" / python / "bin" / "python", "-m", "venv", folder)
    began = time.monotonic()
    alone = {"PATH": str(folder / "bin"), "PYTHONPATH": ""}
    pip = ("-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--only-binary", ":all:")
    run(folder / "bin" / "python", *pip, wheel, **alone)
    shown, isas = certificate_of([folder / "bin" / "python"], alone)
    seconds = time.monotonic() - began
    expected = ["baseline"]
    if platform.machine() == "x86_64":
        flags = set(
            Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags", 1)[1].split("\n")[0].split()
        )
        expected = [isa for isa, needs in NATIVE.items() if needs <= flags] + expected
    where = f"a virtual environment without a compiler: {', '.join(isas)}"
    return Proof(where, shown, seconds, shown == promised and isas == expected)


def arm_root() -> str | None:
    """Fills the root folder from Debian's packages; a reason where that cannot be done."""
    if (ARM_ROOT / "usr/bin/python3.11").exists():
        return None
    work = BUILD / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "debs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    # Folders of its own: the packages of this machine, and what it knows of processors, stay as they are.
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State::lists": str(work / "lists"),
        "Dir::State::status": "/dev/null",
        "Dir::Cache": str(work / "cache"),
    }
    apt = ["apt-get", "-qq", *(word for item in settings.items() for word in ("-o", "=".join(item)))]
    for command in ([*apt, "update"], [*apt, "download", *ARM_PACKAGES]):
        done = subprocess.run(command, cwd=work / "debs", capture_output=True, encoding="utf-8", check=False)
        if done.returncode != 0:
            return f"Debian's packages for arm64 cannot be had: {done.stderr.strip().splitlines()[-1]}"
    for package in (work / "debs").glob("*.deb"):
        run("dpkg", "-x", package, ARM_ROOT)
    return None


def under_qemu(wheel: Path, promised: str) -> Proof:
    """In Debian's CPython for aarch64, with NumPy's own wheel for it."""
    site = BUILD / "site-aarch64"
    shutil.rmtree(site, ignore_errors=True)
    began = time.monotonic()
    platforms = [
        word for glibc in ("2014", "_2_27", "_2_28") for word in ("--platform", f"manylinux{glibc}_aarch64")
    ]
    pip = ("-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--only-binary", ":all:")
    run(sys.executable, *pip, "--python-version", "3.11", *platforms, "--target", site, wheel)
    python: list[str | Path] = ["qemu-aarch64", "-L", ARM_ROOT, ARM_ROOT / "usr/bin/python3.11"]
    shown, isas = certificate_of(python, {"PYTHONPATH": str(site), "PYTHONNOUSERSITE": "1"})
    where = f"Debian's CPython 3.11 for aarch64 under qemu: {', '.join(isas)}"
    return Proof(where, shown, time.monotonic() - began, shown == promised)


def core_alone(target: Platform, reason: str) -> Proof:
    """The golden digests by the platform's core, without Python."""
    command: list[str | Path] = [BUILD / target.tag / "core" / "golden", "--threads", "2"]
    if target.machine != platform.machine():
        command = ["qemu-aarch64", "-L", ARM_ROOT, *command]
        if shutil.which("qemu-aarch64") is None:
            return Proof("nowhere: qemu-aarch64 is not installed", "", 0.0, False)
    began = time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", check=False)
    digests = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    golden = json.loads((ROOT / "python/samestep/proof/golden.json").read_text(encoding="utf-8"))["digests"]
    right = sum(digests.get(name) == digest for name, digest in golden.items())
    where = f"its core alone{', under qemu' if len(command) > 3 else ''}, since {reason}"
    good = done.returncode == 0 and right == len(golden)
    return Proof(where, f"{right} of {len(golden)} golden digests", time.monotonic() - began, good)


def prove(wheel: Path, promised: str, cores: dict[str, Proof]) -> Proof:
    """By the wheel itself where a CPython for it can be had; cores: what was proved, by platform."""
    [target] = [one for one in PLATFORMS if one.tag in wheel.name]
    python = wheel.name.split("-")[3]
    reason = f"no CPython {python[2:3]}.{python[3:]} for {target.tag} is here"
    if target.libc == "gnu" and target.machine == platform.machine():
        return in_a_venv(wheel, python, promised)
    if target.libc == "gnu" and target.machine == "aarch64" and shutil.which("qemu-aarch64"):
        missing = arm_root()
        if missing is None and python == "cp311":
            return under_qemu(wheel, promised)
        reason = missing or reason
    if target.tag not in cores:
        cores[target.tag] = core_alone(target, reason)
    proof = cores[target.tag]
    return Proof(
        proof.where.split(", since")[0] + f", since {reason}", proof.shown, proof.seconds, proof.good
    )


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
