"""The C++ core without Python: it compiles, links and gives the golden digests in a plain program."""

import ast
import graphlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from samestep.proof import golden

ROOT = Path(__file__).parents[2]


def test_golden_digests_in_a_plain_program(native):
    done = subprocess.run([native / "golden"], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    digests = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert {name: digests.get(name) for name in golden.DIGESTS} == golden.DIGESTS


@pytest.mark.skipif(shutil.which("ldd") is None, reason="no ldd here")
def test_program_needs_no_library_but_the_system_s(native):
    done = subprocess.run(["ldd", native / "golden"], capture_output=True, encoding="utf-8", check=True)
    libraries = set(re.findall(r"(\S+?)\.so", done.stdout.replace("/", " ")))
    system = "linux-vdso libstdc++ libm libgcc_s libc libpthread ld-linux-x86-64 ld-linux-aarch64"
    assert libraries <= set(system.split())


CSRC = ROOT / "csrc"
# What the files of a folder may include, beside each other: every arrow points down.
BELOW = {
    "contract": set(),
    "isa": {"contract"},
    "gpu": {"contract"},
    "run": {"contract", "isa"},
    "jax": {"isa", "run"},
    "python": {"isa", "run", "jax"},
}


def test_folders_include_only_what_lies_below_them():
    assert {folder.name for folder in CSRC.iterdir()} == set(BELOW)
    for source in CSRC.rglob("*.*"):
        folder = source.parent.name
        included = set(re.findall(r'#include "(\w+)/', source.read_text(encoding="utf-8"))) - {folder}
        assert included <= BELOW[folder], source.name
        has_python = re.search(r"pybind11|Python\.h|\bpy::", source.read_text(encoding="utf-8")) is not None
        assert has_python <= (folder == "python"), source.name


# What the folders and modules of the package may import, beside their own: every arrow points down, under
# TYPE_CHECKING and within functions as well.
PACKAGE = ROOT / "python" / "samestep"
FLOORS = (
    {"_core", "arguments", "interpreter", "optional", "tree"},
    {"backends"},
    {"spread"},
    {"fingerprints"},
    {"ledger"},
    {"optim", "layers", "sums"},
    {"problems", "parallel", "replay"},
    {"result"},
    {"theory"},
    {"train"},
    {"proof", "torch", "jax"},
    {"commands"},
    {"__init__", "__main__"},
)


def imports_of(file: Path) -> set[str]:
    """The modules of the package that a file imports, with dots from the package on."""
    package = list(file.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            for alias in node.names:
                path = [part for part in (*base, alias.name) if part]
                while not any(PACKAGE.joinpath(*path).with_suffix(s).exists() for s in (".py", ".pyi", "")):
                    path.pop()
                found.add(".".join(path))
    return found


def test_imports_run_downwards_and_in_no_circle():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    graph = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        own = parts[0]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"
        graph[name] = imports_of(file) - {name, ""}
        for other in graph[name]:
            room = other.split(".")[0]
            assert room == own or floor[room] < floor[own], f"{name} imports {other}"
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the modules


def test_isa_files_include_no_library_header():
    """But the compiler's own of intrinsics, whose functions are always inlined and leave no symbols."""
    pending, seen = ["isa/isa.cpp"], set()
    while pending:
        name = pending.pop()
        seen.add(name)
        for header in re.findall(r"#include (\S+)", (CSRC / name).read_text(encoding="utf-8")):
            if header.startswith('"'):
                pending += {header.strip('"')} - seen
            else:
                assert (name, header) == ("contract/vector.h", "<immintrin.h>")
    assert {f"contract/{name}.h" for name in ("rules", "sums", "batchnorm", "mse", "product", "fp")} <= seen
