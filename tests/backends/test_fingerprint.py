"""Fingerprints: kernels against the twin, the twin against the formula; any layout, place and thread."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from control_register import MODES, mxcsr, needs_x86
from samestep.backends import cpu, reference
from samestep.proof.vectors import integer_values

DTYPES = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.uint16)]
# Around words, pairs of words, vectors and blocks; beyond a work item of 128 blocks of 1024 bytes.
SIZES = (0, 1, 2, 3, 7, 31, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1000, 100_003)
GOLDEN = integer_values((1000,), 37, 11, 1009, 400, 128.3, np.dtype(np.float32))


def every_bit(n, dtype, seed=0):
    """Numbers of every kind, NaNs with payloads among them, by their bits."""
    return np.random.default_rng(seed).integers(0, 256, n * dtype.itemsize, np.uint8).view(dtype)


def by_hand(data):
    """The formula, word by word, of bytes whose NaNs are as digests have them."""
    most = 2**64 - 1

    def mix(z):
        z = (z + 0x9E3779B97F4A7C15) & most
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & most
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & most
        return z ^ z >> 31

    keys, total = [mix(i) & 0xFFFFFFFF for i in range(256)], 0
    for b, begin in enumerate(range(0, len(data), 1024)):
        block = data[begin : begin + 1024].ljust(1024, b"\0")
        words = [int.from_bytes(block[i : i + 4], "little") for i in range(0, 1024, 4)]
        sums = [(x + k) & 0xFFFFFFFF for x, k in zip(words, keys, strict=True)]
        total += mix((sum(x * y for x, y in zip(sums[0::2], sums[1::2], strict=True)) & most) ^ mix(b))
    return mix((total & most) ^ mix(len(data)))


def test_golden_values():
    for backend in ("cpu", "reference"):
        assert ss.fingerprint(GOLDEN, backend=backend) == 0xA634B0A0CFD0C2E1
        assert ss.fingerprint(GOLDEN.astype(np.float64), backend=backend) == 0x31449EDF9CE1B344
        assert ss.fingerprint(np.zeros(0), backend=backend) == 0xA706DD2F4D197E6F


@pytest.mark.parametrize("n", [0, 1, 5, 256, 700])
def test_the_twin_is_the_formula(n):
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    assert reference.fingerprint(x) == by_hand(x.tobytes())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_equal_the_twin(isa, settings, dtype):
    for n in SIZES:
        x = every_bit(n, dtype)
        expected = reference.fingerprint(x)
        for threads in (1, 2, 8):
            ss.set_num_threads(threads)
            assert cpu.fingerprint(x) == expected, (n, threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layout_and_alignment_do_not_matter(isa, dtype):
    x = every_bit(60 * 50, dtype).reshape(60, 50)
    expected = ss.fingerprint(x)
    assert ss.fingerprint(np.asfortranarray(x)) == expected
    assert ss.fingerprint(x.reshape(-1)) == expected
    assert ss.fingerprint(np.concatenate([x, x])[:60]) == expected
    for offset in (1, 2, 3, 5):
        memory = np.zeros(x.nbytes + 64, np.uint8)
        place = memory[offset * dtype.itemsize :][: x.nbytes].view(dtype)
        place[...] = x.reshape(-1)
        assert ss.fingerprint(place) == expected
        unaligned = memory[offset : offset + x.nbytes]
        unaligned[...] = x.reshape(-1).view(np.uint8)
        assert ss.fingerprint(unaligned.view(dtype)) == expected


@needs_x86
@pytest.mark.parametrize("bits", MODES)
def test_in_any_floating_point_mode(isa, bits):
    x = every_bit(5000, DTYPES[0])
    expected = cpu.fingerprint(x)
    with mxcsr(bits):
        assert cpu.fingerprint(x) == expected


@pytest.mark.parametrize("dtype", DTYPES[:4], ids=str)
def test_what_digests_tell_apart_has_other_bits_and_every_nan_the_same(dtype):
    x = np.zeros(3000, dtype)
    seen = {ss.fingerprint(x), ss.fingerprint(-x), ss.fingerprint(x[:-1]), ss.fingerprint(np.roll(x + 1, 1))}
    for place in (0, 1, 2, 1023, 1024, 2999):
        for bit in range(8 * dtype.itemsize):
            changed = x.copy()
            changed.view(f"u{dtype.itemsize}")[place] = 1 << bit
            seen.add(ss.fingerprint(changed))
    assert len(seen) == 4 + 6 * 8 * dtype.itemsize

    width = 8 * dtype.itemsize
    infinity = np.array([np.inf], dtype).view(f"u{dtype.itemsize}")[0]
    nans = [int(infinity) + 1, int(infinity) | 1 << width - 1 | 1, (1 << width) - 1]
    found = set()
    for nan in nans:
        x.view(f"u{dtype.itemsize}")[7] = nan
        found.add(ss.fingerprint(x))
    assert len(found) == 1
    assert ss.fingerprint(np.array([np.inf], dtype)) not in found


def test_other_byte_orders_and_what_is_refused():
    assert ss.fingerprint(GOLDEN.astype(">f4")) == ss.fingerprint(GOLDEN)
    assert ss.fingerprint(np.ones(())) == ss.fingerprint(np.ones(1))
    for wrong in (np.arange(3), "x", [1.0], np.ma.ones(3)):
        with pytest.raises(TypeError, match="x: got"):
            ss.fingerprint(wrong)
    with pytest.raises(ValueError, match="backend"):
        ss.fingerprint(GOLDEN, backend="tpu")
