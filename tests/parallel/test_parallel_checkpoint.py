"""Checkpoints of sharded optimizers: by some workers, for any number of others, whole or not at all."""

import concurrent.futures
import functools
import json
import os
import pathlib
import threading

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from samestep.parallel import Sharded, WorkerLost, run_threads, threads
from simulated import Killed, Network

SHAPES = [(3000,), (7,), (50, 70), (0,)]
MAKES = {
    "adam": (np.float32, functools.partial(ss.Adam, lr=0.1, ema=0.5, clip_norm=1.0)),
    "split": (ml_dtypes.bfloat16, functools.partial(ss.Adam, lr=0.1, master="split")),
    "SGD": (np.float64, functools.partial(ss.SGD, lr=0.1)),
}


def sharded(group, name="adam", filled=True):
    dtype, make = MAKES[name]
    draw = np.random.default_rng(0)
    own = [(draw.standard_normal(s) if filled else np.zeros(s)).astype(dtype) for s in SHAPES]
    return Sharded(make, own, group, leaves=6)


def step(opt, t):
    for leaf in opt.leaves:
        draw = np.random.default_rng([t, leaf])
        opt.add(leaf, [draw.standard_normal(w.shape).astype(w.dtype) for w in opt.params])
    opt.step()


def seen(opt):
    state = [a for arrays in opt.state_dict()["state"].values() for a in arrays]
    return opt.t, ss.digest([*opt.params, *(a.view("f2") if a.dtype == np.uint16 else a for a in state)])


def saved_by(size, path, name="adam"):
    def one(group):
        opt = sharded(group, name)
        step(opt, 0)
        opt.save(path)
        step(opt, 1)
        return seen(opt)

    return run_threads(size, one)[0]


@pytest.mark.parametrize("name", MAKES)
def test_any_number_of_workers_goes_on_with_the_same_bits(tmp_path, name):
    def one(group, path):
        opt = sharded(group, name, filled=False)
        opt.load(path)
        step(opt, 1)
        return seen(opt)

    for writers in (1, 3, 4):
        path = tmp_path / str(writers)
        expected = saved_by(writers, path, name)
        for readers in (1, 2, 7):
            assert set(run_threads(readers, lambda g, path=path: one(g, path))) == {expected}


def test_a_new_checkpoint_takes_the_place_of_the_old_one(tmp_path):
    saved_by(4, tmp_path / "folder" / "c")
    names = set(os.listdir(tmp_path / "folder" / "c"))
    saved_by(3, tmp_path / "folder" / "c")
    now = set(os.listdir(tmp_path / "folder" / "c"))
    assert len(now) == 4
    assert names & now == {"manifest.json"}


def test_a_worker_that_dies_while_saving_leaves_the_old_checkpoint(tmp_path):
    expected = saved_by(2, tmp_path)
    outcomes = set()
    for at in range(1, 60):
        network = Network(3, seed=at, kills={at % 3: at})

        def one(group):
            opt = sharded(group)
            step(opt, 5)
            opt.save(tmp_path)

        results = network.run(one)
        assert all(x is None or isinstance(x, (Killed, WorkerLost)) for x in results)
        is_new = len(json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["files"]) == 3
        outcomes.add((any(isinstance(x, Killed) for x in results), is_new))

        def check(group):
            opt = sharded(group, filled=False)
            opt.load(tmp_path)
            step(opt, 1)
            return seen(opt)

        if not is_new:
            assert run_threads(2, check) == [expected] * 2
        else:
            run_threads(2, check)
            saved_by(2, tmp_path)
    assert {(True, False), (False, True)} <= outcomes


def load_error(path, size=2, name="adam"):
    """What each worker raises; nothing is changed."""

    def one(group):
        opt = sharded(group, name)
        before = seen(opt)
        try:
            opt.load(path)
        except Exception as error:
            assert seen(opt) == before
            return f"{type(error).__name__}: {error}"
        return None

    return run_threads(size, one)


def test_what_does_not_fit_is_refused_on_all_workers_with_nothing_changed(tmp_path):
    saved_by(3, tmp_path)
    first, second = load_error(tmp_path, name="SGD")
    assert first.startswith("ValueError: params: got arrays [['float64', [3000]]")
    assert second.startswith("ValueError: params: got arrays")
    assert all(x.startswith("FileNotFoundError") for x in load_error(tmp_path / "nothing"))

    files = sorted(tmp_path.glob("*.safetensors"))
    data = bytearray(files[1].read_bytes())
    data[-5] ^= 1
    files[1].write_bytes(data)
    assert all("altered since it was saved" in x for x in load_error(tmp_path))
    files[1].unlink()
    assert all(x.startswith("FileNotFoundError") for x in load_error(tmp_path))
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    assert all("cut off, altered or not a checkpoint" in x for x in load_error(tmp_path))
    (tmp_path / "manifest.json").write_text('{"format": 9, "files": []}', encoding="utf-8")
    assert all("of format 9, expected 1" in x for x in load_error(tmp_path))


def test_no_file_of_anybody_else_is_removed(tmp_path):
    others = ["llama-7b-00001-of-00002.safetensors", "deadbeef-0-of-2.txt", "notes.tmp"]
    broken_off = [".0123abcd-1-of-3.safetensors.89abcdef.tmp", ".manifest.json.89abcdef.tmp"]
    for name in [*others, *broken_off]:
        (tmp_path / name).touch()
    saved_by(2, tmp_path)
    names = set(os.listdir(tmp_path))
    assert names >= set(others)
    assert not names & set(broken_off)
    assert len(names) == len(others) + 3


def test_folders_that_differ_between_workers_are_refused_and_left_as_they_were(tmp_path):
    saved_by(2, tmp_path / "0")
    before = set(os.listdir(tmp_path / "0"))

    def one(group, path):
        opt = sharded(group)
        try:
            opt.save(path(group.rank))
        except Exception as error:
            return type(error), str(error)
        return None

    found = run_threads(2, lambda group: one(group, lambda rank: tmp_path / str(rank)))
    assert [kind for kind, _ in found] == [FileNotFoundError, OSError]
    assert all("expected one folder, given alike on all workers, that all reach" in text for _, text in found)
    assert set(os.listdir(tmp_path / "0")) == before
    assert os.listdir(tmp_path / "1") == []
    found = run_threads(2, lambda group: one(group, lambda rank: tmp_path if rank else None))
    assert [kind for kind, _ in found] == [TypeError, TypeError]


def test_a_worker_that_waited_too_long_leaves_its_file_to_a_manifest_that_may_name_it(tmp_path, monkeypatch):
    """Worker 0 is slow to write the manifest: it comes, whole, after worker 1 has given up."""
    saved_by(2, tmp_path)
    replace = ss.parallel.sharded.checkpoint._replace
    gave_up = threading.Event()

    def slow(path, text):
        assert gave_up.wait(30)
        replace(path, text)

    groups = threads(2, timeout=5)
    groups[1]._hub.timeout = 5

    def one(group):
        opt = sharded(group)
        step(opt, 5)
        expected = seen(opt)
        if group.rank == 1:
            group._hub.timeout = 0.2
        try:
            opt.save(tmp_path)
        except WorkerLost:
            gave_up.set()
        return expected

    monkeypatch.setattr(ss.parallel.sharded.checkpoint, "_replace", slow)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        expected = list(pool.map(one, groups))

    def check(group):
        opt = sharded(group, filled=False)
        opt.load(tmp_path)
        return seen(opt)

    assert run_threads(1, check) == expected[:1]


def test_any_name_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("a b/ü 数", "relative", "%s {0} *?[x]"):
        expected = saved_by(2, path)
        saved_by(2, path)

        def check(group, path=path):
            opt = sharded(group, filled=False)
            opt.load(path)
            step(opt, 1)
            return seen(opt)

        assert run_threads(3, check) == [expected] * 3
        assert len(os.listdir(path)) == 3


@pytest.mark.parametrize("text", ["null", "[]", '{"format": 1}', '{"format": 1, "files": [], "params": 3}'])
def test_a_manifest_of_something_else_is_a_value_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    assert all("cut off, altered or not a checkpoint" in x for x in load_error(tmp_path))
    assert all(x.startswith("ValueError") for x in load_error(tmp_path))


def test_an_error_of_one_worker_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    expected = saved_by(2, tmp_path)
    names = set(os.listdir(tmp_path))
    write = ss.parallel.sharded.checkpoint.files.write

    def failing(path, facts, state):
        write(path, facts, state)
        if "-1-of-3" in pathlib.Path(path).name:
            raise OSError(28, "No space left on device")

    def one(group):
        opt = sharded(group)
        step(opt, 5)
        try:
            opt.save(tmp_path)
        except (OSError, ValueError) as error:
            return type(error).__name__
        return None

    with monkeypatch.context() as patched:
        patched.setattr(ss.parallel.sharded.checkpoint.files, "write", failing)
        assert run_threads(3, one) == ["OSError", "OSError", "OSError"]
    assert set(os.listdir(tmp_path)) == names

    def check(group):
        opt = sharded(group, filled=False)
        opt.load(tmp_path)
        step(opt, 1)
        return seen(opt)

    assert run_threads(2, check) == [expected] * 2
