"""The benchmarks run and count right; no time is asserted."""

import json
import math
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from samestep import _core
from samestep.backends.face import Tensor
from samestep.commands.bench import cases, compare, peers, ratios, run, show, situations, turns
from samestep.commands.bench import machine as machine_of
from samestep.commands.cli import main

TINY = [(3,), (4, 5)]


@pytest.mark.parametrize("rule", cases.RULES)
@pytest.mark.parametrize("peer", peers.PEERS)
def test_a_peer_makes_the_same_step(rule, peer):
    """What is compared does the same job: three steps agree with ours to float32's accuracy."""
    if peer == "numba" and rule != "Adam":
        pytest.skip("it compiles NumPy's functions, which are tried; a compilation takes 5 s")
    rng = np.random.default_rng(0)
    params, grads = ([rng.standard_normal(s, dtype=np.float32) for s in TINY] for _ in range(2))
    ours = [w.copy() for w in params]
    optimizer = cases.RULES[rule](ours)
    watched = []
    before = [g.copy() for g in grads]

    class Watched(np.ndarray):  # a peer steps copies of the parameters: they are caught as they are made
        def copy(self, order="C"):
            watched.append(np.array(self))
            return watched[-1]

    try:
        calls = peers.PEERS[peer](rule, [w.view(Watched) for w in params], grads, 1)
    except ImportError:
        pytest.skip(f"{peer} is not installed")
    for call in calls.values():
        for _ in range(3):
            call()
    for _ in range(3):
        optimizer.step(grads)
    same_bits(grads, before)
    if peer == "jax":  # whose arrays are its own
        return
    names = [name for name in calls for _ in params]
    for i, (name, w) in enumerate(zip(names, watched, strict=False)):
        if (rule, name) == ("NAG", "torch foreach"):  # it adds to the gradient given
            continue
        np.testing.assert_allclose(w, ours[i % len(ours)], rtol=2e-5, atol=2e-6)


def streams(written, sizes):
    """Of each tensor g, and so many arrays that are written; on no cache line's border."""
    rng = np.random.default_rng(0)

    def array(n):
        return np.concatenate([[0.0], rng.standard_normal(n)]).astype(np.float32)[1:]

    return [(array(n), [array(n) for _ in range(written)]) for n in sizes]


@pytest.mark.parametrize("written", range(1, 5))
@pytest.mark.parametrize("threads", [1, 3])
def test_the_roof_moves_the_streams_of_its_rule(written, threads, isa):
    """In every way each element is read once and written once, and with c = 0 keeps its value."""
    sizes = (1, 300_003, 63, 8192, 0, 40_000)
    roof = _core.Roof(streams(written, sizes), threads)
    assert len(roof.ways) == (2 if threads == 1 else 10)
    for way, name in enumerate(roof.ways):
        tensors = streams(written, sizes)
        before = streams(written, sizes)
        roof = _core.Roof(tensors, threads)
        assert roof.seconds(way, 2) > 0.0
        for tensor, kept in zip(tensors, before, strict=True):
            same_bits(tensor[1], kept[1])
        roof.seconds(way, 1, 1.0)
        roof.seconds(way, 2, 1.0)
        for (g, arrays), (_, olds) in zip(tensors, before, strict=True):
            for array, old in zip(arrays, olds, strict=True):
                np.testing.assert_array_equal(array, ((old + g) + g) + g, err_msg=name)


def test_a_roof_needs_neither_plan_nor_pool():
    """It has threads of its own, whatever the pool's number of them, and no rule's name."""
    assert not [name for name, *_ in _core.rules() if "roof" in name]
    with pytest.raises(ValueError, match="rule: got 'roof_0'"):
        _core.Plan("roof_0", [Tensor(np.ones(3, np.float32))], np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("tensors", "threads", "message"),
    [
        ([], 1, "tensors: expected one or more"),
        (streams(0, [3]), 1, "written: expected 1 to 4 arrays"),
        (streams(5, [3]), 1, "written: expected 1 to 4 arrays"),
        (streams(1, [3]) + streams(2, [3]), 1, "written: expected as many for every tensor"),
        ([(np.ones(3, np.float32), [np.ones(4, np.float32)])], 1, "written: expected an aligned C array"),
        ([(np.ones(3), [np.ones(3, np.float32)])], 1, "g: expected an aligned C array"),
        ([(np.ones(6, np.float32)[::2], [np.ones(3, np.float32)])], 1, "g: expected an aligned C array"),
        (streams(1, [3]), 0, "threads: expected 1 or more"),
    ],
)
def test_a_roof_refuses_what_it_cannot_move(tensors, threads, message):
    with pytest.raises(ValueError, match=message):
        _core.Roof(tensors, threads)


def test_a_roof_refuses_ways_and_passes_that_there_are_not():
    roof = _core.Roof(streams(1, [3]), 1)
    with pytest.raises(ValueError, match="way: expected the number of one of ways"):
        roof.seconds(2)
    with pytest.raises(ValueError, match="passes: expected 1 or more"):
        roof.seconds(0, 0)
    w = np.ones(3, np.float32)
    w.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        _core.Roof([(np.ones(3, np.float32), [w])], 1)


def test_states_are_those_of_the_rules():
    for rule, make in cases.RULES.items():
        assert len(make(np.zeros(3, np.float32)).state) == peers.STATES[rule]


def test_contenders_take_turns():
    called = []
    samples = turns.take_turns({n: lambda n=n: called.append(n) or float(len(called)) for n in "abc"}, 0.0, 4)
    assert "".join(called) == "abc" + "cba" + "abc" + "cba"
    assert samples["a"].seconds == (1.0, 6.0, 7.0, 12.0)
    assert (samples["a"].minimum, samples["a"].median) == (1.0, 6.5)
    assert len(turns.take_turns({"a": lambda: 1.0}, 0.0)["a"].seconds) == turns.ROUNDS == 15


def test_the_other_work_runs_before_each_timed_call():
    ran = []
    situation = situations.Situation("in use", "other work", lambda: ran.append("work"))
    turn = situation.turn(lambda: ran.append("call"), 2)
    assert (
        ran == ["work", "call"] * 2
    )  # the warm-ups, in which a step that tunes itself finds what it will meet
    ran.clear()
    assert turn() > 0.0
    assert ran == ["work", "call"] * 2  # the first one has the caches of whoever ran before


def test_hot_calls_follow_their_own():
    """A turn calls for as long as another contender's threads spin, and then a batch; nothing else."""
    ran = []
    turn = situations.HOT.turn(lambda: ran.append(time.perf_counter()))
    ran.clear()
    start = time.perf_counter()
    each = turn()
    assert ran[-1] - start > situations.WARM_SECONDS
    assert sum(t - start > situations.WARM_SECONDS for t in ran) > 1
    assert each < situations.BATCH_SECONDS


def test_contenders_are_warmed_up_where_figures_count(monkeypatch):
    ran = []
    for rounds, calls in ((turns.ROUNDS, situations.WARM_UPS), (turns.QUICK_ROUNDS, 1)):
        ran.clear()
        situation = situations.Situation("in use", "x", lambda: None)
        assert list(situation.sample({"a": lambda: ran.append(1)}, 0.0, rounds)) == ["a"]
        assert len(ran) == calls + 2 * rounds
    monkeypatch.setattr(situations, "WARM_UP_SECONDS", 0.0)
    ran.clear()
    situations.HOT.turn(lambda: ran.append(1), 1000)
    assert len(ran) < 10


class Moves:
    """Like a roof: notes what runs. The second way is faster, but in one round."""

    ways = ("one", "two")
    of_rounds: ClassVar = {0: [0.5, 4.0, 4.0], 1: [2.0, 3.0, 2.0]}

    def __init__(self, ran):
        self.ran = ran

    def seconds(self, way, passes=1):
        self.ran.append((way, passes))
        times = [seconds for seconds in self.of_rounds[way] for _ in range(2)]  # of both passes of a turn
        return times[(self.ran.count((way, passes)) - 1) % len(times)]


def test_a_roof_is_the_way_that_is_fastest_in_most_rounds(monkeypatch):
    ran = []
    monkeypatch.setattr(situations, "add_in_place", lambda: lambda: ran.append("work"))
    spins = []  # the situation's own work leaves threads that spin: the machine's limit must not see it
    in_use = situations.Situation("in use", "x", lambda: spins.append(1))
    found = in_use.sample({}, 0.0, 3, Moves(ran))
    assert found == {"roof": turns.Sample((2.0, 3.0, 2.0))}
    assert ran[:8] == ["work", (0, 1)] * 2 + ["work", (1, 1)] * 2
    assert (len(ran), spins) == (24, [])
    ran.clear()
    assert list(situations.HOT.sample({}, 0.0, 1, Moves(ran))) == ["roof"]
    assert ran == [(0, 1), (1, 1)] + [(0, 1)] * 2 + [(1, 1)] * 2  # its own pass before each


def test_the_other_work_is_of_8_mb():
    work = situations.add_in_place()
    assert work().nbytes == situations.WORK_BYTES == 8 * 2**20
    assert (work() == 2).all()


def test_the_other_work_of_torch_is_of_8_mb():
    torch = pytest.importorskip("torch")
    (gradient,) = situations.backward_pass()()
    assert gradient.nbytes == situations.WORK_BYTES
    assert torch.equal(gradient, (torch.arange(len(gradient)) >= len(gradient) // 2).float())


def sample(*seconds):
    return turns.Sample(seconds)


# Paired ratios 0.5, 0.6, ..., in the order of rounds that the machine's noise gives them.
NOISE = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


def test_the_interval_is_of_the_paired_ratios():
    slow_phase = (1.0, 100.0) * 5  # hits both contenders of a round
    own = sample(*slow_phase)
    other = sample(*[s * (0.5 + n / 10) for s, n in zip(slow_phase, NOISE, strict=True)])
    ratio = ratios.times_faster(own, other)
    assert ratio == pytest.approx((0.95, 0.6, 1.3))  # the second of ten from either end
    assert str(ratio) == "0.95x (0.60 to 1.30)"


@pytest.mark.parametrize("n", [6, 9, 15, 40, 101, 2000])  # 2000: 2**n exceeds float64
def test_the_interval_holds_the_median_as_often_as_it_says(n):
    """Each of n values lies below the true median with 1/2: the binomial distribution, added up."""
    found = ratios.median_of(range(n))
    k = int(found.low) + 1
    assert found.high == n - k
    outside = [2 * sum(math.comb(n, i) for i in range(least)) for least in (k, k + 1)]
    assert 20 * outside[0] <= 2**n < 20 * outside[1]


def test_few_rounds_have_no_interval():
    for n in range(1, 6):
        found = ratios.median_of([2.0] * n)
        assert (found.low, found.high) == (0.0, math.inf)
        assert ratios.verdict(found, 1.0) == ratios.verdict(found, 3.0) == "inconclusive"
        assert found.as_dict() == {"median": 2.0, "low": None, "high": None}
        assert str(found) == "2.00x (too few rounds)"
    assert ratios.verdict(ratios.median_of([2.0] * 6), 1.0) == "met"


@pytest.mark.parametrize(
    ("goal", "expected"),
    [(0.5, "met"), (0.6, "met"), (0.61, "inconclusive"), (0.95, "inconclusive"), (1.3, "inconclusive"),
     (1.31, "missed"), (9.0, "missed")],
)  # fmt: skip
def test_a_verdict_is_of_the_whole_interval(goal, expected):
    own = sample(*[1.0] * len(NOISE))
    other = sample(*[(5 + n) / 10 for n in NOISE])
    compared = compare.Comparison("a step", "itself", own, other, "torch fused", goal)
    assert compared.verdict == expected
    assert compared.row().endswith(f"| 0.95x (0.60 to 1.30) | {goal:.3g}x | {expected} |")
    assert compared.row().count("|") == compare.TABLE.splitlines()[0].count("|")
    assert "| itself | 1e+06 | 1e+06 | torch fused |" in compared.row()
    found = compared.as_dict()
    assert (found["verdict"], found["rounds"], found["just_before"]) == (expected, 10, "itself")
    assert found["own"] == {"minimum_us": 1e6, "median_us": 1e6}


def test_without_a_goal_there_is_no_verdict():
    compared = compare.Comparison("a step", "itself", sample(1.0), sample(1.0), "x")
    assert compared.verdict is None
    assert compared.row().endswith("|  |  |")


def test_a_row_counts():
    samples = {"samestep": sample(1e-6, 2e-6, 3e-6), "roof": sample(*[1e-6] * 3), "p": sample(*[6e-6] * 3)}
    own = dict(rule="Adam", case="x", tensors=1, elements=1000, threads=1, nbytes=28_000)
    own |= dict(situation="in use", just_before="8 MB of NumPy")
    row = run.Row(samples=samples | {"q": sample(4e-6, 5e-6, 9e-6)}, **own)
    assert (row.best_peer, row.gb_per_s) == ("q", 14.0)
    assert (row.ratio.median, row.share_of_roof.median) == pytest.approx((3.0, 0.5))
    assert "q 3.00x" in show.line(row)
    assert "8 MB of NumPy" in show.line(row)
    alone = run.Row(samples=samples | {"p": samples["roof"]}, **own)
    assert alone.best_peer == "p"
    del alone.samples["p"]
    assert (alone.best_peer, alone.ratio, alone.as_dict()["ratio"]) == (None, None, None)
    assert len(show.line(alone).split("  ")) > 1


def test_the_machine_is_named():
    about = machine_of.about(2)
    words = machine_of.in_words(about)
    assert all(str(about[key]) in words for key in ("processor", "isa", "samestep", "date", "python"))
    assert "2 threads" in words
    assert about["processor"]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "model name" in (text := cpuinfo.read_text(encoding="utf-8")):
        assert about["processor"] in text


def test_the_command(capsys, tmp_path):
    figure = tmp_path / "time.svg"
    arguments = ["--quick", "--rules", "Adam", "SGD", "--peers", "numpy", "--threads", "1"]
    threads = ss.get_num_threads()
    assert main(["bench", *arguments, "--plot", str(figure)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == show.HEADER
    assert [line.split()[0] for line in lines[1:]] == ["Adam", "Adam", "SGD", "SGD"] * 3
    assert ["8 MB of NumPy" in line for line in lines[1:]] == [False, True] * 6
    assert "<svg" in figure.read_text(encoding="utf-8")
    assert main(["bench", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["rows"]
    assert found["about"]["processor"]
    assert [row["case"] for row in rows] == ["1 x 64"] * 4 + ["1 x 1000"] * 4 + ["3 x 10"] * 4
    assert [row["situation"] for row in rows] == ["hot", "in use"] * 6
    for row in rows:
        assert set(row["times"]) == {"samestep", "roof", "numpy"}
        assert row["rounds"] == turns.QUICK_ROUNDS
        assert 0 < row["times"]["roof"]["minimum_us"] <= row["times"]["roof"]["median_us"]
    assert ss.get_num_threads() == threads


@pytest.mark.parametrize("bad", [["--sizes", "0"], ["--rules", "Lion"], ["--sizes", "--plot", "x.png"]])
def test_bad_arguments(bad, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *bad])
    assert stopped.value.code == 2
