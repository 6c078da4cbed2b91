"""The compiled training loop: the bits of the Python loop, for every rule, sampling and way to be called."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest

import samestep as ss
from samestep import _core
from samestep.backends.reference.sampling import Sampler
from samestep.optim.optimizers import OPTIMIZERS
from samestep.problems import MSE
from samestep.train import loop, steppers

ISAS = ss.info()["isas"]
DTYPES = (np.float32, np.float64)
WAYS = (
    {"sampling": "full"},
    {"sampling": "shuffle", "batch_size": 1},
    {"sampling": "shuffle", "batch_size": 8},
    {"sampling": "shuffle", "batch_size": 53},
    {"sampling": "with_replacement", "batch_size": 1},
    {"sampling": "with_replacement", "batch_size": 9},
    {"sampling": "with_replacement", "batch_size": 1500},
)
FORMS = [(kind, form) for kind in OPTIMIZERS for form in kind.forms or (None,)]
SEEDS = (0, 1, 7, 2**32, 2**64 - 1)


def maker(kind, form):
    options = {} if form is None else {kind.form_argument: form}
    return lambda w: kind(w, lr=0.01, **options)


def problem_of(n, p, dtype, scale="half_mean"):
    rng = np.random.default_rng([n, p])
    return MSE(rng.standard_normal((n, p)).astype(dtype), rng.standard_normal(n).astype(dtype), scale)


def everything(run):
    """All that a run leaves, in bits."""
    state = [a for arrays in run.optimizer.state.values() for a in arrays]
    return (
        ss.digest([run.w, *run.optimizer.params, *state]),
        ss.digest(run.losses),
        run.recorded.tolist(),
        run.steps,
        run.stopped,
        run.optimizer.t,
        run.optimizer.steps,
    )


def both(problem, make, monkeypatch, w0=None, **how):
    """The same run in the compiled loop and in the Python loop."""
    w0 = np.zeros(problem.dimension, problem.dtype) if w0 is None else w0
    compiled = ss.minimize(problem, w0, make, **how)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "can_run_compiled", lambda problem, optimizer: False)
        patch.setattr(_core.Plan, "train", None)
        python = ss.minimize(problem, w0, make, **how)
    return compiled, python


@pytest.fixture
def counted(monkeypatch):
    """How many steps each call of the compiled loop was asked for."""
    calls = []
    original = ss.optimizers.Optimizer._train

    def count(self, trainer, steps):
        calls.append(steps)
        original(self, trainer, steps)

    monkeypatch.setattr(ss.optimizers.Optimizer, "_train", count)
    return calls


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
@pytest.mark.parametrize(("kind", "form"), FORMS, ids=lambda x: getattr(x, "__name__", x))
def test_equals_the_python_loop(kind, form, way, dtype, monkeypatch, counted):
    problem = problem_of(53, 10, dtype)
    compiled, python = both(problem, maker(kind, form), monkeypatch, steps=61, record_every=17, seed=3, **way)
    assert everything(compiled) == everything(python)
    assert compiled.recorded.tolist() == [0, 17, 34, 51, 61]
    assert counted == [17, 17, 17, 10]


@pytest.mark.parametrize("scale", ["half_sum", "half_mean", "mean", "sum"])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_reference(isa, dtype, scale, settings):
    problem = problem_of(40, 21, dtype, scale)
    twin = MSE(problem.Phi, problem.y, scale, backend="reference")
    w0 = np.ones(21, dtype)
    ss.set_isa(isa)
    for way in WAYS[:3]:
        how = way | {"epochs": 3, "record_every": 5}
        got = ss.minimize(problem, w0, lambda w: ss.Adam(w, 0.01), **how)
        expected = ss.minimize(twin, w0, lambda w: ss.Adam(w, 0.01, backend="reference"), **how)
        assert everything(got) == everything(expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_batches_on_any_number_of_threads(threads, monkeypatch, settings):
    problem = problem_of(5000, 33, np.float32)
    ss.set_num_threads(1)
    expected = both(problem, lambda w: ss.Adam(w, 0.01), monkeypatch, steps=9, record_every=4)[1]
    ss.set_num_threads(threads)
    got = ss.minimize(problem, np.zeros(33, np.float32), lambda w: ss.Adam(w, 0.01), steps=9, record_every=4)
    assert everything(got) == everything(expected)


@pytest.mark.parametrize("columns", [1, 7, 8, 33, 1030, 4096, 4097])
def test_online_steps_on_any_number_of_columns(columns, monkeypatch):
    """Up to 4096 weights a step is made where it is, above it goes through the pool."""
    problem = problem_of(5, columns, np.float64)
    how = {"steps": 12, "record_every": 50, "sampling": "shuffle", "batch_size": 1}
    compiled, python = both(problem, lambda w: ss.NAG(w, 1e-4), monkeypatch, **how)
    assert everything(compiled) == everything(python)


def test_a_call_of_any_length(monkeypatch, counted):
    problem = problem_of(20, 4, np.float64)
    how = {"steps": 100, "record_every": 1000, "sampling": "shuffle", "batch_size": 3}
    expected = ss.minimize(problem, np.zeros(4), lambda w: ss.Adam(w, 0.1), **how)
    assert counted == [100]
    monkeypatch.setattr(steppers, "CALL_NANOSECONDS", 7 * steppers.step_nanoseconds(3, 4))
    assert everything(ss.minimize(problem, np.zeros(4), lambda w: ss.Adam(w, 0.1), **how)) == everything(
        expected
    )
    assert counted[1:] == [7] * 14 + [2]


@pytest.fixture
def asked(monkeypatch):
    """As counted, but the steps are not made: any number of them takes no time."""
    calls = []
    monkeypatch.setattr(ss.SGD, "_train", lambda self, trainer, steps: calls.append(steps))
    return calls


@pytest.mark.parametrize(
    ("rows", "columns", "way", "nanoseconds"),
    [
        (20, 1, {"sampling": "shuffle", "batch_size": 1}, (30, 400)),  # a step's own cost: rule, draw, plan
        (20, 10, {"sampling": "shuffle", "batch_size": 1}, (30, 400)),
        (20, 10, {"sampling": "with_replacement", "batch_size": 8}, (180, 900)),
        (2000, 1, {"sampling": "full"}, (8e3, 80e3)),
        (2000, 500, {"sampling": "full"}, (250e3, 1500e3)),
        (5, 4000, {"sampling": "shuffle", "batch_size": 1}, (2e3, 20e3)),
    ],
)
def test_a_call_takes_about_a_tenth_of_a_second(rows, columns, way, nanoseconds, asked):
    """By what a step was measured to take, with SGD and with Adam, from the cache and from memory."""
    steps = 2**31 // (way.get("batch_size", rows) * columns)
    make = lambda w: ss.SGD(w, 0.1)  # noqa: E731
    run = ss.minimize(
        problem_of(rows, columns, np.float64), np.zeros(columns), make, steps=steps, record_every=steps, **way
    )
    assert sum(asked) == run.steps == steps
    assert len(set(asked[:-1])) == 1
    # At its least it is worth the call, at its most it is heard within half a second.
    assert asked[0] * nanoseconds[0] >= 0.01e9
    assert asked[0] * nanoseconds[1] <= 0.5e9


def test_a_step_that_takes_longer_than_a_call_is_made(monkeypatch, counted):
    problem = problem_of(20, 4, np.float64)
    make = lambda w: ss.Adam(w, 0.1)  # noqa: E731
    expected = ss.minimize(problem, np.zeros(4), make, steps=5)
    monkeypatch.setattr(steppers, "CALL_NANOSECONDS", steppers.step_nanoseconds(20, 4) - 1)
    counted.clear()
    assert everything(ss.minimize(problem, np.zeros(4), make, steps=5)) == everything(expected)
    assert counted == [1] * 5


def test_the_bar_moves_after_every_call(monkeypatch, asked):
    moves = []

    class Bar:
        update = staticmethod(moves.append)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(loop, "open_progress_bar", lambda total: Bar())
    how = {"steps": 2**28, "sampling": "shuffle", "batch_size": 1, "record_every": 2**28, "progress": True}
    ss.minimize(problem_of(20, 1, np.float64), np.zeros(1), lambda w: ss.SGD(w, 0.1), **how)
    assert moves == asked
    assert len(moves) > 100


def begun(optimizer):
    """Waits until another thread is inside a run of it: the plan counts its steps in place."""
    while optimizer.steps[0] == 0:
        pass


def test_two_threads_with_one_trainer():
    problem = problem_of(200, 50, np.float64)
    trainer = _core.Trainer(problem._kernels, "shuffle", 1, 0)
    first, second = ss.SGD(np.zeros(50), 1e-3), ss.SGD(np.zeros(50), 1e-3)
    steps = 10_000_000  # a third of a second and more
    thread = threading.Thread(target=first._train, args=(trainer, steps))
    thread.start()
    begun(first)
    try:
        with pytest.raises(RuntimeError, match="another thread is inside a run with this trainer"):
            second._train(trainer, 1)
    finally:
        thread.join()
    assert (first.steps, second.steps) == ([steps], [0])
    assert not second.params[0].any()
    second._train(trainer, 1)  # the trainer and the optimizer that it was refused are free again
    assert second.steps == [1]


def test_two_threads_with_one_sampler():
    """One that comes first is served, one that comes during the draws is not."""
    sampler, n, words, refused = _core.Sampler(5), 3_000_000, [], []

    def draw():
        drawn = None
        while drawn is None:
            with contextlib.suppress(RuntimeError):
                drawn = sampler.draws(n, 100)
        later.append(drawn)

    for _ in range(20):  # on a busy machine the other thread may have drawn all before this one looks
        later = []
        thread = threading.Thread(target=draw)
        thread.start()
        while thread.is_alive() and not refused:
            try:
                words.append(sampler.draws(1, 100))
            except RuntimeError as error:
                refused.append(str(error))
        thread.join()
        words += later
        if refused:
            break
    assert refused == ["another thread is inside this sampler"]
    drawn = np.concatenate(words)
    np.testing.assert_array_equal(drawn, Sampler(5).draws(len(drawn), 100))


def test_callback_sees_and_stops_the_same(monkeypatch):
    problem = problem_of(20, 4, np.float64)
    seen = []

    def callback(step, w, loss):
        seen.append((step, w.tobytes(), loss))
        return step >= 30

    how = {
        "steps": 100,
        "record_every": 10,
        "callback": callback,
        "sampling": "with_replacement",
        "batch_size": 1,
    }
    compiled, python = both(problem, lambda w: ss.SGD(w, 0.1), monkeypatch, **how)
    assert everything(compiled) == everything(python)
    assert compiled.stopped == "callback"
    assert seen[:4] == seen[4:]


def test_a_callback_may_change_the_step_size(monkeypatch):
    problem = problem_of(20, 4, np.float64)

    w = np.zeros(4)
    optimizer = ss.Momentum(w, 0.1)
    plain = ss.minimize(problem, w, optimizer, steps=20, record_every=5)
    results = []
    for can in (True, False):
        optimizer = ss.Momentum(np.zeros(4), 0.1)
        with monkeypatch.context() as patch:
            if not can:
                patch.setattr(loop, "can_run_compiled", lambda problem, optimizer: False)

            def callback(step, w, loss, optimizer=optimizer):
                optimizer.lr = 0.1 / (1 + step)

            results.append(
                everything(
                    ss.minimize(problem, np.zeros(4), optimizer, steps=20, record_every=5, callback=callback)
                )
            )
    assert results[0] == results[1]
    assert results[0] != everything(plain)


def test_a_second_run_goes_on(monkeypatch):
    problem = problem_of(20, 4, np.float64)
    make = lambda w: ss.Adam(w, 0.1)  # noqa: E731
    once = ss.minimize(problem, np.zeros(4), make, steps=30)
    first = ss.minimize(problem, np.zeros(4), make, steps=13)
    second = ss.minimize(problem, first.w, first.optimizer, steps=17)
    assert ss.digest(second.w) == ss.digest(once.w)
    assert second.optimizer.t == 30
    # And the optimizer takes gradients by hand again.
    once.optimizer.step(np.ones(4))
    second.optimizer.step(np.ones(4))
    assert ss.digest(second.optimizer.params) == ss.digest(once.optimizer.params)


class Halved(ss.SGD):
    def step(self, grads):
        super().step(grads * 0.5)


class Shifted(MSE):
    def gradient(self, w, rows=None):
        return super().gradient(w, rows) + 1.0


def test_what_the_compiled_loop_does_not_know_runs_in_python(counted):
    problem = problem_of(20, 4, np.float64)
    w0 = np.zeros(4)
    plain = ss.minimize(problem, w0, lambda w: ss.SGD(w, 0.1), steps=3, deadline=1e9)
    halved = ss.minimize(problem, w0, lambda w: Halved(w, 0.2), steps=3)
    shifted = ss.minimize(Shifted(problem.Phi, problem.y, "half_mean"), w0, lambda w: ss.SGD(w, 0.1), steps=3)
    twin = ss.minimize(problem, w0, lambda w: ss.SGD(w, 0.1, backend="reference"), steps=3)
    assert counted == []
    np.testing.assert_allclose(halved.w, plain.w, rtol=1e-14)
    assert ss.digest(twin.w) == ss.digest(plain.w)
    assert abs(shifted.w - plain.w).min() > 0.1


def test_a_read_only_parameter_stops_the_run_before_it_is_written():
    problem = problem_of(20, 4, np.float64)
    optimizer = ss.SGD(np.zeros(4), 0.1)
    trainer = _core.Trainer(problem._kernels, "full", 20, 0)
    optimizer.params[0].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer._train(trainer, 3)
    assert not optimizer.params[0].any()
    assert (optimizer.t, optimizer.steps) == (0, [0])


@pytest.mark.parametrize(
    "params",
    [np.zeros(5), np.zeros(4, np.float32), [np.zeros(4), np.zeros(4)]],
    ids=["shape", "dtype", "two"],
)
def test_a_trainer_of_another_problem(params):
    trainer = _core.Trainer(problem_of(20, 4, np.float64)._kernels, "full", 20, 0)
    optimizer = ss.SGD(params, 0.1)
    with pytest.raises(ValueError, match="trainer: expected"):
        optimizer._train(trainer, 3)
    assert not any(w.any() for w in optimizer.params)
    assert optimizer.t == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_samplers_agree(seed):
    kernels, twin = _core.Sampler(seed), Sampler(seed)
    for n in (0, 1, 2, 3, 5, 32, 442, 1000):
        np.testing.assert_array_equal(kernels.shuffle(n), twin.shuffle(n))
        for below in (1, 2, 3, n + 1, 2**31, 2**62 + 1, 2**63 - 1):
            np.testing.assert_array_equal(kernels.draws(13, below), twin.draws(13, below))


def test_words_are_numpys_philox():
    """Two words in 2^64 are rejected for n = 2^63 - 1, so nearly every word is seen, modulo n."""
    for seed in SEEDS:
        words = np.random.Philox(key=seed).random_raw(1000)
        n = np.uint64(2**63 - 1)
        accepted = words[words < 2 * int(n)] % n
        np.testing.assert_array_equal(_core.Sampler(seed).draws(900, int(n)), accepted[:900].astype(np.int64))


def test_rejected_words_are_drawn_again():
    """2^62 + 1 does not divide 2^64: about a quarter of the words must go."""
    n = 2**62 + 1
    words = np.random.Philox(key=11).random_raw(4000)
    kept = words[words < np.uint64(3 * n)]
    assert 0.2 < 1 - len(kept) / 4000 < 0.3
    np.testing.assert_array_equal(
        _core.Sampler(11).draws(2000, n), (kept[:2000] % np.uint64(n)).astype(np.int64)
    )
