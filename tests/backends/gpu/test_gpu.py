"""The GPU backend without a GPU: it launches csrc/gpu/kernels.cu, run by fibers on the host (host_cupy).
Some 20 seconds.
"""

import copy
import errno
import os
import pickle
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import host_cupy
import samestep as ss
from bits import same_bits
from host_cupy import ndarray
from samestep.backends import gpu
from samestep.proof import golden, verify


@pytest.fixture
def kernels(cuda_on_host: Path, tmp_path: Path) -> Iterator[host_cupy.HostKernels]:
    with host_cupy.installed(cuda_on_host, tmp_path) as kernels:
        yield kernels


def device(a: Any, number: int = 0) -> ndarray:
    return ndarray(np.array(a), number)


class TestBits:
    @pytest.mark.parametrize("threads", [32, 96, 256, 1024])
    def test_golden_digests(self, kernels, monkeypatch, threads):
        """Large programs with one block size; long ones, of 10 000 steps, with one and of one rule."""
        monkeypatch.setattr(gpu.kernels, "THREADS", threads)
        for program in (p for group in golden.programs().values() for p in group if str(p) in golden.DIGESTS):
            long = isinstance(program, golden.RuleProgram) and program.steps > 100
            large = isinstance(program, golden.RuleProgram) and program.size > 10_000
            if (
                golden.runs_on_gpu(program)
                and (threads == 256 or not large)
                and (not long or (threads == 32 and program.case.rule == "adam_outside"))
            ):
                found = golden.program_digest(program, backend="cuda")
                assert found == golden.DIGESTS[str(program)], str(program)
        assert {n for _, _, n in kernels.launches} == {threads}

    def test_one_launch_steps_a_list(self, kernels, case):
        """Of all sizes and offsets, aligned and not, and beside a tensor that sits out."""
        ITEM = gpu.kernels.ITEM
        sizes = [0, 1, 3, 4, 5, ITEM - 1, ITEM, ITEM + 1, 2 * ITEM + 7, 100]
        rng = np.random.default_rng(0)
        room = rng.standard_normal((3, sum(sizes) + 8 * len(sizes))).astype(case.dtype)
        places = np.cumsum([0, *(n + 1 + i % 3 for i, n in enumerate(sizes))])
        cut = [[r[p : p + n] for p, n in zip(places[:-1], sizes, strict=True)] for r in room]
        expected = [w.copy() for w in cut[0]]
        there = [ndarray(w) for w in cut[0]]
        one, other = case.make(expected, backend="reference"), case.make(there)
        assert other.backend == "cuda"
        other.step([ndarray(g) for g in cut[1]])
        one.step(cut[1])
        kernels.launches.clear()
        skipped = [None if i == 3 else g for i, g in enumerate(cut[2])]
        one.step(skipped)
        other.step([None if g is None else ndarray(g) for g in skipped])
        assert [name for name, _, _ in kernels.launches] == ["write_words", f"step_{case.rule}_{case.dtype}"]
        same_bits([w.host for w in there], expected)
        for name, states in one.state.items():
            same_bits([s.host for s in other.state[name]], states)
        assert other.steps == one.steps

    def test_gradients_that_stay_are_not_announced_again(self, kernels):
        w, g = device(np.zeros(5)), device(np.ones(5))
        optimizer = ss.Adam(w, lr=0.1)
        optimizer.step(g)
        kernels.launches.clear()
        optimizer.step(g)
        assert [name for name, _, _ in kernels.launches] == ["step_adam_outside_float64"]

    def test_none_in_the_place_of_a_gradient_that_is_gone(self, kernels):
        w, v, g = device(np.zeros(3)), device(np.zeros(3)), device(np.ones(3))
        optimizer = ss.SGD([w, v], lr=1.0)
        optimizer.step([device(np.ones(3)), g])  # nobody holds the first one any more
        optimizer.step([None, g])
        assert w.host.tolist() == [-1.0] * 3
        assert v.host.tolist() == [-2.0] * 3
        assert optimizer.steps == [1, 2]

    @pytest.mark.parametrize("launches", [0, 1])
    def test_a_step_that_was_interrupted(self, kernels, monkeypatch, launches):
        """As by a signal, before the first launch or between that and the second."""
        w, v = device(np.zeros(3)), device(np.zeros(3, np.float32))
        grads = [device(np.ones(3)), device(np.ones(3, np.float32))]
        optimizer = ss.Momentum([w, v], lr=1.0, momentum=0.5)
        optimizer.step(grads)
        saved = optimizer.state_dict()
        launch, left = gpu.plan.launch_kernel, [launches]

        def interrupted(*arguments: Any) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            launch(*arguments)

        monkeypatch.setattr(gpu.plan, "launch_kernel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(grads)
        monkeypatch.setattr(gpu.plan, "launch_kernel", launch)
        with pytest.raises(RuntimeError, match="an earlier step was interrupted"):
            optimizer.step(grads)
        w.host[:], v.host[:] = -1.0, -1.0
        optimizer.load_state_dict(saved)
        optimizer.step(grads)
        assert w.host.tolist() == v.host.tolist() == [-2.5] * 3
        assert optimizer.steps == [2, 2]

    def test_an_interrupted_step_is_known_in_all_that_comes_after(self, kernels, monkeypatch):
        """In copies, in what is saved, once the plan is made anew: until state and counts are put back."""

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        w, g = device(np.zeros(3)), device(np.ones(3))
        optimizer = ss.Momentum(w, lr=1.0, momentum=0.5)
        optimizer.step(g)
        with monkeypatch.context() as patch:
            patch.setattr(gpu.plan, "launch_kernel", interrupted)
            with pytest.raises(KeyboardInterrupt):
                optimizer.step(g)
        optimizer.record_stats(False)  # binds again
        for each in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            with pytest.raises(RuntimeError, match="an earlier step was interrupted"):
                each.step(g)
        saved = optimizer.state_dict()
        with pytest.raises(ValueError, match=r"got step count -2, expected a whole number >= 0"):
            optimizer.load_state_dict(saved)
        optimizer.add_group({"params": device(np.zeros(2))})
        with pytest.raises(RuntimeError, match="an earlier step was interrupted"):
            optimizer.step([g, device(np.ones(2))])

    @pytest.mark.parametrize("failing", ["compileProgram", "getCUBIN", "load", "get_function"])
    def test_a_kernel_that_cannot_be_had(self, kernels, monkeypatch, failing):
        """The second of the two that a step takes: nothing is changed, and the next step is a whole one."""
        w, v = device(np.ones(3)), device(np.ones(3))
        groups = [{"params": w}, {"params": v, "weight_decay": 0.5}]
        optimizer = ss.SGD(groups, lr=0.5, decoupled_weight_decay=True)
        grads = [device(np.ones(3))] * 2
        cuda, calls = sys.modules["cupy"].cuda, []
        place = cuda.nvrtc if failing in ("compileProgram", "getCUBIN") else cuda.function.Module
        original = getattr(place, failing)

        def fails(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 3:  # after those of write_words and of the first group
                raise cuda.nvrtc.NVRTCError("out of memory")
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(place, failing, fails)
            with pytest.raises(RuntimeError, match="out of memory"):
                optimizer.step(grads)
        assert w.host.tolist() == v.host.tolist() == [1.0] * 3
        assert optimizer.steps == [0, 0]
        optimizer.step(grads)
        assert w.host.tolist() == [0.5] * 3
        assert v.host.tolist() == [0.25] * 3

    def test_many_tensors_and_step_counts(self, kernels):
        """More words than a launch carries, and tensors that have made differing numbers of steps."""
        rng = np.random.default_rng(1)
        values = rng.standard_normal((300, 3))
        expected, there = list(values.copy()), [device(v) for v in values]
        one, other = ss.Adam(expected, lr=0.1), ss.Adam(there, lr=0.1)
        for t in range(4):
            grads = [None if (i + t) % 5 == 0 else values[i - t] for i in range(300)]
            one.step(grads)
            other.step([None if g is None else device(g) for g in grads])
        same_bits([w.host for w in there], expected)
        assert other.steps == one.steps

    def test_counters_that_were_loaded(self, kernels):
        """The same gradients as in the last step, but no longer the same numbers of steps."""
        values = np.ones((2, 3))
        expected, there = list(values.copy()), [device(v) for v in values]
        one, other = ss.Adam(expected, lr=0.1), ss.Adam(there, lr=0.1)
        grads = [device(v) for v in values]
        for optimizer, g in ((one, list(values)), (other, grads)):
            optimizer.step(g)
            optimizer.load_state_dict({**optimizer.state_dict(), "t": 7, "steps": [1, 7]})
            optimizer.step(g)
        same_bits([w.host for w in there], expected)
        assert expected[0][0] != expected[1][0]

    def test_both_types_in_one_list(self, kernels):
        given = [np.ones(3, np.float32), np.ones(4)]
        there = [device(a) for a in given]
        ss.RMSProp(there, lr=0.1).step(there_grads := [device(a) for a in given])
        ss.RMSProp(given, lr=0.1).step([g.get() for g in there_grads])
        same_bits([w.host for w in there], given)

    @pytest.mark.parametrize("axis", [None, 0, 1, 2])
    @pytest.mark.parametrize("shape", [(3, 2500, 7), (2, 1, 70), (0, 3, 2), (1, 1030, 1)])
    def test_canonical_sum(self, kernels, monkeypatch, shape, axis):
        monkeypatch.setattr(gpu.kernels, "THREADS", 64)
        x = np.random.default_rng(2).standard_normal(shape)  # float64: every addition rounds
        found = ss.canonical_sum(device(x), axis)
        same_bits([found.get()], [ss.canonical_sum(x, axis, backend="reference")])

    def test_long_sums_are_paired_in_several_launches(self, kernels):
        x = np.random.default_rng(3).standard_normal(gpu.kernels.PAIRED_ROWS * gpu.kernels.SUM_BLOCK + 5)
        assert float(ss.canonical_sum(device(x))) == float(ss.canonical_sum(x))
        assert [name for name, _, _ in kernels.launches] == ["sum_runs_values_float64", *["pair_rows"] * 2]

    @pytest.mark.parametrize("relu", [False, True])
    @pytest.mark.parametrize("shape", [(3, 5, 7, 5), (40, 33), (2, 3, 1100), (4, 1, 9), (3, 2, 2)])
    @pytest.mark.parametrize("axis", [1, -1])
    def test_batch_norm(self, kernels, monkeypatch, shape, axis, relu):
        monkeypatch.setattr(gpu.kernels, "THREADS", 64)
        rng = np.random.default_rng(4)
        x, dy = (
            golden.random_values(int(np.prod(shape)), np.dtype(np.float32), k).reshape(shape) for k in (1, 2)
        )
        dy[...] = rng.standard_normal(shape)
        gamma, beta = rng.standard_normal((2, shape[axis])).astype(np.float32)
        how = {"relu": relu, "axis": axis}
        mine = [device(a) for a in (x, gamma, beta)]
        found = ss.batchnorm_forward(*mine, **how)
        expected = ss.batchnorm_forward(x, gamma, beta, backend="reference", **how)
        same_bits([a.get() for a in found], list(expected))
        back = ss.batchnorm_backward(device(dy), *mine, *found[1:], **how)
        expected_back = ss.batchnorm_backward(dy, x, gamma, beta, *expected[1:], backend="reference", **how)
        same_bits([a.get() for a in back], list(expected_back))

    def test_layer(self, kernels):
        x = np.random.default_rng(5).standard_normal((50, 3)).astype(np.float32)
        one, other = ss.BatchNorm(3, relu=True), ss.BatchNorm(3, relu=True, backend="cuda")
        for _ in range(2):
            same_bits([other.forward(device(x)).get()], [one.forward(x)])
        same_bits([a.get() for a in other.backward(device(x))], list(one.backward(x)))
        same_bits([other.eval().forward(device(x)).get()], [one.eval().forward(x)])
        states = one.state_dict(), other.state_dict()
        same_bits(*([s[k] for k in ("running_mean", "running_var")] for s in states))
        other.load_state_dict(states[0])

    def test_mean_squared_error(self, kernels):
        rng = np.random.default_rng(6)
        Phi, y, w = rng.standard_normal((1100, 35)), rng.standard_normal(1100), rng.standard_normal(35)
        rows = rng.integers(0, 1100, 1500)
        one = ss.problems.MSE(Phi, y, scale="half_mean", backend="reference")
        other = ss.problems.MSE(device(Phi), device(y), scale="half_mean")
        same_bits([other.gradient(device(w)).get()], [one.gradient(w)])
        same_bits([other.gradient(device(w), rows).get()], [one.gradient(w, rows)])
        assert other.loss(device(w)) == one.loss(w)
        assert other.minimizer().get().tolist() == one.minimizer().tolist()

    def test_a_problem_whose_array_is_given_another_shape(self, kernels):
        Phi, y, w = np.arange(8.0).reshape(4, 2), np.ones(4), np.float64([1, -1])
        there = device(Phi)
        problem = ss.problems.MSE(there, device(y))
        there.shape = (2, 4)
        same_bits([problem.gradient(device(w)).get()], [ss.problems.MSE(Phi, y).gradient(w)])

    def test_verify_holds_the_gpu_to_the_reference(self, kernels, monkeypatch):
        some = {"sum float32": golden.programs()["sum float32"]}
        monkeypatch.setattr(verify, "programs", lambda: some)
        assert verify.run(lambda line: None)["gpu"] == "fibers on the host"
        monkeypatch.setattr(gpu.kernels, "WARP", 16)  # a fault: half of the blocks are left out
        failures = verify.run(lambda line: None)["failures"]
        assert failures
        assert all("fibers on the host" in line for line in failures)


class TestOptions:
    """Options and groups: those that run here have the bits of the reference, the others are refused."""

    @pytest.mark.parametrize("decoupled", [False, True])
    def test_with_groups_and_scale(self, kernels, case, decoupled):
        values, *grads = (golden.random_values(90, case.dtype, k) for k in (1, 3, 5))
        made = []
        for to, backend in ((np.array, "reference"), (device, "cuda")):
            params = [to(values[:40]), to(values[40:])]
            optimizer = case.make(
                [{"params": [params[0]]}, {"params": params[1], "weight_decay": 0.25}],
                weight_decay=0.125,
                decoupled_weight_decay=decoupled,
                maximize=True,
                clip_value=0.5,
                flush_subnormals=True,
                backend=backend,
            )
            optimizer.groups[1]["lr"] = 0.5
            for g in grads:
                optimizer.step([[to(g[:40])], to(g[40:])], scale=0.7)
            state = optimizer.state_dict()["state"]
            made.append([*params, *(a for arrays in state.values() for a in arrays)])
        same_bits([*(a.get() for a in made[1][:2]), *made[1][2:]], made[0])
        way = "decoupled" if decoupled else "options"
        stepped = [name for name, _, _ in kernels.launches if name.startswith("step_")]
        assert stepped == [f"step_{case.rule}_{way}_{case.dtype}"] * 4

    @pytest.mark.parametrize(
        ("option", "value"),
        [("maximize", True), ("clip_value", 0.5), ("flush_subnormals", True), ("weight_decay", 0.5)],
    )
    def test_one_by_one(self, kernels, option, value):
        g = golden.random_values(50, np.dtype(np.float32), 1)
        w = np.linspace(-1, 1, 50, dtype=np.float32)
        there = device(w)
        one, other = (ss.Adam(a, lr=0.1, **{option: value}) for a in (w, there))
        one.step(g)
        other.step(device(g))
        same_bits([there.get(), other.state["v"][0].get()], [w, one.state["v"][0]])
        assert kernels.launches[-1][0] == "step_adam_outside_options_float32"

    def test_a_group_without_decay_takes_the_plain_kernel(self, kernels):
        groups = [{"params": device(np.ones(3))}, {"params": device(np.ones(3)), "weight_decay": 0.5}]
        optimizer = ss.SGD(groups, lr=0.5, decoupled_weight_decay=True)
        optimizer.step([device(np.ones(3))] * 2)
        names = [name for name, _, _ in kernels.launches]
        assert names == ["write_words", "step_sgd_float64", "step_sgd_decoupled_float64"]
        assert [float(w[0]) for w in optimizer.params] == [0.5, 0.25]

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("clip_norm", 1.0),
            ("nonfinite", "skip"),
            ("zero_grads", True),
            ("ema", 0.9),
            ("state_dtype", "param"),
            ("master", "float32"),
            ("stochastic_rounding", 1),
            ("copy_dtype", "float16"),
            ("state_dir", "/nowhere"),
        ],
    )
    def test_the_others_are_refused(self, kernels, option, value):
        with pytest.raises(ValueError, match=rf"^{option}: got .* not on the GPU yet; .*backend='cpu'"):
            ss.Adam(device(np.ones(3, np.float32)), lr=0.1, **{option: value})
        assert not kernels.launches

    def test_groups_in_different_places(self, kernels):
        optimizer = ss.SGD([{"params": device(np.ones(2))}], lr=0.5)
        with pytest.raises(
            TypeError, match=r"params\[1\]\['params'\]: got numpy.ndarray, which is not on a GPU"
        ):
            optimizer.add_group({"params": np.ones(2)})
        with pytest.raises(ValueError, match=r"lives on GPU 1, expected GPU 0"):
            optimizer.add_group({"params": device(np.ones(2), 1)})
        assert len(optimizer.groups) == len(optimizer.params) == 1
        optimizer = ss.SGD(np.ones(2), lr=0.5)
        with pytest.raises(TypeError, match="lives on a GPU, where backend='cpu' does not reach"):
            optimizer.add_group({"params": device(np.ones(2))})

    def test_schedules_initial_state_and_checkpoints(self, kernels, tmp_path):
        pytest.importorskip("safetensors")
        values, g = np.linspace(-1, 1, 6), np.arange(6.0)
        here, there = values.copy(), device(values)
        arguments = {"lr": lambda t: 1.0 / t, "initial_accumulator": 0.5}
        one, other = ss.AdaGrad(here, **arguments), ss.AdaGrad(there, **arguments)
        one.step(g)
        other.step(device(g))
        other.save(tmp_path / "gpu.safetensors")
        again = ss.AdaGrad.load(tmp_path / "gpu.safetensors", there)
        again.lr = one.lr = 0.5
        one.step(g)
        again.step(device(g))
        assert again.backend == "cuda"
        same_bits([there.get(), again.state["r"][0].get()], [here, one.state["r"][0]])


class Tensor:
    """An array of another library, as torch's: by DLPack, which is told of streams, and by the interface."""

    def __init__(self, host: np.ndarray, streams: list[int] | None = None, number: int = 0) -> None:
        self.host, self.number = host, number
        self.streams = [] if streams is None else streams

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.number

    def __dlpack__(self, *, stream: int, max_version: Any = None, copy: Any = None) -> Any:
        assert host_cupy.Device.current == self.number
        self.streams.append(stream)
        return self.host.__dlpack__(max_version=max_version)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.host.__array_interface__, "version": 2}


class TestFrontDoor:
    """Errors before anything is written, and arrays of other libraries."""

    def test_a_gradient_in_main_memory(self, kernels):
        w = device(np.zeros(3))
        optimizer = ss.SGD([w], lr=0.1)
        with pytest.raises(TypeError, match=r"grads\[0\]: got numpy.ndarray, which is not on a GPU"):
            optimizer.step([np.ones(3)])
        assert (w.host == 0).all()
        assert optimizer.t == 0

    def test_a_gradient_on_a_gpu_for_a_parameter_in_main_memory(self, kernels):
        w = np.zeros(3)
        with pytest.raises(TypeError, match="grads: lives on a GPU, where backend='cpu' does not reach"):
            ss.SGD(w, lr=0.1).step(device(np.ones(3)))
        assert (w == 0).all()

    @pytest.mark.parametrize("backend", ["auto", "cuda"])
    def test_parameters_in_both_places(self, kernels, backend):
        with pytest.raises(TypeError, match=r"params\[1\]: got numpy.ndarray, which is not on a GPU"):
            ss.SGD([device(np.zeros(3)), np.zeros(3)], lr=0.1, backend=backend)

    def test_classes_derived_from_cupys(self, kernels):
        class Derived(ndarray):
            pass

        w, v = device(np.zeros(3)), Derived(np.zeros(3))
        optimizer = ss.SGD([w, v], lr=0.5)
        for _ in range(2):
            optimizer.step([Derived(np.ones(3)), device(np.ones(3))])
        assert w.host.tolist() == v.host.tolist() == [-1.0] * 3

    def test_two_gpus(self, kernels):
        with pytest.raises(ValueError, match=r"params\[1\]: lives on GPU 1, expected GPU 0 as params\[0\]"):
            ss.SGD([device(np.zeros(3)), device(np.zeros(3), 1)], lr=0.1)
        optimizer = ss.SGD(device(np.zeros(3), 1), lr=0.1)
        with pytest.raises(ValueError, match="grads: lives on GPU 0, expected GPU 1"):
            optimizer.step(device(np.ones(3)))
        optimizer.step(device(np.ones(3), 1))

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            (np.zeros((4, 4))[:, ::2], "leave gaps"),
            (np.zeros(4, np.float16), "got dtype float16"),
            (np.broadcast_to(np.zeros(1), 4), "leave gaps or repeat"),
        ],
    )
    def test_parameters_that_cannot_be_stepped(self, kernels, params, message):
        with pytest.raises((TypeError, ValueError), match=message):
            ss.SGD(ndarray(params), lr=0.1)

    @pytest.mark.parametrize(
        ("g", "message"),
        [
            (np.zeros((2, 3)).T, "differ from the parameter's"),
            (np.zeros((2, 3)), "got shape"),
            (np.zeros((3, 2), np.float32), "got dtype float32"),
        ],
    )
    def test_gradients_that_do_not_fit(self, kernels, g, message):
        w = device(np.zeros((3, 2)))
        optimizer = ss.Adam(w, lr=0.1)
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.step(ndarray(g))
        assert not kernels.launches
        assert optimizer.t == 0

    def test_a_gradient_off_the_borders_of_its_type(self, kernels):
        w = device(np.zeros(3, np.float32))
        optimizer = ss.SGD(w, lr=0.1)
        with pytest.raises(ValueError, match="do not lie on a multiple of 4 bytes"):
            optimizer.step(ndarray(np.zeros(17, np.uint8)[1:13].view(np.float32)))
        assert not kernels.launches

    def test_a_gradient_over_a_parameter(self, kernels):
        room = np.zeros(8)
        optimizer = ss.SGD(ndarray(room[:5]), lr=0.1)
        with pytest.raises(ValueError, match="overlaps a parameter or state"):
            optimizer.step(ndarray(room[3:]))
        assert not kernels.launches

    def test_other_axes_order_is_walked_in_place(self, kernels):
        w = np.zeros((3, 4)).T
        ss.SGD(ndarray(w), lr=1.0).step(ndarray(np.arange(12.0).reshape(3, 4).T))
        assert w.tolist() == (-np.arange(12.0).reshape(3, 4).T).tolist()

    def test_arrays_of_other_libraries(self, kernels):
        """By the interface that numba, torch and JAX offer, without a copy."""

        class Other:
            def __init__(self, host: np.ndarray, readonly: bool = False) -> None:
                self._interface = {**host.__array_interface__, "version": 3}
                self._interface["data"] = (host.ctypes.data, readonly)

            __cuda_array_interface__ = property(lambda self: self._interface)

        w, g = np.zeros(3), np.ones(3)
        optimizer = ss.SGD([Other(w)], lr=0.5)
        optimizer.step([Other(g)])
        kernels.launches.clear()
        optimizer.step([Other(g)])
        assert [name for name, _, _ in kernels.launches] == ["step_sgd_float64"]
        assert w.tolist() == [-1.0] * 3
        with pytest.raises(ValueError, match="params: the array is read-only"):
            ss.SGD(Other(w, readonly=True), lr=0.1)
        x = np.float32([[1, 2], [3, 5]])
        y, _, _ = ss.batchnorm_forward(Other(x), device(np.ones(2, "f")), device(np.zeros(2, "f")))
        same_bits([y.get()], [ss.batchnorm_forward(x, np.ones(2, "f"), np.zeros(2, "f"))[0]])

    @pytest.mark.parametrize("number", [0, 1])
    def test_the_stream_of_another_library_is_waited_for(self, kernels, number):
        """By DLPack also where there is the interface, whose version 2, torch's, names no stream."""
        w, g = np.zeros(3), np.ones(3)
        streams: list[int] = []
        optimizer = ss.SGD(Tensor(w, streams, number), lr=0.5)
        with host_cupy.Stream(77):
            optimizer.step(Tensor(g, streams, number))
            optimizer.step(Tensor(g, streams, number))
        assert streams == [1, 77, 77]
        assert w.tolist() == [-1.0] * 3

    @pytest.mark.parametrize(("version", "waits"), [(2, True), (3, False)])
    def test_an_interface_without_a_stream(self, kernels, monkeypatch, version, waits):
        class Other:
            def __init__(self, host: np.ndarray) -> None:
                self.host = host

            @property
            def __cuda_array_interface__(self) -> dict[str, Any]:
                return {**self.host.__array_interface__, "version": version}

        optimizer = ss.SGD(Other(np.zeros(3)), lr=0.5)
        monkeypatch.setattr(host_cupy.Device, "waited_for", [])
        optimizer.step(Other(np.ones(3)))
        assert host_cupy.Device.waited_for == ([0] if waits else [])

    @pytest.mark.parametrize("by", ["DLPack 0 and the interface", "DLPack 1 and the interface", "DLPack 1"])
    def test_what_is_read_only_is_read_but_not_written(self, kernels, by):
        """DLPack 1 has a flag for it, which CuPy does not look at; DLPack 0 hands nothing out."""

        class Other(Tensor):
            if by.startswith("DLPack 0"):

                def __dlpack__(self, *, stream: int) -> Any:
                    return self.host.__dlpack__()

            if by == "DLPack 1":
                __cuda_array_interface__ = property()

        w, g = np.zeros(3), np.ones(3)
        g.flags.writeable = False
        ss.SGD(Other(w), lr=0.5).step(Other(g))
        assert w.tolist() == [-0.5] * 3
        with pytest.raises(ValueError, match=r"^params: the array is read-only"):
            ss.SGD(Other(g), lr=0.5)
        one = device(np.ones(3))
        with pytest.raises(ValueError, match=r"^out: the array is read-only"):
            ss.batchnorm_forward(device(np.ones((1, 3))), one, one, out=Other(g.reshape(1, 3)))

    def test_what_the_interface_alone_calls_read_only(self, kernels):
        """Libraries that hand out by DLPack what may not be written."""

        class Other(Tensor):
            @property
            def __cuda_array_interface__(self) -> dict[str, Any]:
                return {**self.host.__array_interface__, "data": (self.host.ctypes.data, True)}

        with pytest.raises(ValueError, match=r"^params: the array is read-only"):
            ss.SGD(Other(np.zeros(3)), lr=0.5)

    def test_gradients_of_others_in_another_order_are_copied(self, kernels):
        w, g = np.zeros((2, 3)), np.arange(6.0).reshape(3, 2).T
        optimizer = ss.SGD(device(w), lr=0.5, copy_grads=True)
        for given in (device(g), Tensor(g)):
            optimizer.step(given)
        assert optimizer.params[0].host.tolist() == (-g).tolist()

    def test_a_copy_is_not_written(self, kernels):
        class Other(Tensor):
            def __dlpack__(self, *, stream: int, max_version: Any = None, copy: Any = None) -> Any:
                return self.host.__dlpack__(max_version=max_version, copy=True)

        w = device(np.zeros(3))
        ss.SGD(w, lr=0.5).step(Other(np.ones(3)))
        assert w.host.tolist() == [-0.5] * 3
        with pytest.raises(TypeError, match=r"^params: .* cannot be shared \(its library hands out a copy\)"):
            ss.SGD(Other(np.zeros(3)), lr=0.5)

    def test_what_neither_dlpack_nor_the_interface_hands_out(self, kernels):
        """A tensor of torch that requires a gradient."""

        class Other(Tensor):
            def __dlpack__(self, **_: Any) -> Any:
                raise BufferError("it requires gradient")

            @property
            def __cuda_array_interface__(self) -> dict[str, Any]:
                raise RuntimeError("Can't get __cuda_array_interface__")

        w = device(np.zeros(3))
        with pytest.raises(TypeError, match=r"^grads\[0\]: .* cannot be shared \(it requires gradient\)"):
            ss.SGD([w], lr=0.5).step([Other(np.ones(3))])
        assert (w.host == 0).all()

    def test_arrays_by_dlpack_alone(self, kernels):
        class Other:
            def __init__(self, host: np.ndarray, error: str | None = None) -> None:
                self.host, self.error = host, error

            def __dlpack_device__(self) -> tuple[int, int]:
                return 2, 0

            def __dlpack__(self, *, stream: int) -> Any:
                if self.error:
                    raise BufferError(self.error)
                return self.host.__dlpack__()

        w = np.zeros(3)
        ss.SGD(Other(w), lr=0.5).step(Other(np.ones(3)))
        assert w.tolist() == [-0.5] * 3
        with pytest.raises(TypeError, match=r"cannot be shared \(requires gradient\).*detach"):
            ss.SGD(Other(w, "requires gradient"), lr=0.1)

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_backends_of_main_memory_refuse(self, kernels, backend):
        x, one = device(np.ones((4, 2))), device(np.ones(2))
        for call in (
            lambda: ss.SGD(x, lr=0.1, backend=backend),
            lambda: ss.canonical_sum(x, backend=backend),
            lambda: ss.batchnorm_forward(x, one, one, backend=backend),
            lambda: ss.problems.MSE(x, device(np.ones(4)), backend=backend),
        ):
            with pytest.raises(TypeError, match="lives on a GPU"):
                call()

    def test_batch_norm_with_a_layer_in_main_memory(self, kernels):
        with pytest.raises(TypeError, match=r"gamma: got numpy.ndarray, which is not on a GPU"):
            ss.BatchNorm(2, dtype=np.float64).forward(device(np.ones((4, 2))))

    def test_results_may_not_lie_over_what_is_read(self, kernels):
        x, one = device(np.ones((4, 2))), device(np.ones(2))
        with pytest.raises(ValueError, match="out: overlaps x"):
            ss.batchnorm_forward(x, one, one, out=x)
        dy = device(np.ones((4, 2)))
        _, mean, inv = ss.batchnorm_forward(x, one, one)
        assert ss.batchnorm_backward(dy, x, one, one, mean, inv, out=dy)[0] is dy

    def test_state_travels_through_main_memory(self, kernels):
        values, g = np.ones(5), np.arange(5.0)
        here, there = values.copy(), device(values)
        one, other = ss.Adam(here, lr=0.1), ss.Adam(there, lr=0.1)
        one.step(g)
        there[...] = device(here)
        other.load_state_dict(one.state_dict())
        one.step(g)
        other.step(device(g))
        same_bits([there.get(), other.state_dict()["state"]["v"][0]], [here, one.state["v"][0]])
        assert ss.digest(there) == ss.digest(here)


class TestLayouts:
    """CuPy lets the shape of an array be set; a plan goes by the layout that it was bound to."""

    @pytest.mark.parametrize("changed", ["shape", "strides", "dtype"])
    @pytest.mark.parametrize("is_seen", [False, True])
    def test_of_a_parameter(self, kernels, changed, is_seen):
        w = device(np.zeros((2, 2)))
        optimizer = ss.Momentum(w, lr=1.0)
        if is_seen:
            optimizer.step(device(np.ones((2, 2))))
        kernels.launches.clear()
        steps = optimizer.steps
        if changed == "shape":
            w.shape = (4,)
        else:
            w.host = w.host.T if changed == "strides" else w.host.astype(np.float32)
        before = w.get()
        g = np.arange(4, dtype=w.dtype).reshape(w.shape)
        with pytest.raises((TypeError, ValueError)):
            optimizer.step(ndarray(g.T if changed == "strides" else g))
        assert not kernels.launches
        assert optimizer.steps == steps
        same_bits([w.host], [before])

    def test_that_is_set_back(self, kernels):
        w, g = device(np.zeros((2, 3))), device(np.ones((2, 3)))
        optimizer = ss.SGD(w, lr=1.0)
        w.shape = (6,)
        with pytest.raises(ValueError, match=r"params: its shape is now \(6,\), expected \(2, 3\)"):
            optimizer.step(device(np.ones(6)))
        w.shape = (2, 3)
        optimizer.step(g)
        assert (w.host == -1).all()

    def test_of_a_gradient_that_was_seen(self, kernels):
        w, g = device(np.zeros((2, 3))), device(np.ones((2, 3)))
        optimizer = ss.SGD(w, lr=1.0)
        optimizer.step(g)
        g.shape = (3, 2)
        with pytest.raises(ValueError, match=r"grads: got shape \(3, 2\), expected the parameter's \(2, 3\)"):
            optimizer.step(g)
        g.host = np.full((2, 3), 2.0)  # in other memory; CuPy has no way to do this
        optimizer.step(g)
        assert (w.host == -3).all()

    @pytest.mark.parametrize("changed", ["shape", "strides", "dtype"])
    def test_of_a_state(self, kernels, changed):
        """Held against the parameters whenever a plan is made."""
        optimizer = ss.Momentum(device(np.zeros((2, 2))), lr=1.0)
        (v,) = optimizer.state["v"]
        if changed == "shape":
            v.shape = (4,)
        else:
            v.host = v.host.T if changed == "strides" else v.host.astype(np.float32)
        with pytest.raises(ValueError, match="state"):
            optimizer.record_stats(False)

    @pytest.mark.parametrize("make", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
    def test_of_a_copy(self, kernels, make):
        """CuPy copies into C order, parameters and states alike; the original goes on in its own."""
        values = np.arange(6.0).reshape(2, 3).T
        w, g = ndarray(values.copy(order="K")), ndarray(np.ones((2, 3)).T)
        optimizer = ss.Adam(w, lr=0.5)
        optimizer.step(g)
        other = make(optimizer)
        other.step(ndarray(np.ones((3, 2))))
        assert (optimizer.steps, other.steps) == ([1], [2])
        optimizer.step(g)
        same_bits([other.params[0].host], [w.host])
        assert w.host.tolist() == optimizer.params[0].host.tolist() != values.tolist()

    def test_stats_are_not_to_be_had(self, kernels):
        optimizer = ss.SGD(device(np.zeros(3)), lr=0.5)
        with pytest.raises(ValueError, match="record_stats: steps on a GPU end after the call"):
            optimizer.record_stats()
        optimizer.step(device(np.ones(3)))
        assert optimizer.stats is None


class TestKernels:
    """How they are compiled and kept."""

    @staticmethod
    def step() -> int:
        """A step in a new process, as it were; returns how many programs were compiled for it."""
        w, programs = device(np.zeros(3)), sys.modules["cupy"].cuda.nvrtc.programs
        gpu.kernels._module.cache_clear()
        gpu.kernels._kernel.cache_clear()
        before = len(programs)
        ss.SGD(w, lr=0.5).step(device(np.ones(3)))
        assert w.host.tolist() == [-0.5] * 3
        return len(programs) - before

    @pytest.mark.parametrize("own", [True, False])
    def test_a_user_without_a_home(self, kernels, monkeypatch, own):
        def home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", home)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if own:
            assert self.step() == 2
            return
        monkeypatch.delenv("SAMESTEP_CACHE")
        monkeypatch.setattr(gpu.kernels, "_said_not_kept", set())
        with pytest.warns(RuntimeWarning, match=r"not kept.*no home.*SAMESTEP_CACHE"):
            assert self.step() == 2
        assert self.step() == 2  # and does not warn, which would be an error

    @pytest.mark.parametrize("what", ["no folder can be made", "no file can be made", "no file can be moved"])
    def test_a_disk_that_cannot_be_written(self, kernels, tmp_path, monkeypatch, what):
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        if what == "no folder can be made":
            (tmp_path / "file").touch()
            monkeypatch.setenv("SAMESTEP_CACHE", str(tmp_path / "file" / "below"))
        elif what == "no file can be made":
            monkeypatch.setattr(gpu.kernels.tempfile, "NamedTemporaryFile", refuse)
        else:
            monkeypatch.setattr(os, "replace", refuse)
        monkeypatch.setattr(gpu.kernels, "_said_not_kept", set())
        with pytest.warns(RuntimeWarning, match=r"not kept, so that every process.*SAMESTEP_CACHE"):
            assert self.step() == 2
        assert self.step() == 2  # and does not warn, which would be an error
        assert [path.name for path in tmp_path.iterdir() if path.name != "file"] == []

    def test_a_warning_that_is_an_error_is_one_once(self, kernels, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("SAMESTEP_CACHE", str(tmp_path / "file"))
        monkeypatch.setattr(gpu.kernels, "_said_not_kept", set())
        w, g = device(np.zeros(3)), device(np.ones(3))
        optimizer = ss.SGD(w, lr=0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="not kept"):
                optimizer.step(g)
            optimizer.step(g)
        assert w.host.tolist() == [-0.5] * 3

    def test_an_interrupt_leaves_no_file_behind(self, kernels, tmp_path, monkeypatch):
        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        w, g = device(np.zeros(3)), device(np.ones(3))
        optimizer = ss.SGD(w, lr=0.5)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                optimizer.step(g)
        assert list(tmp_path.iterdir()) == []
        optimizer.step(g)
        assert w.host.tolist() == [-0.5] * 3

    @pytest.mark.parametrize("fault", ["torn", "empty", "changed", "plain", "unloadable", "swapped", "link"])
    def test_a_file_that_is_not_what_was_written(self, kernels, tmp_path, monkeypatch, fault):
        """It is compiled again, once."""
        assert self.step() == 2
        files = sorted(tmp_path.glob("*.cubin"))
        good = [path.read_bytes() for path in files]
        for path, data in zip(files, good, strict=True):
            if fault == "link":
                path.rename(tmp_path / f"{path.name}.kept")
                path.symlink_to(tmp_path / f"{path.name}.kept")
            elif fault == "unloadable":  # what was written, by the driver of another machine
                gpu.kernels._keep(path, b"of another machine")
            else:
                bad = {"torn": data[:-1], "empty": b"", "changed": data[:-1] + b"?", "plain": data[32:]}
                path.write_bytes(bad.get(fault, good[data == good[0]]))
        assert self.step() == 2
        assert [path.read_bytes() for path in files] == good
        assert not any(path.is_symlink() for path in files)
        assert self.step() == 0

    @pytest.mark.parametrize("mode", [0o775, 0o757])
    def test_a_folder_that_others_can_write(self, kernels, tmp_path, monkeypatch, mode):
        assert self.step() == 2
        tmp_path.chmod(mode)
        monkeypatch.setattr(gpu.kernels, "_said_not_kept", set())
        before = sorted(tmp_path.iterdir())
        with pytest.warns(RuntimeWarning, match=r"others can write there \(chmod go-w\)"):
            assert self.step() == 2
        assert sorted(tmp_path.iterdir()) == before
        tmp_path.chmod(0o755)
        assert self.step() == 0

    @pytest.mark.parametrize("mode", [0o660, 0o606])
    def test_a_file_that_others_can_write(self, kernels, tmp_path, mode):
        assert self.step() == 2
        for path in tmp_path.iterdir():
            path.chmod(mode)
        assert self.step() == 2
        assert self.step() == 0
        assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}

    def test_what_another_user_owns(self, kernels, tmp_path, monkeypatch):
        me, other = os.geteuid(), 4711
        for owner, ours in ((me, True), (0, True), (other, False)):
            assert gpu.kernels._is_ours(types.SimpleNamespace(st_uid=owner, st_mode=0o100644)) is ours
        assert self.step() == 2
        if me == 0:
            os.chown(tmp_path, other, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: other)
        monkeypatch.setattr(gpu.kernels, "_said_not_kept", set())
        with pytest.warns(RuntimeWarning, match="belongs to another user"):
            assert self.step() == 2

    def test_the_folder_is_made_for_this_user_alone(self, kernels, tmp_path, monkeypatch):
        monkeypatch.setenv("SAMESTEP_CACHE", str(tmp_path / "a" / "b"))
        assert self.step() == 2
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700

    def test_a_driver_that_loads_nothing(self, kernels, monkeypatch):
        def load(self: Any, cubin: bytes) -> None:
            raise host_cupy.CUDADriverError("CUDA_ERROR_NO_BINARY_FOR_GPU")

        monkeypatch.setattr(sys.modules["cupy"].cuda.function.Module, "load", load)
        with pytest.raises(
            RuntimeError, match=r"does not load .*\(CUDA_ERROR_NO_BINARY_FOR_GPU\).*update it"
        ):
            self.step()

    def test_options_and_cache(self, kernels, tmp_path, monkeypatch):
        w = device(np.zeros(3))
        ss.SGD(w, lr=0.1).step(device(np.ones(3)))
        programs = sys.modules["cupy"].cuda.nvrtc.programs
        options = (*gpu.kernels.OPTIONS, "--gpu-architecture=sm_90")
        assert {used for _, used in programs.values()} == {options}
        assert len(list(tmp_path.glob("*.cubin"))) == len(programs) == 2
        gpu.kernels._module.cache_clear()
        gpu.kernels._kernel.cache_clear()
        ss.SGD(w, lr=0.1).step(device(np.ones(3)))
        assert len(programs) == 2, "compiled again"
        gpu.kernels._module.cache_clear()
        gpu.kernels._kernel.cache_clear()
        monkeypatch.setattr(gpu.kernels, "source", lambda: "// another text")
        ss.SGD(w, lr=0.1).step(device(np.ones(3)))
        assert len(programs) == 4

    def test_a_barrier_that_not_all_reach_is_noticed(self, cuda_on_host):
        """The host's stand-in would not hide what hangs on a GPU: pairing with one thread too few."""
        code = (
            "import ctypes, sys\n"
            "kernels = ctypes.CDLL(sys.argv[1])\n"
            "words = (ctypes.c_longlong * 5)()\n"
            "words[1], words[2], words[3] = 1, 5, 1\n"
            "x, out = (ctypes.c_double * 5)(), (ctypes.c_double * 5)()\n"
            "words[0], words[4] = ctypes.addressof(x), ctypes.addressof(out)\n"
            "kernels.launch(b'sum_runs_values_float64', 1, 16, words)\n"
        )
        command = [sys.executable, "-c", code, cuda_on_host]
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
        assert done.returncode != 0
        assert "a barrier that not all threads reach" in done.stderr

    def test_coefficients_are_those_of_the_cpu(self, case):
        """They move a parameter as the reference moves it: the bytes hold T(lr)."""
        if case.rule == "sgd":
            found = np.frombuffer(ss._core.coefficients("sgd", case.dtype, 3, [0.1]), case.dtype)
            assert found[0] == case.dtype.type(0.1)
        with pytest.raises(ValueError, match="wrong number of values"):
            ss._core.coefficients(case.rule, case.dtype, 1, [0.1] * 9)


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    gpu.device.get_cupy.cache_clear()
    install = r"pip install 'samestep\[cuda12\]' or 'samestep\[cuda13\]'"
    with pytest.raises(ImportError, match=rf"backend='cuda' needs cupy.*{install}"):
        ss.SGD(np.zeros(3), lr=0.1, backend="cuda")
    assert "needs cupy" in str(gpu.why_not())
    ss.SGD(np.zeros(3), lr=0.1).step(np.ones(3))


def test_without_a_gpu(monkeypatch, cuda_on_host, tmp_path):
    with host_cupy.installed(cuda_on_host, tmp_path):

        def fails() -> int:
            raise host_cupy.CUDARuntimeError("no CUDA-capable device is detected")

        monkeypatch.setattr(sys.modules["cupy"].cuda.runtime, "getDeviceCount", fails)
        with pytest.raises(RuntimeError, match=r"no GPU that it can use here \(no CUDA-capable device"):
            ss.canonical_sum(np.zeros(3), backend="cuda")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_is_told_that_cuda_does_not_work_there(kernels):
    w, g = device(np.zeros(3)), device(np.ones(3))
    optimizer = ss.SGD(w, lr=0.5)
    optimizer.step(g)
    child = os.fork()
    if child == 0:
        told = 0
        for call in (lambda: optimizer.step(g), lambda: ss.canonical_sum(g), lambda: optimizer.step(g)):
            try:
                call()
            except RuntimeError as error:
                told += "forked from one that had used the GPU" in str(error)
        os._exit(told + 10 * ("forked" in str(gpu.why_not())))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 13
    optimizer.step(g)
    assert w.host.tolist() == [-1.0] * 3


def test_import_leaves_cupy_alone():
    code = "import sys, samestep; assert 'cupy' not in sys.modules; print(sorted(samestep.info()))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=os.environ)
