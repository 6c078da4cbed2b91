"""The benchmarks run and count right; no time is asserted."""

import json

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from samestep import _core
from samestep.backends.face import STEPPED, Tensor
from samestep.backends.options import Options
from samestep.commands.bench import cases, peers, run, show, turns
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


@pytest.mark.parametrize("states", range(4))
def test_the_roof_moves_the_streams_of_its_rule(states, machine):
    w, *others = (np.full(100_003, i, np.float32) for i in range(1 + states))
    steps = np.zeros(2, np.int64)
    plan = _core.Plan(f"roof_{states}", [Tensor(w, others)], steps)
    g = np.arange(100_003, dtype=np.float32)
    assert plan.step([g], (0.0,)) == -1
    same_bits([w, *others], [g + np.float32(i) for i in range(1 + states)])
    assert f"roof_{states}" not in [name for name, *_ in _core.rules()]


def test_a_roof_refuses_what_it_has_no_loop_for(machine):
    """It steps neither 16-bit arrays nor weight decay, and has no plan by address."""
    steps = np.zeros(2, np.int64)
    for dtype in (np.float16, pytest.importorskip("ml_dtypes").bfloat16):
        with pytest.raises(ValueError, match="params: got 16-bit arrays for roof_0, expected float32 or"):
            _core.Plan("roof_0", [Tensor(np.ones(3, dtype))], steps)
    w = np.ones(3, np.float32)
    plan = _core.Plan("roof_0", [Tensor(w)], steps, Options(decoupled_weight_decay=True))
    with pytest.raises(ValueError, match="weight_decay: expected 0, since a roof has none"):
        plan.set_weight_decay([0.1])
    assert plan.step([w.copy()], (0.0,)) == STEPPED
    with pytest.raises(ValueError, match=r"rule: got 'roof_0', expected one of rules\(\)"):
        _core.AddressedPlan("roof_0", [("float32", 3, w.ctypes.data, [])], steps, Options())


def test_states_are_those_of_the_rules():
    for rule, make in cases.RULES.items():
        assert len(make(np.zeros(3, np.float32)).state) == peers.STATES[rule]


def test_contenders_take_turns():
    called = []
    times = turns.take_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 0.0)
    assert set(times) == {"a", "b"}
    assert all(0 < t.minimum <= t.median for t in times.values())
    order = [name for name, before in zip(called, [None, *called], strict=False) if name != before]
    assert order == ["a", "b"] * (1 + turns.ROUNDS)


def test_a_row_counts():
    row = run.Row("Adam", "x", 1, 1000, 1, {"samestep": 2.0, "roof": 1.0, "p": 6.0, "q": 5.0}, {}, 28_000)
    assert (row.best_peer, row.ratio, row.gb_per_s, row.share_of_roof) == ("q", 2.5, 14.0, 0.5)
    assert "2.50x q" in show.line(row)
    alone = run.Row("Adam", "x", 1, 1000, 1, {"samestep": 2.0, "roof": 1.0}, {}, 28_000)
    assert (alone.best_peer, alone.ratio) == (None, None)
    assert len(show.line(alone).split("  ")) > 1


def test_the_command(capsys, tmp_path):
    figure = tmp_path / "time.svg"
    arguments = ["--quick", "--rules", "Adam", "SGD", "--peers", "numpy", "--threads", "1"]
    threads = ss.get_num_threads()
    assert main(["bench", *arguments, "--plot", str(figure)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == show.HEADER
    assert [line.split()[:1] for line in lines[1:]] == [["Adam"], ["SGD"]] * 3
    assert "<svg" in figure.read_text(encoding="utf-8")
    assert main(["bench", *arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["case"] for row in rows] == ["1 x 64"] * 2 + ["1 x 1000"] * 2 + ["3 x 10"] * 2
    assert all(set(row["us"]) == {"samestep", "roof", "numpy"} for row in rows)
    assert ss.get_num_threads() == threads


@pytest.mark.parametrize("bad", [["--sizes", "0"], ["--rules", "Lion"], ["--sizes", "--plot", "x.png"]])
def test_bad_arguments(bad, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *bad])
    assert stopped.value.code == 2
