"""minimize() where the problem is on a GPU: the run, and what is recorded of it, are those in main memory."""

import itertools

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from host_cupy import device, ndarray

N, P = 60, 9


def problems(dtype=np.float32, scale="mean"):
    rng = np.random.default_rng(5)
    Phi, y = rng.standard_normal((N, P)).astype(dtype), rng.standard_normal(N).astype(dtype)
    return ss.problems.MSE(Phi, y, scale), ss.problems.MSE(device(Phi), device(y), scale)


def start(dtype=np.float32):
    return np.linspace(-1.0, 1.0, P, dtype=dtype)


def same_run(one, other):
    """A run in main memory and the same on a GPU."""
    same_bits(
        [other.w.get(), other.w0.get(), np.array(other.loss), other.losses, other.recorded],
        [one.w, one.w0, np.array(one.loss), one.losses, one.recorded],
    )
    assert (other.steps, other.stopped) == (one.steps, one.stopped)
    assert (other.batch_size, other.diverged) == (one.batch_size, one.diverged)


class TestRun:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(
        "way",
        [
            {"steps": 7},
            {"epochs": 2, "batch_size": 16, "sampling": "shuffle", "seed": 3},
            {"steps": 9, "batch_size": 70, "sampling": "with_replacement", "record_every": 4},
        ],
        ids=["full", "shuffle", "with_replacement"],
    )
    def test_equals_that_in_main_memory(self, kernels, way, dtype):
        here, there = problems(dtype)
        w0 = start(dtype)
        w0_there = device(w0)
        one = ss.minimize(here, w0, lambda w: ss.Adam(w, lr=0.1), record_w=True, **way)
        assert not kernels.launches
        other = ss.minimize(there, w0_there, lambda w: ss.Adam(w, lr=0.1), record_w=True, **way)
        same_bits([w0_there.get()], [w0])
        same_run(one, other)
        same_bits([other.ws], [one.ws])
        assert other.optimizer.backend == "cuda"
        assert any(name.startswith("step_") for name, *_ in kernels.launches)

    def test_an_optimizer_whose_array_the_run_steps(self, kernels):
        here, there = problems()
        w, w_there = np.zeros(P, np.float32), device(np.zeros(P, np.float32))
        one = ss.minimize(here, start(), ss.SGD({"w": w}, lr=0.05), steps=4)
        optimizer = ss.SGD({"w": w_there}, lr=0.05)
        other = ss.minimize(there, device(start()), optimizer, steps=4)
        same_run(one, other)
        same_bits([w_there.get()], [w])
        again = ss.minimize(there, other.w, optimizer, steps=3)
        same_run(ss.minimize(here, one.w, one.optimizer, steps=3), again)
        same_bits([other.w.get()], [one.w])  # a copy: the run went on in the optimizer's memory

    def test_a_run_that_diverges(self, kernels):
        here, there = problems()
        way = {"optimizer": lambda w: ss.SGD(w, lr=1e30), "steps": 4}
        other = ss.minimize(there, device(start()), **way)
        same_run(ss.minimize(here, start(), **way), other)
        assert other.diverged

    def test_the_callback_gets_a_copy_there(self, kernels):
        seen = []

        def callback(step, w, loss):
            assert isinstance(w, ndarray)
            seen.append((step, w.get(), loss))
            w.host[...] = 0.0
            return step == 3

        here, there = problems()
        one = ss.minimize(here, start(), lambda w: ss.SGD(w, lr=0.05), steps=3, record_w=True)
        other = ss.minimize(there, device(start()), lambda w: ss.SGD(w, lr=0.05), steps=9, callback=callback)
        assert other.stopped == "callback"
        same_bits([w for _, w, _ in seen], list(one.ws))
        assert [(step, loss) for step, _, loss in seen] == [*zip(one.recorded, one.losses, strict=True)]

    def test_a_deadline_waits_for_each_step(self, kernels):
        waited = []

        def clock():
            waited.append(len(ndarray.read_on))
            return float(len(waited))

        _, there = problems()
        run = ss.minimize(
            there, device(start()), lambda w: ss.SGD(w, lr=0.05), deadline=4.0, clock=clock, record_every=1000
        )
        assert (run.stopped, run.steps) == ("deadline", 3)
        assert all(later > earlier for earlier, later in itertools.pairwise(waited[1:]))

    def test_without_a_deadline_no_step_is_waited_for(self, kernels):
        reads = []

        class Watched(ss.problems.MSE):
            def gradient(self, w, rows=None):
                reads.append(len(ndarray.read_on))
                return super().gradient(w, rows)

        _, there = problems()
        watched = Watched(there.Phi, there.y, there.scale)
        ss.minimize(watched, device(start()), lambda w: ss.SGD(w, lr=0.05), steps=5, record_every=1000)
        assert len(reads) == 5
        assert len(set(reads)) == 1

    def test_the_check_of_the_step_size(self, kernels):
        _, there = problems()
        with pytest.warns(RuntimeWarning, match="lr"):
            ss.minimize(there, device(start()), lambda w: ss.SGD(w, lr=9.0), steps=1, check=True)


class TestBounds:
    def test_are_those_of_the_run_in_main_memory(self, kernels):
        here, there = problems(np.float64)
        lr = 1.0 / here.beta
        one = ss.minimize(here, start(np.float64), lambda w: ss.SGD(w, lr=lr), steps=20)
        other = ss.minimize(there, device(start(np.float64)), lambda w: ss.SGD(w, lr=lr), steps=20)
        expected = str(ss.theory.check_run(here, one))
        assert str(ss.theory.check_run(there, other)) == expected

    def test_of_a_class_that_knows_its_own_numbers(self, kernels):
        class Steeper(ss.problems.MSE):
            beta = property(lambda self: 1e9)

        found = []
        for problem, w0 in zip(
            problems(np.float64), (start(np.float64), device(start(np.float64))), strict=True
        ):
            steeper = Steeper(problem.Phi, problem.y, problem.scale)
            run = ss.minimize(steeper, w0, lambda w: ss.SGD(w, lr=1e-3), steps=5)
            found.append(str(ss.theory.check_run(steeper, run)))
        assert found[0] == found[1]
        assert found[0] != str(ss.theory.check_run(problem, run))

    def test_of_a_problem_of_the_users_own(self, kernels):
        run = ss.minimize(Bowl(), device(np.ones(4)), lambda w: ss.SGD(w, lr=0.5), steps=5)
        check = ss.theory.check_run(Bowl(), run)
        assert check.ok
        assert {"descent", "gradient"} <= {bound.name for bound in check.bounds}


class Bowl:
    """A problem of the user's own, on a GPU: |w|^2/2, whose gradient is w itself."""

    size, dimension, dtype = 1, 4, np.dtype(np.float64)
    beta, mu, optimum, convex = 1.0, 1.0, 0.0, True

    def __init__(self, wrong=None):
        self.wrong = wrong

    def loss(self, w):
        return device(np.asarray(w.host @ w.host / 2))

    def minimizer(self):
        return device(np.zeros(4))

    def gradient(self, w):
        return w if self.wrong is None else self.wrong


class TestOwnProblem:
    def test_whose_gradient_is_w(self, kernels):
        run = ss.minimize(Bowl(), device(np.ones(4)), lambda w: ss.SGD(w, lr=0.5), steps=2)
        same_bits([run.w.get(), run.losses], [np.full(4, 0.25), np.array([2.0, 0.5, 0.125])])

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (np.ones(4), "returned numpy.ndarray, expected an array on a GPU of float64, shape \\(4,\\)"),
            (ndarray(np.ones(4, np.float32)), "returned float32, expected an array on a GPU"),
            (ndarray(np.ones((2, 2))), "returned shape \\(2, 2\\), expected an array on a GPU"),
            (ndarray(np.ones(4), 1), "problem.gradient: lives on GPU 1, expected GPU 0 as w"),
        ],
        ids=["in main memory", "dtype", "shape", "another GPU"],
    )
    def test_gradients_that_are_none(self, kernels, wrong, message):
        with pytest.raises((TypeError, ValueError), match=message):
            ss.minimize(Bowl(wrong), device(np.ones(4)), lambda w: ss.SGD(w, lr=0.5), steps=2)


class TestRefused:
    """Before anything is written."""

    def refused(self, problem, w0, optimizer, message):
        with pytest.raises((TypeError, ValueError), match=message):
            ss.minimize(problem, w0, optimizer, steps=2)

    def test_a_start_that_lies_elsewhere_than_the_problem(self, kernels):
        here, there = problems()
        fix = r"w0: lies in main memory, but the problem computes on a GPU; pass cupy.asarray\(w0\)"
        self.refused(there, start(), lambda w: ss.SGD(w, lr=0.1), fix)
        fix = r"w0: lies on a GPU, but the problem computes in main memory; pass cupy.asnumpy\(w0\)"
        own = ss.problems.Function(lambda w: 0.0, lambda w: w, P, dtype=np.float32)
        for problem in (here, own):
            self.refused(problem, device(start()), lambda w: ss.SGD(w, lr=0.1), fix)
        w = device(np.full(2, 7.0))
        self.refused(ss.problems.Rosenbrock(), device(np.ones(2)), ss.SGD(w, lr=0.1), fix)
        assert w.get().tolist() == [7.0, 7.0]

    def test_a_start_that_is_no_array(self, kernels):
        message = "w0: got list, expected an array on a GPU of float32"
        self.refused(problems()[1], [0.0] * P, lambda w: ss.SGD(w, lr=0.1), message)

    def test_a_loss_that_is_no_number(self, kernels):
        class Several(Bowl):
            def loss(self, w):
                return w

        message = r"problem.loss: returned ndarray of shape \(4,\), expected a number"
        self.refused(Several(), device(np.ones(4)), lambda w: ss.SGD(w, lr=0.5), message)

    def test_a_start_on_another_gpu(self, kernels):
        _, there = problems()
        message = "w0: lives on GPU 1, expected GPU 0 as problem.Phi"
        self.refused(there, device(start(), 1), lambda w: ss.SGD(w, lr=0.1), message)

    @pytest.mark.parametrize(
        ("w0", "message"),
        [
            (np.ones(P), "w0: got float64, expected the problem's float32"),
            (np.ones(P - 1, np.float32), "w0: got shape"),
        ],
        ids=["dtype", "shape"],
    )
    def test_a_start_that_does_not_fit(self, kernels, w0, message):
        self.refused(problems()[1], device(w0), lambda w: ss.SGD(w, lr=0.1), message)

    def test_an_optimizer_that_steps_elsewhere(self, kernels):
        here, there = problems()
        w, w_there = np.zeros(P, np.float32), device(np.zeros(P, np.float32))
        message = "optimizer: its array lies in main memory, but w0 on a GPU; pass an optimizer of an array"
        self.refused(there, device(start()), ss.SGD(w, lr=0.1), message)
        message = "optimizer: its array lies on a GPU, but w0 in main memory; pass an optimizer of an array"
        self.refused(here, start(), ss.SGD(w_there, lr=0.1), message)
        on_another = device(np.zeros(P, np.float32), 1)
        message = r"optimizer.params\[0\]: lives on GPU 1, expected GPU 0 as w0"
        self.refused(there, device(start()), ss.SGD(on_another, lr=0.1), message)
        assert not any(array.any() for array in (w, w_there.get(), on_another.get()))
