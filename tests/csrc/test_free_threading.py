"""Threads that use the package at once: what the module tells an interpreter without a lock is true.

On an interpreter with a lock the threads change places as often as it lets them.
"""

import subprocess
import sys
import sysconfig
import threading
from itertools import count

import numpy as np
import pytest

import samestep as ss
from bits import ISAS, same_bits, snapshot
from samestep import ledger
from samestep.ledger import Header, Ledger

pytestmark = pytest.mark.thread_unsafe(reason="it starts its own threads and sets how many a step may use")

SMALL, LARGE = 300, 100_000  # of the one a step is over before the interpreter would be released


@pytest.fixture(autouse=True)
def threads_that_take_turns_often():
    before, threads = sys.getswitchinterval(), ss.get_num_threads()
    sys.setswitchinterval(1e-6)
    ss.set_num_threads(2)
    yield
    sys.setswitchinterval(before)
    ss.set_num_threads(threads)


def values(*shapes, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def at_once(*functions):
    """Runs each on a thread of its own, all from one moment on; returns what they return."""
    start, results, errors = threading.Barrier(len(functions)), [None] * len(functions), []

    def run(i):
        try:
            start.wait()
            results[i] = functions[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def while_others(disturb, *functions):
    """``at_once``, while one more thread calls ``disturb`` until all have returned."""
    left, ended = count(len(functions) - 1, -1), threading.Event()

    def told(function):
        def run():
            try:
                return function()
            finally:
                if next(left) == 0:
                    ended.set()

        return run

    def go_on():
        while not ended.is_set():
            disturb()

    return at_once(go_on, *map(told, functions))[1:]


def steps_that_succeed(optimizer, g, n):
    """What the steps return that are made; those that are refused say why."""
    made = []
    for _ in range(n):
        try:
            made.append(optimizer.step(g))
        except RuntimeError as error:
            assert str(error) == "another thread is inside step() of this optimizer"  # noqa: PT017
    return made


def run_python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this interpreter has its lock")
@pytest.mark.parametrize("module", ["samestep._core", "samestep"])
def test_the_import_leaves_the_interpreter_without_a_lock(module):
    assert run_python(f"import sys, {module}; print(sys._is_gil_enabled())") == "False\n"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_optimizer_for_each_thread(size, backend):
    def train(seed):
        w, *grads = values(*[size] * 6, seed=seed)
        optimizer = ss.Adam(w, weight_decay=0.01, clip_norm=1.0, backend=backend)
        for k in range(20):
            optimizer.step(grads[k % 5])
        return snapshot(optimizer)

    found = at_once(*(lambda seed=seed: train(seed) for seed in (1, 2, 3, 4)))
    for seed, result in zip((1, 2, 3, 4), found, strict=True):
        same_bits(result, train(seed))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["plain", "clip_norm"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_one_optimizer_for_all_threads(size, options, backend):
    """A step is made or refused: none is lost, none is made in part, and each returns the norm of a step."""
    w, g = values(size, size)
    alone = w.copy()
    shared, serial = (ss.Adam(a, backend=backend, **options) for a in (w, alone))
    made = [one for found in at_once(*[lambda: steps_that_succeed(shared, g, 100)] * 4) for one in found]
    assert shared.t == len(made) > 0
    assert shared.steps == [len(made)]
    for norm in made:
        assert norm == serial.step(g)
    same_bits(snapshot(shared), snapshot(serial))


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_recorded_optimizer_for_all_threads(size, tmp_path):
    """Its lines are those of as many steps of one thread."""
    w, g = values(size, size)
    alone = w.copy()
    shared, serial = ss.Adam(w), ss.Adam(alone)
    with shared.record(tmp_path / "shared.jsonl"):
        made = sum(map(len, at_once(*[lambda: steps_that_succeed(shared, g, 50)] * 4)))
    with serial.record(tmp_path / "serial.jsonl"):
        for _ in range(made):
            serial.step(g)
    assert shared.t == made > 0
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "serial.jsonl").read_bytes()


def test_two_optimizers_of_one_array():
    """What the array holds then is nobody's promise; states and counts are each optimizer's own."""
    w, g = values(LARGE, LARGE)
    optimizers = [ss.Adam(w) for _ in range(3)]
    made = at_once(*(lambda o=o: len(steps_that_succeed(o, g, 50)) for o in optimizers))
    assert made == [50] * 3
    alone = ss.Adam(w.copy())
    for _ in range(50):
        alone.step(g)
    for optimizer in optimizers:
        assert optimizer.steps == [50]
        same_bits([*optimizer.state["m"], *optimizer.state["v"]], [*alone.state["m"], *alone.state["v"]])


def work():
    """Of every noun a call whose bits are to be the same, whatever the others do."""
    x, w, bias, dy, image, gamma, beta = values((64, 150), (150, 70), 70, (64, 70), (8, 16, 40), 16, 16)
    labels = np.arange(64) % 70
    problem = ss.problems.MSE(x.astype(np.float64), bias[:64].astype(np.float64))

    def optimizer():
        one = ss.Momentum([a.copy() for a in (x, bias)], lr=0.1)
        for _ in range(3):
            one.step([x, bias])
        return snapshot(one)

    def batchnorm():
        y, mean, inv = ss.batchnorm_forward(image, gamma, beta, relu=True)
        return [y, *ss.batchnorm_backward(image, image, gamma, beta, mean, inv, relu=True)]

    def layer():
        one = ss.BatchNorm(16)
        return [one.forward(image), *one.backward(image), one.running_mean, one.running_var]

    def run():
        start = np.zeros(150)
        how = {"steps": 20, "batch_size": 8, "sampling": "shuffle"}
        found = ss.minimize(problem, start, lambda v: ss.Adam(v, lr=0.01), **how)
        return [np.asarray(found.w)]

    return {
        "optimizer": optimizer,
        "run": run,
        "batchnorm": batchnorm,
        "layer": layer,
        "linear": lambda: [ss.linear(x, w, bias, relu=True), *ss.linear_backward(dy, x, w)],
        "softmax": lambda: [np.asarray(a) for a in ss.softmax_cross_entropy(dy, labels)],
        "sums": lambda: [
            ss.canonical_sum(x, axis=0),
            np.array([ss.canonical_sum(x), ss.global_norm([x, w])]),
        ],
        "functions": lambda: [f(a) for f in (ss.exp, ss.tanh, ss.sigmoid) for a in (x, x.astype(np.float64))],
        "fingerprint": lambda: [np.array([ss.fingerprint(x), ss.fingerprint(w)], np.uint64)],
        "mse": lambda: [np.array(problem.loss(np.ones(150))), problem.gradient(np.ones(150))],
    }


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("name", work())
def test_bits_while_settings_change(name):
    call = work()[name]
    expected = call()
    settings = count()

    def change():
        k = next(settings)
        ss.set_isa(ISAS[k % len(ISAS)])
        ss.set_num_threads(1 + k % 4)

    def run():
        return [call() for _ in range(10)]

    for found in while_others(change, run, run):
        for result in found:
            same_bits(result, expected)


def test_a_problem_that_threads_share():
    rng = np.random.default_rng(0)
    Phi, y = rng.standard_normal((500, 7)), rng.standard_normal(500)

    def run(problem):
        how = {"steps": 200, "batch_size": 4, "sampling": "with_replacement", "seed": 3}
        found = ss.minimize(problem, np.zeros(7), lambda v: ss.SGD(v, lr=0.01), **how)
        return [np.asarray(found.w), problem.eigenvalues, np.array([problem.optimum, problem.kappa])]

    shared = ss.problems.MSE(Phi, y)
    for result in at_once(*[lambda: run(shared)] * 4):
        same_bits(result, run(ss.problems.MSE(Phi, y)))


def test_optimizers_that_are_made_and_dropped():
    w, g = values(2000, 2000)

    def make():
        for _ in range(100):
            optimizer = ss.Adam([w.copy(), g.copy()], ema=0.9)
            optimizer.step([g, g])
        return snapshot(optimizer)

    expected = make()
    for found in at_once(*[make] * 4):
        same_bits(found, expected)


def one_tensor(path):
    tensors = {"w": {"dtype": "float32", "shape": [3], "group": 0}}
    header = Header(1, "rule", {}, 1, ("gradient", "parameter"), tensors)
    return Ledger(path, header)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_threads_that_write_into_one_ledger(name, tmp_path):
    """Every line is whole and follows the one before."""
    with one_tensor(tmp_path / name) as shared:

        def write(own):
            for k in range(100):
                shared.start(k, np.array([[0, 1000 * own + k]], np.uint64))

        at_once(*(lambda own=own: write(own) for own in range(4)))
    assert len(ledger.read_ledger(tmp_path / name).records) == 400


def test_every_note_comes_into_one_line(tmp_path):
    with one_tensor(tmp_path / "a.jsonl") as shared:
        fingerprints, steps = np.zeros((1, 2), np.uint64), count(1)

        def note(own):
            for k in range(2000):
                shared.note(**{f"{own} {k}": 1.0})

        shared.start(0, fingerprints)
        noting = [lambda own=own: note(own) for own in range(3)]
        while_others(lambda: shared.add(next(steps), fingerprints, [{}]), *noting)
        shared.add(next(steps), fingerprints, [{}])
    found = [name for record in ledger.read_ledger(tmp_path / "a.jsonl").records for name in record.extras]
    assert sorted(found) == sorted(f"{own} {k}" for own in range(3) for k in range(2000))


def test_threads_that_import_the_package_at_once():
    code = """if True:
        import sys, threading
        sys.setswitchinterval(1e-6)
        start, found = threading.Barrier(4), []
        def run():
            start.wait()
            import samestep as ss
            import numpy as np
            w = np.ones(1000, np.float32)
            ss.Adam(w).step(w.copy())
            ss.parallel, ss.theory
            found.append(ss.digest(w))
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(found), len(set(found)))
    """
    assert run_python(code) == "4 1\n"
