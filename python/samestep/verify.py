"""Proof on this machine: every rule, form and dtype on every instruction set and several thread
counts, held bit for bit against the NumPy reference and the golden digests of the contract.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from . import _core, cpu
from .arrays import DTYPES, Array, digest
from .optimizer import Optimizer
from .optimizers import OPTIMIZERS

# Several work items, the last one short, and no multiple of a vector.
LARGE = 100_003

GOLDEN: dict[str, str] = json.loads(resources.files(__package__).joinpath("golden.json").read_text())[
    "digests"
]


class Case(NamedTuple):
    """One rule in one form for one dtype."""

    optimizer: type[Optimizer]
    form: str | None
    dtype: np.dtype[Any]

    def make(self, params: Any, lr: float = 0.01, **options: Any) -> Optimizer:
        if self.form is not None:
            options[self.optimizer.form_argument] = self.form
        return self.optimizer(params, lr=lr, **options)  # type: ignore[call-arg]

    @property
    def rule(self) -> str:
        family = self.optimizer.family
        return family if self.form is None else f"{family}_{self.form}"

    def __str__(self) -> str:
        return f"{self.rule} {self.dtype}"


def cases() -> list[Case]:
    """Every rule, form and dtype, read from the registry of optimizers."""
    return [
        Case(optimizer, form, dtype)
        for optimizer in OPTIMIZERS
        for form in optimizer.forms or (None,)
        for dtype in DTYPES
    ]


def golden_inputs(dtype: np.dtype[Any]) -> tuple[Array, list[Array]]:
    """Parameters and five gradients of the contract's golden digests; exact in both types."""
    i = np.arange(1000)
    w = ((37 * i % 101 - 50) / 64).astype(dtype)
    return w, [(((53 * i + 29 * t) % 97 - 48) / 128).astype(dtype) for t in range(5)]


def random_words(size: int, seed: int) -> Array:
    """Reproducible 64-bit words, a splitmix64 stream: independent of NumPy's generators."""
    z = (np.arange(size, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_values(size: int, dtype: np.dtype[Any], seed: int) -> Array:
    """Values in (-1, 1), one in eight replaced by any bit pattern: subnormals, infinities, NaN, -0."""
    words = random_words(size, seed)
    values = ((words >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0).astype(dtype)
    bits = values.view(f"u{dtype.itemsize}")
    pattern = random_words(size, seed + 1)
    any_bits = pattern.astype(bits.dtype)
    # One pattern in four loses its exponent and is a subnormal or a zero.
    mantissa = any_bits & bits.dtype.type((1 << np.finfo(dtype).nmant) - 1)
    any_bits = np.where(pattern >> np.uint64(62) == 0, mantissa, any_bits)
    bits[:] = np.where(words % np.uint64(8) == 0, any_bits, bits)
    return values


def run_case(case: Case, w: Array, grads: list[Array], **options: Any) -> list[Array]:
    """The parameter and the states after a step with each gradient, from copies."""
    w = w.copy()
    optimizer = case.make(w, **options)
    for g in grads:
        optimizer.step(g)
    return [w, *(states[0] for states in optimizer.state.values())]


def difference(got: Array, expected: Array) -> str | None:
    """Where two arrays first differ in bits (any NaN equals any NaN), or None."""
    bits = f"u{expected.dtype.itemsize}"
    a, b = got.ravel(), expected.ravel()
    differs = (a.view(bits) != b.view(bits)) & ~(np.isnan(a) & np.isnan(b))
    if not differs.any():
        return None
    i = int(np.argmax(differs))
    return (
        f"element {i}: got {a[i]!r} (0x{a.view(bits)[i]:x}), expected {b[i]!r} (0x{b.view(bits)[i]:x}); "
        f"{int(differs.sum())} of {a.size} differ"
    )


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
        that keeps the contract), ``configurations`` (how many were run), ``failures`` (one text each).
    """
    failures: list[str] = []
    results = hashlib.sha256()
    configured = list(configurations())
    before = _core.get_isa(), _core.get_num_threads()
    count = 0
    for case in cases():
        found: list[str] = []
        w, grads = golden_inputs(case.dtype)
        values = random_values(LARGE, case.dtype, 1)
        random_grads = [random_values(LARGE, case.dtype, seed) for seed in (3, 5, 7)]
        small = run_case(case, w, grads, backend="reference")
        large = run_case(case, values, random_grads, backend="reference")
        golden = digest(small)[:16]
        if golden != GOLDEN.get(str(case), golden):
            found.append(f"{case}, reference: digest {golden}, expected {GOLDEN[str(case)]}")
        try:
            for i, (isa, threads) in enumerate(configured):
                cpu.set_isa(isa)
                cpu.set_num_threads(threads)
                for expected, got in (
                    (small, run_case(case, w, grads, backend="cpu")),
                    (large, run_case(case, values, random_grads, backend="cpu")),
                ):
                    count += 1
                    if i == 0:  # the others must equal it
                        results.update(f"{case} {digest(got)}\n".encode())
                    names = ("w", *_states(case))
                    for name, a, b in zip(names, got, expected, strict=True):
                        where = difference(a, b)
                        if where:
                            found.append(f"{case}, {isa}, {threads} threads, {name}: {where}")
        finally:
            cpu.set_isa(before[0])
            cpu.set_num_threads(before[1])
        report(f"{'FAIL' if found else 'ok  '} {case!s:28} {golden}")
        for line in found:
            report(f"     {line}")
        failures += found
    return {
        "contract": cpu.CONTRACT,
        "certificate": results.hexdigest(),
        "configurations": count,
        "failures": failures,
    }


def _states(case: Case) -> tuple[str, ...]:
    return next(states for name, _, states in _core.rules() if name == case.rule)
