"""Checkpoints: the same bits after loading, whole or not at all, and only what was saved is accepted."""

import json
import os
import random
import signal
import stat
import struct
import sys
import time
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from samestep.optim import checkpoint
from samestep.proof import vectors


def test_goes_on_with_the_same_bits_elsewhere(case, tmp_path, settings):
    """Saved by the reference, loaded by the kernels, on another number of threads."""
    options = {"weight_decay": 0.1, "ema": 0.9, "clip_value": 0.5, "maximize": True}
    w = vectors.finite_values(40_000, case.dtype, 1)
    grads = [vectors.finite_values(40_000, case.dtype, s) for s in (2, 3)]
    expected = w.copy()
    whole = case.make(expected, **options)
    first = case.make(w, backend="reference", **options)
    for optimizer in (whole, first):
        optimizer.step(grads[0])
    first.save(tmp_path / "a.safetensors")
    resumed = type(first).load(tmp_path / "a.safetensors", w)
    ss.set_num_threads(3)
    resumed.step(grads[1])
    ss.set_num_threads(1)
    whole.step(grads[1])
    same_bits([w], [expected])
    assert repr(resumed) == repr(whole)
    assert resumed.options == whole.options
    for name, states in whole.state.items():
        same_bits(resumed.state[name], states)


def test_groups_layouts_and_the_class(tmp_path):
    def params():
        transposed = np.ones((3, 4), np.float32).T
        return [
            {"params": [np.ones(3), np.array(1.0)], "lr": 0.5},
            {"params": {"a": transposed, "b": np.zeros(0)}},
        ]

    optimizer = ss.AdamW(params(), weight_decay=0.25)
    g = np.arange(12, dtype=np.float32).reshape(3, 4).T
    optimizer.step([[np.ones(3), None], {"a": g, "b": np.zeros(0)}])
    optimizer.save(tmp_path / "a")
    loaded = ss.Optimizer.load(tmp_path / "a", params(), backend="reference")
    assert type(loaded) is ss.AdamW
    assert [dict(group) for group in loaded.groups] == [dict(group) for group in optimizer.groups]
    assert loaded.steps == optimizer.steps == [1, 0, 1, 1]
    for name, states in optimizer.state.items():
        same_bits(loaded.state[name], states)
    with pytest.raises(ValueError, match="of AdamW, expected SGD"):
        ss.SGD.load(tmp_path / "a", params())
    with pytest.raises(ValueError, match=r"params: got 2 arrays, expected 4 as in"):
        ss.AdamW.load(tmp_path / "a", params()[:1])
    wrong = params()
    wrong[1]["params"]["a"] = np.ones((4, 4), np.float32)
    with pytest.raises(ValueError, match=r"^params\[1\]\['params'\]\['a'\]: got float32 of shape"):
        ss.AdamW.load(tmp_path / "a", wrong)


def test_an_accumulator_that_did_not_start_at_0(tmp_path):
    w = np.ones(2)
    ss.AdaGrad(w, lr=1.0, initial_accumulator=4.0, lr_decay=0.5).save(tmp_path / "a")
    loaded = ss.AdaGrad.load(tmp_path / "a", w)
    loaded.add_group({"params": np.ones(3)})
    assert [r[0] for r in loaded.state["r"]] == [4.0, 4.0]
    assert loaded.lr_decay == 0.5


@pytest.fixture
def saved(tmp_path):
    w = np.ones(3, np.float32)
    optimizer = ss.Adam(w)
    optimizer.step(np.ones(3, np.float32))
    path = tmp_path / "a.safetensors"
    optimizer.save(path)
    return path, w


def test_cut_off_at_every_length(saved):
    path, w = saved
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.safetensors: "):
            ss.Adam.load(path, w)


def test_every_flipped_bit(saved):
    path, w = saved
    whole = path.read_bytes()
    rng = random.Random(0)
    for at in range(len(whole)):
        altered = bytearray(whole)
        altered[at] ^= 1 << rng.randrange(8)
        path.write_bytes(altered)
        if whole[at : at + 1] == b" ":  # it fills up the header
            continue
        with pytest.raises(ValueError, match=r"a\.safetensors: "):
            ss.Adam.load(path, w)


def test_one_from_elsewhere(saved):
    path, w = saved
    library = pytest.importorskip("safetensors.numpy")
    library.save_file(library.load_file(path), path)
    with pytest.raises(ValueError, match="not a checkpoint of samestep"):
        ss.Adam.load(path, w)
    path.write_bytes(b"\x80\x04\x95")  # the start of a pickle
    with pytest.raises(ValueError, match="cut off, altered or not a checkpoint"):
        ss.Adam.load(path, w)
    with pytest.raises(FileNotFoundError):
        ss.Adam.load(path.with_name("b"), w)


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "3",
        '{"a": 3}',
        '{"a": {}}',
        '{"a": {"dtype": "F64", "shape": [1], "data_offsets": [0]}}',
        '{"a": {"dtype": "F64", "shape": [1], "data_offsets": ["0", 8]}}',
        '{"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F64", "shape": [1], "data_offsets": [8, 16]}}',
        '{"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}, "b": {"dtype": "F64", "shape": [1], '
        '"data_offsets": [0, 8]}}',
        '{"a": {"dtype": "I128", "shape": [1], "data_offsets": [0, 8]}}',
        "[" * 100_000,
        "1" * 10_000,
    ],
    ids=lambda header: header[:80],
)
def test_headers_that_are_none(header, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with pytest.raises(ValueError, match=r"a: (cut off, altered or )?not a checkpoint"):
        ss.Adam.load(path, np.ones(1))


def every_kind(tmp_path):
    """Arrays of all dtypes and layouts, and the checkpoint of their optimizer."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    params = [np.ones((4, 3), bfloat16).T, np.array(2.0), np.zeros((0, 2)), np.ones(5, np.float16)]
    params += [np.asfortranarray(vectors.finite_values(24, np.dtype(np.float32), 1).reshape(2, 3, 4))]
    optimizer = ss.Adam(params, state_dtype="param", ema=0.5)
    optimizer.step([np.full_like(w, 0.5) for w in params])
    optimizer.save(tmp_path / "a")
    return params, optimizer


def test_the_format_s_own_library_reads_and_writes_it(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file, save_file

    params, optimizer = every_kind(tmp_path)
    tensors = load_file(tmp_path / "a")
    for name, states in optimizer.state.items():
        for i, array in enumerate(states):
            bits = array.view(np.uint16) if array.dtype.kind == "V" else array
            same_bits([tensors.pop(f"{name}.{i}")], [np.ascontiguousarray(bits).reshape(bits.shape)])
    assert not tensors
    with safetensors.safe_open(tmp_path / "a", framework="numpy") as file:
        save_file(load_file(tmp_path / "a"), tmp_path / "b", metadata=file.metadata())
    for path in (tmp_path / "a", tmp_path / "b"):
        loaded = ss.Adam.load(path, params)
        for name, states in optimizer.state.items():
            same_bits(loaded.state[name], states)


def test_needs_no_package_but_numpy(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("safetensors")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    params, optimizer = every_kind(tmp_path)
    assert ss.Adam.load(tmp_path / "a", params).steps == optimizer.steps


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.thread_unsafe(reason="it measures the memory of the whole process")
def test_state_is_in_memory_once(tmp_path, mapped):
    """NumPy tells tracemalloc of its arrays; those that are mapped are none of them."""
    params = [np.ones((500, 1000)).T, np.ones(500_000), np.ones((500, 1000))]
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first, second = folders if mapped else (None, None)
    one = params[0].nbytes
    optimizer = ss.Adam(params, state_dir=first)
    optimizer.step([np.ones_like(w) for w in params])
    tracemalloc.start()
    try:
        optimizer.save(tmp_path / "a")
        _, of_save = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        loaded = ss.Adam.load(tmp_path / "a", params, state_dir=second)
        _, of_load = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for name, states in optimizer.state.items():
        same_bits([np.array(s) for s in loaded.state[name]], [np.array(s) for s in states])
    assert of_save < one
    assert of_load < one + (0 if mapped else 6 * one)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    w, g = np.ones(3), np.ones(3)
    optimizer = ss.Adam(w)
    optimizer.save(there / "file")
    (here / "second").symlink_to(there / "file")
    (here / "first").symlink_to("second")
    optimizer.step(g)
    where = []
    with monkeypatch.context() as patch:
        sync = checkpoint.sync
        patch.setattr(checkpoint, "sync", lambda path: (where.append(path), sync(path)))
        optimizer.save(here / "first")
    assert {path.parent for path in where[:1]} == {there}  # the temporary file: a move between disks fails
    assert (here / "first").readlink().name == "second"
    assert (here / "second").is_symlink()
    assert ss.Adam.load(there / "file", w).t == ss.Adam.load(here / "first", w).t == 1

    (here / "dangling").symlink_to(there / "new")
    optimizer.save(here / "dangling")
    assert (here / "dangling").is_symlink()
    assert ss.Adam.load(there / "new", w).t == 1


def test_what_a_checkpoint_cannot_replace_stays(tmp_path):
    optimizer = ss.Adam(np.ones(3))
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing" / "file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    before = sorted(os.listdir(tmp_path))
    for name, error, says in (
        ("loop", OSError, "symbolic links"),
        ("nowhere", FileNotFoundError, "missing'"),
        ("missing/file", FileNotFoundError, "missing'"),
        ("folder", IsADirectoryError, "folder'"),
        ("", IsADirectoryError, "directory"),
        ("pipe", ValueError, r"^path: .*pipe is a device, pipe or socket"),
        ("to_pipe", ValueError, r"^path: .*pipe is a device, pipe or socket"),
    ):
        with pytest.raises(error, match=says):
            optimizer.save(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_holds_and_is_left_alone(tmp_path, monkeypatch, mask):
    """It is the whole process's: to change it for a moment would reach the files of other threads."""
    before = os.umask(mask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: pytest.fail("umask changed"))
            ss.Adam(np.ones(2)).save(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_the_replaced_file_s_owner_and_permissions_stay(saved, monkeypatch):
    path, w = saved
    path.chmod(0o604)
    modes = []
    with monkeypatch.context() as patch:
        pieces = checkpoint._pieces
        patch.setattr(
            checkpoint,
            "_pieces",
            lambda a: (
                modes.extend(stat.S_IMODE(f.stat().st_mode) for f in path.parent.glob(".*.tmp")) or pieces(a)
            ),
        )
        ss.Adam(w).save(path)
    assert set(modes) == {0o600}  # until it is whole
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    path.chmod(0o4754)
    ss.Adam(w).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o754  # not set-user-ID: the content is another
    if os.getuid() == 0:
        os.chown(path, 12345, 12346)
        ss.Adam(w).save(path)
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)

    def refuse(*_):
        raise PermissionError

    path.chmod(0o664)
    monkeypatch.setattr(os, "chown", refuse)
    ss.Adam(w).save(path)  # its group is another's: that gets what all have
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_is_inside(saved):
    path, _ = saved
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["samestep"])
    assert (facts["contract"], facts["rule"], facts["t"]) == (ss.info()["contract"], "adam_outside", 1)
    assert facts["options"]["clip_norm"] is None


def test_a_failed_save_leaves_the_old_one(saved, monkeypatch):
    path, w = saved
    before = path.read_bytes()
    path.chmod(0o640)

    def fail(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("samestep.optim.checkpoint.sync", fail)
        with pytest.raises(OSError, match="no space left"):
            ss.Adam(w).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    ss.Adam(w).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() != before


@pytest.mark.more
def test_killed_while_saving(tmp_path):
    """Whenever the process dies, what stands at the path is one whole checkpoint."""
    path = tmp_path / "a.safetensors"
    w, g, rng = np.ones(5000), np.ones(5000), random.Random(0)
    optimizer = ss.Adam(w)
    optimizer.save(path)
    seen = set()
    for _ in range(200):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    optimizer.step(g)
                    optimizer.save(path)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        loaded = ss.Adam.load(path, w)
        assert loaded.steps == [loaded.t]
        seen.add(loaded.t)
        for left in tmp_path.glob(".*.tmp"):
            left.unlink()
    assert len(seen) > 1


def test_state_in_mapped_files(tmp_path):
    shapes = [np.ones((5, 6, 7)).transpose(2, 0, 1), np.ones((4, 3)), np.array(2.0), np.zeros((0, 2))]
    params, plain = [[np.asfortranarray(shapes[0]), *(a.copy() for a in shapes[1:])] for _ in range(2)]
    optimizer, expected = ss.Adam(params, state_dir=tmp_path, ema=0.5), ss.Adam(plain, ema=0.5)
    grads = [np.asfortranarray(vectors.finite_values(210, np.dtype(float), 1).reshape(7, 5, 6)),
             *(np.ones_like(a) for a in shapes[1:])]  # fmt: skip
    for _ in range(2):
        optimizer.step(grads)
        expected.step(grads)
    same_bits([np.array(w) for w in params], plain)
    assert isinstance(optimizer.state["m"][0], np.memmap)
    flat = np.fromfile(tmp_path / "v.1").reshape(4, 3)
    same_bits([flat], [expected.state["v"][1]])
    optimizer.save(tmp_path / "a")
    (tmp_path / "loaded").mkdir()
    loaded = ss.Adam.load(tmp_path / "a", params, state_dir=tmp_path / "loaded")
    same_bits([np.array(s) for s in loaded.state["m"]], expected.state["m"])


def test_mapped_files_are_never_cut_off_and_none_is_left_by_what_fails(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    w = np.ones(5)
    optimizer = ss.Adam(w, state_dir=folder)
    optimizer.step(np.ones(5))
    optimizer.save(tmp_path / "a")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for attempt in (
        lambda: ss.Adam.load(tmp_path / "a", np.ones(5), state_dir=folder),
        lambda: ss.Adam.load(tmp_path / "a", np.ones(7), state_dir=folder),
        lambda: ss.Adam(np.ones(5), state_dir=folder),
    ):
        with pytest.raises(FileExistsError, match=r"state_dir: the file .*m\.0 is there already, expected"):
            attempt()
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    optimizer.step(np.ones(5))  # still mapped
    other = tmp_path / "other"
    other.mkdir()
    for error, attempt in (
        (ValueError, lambda: ss.Adam([w, w], state_dir=other)),
        (ValueError, lambda: ss.Adam([{"params": w}, {"params": np.ones(2), "lr": -1}], state_dir=other)),
        (ValueError, lambda: ss.Adam.load(tmp_path / "a", np.ones(7), state_dir=other)),
    ):
        with pytest.raises(error):
            attempt()
        assert list(other.iterdir()) == []
    with pytest.raises(ValueError, match="overlaps"):
        optimizer.add_group({"params": w})
    assert {file.name for file in folder.iterdir()} == set(before)
    (folder / "v.1").touch()
    with pytest.raises(FileExistsError, match=r"v\.1"):
        optimizer.add_group({"params": np.ones(2)})
    assert {file.name for file in folder.iterdir()} == {*before, "v.1"}  # m.1 is gone again


def test_params_that_do_not_fit_are_named(tmp_path):
    ss.SGD([np.ones(5, np.float32), np.ones(2)], 0.1).save(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"^params\[0\]: got float64 of shape \(7,\), expected float32 of shape \(5,\)"
    ):
        ss.SGD.load(tmp_path / "a", [np.ones(7), np.ones((3, 3))])
    with pytest.raises(ValueError, match=r"^params\[1\]: .* as in .*a$"):
        ss.SGD.load(tmp_path / "a", [np.ones(5, np.float32), np.ones((2, 1))])
    with pytest.raises(ValueError, match=r"^params: got 1 arrays, expected 2 as in"):
        ss.SGD.load(tmp_path / "a", np.ones(5, np.float32))


def test_files_without_the_parameters_shapes_still_load(tmp_path, monkeypatch):
    w = np.ones(5)
    optimizer = ss.Adam(w)
    with monkeypatch.context() as patch:
        write = checkpoint.write
        patch.setattr(
            checkpoint,
            "write",
            lambda path, facts, state: write(path, {k: v for k, v in facts.items() if k != "params"}, state),
        )
        optimizer.save(tmp_path / "a")
    assert ss.Adam.load(tmp_path / "a", w).t == 0
    with pytest.raises(ValueError, match=r"^.*a: dtype and shape of state_dict\['state'\]\['m'\]"):
        ss.Adam.load(tmp_path / "a", np.ones(7))


def test_hyper_parameters_of_any_numeric_type(tmp_path):
    optimizer = ss.AdamW(
        np.ones(2), np.float32(0.5), (Fraction(1, 2), np.float64(0.25)), weight_decay=np.int64(1)
    )
    optimizer.save(tmp_path / "a")
    loaded = ss.AdamW.load(tmp_path / "a", np.ones(2))
    assert (loaded.lr, loaded.betas, loaded.weight_decay) == (0.5, (0.5, 0.25), 1.0)


@pytest.mark.parametrize("given", [None, 0.25])
def test_whether_momentum_next_follows_is_saved(given, tmp_path):
    groups = [{"params": np.ones(2)}, {"params": np.ones(2), "momentum_next": given}]
    ss.NAG(groups, 0.1).save(tmp_path / "a")
    loaded = ss.NAG.load(tmp_path / "a", groups)
    loaded.momentum = 0.5
    expected = [0.5, 0.5 if given is None else given]
    assert [group["momentum_next"] for group in loaded.groups] == expected


@pytest.mark.thread_unsafe(reason="its classes are found by one name")
def test_classes_of_one_name_and_of_ones_own(tmp_path):
    class Named(ss.Adam):
        def __init__(self, params, tag, **options):
            super().__init__(params, **options)
            self._tag = tag

    Own = type("Adam", (ss.Adam,), {"__module__": "elsewhere"})
    w = np.ones(2)
    for optimizer in (Own(w), ss.Adam(w), Named(w, "a", lr=0.25)):
        optimizer.step(np.ones(2))
        optimizer.save(tmp_path / "a")
        for by in (ss.Optimizer, ss.Adam, type(optimizer)):
            assert type(by.load(tmp_path / "a", w)) is type(optimizer)
    assert not hasattr(ss.Adam.load(tmp_path / "a", w), "_tag")
    resumed = Named(w, "b", lr=0.25)
    resumed.load_state_dict(Named.load(tmp_path / "a", w).state_dict())
    assert (resumed.t, resumed._tag) == (1, "b")
    with pytest.raises(
        ValueError, match="a: of Named, expected Adam or a class derived from it; if Named is"
    ):
        Own.load(tmp_path / "a", w)
