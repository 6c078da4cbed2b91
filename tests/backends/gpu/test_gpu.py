"""The GPU backend without a GPU: it launches csrc/gpu/kernels.cu, run by fibers on the host (host_cupy).
Some 20 seconds.
"""

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from host_cupy import device, ndarray
from samestep.backends import gpu
from samestep.proof import golden, vectors, verify


class TestBits:
    @pytest.mark.parametrize(
        "threads",
        [pytest.param(32, marks=pytest.mark.slow), 96, 256, pytest.param(1024, marks=pytest.mark.slow)],
    )
    def test_golden_digests(self, kernels, monkeypatch, threads):
        """Large programs with one block size; long ones, of 10 000 steps, with one and of one rule."""
        monkeypatch.setattr(gpu.kernels, "THREADS", threads)
        monkeypatch.setattr(gpu.kernels, "SHARING_THREADS", 3 * threads)
        for program in (p for group in golden.programs().values() for p in group if str(p) in golden.DIGESTS):
            long = isinstance(program, golden.RuleProgram) and program.steps > 100
            large = isinstance(program, golden.RuleProgram) and program.size > 10_000
            if (threads == 256 or not large) and (
                not long or (threads == 32 and program.case.rule == "adam_outside")
            ):
                found = golden.program_digest(program, backend="cuda")
                assert found == golden.DIGESTS[str(program)], str(program)
        leaves = {f"{n}_{t}" for n in ("weigh_leaf", "add_leaves", "average_leaves") for t in golden.DTYPES}
        assert leaves <= {name for name, *_ in kernels.launches}
        tiles = ("multiply_", "convolve_")
        assert {n for name, _, n in kernels.launches if not name.startswith(tiles)} == {threads}

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
        assert [name for name, _, _ in kernels.launches] == [
            "write_words",
            f"form_updates_{case.rule}",
            f"step_{case.rule}_{case.dtype}",
        ]
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
        assert [name for name, _, _ in kernels.launches] == [
            "form_updates_adam_outside",
            "step_adam_outside_float64",
        ]

    def test_none_in_the_place_of_a_gradient_that_is_gone(self, kernels):
        w, v, g = device(np.zeros(3)), device(np.zeros(3)), device(np.ones(3))
        optimizer = ss.SGD([w, v], lr=1.0)
        optimizer.step([device(np.ones(3)), g])  # nobody holds the first one any more
        optimizer.step([None, g])
        assert w.host.tolist() == [-1.0] * 3
        assert v.host.tolist() == [-2.0] * 3
        assert optimizer.steps == [1, 2]

    @pytest.mark.parametrize("launches", [0, 1, 2])
    def test_a_step_that_was_interrupted(self, kernels, monkeypatch, launches):
        """As by a signal, before one of the three launches."""
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
        """The last of those that a step takes: nothing is changed, and the next step is a whole one."""
        w, v = device(np.ones(3)), device(np.ones(3))
        groups = [{"params": w}, {"params": v, "weight_decay": 0.5}]
        optimizer = ss.SGD(groups, lr=0.5, decoupled_weight_decay=True)
        grads = [device(np.ones(3))] * 2
        cuda, calls = sys.modules["cupy"].cuda, []
        place = cuda.nvrtc if failing in ("compileProgram", "getCUBIN") else cuda.function.Module
        original = getattr(place, failing)

        def fails(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 3:  # after those of write_words and of form_updates
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
    @pytest.mark.parametrize("fits", [True, False])
    def test_batch_norm(self, kernels, monkeypatch, shape, axis, relu, fits):
        monkeypatch.setattr(gpu.kernels, "THREADS", 64)
        monkeypatch.setattr(gpu.kernels, "SHARING_THREADS", 192)
        if not fits:
            monkeypatch.setattr(gpu.batchnorm, "shared_memory", lambda device, at_once: 0)
        rng = np.random.default_rng(4)
        x, dy = (
            vectors.random_values(int(np.prod(shape)), np.dtype(np.float32), k).reshape(shape) for k in (1, 2)
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
        in_planes = axis == 1 and len(shape) > 2
        assert [name for name, _, _ in kernels.launches] == [
            f"{step}_{direction}{'_relu' if relu else ''}_float32"
            for direction in ("forward", "backward")
            for step in (["whole"] if fits and in_planes else ["add_blocks", "finish", "apply"])
        ]

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("backward", [False, True])
    def test_a_channel_that_fits_the_shared_memory_just_so(self, kernels, dtype, backward):
        """M values, and dy as well backward, and two sums for each 1024; one value more does not fit."""
        most, item = 226 << 10, np.dtype(dtype).itemsize * (2 if backward else 1)
        M = next(m for m in range(most // item, 0, -1) if 16 * -(-m // 1024) + m * item <= most)
        rng = np.random.default_rng(7)
        for values, launches in ((M, 1), (M + 1, 3)):
            x, dy = rng.standard_normal((2, 1, 2, values)).astype(dtype)
            gamma, beta = rng.standard_normal((2, 2)).astype(dtype)
            y, *statistics = ss.batchnorm_forward(x, gamma, beta)
            there = [device(a) for a in (x, gamma, beta, *statistics)]
            kernels.launches.clear()
            if backward:
                expected = ss.batchnorm_backward(dy, x, gamma, beta, *statistics)
                found = ss.batchnorm_backward(device(dy), *there)
            else:
                expected, found = (y, *statistics), ss.batchnorm_forward(*there[:3])
            same_bits([a.get() for a in found], list(expected))
            assert len(kernels.launches) == launches

    @pytest.mark.parametrize("offset", [0, 1])
    def test_a_channel_in_packs_and_value_by_value(self, kernels, offset):
        """Rows of whole packs, from an address that is a multiple of 16 bytes or not; and in place."""
        rng = np.random.default_rng(8)
        x, gamma, beta = (
            rng.standard_normal((5, 3, 6, 6)).astype(np.float32),
            np.ones(3, "f4"),
            np.ones(3, "f4"),
        )
        room = np.zeros(x.size + 8, np.float32)
        room = room[-room.ctypes.data % 16 // 4 + offset :][: x.size].reshape(x.shape)
        room[...] = x
        found = ss.batchnorm_forward(ndarray(room), device(gamma), device(beta))
        assert kernels.launches == [("whole_forward_float32", 3, gpu.kernels.SHARING_THREADS // 3)]
        same_bits([a.get() for a in found], list(ss.batchnorm_forward(x, gamma, beta)))

    @pytest.mark.parametrize("relu", [False, True])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize(
        ("shape", "forward", "backward"),
        [  # of each the blocks of a team, and how many of them a processor holds
            ((5, 3, 8, 130), (2, 3), (3, 3)),  # packs
            ((1, 2, 6149), (2, 3), (4, 3)),  # value by value; a team whose last part is one value
            ((3, 2, 5, 700), (3, 3), (4, 2)),
            ((7, 3, 40, 48), (4, 3), (3, 1)),
        ],
        ids=str,
    )
    def test_a_channel_in_the_shared_memory_of_a_team(
        self, kernels, monkeypatch, shape, forward, backward, dtype, relu
    ):
        item = np.dtype(dtype).itemsize
        room = 3 * (4096 * item + 300)
        monkeypatch.setattr(gpu.batchnorm, "shared_memory", lambda device, at_once: room // at_once)
        monkeypatch.setattr(gpu.batchnorm, "multiprocessors", lambda device: 32)
        monkeypatch.setattr(gpu.kernels, "SHARING_THREADS", 192)
        rng = np.random.default_rng(9)
        x, dy = rng.standard_normal((2, *shape)).astype(dtype)
        gamma, beta = rng.standard_normal((2, shape[1])).astype(dtype)
        mine = [device(a) for a in (x, gamma, beta)]
        for _ in range(2):  # also where an earlier launch has counted
            found = ss.batchnorm_forward(*mine, relu=relu)
            expected = ss.batchnorm_forward(x, gamma, beta, relu=relu, backend="reference")
            same_bits([a.get() for a in found], list(expected))
            back = ss.batchnorm_backward(device(dy), *mine, *found[1:], relu=relu)
            expected_back = ss.batchnorm_backward(
                dy, x, gamma, beta, *expected[1:], relu=relu, backend="reference"
            )
            same_bits([a.get() for a in back], list(expected_back))
        assert kernels.launches == 2 * [
            (f"whole_{direction}{'_relu' if relu else ''}_{dtype}", shape[1] * size, 192 // at_once)
            for direction, (size, at_once) in (("forward", forward), ("backward", backward))
        ]

    def test_teams_of_an_h200(self, kernels, monkeypatch):
        monkeypatch.setattr(gpu.batchnorm, "multiprocessors", lambda device: 132)
        for values, bytes_of_value, expected in (
            (1568, 4, (1, 2, 3)),
            (100_352, 4, (6, 17, 3)),  # 32 x 56 x 56
            (100_352, 8, (11, 9, 3)),
            (401_408, 4, (16, 25, 2)),  # 32 x 112 x 112
            (401_408, 8, (15, 27, 1)),
        ):
            found = gpu.batchnorm._teams(values, bytes_of_value)
            assert found[:3] == expected
            assert found.size * found.part * 1024 >= values > (found.size - 1) * found.part * 1024
        assert gpu.batchnorm._teams(1_605_632, 4) is None  # 128 x 112 x 112

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

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize(
        "sizes", [(65, 273, 70), (3, 256, 1), (1, 513, 5), (4, 0, 3), (0, 2, 3)], ids=str
    )
    def test_linear(self, kernels, monkeypatch, sizes, dtype):
        """Around the borders of tiles and blocks, transposed, with gaps; on more threads and fewer."""
        N, K, J = sizes
        shapes = (N, J), (N, K), (K, J), (J,)
        dy, x, w, bias = (
            vectors.random_values(int(np.prod(shape)), np.dtype(dtype), k).reshape(shape)
            for k, shape in enumerate(shapes, 1)
        )
        x[...] = vectors.finite_values(x.size, np.dtype(dtype), 9).reshape(x.shape) * np.finfo(dtype).tiny
        # In float64 the reference computes what is subnormal or huge as fractions, a million of them in
        # minutes. The processor's kernels, which tests/backends/test_product.py holds to it, stand in.
        by = "reference" if dtype == "float32" or N * K * J < 10000 else "cpu"
        y = ss.linear(x, w, bias, relu=True, backend=by)
        expected = [y, *ss.linear_backward(dy, x, w, y=y, backend=by)]
        for threads in (96, 256, 1024):
            monkeypatch.setattr(gpu.kernels, "THREADS", threads)
            for lay_out in (np.ascontiguousarray, np.asfortranarray, lambda a: np.repeat(a, 2, 1)[:, ::2]):
                g, a, b, h = (device(lay_out(m)) for m in (dy, x, w, y))
                found = [ss.linear(a, b, device(bias), relu=True), *ss.linear_backward(g, a, b, y=h)]
                same_bits([f.get() for f in found], expected)
        plain = ss.linear_backward(dy, x, w, input_gradient=False, backend=by)
        outs = [device(np.zeros_like(a)) for a in plain[1:]]
        found = ss.linear_backward(g, a, b, input_gradient=False, out=(None, *outs))
        assert found[0] is None
        same_bits([f.get() for f in outs], list(plain[1:]))

    @pytest.mark.parametrize(("dtype", "large"), [("float32", False), ("float32", True), ("float64", True)])
    @pytest.mark.parametrize(
        "sizes", [(128, 256, 128), (129, 273, 260), (63, 16, 65), (130, 15, 4), (1, 530, 132)], ids=str
    )
    def test_tiles_of_a_product(self, kernels, monkeypatch, sizes, dtype, large):
        """Whole tiles and parts of them, packs and single values, all ways in which an operand can lie."""
        monkeypatch.setattr(gpu.kernels, "are_large", lambda m, n, tiles: large)
        m, k, n = sizes
        rng = np.random.default_rng(10)
        a, b, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (n,)))
        a[0, 0], a[-1, -1], b[0, -1] = -0.0, np.inf, np.nan
        expected = ss.linear(a, b, bias)
        ways = {
            "rows": lambda x: x,
            "columns": np.asfortranarray,
            "gaps": lambda x: np.repeat(x, 2, 1)[:, ::2],
            "rows, not aligned": lambda x: np.pad(x, ((0, 0), (1, 0)))[:, 1:],
            "columns, not aligned": lambda x: np.pad(x, ((1, 0), (0, 0))).T.copy().T[1:],
        }
        for way in ways.values():
            for other in ways.values():
                found = ss.linear(ndarray(way(a)), ndarray(other(b)), device(bias))
                same_bits([found.get()], [expected])
        name = f"multiply{'_large' if large and dtype == 'float32' else ''}_{dtype}"
        assert {launched for launched, _, _ in kernels.launches} == {name}

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
    """Options of every rule, and groups; test_gpu_options.py has them all."""

    @pytest.mark.parametrize("decoupled", [False, True])
    def test_with_groups_and_scale(self, kernels, case, decoupled):
        values, *grads = (vectors.random_values(90, case.dtype, k) for k in (1, 3, 5))
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
        assert stepped == [f"step_{case.rule}_{way}_{case.dtype}"] * 2

    @pytest.mark.parametrize(
        ("option", "value"),
        [("maximize", True), ("clip_value", 0.5), ("flush_subnormals", True), ("weight_decay", 0.5)],
    )
    def test_one_by_one(self, kernels, option, value):
        g = vectors.random_values(50, np.dtype(np.float32), 1)
        w = np.linspace(-1, 1, 50, dtype=np.float32)
        there = device(w)
        one, other = (ss.Adam(a, lr=0.1, **{option: value}) for a in (w, there))
        one.step(g)
        other.step(device(g))
        same_bits([there.get(), other.state["v"][0].get()], [w, one.state["v"][0]])
        assert kernels.launches[-1][0] == "step_adam_outside_options_float32"

    def test_groups_with_and_without_decay_share_a_launch(self, kernels):
        """An infinity times a decay of 0 would be NaN: the device tells the groups apart."""
        groups = [{"params": device(np.full(3, np.inf))}, {"params": device(np.ones(3)), "weight_decay": 0.5}]
        optimizer = ss.SGD(groups, lr=0.5, decoupled_weight_decay=True)
        optimizer.step([device(np.ones(3))] * 2)
        names = [name for name, _, _ in kernels.launches]
        assert names == ["write_words", "form_updates_sgd", "step_sgd_decoupled_float64"]
        assert [float(w[0]) for w in optimizer.params] == [np.inf, 0.25]

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


class TestFunctions:
    def test_in_place_and_in_any_layout(self, kernels):
        x = vectors.random_values(600, np.dtype(np.float64), 1).reshape(20, 30)
        for name in ("exp", "log", "tanh", "sigmoid"):
            expected = getattr(ss, name)(x)
            there = device(x.T.copy()).transpose(1, 0)
            assert getattr(ss, name)(there, out=there) is there
            same_bits([np.ascontiguousarray(there.host)], [expected])

    @pytest.mark.parametrize("kind", ["i8", "i4", "u1"])
    def test_labels_of_any_integer_type(self, kernels, kind):
        z = vectors.finite_values(70 * 40, np.dtype(np.float32), 1).reshape(70, 40)
        labels = (np.arange(70) % 40).astype(kind)
        loss, dz = ss.softmax_cross_entropy(z, labels)
        found, dz_there = ss.softmax_cross_entropy(device(z), device(labels))
        assert found == loss
        same_bits([dz_there.host], [dz])

    def test_wrong_labels(self, kernels):
        z = device(np.zeros((2, 3), np.float32))
        with pytest.raises(ValueError, match=r"^labels\[1\]: got 3"):
            ss.softmax_cross_entropy(z, device(np.array([0, 3])))
        with pytest.raises(TypeError, match=r"^labels: got .*ndarray, which is not on a GPU"):
            ss.softmax_cross_entropy(z, np.array([0, 1]))
        assert kernels.launches == []
