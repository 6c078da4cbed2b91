"""Squared errors of rows that are spread over workers: one process's bits, however many hold them."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import samestep as ss
from samestep.parallel import run_threads
from samestep.problems import MSE
from simulated import Network

WORKERS = (1, 2, 3, 5, 8)
BACKENDS = ("cpu", "reference")
DTYPES = ("float32", "float64")
# Rows of each worker, in blocks of 1024: some workers have none, and the last row of all may be anywhere.
CUTS = {
    1: (0, 4700),
    2: (0, 3072, 4700),
    3: (0, 1024, 1024, 4700),
    5: (0, 0, 2048, 3072, 4096, 4700),
    8: (0, 1024, 2048, 2048, 3072, 4096, 4700, 4700, 4700),
}


def examples(dtype, n=4700, p=7):
    rng = np.random.default_rng(p)
    return (rng.standard_normal(shape).astype(dtype) for shape in ((n, p), n, p))


def on_workers(function, *arrays, workers, cuts=CUTS, run=run_threads):
    """What function(group, own rows of each array) returns on each worker."""
    first = [0, *cuts[workers]]

    def work(group):
        own = slice(first[group.rank + 1], first[group.rank + 2])
        return function(group, *(a[own] for a in arrays))

    return run(workers, work)


def batches_of(n):
    """Ranges, rows in any order, rows that are repeated, of one worker alone, and shorter than a block."""
    rng = np.random.default_rng(1)
    return [
        np.arange(n),
        np.arange(100, 4000),
        np.arange(3072, 4096),
        np.arange(n)[::-1],
        rng.permutation(n)[:3000],
        rng.integers(0, n, 5000),
        rng.integers(0, n, 33),
        np.full(1100, n - 1),
        np.array([0]),
        np.r_[np.arange(1024, 2048), rng.integers(0, n, 100)],
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("workers", WORKERS)
def test_losses_and_gradients(workers, dtype, backend):
    Phi, y, w = examples(dtype)
    batches = batches_of(len(y))

    for scale in ("half_sum", "mean"):

        def results(problem):
            own = [problem.gradient(w), *(problem.gradient(w, rows) for rows in batches)]
            return [np.array([problem.loss(w), problem.c, problem.size]), *own]

        one = MSE(Phi, y, scale, backend)

        def work(group, Phi, y, one=one, results=results):
            problem = MSE(Phi, y, one.scale, backend, group=group)
            assert repr(problem) == repr(one)
            return ss.digest(results(problem)), problem.residual(w)

        found = on_workers(work, Phi, y, workers=workers)
        assert {digest for digest, _ in found} == {ss.digest(results(one))}
        assert ss.digest([np.concatenate([r for _, r in found])]) == ss.digest([one.residual(w)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype):
    """Infinity, NaN and subnormals in the weights; rounding that overflows."""
    Phi, y, w = examples(dtype)
    for value in (np.inf, np.nan, float(np.finfo(dtype).max), float(np.finfo(dtype).smallest_subnormal)):
        w[3] = value
        one = MSE(Phi, y)
        expected = ss.digest([np.array([one.loss(w)]), one.gradient(w)])

        def work(group, Phi, y):
            problem = MSE(Phi, y, group=group)
            return ss.digest([np.array([problem.loss(w)]), problem.gradient(w)])

        assert set(on_workers(work, Phi, y, workers=3)) == {expected}


@pytest.mark.parametrize("workers", WORKERS)
def test_what_the_theory_reads(workers):
    Phi, y, _ = examples("float32")
    names = ("eigenvalues", "beta", "mu", "kappa", "optimum", "c", "size", "dimension", "dtype")

    def facts(problem):
        return [
            ss.digest([problem.hessian(), problem.minimizer(), problem.hessian(), problem.eigenvalues]),
            *(str(getattr(problem, name)) for name in names),
        ]

    def work(group, Phi, y):
        problem = MSE(Phi, y, "half_mean", group=group)
        assert problem.hessian() is not problem.hessian()
        with pytest.raises(ValueError, match="read-only"):
            problem.eigenvalues[0] = 1
        return facts(problem)

    for found in on_workers(work, Phi, y, workers=workers):
        assert found == facts(MSE(Phi, y, "half_mean"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampling", ["full", "shuffle", "with_replacement"])
@pytest.mark.parametrize("workers", WORKERS)
def test_minimize(workers, sampling, backend):
    Phi, y, w0 = examples("float32", p=5)
    if sampling == "full":
        how = {"steps": 6}
    else:
        how = {"epochs": 2, "batch_size": 1500, "sampling": sampling, "seed": 3}

    def run(problem):
        found = ss.minimize(problem, w0, lambda w: ss.Adam(w, lr=0.1, backend=backend), **how)
        return ss.digest([found.w, found.losses, found.optimizer.state]), found.steps

    expected = run(MSE(Phi, y, "half_mean", backend))
    found = on_workers(
        lambda group, Phi, y: run(MSE(Phi, y, "half_mean", backend, group=group)), Phi, y, workers=workers
    )
    assert found == [expected] * workers


@pytest.mark.parametrize("seed", range(10))
def test_whatever_arrives_first(seed):
    Phi, y, w = examples("float32")
    rows = batches_of(len(y))[4]
    one = MSE(Phi, y)
    expected = ss.digest([one.gradient(w), one.gradient(w, rows), one.minimizer()])

    def work(group, Phi, y):
        problem = MSE(Phi, y, group=group)
        return ss.digest([problem.gradient(w), problem.gradient(w, rows), problem.minimizer()])

    found = on_workers(
        work, Phi, y, workers=5, run=lambda workers, function: Network(workers, seed).run(function)
    )
    assert found == [expected] * 5


class Counting:
    """A group that counts what this worker sends."""

    def __init__(self, group):
        self._group, self.rank, self.size, self.sent = group, group.rank, group.size, 0

    def transfer(self, send, receive):
        self.sent += sum(a.nbytes for a in send.values())
        self._group.transfer(send, receive)

    all_gather = property(lambda self: lambda *args: type(self._group).all_gather(self, *args))
    all_gather_json = property(lambda self: lambda *args: type(self._group).all_gather_json(self, *args))
    all_or_none = property(lambda self: lambda *args: type(self._group).all_or_none(self, *args))


def test_rows_of_ranges_stay_where_they_are():
    """And of drawn ones each travels once at most."""
    Phi, y, w = examples("float32", p=50)
    rows = batches_of(len(y))

    def work(group, Phi, y):
        counting = Counting(group)
        problem = MSE(Phi, y, group=counting)
        sent = []
        for batch in (None, rows[2], rows[4]):
            before = counting.sent
            problem.gradient(w, batch)
            sent.append(counting.sent - before)
        return sent

    full, in_range, drawn = np.sum(on_workers(work, Phi, y, workers=3), axis=0)
    row = 51 * 4
    assert full < 300 * row  # sums of 50 columns in float64, and facts, but none of 4700 rows
    assert in_range < 300 * row
    assert 500 * row < drawn < (3000 + 300) * row


def errors_on(workers, function):
    """The type and text of what each worker raises: all alike, and none waits for another."""

    def catch(group):
        with pytest.raises(Exception) as info:
            function(group)
        return type(info.value), str(info.value)

    found = run_threads(workers, catch, timeout=5)
    told = re.compile(r"worker \d+ of \d+ has given up: \w+: ")  # of another worker's error
    (kind,), (text,) = {kind for kind, _ in found}, {told.sub("", text) for _, text in found}
    return kind, text


E, Y = np.ones((2048, 3)), np.ones(2048)


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (
            lambda r: (E[:1000], Y[:1000]),
            ValueError,
            "Phi: got 1000 rows on worker 0 of 3, expected a multiple of 1024",
        ),
        (
            lambda r: (np.ones((1024, 3 + (r == 2))), Y[:1024]),
            ValueError,
            "Phi: got so many columns: 4 on worker 2",
        ),
        (
            lambda r: (E.astype("f4"), Y.astype("f4")) if r else (E, Y),
            ValueError,
            "Phi: got the dtype float32 on",
        ),
        (lambda r: (E, Y, "mean" if r == 1 else "sum"), ValueError, "scale: got the scale mean on worker 1"),
        (lambda r: (E, Y, "means" if r == 1 else "sum"), ValueError, "scale: got 'means'"),
        (lambda r: (E, Y[: 2048 - (r == 1)]), ValueError, "y: got 2047 targets for the 2048 rows"),
        (lambda r: (E, Y * np.nan if r == 2 else Y), ValueError, "y: got nan"),
        (lambda r: (E[:0], Y[:0]), ValueError, "Phi: got no row on any of 3 workers"),
        (lambda r: (np.ones((0, 0)), Y[:0]), ValueError, "Phi: got shape"),
        (lambda r: ([[1.0]], Y), TypeError, "Phi: got list"),
    ],
)
def test_examples_that_do_not_fit(make, kind, says):
    found = errors_on(3, lambda group: MSE(*make(group.rank), group=group))
    assert found[0] is kind
    assert found[1].startswith(says), found[1]


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda p, r: p.loss(np.zeros(3 + (r == 1))), ValueError, "w: got shape"),
        (lambda p, r: p.gradient(np.zeros(3, "f4")), TypeError, "w: got float32"),
        (lambda p, r: p.loss(np.full(3, float(r))), ValueError, "w: got the digest .* on worker 1 and"),
        (lambda p, r: p.gradient(np.zeros(3), np.array([r])), ValueError, "rows: got the digest"),
        (
            lambda p, r: p.gradient(np.zeros(3), None if r else np.array([0])),
            ValueError,
            "rows: got the digest",
        ),
        (
            lambda p, r: p.gradient(np.zeros(3), np.array([6144])),
            IndexError,
            "rows: got index 6144",
        ),
        (
            lambda p, r: ss.minimize(p, np.zeros(3), lambda w: ss.SGD(w, 0.1), deadline=1.0),
            ValueError,
            "deadline: ",
        ),
        (lambda p, r: ss.theory.beta(p, "power"), ValueError, "problem: has its rows on 3 workers"),
    ],
)
def test_calls_that_do_not_fit(call, kind, says):
    found = errors_on(3, lambda group: call(MSE(E, Y, group=group), group.rank))
    assert found[0] is kind
    assert re.match(says, found[1]), found[1]


def test_a_run_is_checked_in_one_process():
    def work(group):
        problem = MSE(E, Y, group=group)
        run = ss.minimize(problem, np.zeros(3), lambda w: ss.SGD(w, 1e-5), steps=3, check=True)
        ss.theory.check_run(problem, run)

    kind, text = errors_on(2, work)
    assert kind is ValueError
    assert "make an MSE of all rows" in text


def test_an_error_of_worker_0_reaches_all(monkeypatch):
    def fail(*args, **how):
        raise ValueError("SVD did not converge")

    monkeypatch.setattr(np.linalg, "svd", fail)
    found = errors_on(2, lambda group: MSE(E, Y, group=group).beta)
    assert found == (ValueError, "SVD did not converge")


def test_the_group_is_fixed_and_shown():
    def work(group):
        problem = MSE(E, Y, group=group)
        assert problem.group is group
        with pytest.raises(AttributeError, match=r"^group: a problem stays"):
            problem.group = None
        return True

    assert run_threads(2, work) == [True, True]
    assert MSE(E, Y).group is None
    with pytest.raises(TypeError, match=r"^group: got int, expected a group of samestep\.parallel"):
        MSE(E, Y, group=2)


def test_cuts_and_workers_agree():
    for workers, cut in CUTS.items():
        assert len(cut) == workers + 1
        assert all(a % 1024 == 0 or a == 4700 for a, _ in itertools.pairwise(cut))
