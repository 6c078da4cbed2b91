"""Proof on this machine: every kernel, form and dtype on every instruction set and several thread counts,
held bit for bit against the NumPy reference and the golden digests of the contract; and those on the GPU,
where there is one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from . import _core, cpu, gpu
from .arrays import Array, digest
from .golden import DIGESTS, difference, programs, runs_on_gpu


def configurations() -> Iterator[tuple[str, int]]:
    """(instruction set, threads): all of this machine's at 1, 2, 3, or what the environment fixes."""
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
        one), ``failures`` (one text each).
    """
    failures = [
        f"{isa}: switched off at import, its kernels do not keep the contract" for isa in cpu.withdrawn
    ]
    for line in failures:
        report(f"FAIL {line}")
    device = None if gpu.why_not() else gpu.device_name()
    results = hashlib.sha256()
    configured = list(configurations())
    before = _core.get_isa(), _core.get_num_threads()
    count = 0
    for kernel, group in programs().items():
        found: list[str] = []
        for program in group:
            expected = program.run(backend="reference")
            reference_digest = digest(expected)[:16]
            golden = DIGESTS.get(str(program), reference_digest)
            if reference_digest != golden:
                found.append(f"{program}, reference: digest {reference_digest}, expected {golden}")
            try:
                for i, (isa, threads) in enumerate(configured):
                    cpu.set_isa(isa)
                    cpu.set_num_threads(threads)
                    got = program.run(backend="cpu")
                    count += 1
                    # The others must equal the first; what has no digest yet is no part of the contract.
                    if i == 0 and str(program) in DIGESTS:
                        results.update(f"{program} {digest(got)}\n".encode())
                    found += _differences(f"{program}, {isa}, {threads} threads", got, expected)
            finally:
                cpu.set_isa(before[0])
                cpu.set_num_threads(before[1])
            if device is not None and runs_on_gpu(program):
                found += _differences(f"{program}, {device}", program.run(backend="cuda"), expected)
                count += 1
        report(f"{'FAIL' if found else 'ok  '} {kernel:28} {len(group)} digests")
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


def _differences(what: str, got: list[Array], expected: list[Array]) -> list[str]:
    compared = (difference(a, b) for a, b in zip(got, expected, strict=True))
    return [f"{what}, result {k}: {where}" for k, where in enumerate(compared) if where]
