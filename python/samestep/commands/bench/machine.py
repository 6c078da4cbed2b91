"""What a table's figures come from: the processor and the versions, in words and for JSON."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from ...backends import cpu

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
PEERS = ("numpy", "torch", "scikit-learn", "jax", "optax", "numba")


def about(threads: int) -> dict[str, Any]:
    """The machine, the number of threads, the versions and the date."""
    info = cpu.info()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": _caches(),
        "isa": info["isa"],
        "threads": threads,
        "pool": info["pool"],
        "python": platform.python_version(),
        "samestep": info["version"],
        "commit": _commit(),
        "versions": {name: version for name in PEERS if (version := _version(name))},
    }


def in_words(about: dict[str, Any]) -> str:
    """A paragraph above a table."""
    caches = ", ".join(f"{name} {size}" for name, size in about["caches"].items()) or "caches unknown"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    commit = f" at commit {about['commit']}" if about["commit"] else ""
    return (
        f"{about['date']}: {about['processor']}, {about['processors']} processors, {about['isa']}, {caches}; "
        f"{about['threads']} threads, pool: {about['pool']}; samestep {about['samestep']}{commit}, Python "
        f"{about['python']}, {versions}."
    )


def _processor() -> str:
    """The name that the kernel gives it; on ARM there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    """Of the first processor, by level: L1d, L2, L3."""
    found = {}
    for index in sorted(CACHES.glob("index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if kind != "Instruction" and size:
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size.replace("K", " KiB")
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _commit() -> str | None:
    """Of the checkout that the package is imported from, with a + where it has been changed."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
