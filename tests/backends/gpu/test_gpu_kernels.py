"""The GPU's kernels: how they are compiled, kept and launched, and what is said where none can run."""

import errno
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import host_cupy
import samestep as ss
from host_cupy import device
from samestep.backends import gpu


class TestKernels:
    """How they are compiled and kept."""

    @staticmethod
    def step() -> int:
        """A step in a new process, as it were; returns how many programs were compiled for it."""
        w, programs = device(np.zeros(3)), sys.modules["cupy"].cuda.nvrtc.programs
        gpu.kernels._module.cache_clear()
        gpu.kernels._kernel.cache_clear()
        before = len(programs)
        ss.SGD(w, lr=0.5).step(device(np.ones(3)))
        assert w.host.tolist() == [-0.5] * 3
        return len(programs) - before

    @pytest.mark.parametrize("own", [True, False])
    def test_a_user_without_a_home(self, kernels, monkeypatch, own):
        def home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", home)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if own:
            assert self.step() == 2
            return
        monkeypatch.delenv("SAMESTEP_CACHE")
        monkeypatch.setattr(gpu.kernels, "_warnings_given", set())
        with pytest.warns(RuntimeWarning, match=r"not kept.*no home.*SAMESTEP_CACHE"):
            assert self.step() == 2
        assert self.step() == 2  # and does not warn, which would be an error

    @pytest.mark.parametrize("what", ["no folder can be made", "no file can be made", "no file can be moved"])
    def test_a_disk_that_cannot_be_written(self, kernels, tmp_path, monkeypatch, what):
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        if what == "no folder can be made":
            (tmp_path / "file").touch()
            monkeypatch.setenv("SAMESTEP_CACHE", str(tmp_path / "file" / "below"))
        elif what == "no file can be made":
            monkeypatch.setattr(gpu.kernels.tempfile, "NamedTemporaryFile", refuse)
        else:
            monkeypatch.setattr(os, "replace", refuse)
        monkeypatch.setattr(gpu.kernels, "_warnings_given", set())
        with pytest.warns(RuntimeWarning, match=r"not kept, so that every process.*SAMESTEP_CACHE"):
            assert self.step() == 2
        assert self.step() == 2  # and does not warn, which would be an error
        assert [path.name for path in tmp_path.iterdir() if path.name != "file"] == []

    def test_a_warning_that_is_an_error_is_one_once(self, kernels, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("SAMESTEP_CACHE", str(tmp_path / "file"))
        monkeypatch.setattr(gpu.kernels, "_warnings_given", set())
        w, g = device(np.zeros(3)), device(np.ones(3))
        optimizer = ss.SGD(w, lr=0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="not kept"):
                optimizer.step(g)
            optimizer.step(g)
        assert w.host.tolist() == [-0.5] * 3

    def test_an_interrupt_leaves_no_file_behind(self, kernels, tmp_path, monkeypatch):
        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        w, g = device(np.zeros(3)), device(np.ones(3))
        optimizer = ss.SGD(w, lr=0.5)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                optimizer.step(g)
        assert list(tmp_path.iterdir()) == []
        optimizer.step(g)
        assert w.host.tolist() == [-0.5] * 3

    @pytest.mark.parametrize("fault", ["torn", "empty", "changed", "plain", "unloadable", "swapped", "link"])
    def test_a_file_that_is_not_what_was_written(self, kernels, tmp_path, monkeypatch, fault):
        """It is compiled again, once."""
        assert self.step() == 2
        files = sorted(tmp_path.glob("*.cubin"))
        good = [path.read_bytes() for path in files]
        for path, data in zip(files, good, strict=True):
            if fault == "link":
                path.rename(tmp_path / f"{path.name}.kept")
                path.symlink_to(tmp_path / f"{path.name}.kept")
            elif fault == "unloadable":  # what was written, by the driver of another machine
                gpu.kernels._keep(path, b"of another machine")
            else:
                bad = {"torn": data[:-1], "empty": b"", "changed": data[:-1] + b"?", "plain": data[32:]}
                path.write_bytes(bad.get(fault, good[data == good[0]]))
        assert self.step() == 2
        assert [path.read_bytes() for path in files] == good
        assert not any(path.is_symlink() for path in files)
        assert self.step() == 0

    @pytest.mark.parametrize("mode", [0o775, 0o757])
    def test_a_folder_that_others_can_write(self, kernels, tmp_path, monkeypatch, mode):
        assert self.step() == 2
        tmp_path.chmod(mode)
        monkeypatch.setattr(gpu.kernels, "_warnings_given", set())
        before = sorted(tmp_path.iterdir())
        with pytest.warns(RuntimeWarning, match=r"others can write there \(chmod go-w\)"):
            assert self.step() == 2
        assert sorted(tmp_path.iterdir()) == before
        tmp_path.chmod(0o755)
        assert self.step() == 0

    @pytest.mark.parametrize("mode", [0o660, 0o606])
    def test_a_file_that_others_can_write(self, kernels, tmp_path, mode):
        assert self.step() == 2
        for path in tmp_path.iterdir():
            path.chmod(mode)
        assert self.step() == 2
        assert self.step() == 0
        assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}

    def test_what_another_user_owns(self, kernels, tmp_path, monkeypatch):
        me, other = os.geteuid(), 4711
        for owner, ours in ((me, True), (0, True), (other, False)):
            assert gpu.kernels._is_ours(types.SimpleNamespace(st_uid=owner, st_mode=0o100644)) is ours
        assert self.step() == 2
        if me == 0:
            os.chown(tmp_path, other, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: other)
        monkeypatch.setattr(gpu.kernels, "_warnings_given", set())
        with pytest.warns(RuntimeWarning, match="belongs to another user"):
            assert self.step() == 2

    def test_the_folder_is_made_for_this_user_alone(self, kernels, tmp_path, monkeypatch):
        monkeypatch.setenv("SAMESTEP_CACHE", str(tmp_path / "a" / "b"))
        assert self.step() == 2
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700

    def test_a_driver_that_loads_nothing(self, kernels, monkeypatch):
        def load(self: Any, cubin: bytes) -> None:
            raise host_cupy.CUDADriverError("CUDA_ERROR_NO_BINARY_FOR_GPU")

        monkeypatch.setattr(sys.modules["cupy"].cuda.function.Module, "load", load)
        with pytest.raises(
            RuntimeError, match=r"does not load .*\(CUDA_ERROR_NO_BINARY_FOR_GPU\).*update it"
        ):
            self.step()

    def test_options_and_cache(self, kernels, tmp_path, monkeypatch):
        w = device(np.zeros(3))
        ss.SGD(w, lr=0.1).step(device(np.ones(3)))
        programs = sys.modules["cupy"].cuda.nvrtc.programs
        options = (*gpu.kernels.OPTIONS, "--gpu-architecture=sm_90")
        assert {used for _, used in programs.values()} == {options}
        assert len(list(tmp_path.glob("*.cubin"))) == len(programs) == 2
        gpu.kernels._module.cache_clear()
        gpu.kernels._kernel.cache_clear()
        ss.SGD(w, lr=0.1).step(device(np.ones(3)))
        assert len(programs) == 2, "compiled again"
        gpu.kernels._module.cache_clear()
        gpu.kernels._kernel.cache_clear()
        monkeypatch.setattr(gpu.kernels, "source", lambda: "// another text")
        ss.SGD(w, lr=0.1).step(device(np.ones(3)))
        assert len(programs) == 4

    def test_a_barrier_that_not_all_reach_is_noticed(self, cuda_on_host):
        """The host's stand-in would not hide what hangs on a GPU: pairing with one thread too few."""
        code = (
            "import ctypes, sys\n"
            "kernels = ctypes.CDLL(sys.argv[1])\n"
            "words = (ctypes.c_longlong * 5)()\n"
            "words[1], words[2], words[3] = 1, 5, 1\n"
            "x, out = (ctypes.c_double * 5)(), (ctypes.c_double * 5)()\n"
            "words[0], words[4] = ctypes.addressof(x), ctypes.addressof(out)\n"
            "kernels.launch(b'sum_runs_values_float64', 1, 16, words, 0)\n"
        )
        command = [sys.executable, "-c", code, cuda_on_host]
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
        assert done.returncode != 0
        assert "a barrier that not all threads reach" in done.stderr


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    gpu.device.get_cupy.cache_clear()
    install = r"pip install 'samestep\[cuda12\]' or 'samestep\[cuda13\]'"
    with pytest.raises(ImportError, match=rf"backend='cuda' needs cupy.*{install}"):
        ss.SGD(np.zeros(3), lr=0.1, backend="cuda")
    assert "needs cupy" in str(gpu.why_not())
    ss.SGD(np.zeros(3), lr=0.1).step(np.ones(3))


def test_without_a_gpu(monkeypatch, cuda_on_host, tmp_path):
    with host_cupy.installed(cuda_on_host, tmp_path):

        def fails() -> int:
            raise host_cupy.CUDARuntimeError("no CUDA-capable device is detected")

        monkeypatch.setattr(sys.modules["cupy"].cuda.runtime, "getDeviceCount", fails)
        with pytest.raises(RuntimeError, match=r"no GPU that it can use here \(no CUDA-capable device"):
            ss.canonical_sum(np.zeros(3), backend="cuda")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_is_told_that_cuda_does_not_work_there(kernels):
    w, g = device(np.zeros(3)), device(np.ones(3))
    optimizer = ss.SGD(w, lr=0.5)
    optimizer.step(g)
    child = os.fork()
    if child == 0:
        told = 0
        for call in (lambda: optimizer.step(g), lambda: ss.canonical_sum(g), lambda: optimizer.step(g)):
            try:
                call()
            except RuntimeError as error:
                told += "forked from one that had used the GPU" in str(error)
        os._exit(told + 10 * ("forked" in str(gpu.why_not())))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 13
    optimizer.step(g)
    assert w.host.tolist() == [-1.0] * 3


def test_import_leaves_cupy_alone():
    code = "import sys, samestep; assert 'cupy' not in sys.modules; print(sorted(samestep.info()))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=os.environ)
