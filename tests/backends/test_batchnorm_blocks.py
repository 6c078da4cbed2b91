"""Batch norm's passes in two halves, at their sums: kernels against the twin, and together the whole pass."""

from __future__ import annotations

import numpy as np
import pytest

import samestep as ss
from batchnorm_arrays import same, special
from samestep import _core
from samestep.backends import cpu, reference

pytestmark = pytest.mark.usefixtures("settings")

DTYPES = ("float32", "float64")
SIZES = [(3, 5, 1000), (2600, 7, 1), (1, 1, 2048), (4, 150, 300), (2050, 260, 1), (0, 3, 7), (1, 3, 1)]


def channels(dtype, C):
    gamma, beta, mean, inv = (special((C,), dtype, seed) for seed in range(4))
    return gamma, beta, mean, abs(inv)


def forward_blocks(backend, x, shift, sums, sizes, channels_last, relu, first):
    backend.batchnorm_forward_blocks(x, shift, sums, sizes, channels_last, first)


def backward_blocks(backend, x, shift, sums, sizes, channels_last, relu, first):
    dy = special(x.shape, x.dtype, 9)
    backend.batchnorm_backward_blocks(
        dy, x, *channels(x.dtype, sizes[1]), sums, sizes, channels_last, relu, first
    )


@pytest.mark.more
@pytest.mark.parametrize("add", [forward_blocks, backward_blocks])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ss.info()["isas"])
def test_kernels_add_the_twin_s_blocks_from_any_term_on(isa, dtype, channels_last, add):
    ss.set_isa(isa)
    for sizes in SIZES:
        N, C, S = sizes
        x, shift = special(N * C * S, dtype, 5, finite=False), special((C,), dtype, 6)
        for first in sorted({0, min(1, N * S), N * S // 3, N * S}):
            room = -(-(N * S - first) // 1024)
            for blocks in sorted({room, room // 2}):
                expected, found = np.empty((2, 2 * blocks * C))
                add(reference, x, shift, expected, sizes, channels_last, True, first)
                for threads in (1, 3):
                    ss.set_num_threads(threads)
                    add(cpu, x, shift, found, sizes, channels_last, True, first)
                    same(found, expected, f"{sizes} from {first}")


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", [cpu, reference])
def test_the_halves_are_the_whole_pass(backend, dtype, channels_last, relu):
    for sizes in SIZES:
        N, C, S = sizes
        if N * S < 2:
            continue
        layout = sizes, channels_last
        x, dy = special(N * C * S, dtype, 5), special(N * C * S, dtype, 9)
        gamma, beta, _, _ = channels(dtype, C)
        shape = (2, -1, C) if channels_last else (C, 2, -1)
        sums = np.empty(2 * C * -(-N * S // 1024))

        def totals(sums, C=C, shape=shape, axis=1 if channels_last else 2):
            blocks = np.moveaxis(sums.reshape(shape), axis, 0)
            return backend.pair_sums(np.ascontiguousarray(blocks).reshape(-1), 1, len(blocks), 2 * C)

        def results(C=C, x=x):
            return [np.empty_like(x), *np.empty((2, C), dtype)], list(np.empty((2, C)))

        whole, whole64 = results()
        backend.batchnorm_forward(x, gamma, beta, *whole, *whole64, *layout, relu, 1e-5)
        shift = np.ascontiguousarray((x.reshape(-1, C) if channels_last else x.reshape(N, C, S)[0].T)[0])
        backend.batchnorm_forward_blocks(x, shift, sums, *layout, 0)
        halves, halves64 = results()
        backend.batchnorm_forward_apply(
            x, shift, gamma, beta, totals(sums), *halves, *halves64, *layout, relu, 1e-5, N * S
        )
        for a, b in zip(halves + halves64, whole + whole64, strict=True):
            same(a, b, str(sizes))

        statistics = whole[1:]
        whole, halves = results()[0], results()[0]
        backend.batchnorm_backward(dy, x, gamma, beta, *statistics, *whole, *layout, relu)
        backend.batchnorm_backward_blocks(dy, x, gamma, beta, *statistics, sums, *layout, relu, 0)
        backend.batchnorm_backward_apply(
            dy, x, gamma, beta, *statistics, totals(sums), *halves, *layout, relu, N * S
        )
        for a, b in zip(halves, whole, strict=True):
            same(a, b, str(sizes))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ss.info()["isas"])
def test_any_offset_and_nothing_outside_is_touched(isa, dtype, channels_last):
    ss.set_isa(isa)
    N, C, S = sizes = (3, 5, 700)
    gamma, beta, mean, inv = channels(dtype, C)
    layout, expected = (sizes, channels_last), None
    for offset in (0, 1, 3):
        memories = []

        def placed(values, offset=offset, memories=memories):
            """A copy at that offset, between values that must stay."""
            memory = np.full(values.size + 16, 7, values.dtype)
            memories.append(memory)
            view = memory[8 + offset : 8 + offset + values.size]
            view[...] = values
            return view

        x, dy = (placed(special(N * C * S, dtype, seed)) for seed in (5, 9))
        vectors = [placed(v) for v in (gamma, beta, mean, inv)]
        sums = [placed(np.zeros(2 * C * 3)) for _ in range(2)]
        results = [placed(np.zeros_like(v)) for v in (x, mean, inv, x, mean, inv)]
        doubles = [placed(np.zeros(C)) for _ in range(2)]
        cpu.batchnorm_forward_blocks(x, vectors[2], sums[0], *layout, 0)
        cpu.batchnorm_backward_blocks(dy, x, *vectors, sums[1], *layout, True, 0)
        totals = [placed(s[: 2 * C].copy()) for s in sums]
        cpu.batchnorm_forward_apply(
            x, vectors[2], *vectors[:2], totals[0], *results[:3], *doubles, *layout, True, 1e-5, N * S
        )
        cpu.batchnorm_backward_apply(dy, x, *vectors, totals[1], *results[3:], *layout, True, N * S)
        found = [*sums, *results, *doubles]
        expected = expected or [a.copy() for a in found]
        for a, b in zip(found, expected, strict=True):
            same(a, b, f"offset {offset}")
        for memory in memories:
            assert (memory[: 8 + offset] == 7).all()
            assert (memory[-8 + offset :] == 7).all()


def test_the_bindings_check_what_is_written():
    x, shift, sizes = np.zeros(6, np.float32), np.zeros(3, np.float32), (2, 3, 1)
    for sums, first in ((np.zeros(6), -1), (np.zeros(6), 3), (np.zeros(12), 0), (np.zeros(7), 0)):
        with pytest.raises(ValueError, match="expected"):
            _core.batchnorm_forward_blocks(x, shift, sums, sizes, False, first)
    with pytest.raises(ValueError, match="expected contiguous arrays"):
        _core.batchnorm_forward_apply(
            *(
                x,
                shift,
                shift,
                shift,
                np.zeros(5),
                x.copy(),
                *np.zeros((2, 3), np.float32),
                *np.zeros((2, 3)),
            ),
            *(sizes, False, False, 1e-5, 2),
        )
