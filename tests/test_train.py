"""minimize(): what a step sees, when a run ends, what it returns, and what it refuses."""

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest

import samestep as ss
from samestep.backends.reference.sampling import Sampler
from samestep.problems import MSE
from samestep.train import Result, minimize, steppers
from text_problems import fixed


def sgd(w):
    return ss.SGD(w, lr=0.25)


class Watched(MSE):
    """The fixed problem, which remembers the batches that it was asked for."""

    def __init__(self, rows=3):
        super().__init__(np.ones((rows, 2)), np.zeros(rows), "mean")
        self.batches = []

    def gradient(self, w, rows=None):
        self.batches.append(None if rows is None else rows.tolist())
        return super().gradient(w, rows)


class TestSampling:
    def test_full_batches(self):
        problem = Watched()
        minimize(problem, np.zeros(2), sgd, epochs=2)
        assert problem.batches == [None, None]

    def test_shuffle_cuts_permutations_into_batches(self):
        problem = Watched(rows=7)
        result = minimize(problem, np.zeros(2), sgd, epochs=2, batch_size=3, sampling="shuffle", seed=4)
        assert (result.steps, result.stopped) == (6, "epochs")
        assert [len(batch) for batch in problem.batches] == [3, 3, 1, 3, 3, 1]
        sampler = Sampler(4)
        for epoch in (problem.batches[:3], problem.batches[3:]):
            assert list(itertools.chain(*epoch)) == sampler.shuffle(7).tolist()

    def test_with_replacement_draws_independently(self):
        problem = Watched(rows=7)
        result = minimize(
            problem, np.zeros(2), sgd, epochs=2, batch_size=3, sampling="with_replacement", seed=4
        )
        assert (result.steps, result.stopped) == (6, "epochs")
        assert list(itertools.chain(*problem.batches)) == Sampler(4).draws(18, 7).tolist()

    @pytest.mark.parametrize("sampling", ["shuffle", "with_replacement"])
    def test_the_seed_decides(self, sampling):
        def run(seed):
            return minimize(
                fixed(), np.zeros(2), sgd, steps=9, batch_size=1, sampling=sampling, seed=seed
            ).w.tobytes()

        assert run(0) == run(0) != run(1)

    def test_a_single_batch_of_all_rows_is_the_full_gradient(self):
        whole = minimize(fixed(), np.zeros(2), sgd, steps=5)
        batch = minimize(fixed(), np.zeros(2), sgd, steps=5, batch_size=3, sampling="shuffle")
        assert batch.w == pytest.approx(whole.w, rel=1e-14)

    def test_with_replacement_may_draw_more_than_there_is(self):
        problem = Watched()
        minimize(problem, np.zeros(2), sgd, steps=1, batch_size=10, sampling="with_replacement")
        assert len(problem.batches[0]) == 10


class TestStopping:
    @pytest.mark.parametrize(
        ("rules", "steps", "stopped"),
        [
            ({"steps": 5}, 5, "steps"),
            ({"steps": 0}, 0, "steps"),
            ({"epochs": 0}, 0, "epochs"),
            ({"epochs": 2}, 4, "epochs"),
            ({"steps": 3, "epochs": 2}, 3, "steps"),
            ({"steps": 5, "epochs": 2}, 4, "epochs"),
            ({"steps": 4, "epochs": 2}, 4, "steps"),
        ],
    )
    def test_steps_and_epochs(self, rules, steps, stopped):
        result = minimize(fixed(), np.zeros(2), sgd, batch_size=2, sampling="shuffle", **rules)
        assert (result.steps, result.stopped, result.optimizer.t) == (steps, stopped, steps)

    def test_the_deadline_is_tested_before_each_step(self):
        """B14: a clock that reads 0, 1, 2, ... and a deadline of 5 make exactly 4 steps."""
        clock = itertools.count().__next__
        result = minimize(fixed(), np.zeros(2), sgd, deadline=5, clock=clock)
        assert (result.steps, result.stopped, result.seconds) == (4, "deadline", 5)
        assert clock() == 6  # it was read six times, no more

    @pytest.mark.parametrize(("deadline", "steps"), [(0, 0), (0.5, 0), (1, 0), (1.5, 1), (2, 1)])
    def test_a_deadline_may_leave_no_time_for_a_step(self, deadline, steps):
        result = minimize(fixed(), np.ones(2), sgd, deadline=deadline, clock=itertools.count(100).__next__)
        assert (result.steps, result.stopped) == (steps, "deadline")
        assert result.recorded.tolist() == list(range(steps + 1))

    def test_steps_may_come_before_the_deadline(self):
        result = minimize(fixed(), np.zeros(2), sgd, steps=3, deadline=1e9, clock=itertools.count().__next__)
        assert (result.steps, result.stopped) == (3, "steps")

    def test_a_real_clock(self):
        start = time.monotonic()
        result = minimize(fixed(), np.zeros(2), sgd, deadline=0.05, record_every=10)
        assert result.stopped == "deadline"
        assert 0.05 <= result.seconds <= time.monotonic() - start < 5

    def test_a_callback_ends_the_run(self):
        result = minimize(fixed(), np.zeros(2), sgd, steps=9, callback=lambda step, w, loss: step == 2)
        assert (result.steps, result.stopped) == (2, "callback")

    def test_a_callback_may_end_it_before_the_first_step(self):
        result = minimize(fixed(), np.zeros(2), sgd, steps=9, callback=lambda step, w, loss: loss < 11)
        assert (result.steps, result.stopped, result.losses.tolist()) == (0, "callback", [10.5])


class TestRecord:
    def test_every_step(self):
        calls = []
        result = minimize(
            fixed(),
            np.zeros(2),
            sgd,
            steps=3,
            callback=lambda step, w, loss: calls.append((step, fixed().loss(w), loss)),
        )
        assert result.recorded.tolist() == [0, 1, 2, 3]
        assert [
            (step, loss, loss) for step, loss in zip(result.recorded, result.losses, strict=True)
        ] == calls
        assert result.loss == result.losses[-1] == fixed().loss(result.w)
        assert result.losses[0] == 10.5

    @pytest.mark.parametrize(("steps", "recorded"), [(7, [0, 3, 6, 7]), (6, [0, 3, 6]), (2, [0, 2])])
    def test_every_third_step_and_the_last(self, steps, recorded):
        seen = []
        result = minimize(
            fixed(),
            np.zeros(2),
            sgd,
            steps=steps,
            record_every=3,
            callback=lambda step, w, loss: seen.append(step),
        )
        assert result.recorded.tolist() == seen == recorded
        assert len(result.losses) == len(recorded)

    @pytest.mark.parametrize("sampling", ["shuffle", "with_replacement"])
    @pytest.mark.parametrize("deadline", [None, 1e9])
    def test_once_an_epoch_where_rows_are_drawn(self, sampling, deadline):
        """By default: the full loss of a large problem takes as long as an epoch of steps."""
        seen = []
        result = minimize(
            Watched(rows=7),
            np.zeros(2),
            sgd,
            steps=8,
            deadline=deadline,
            batch_size=3,
            sampling=sampling,
            callback=lambda step, w, loss: seen.append(step),
        )
        assert result.recorded.tolist() == seen == [0, 3, 6, 8]

    def test_an_epoch_costs_two_losses(self, monkeypatch):
        losses, loss = [], MSE.loss
        monkeypatch.setattr(MSE, "loss", lambda self, w: losses.append(1) or loss(self, w))
        problem = MSE(np.ones((1000, 2)), np.zeros(1000), "mean")
        minimize(problem, np.ones(2), sgd, epochs=1, batch_size=1, sampling="shuffle")
        assert len(losses) == 2

    def test_an_explicit_number_is_taken_as_it_is(self):
        for sampling in ("shuffle", "with_replacement"):
            result = minimize(
                fixed(), np.zeros(2), sgd, steps=4, batch_size=2, sampling=sampling, record_every=1
            )
            assert result.recorded.tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("how", [{}, {"deadline": 1e9}, {"record_every": 3}, {"steps": 0}])
    def test_the_way_is_kept_on_request(self, how):
        seen = []
        how = {"steps": 7, "callback": lambda step, w, loss: seen.append(w), **how}
        result = minimize(fixed(), np.zeros(2), sgd, record_w=True, **how)
        assert result.ws.shape == (len(result.recorded), 2)
        assert result.ws.dtype == np.float64
        assert result.ws.tolist() == [w.tolist() for w in seen]
        assert [fixed().loss(w) for w in result.ws] == result.losses.tolist()
        assert result.ws[0].tolist() == result.w0.tolist()
        assert result.ws[-1].tolist() == result.w.tolist()
        plain = minimize(fixed(), np.zeros(2), sgd, **how)
        assert plain.ws is None
        assert ss.digest(plain.w) == ss.digest(result.w)

    def test_the_callback_may_keep_w(self):
        kept = []
        minimize(fixed(), np.zeros(2), sgd, steps=2, callback=lambda step, w, loss: kept.append(w))
        assert [w.tolist() for w in kept] == [[0, 0], [1.25, 1.5], [1.5, 1.9375]]

    def test_the_callback_cannot_change_w(self):
        def meddle(step, w, loss):
            w[:] = 0

        with pytest.raises(ValueError, match="read-only"):
            minimize(fixed(), np.ones(2), sgd, steps=1, callback=meddle)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_types(self, dtype):
        result = minimize(fixed(dtype), np.zeros(2, dtype), sgd, steps=1)
        assert isinstance(result, Result)
        assert result.w.dtype == dtype
        assert (result.losses.dtype, result.recorded.dtype) == (np.float64, np.int64)
        assert (type(result.loss), type(result.steps), type(result.seconds)) == (float, int, float)

    def test_divergence_is_reported_and_does_not_stop_the_run(self):
        def run(lr, steps, w0=0.0):
            return minimize(fixed(), np.full(2, w0), lambda w: ss.SGD(w, lr=lr), steps=steps)

        assert not run(0.25, 50).diverged
        assert not run(0.25, 0).diverged
        assert run(0.7, 50).diverged  # grows, still finite
        overflown = run(1e100, 50)
        assert overflown.diverged
        assert overflown.steps == 50
        assert not np.isfinite(overflown.w).all()
        assert run(0.25, 5, float("nan")).diverged


class TestOptimizer:
    def test_w0_is_left_alone_by_a_callable(self):
        w0 = np.zeros(2)
        result = minimize(fixed(), w0, sgd, steps=2)
        assert w0.tolist() == [0.0, 0.0]
        assert result.optimizer.params[0].tolist() == result.w.tolist() == [1.5, 1.9375]

    def test_the_result_is_a_copy(self):
        result = minimize(fixed(), np.zeros(2), sgd, steps=2)
        result.optimizer.step(np.ones(2))
        assert result.w.tolist() == [1.5, 1.9375]

    def test_a_strided_or_read_only_w0(self):
        w0 = np.zeros(4)[::2]
        w0.flags.writeable = False
        assert minimize(fixed(), w0, sgd, steps=2).w.tolist() == [1.5, 1.9375]

    @pytest.mark.parametrize("params", [lambda w: w, lambda w: [w], lambda w: (w,), lambda w: {"weights": w}])
    def test_an_optimizer_of_one_array(self, params):
        w = np.full(2, 7.0)
        opt = ss.SGD(params(w), lr=0.25)
        result = minimize(fixed(), np.zeros(2), opt, steps=2)
        assert result.optimizer is opt
        assert w.tolist() == result.w.tolist() == [1.5, 1.9375]

    def test_a_run_in_two_parts_is_one_run(self):
        def adam(w):
            return ss.Adam(w, lr=0.1)

        whole = minimize(fixed(), np.zeros(2), adam, steps=7)
        first = minimize(fixed(), np.zeros(2), adam, steps=3)
        second = minimize(fixed(), first.w, first.optimizer, steps=4)
        assert second.w.tobytes() == whole.w.tobytes()
        assert second.optimizer.t == 7


class TestProgress:
    class Terminal:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

        def isatty(self):
            return True

    def test_on_a_terminal(self, monkeypatch):
        terminal = self.Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        minimize(fixed(), np.zeros(2), sgd, steps=3, progress=True)
        assert "steps" in terminal.text

    def test_nowhere_else(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "tqdm", None)
        minimize(fixed(), np.zeros(2), sgd, steps=3, progress=True)
        assert capsys.readouterr() == ("", "")

    def test_without_tqdm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tqdm", None)
        monkeypatch.setattr(sys, "stderr", self.Terminal())
        with pytest.raises(ImportError, match=r"progress=True needs tqdm.*pip install 'samestep\[demo\]'"):
            minimize(fixed(), np.zeros(2), sgd, steps=3, progress=True)


def never(w):
    raise AssertionError("made an optimizer before the arguments were checked")


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, r"steps, epochs, deadline: got none of them", {}),
        (TypeError, r"steps: got 1\.5, expected a whole number", {"steps": 1.5}),
        (TypeError, r"steps: got True", {"steps": True}),
        (ValueError, r"steps: got -1, expected 0 or more", {"steps": -1}),
        (ValueError, r"epochs: got -1, expected 0 or more", {"epochs": -1}),
        (ValueError, r"deadline: got -1, expected seconds", {"deadline": -1}),
        (ValueError, r"deadline: got nan", {"deadline": float("nan")}),
        (ValueError, r"deadline: got inf", {"deadline": float("inf")}),
        (TypeError, r"deadline: got '5', expected seconds as a number", {"deadline": "5"}),
        (TypeError, r"deadline: got True", {"deadline": True}),
        (TypeError, r"callback: got int, expected a callable or None", {"steps": 1, "callback": 3}),
        (TypeError, r"clock: got float, expected a callable", {"steps": 1, "clock": 0.0}),
        (ValueError, r"record_every: got 0, expected 1 or more", {"steps": 1, "record_every": 0}),
        (ValueError, r"sampling: got 'random', expected one of 'full', ", {"steps": 1, "sampling": "random"}),
        (ValueError, r"batch_size: got 2 with sampling='full'.*add sampling=", {"steps": 1, "batch_size": 2}),
        (ValueError, r"batch_size: got None, expected the rows", {"steps": 1, "sampling": "shuffle"}),
        (
            ValueError,
            r"batch_size: got 4, expected at most the 3 rows",
            {"steps": 1, "sampling": "shuffle", "batch_size": 4},
        ),
        (
            ValueError,
            r"batch_size: got 0, expected 1 or more",
            {"steps": 1, "sampling": "with_replacement", "batch_size": 0},
        ),
        *(
            (
                ValueError,
                rf"batch_size: got {rows}, expected at most 2147483647 ",
                {"steps": 1, "sampling": "with_replacement", "batch_size": rows},
            )
            for rows in (2**31, 2**62, 2**63, 2**64)
        ),
        (ValueError, r"seed: got -1", {"steps": 1, "seed": -1}),
        (TypeError, r"seed: got float", {"steps": 1, "seed": 1.5}),
        (TypeError, r"seed: got bool", {"steps": 1, "seed": True}),
        (TypeError, r"record_every: got 1\.5, expected a whole number", {"steps": 1, "record_every": 1.5}),
        (TypeError, r"record_w: got 'no', expected True or False", {"steps": 1, "record_w": "no"}),
        (TypeError, r"progress: got 1, expected True or False", {"steps": 1, "progress": 1}),
        (TypeError, r"check: got None, expected True or False", {"steps": 1, "check": None}),
        (
            TypeError,
            r"callback: cannot be called as callback\(step, w, loss\)",
            {"steps": 1, "callback": lambda w: 0},
        ),
    ],
)
def test_arguments_that_do_not_fit(error, message, options):
    with pytest.raises(error, match=message):
        minimize(fixed(), np.zeros(2), never, **options)
    opt = sgd(np.full(2, 7.0))
    with pytest.raises(error, match=message):
        minimize(fixed(), np.zeros(2), opt, **options)
    assert opt.params[0].tolist() == [7, 7]


def test_a_given_optimizers_weights_are_written_last(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    opt = sgd(np.full(2, 7.0))
    monkeypatch.setattr(steppers.cpu, "Trainer", fail)
    with pytest.raises(MemoryError):
        minimize(fixed(), np.zeros(2), opt, steps=1)
    assert opt.params[0].tolist() == [7, 7]


def test_counts_may_be_narrow_integers():
    """Of NumPy's: no sum or product with them may overflow."""
    counts = {"steps": np.int16(300), "record_every": np.uint8(200), "batch_size": np.uint8(2)}
    for deadline in (None, np.float32(1e9)):  # in the compiled loop and in Python
        result = minimize(fixed(), np.zeros(2), sgd, sampling="shuffle", deadline=deadline, **counts)
        assert (result.steps, result.recorded.tolist()) == (300, [0, 200, 300])
    result = minimize(fixed(), np.zeros(2), sgd, sampling="shuffle", batch_size=2, epochs=np.uint8(200))
    assert result.steps == 400


@pytest.mark.parametrize(
    ("error", "message", "w0"),
    [
        (TypeError, r"w0: got list, expected a numpy array of float64", [0.0, 0.0]),
        (TypeError, r"w0: got float32, expected the problem's float64; .* w0\.astype", np.zeros(2, "f4")),
        (ValueError, r"w0: got shape \(3,\), expected the problem's \(2,\)", np.zeros(3)),
        (TypeError, r"w0: got MaskedArray, expected a numpy array", np.ma.zeros(2)),
    ],
)
def test_starts_that_do_not_fit(error, message, w0):
    with pytest.raises(error, match=message):
        minimize(fixed(), w0, never, steps=1)


@pytest.mark.parametrize(
    ("error", "message", "optimizer"),
    [
        (TypeError, r"optimizer: got str, expected an optimizer or a callable", "adam"),
        (TypeError, r"optimizer: the callable returned NoneType", lambda w: None),
        (ValueError, r"optimizer: the callable returned one of other arrays", lambda w: sgd(w.copy())),
        (ValueError, r"optimizer: the callable returned one of other arrays", lambda w: sgd([w, w.copy()])),
        (ValueError, r"got one of float64 \(3,\), expected one of a single float64 array", sgd(np.ones(3))),
        (ValueError, r"got one of float32 \(2,\)", sgd(np.ones(2, "f4"))),
        (ValueError, r"got one of float64 \(2,\), float64 \(2,\)", sgd([np.ones(2), np.ones(2)])),
    ],
)
def test_optimizers_that_do_not_fit(error, message, optimizer):
    with pytest.raises(error, match=message):
        minimize(fixed(), np.zeros(2), optimizer, steps=1)
    if isinstance(optimizer, ss.SGD):
        assert all((w == 1).all() for w in optimizer.params)


def test_an_optimizers_array_that_is_read_only_by_now():
    w = np.ones(2)
    optimizer = sgd(w)
    w.flags.writeable = False
    with pytest.raises(ValueError, match=r"^optimizer\.params\[0\]: the array is read-only"):
        minimize(fixed(), np.zeros(2), optimizer, steps=1)


def test_the_start_of_nag_is_in_numbers():
    result = minimize(fixed(), np.zeros(2), lambda w: ss.NAG(w, 0.01), steps=1)
    assert result.start["hyper"]["momentum_next"] == 0.9


def test_the_import_leaves_the_theory_alone_until_it_is_asked_for():
    code = (
        "import sys, samestep; assert 'samestep.theory' not in sys.modules and 'theory' in dir(samestep); "
        "assert samestep.theory.max_step is sys.modules['samestep.theory'].max_step"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_clock_is_read_before_anything_is_written():
    opt = sgd(np.full(2, 7.0))
    with pytest.raises(TypeError, match="clock: returned None, expected seconds as a number"):
        minimize(fixed(), np.zeros(2), opt, steps=1, clock=lambda: None)
    assert opt.params[0].tolist() == [7, 7]


def test_a_warning_tells_what_scaling_the_columns_would_bring():
    """Raw columns: lengths 1 and 1000, which is the whole condition number of 10^6."""
    raw = MSE(np.array([[1.0, 0.0], [0.0, 1000.0]]), np.ones(2))
    with pytest.warns(RuntimeWarning, match=r"columns of Phi differ.*norm\(Phi, axis=0\).*from 1e\+06 to 1$"):
        minimize(raw, np.zeros(2), sgd, steps=1, check=True)
    for problem in (fixed(), MSE(np.array([[1000.0, 0.0], [1000.0, 0.0]]), np.ones(2))):
        with pytest.warns(RuntimeWarning) as told:
            minimize(problem, np.zeros(2), lambda w: ss.SGD(w, lr=1.0), steps=1, check=True)
        assert "columns" not in str(told[0].message)


class Own:
    """|w|^2/2 as somebody writes it who has read the docstring alone."""

    size, dimension, dtype = 1, 2, np.dtype(np.float64)

    def __init__(self, **other):
        vars(self).update(other)

    def loss(self, w):
        return 0.5 * float(w @ w)

    def gradient(self, w, rows=None):
        return w


class Small(Own):
    def gradient(self, w):
        return w.copy()


class Strict(Own):
    def gradient(self, w, rows):
        assert rows is None or rows.dtype == np.int64
        return w.copy()


class TestOwnProblems:
    @pytest.mark.parametrize("kind", [Own, Small, Strict])
    def test_full_batches(self, kind):
        run = minimize(kind(), np.array([1.0, -2.0]), sgd, steps=2)
        assert run.w.tolist() == [0.5625, -1.125]

    @pytest.mark.parametrize("kind", [Own, Strict])
    def test_drawn_rows(self, kind):
        run = minimize(kind(), np.array([1.0, -2.0]), sgd, steps=2, batch_size=1, sampling="shuffle")
        assert run.w.tolist() == [0.5625, -1.125]

    def test_what_lies_otherwise_is_laid_in_order(self):
        run = minimize(Own(gradient=lambda w: w[::-1]), np.array([1.0, -2.0]), sgd, steps=1)
        assert run.w.tolist() == [1.5, -2.25]
        run = minimize(Own(gradient=lambda w: np.ones((2, 2))[:, 0]), np.zeros(2), sgd, steps=1)
        assert run.w.tolist() == [-0.25, -0.25]

    @pytest.mark.parametrize("number", [np.float32(1.5), np.array(1.5), 3, np.int64(3)])
    def test_a_loss_of_any_kind_of_number(self, number):
        run = minimize(Own(loss=lambda w: number), np.ones(2), sgd, steps=1)
        assert type(run.loss) is float
        assert run.loss == number

    @pytest.mark.parametrize(
        ("error", "message", "problem"),
        [
            (
                TypeError,
                r"problem: got function, expected an object with size, dimension, dtype, loss\(w\), "
                r"gradient\(w, rows=None\), such as problems\.MSE or problems\.Function\(loss, gradient, ",
                lambda w: w,
            ),
            (TypeError, r"problem: got NoneType, expected an object", None),
            (TypeError, r"problem: got ndarray without dimension, loss, gradient, expected", np.ones((2, 2))),
            (TypeError, r"problem: got the class MSE, expected an object that it made", MSE),
            (TypeError, r"problem\.size: got 1\.0, expected a whole number", Own(size=1.0)),
            (ValueError, r"problem\.size: got 0, expected 1 or more", Own(size=0)),
            (TypeError, r"problem\.dimension: got \(2,\), expected a whole number", Own(dimension=(2,))),
            (TypeError, r"problem\.dtype: got int64, expected float32 or float64", Own(dtype=np.int64)),
            (TypeError, r"problem\.dtype: got 'real', expected float32", Own(dtype="real")),
            (TypeError, r"problem\.loss: got float, expected a method", Own(loss=1.0)),
            (TypeError, r"problem\.gradient: got ndarray, expected a method", Own(gradient=np.ones(2))),
            (
                TypeError,
                r"problem\.gradient: cannot be called as gradient\(w, rows\), as sampling='full' does$",
                Own(gradient=lambda: 1),
            ),
        ],
    )
    def test_what_is_no_problem(self, error, message, problem):
        opt = sgd(np.full(2, 7.0))
        with pytest.raises(error, match=message):
            minimize(problem, np.zeros(2), opt, steps=1)
        assert opt.params[0].tolist() == [7, 7]

    @pytest.mark.parametrize("name", ["size", "dimension", "dtype", "loss", "gradient"])
    def test_what_is_missing_is_named(self, name):
        some = {n: getattr(Own(), n) for n in ("size", "dimension", "dtype", "loss", "gradient") if n != name}
        with pytest.raises(TypeError, match=rf"problem: got Some without {name}, expected an object with"):
            minimize(type("Some", (), some)(), np.zeros(2), never, steps=1)

    def test_a_gradient_without_rows_cannot_draw(self):
        with pytest.raises(
            TypeError, match=r"as sampling='shuffle' does; sampling='full' does with gradient"
        ):
            minimize(Small(), np.zeros(2), never, steps=1, batch_size=1, sampling="shuffle")

    @pytest.mark.parametrize(
        ("error", "message", "gradient"),
        [
            (TypeError, r"returned NoneType, expected a numpy array of float64, shape \(2,\), as w", None),
            (TypeError, r"returned list, expected a numpy array", [1.0, 2.0]),
            (TypeError, r"returned float, expected", 1.0),
            (TypeError, r"returned numpy.ma.MaskedArray, expected", np.ma.ones(2)),
            (TypeError, r"returned float32, .* convert it with \.astype\(numpy\.float64\)", np.ones(2, "f4")),
            (TypeError, r"returned int64, expected", np.ones(2, int)),
            (ValueError, r"returned shape \(3,\), expected .*, as w$", np.ones(3)),
            (ValueError, r"returned shape \(2, 1\), .* flatten it with \.ravel\(\)", np.ones((2, 1))),
        ],
    )
    def test_gradients_that_are_none(self, error, message, gradient):
        opt = sgd(np.full(2, 7.0))
        with pytest.raises(error, match=r"^problem\.gradient: " + message):
            minimize(Own(gradient=lambda w: gradient), np.ones(2), opt, steps=1)
        assert (opt.params[0].tolist(), opt.t) == ([1, 1], 0)

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (None, "returned NoneType"),
            (True, "returned bool"),
            ("1", "returned str"),
            (1j, "returned complex"),
            (np.ones(1), r"returned ndarray of shape \(1,\)"),
        ],
    )
    def test_losses_that_are_no_number(self, loss, message):
        with pytest.raises(TypeError, match=rf"^problem\.loss: {message}, expected a number$"):
            minimize(Own(loss=lambda w: loss), np.ones(2), sgd, steps=1)
