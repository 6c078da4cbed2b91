"""What Windows does otherwise, as far as another system can show it: functions of ``os`` that are missing
there, and files that it opens in its own way.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import samestep as ss
from samestep.backends.gpu import kernels
from samestep.optim import checkpoint
from samestep.replay.script import words_of

BINARY = 1 << 40  # a flag that this system does not have


@pytest.fixture
def opened(monkeypatch):
    """(path, flags) of what ``os.open`` opens from now on."""
    found, real = [], os.open

    def note(path, flags, *args, **kwargs):
        found.append((os.fspath(path), flags))
        return real(path, flags & ~BINARY, *args, **kwargs)

    monkeypatch.setattr(os, "open", note)
    return found


def test_every_module_imports_without_fork():
    code = (
        "import os; del os.register_at_fork, os.fork\n"
        "import samestep.backends.gpu.device, samestep.commands.cli\n"
        "print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert done.stdout == "imported\n", done.stderr


def test_a_ledger_is_opened_as_bytes(tmp_path, monkeypatch, opened):
    monkeypatch.setattr(os, "O_BINARY", BINARY, raising=False)
    optimizer = ss.SGD(np.ones(2), lr=0.5)
    with optimizer.record(tmp_path / "run.jsonl"):
        optimizer.step(np.ones(2))
    [(path, flags)] = [one for one in opened if one[0].endswith("run.jsonl")]
    assert flags & BINARY, path


def test_a_checkpoint_is_replaced_where_files_have_no_owner(tmp_path, monkeypatch):
    optimizer, path = ss.Adam(np.ones(3)), tmp_path / "state.safetensors"
    optimizer.save(path)
    monkeypatch.delattr(os, "chown")
    optimizer.step(np.ones(3))
    optimizer.save(path)
    assert ss.Adam.load(path, np.ones(3)).t == 1
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_windows_syncs_files_that_it_may_write_and_no_folder(tmp_path, monkeypatch, opened):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(sys, "platform", "win32")
    checkpoint.sync(tmp_path / "file")
    checkpoint.sync(tmp_path)
    assert opened == [(str(tmp_path / "file"), os.O_RDWR)]


def test_state_files_that_are_still_mapped_stay_on_windows(tmp_path, monkeypatch):
    optimizer = ss.Adam(np.ones(3), state_dir=tmp_path)

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        optimizer._store.remove_files()
    monkeypatch.setattr(sys, "platform", "win32")
    optimizer._store.remove_files()
    assert optimizer._store.files == []


def test_kernels_are_kept_in_the_user_s_folder_alone_where_no_mode_tells_whose_they_are(
    tmp_path, monkeypatch
):
    monkeypatch.delattr(os, "geteuid")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, is_kept in (("home/cache", True), ("elsewhere", False)):
        monkeypatch.setenv("SAMESTEP_CACHE", str(tmp_path / name))
        if is_kept:
            kernels._keep(kernels._folder() / "a", b"code")
            assert kernels._kept(kernels._folder() / "a") == b"code"
        else:
            with pytest.raises(OSError, match=r"lies outside .*, and others may be able to write"):
                kernels._folder()


def test_backslashes_part_folders_on_windows(monkeypatch):
    command = r'scripts\train.py --data "C:\my data" --seed 1'
    monkeypatch.setattr(os, "sep", "\\")
    assert words_of(command) == [r"scripts\train.py", "--data", r"C:\my data", "--seed", "1"]
    monkeypatch.setattr(os, "sep", "/")
    assert words_of(r"my\ script.py 'a b' #c") == ["my script.py", "a b", "#c"]
