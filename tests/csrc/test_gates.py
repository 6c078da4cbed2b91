"""What must not be in the build: instructions, symbols and imports that would change bits or crash an
old processor; and what must not be in the reference's source. Each gate is shown to fail on a fault.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from native_programs import build_native
from samestep import _core

ROOT = Path(__file__).parents[2]
needs_binutils = pytest.mark.skipif(
    not (shutil.which("objdump") and shutil.which("nm")), reason="needs objdump and nm (binutils)"
)

# Fused or estimated arithmetic, by the mnemonics of x86-64, aarch64 and riscv64.
FORBIDDEN = re.compile(
    r"\b(v?fn?m(add|sub)\w*|vfm(add|sub)\w*|fml[as]|v?rsqrt\w*|v?rcp\w*|frsqrte|frecpe)\b", re.IGNORECASE
)
# Canonical sums: the product of two float32 is exact in float64, where fusing it changes no bit. The matrix
# product, whose definition is a chain of fused multiply-adds. And exp, tanh and sigmoid of float32, in
# float64: their results are correctly rounded with and without, for all 2^32 values.
MAY_FUSE = re.compile(
    r"\b(dot|run_block|run_streams|column_block|plane_block|mse_block)<(\d, )?float\b.* \S*[ps]d$"
    r"|\bpiece(<(float|double), \d+|_across<(float|double)), \d+>"
    r"|\b(map<[^<>]*\b(Exp|Tanh|Sigmoid), float>|exponentials<float>).* \S*[ps]d$"
)


def isa_objects(build: Path) -> list[Path]:
    objects = sorted(build.glob("CMakeFiles/isa_*.dir/csrc/isa/isa.cpp.o"))
    assert objects
    return objects


def instructions(obj: Path) -> Iterator[tuple[str, str]]:
    """(function, mnemonic) of everything in an object file."""
    listing = subprocess.run(
        ["objdump", "-dC", "--no-show-raw-insn", obj], capture_output=True, encoding="utf-8", check=True
    ).stdout
    function = ""
    for line in listing.splitlines():
        if line.endswith(">:"):
            function = line.split("<", 1)[1][:-2]
        elif ":\t" in line:
            yield function, line.split(":\t", 1)[1].split()[0]


def forbidden_in(obj: Path) -> list[tuple[str, str]]:
    return [
        (f, m) for f, m in instructions(obj) if FORBIDDEN.fullmatch(m) and not MAY_FUSE.search(f"{f} {m}")
    ]


def compile_source(folder: Path, source: str, *flags: str) -> subprocess.CompletedProcess:
    (folder / "fault.cpp").write_text(source, encoding="utf-8")
    command = ["g++", "-std=c++17", "-c", f"-I{ROOT / 'csrc'}", *flags, "fault.cpp", "-o", "fault.o"]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")


def source_of_adam_alone() -> str:
    """isa.cpp without its other rules, which take most of the time to compile."""
    source = (ROOT / "csrc" / "isa" / "isa.cpp").read_text(encoding="utf-8")
    rows = (ROOT / "csrc" / "contract" / "rules.h").read_text(encoding="utf-8")
    row = re.search(r"FORM\(X, adam, outside, .*, outside>\)", rows)[0]
    included, rest = source.split("\nnamespace samestep {", 1)
    registry = f"#undef FOR_EACH_RULE\n#define FOR_EACH_RULE(X) {row}\n"
    return f"{included}\n{registry}namespace samestep {{{rest}"


@needs_binutils
def test_no_fused_or_estimated_arithmetic(native):
    for obj in isa_objects(native):
        listed = list(instructions(obj))
        assert any("sqrt" in mnemonic for _, mnemonic in listed), "the listing shows no kernels"
        assert forbidden_in(obj) == []


@pytest.mark.slow
@needs_binutils
@pytest.mark.parametrize(
    "flags",
    [
        ["-ffp-contract=fast", "-mfma"],
        ["-ffp-contract=fast", "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw"],
    ],
)
def test_that_gate_fails_when_contraction_is_on(tmp_path, flags):
    enough = ("-O1", "-fexpensive-optimizations")  # to fuse, in a third of the time of -O3
    done = compile_source(tmp_path, source_of_adam_alone(), *enough, *flags, "-DSAMESTEP_ISA=x")
    assert done.returncode == 0
    found = [function for function, _ in forbidden_in(tmp_path / "fault.o")]
    assert any(re.search(r"\bupdate(_decayed)?<", function) for function in found)


@needs_binutils
@pytest.mark.parametrize("estimate", ["_mm512_rsqrt14_ps", "_mm512_rcp14_ps", "_mm_rsqrt_ps", "_mm_rcp_ps"])
def test_that_gate_fails_on_an_estimate(tmp_path, estimate):
    vector = "__m512" if "512" in estimate else "__m128"
    source = f"#include <immintrin.h>\n{vector} f({vector} x) {{ return {estimate}(x); }}"
    assert compile_source(tmp_path, source, "-O2", "-mavx512f").returncode == 0
    assert len(forbidden_in(tmp_path / "fault.o")) == 1


@needs_binutils
def test_each_table_has_its_vectors_and_no_wider_ones(native):
    """An AVX register in the baseline, or a 512-bit one in avx2, would crash an older processor."""
    for obj in isa_objects(native):
        listing = subprocess.run(
            ["objdump", "-d", obj], capture_output=True, encoding="utf-8", check=True
        ).stdout
        isa = re.search(r"isa_(\w+)\.dir", str(obj))[1]
        wide = {register for register in ("ymm", "zmm") if f"%{register}" in listing}
        assert wide == {"baseline": set(), "avx2": {"ymm"}, "avx512": {"ymm", "zmm"}}[isa]
        if isa == "baseline":
            assert not re.search(r"\tv[a-z]+\d* ", listing)


def scalar_loops(obj: Path) -> set[str]:
    """Loops of rules that have arithmetic, but none on vectors."""
    loops = [(f, m) for f, m in instructions(obj) if re.search(r"\b(update|update_decayed|loop|map)<", f)]
    scalar, packed = ({f for f, m in loops if re.fullmatch(rf"v?(add|sub|mul){x}[sd]", m)} for x in "sp")
    assert scalar, "the listing shows no loops"
    return scalar - packed


@pytest.mark.slow
@needs_binutils
@pytest.mark.parametrize("compiler", ["g++", "clang++-14"])
def test_every_loop_of_a_rule_is_vectorised(compiler):
    """One that the compiler leaves scalar is right at a tenth of the speed: nothing else would tell."""
    if shutil.which(compiler) is None:
        pytest.skip(f"not installed: {compiler}")
    machine = "clang" if "clang" in compiler else "gcc"
    for obj in isa_objects(build_native(f"native-{machine}", f"-DCMAKE_CXX_COMPILER={compiler}")):
        assert scalar_loops(obj) == set()


@pytest.mark.slow
@needs_binutils
def test_that_gate_fails_without_vectors(tmp_path):
    flags = ["-O2", "-fno-tree-vectorize", "-fno-tree-slp-vectorize", "-DSAMESTEP_ISA=x"]
    assert compile_source(tmp_path, source_of_adam_alone(), *flags).returncode == 0
    scalar = scalar_loops(tmp_path / "fault.o")
    assert any("map<" in function for function in scalar)
    for kernel in ("update<", "update_decayed<"):  # float64, float32, w in bfloat16, states as well
        assert sum(kernel in function for function in scalar) == 4


def test_that_gate_tells_fused_sums_of_float32_from_all_others():
    for function, mnemonic, allowed in (
        ("void run_block<float, Squares<float> >(...)", "vfmadd231pd", True),
        ("void run_streams<4, float, Squares<float> >(...)", "vfmadd231pd", True),
        ("void run_streams<4, double, Squares<double> >(...)", "vfmadd231pd", False),
        ("void mse_block<float>(samestep::MseBlock const&)", "vfmadd213sd", True),
        ("void mse_block<double>(samestep::MseBlock const&)", "vfmadd213sd", False),
        ("void plane_block<1, float, true>(...)", "vfmadd231ps", False),
        ("void piece<double, 12, 2>(double const*, ...)", "vfmadd231pd", True),
        ("void piece_across<float, 12>(float const*, ...)", "vfmadd231ps", True),
        (
            "void buffered<float, map<samestep::(anonymous namespace)::Exp, float>(...)::{lambda}>(...)",
            "vfmadd132pd",
            True,
        ),
        ("void map<samestep::Exp, float>(...)", "vfmadd132ps", False),
        ("void map<samestep::Exp, double>(...)", "vfmadd132pd", False),
        ("void map<samestep::Log, float>(...)", "vfmadd132pd", False),
        ("double exponentials<float>(float const*, ...)", "vfmadd132pd", True),
        ("double exponentials<double>(double const*, ...)", "vfmadd132pd", False),
        ("void finish<Floats, float>(...)", "vfmadd231ps", False),
        ("void loop<AsIs<float> >(...)", "vfmadd231pd", False),
    ):
        assert bool(MAY_FUSE.search(f"{function} {mnemonic}")) == allowed, (function, mnemonic)


def weak_or_global(obj: Path) -> list[str]:
    """Symbols that another object's could be mixed up with, but the table."""
    listing = subprocess.run(["nm", "-C", obj], capture_output=True, encoding="utf-8", check=True).stdout
    return [s for s in re.findall(r"^[0-9a-f]+ [A-TV-Zuvw] (.*)$", listing, re.M) if "::isa_" not in s]


@needs_binutils
def test_isa_objects_export_the_table_alone(native):
    for obj in isa_objects(native):
        assert weak_or_global(obj) == []


@needs_binutils
def test_that_gate_fails_on_an_inline_function(tmp_path):
    fault = "\ninline int shared() { return 1; }\nint use() { return shared(); }\n"
    source = source_of_adam_alone() + fault
    assert compile_source(tmp_path, source, "-O0", "-DSAMESTEP_ISA=x").returncode == 0
    assert sorted(weak_or_global(tmp_path / "fault.o")) == ["shared()", "use()"]


def imported_names(obj: Path) -> set[str]:
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", obj], capture_output=True, encoding="utf-8", check=True
    )
    return set(re.findall(r" U (\w+)", listing.stdout))


# Without "fma", whose every bit IEEE 754 defines: the baseline's matrix product of float64 calls it.
LIBM = {f"{f}{t}" for f in ("pow", "exp", "exp2", "log", "log2", "sin", "cos", "tanh") for t in ("", "f")}


@needs_binutils
def test_the_extension_imports_nothing_of_libm_that_rounds():
    assert not LIBM & imported_names(Path(_core.__file__))


@needs_binutils
def test_that_gate_fails_on_pow(tmp_path):
    source = '#include <cmath>\nextern "C" double power(double b, double t) { return std::pow(b, t); }\n'
    assert compile_source(tmp_path, source, "-fPIC").returncode == 0
    subprocess.run(["g++", "-shared", "fault.o", "-o", "fault.so"], cwd=tmp_path, check=True)
    assert imported_names(tmp_path / "fault.so") & LIBM == {"pow"}


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-ffinite-math-only"])
def test_fast_math_does_not_compile(tmp_path, flag):
    source = (ROOT / "csrc" / "isa" / "isa.cpp").read_text(encoding="utf-8")
    refused = compile_source(tmp_path, source, "-E", flag, "-DSAMESTEP_ISA=x")
    assert refused.returncode
    assert f"samestep: {flag.replace('Ofast', 'ffast-math')}" in refused.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x87 is in x86 alone")
def test_x87_arithmetic_does_not_compile(tmp_path):
    source = (ROOT / "csrc" / "contract" / "fp.h").read_text(encoding="utf-8")
    refused = compile_source(tmp_path, source, "-mfpmath=387")
    assert refused.returncode
    assert "must be rounded to float" in refused.stderr


# The reference may use what NumPy rounds the same everywhere, whatever vectors it runs on.
NUMPY_ALLOWED = {
    "sqrt", "where", "isfinite", "isnan", "errstate", "finfo",  # arithmetic that is exact or rounded once
    "float16", "float32", "float64", "int64", "intp", "dtype", "integer", "ndarray",  # types and casts
    "uint8", "uint16", "uint32", "uint64", "signbit",  # bits
    "abs", "nonzero",  # of a sign and of comparisons: nothing is rounded
    "empty", "zeros", "empty_like", "zeros_like", "full", "array", "asarray", "ascontiguousarray",  # arrays
    "arange", "stack", "concatenate", "moveaxis", "broadcast_to", "broadcast_arrays", "newaxis",  # shapes
    "unravel_index",
    "argmax",  # of comparisons
    "random",
}  # fmt: skip
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
BIT_OPERATORS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.LShift, ast.RShift)
METHODS = {"sum", "mean", "var", "std", "dot", "prod", "cumsum", "max", "min", "trace", "round"}


def reference_faults(source: str) -> list[str]:
    """What a reference module uses beyond + - * / sqrt where and casts."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
            if node.attr not in NUMPY_ALLOWED:
                faults.append(f"line {node.lineno}: np.{node.attr}")
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
        ):
            faults.append(f"line {node.lineno}: .{node.func.attr}()")
        elif isinstance(node, (ast.BinOp, ast.AugAssign)):
            exact_power = (  # 2**64 and the like, integers
                isinstance(node.op, ast.Pow)
                and isinstance(node, ast.BinOp)
                and isinstance(node.left, ast.Constant)
            )
            if not isinstance(node.op, OPERATORS + BIT_OPERATORS) and not exact_power:
                faults.append(f"line {node.lineno}: {type(node.op).__name__}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            faults += [
                f"line {node.lineno}: import {m}" for m in modules if m.split(".")[0] in {"math", "scipy"}
            ]
    return faults


def test_the_reference_uses_only_what_numpy_rounds_the_same_everywhere():
    for file in (ROOT / "python" / "samestep" / "backends" / "reference").glob("*.py"):
        assert reference_faults(file.read_text(encoding="utf-8")) == [], file.name


@pytest.mark.parametrize(
    "fault",
    ["r = x ** 2", "r = np.exp(x)", "r = x.sum()", "r = x @ y", "r = np.maximum(x, 0)", "import math"],
)
def test_that_gate_fails_on_a_fault(fault):
    assert len(reference_faults(fault)) == 1


# The only sources that may know the operating system.
SYSTEM_SOURCES = {"system_posix.cpp", "system_windows.cpp", "openmp.cpp"}
OF_A_SYSTEM = re.compile(
    r"^\s*#\s*include\s*<((?:pthread|dlfcn|sched|signal|unistd|fcntl|windows|process|sys/\w+)\.h|csignal)>"
    r"|\b(_WIN32|_MSC_VER|__MINGW32__|__linux__|__APPLE__|__unix__)\b",
    re.MULTILINE,
)


def test_the_core_knows_no_system_but_in_the_sources_of_systems():
    files = [f for f in (ROOT / "csrc").rglob("*.*") if f.suffix in {".h", ".cpp", ".cu", ".cuh"}]
    knowing = {f.name for f in files if OF_A_SYSTEM.search(f.read_text(encoding="utf-8"))}
    assert knowing == SYSTEM_SOURCES


@pytest.mark.parametrize(
    "fault",
    [
        *(f"#include <{h}.h>" for h in ("pthread", "dlfcn", "sched", "signal", "unistd", "windows")),
        "int f();\n # include <sys/stat.h>",
        "#ifdef __linux__",
        "#if defined(_WIN32)",
    ],
)
def test_that_gate_fails_on_a_system(fault):
    assert OF_A_SYSTEM.search(fault)
    assert not OF_A_SYSTEM.search('#include <thread>\n#include "run/system.h"\nint linux__;')


TEXT_FUNCTIONS = {"read_text", "write_text", "loadtxt", "genfromtxt", "savetxt"}


def text_faults(source: str) -> list[str]:
    """Where text goes to or comes from a file or a process in the encoding of whatever locale there is."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and "encoding" not in (words := {word.arg for word in node.keywords}):
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            values = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
            values = [
                value for value in values if not isinstance(value, ast.BinOp)
            ]  # folder / 'a' is no mode
            modes = re.findall(r"'([rwxabt+]{1,3})'", " ".join(map(ast.unparse, values)))
            as_text = modes and "b" not in modes[0]  # of a file; the text that open() takes by default, below
            if (
                words & {"text", "universal_newlines"}
                or name in TEXT_FUNCTIONS
                or (
                    as_text and name.endswith(("open", "TemporaryFile")) and name != "safe_open"
                )  # safetensors'
                or (not modes and (called == "open" or (name == "open" and not node.args)))
            ):
                faults.append(f"line {node.lineno}: {called} without encoding")
    return faults


def test_text_is_utf_8_in_every_locale():
    files = [f for folder in ("python", "tests", "bench", "examples") for f in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    for file in files:
        assert text_faults(file.read_text(encoding="utf-8")) == [], file


@pytest.mark.parametrize(
    "fault",
    [
        "open(p{})",
        "open(p, 'w'{})",
        "p.open(newline=''{})",
        "p.open('a'{})",
        "p.open(mode='r'{})",
        "os.fdopen(handle, 'w'{})",
        "p.read_text(*(){})",
        "p.write_text(s{})",
        "subprocess.run(c, text=True{})",
        "tempfile.NamedTemporaryFile('w'{})",
        "np.savetxt(p, x{})",
    ],
)
def test_that_gate_fails_on_text_without_encoding(fault):
    assert len(text_faults(fault.format(""))) == 1
    assert text_faults(fault.format(", encoding='utf-8'")) == []


def test_that_gate_passes_bytes():
    assert text_faults("open(p, 'rb'); p.open('x+b'); os.open(p, os.O_RDONLY); browser.open(p, 390)") == []
    assert text_faults("safe_open(folder / 'a', framework='numpy')") == []


def test_the_reference_does_not_depend_on_numpy_s_vectors():
    """Under NumPy's plainest loops it gives the digests that it gives here."""
    code = (
        "from samestep.proof import golden\n"
        "for case in golden.cases():\n"
        "    p = golden.RuleProgram(case, 'random', 1000, 3, 'default')\n"
        "    assert golden.program_digest(p, backend='reference') == golden.DIGESTS[str(p)], p\n"
        "print('equal')"
    )
    vectors = np.show_config("dicts")["SIMD Extensions"]["found"]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(vectors)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.stdout == "equal\n", done.stderr


def test_helpers_of_the_tests_are_not_collected():
    """pytest would import each to look for doctests, and stop where that import fails or warns."""
    options = [
        "-o",
        "addopts=--doctest-modules --import-mode=importlib",
        "--ignore-glob",
        "*/test_*.py",
        "--collect-only",
        "-q",
    ]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, ROOT / "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout + done.stderr


def test_a_tree_that_cannot_be_written_skips_what_is_built_in_it(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(pytest.skip.Exception, match="cannot be written"):
        build_native("native")


def test_a_cache_that_cannot_be_written_fails_no_run(tmp_path):
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n", encoding="utf-8")
    (tmp_path / "file").touch()
    options = ["-c", ROOT / "pyproject.toml", "-o", f"cache_dir={tmp_path / 'file' / 'cache'}", "-q"]
    command = [sys.executable, "-m", "pytest", *options, tmp_path / "test_one.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
