"""The pool: settings, forks, several callers at once."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from native_programs import build_native
from samestep.proof import golden, vectors

SIZE = 300_000


@pytest.fixture(autouse=True)
def two_threads(settings):
    ss.set_num_threads(2)


def work():
    w = vectors.random_values(SIZE, np.dtype(np.float32), 1)
    return w, vectors.random_values(SIZE, np.dtype(np.float32), 2)


def test_settings():
    for bad in (0, -1, 10**6):
        with pytest.raises(ValueError, match=r"^n: got"):
            ss.set_num_threads(bad)
    for bad in (1.5, True, "2"):
        with pytest.raises(TypeError, match=r"^n: got"):
            ss.set_num_threads(bad)
    ss.set_num_threads(np.int64(3))
    assert ss.get_num_threads() == 3


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60)


def test_default_follows_the_affinity_mask():
    cpu = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{cpu}]); import samestep; print(samestep.get_num_threads())"
    assert run_python(code).stdout == "1\n"


def test_environment_variable():
    code = "import samestep; print(samestep.get_num_threads())"
    assert run_python(code, SAMESTEP_THREADS="5").stdout == "5\n"
    failed = run_python(code, SAMESTEP_THREADS="many")
    assert failed.returncode
    assert "SAMESTEP_THREADS: got 'many', expected a whole number" in failed.stderr


def test_small_work_starts_no_thread():
    code = """if True:
        import os, numpy as np, samestep as ss
        tasks = lambda: len(os.listdir("/proc/self/task"))
        ss.set_num_threads(4)
        before = tasks()
        ss.SGD([np.ones(100) for _ in range(50)], lr=0.1).step([np.ones(100)] * 50)
        small = tasks()
        ss.SGD(np.ones(10**6), lr=0.1).step(np.ones(10**6))
        print(small - before, tasks() - small)
    """
    assert run_python(code).stdout == "0 3\n"


@pytest.mark.slow
def test_when_memory_or_threads_run_out():
    """Whatever fails while the pool grows, the work is done and the signal mask is put back."""
    done = subprocess.run(
        [build_native("native", target="pool") / "pool"], capture_output=True, encoding="utf-8"
    )
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.slow
def test_what_the_tuner_tries_and_keeps():
    done = subprocess.run(
        [build_native("native", target="tuner") / "tuner"], capture_output=True, encoding="utf-8"
    )
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.slow
def test_a_plan_when_memory_runs_out():
    """The step that fails writes nothing, and the next one steps every element."""
    done = subprocess.run(
        [build_native("native", target="plan") / "plan"], capture_output=True, encoding="utf-8"
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_tuning_can_be_switched_off():
    code = """if True:
        import numpy as np, samestep as ss
        ss.set_num_threads(2)
        opt = ss.SGD(np.ones(1 << 20, np.float32), lr=0.1)
        opt.record_stats()
        for _ in range(20): opt.step(np.ones(1 << 20, np.float32))
        trials = opt.stats.trials
        print([len(trial.seconds) for trial in trials], sum(trial.kept for trial in trials))
    """
    default, off = (run_python(code, SAMESTEP_TUNE=tune).stdout.strip() for tune in ("1", "0"))
    assert off == "[0, 0, 0] 1"
    assert default.startswith("[5, ")
    assert default.endswith("] 1")
    assert "SAMESTEP_TUNE: got 'no', expected '0' or '1'" in run_python(code, SAMESTEP_TUNE="no").stderr


@pytest.mark.thread_unsafe(reason="how many threads a step may use is the process's")
@pytest.mark.parametrize(
    ("size", "threads", "item"),
    [
        *((1 << 17, threads, item) for threads, item in ((2, 32768), (8, 9216), (16, 5120), (64, 4096))),
        *((1 << 20, threads, item) for threads, item in ((1, 131072), (2, 65536), (8, 32768))),
    ],
)
def test_work_is_cut_for_as_many_threads(size, threads, item):
    ss.set_num_threads(threads)
    trials = ss.SGD(np.ones(size, np.float32), lr=0.1)._plan.trials
    assert trials[0][:2] == (item, threads)
    assert len({trial[:2] for trial in trials}) == len(trials)


def test_a_setting_can_be_kept():
    opt = ss.SGD(np.ones(1 << 20, np.float32), lr=0.1)
    plan, g = opt._plan, np.ones(1 << 20, np.float32)
    for setting in range(len(plan.trials)):
        plan.keep(setting)
        opt.step(g)
        assert [kept for *_, kept in plan.trials] == [i == setting for i in range(len(plan.trials))]
        assert not any(seconds for *_, seconds, _ in plan.trials)
    for setting in (-1, len(plan.trials)):
        with pytest.raises(ValueError, match="setting: expected the index of one of trials"):
            plan.keep(setting)


def in_child(act) -> int:
    """Forks, runs act in the child under an alarm, returns the child's wait status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_after_use_fifty_times_and_grandchildren():
    w, g = work()
    expected = w.copy()
    ss.SGD(expected, lr=0.1).step(g)

    def step():
        mine = w.copy()
        ss.SGD(mine, lr=0.1).step(g)
        same_bits([mine], [expected])
        tasks = len(os.listdir("/proc/self/task"))
        assert tasks >= 2, "the child has no pool of its own"

    def step_and_fork():
        step()
        assert in_child(step) == 0

    step()
    for _ in range(50):
        assert in_child(step_and_fork) == 0
        step()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_while_another_thread_steps():
    w, g = work()
    stop = threading.Event()

    def keep_stepping():
        mine = w.copy()
        optimizer = ss.SGD(mine, lr=0.1)
        while not stop.is_set():
            optimizer.step(g)

    def step():
        ss.SGD(w.copy(), lr=0.1).step(g)

    thread = threading.Thread(target=keep_stepping)
    thread.start()
    try:
        for _ in range(10):
            assert in_child(step) == 0
    finally:
        stop.set()
        thread.join()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_of_a_fork_in_the_middle_of_a_step_is_told_once():
    w, g = np.zeros(8_000_000, np.float32), np.ones(8_000_000, np.float32)
    optimizer = ss.SGD(w, lr=0.1)
    stop = threading.Event()

    def keep_stepping():
        while not stop.is_set():
            optimizer.step(g)

    def step_twice():
        try:
            optimizer.step(g)
        except RuntimeError as error:
            assert "forked while another thread was inside step()" in str(error)  # noqa: PT017
            optimizer.step(g)
            os._exit(7)

    thread = threading.Thread(target=keep_stepping)
    thread.start()
    try:
        told = [os.waitstatus_to_exitcode(in_child(step_twice)) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    assert set(told) <= {0, 7}
    assert 7 in told


@pytest.mark.thread_unsafe(reason="only the main thread may handle signals")
def test_t_and_steps_agree_whenever_a_signal_strikes():
    """Python runs a handler right after the native call: nothing of the step may be left to do then."""
    w, g = np.zeros(64), np.ones(64)
    optimizer = ss.Adam(w)

    class StruckError(Exception):
        pass

    def handler(signum, frame):
        raise StruckError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001)  # once: it strikes in here and nowhere else
                while True:
                    optimizer.step(g)
            except StruckError:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert [optimizer.t] == optimizer.steps


def test_number_of_threads_changed_during_a_gradient():
    """Every seat of a pass has sums of its own: no more seats may be taken than there are."""
    rng = np.random.default_rng(0)
    problem = ss.problems.MSE(rng.standard_normal((20_000, 20)), rng.standard_normal(20_000))
    expected = problem.gradient(np.ones(20))
    stop = threading.Event()

    def change():
        while not stop.is_set():
            ss.set_num_threads(1)
            ss.set_num_threads(4)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(500):
            same_bits([problem.gradient(np.ones(20))], [expected])
    finally:
        stop.set()
        thread.join()


def test_callers_at_once_on_arrays_of_their_own():
    w, g = work()
    expected = golden.cases()[-2].run(w, [g] * 20)
    results = [None] * 4

    def run(k):
        results[k] = golden.cases()[-2].run(w, [g] * 20)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for result in results:
        same_bits(result, expected)


def test_two_threads_in_one_optimizer_raise_or_take_turns():
    w = np.zeros(4_000_000, np.float32)
    g = np.ones_like(w)
    optimizer = ss.SGD(w, lr=1.0)
    refused = []

    def run():
        for _ in range(20):
            try:
                optimizer.step(g)
            except RuntimeError as error:
                assert "another thread is inside step()" in str(error)  # noqa: PT017
                refused.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert optimizer.steps == [60 - len(refused)]
    assert (w == len(refused) - 60).all()


def test_the_interpreter_is_free_during_a_large_step():
    w = np.zeros(8_000_000, np.float32)
    optimizer, g = ss.Adam(w), np.ones_like(w)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0)

    thread = threading.Thread(target=tick)
    thread.start()
    during = 0
    for _ in range(10):
        start = time.perf_counter()
        optimizer._plan.step((g,), optimizer._hyper_values)
        end = time.perf_counter()
        during += sum(start < t < end for t in list(ticks))
    stop.set()
    thread.join()
    assert during > 0
