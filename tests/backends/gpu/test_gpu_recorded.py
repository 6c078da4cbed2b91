"""Steps on a GPU, recorded: the file is the CPU's."""

import numpy as np
import pytest

import samestep as ss
from host_cupy import device
from samestep.backends import gpu
from samestep.backends.face import Tensor
from samestep.ledger.watch import VARIABLE, Watch, arrays_of
from samestep.proof.vectors import random_values

SHAPES = ((7,), (3, 50), (0,), (2049,))


def run(path, place, **options):
    params = [place(random_values(int(np.prod(s)), np.dtype(np.float32), 1).reshape(s)) for s in SHAPES]
    optimizer = ss.Adam(params, lr=0.1, weight_decay=0.01)
    with optimizer.record(path, **options):
        for step in range(4):
            grads = [
                place(random_values(int(np.prod(s)), np.dtype(np.float32), 5 + step).reshape(s))
                for s in SHAPES
            ]
            if step == 2:
                grads[1] = None
            optimizer.step(grads, scale=0.5)
    return path.read_bytes()


@pytest.mark.parametrize("options", [{}, {"state": False}, {"every": 2}, {"merkle": True}], ids=str)
def test_the_file_is_the_cpu_s(kernels, tmp_path, options):
    expected = run(tmp_path / "cpu.jsonl", np.asarray, **options)
    assert run(tmp_path / "gpu.jsonl", device, **options) == expected
    assert len(expected.splitlines()) == (4 if "every" in options else 6)


def test_sums_that_do_not_fit_are_refused_before_anything_is_written(kernels):
    w = np.ones(3, np.float32)
    plan = gpu.Plan("sgd", [Tensor(device(w))], np.zeros(2, np.int64))
    for wrong in (np.zeros((2, 2), np.uint64), np.zeros((1, 2)), np.zeros((1, 4), np.uint64)[:, ::2]):
        with pytest.raises(ValueError, match="sums: expected a writeable uint64 array"):
            plan.step([device(w)], [0.5], 1.0, wrong)
    assert kernels.launches == []


def test_no_block_is_computed_twice_here(kernels):
    optimizer = ss.SGD([device(np.ones(3))], lr=0.5)
    with pytest.raises(ValueError, match="check: got arrays on a GPU, which does not say which of its units"):
        optimizer.step([device(np.ones(3))], check=1)
    assert optimizer.t == 0


def test_a_script_that_is_run_again_leaves_its_arrays(kernels, tmp_path, monkeypatch):
    watch = Watch(str(tmp_path), "run.jsonl", 2)
    monkeypatch.setenv(VARIABLE, watch.environment()[VARIABLE])
    with pytest.raises(SystemExit):
        run(tmp_path / "elsewhere" / "run.jsonl", device)
    path = str(tmp_path / "run.jsonl")
    record = ss.ledger.read_ledger(path).records[-1]
    assert record.step == 2
    for name, entry in record.tensors.items():
        found = [arrays_of(path, name, kind) for kind in ("gradient", "parameter", "m", "v")]
        assert entry == tuple(f"{ss.fingerprint(a):016x}" for a in found)
