"""Fingerprints by the GPU's kernels, run by fibers on the host (host_cupy): of arrays, and of a step."""

import ml_dtypes
import numpy as np
import pytest

import host_cupy
import samestep as ss
from bits import same_bits
from host_cupy import device
from samestep.backends import cpu, gpu, reference
from samestep.backends.face import STEPPED, Tensor
from samestep.backends.options import Options
from samestep.backends.reference.fingerprint import mix
from samestep.proof.vectors import HYPER, random_values

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


# Options with which a step takes each kind of kernel.
WAYS = {
    "options": Options(),
    "options, asked for": Options(maximize=True, clip_value=0.5, flush_subnormals=True),
    "decoupled": Options(decoupled_weight_decay=True, clip_value=0.5),
}


def finish(total, nbytes):
    """The fingerprint of an array, of its sum over blocks."""
    return int(mix(np.array([total], np.uint64) ^ mix(np.array([nbytes], np.uint64)))[0])


class Steps:
    """A rule bound to tensors twice: on the host's stand-in for a GPU, and by the reference."""

    def __init__(self, rule, params, options=None, decay=0.0):
        (self.row,) = (row for row in cpu.rules() if row.name == rule)
        self.hyper = [HYPER["other"].get(name, 0.5) for name in self.row.hyper]
        self.here = [Tensor(w, [np.zeros_like(w) for _ in self.row.states]) for w in params]
        self.there = [Tensor(device(w), [device(s) for s in states]) for w, states, *_ in self.here]
        counts = np.zeros(len(params) + 1, np.int64)
        self.reference = reference.Plan(rule, self.here, counts, options)
        self.plan = gpu.Plan(rule, self.there, counts.copy(), options)
        for plan in (self.reference, self.plan):
            plan.set_weight_decay([decay])
        self.sums = np.full((len(params), 2 + len(self.row.states)), 2**64 - 1, np.uint64)

    def step(self, grads, sums=True):
        """Both step, with the same results; those of the GPU have the fingerprints of its sums."""
        placed = [None if g is None else device(g) for g in grads]
        assert self.plan.step(placed, self.hyper, 0.7, self.sums if sums else None) == STEPPED
        assert self.reference.step(grads, self.hyper, 0.7) == STEPPED
        for g, here, there, row in zip(placed, self.here, self.there, self.sums, strict=True):
            arrays = [a.get() for a in there.arrays()]
            same_bits(arrays, here.arrays())
            if sums and (g is None or not g.flags.c_contiguous):
                assert not row.any()
            elif sums:
                for total, a in zip(row, (g.get(), *arrays), strict=True):
                    assert finish(total, a.nbytes) == ss.fingerprint(a)


class TestSteps:
    @pytest.mark.parametrize("way", WAYS)
    def test_every_rule(self, kernels, case, way):
        """Of all sizes, aligned and not, beside tensors that sit out; numbers of every kind."""
        sizes = [0, 1, 3, 255, 256, 257, 100, 1000, gpu.kernels.ITEM + 5]
        room = random_values(sum(sizes) + 2 * len(sizes), case.dtype, 1)
        places = np.cumsum([0, *(n + 1 + i % 2 for i, n in enumerate(sizes))])
        steps = Steps(
            case.rule,
            [room[p : p + n] for p, n in zip(places[:-1], sizes, strict=True)],
            WAYS[way],
            0.25 if way != "options" else 0.0,
        )
        for t in range(3):
            grads = [random_values(n, case.dtype, 3 + t) for n in sizes]
            steps.step([None if (i + t) % 5 == 4 else g for i, g in enumerate(grads)])
        launched = {name for name, _, _ in kernels.launches if name.startswith("step_")}
        assert launched == {f"step_{case.rule}_{way.partition(',')[0]}_fingerprints_{case.dtype}"}

    @pytest.mark.parametrize("threads", [32, 96, 1024])
    def test_any_number_of_threads(self, kernels, monkeypatch, threads):
        monkeypatch.setattr(gpu.kernels, "THREADS", threads)
        steps = Steps("adam_outside", [random_values(n, np.dtype(np.float64), 1) for n in (1, 5000, 10_001)])
        steps.step([random_values(n, np.dtype(np.float64), 3) for n in (1, 5000, 10_001)])

    def test_types_and_layouts_in_one_list(self, kernels):
        """What does not lie in C order has no sums."""
        x = random_values(600, np.dtype(np.float32), 1).reshape(20, 30)
        y = random_values(600, np.dtype(np.float64), 1).reshape(20, 30)
        params = [x, y, np.asfortranarray(x), np.asfortranarray(y), x[:1].T.copy("F")]
        Steps("momentum_torch", params).step([g + 1 for g in params])

    def test_a_step_without_sums_takes_the_kernels_without_and_the_next_begins_at_zero(self, kernels):
        w = np.ones(300, np.float32)
        steps = Steps("sgd", [w, w.copy()])
        for sums in (True, False, True, True):
            steps.step([w.copy(), None], sums)
        names = [name for name, _, _ in kernels.launches if name.startswith("step_")]
        assert names == [
            f"step_sgd_options{'_fingerprints' * sums}_float32" for sums in (True, False, True, True)
        ]

    def test_a_gradient_that_does_not_fit_and_a_kernel_that_cannot_be_had(self, kernels, monkeypatch):
        steps = Steps("sgd", [np.ones(3)])
        before = steps.sums.copy()
        assert steps.plan.step([device(np.ones(4))], steps.hyper, 1.0, steps.sums) == 0

        def fails(*_):
            raise host_cupy.CUDADriverError("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(gpu.plan, "ready_kernel", fails)
            with pytest.raises(RuntimeError, match="out of memory"):
                steps.plan.step([device(np.ones(3))], steps.hyper, 1.0, steps.sums)
        assert steps.there[0].w.host.tolist() == [1.0] * 3
        assert (steps.sums == before).all()
        steps.step([np.ones(3)])

    def test_an_interrupt_while_sums_are_read(self, kernels, monkeypatch):
        """The step counts: it was made."""
        steps, counts = Steps("sgd", [np.zeros(3)]), np.zeros(2, np.int64)
        plan = gpu.Plan("sgd", steps.there, counts)
        g = device(np.ones(3))

        def interrupted(_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(host_cupy.ndarray, "get", interrupted)
            with pytest.raises(KeyboardInterrupt):
                plan.step([g], [0.5], 1.0, steps.sums)
        assert counts.tolist() == [1, 1]
        assert plan.step([g], [0.5], 1.0, steps.sums) == STEPPED
        assert steps.there[0].w.host.tolist() == [-1.0] * 3
