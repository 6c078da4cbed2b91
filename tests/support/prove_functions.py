"""Tries exp, log, tanh and sigmoid of all 2^32 float32 values: is each result the float32 nearest to the true
value?

    python tests/support/prove_functions.py [--only exp] [--isa avx2] [--processes 2] [--write]

NumPy's float64 functions, which are off by 4 units in the last place at most, tell the true value within
2^-48 of itself. Where all of that interval is rounded to one float32, that is the result to have. Where it is
not, the value is hard to round: it is computed with 80 digits (Python's decimal) and rounded exactly. --write
keeps the hard values in hard_functions.txt, which the tests try every time. Some minutes on two cores; exit 1
if a result is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

import samestep as ss
from function_cases import FILE, nearest_float32, truth

ALL = 1 << 32
CHUNK = 1 << 18  # values at a time: within the caches
RANGE = 1 << 26  # values of one task of a process
WITHIN = 2.0**-48


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


ORACLES = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "sigmoid": sigmoid}


class Found(NamedTuple):
    """Bits of the float32 values whose results are wrong, and of those that are hard to round."""

    wrong: list[int]
    hard: list[int]


def tried(name: str, bits: np.ndarray) -> Found:
    """What is found for the values of these bits, uint32."""
    x = bits.view(np.float32)
    got = getattr(ss, name)(x).view(np.uint32)
    with np.errstate(all="ignore"):
        near = ORACLES[name](x.astype(np.float64))
        low, high = ((near * (1.0 + side)).astype(np.float32) for side in (-WITHIN, WITHIN))
    is_hard = low.view(np.uint32) != high.view(np.uint32)
    differs = (got != low.view(np.uint32)) & ~(np.isnan(got.view(np.float32)) & np.isnan(low))
    hard = bits[is_hard & ~np.isnan(low)].tolist()
    wrong = bits[differs & ~is_hard].tolist()
    return Found(wrong + [b for b in hard if not is_nearest(name, b)], hard)


def is_nearest(name: str, bits: int) -> bool:
    x = np.array([bits], np.uint32).view(np.float32)
    return getattr(ss, name)(x)[0] == nearest_float32(truth(name, float(x[0])))


def tried_range(name: str, isa: str, first: int, last: int) -> Found:
    ss.set_isa(isa)
    ss.set_num_threads(1)
    all_found = Found([], [])
    for begin in range(first, last, CHUNK):
        found = tried(name, np.arange(begin, min(last, begin + CHUNK), dtype=np.uint32))
        all_found.wrong.extend(found.wrong)
        all_found.hard.extend(found.hard)
    return all_found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=ORACLES, help="one function")
    parser.add_argument("--isa", choices=ss.info()["isas"], default=ss.info()["isa"])
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--write", action="store_true", help="keep the hard values")
    options = parser.parse_args()
    names = [options.only] if options.only else list(ORACLES)
    hard: dict[str, list[int]] = {}
    n_wrong = 0
    with ProcessPoolExecutor(options.processes) as pool:
        for name in names:
            start = time.monotonic()
            tasks = [
                pool.submit(tried_range, name, options.isa, first, first + RANGE)
                for first in range(0, ALL, RANGE)
            ]
            found = [task.result() for task in tasks]
            wrong = [b for each in found for b in each.wrong]
            hard[name] = [b for each in found for b in each.hard]
            n_wrong += len(wrong)
            print(
                f"{name:8} {options.isa}: {ALL} inputs, {len(wrong)} wrong; {len(hard[name])} hard ones "
                f"({time.monotonic() - start:.0f} s)",
                flush=True,
            )
            for b in wrong[:20]:
                print(f"  wrong: {name} of the float32 0x{b:08x}")
    if options.write and not options.only:
        lines = (f"{name} {' '.join(f'{b:08x}' for b in hard[name])}\n" for name in names)
        FILE.write_text("".join(lines), encoding="utf-8")
    return 0 if n_wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
