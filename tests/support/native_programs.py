"""Compiles the core and its Python-free programs."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build_native(name: str, *options: str, target: str = "all") -> Path:
    """Builds the core and its Python-free programs in build/<name>; returns that folder."""
    if not os.access(ROOT, os.W_OK):
        pytest.skip(f"{ROOT} cannot be written, and the native programs are built in its folder build")
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert cmake, "cmake comes with the test extra"
    build = ROOT / "build" / name
    build.mkdir(parents=True, exist_ok=True)
    configure = [cmake, "-S", ROOT, "-B", build, "-DSAMESTEP_NATIVE=ON", "-DSAMESTEP_WERROR=ON", *options]
    with (build / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        for command in (configure, [cmake, "--build", build, "-j", "2", "--target", target]):
            done = subprocess.run(command, capture_output=True, encoding="utf-8")
            assert done.returncode == 0, done.stdout + done.stderr
    return build
