"""Recorded steps: one file on any machine, no line for what is no step, and whole files after failures."""

import copy
import errno
import gzip
import itertools
import json
import os
import pickle

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from bits import same_bits, snapshot
from samestep.ledger import Ledger, LedgerError, merkle, read_ledger
from samestep.problems import MSE
from samestep.proof import vectors

SHAPES = {"w": (60, 50), "b": (50,), "none": (0,), "one": ()}
F32 = np.dtype(np.float32)


def arrays(seed, dtype=np.float32):
    return {
        name: vectors.random_values(int(np.prod(shape)), np.dtype(dtype), seed + i).reshape(shape)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def make(kind=ss.Adam, **options):
    return kind(arrays(1), **{"lr": 0.1, **options})


def run(path, optimizer, steps=4, first=0, **options):
    """Records so many steps."""
    with optimizer.record(path, **options) as ledger:
        for step in range(first, first + steps):
            optimizer.step(arrays(20 + 4 * step))
    assert ledger.is_closed
    return path.read_bytes()


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def steps(path):
    """The step of every line after the header; of a start it is below zero, less one."""
    return [r.step if not r.is_start else ~r.step for r in read_ledger(path).records]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


@pytest.fixture
def paths(tmp_path):
    return (tmp_path / f"{i}.jsonl" for i in itertools.count())


OPTIONS = {
    "plain": {},
    "everything": {
        "weight_decay": 0.1,
        "clip_value": 0.5,
        "ema": 0.5,
        "copy_dtype": "bfloat16",
        "maximize": True,
        "flush_subnormals": True,
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_file_on_any_machine(settings, paths, options):
    files = {run(next(paths), make(backend="reference", **options))}
    for isa, threads in itertools.product(ss.info()["isas"], (1, 2, 5)):
        ss.set_isa(isa)
        ss.set_num_threads(threads)
        files.add(run(next(paths), make(**options)))
    assert len(files) == 1
    assert len(files.pop().splitlines()) == 6


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_a_line_says(path, backend):
    optimizer = make(backend=backend, weight_decay=0.25)
    given = arrays(7)
    given["b"] = None
    with optimizer.record(path):
        start = snapshot(optimizer)
        optimizer.step(given, scale=0.5)
    header, at_start, line = read_ledger(path).header, *read_ledger(path).records
    names = [f"params[{name!r}]" for name in SHAPES]
    assert list(header.tensors) == names
    assert header.tensors[names[0]] == {"dtype": "float32", "shape": [60, 50], "group": 0}
    assert (header.rule, header.every, header.kinds) == (
        "adam_outside",
        1,
        ("gradient", "parameter", "m", "v"),
    )
    assert header.contract == ss.info()["contract"]
    assert line.hyper == ({"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.25},)
    assert line.scale == 0.5
    assert line.root is None
    for i, (name, tensor) in enumerate(zip(SHAPES, names, strict=True)):
        states = [optimizer.params[i], *(s[i] for s in optimizer.state.values())]
        assert at_start.tensors[tensor] == (None, *(f"{ss.fingerprint(a):016x}" for a in start[i::4]))
        if name == "b":
            assert line.tensors[tensor] is None
        else:
            expected = [given[name], *states]
            assert line.tensors[tensor] == tuple(f"{ss.fingerprint(a):016x}" for a in expected)


def test_options_that_are_not_as_by_default(path):
    make(ema=0.5, maximize=True).record(path).close()
    header = read_ledger(path).header
    assert header.options == {"ema": 0.5, "maximize": True}
    assert header.kinds == ("gradient", "parameter", "m", "v", "ema")


def test_every(path):
    run(path, make(), steps=7, every=3)
    assert steps(path) == [~0, 3, 6]
    twin = make()
    for step in range(6):
        twin.step(arrays(20 + 4 * step))
    expected = tuple(f"{ss.fingerprint(a):016x}" for a in (arrays(40)["w"], *snapshot(twin)[::4]))
    assert read_ledger(path).records[-1].tensors["params['w']"] == expected


def test_without_states(paths):
    whole, path = next(paths), next(paths)
    run(whole, make())
    run(path, make(), state=False)
    assert read_ledger(path).header.kinds == ("gradient", "parameter")
    for a, b in zip(read_ledger(path).records, read_ledger(whole).records, strict=True):
        assert list(a.tensors.values()) == [entry[:2] for entry in b.tensors.values()]


def test_recording_changes_no_bit(path, machine):
    optimizer, twin = make(), make()
    run(path, optimizer)
    optimizer.step(arrays(99))
    for step in range(4):
        twin.step(arrays(20 + 4 * step))
    twin.step(arrays(99))
    same_bits(snapshot(optimizer), snapshot(twin))


@pytest.mark.parametrize("every", [1, 2])
def test_a_start_is_written_where_steps_do_not_follow(path, every):
    optimizer = make()
    with optimizer.record(path, every=every):
        for _ in range(3):
            optimizer.step(arrays(3))
        saved, params = optimizer.state_dict(), [p.copy() for p in optimizer.params]
        optimizer.step(arrays(5))
        optimizer.load_state_dict(saved)
        for w, p in zip(optimizer.params, params, strict=True):
            w[...] = p
        optimizer.step(arrays(5))
        optimizer.step(arrays(5))
    assert steps(path) == ([~0, 1, 2, 3, 4, ~3, 4, 5] if every == 1 else [~0, 2, 4, ~3, 4])
    at = read_ledger(path).records
    assert at[-1 - (every == 1)].tensors == at[4 if every == 1 else 2].tensors


@pytest.mark.parametrize("every", [1, 3])
def test_nothing_is_written_where_nothing_has_changed(paths, every):
    """Timing, settings and a state that is what it was are no new start."""
    expected = run(next(paths), make(), steps=7, every=every)
    path, optimizer = next(paths), make()
    with optimizer.record(path, every=every):
        for step in range(7):
            optimizer.record_stats(step % 2 == 0)
            optimizer.lr = optimizer.lr
            if every == 1:
                optimizer.load_state_dict(optimizer.state_dict())
            optimizer.step(arrays(20 + 4 * step))
    assert path.read_bytes() == expected


@pytest.mark.parametrize("end", ["jsonl", "jsonl.gz"])
def test_append_after_the_end(tmp_path, end):
    whole, path = tmp_path / f"whole.{end}", tmp_path / f"run.{end}"
    run(whole, make(), steps=5)
    optimizer = make()
    run(path, optimizer, steps=2)
    run(path, optimizer, steps=3, first=2, append=True)
    opened = gzip.open if end.endswith("gz") else open
    with opened(path) as a, opened(whole) as b:
        assert a.read() == b.read()


@pytest.mark.thread_unsafe(reason="a fixture makes its file")
def test_append_after_a_checkpoint_and_a_cut_off_line(tmp_path, path):
    optimizer = make()
    run(path, optimizer, steps=2)
    optimizer.save(tmp_path / "state")
    params = copy.deepcopy(optimizer.params)
    run(path, optimizer, steps=2, first=2, append=True)
    whole = path.read_bytes()
    again = ss.Adam.load(tmp_path / "state", dict(zip(SHAPES, params, strict=True)))
    path.write_bytes(whole[:-5])
    with pytest.raises(LedgerError, match="line 6: cut off"):
        again.record(path, append=True)
    assert again._ledger is None
    again.step(arrays(28))
    assert path.read_bytes() == whole[:-5]
    path.write_bytes(whole)
    again = ss.Adam.load(tmp_path / "state", dict(zip(SHAPES, params, strict=True)))
    run(path, again, steps=2, first=3, append=True)
    assert steps(path) == [~0, 1, 2, 3, 4, ~2, 3, 4]


@pytest.mark.parametrize(
    "other",
    [{"lr": 0.1, "ema": 0.5}, {"lr": 0.1, "form": "inside"}, {"lr": 0.1, "kind": ss.Momentum}],
    ids=str,
)
def test_another_optimizer_s_file(path, other):
    before = run(path, make())
    kind = other.pop("kind", ss.Adam)
    if "form" in other:
        other = {"lr": 0.1, kind.form_argument: other["form"]}
    optimizer = make(kind, **other)
    with pytest.raises(ValueError, match="records other tensors, options or kinds"):
        optimizer.record(path, append=True)
    with pytest.raises(FileExistsError, match="append=True"):
        optimizer.record(path)
    optimizer.step(arrays(2))
    assert path.read_bytes() == before


def test_groups_and_schedules(path):
    optimizer = ss.Adam(
        [
            {"params": {"a": np.ones(3, F32)}, "lr": ss.schedules.cosine(0.5, steps=4)},
            {"params": [np.ones(2), np.ones((2, 2))], "lr": 1, "weight_decay": 0.5},
        ],
        betas=(0.5, 0.75),
    )
    grads = [{"a": np.ones(3, F32)}, [np.ones(2), np.ones((2, 2))]]
    with optimizer.record(path):
        optimizer.step(grads)
        optimizer.groups[1]["weight_decay"] = 0.25
        optimizer.step(grads)
    found = read_ledger(path)
    assert {name: facts["group"] for name, facts in found.header.tensors.items()} == {
        "params[0]['params']['a']": 0,
        "params[1]['params'][0]": 1,
        "params[1]['params'][1]": 1,
    }
    first, second = (record.hyper for record in found.records[1:])
    assert first[0]["lr"] == 0.5 != second[0]["lr"] == optimizer.groups[0]["lr"]
    assert [hyper[1]["weight_decay"] for hyper in (first, second)] == [0.5, 0.25]
    assert first[1]["lr"] == 1.0
    assert b'"lr":1.0,' in path.read_bytes()
    assert first[0]["beta1"] == first[1]["beta1"] == 0.5


def test_numbers_of_any_type_are_written_alike(paths):
    files = set()
    for lr, scale in ((1, 2), (1.0, 2.0), (np.float32(1), np.float64(2)), (np.int64(1), np.float32(2))):
        optimizer, path = make(lr=lr), next(paths)
        with optimizer.record(path):
            optimizer.step(arrays(3), scale=scale)
        files.add(path.read_bytes())
    assert len(files) == 1


def test_a_step_that_is_skipped_writes_no_line(path):
    optimizer = make(nonfinite="skip")
    good = {name: np.ones(shape, F32) for name, shape in SHAPES.items()}
    bad = {**good, "b": np.full(50, np.nan, F32)}
    with optimizer.record(path) as ledger:
        optimizer.step(good)
        before = path.read_bytes()
        ledger.note(loss=3)
        optimizer.step(bad)
        assert optimizer.skipped
        assert path.read_bytes() == before
        optimizer.step(good)
    assert steps(path) == [~0, 1, 2]
    assert read_ledger(path).records[-1].extras == {"loss": (3.0).hex()}


def test_a_step_that_fails_writes_no_line(path):
    optimizer = make()
    with optimizer.record(path):
        before = path.read_bytes()
        with pytest.raises(ValueError, match="grads"):
            optimizer.step({**arrays(3), "b": np.ones(49, F32)})
        with pytest.raises(ValueError, match="scale"):
            optimizer.step(arrays(3), scale=float("nan"))
        assert path.read_bytes() == before
        optimizer.step(arrays(3))
    assert steps(path) == [~0, 1]


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"zero_grads": True}], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_arrays_in_another_order(paths, options, backend):
    """Fingerprints are of the elements in C order, wherever they lie."""
    path, twin = next(paths), next(paths)
    x = arrays(1)["w"]
    for where, order in ((path, np.asfortranarray), (twin, np.array)):
        params = [order(x), x[0].copy()]
        optimizer = ss.Adam(params, lr=0.1, backend=backend, **options)
        with optimizer.record(where):
            for step in range(3):
                g = arrays(30 + step)["w"]
                optimizer.step([order(g), g[1].copy()])
    assert path.read_bytes() == twin.read_bytes()


def test_copied_gradients(paths):
    path, twin = next(paths), next(paths)
    for where, order in ((path, np.asfortranarray), (twin, np.array)):
        optimizer = ss.Adam(arrays(1)["w"], lr=0.1, copy_grads=True)
        with optimizer.record(where):
            optimizer.step(order(arrays(2)["w"]))
    assert path.read_bytes() == twin.read_bytes()


HALVES = {
    "state": {"state_dtype": "param"},
    "master": {"master": "float32"},
    "split": {"master": "split"},
    "stochastic": {"stochastic_rounding": 3},
}


@pytest.mark.parametrize("form", HALVES)
def test_16_bits(paths, form, settings):
    files = []
    for backend, threads in (("cpu", 1), ("cpu", 3), ("reference", 1)):
        ss.set_num_threads(threads)
        w = vectors.finite_values(3000, F32, 1).astype(ml_dtypes.bfloat16)
        optimizer, path = ss.Adam([w], lr=0.1, backend=backend, **HALVES[form]), next(paths)
        with optimizer.record(path):
            for step in range(2):
                optimizer.step([vectors.finite_values(3000, F32, step).astype(ml_dtypes.bfloat16)])
        files.append(path.read_bytes())
        line = read_ledger(path).records[-1].tensors["params[0]"]
        own = [w, *(s[0] for s in optimizer.state.values())]
        assert line[1:] == tuple(f"{ss.fingerprint(a):016x}" for a in own)
    assert len(set(files)) == 1


def test_a_group_is_not_added_while_it_is_recorded(path):
    optimizer = ss.SGD([{"params": np.ones(3)}], lr=0.5)
    with optimizer.record(path):
        optimizer.step([np.ones(3)])
        with pytest.raises(ValueError, match=r"params: other ones than .*; end it with record\(None\) first"):
            optimizer.add_group({"params": np.ones(2)})
        assert len(optimizer.groups) == 1
        optimizer.step([np.ones(3)])
    assert steps(path) == [~0, 1, 2]
    optimizer.record(None)
    optimizer.add_group({"params": np.ones(2)})
    optimizer.step([np.ones(3), np.ones(2)])
    assert [w[0] for w in optimizer.params] == [-0.5, 0.5]


def test_copies_do_not_record(path):
    optimizer = make()
    with optimizer.record(path) as ledger:
        before = path.read_bytes()
        for twin in (copy.copy, copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))):
            other = twin(optimizer)
            other.step(arrays(2))
            assert other.t == 1
        assert path.read_bytes() == before
        assert not ledger.is_closed


def test_record_nothing_more(paths):
    first, second = next(paths), next(paths)
    optimizer = make()
    ledger = optimizer.record(first)
    optimizer.step(arrays(2))
    other = optimizer.record(second)
    assert ledger.is_closed
    optimizer.step(arrays(3))
    assert optimizer.record(None) is None
    assert other.is_closed
    optimizer.step(arrays(4))
    assert (steps(first), steps(second)) == ([~0, 1], [~1, 2])
    assert optimizer.record(None) is None


def test_a_ledger_that_was_closed(path):
    optimizer = make()
    ledger = optimizer.record(path)
    optimizer.step(arrays(2))
    ledger.close()
    optimizer.step(arrays(2))
    optimizer.record_stats()
    optimizer.step(arrays(2))
    assert steps(path) == [~0, 1]
    assert optimizer.stats.steps == 1
    assert optimizer.t == 3


class Disk:
    """Writes half of a line, and then raises."""

    def __init__(self, error):
        self.error, self.parts = error, 0

    def __call__(self, file, data):
        self.parts += 1
        if self.parts == 1:
            return WRITE(file, data[: len(data) // 2])
        raise self.error


WRITE = os.write
ERRORS = {"full": OSError(errno.ENOSPC, "No space left on device"), "interrupt": KeyboardInterrupt()}


@pytest.mark.parametrize("end", ["jsonl", "jsonl.gz"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_line_that_cannot_be_written(tmp_path, monkeypatch, end, error):
    """The step was made, the file is as it was, and what follows is whole."""
    path, optimizer, twin = tmp_path / f"run.{end}", make(), make()
    with optimizer.record(path):
        optimizer.step(arrays(2))
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", Disk(ERRORS[error]))
            with pytest.raises(type(ERRORS[error])):
                optimizer.step(arrays(3))
        assert path.read_bytes() == before
        assert optimizer.t == 2
        optimizer.step(arrays(4))
    assert steps(path) == [~0, 1, ~2, 3]
    for seed in (2, 3, 4):
        twin.step(arrays(seed))
    same_bits(snapshot(optimizer), snapshot(twin))


@pytest.mark.parametrize("end", ["jsonl", "jsonl.gz"])
def test_a_file_that_cannot_be_begun_is_not_left_behind(tmp_path, monkeypatch, end):
    path, optimizer = tmp_path / f"run.{end}", make()
    files = len(os.listdir("/proc/self/fd"))
    for parts in range(2):
        disk = Disk(ERRORS["full"])
        disk.parts = parts
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", disk)
            with pytest.raises(OSError, match="No space left"):
                optimizer.record(path)
        assert not path.exists()
        assert len(os.listdir("/proc/self/fd")) == files
    optimizer.step(arrays(1))
    with optimizer.record(path):
        optimizer.step(arrays(1))
    assert steps(path) == [~1, 2]


def test_a_start_that_cannot_be_written(path, monkeypatch):
    """Of a new file nothing is left, and the one before is still recorded into."""
    optimizer = make()
    first = path.with_name("first.jsonl")
    ledger = optimizer.record(first)
    optimizer.step(arrays(1))
    calls = []

    def write(file, data):
        calls.append(len(data))
        if len(calls) > 1:
            raise ERRORS["full"]
        return WRITE(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space left"):
            optimizer.record(path)
    assert not path.exists()
    assert not ledger.is_closed
    optimizer.step(arrays(1))
    ledger.close()
    assert steps(first) == [~0, 1, 2]


def test_a_compressed_file_whose_end_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl.gz"
    optimizer = make()
    ledger = optimizer.record(path)
    optimizer.step(arrays(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", Disk(ERRORS["full"]))
        with pytest.raises(OSError, match="No space left"):
            ledger.close()
    assert ledger.is_closed
    ledger.close()
    assert steps(path) == [~0, 1]
    run(path, optimizer, first=1, steps=1, append=True)
    assert steps(path)[:2] == [~0, 1]
    assert steps(path)[-1] == 2


def test_minimize_records_every_step(paths):
    rng = np.random.default_rng(0)
    problem = MSE(rng.standard_normal((20, 3)), rng.standard_normal(20))
    ledgers = []

    def recorded(w):
        optimizer = ss.Adam(w, lr=0.1)
        ledgers.append(optimizer.record(next(paths)))
        return optimizer

    def not_recorded(w):
        return ss.Adam(w, lr=0.1)

    found = ss.minimize(problem, np.zeros(3), recorded, steps=5)
    plain = ss.minimize(problem, np.zeros(3), not_recorded, steps=5)
    ledgers[0].close()
    assert steps(ledgers[0].path) == [~0, 1, 2, 3, 4, 5]
    same_bits([found.w], [plain.w])


def test_notes(path):
    optimizer = make()
    mean = np.arange(3, dtype=F32)
    with optimizer.record(path) as ledger:
        ledger.note(loss=0.5, mean=mean)
        ledger.note(loss=np.float32(0.25), count=3)
        optimizer.step(arrays(1))
        for wrong in ("1", None, [1.0], np.ones(2, np.int64), 1j):
            with pytest.raises((TypeError, ValueError), match="x"):
                ledger.note(loss=1.0, x=wrong)
        optimizer.step(arrays(1))
    _, first, second = read_ledger(path).records
    assert first.extras == {
        "loss": (0.25).hex(),
        "mean": f"{ss.fingerprint(mean):016x}",
        "count": (3.0).hex(),
    }
    assert second.extras == {}


def test_a_loss_that_is_no_number_is_noted(path):
    optimizer = make()
    with optimizer.record(path) as ledger:
        ledger.note(loss=float("nan"), bound=-float("inf"))
        optimizer.step(arrays(1))
    assert read_ledger(path).records[1].extras == {"loss": "nan", "bound": "-inf"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_process_leaves_the_file_to_its_parent(path):
    optimizer = make()
    with optimizer.record(path) as ledger:
        optimizer.step(arrays(1))
        child = os.fork()
        if child == 0:
            try:
                optimizer.step(arrays(2))
                ledger.close()
                os._exit(0 if ledger.is_closed and optimizer.t == 2 else 1)
            except BaseException:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        optimizer.step(arrays(3))
    assert [record.step for record in read_ledger(path).records] == [0, 1, 2]


def test_merkle_roots(path):
    run(path, make(), merkle=True)
    for record in read_ledger(path).records:
        assert record.root == merkle.root_of(record.tensors)
        proof = merkle.proof_of(record.tensors, "params['b']")
        assert merkle.is_proved(record.root, "params['b']", record.tensors["params['b']"], proof)


def test_every_line_is_synced_where_that_is_asked_for(paths, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    run(next(paths), make(), steps=3)
    assert synced == []
    run(next(paths), make(), steps=3, sync=True)
    assert len(synced) == 5


def test_compressed(tmp_path):
    plain, packed = tmp_path / "run.jsonl", tmp_path / "run.jsonl.gz"
    run(plain, make())
    run(packed, make())
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"every": 0}, "every: got 0"),
        ({"every": 1.5}, "every: got 1.5"),
        ({"state": 2}, "state: got 2"),
        ({"sync": None}, "sync: got None"),
        ({"merkle": "yes"}, "merkle: got 'yes'"),
        ({"append": 2}, "append: got 2"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(path, wrong, words):
    for is_there in (False, True):
        if is_there:
            path.write_bytes(b"mine")
        optimizer = make()
        with pytest.raises((TypeError, ValueError), match=words):
            optimizer.record(path, **wrong)
        assert optimizer._ledger is None
        assert path.exists() == is_there


def test_a_folder_that_is_not_there(tmp_path):
    optimizer = make()
    with pytest.raises(FileNotFoundError):
        optimizer.record(tmp_path / "x" / "run.jsonl")
    optimizer.step(arrays(1))
    assert optimizer.t == 1


def test_a_ledger_of_one_s_own(path):
    """As the optimizer's: the same lines."""
    optimizer = make()
    run(path, optimizer, steps=1)
    other = path.with_name("own.jsonl")
    records = read_ledger(path)
    with Ledger(other, records.header) as ledger:
        for record in records.records:
            rows = np.array([[int(v or "0", 16) for v in e] for e in record.tensors.values()], np.uint64)
            if record.is_start:
                ledger.start(record.step, rows)
            else:
                ledger.add(record.step, rows, record.hyper)
    assert other.read_bytes() == path.read_bytes()


def test_stats_of_recorded_steps_are_those_of_the_last(tmp_path):
    w = np.ones((4, 6))
    opt = ss.SGD(w, lr=0.5, copy_grads=True)
    opt.record_stats()
    opt.record(tmp_path / "run.jsonl")
    found = []
    for grad in (np.ones((6, 4)).T, np.ones((4, 6)), np.ones((6, 4)).T):
        opt.step(grad)
        found.append(opt.stats.copied)
    assert found == [w.nbytes, 0, w.nbytes]
