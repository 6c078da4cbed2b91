"""Fingerprints by the GPU's kernels, run by fibers on the host (host_cupy): of arrays, and of a step."""

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from host_cupy import device
from samestep.backends import gpu

DTYPES = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.uint16)]
# Around packs, the halves of a block and blocks; beyond what a block of threads hashes, 32 blocks.
SIZES = (0, 1, 3, 4, 5, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1000, 20_003)


def every_bit(n, dtype, seed=0):
    """Numbers of every kind, NaNs with payloads among them, by their bits."""
    return np.random.default_rng(seed).integers(0, 256, n * dtype.itemsize, np.uint8).view(dtype)


class TestArrays:
    @pytest.mark.parametrize("threads", [32, 96, 256, 1024])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_are_those_of_the_reference(self, kernels, monkeypatch, dtype, threads):
        monkeypatch.setattr(gpu.kernels, "THREADS", threads)
        for n in SIZES:
            x = every_bit(n, dtype)
            assert ss.fingerprint(device(x)) == ss.fingerprint(x, backend="reference"), n
        assert {name for name, _, _ in kernels.launches} == {f"fingerprint_{dtype}"}
        assert len(kernels.launches) == len(SIZES) - 1  # nothing is launched for no element

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_layout_and_alignment_do_not_matter(self, kernels, dtype):
        x = every_bit(60 * 50, dtype).reshape(60, 50)
        expected = ss.fingerprint(x)
        for other in (x, np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2], x.reshape(50, 60)):
            assert ss.fingerprint(device(other), backend="cuda") == expected
        room = device(np.zeros(x.size + 9, dtype))
        for offset in range(1, 9):
            place = room[offset : offset + x.size]
            place.host[...] = x.reshape(-1)
            assert ss.fingerprint(place) == expected

    def test_what_is_refused(self, kernels):
        with pytest.raises(TypeError, match="x: got int64, expected a float32"):
            ss.fingerprint(device(np.arange(3)))
        for backend in ("cpu", "reference"):
            with pytest.raises(TypeError, match=f"x: lives on a GPU, where backend='{backend}'"):
                ss.fingerprint(device(np.ones(3)), backend=backend)
        with pytest.raises(TypeError, match=r"x: got numpy.ndarray, which is not on a GPU"):
            ss.fingerprint(np.ones(3), backend="cuda")
        assert not kernels.launches
