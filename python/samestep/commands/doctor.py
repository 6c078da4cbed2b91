"""`samestep doctor`: what this machine will use and why. It changes nothing and times nothing."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import _core
from ..backends import cpu
from .output import print_json

GOOD, NOTE, WRONG = "good", "note", "wrong"
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# The versions that the tests run with; others may do as well, and nobody has looked.
TESTED = {
    "numpy": ("2.4", "2.5"),
    "torch": ("2.13",),
    "jax": ("0.10",),
    "mpi4py": ("4.1",),
    "ml_dtypes": ("0.6",),
}
UNTESTED = {
    "cupy": "the backend for GPUs has been tested without one so far",
}

# What torch brings into a process is seen in one that has imported it.
_WITH_TORCH = (
    "import samestep.torch, samestep as ss; from samestep.commands import doctor;"
    "print(ss.info()['pool'], *doctor.openmp_runtimes())"
)

REPORT = """\
To report a difference in bits:
  1. Run `samestep verify` on both machines. Certificates that differ are a bug of samestep: send both.
  2. Where they are equal, the difference came from elsewhere, such as NumPy's BLAS. Record both runs with
     `optimizer.record(PATH)`; `samestep diff A B` says at which step and array they part.
  3. Send `samestep doctor --json` of both machines with it."""


@dataclass(frozen=True)
class Finding:
    """One line of the answer.

    ``what`` was looked at, what was ``found``, ``why`` it is so or what follows, and the ``state``: "good",
    "note" for what costs speed or is untested, "wrong" for what must be mended.
    """

    what: str
    found: str
    why: str
    state: str = GOOD


def run(arguments: argparse.Namespace) -> int:
    """Prints all findings; 1 where one is wrong."""
    findings = examine()
    if arguments.json:
        print_json({"info": cpu.info(), "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(f"{finding.state:5}  {finding.what}: {finding.found}\n       {finding.why}")
        print(f"\n{REPORT}")
    return 1 if any(finding.state == WRONG for finding in findings) else 0


def examine() -> list[Finding]:
    """Everything that is looked at, in the order in which it is shown."""
    return [
        instruction_set(cpu.info(), os.environ),
        threads(_core.get_num_threads(), os.environ),
        huge_pages(HUGE_PAGES),
        openmp(),
        *(package(name, installed(name)) for name in (*TESTED, *UNTESTED)),
        calls_for_jax(bool(_core.xla_calls()), installed("jax")),
    ]


def instruction_set(info: dict[str, Any], environment: Mapping[str, str]) -> Finding:
    """Of the kernels; one that was withdrawn at import gave wrong bits."""
    found = f"{info['isa']}, of {', '.join(info['isas'])}"
    if info["withdrawn"]:
        wrong = ", ".join(info["withdrawn"])
        why = (
            f"the kernels for {wrong} gave wrong bits at import and are switched off: the build or the "
            "machine is broken. Run `samestep verify` and report it"
        )
        return Finding("instruction set", found, why, WRONG)
    if info["isa"] != info["isas"][0]:
        asked = environment.get("SAMESTEP_ISA")
        by = f"SAMESTEP_ISA={asked} asks for it" if asked else "ss.set_isa() asked for it"
        return Finding("instruction set", found, f"{by}; without, {info['isas'][0]} is used", NOTE)
    return Finding("instruction set", found, "the best that this processor has and that passed at import")


def threads(used: int, environment: Mapping[str, str]) -> Finding:
    """How many a step may use, and which of the limits decides."""
    granted, machine = _core.default_num_threads(), os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    found = f"{used}, of {machine} processors"
    if environment.get("SAMESTEP_THREADS"):
        state = NOTE if used > granted else GOOD
        more = f", more than the {granted} granted: they wait for each other" if used > granted else ""
        return Finding("threads", found, f"SAMESTEP_THREADS={used} asks for them{more}", state)
    if granted < allowed:
        return Finding("threads", found, f"the cgroup's quota grants the time of {granted}", NOTE)
    if allowed < machine:
        return Finding("threads", found, f"the affinity mask (taskset) allows {allowed}", NOTE)
    return Finding("threads", found, "as many as there are; neither an affinity mask nor a quota limits them")


def huge_pages(setting: Path) -> Finding:
    """Transparent huge pages of Linux, which save address translations where arrays are large."""
    try:
        found = re.findall(r"\[(\w+)\]", setting.read_text(encoding="utf-8"))
    except OSError:
        found = []
    if not found:
        return Finding("huge pages", "not known", f"{setting} cannot be read", NOTE)
    if found[0] == "never":
        why = (
            "large arrays lie in pages of 4 KiB, which costs speed; `echo madvise` into it grants large ones"
        )
        return Finding("huge pages", "never", why, NOTE)
    who = {"always": "every large array", "madvise": "NumPy's large arrays, for which NumPy asks,"}
    return Finding("huge pages", found[0], f"{who.get(found[0], 'some arrays')} may lie in pages of 2 MiB")


def openmp_runtimes(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """The names of the OpenMP runtimes in this process."""
    try:
        files = re.findall(r"/([^/\n]*)$", maps.read_text(encoding="utf-8"), re.M)
    except OSError:
        return []
    return sorted({file for file in files if re.match(r"lib(gomp|omp|iomp5)\b", file)})


def openmp() -> Finding:
    """Whose threads steps run on beside torch, seen in a process that imports samestep.torch."""
    what = "threads beside torch"
    if importlib.util.find_spec("torch") is None:
        return Finding(
            what, "samestep's own", "torch is not installed; nothing else brings a team of threads"
        )
    done = subprocess.run([sys.executable, "-c", _WITH_TORCH], capture_output=True, encoding="utf-8")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Finding(what, "not known", f"`import samestep.torch` fails: {last}", WRONG)
    return shared_pool(*done.stdout.split(), environment=os.environ)


def shared_pool(pool: str, *runtimes: str, environment: Mapping[str, str]) -> Finding:
    """What is said of the pool and the OpenMP runtimes of a process with torch."""
    what, names = "threads beside torch", ", ".join(runtimes) or "no OpenMP runtime"
    if len(runtimes) > 1:
        why = "several OpenMP runtimes in one process: their threads spin against each other; install one"
        return Finding(what, f"{pool}; {names}", why, NOTE)
    if pool != "own":
        return Finding(
            what, f"those of {pool}; {names}", "one team does the work of both, and none spins idly"
        )
    asked = environment.get("SAMESTEP_POOL") == "own"
    by = "SAMESTEP_POOL=own asks for it" if asked else "torch's runtime is not GNU's"
    why = f"{by}; torch's threads spin for milliseconds after each operation, which slows the next step"
    return Finding(what, f"samestep's own; {names}", why, NOTE)


def calls_for_jax(is_compiled: bool, jax: str | None) -> Finding:
    """Whether this build has what XLA calls for samestep.jax."""
    if is_compiled:
        return Finding("samestep.jax", "compiled in", "it works where jax and optax are installed")
    why = "jaxlib's headers were not there to compile it; SAMESTEP_JAX=1 pip install '.[jax]' compiles it in"
    return Finding("samestep.jax", "not compiled in", why, GOOD if jax is None else NOTE)


def installed(name: str) -> str | None:
    """The version of a package, which may be installed by several names, as CuPy is."""
    names = ("cupy", "cupy-cuda12x", "cupy-cuda13x") if name == "cupy" else (name,)
    for one in names:
        try:
            return metadata.version(one)
        except metadata.PackageNotFoundError:
            continue
    return None


def package(name: str, version: str | None) -> Finding:
    """Whether this version is one that the tests run with."""
    if version is None:
        return Finding(name, "not installed", UNTESTED.get(name, "what needs it says so; nothing else does"))
    if name in UNTESTED:
        return Finding(name, version, UNTESTED[name], NOTE)
    versions = ", ".join(TESTED[name])
    if version.startswith(tuple(f"{tested}." for tested in TESTED[name])):
        return Finding(name, version, f"the tests run with {versions}")
    return Finding(name, version, f"not looked at: the tests run with {versions}", NOTE)
