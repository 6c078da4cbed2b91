"""The record of a sharded optimizer: one file, the same for any number of workers as for one optimizer."""

import errno
import functools
import os

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from samestep.ledger import read_ledger
from samestep.parallel import Sharded, WorkerLost, run_threads, weighted_mean
from simulated import Network

SHAPES = {"long": (5000,), "few": (7,), "a number": (), "table": (50, 70), "empty": (0,), "block": (1024,)}
WORKERS = [1, 2, 3, 5]
LEAVES = 8
STEPS = 4
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
HALF, BFLOAT16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
UNSTEPPED = "few"  # it has no gradient in step 1


def params(dtypes):
    draw = np.random.default_rng(0)
    return {
        name: np.asarray(draw.standard_normal(shape)).astype(dtypes[i % len(dtypes)])
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def gradients(t, leaf, like):
    draw = np.random.default_rng([t, leaf])
    grads = {name: np.asarray(draw.standard_normal(w.shape)).astype(w.dtype) for name, w in like.items()}
    return {**grads, UNSTEPPED: None} if t == 1 else grads


def two_groups(part, **how):
    first, second = list(part.items())[:2], list(part.items())[2:]
    groups = [{"params": dict(first)}, {"params": dict(second), "lr": 0.5, "weight_decay": 0.25}]
    return ss.Adam(groups, lr=0.1, **how)


ADAM = functools.partial(ss.Adam, lr=0.1)
CASES = {
    "adam": (ADAM, [FLOAT32], {}),
    "clipped": (functools.partial(ADAM, clip_norm=1.0, nonfinite="skip", ema=0.9), [FLOAT32], {}),
    "float64": (ADAM, [FLOAT64], {}),
    "both types": (ADAM, [FLOAT32, FLOAT64], {}),
    "float16": (functools.partial(ADAM, state_dtype="float32"), [HALF], {}),
    "bfloat16": (functools.partial(ADAM, state_dtype="param"), [BFLOAT16], {}),
    "split": (functools.partial(ADAM, master="split"), [BFLOAT16], {}),
    "master": (functools.partial(ADAM, master="float32"), [HALF], {}),
    "a copy": (functools.partial(ADAM, copy_dtype="bfloat16"), [FLOAT32], {}),
    "a schedule": (functools.partial(ss.SGD, lr=lambda t: 0.1 / t), [FLOAT32], {}),
    "the reference": (functools.partial(ADAM, backend="reference"), [FLOAT32], {}),
    "every 2, no state": (ADAM, [FLOAT32], {"every": 2, "state": False, "merkle": True}),
    "compressed": (ADAM, [FLOAT32], {"name": "run.jsonl.gz"}),
}


def train(group, folder, make, dtypes, how, scale=0.5):
    how = dict(how)
    path = folder / how.pop("name", "run.jsonl")
    own = params(dtypes)
    opt = Sharded(make, own, group, leaves=LEAVES)
    with opt.record(path, **how) as ledger:
        for t in range(STEPS):
            for leaf in opt.leaves:
                opt.add(leaf, gradients(t, leaf, own))
            ledger.note(loss=t + group.rank)
            opt.step(scale=scale)
    return path


def alone(folder, make, dtypes, how, scale=0.5):
    """The same with one optimizer that is given the means."""
    how = dict(how)
    path = folder / how.pop("name", "run.jsonl")
    own = params(dtypes)
    opt = make(own)
    with opt.record(path, **how) as ledger:
        for t in range(STEPS):
            leaves = [gradients(t, leaf, own) for leaf in range(LEAVES)]
            mean = {
                name: None if leaves[0][name] is None else mean_of([leaf[name] for leaf in leaves])
                for name in own
            }
            ledger.note(loss=t)
            opt.step(mean, scale=scale)
    return path


def mean_of(grads):
    return weighted_mean(grads, [1.0] * len(grads))


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_that_of_one_optimizer_for_any_number_of_workers(tmp_path, case):
    (tmp_path / "alone").mkdir()
    expected = alone(tmp_path / "alone", *CASES[case]).read_bytes()
    for workers in WORKERS:
        folder = tmp_path / str(workers)
        folder.mkdir()
        paths = run_threads(workers, lambda group, folder=folder: train(group, folder, *CASES[case]))
        assert set(paths) == {paths[0]}
        assert paths[0].read_bytes() == expected, workers


def test_groups_have_hyper_parameters_of_their_own(tmp_path):
    run_threads(3, lambda group: train(group, tmp_path, two_groups, [FLOAT32], {}))
    found = read_ledger(tmp_path / "run.jsonl")
    assert [tensor["group"] for tensor in found.header.tensors.values()] == [0, 0, 1, 1, 1, 1]
    assert [(h["lr"], h["weight_decay"]) for h in found.records[1].hyper] == [(0.1, 0.0), (0.5, 0.25)]
    assert found.records[1].scale == 0.5


def test_the_fingerprints_are_those_of_the_whole_arrays(tmp_path):
    def run(group):
        own = params([FLOAT32])
        opt = Sharded(ADAM, own, group, leaves=LEAVES)
        before = [ss.fingerprint(w) for w in own.values()]
        with opt.record(tmp_path / "run.jsonl"):
            for leaf in opt.leaves:
                opt.add(leaf, gradients(0, leaf, own))
            opt.step()
        state = opt.state_dict()["state"]
        after = [*own.values()], state["m"], state["v"]
        return before, [[f"{ss.fingerprint(a):016x}" for a in arrays] for arrays in zip(*after, strict=True)]

    before, after = run_threads(5, run)[4]
    start, first = read_ledger(tmp_path / "run.jsonl").records
    assert [entry[1] for entry in start.tensors.values()] == [f"{value:016x}" for value in before]
    assert [list(entry[1:]) for entry in first.tensors.values()] == after


def lines(path):
    return [(record.step, record.is_start) for record in read_ledger(path).records]


def test_a_step_that_is_left_out_has_no_line(tmp_path):
    def run(group):
        w = np.ones(3000, np.float32)
        opt = Sharded(functools.partial(ADAM, nonfinite="skip"), w, group, leaves=4)
        with opt.record(tmp_path / "run.jsonl"):
            for bad in (False, True, False):
                for leaf in opt.leaves:
                    opt.add(leaf, np.full_like(w, np.nan if bad and leaf == 3 else 1))
                opt.step()

    run_threads(3, run)
    assert lines(tmp_path / "run.jsonl") == [(0, True), (1, False), (2, False)]


def test_a_run_goes_on_with_another_number_of_workers(tmp_path):
    def run(group, steps, path, load):
        own = params([FLOAT32])
        opt = Sharded(ADAM, own, group, leaves=LEAVES)
        if load:
            opt.load(tmp_path / "checkpoint")
        with opt.record(path, append=load):
            for t in steps:
                for leaf in opt.leaves:
                    opt.add(leaf, gradients(t, leaf, own))
                opt.step()
        opt.save(tmp_path / "checkpoint")

    run_threads(2, lambda group: run(group, range(4), tmp_path / "whole", False))
    run_threads(3, lambda group: run(group, range(2), tmp_path / "two", False))
    run_threads(5, lambda group: run(group, range(2, 4), tmp_path / "two", True))
    assert (tmp_path / "two").read_bytes() == (tmp_path / "whole").read_bytes()
    assert lines(tmp_path / "two") == [(0, True), *((t, False) for t in (1, 2, 3, 4))]


def test_a_state_that_is_loaded_is_a_start(tmp_path):
    def run(group):
        w = np.ones(3000, np.float32)
        opt = Sharded(ADAM, w, group, leaves=4)

        def step():
            for leaf in opt.leaves:
                opt.add(leaf, w)
            opt.step()

        with opt.record(tmp_path / "run.jsonl"):
            step()
            saved = opt.state_dict()
            step()
            opt.load_state_dict(saved)
            step()

    run_threads(2, run)
    assert lines(tmp_path / "run.jsonl") == [(0, True), (1, False), (2, False), (1, True), (2, False)]


def test_a_record_ends_and_another_takes_its_place(tmp_path):
    def run(group):
        w = np.ones(3000, np.float32)
        opt = Sharded(ADAM, w, group, leaves=4)
        ends = [opt.record(tmp_path / "a"), None, None]
        for at in range(3):
            for leaf in opt.leaves:
                opt.add(leaf, w)
            opt.step()
            if at == 0:
                ends[1] = opt.record(tmp_path / "b")
            if at == 1:
                ends[2] = opt.record(None)
        return [None if end is None else end.is_closed for end in ends]

    assert run_threads(3, run) == [[True, True, None]] * 3
    assert lines(tmp_path / "a") == [(0, True), (1, False)]
    assert lines(tmp_path / "b") == [(1, True), (2, False)]


REFUSED = {
    "a file is there": (lambda group, folder: {"path": folder / "there"}, FileExistsError),
    "another every": (lambda group, folder: {"path": folder / "a", "every": 1 + group.rank}, ValueError),
    "no whole number": (lambda group, folder: {"path": folder / "a", "every": 0}, ValueError),
    "no path on one": (lambda group, folder: {"path": folder / "a" if group.rank else None}, ValueError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_refused_on_all_workers_and_leaves_no_file(tmp_path, case):
    arguments, kind = REFUSED[case]
    (tmp_path / "there").write_text("", encoding="utf-8")

    def run(group):
        w = np.ones(3000, np.float32)
        opt = Sharded(ADAM, w, group, leaves=4)
        given = arguments(group, tmp_path)
        with pytest.raises((kind, OSError) if kind is FileExistsError else kind):
            opt.record(given.pop("path"), **given)
        for leaf in opt.leaves:
            opt.add(leaf, w)
        opt.step()
        return opt.t

    assert run_threads(3, run) == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_after_a_line_that_cannot_be_written_comes_a_start(tmp_path, monkeypatch):
    def run(group):
        w = np.ones(3000, np.float32)
        opt = Sharded(ADAM, w, group, leaves=4)
        told = []
        with opt.record(tmp_path / "a"):
            for t in range(1, 5):
                if group.rank == 0:
                    monkeypatch.setattr(os, "write", no_space if t == 2 else write)
                for leaf in opt.leaves:
                    opt.add(leaf, w)
                try:
                    opt.step()
                except OSError as error:
                    told.append((t, error.errno))
        return told

    write = os.write
    assert run_threads(3, run) == [[(2, errno.ENOSPC)], [], []]
    assert lines(tmp_path / "a") == [(0, True), (1, False), (2, True), (3, False), (4, False)]


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_workers_that_end_their_records_after_other_steps_are_told(tmp_path):
    def run(group):
        w = np.ones(3000, np.float32)
        opt = Sharded(ADAM, w, group, leaves=4)
        ledger = opt.record(tmp_path / "a")
        if group.rank == 1:
            ledger.close()
        for leaf in opt.leaves:
            opt.add(leaf, w)
        with pytest.raises(ValueError, match="all record the same steps"):
            opt.step()
        return opt.t

    assert run_threads(3, run) == [0, 0, 0]


def test_the_optimizer_of_a_part_records_nothing_alone(tmp_path):
    def run(group):
        opt = Sharded(ADAM, np.ones(3000, np.float32), group, leaves=4)
        with pytest.raises(ValueError, match="record: got an optimizer of one worker's part"):
            opt.optimizer.record(tmp_path / "a")

    run_threads(2, run)
    assert not (tmp_path / "a").exists()


def test_a_step_in_which_a_worker_is_lost_changes_nothing_and_has_no_line(tmp_path):
    def run(group, path):
        w = np.ones(4000, np.float32)
        opt = Sharded(ADAM, w, group, leaves=4)
        opt.record(path)
        before = transfers(group)
        for leaf in opt.leaves:
            opt.add(leaf, w)
        try:
            opt.step()
        except WorkerLost:
            assert (w == 1.0).all()
            return before, False
        return before, True

    def transfers(group):
        return group._network.transfers[group.rank]

    network = Network(3)
    first = network.run(lambda group: run(group, tmp_path / "whole"))[2][0]
    last = network.transfers[2]
    found = set()
    for at in range(first + 1, last + 1):
        path = tmp_path / str(at)
        results = Network(3, seed=at, kills={2: at}).run(lambda group, path=path: run(group, path))
        is_made = results[0][1]
        steps = [step for step, is_start in lines(path) if not is_start]
        assert steps == [1] * is_made
        found.add(is_made)
    assert False in found
