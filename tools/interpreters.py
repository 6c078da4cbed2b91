"""The CPythons that this machine lacks, into build/pythons: built from Debian's sources, or Debian's own.

    python tools/interpreters.py [NAME ...] [--jobs N]

3.13t and 3.14t are free-threaded, without a global interpreter lock, for `make test-free-threaded`.
3.13-musl is linked with musl, as on Alpine. 3.14 is Debian's of its newest suite, in a root folder.
It takes patchelf and a compiler; for 3.13t and 3.14t also the packages that are named below, for 3.13-musl
musl-tools.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import debian
from debian import MissingError

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "pythons"
# What pip and the tests import, and the Debian package without which CPython leaves it out.
MODULES = {
    "ssl": "libssl-dev",
    "zlib": "zlib1g-dev",
    "ctypes": "libffi-dev",
    "bz2": "libbz2-dev",
    "lzma": "liblzma-dev",
}


def run(*command: str | Path, cwd: Path = ROOT, failed: str = "", **environment: str) -> None:
    """A command that fails is a MissingError with that reason, after all that it said."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
        raise MissingError(failed or f"failed: {' '.join(map(str, command))}")


def source_of(package: str, suite: str) -> Path:
    """The unpacked source of a package."""
    folder = BUILD / package
    if not folder.exists():
        files = debian.fetch(BUILD / f"{package}-files", suite, "amd64", "source", package)
        [tarball] = files.glob("*.orig.tar.*[!c]")  # beside it lies .asc, its author's signature
        shutil.unpack_archive(tarball, files / "unpacked", filter="tar")
        [inner] = (files / "unpacked").iterdir()
        inner.rename(folder)
    return folder


@dataclass(frozen=True)
class FromSource:
    """A CPython that is built here."""

    package: str
    suite: str
    python: str  # the file in bin/
    options: tuple[str, ...]  # of configure
    modules: tuple[str, ...] = ()
    musl: bool = False

    def make(self, prefix: Path, jobs: int) -> None:
        work = prefix.with_name(f"{prefix.name}-build")
        shutil.rmtree(work, ignore_errors=True)
        source = source_of(self.package, self.suite)
        work.mkdir()
        environment = {}
        if self.musl:
            if shutil.which("musl-gcc") is None:
                raise MissingError("musl-gcc is not installed; Debian's package musl-tools has it")
            compiler = work / "cc"  # musl-gcc answers this question with the name of glibc
            compiler.write_text(
                '#!/bin/sh\n[ "$*" = --print-multiarch ] && exec echo x86_64-linux-musl\n'
                'exec musl-gcc "$@"\n',
                encoding="utf-8",
            )
            compiler.chmod(0o755)
            # The package is for glibc. This suite's has a + in its version, which not every mirror serves.
            zlib = shutil.copytree(source_of("zlib", "bookworm"), work / "zlib")
            run("./configure", "--static", f"--prefix={zlib}", cwd=zlib, CC=str(compiler), CFLAGS="-O2 -fPIC")
            run("make", "install", cwd=zlib)
            environment = {
                "CC": str(compiler),
                "CPPFLAGS": f"-I{zlib}/include",
                "LDFLAGS": f"-L{zlib}/lib",
                "PKG_CONFIG": "false",  # it tells of libraries for glibc
            }
        options = (f"--prefix={prefix}", "--disable-test-modules", *self.options)
        run(source / "configure", *options, cwd=work, **environment)
        run("make", f"-j{jobs}", cwd=work)
        for module in self.modules:
            why = f"{prefix.name} came out without {module}; install {MODULES[module]}, then build again"
            run(work / "python", "-c", f"import {module}", cwd=work, failed=why)
        run("make", "install", cwd=work)
        shutil.rmtree(work)
        if self.musl:  # NumPy's wheels want a newer one than many a machine's
            root = debian.root_folder(prefix.with_name("musl-root"), self.suite, "amd64", ("musl",))
            patch(prefix / "bin" / self.python, root / "usr/lib/x86_64-linux-musl/libc.so")


@dataclass(frozen=True)
class FromPackages:
    """Debian's CPython of another suite, with its C library, so that it runs beside this machine's."""

    suite: str
    python: str

    def make(self, prefix: Path, jobs: int) -> None:
        version = self.python.removeprefix("python")
        packages = (*packages_of(version), f"libpython{version}-dev", "libssl3t64", "libbz2-1.0", "liblzma5")
        root = debian.root_folder(prefix.with_name(f"{prefix.name}-root"), self.suite, "amd64", packages)
        [loader] = root.glob("usr/lib64/ld-linux-*")
        libraries = root / "usr/lib/x86_64-linux-gnu"
        patch(root / "usr/bin" / self.python, loader, "--force-rpath", "--set-rpath", libraries)
        prefix.symlink_to(root / "usr")


def patch(python: Path, loader: Path, *more: str | Path) -> None:
    """Has the interpreter start with the C library of a root folder."""
    run("patchelf", "--set-interpreter", loader, *more, python)


def packages_of(version: str) -> tuple[str, ...]:
    """Debian's packages of a CPython that imports NumPy and samestep."""
    own = ("python{}-minimal", "libpython{}-minimal", "libpython{}-stdlib")
    below = ("libc6", "libgcc-s1", "libstdc++6", "libexpat1", "zlib1g", "libffi8", "libzstd1", "libuuid1")
    return *(name.format(version) for name in own), *below


MAKERS = {
    "3.13t": FromSource(
        "python3.13", "trixie", "python3.13t", ("--disable-gil", "--with-ensurepip=install"), tuple(MODULES)
    ),
    "3.14t": FromSource(
        "python3.14", "sid", "python3.14t", ("--disable-gil", "--with-ensurepip=install"), tuple(MODULES)
    ),
    "3.13-musl": FromSource(
        "python3.13", "trixie", "python3.13", ("--without-ensurepip",), ("zlib",), musl=True
    ),
    "3.14": FromPackages("sid", "python3.14"),
}


def find(name: str, jobs: int = 0) -> Path:
    """The path of the interpreter, which is made unless it is there; MissingError if it cannot be."""
    prefix = BUILD / name
    python = prefix / "bin" / MAKERS[name].python
    if not python.exists():
        if shutil.which("patchelf") is None:
            raise MissingError("patchelf is not installed; Debian's package of that name has it")
        BUILD.mkdir(parents=True, exist_ok=True)
        MAKERS[name].make(prefix, jobs or os.cpu_count() or 1)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes CPythons in build/pythons, of Debian's.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MAKERS)}; all by default")
    parser.add_argument("--jobs", type=int, default=0, help="compilers at a time")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - MAKERS.keys():
        parser.error(f"NAME: got {', '.join(sorted(unknown))}, expected some of {', '.join(MAKERS)}")
    for name in arguments.names or MAKERS:
        try:
            print(find(name, arguments.jobs), flush=True)
        except MissingError as missing:
            sys.exit(f"{name}: {missing}")


if __name__ == "__main__":
    main()
