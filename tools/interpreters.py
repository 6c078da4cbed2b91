"""Builds the CPythons that no package has, from Debian's sources, into build/pythons/NAME.

    python tools/interpreters.py [NAME ...] [--jobs N]

3.13t is the free-threaded one, without a global interpreter lock, on which `make test-free-threaded` runs the
tests. The archive is the one that apt has on this machine, in the suite that has the source; apt checks its
signature. It takes a compiler and the -dev packages of the modules that are named below.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "pythons"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# What pip and the tests import, and the Debian package without which CPython leaves it out.
MODULES = {
    "ssl": "libssl-dev",
    "zlib": "zlib1g-dev",
    "ctypes": "libffi-dev",
    "bz2": "libbz2-dev",
    "lzma": "liblzma-dev",
}


@dataclass(frozen=True)
class Interpreter:
    name: str
    package: str  # Debian's source package
    suite: str
    options: tuple[str, ...]  # of configure


INTERPRETERS = (Interpreter("3.13t", "python3.13", "trixie", ("--disable-gil",)),)


def run(*command: str | Path, cwd: Path = ROOT, failed: str = "") -> str:
    """The standard output; of a command that fails, all output, the reason, and the end of this program."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode != 0:
        why = failed or f"failed: {' '.join(map(str, command))}"
        sys.exit(f"{done.stdout[-4000:]}{done.stderr[-4000:]}\n{why}")
    return done.stdout


def archive() -> str:
    """The URI of Debian's archive as apt knows it here."""
    none = "interpreters: no Debian archive is among apt's sources here, and CPython's source comes from one"
    if shutil.which("apt-get") is None:
        sys.exit(f"{none}: apt-get is missing")
    told = run(
        "apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages", failed=none
    )
    for line in told.splitlines():
        label, _, uri = line.rpartition(" ")
        if label == "Debian":
            return uri
    sys.exit(f"{none}; `apt-get update` may be due")


def source_of(interpreter: Interpreter) -> Path:
    """The unpacked source, fetched by an apt that has this one archive and folders of its own."""
    folder = BUILD / interpreter.package
    unpacked = folder / "source"
    if unpacked.exists():
        return unpacked
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lists" / "partial").mkdir(parents=True)
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    sources = folder / "sources.list"
    sources.write_text(f"deb-src {signed}{archive()} {interpreter.suite} main\n", encoding="utf-8")
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",  # its own user may not write here
    }
    apt = ["apt-get", *(f"-o{name}={value}" for name, value in settings.items())]
    missing = (
        f"interpreters: Debian's source package {interpreter.package}, of {interpreter.suite}, cannot be had "
        f"from this machine, and so {interpreter.name} is not built"
    )
    run(*apt, "update", "--error-on=any", failed=missing)
    run(*apt, "source", "--download-only", interpreter.package, cwd=folder, failed=missing)
    [tarball] = folder.glob("*.orig.tar.*[!c]")  # beside it lies .asc, its author's signature
    shutil.unpack_archive(tarball, folder / "unpacked", filter="tar")
    [inner] = (folder / "unpacked").iterdir()
    return inner.rename(unpacked)


def build(interpreter: Interpreter, jobs: int) -> Path:
    """The path of the interpreter, which is built unless it is there."""
    prefix = BUILD / interpreter.name
    python = prefix / "bin" / f"python{interpreter.name}"
    if python.exists():
        return python
    work = BUILD / f"{interpreter.name}-build"
    shutil.rmtree(work, ignore_errors=True)
    source = source_of(interpreter)
    work.mkdir()
    run(
        source / "configure", f"--prefix={prefix}", *interpreter.options, "--disable-test-modules",
        "--with-ensurepip=install", cwd=work,
    )  # fmt: skip
    run("make", f"-j{jobs}", cwd=work)
    for module, package in MODULES.items():
        missing = (
            f"interpreters: {interpreter.name} came out without {module}; install {package}, then try again"
        )
        run(work / "python", "-c", f"import {module}", cwd=work, failed=missing)
    run("make", "install", cwd=work)
    shutil.rmtree(work)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds CPythons from Debian's sources into build/pythons.")
    names = [interpreter.name for interpreter in INTERPRETERS]
    parser.add_argument("names", nargs="*", choices=[*names, []], metavar="NAME", help=", ".join(names))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    arguments = parser.parse_args()
    for interpreter in INTERPRETERS:
        if interpreter.name in (arguments.names or names):
            print(build(interpreter, arguments.jobs), flush=True)


if __name__ == "__main__":
    main()
