"""Every option of a step on a GPU, run by fibers on the host (host_cupy): the bits of the reference."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import host_cupy
import option_grid
import samestep as ss
from bits import same_bits
from host_cupy import device, ndarray
from option_grid import BF16, F16, F32
from samestep.backends import gpu
from samestep.backends.gpu import kernels as sizes
from samestep.backends.reference import sums
from samestep.proof.vectors import finite_values

RUN, BLOCK = sizes.RUN, sizes.SUM_BLOCK
SIZES = (0, 1, 7, 1000, sizes.ITEM + 901)


def on_host(optimizer: Any) -> list[np.ndarray]:
    """Parameters and states; every NaN of 16 bits is one, which isnan of ml_dtypes would warn of."""
    arrays = [*optimizer.params, *(s for states in optimizer.state.values() for s in states)]
    return [plain(a.get() if isinstance(a, ndarray) else a) for a in arrays]


def plain(a: np.ndarray) -> np.ndarray:
    if a.dtype.name not in ("float16", "bfloat16"):
        return a
    bits, infinity = a.view(np.uint16), 0x7C00 if a.dtype == np.float16 else 0x7F80
    return np.where((bits & 0x7FFF) > infinity, 0xFFFF, bits)


def twin(optimizer: Any, make: Any) -> Any:
    """The same optimizer on the stand-in for a GPU."""
    other = make([device(w) for w in optimizer.params])
    assert other.backend == "cuda"
    other.load_state_dict(optimizer.state_dict())
    return other


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the host reads an array of the GPU, for which it waits: the stream."""
    found: list[int] = []
    monkeypatch.setattr(ndarray, "read_on", found)
    return found


class TestGrid:
    @pytest.mark.parametrize(
        ("i", "form", "name"), option_grid.combinations(), ids=lambda part: str(part).replace(" ", "-")
    )
    def test_every_option_with_every_form_of_storage(self, kernels, i, form, name):
        one, grads, scale = option_grid.of_combination(i, form, name, SIZES, backend="reference")
        arguments = {k: v for k, v in one.options.arguments().items() if k != "copy_grads"}
        case = next(c for c in option_grid.CASES if c.rule == one.rule)
        decay = one.groups[0]["weight_decay"]
        other = twin(one, lambda params: case.make(params, weight_decay=decay, **arguments))
        kernels.launches.clear()
        for step in range(2):
            mine, theirs = [g.copy() for g in grads], [device(g) for g in grads]
            if step:
                mine[3] = theirs[3] = None
            norms = one.step(mine, scale=scale), other.step(theirs, scale=scale)
            if one.options.clip_norm is not None:
                same_bits([np.array(float(norms[1]))], [np.array(norms[0])])
            same_bits(on_host(other), on_host(one))
            same_bits(
                *(
                    [plain(np.asarray(getattr(g, "host", g))) for g in gs if g is not None]
                    for gs in (theirs, mine)
                )
            )
        assert (other.steps, other.t) == (one.steps, one.t)
        stepped = [name for name, _, _ in kernels.launches if name.startswith("step_")]
        assert len(stepped) == 2, "one launch a list"

    @pytest.mark.parametrize("form", option_grid.STORED)
    def test_the_first_states_and_what_a_step_makes_of_them(self, kernels, form):
        dtype, stored = option_grid.STORED[form]
        w = option_grid.values(3000, dtype, 4)
        one = ss.AdaGrad(w, lr=0.1, ema=0.5, initial_accumulator=0.3, **stored)
        other = ss.AdaGrad(device(w), lr=0.1, ema=0.5, initial_accumulator=0.3, **stored)
        same_bits(on_host(other), on_host(one))
        g = finite_values(3000, F32, 5).astype(dtype)
        one.step(g)
        other.step(device(g))
        same_bits([other.iterate[0].get()], one.iterate)  # now a lower half is not zero

    @pytest.mark.parametrize("threads", [32, 96, 1024])
    def test_any_number_of_threads(self, kernels, monkeypatch, threads):
        monkeypatch.setattr(sizes, "THREADS", threads)
        params = [option_grid.values(n, BF16, n) for n in (1, 5000, 70_001)]
        options = {"clip_norm": 2.0, "ema": 0.5, "zero_grads": True, "stochastic_rounding": 3}
        one = ss.Adam(params, lr=0.1, backend="reference", **options)
        other = twin(one, lambda there: ss.Adam(there, lr=0.1, **options))
        with np.errstate(all="ignore"):
            grads = [finite_values(w.size, F32, 7).astype(BF16) for w in params]
        one.step([g.copy() for g in grads])
        other.step([device(g) for g in grads])
        same_bits(on_host(other), on_host(one))

    def test_arrays_that_lie_off_the_borders_of_packs(self, kernels):
        """By one or two elements; each kind of array in turn."""
        for off in range(4):
            w = ndarray(np.zeros(103, BF16)[off : off + 99])
            w.host[...] = finite_values(99, F32, 1)
            here = w.get()
            options = {"ema": 0.5, "stochastic_rounding": 5, "state_dtype": "param"}
            one, other = (ss.Adam(a, lr=0.1, **options) for a in (here, w))
            g = finite_values(99, F32, 2).astype(BF16)
            for _ in range(2):
                one.step(g)
                other.step(device(g))
            same_bits(on_host(other), on_host(one))

    def test_all_types_in_one_list(self, kernels):
        params = [finite_values(n, F32, n).astype(t) for n, t in ((5, F32), (9, BF16), (7, "f8"), (3, F16))]
        there = [device(w) for w in params]
        one, other = (ss.Adam(ws, lr=0.1, clip_norm=0.5) for ws in (params, there))
        for _ in range(3):
            one.step([w.copy() for w in params])
            other.step([device(w.host) for w in there])
        same_bits(on_host(other), on_host(one))
        assert [name for name, _, _ in kernels.launches if "step" in name] == 3 * [
            "step_adam_outside_options_float32",
            "step_adam_outside_stored_float32",
            "step_adam_outside_options_float64",
        ]

    def test_more_groups_than_a_launch_takes(self, kernels):
        values = finite_values(200, F32, 1)
        one, other = (
            ss.Adam([{"params": to(v[None]), "lr": 0.01 * i} for i, v in enumerate(values)], weight_decay=0.5)
            for to in (np.array, device)
        )
        for optimizer, to in ((one, np.array), (other, device)):
            for _ in range(2):
                optimizer.step([to(v[None]) for v in values])
        same_bits(on_host(other), on_host(one))
        formed = [name for name, _, _ in kernels.launches if name == "form_updates_adam_outside"]
        assert len(formed) == 2 * math.ceil(200 / (sizes.HYPER // 5))
        assert (other.steps, other.t) == (one.steps, one.t)


class TestNorm:
    def test_is_that_of_the_reference(self, kernels, reads):
        """Around blocks, runs, and how tensors pair; some without a gradient; nothing is waited for."""
        counts = (3, 0, BLOCK, BLOCK + 1, RUN - 1, RUN, RUN + 1, 3 * RUN + 5, 1, 2 * BLOCK, 0)
        for dtype in (F32, np.dtype(np.float64), F16, BF16):
            grads = [(finite_values(n, F32, 3 + n) * 3).astype(dtype) for n in counts]
            optimizer = ss.SGD([device(np.zeros_like(g)) for g in grads], lr=0.5, clip_norm=1.0)
            for left_out in ((), (2, 7), (0, 1, 4), tuple(range(11))):
                given = [None if i in left_out else g for i, g in enumerate(grads)]
                reads.clear()
                norm = optimizer.step([None if g is None else device(g) for g in given], scale=-0.7)
                assert reads == []
                assert isinstance(norm, ndarray)
                assert (norm.shape, norm.dtype) == ((), np.float64)
                wide = [g.astype(np.float64) for g in given if g is not None]
                assert norm.host == abs(-0.7) * sums.global_norm(wide)

    def test_each_step_has_its_own(self, kernels):
        optimizer = ss.SGD(device(np.zeros(2)), lr=0.5, clip_norm=1.0)
        norms = [optimizer.step(device(np.full(2, x))) for x in (3.0, 4.0)]
        assert [float(norm) for norm in norms] == [math.sqrt(18), math.sqrt(32)]

    def test_goes_by_the_elements_in_c_order(self, kernels):
        values = finite_values(3 * BLOCK, F32, 2).reshape(3, BLOCK)
        for dtype in (F32, BF16):
            w = np.zeros((3, BLOCK), dtype, order="F")
            g = np.asfortranarray(values.astype(dtype))
            one, other = (
                ss.SGD([a, b], lr=0.5, clip_norm=1.0)
                for a, b in ((w.copy("F"), w.copy()), (ndarray(w.copy("F")), ndarray(w.copy())))
            )
            for _ in range(2):
                expected = one.step([g, np.ascontiguousarray(g)])
                assert float(other.step([ndarray(g), ndarray(np.ascontiguousarray(g))])) == expected
            same_bits(on_host(other), on_host(one))

    def test_launches(self, kernels):
        g = device(np.ones(3, np.float32))
        optimizer = ss.Adam(device(np.ones(3, np.float32)), lr=0.5, clip_norm=1.0, nonfinite="skip")
        optimizer.step(g)
        kernels.launches.clear()
        optimizer.step(g)
        assert [name for name, _, _ in kernels.launches] == [
            "square_gradients_float32",
            "pair_squares",
            "norm_float64",
            "form_updates_adam_outside",
            "step_adam_outside_options_float32",
        ]


def pair_of(**options: Any) -> tuple[Any, Any]:
    """An optimizer of two parameters on the CPU, and on the stand-in for a GPU."""
    values = [finite_values(n, F32, n) for n in (5, 3000)]
    return tuple(ss.Adam([{"params": to(v)} for v in values], lr=0.1, **options) for to in (np.array, device))


def gradients(bad: float | None = None) -> tuple[list[np.ndarray], list[ndarray]]:
    grads = [finite_values(n, F32, 9 + n) for n in (5, 3000)]
    if bad is not None:
        grads[1][2999] = bad
    return [g.copy() for g in grads], [device(g) for g in grads]


class TestNonfinite:
    @pytest.mark.parametrize("more", [{}, {"clip_norm": 0.5}, {"zero_grads": True, "ema": 0.5}], ids=str)
    @pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
    def test_a_step_is_left_out_and_nothing_is_read(self, kernels, reads, bad, more):
        one, other = pair_of(nonfinite="skip", **more)
        for value in (None, bad, None, bad):
            mine, theirs = gradients(value)
            one.step(mine)
            other.step(theirs)
            assert reads == []
            same_bits([g.host for g in theirs], mine)
        assert other.skipped is one.skipped is True
        assert len(reads) == 1
        assert (other.t, other.steps) == (one.t, one.steps) == (2, [2, 2])
        assert len(reads) == 1
        same_bits(on_host(other), on_host(one))
        mine, theirs = gradients()
        one.step(mine)
        other.step(theirs)
        assert (other.skipped, other.t) == (False, 3)
        same_bits(on_host(other), on_host(one))

    @pytest.mark.parametrize("dtype", [np.float64, F16, BF16], ids=str)
    def test_in_every_type(self, kernels, dtype):
        w = device(np.ones(3 * RUN, dtype))
        optimizer = ss.SGD(w, lr=0.5, nonfinite="skip")
        for at in (0, RUN - 1, RUN, 3 * RUN - 1):
            g = np.ones(3 * RUN, dtype)
            g[at] = np.inf
            optimizer.step(device(g))
            assert optimizer.skipped
        assert (w.host == 1).all()
        optimizer.step(device(np.ones(3 * RUN, dtype)))
        assert not optimizer.skipped
        assert (w.host == 0.5).all()

    def test_finite_gradients_whose_norm_is_not(self, kernels):
        for optimizer, to in (
            (ss.SGD(np.ones(4), lr=0.5, nonfinite="skip", clip_norm=1.0), np.array),
            (ss.SGD(device(np.ones(4)), lr=0.5, nonfinite="skip", clip_norm=1.0), device),
        ):
            norm = optimizer.step(to(np.full(4, 1e300)))
            assert float(norm) == math.inf
            assert not optimizer.skipped
            assert optimizer.t == 1
            assert on_host(optimizer)[0].tolist() == [1.0] * 4

    def test_what_needs_the_count_reads_it(self, kernels, reads):
        """Copies, state dicts, groups, and what they are loaded into: all as on the CPU."""
        for use in (
            copy.copy,
            copy.deepcopy,
            lambda o: pickle.loads(pickle.dumps(o)),
            lambda o: (
                o.add_group({"params": np.ones(2, F32) if o.backend == "cpu" else device(np.ones(2, F32))}),
                o,
            )[1],
            lambda o: (o.load_state_dict({**o.state_dict(), "t": 5}), o)[1],
            lambda o: (o.record_stats(False), o)[1],
        ):
            one, other = pair_of(nonfinite="skip")
            for value in (None, math.nan):
                mine, theirs = gradients(value)
                one.step(mine)
                other.step(theirs)
            one, other = use(one), use(other)
            assert reads
            assert (other.t, other.steps, other.skipped) == (one.t, one.steps, one.skipped)
            assert other.skipped
            mine, theirs = gradients()
            more = len(one.params) - 2
            one.step([*mine, *[None] * more])
            other.step([*theirs, *[None] * more])
            assert (other.t, other.steps, other.skipped) == (one.t, one.steps, one.skipped)
            same_bits(on_host(other), on_host(one))
            reads.clear()

    def test_it_is_read_on_the_stream_of_the_step(self, kernels, reads):
        _, other = pair_of(nonfinite="skip")
        with host_cupy.Stream(77):
            other.step(gradients(math.nan)[1])
        assert other.skipped
        assert reads == [77]

    def test_gradients_that_change_while_a_step_is_open(self, kernels, reads):
        one, other = pair_of(nonfinite="skip")
        for value, left_out in ((None, 0), (math.inf, 2), (None, 1), (math.nan, 0), (None, 2), (None, 1)):
            mine, theirs = gradients(value)
            if left_out < 2:
                mine[left_out] = theirs[left_out] = None
            one.step(mine)
            other.step(theirs)
        assert reads == []
        assert (other.t, other.steps) == (one.t, one.steps)
        same_bits(on_host(other), on_host(one))

    def test_schedules_follow_the_steps_that_were_made(self, kernels):
        schedule = ss.schedules.inverse_time(0.5, decay=0.5)
        one, other = pair_of(nonfinite="skip")
        one.lr = other.lr = schedule
        for value in (None, math.nan, None):
            mine, theirs = gradients(value)
            one.step(mine)
            other.step(theirs)
            assert other.groups[0]["lr"] == one.groups[0]["lr"]
        assert other.t == one.t == 2
        same_bits(on_host(other), on_host(one))

    def test_raise_waits_and_changes_nothing(self, kernels, reads):
        one, other = pair_of(nonfinite="raise", zero_grads=True)
        before = on_host(other)
        reads.clear()
        mine, theirs = gradients(math.nan)
        with pytest.raises(FloatingPointError, match=r"grads\[1\]: infinite or NaN; nothing was changed"):
            other.step(theirs)
        same_bits([g.host for g in theirs], mine)
        same_bits(on_host(other), before)
        assert (other.t, other.skipped) == (0, True)
        assert "step_adam_outside_stored_float32" not in [name for name, _, _ in kernels.launches]
        mine, theirs = gradients()
        one.step(mine)
        reads.clear()
        other.step(theirs)
        assert len(reads) == 1
        same_bits(on_host(other), on_host(one))
        assert (other.t, other.skipped) == (1, False)

    def test_an_interrupted_step_stays_known(self, kernels, monkeypatch):
        _, other = pair_of(nonfinite="skip")
        other.step(gradients()[1])
        launch, left = gpu.plan.launch_kernel, [2]

        def interrupted(*arguments: Any) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            launch(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(gpu.plan, "launch_kernel", interrupted)
            with pytest.raises(KeyboardInterrupt):
                other.step(gradients()[1])
        for each in (other, copy.deepcopy(other)):
            with pytest.raises(RuntimeError, match="an earlier step was interrupted"):
                each.step(gradients()[1])


FORMS = {name: form for name, form in option_grid.STORED.items() if name != "float32"}


class TestRecorded:
    def run(self, path, place, dtype, **options):
        params = [option_grid.values(n, dtype, n) for n in (7, 0, 1024, 5001)]
        optimizer = ss.Adam([place(w) for w in params], lr=0.1, weight_decay=0.1, **options)
        with optimizer.record(path):
            for step in range(3):
                with np.errstate(all="ignore"):
                    grads = [finite_values(w.size, F32, 7 + step).astype(dtype) for w in params]
                if step == 1:
                    grads[2] = None
                    grads[3][3] = np.inf
                optimizer.step([None if g is None else place(g) for g in grads], scale=0.5)
        return path.read_bytes()

    @pytest.mark.parametrize("form", option_grid.STORED)
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"nonfinite": "skip", "clip_norm": 0.5},
            {"ema": 0.5, "zero_grads": True, "decoupled_weight_decay": True, "nonfinite": "skip"},
        ],
        ids=str,
    )
    def test_the_file_is_the_cpu_s(self, kernels, tmp_path, form, options):
        dtype, stored = option_grid.STORED[form]
        expected = self.run(tmp_path / "cpu.jsonl", np.array, dtype, **stored, **options)
        assert self.run(tmp_path / "gpu.jsonl", device, dtype, **stored, **options) == expected
        assert len(expected.splitlines()) == 5 - ("nonfinite" in options)

    def test_every_other_step_of_which_one_is_left_out(self, kernels, tmp_path):
        found = []
        for optimizer, i in zip(pair_of(nonfinite="skip"), range(2), strict=True):
            path = tmp_path / f"{i}.jsonl"
            with optimizer.record(path, every=2):
                for value in (None, math.nan, math.nan, None, None, None):
                    optimizer.step(gradients(value)[i])
            found.append(path.read_bytes())
        assert found[0] == found[1]


class TestRefused:
    def test_a_folder_for_the_state(self, kernels, tmp_path):
        with pytest.raises(ValueError, match=r"^state_dir: got .* mapped into main memory, .*backend='cpu'"):
            ss.Adam(device(np.ones(3, np.float32)), lr=0.1, state_dir=tmp_path)
        assert not kernels.launches

    def test_gradients_that_cannot_be_set_to_zero(self, kernels):
        room = device(np.ones(5))
        optimizer = ss.SGD([device(np.ones(3)), device(np.ones(3))], lr=0.5, zero_grads=True)
        with pytest.raises(ValueError, match=r"grads\[1\]: overlaps grads\[0\]"):
            optimizer.step([room[:3], room[2:]])

        class Other:
            def __init__(self, host: np.ndarray) -> None:
                self.host = host

            @property
            def __cuda_array_interface__(self) -> dict[str, Any]:
                return {**self.host.__array_interface__, "version": 3, "data": (self.host.ctypes.data, True)}

        with pytest.raises(ValueError, match=r"^grads\[1\]: the array is read-only"):
            optimizer.step([room[:3], Other(np.ones(3))])
        assert optimizer.t == 0
        assert [w.host.tolist() for w in optimizer.params] == [[1.0] * 3] * 2
        g = np.ones(3)
        optimizer.step([room[:3], host_cupy.ndarray(g)])
        assert g.tolist() == [0.0] * 3

    def test_parameters_that_an_option_is_not_for(self, kernels):
        with pytest.raises(TypeError, match="expected bfloat16 for master='split'"):
            ss.Adam(device(np.ones(3, F16)), lr=0.1, master="split")
        with pytest.raises(TypeError, match="expected bfloat16 for stochastic_rounding"):
            ss.Adam(device(np.ones(3, F32)), lr=0.1, stochastic_rounding=1)
