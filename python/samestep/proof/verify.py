"""Proof on this machine: every kernel and dtype, and the training of a small network from weights to weights,
on every instruction set, several thread counts and, where there is one, a GPU, compared bit for bit with the
golden digests of the contract and, but for the longest programs, with the NumPy reference.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from .. import _core
from ..backends import cpu, gpu
from ..backends.arrays import Array, digest
from .fingerprints import FingerprintProgram
from .golden import (
    DIGESTS,
    OptionProgram,
    Program,
    RuleProgram,
    StorageProgram,
    difference,
    is_long,
    programs,
)

# The sizes of the programs with options that the certificate covers: all of them would take a minute.
OPTION_SIZES = {"coupled": (2500,), "decoupled": (2500,), "all": (7, 2500)}


def is_certified(program: Program) -> bool:
    """Whether the certificate covers the program; a test compares the others with the same digests."""
    if isinstance(program, OptionProgram):
        return program.size in OPTION_SIZES[program.options]
    # These need ml_dtypes, and the certificate is to be the same without that package.
    of_bfloat16 = isinstance(program, FingerprintProgram) and program.dtype == "bfloat16"
    return not (isinstance(program, StorageProgram) or of_bfloat16)


def configurations() -> Iterator[tuple[str, int]]:
    """(instruction set, threads): all of this machine's with 1, 2 and 3, or what the environment fixes."""
    forced_isa, forced_threads = os.environ.get("SAMESTEP_ISA"), os.environ.get("SAMESTEP_THREADS")
    for isa in [forced_isa] if forced_isa else _core.isas():
        for threads in [int(forced_threads)] if forced_threads else [1, 2, 3]:
            yield isa, threads


def run(report: Callable[[str], None]) -> dict[str, Any]:
    """Runs the proof and reports a line a rule.

    Args:
        report: called with each line.

    Returns:
        ``contract`` (version), ``certificate`` (sha256 over all results: the same on every machine
        that keeps the contract), ``configurations`` (how many were run), ``gpu`` (its name, None without
        one), ``failures`` (a line for each).
    """
    failures = [
        f"{isa}: switched off at import, its kernels do not keep the contract" for isa in cpu.withdrawn
    ]
    for line in failures:
        report(f"FAIL {line}")
    device = None if gpu.why_not() else gpu.device_name()
    results = hashlib.sha256()
    count = 0
    for kernel, all_programs in programs().items():
        group = [program for program in all_programs if is_certified(program)]
        found: list[str] = []
        for program in group:
            golden = DIGESTS.get(str(program))
            # The reference would take longer for the long programs than for all others together; their
            # digests, which a test compares with it, replace it.
            by_reference = not (is_long(program) and golden)
            expected = program.run(backend="reference") if by_reference else None
            first, differing = None, list[str]()
            for what, got in _runs(program, device):
                count += 1
                first = first or got
                differing += _differences(f"{program}, {what}", got, expected or first)
            found += differing
            if golden is not None and first is not None:  # without a digest it is not yet in the contract
                whole_digest = digest(first)
                results.update(f"{program} {whole_digest}\n".encode())
                # Results without a difference have one digest.
                got_digest = (digest(expected) if expected and differing else whole_digest)[:16]
                if got_digest != golden:
                    by = "reference" if by_reference else "first configuration"
                    found.append(f"{program}, {by}: digest {got_digest}, expected {golden}")
        digests = f"{len(group)} digest{'s' * (len(group) > 1)}"
        report(f"{'FAIL' if found else 'ok  '} {kernel:42} {digests}")
        for line in found:
            report(f"     {line}")
        failures += found
    return {
        "contract": cpu.CONTRACT,
        "certificate": results.hexdigest(),
        "configurations": count,
        "gpu": device,
        "failures": failures,
    }


def _runs(program: Program, device: str | None) -> Iterator[tuple[str, list[Array]]]:
    """(configuration, results) of the program on the CPU, and on the GPU if there is one."""
    before = _core.get_isa(), _core.get_num_threads(), _core.wake_always(True)
    try:
        for isa, threads in _configurations_of(program):
            cpu.set_isa(isa)
            cpu.set_num_threads(threads)
            yield f"{isa}, {threads} threads", program.run(backend="cpu")
    finally:
        cpu.set_isa(before[0])
        cpu.set_num_threads(before[1])
        _core.wake_always(before[2])
    if device is not None:
        yield device, program.run(backend="cuda")


def _configurations_of(program: Program) -> Iterator[tuple[str, int]]:
    """All; but thousands of steps, whose few elements one thread steps, on the most threads alone."""
    of_one_item = isinstance(program, RuleProgram) and is_long(program)
    most = max(threads for _, threads in configurations())
    return ((isa, threads) for isa, threads in configurations() if threads == most or not of_one_item)


def _differences(what: str, got: list[Array], expected: list[Array]) -> list[str]:
    compared = (difference(a, b) for a, b in zip(got, expected, strict=True))
    return [f"{what}, result {k}: {where}" for k, where in enumerate(compared) if where]
