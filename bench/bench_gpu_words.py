"""Random 32-bit words through every rule, on a GPU and on the CPU: how many of the results differ?

    python bench/bench_gpu_words.py [WORDS] [--seed N] [--json FILE]

WORDS, 10^9 if not given, are parameters, gradients and states, spread over the rules; 5 % are subnormals,
1 % NaN and infinities, the others have exponents from -63 to 64. Each rule makes a line, and the file anew,
when it is done. The status is 1 if a word differs; all NaN count as one. No GPU has run it so far.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samestep.proof import golden

CHUNK = 1 << 24  # elements of a parameter at a time
SUBNORMAL, SPECIAL = 3277, 655  # of 65536: 5 % and 1 %

Words = NDArray[np.float32]


class Count(NamedTuple):
    rule: str
    given: int  # words: parameters, gradients, states
    compared: int  # parameters and states after the step
    differ: int


def random_words(rng: np.random.Generator, n: int) -> Words:
    bits = rng.integers(0, 2**32, n, np.uint32)
    kind = rng.integers(0, 2**16, n, np.uint16)
    sign_and_mantissa = bits & np.uint32(0x807FFFFF)
    bits &= np.uint32(0xBFFFFFFF)
    bits += np.uint32(64 << 23)  # exponents 64..191 of 0..255
    np.copyto(bits, sign_and_mantissa, where=kind < SUBNORMAL)
    infinity = np.uint32(0x7F800000)
    np.copyto(bits, sign_and_mantissa | infinity, where=kind >= 65536 - SPECIAL)
    np.copyto(bits, infinity, where=kind >= 65536 - SPECIAL // 2)
    return bits.view(np.float32)


def differing(a: Words, b: Words) -> int:
    unequal = a.view(np.uint32) != b.view(np.uint32)
    return int(np.count_nonzero(unequal & ~(np.isnan(a) & np.isnan(b)))) if unequal.any() else 0


def run_rule(case: golden.Case, words: int, rng: np.random.Generator) -> Count:
    """One step from each set of random words, of step counts 1, 2, 3, ..."""
    import cupy

    names = list(case.make(np.zeros(1, case.dtype)).state)
    left = -(-words // (2 + len(names)))
    given = compared = differ = step = 0
    while left:
        n = min(left, CHUNK)
        w, g, *states = (random_words(rng, n) for _ in range(2 + len(names)))
        there = cupy.asarray(w)
        one, other = case.make(w), case.make(there)
        for optimizer in (one, other):
            saved = optimizer.state_dict()
            saved |= {"state": {name: [s] for name, s in zip(names, states, strict=True)}}
            optimizer.load_state_dict({**saved, "t": step, "steps": [step]})
        one.step(g)
        other.step(cupy.asarray(g))
        differ += differing(there.get(), w)
        for name in names:
            differ += differing(other.state[name][0].get(), one.state[name][0])
        given, compared = given + n * (2 + len(names)), compared + n * (1 + len(names))
        left, step = left - n, step + 1
    return Count(case.rule, given, compared, differ)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Count the words that differ between a GPU and the CPU.")
    parser.add_argument("words", nargs="?", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(arguments)
    cases = [case for case in golden.cases() if case.dtype == np.float32]
    rng, counts = np.random.default_rng(args.seed), list[Count]()
    for case in cases:
        count = run_rule(case, -(-args.words // len(cases)), rng)
        counts.append(count)
        print(f"{count.rule:36} {count.compared:13,} words compared, {count.differ:,} differ", flush=True)
        if args.json:
            found: dict[str, Any] = {"seed": args.seed, "rules": [c._asdict() for c in counts]}
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(found, file, indent=1)
    differ = sum(c.differ for c in counts)
    given = sum(c.given for c in counts)
    print(f"{given:,} random words through {len(cases)} rules: {differ:,} words of the results differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
