"""More threads than processors, and more than the pool has runs of items for: the same bits as one thread."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# In a process of its own: threads that were started stay. 64 is how many runs a job is cut into.
CODE = """if True:
    import sys
    import numpy as np, samestep as ss

    def values(shape, seed):
        return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)

    def steps(optimizer, shapes):
        params = [values(shape, 1) for shape in shapes]
        one = optimizer(params)
        for k in range(20):  # past the tuner's trials
            one.step([values(shape, 2 + k) for shape in shapes])
        return params

    def batchnorm(axis):
        x, dy, gamma, beta = values((8, 32, 25), 3), values((8, 32, 25), 4), values(32, 5), values(32, 6)
        if axis == -1:
            x, dy = (np.ascontiguousarray(a.transpose(0, 2, 1)) for a in (x, dy))
        y, mean, inv = ss.batchnorm_forward(x, gamma, beta, relu=True, axis=axis)
        return [y, *ss.batchnorm_backward(dy, x, gamma, beta, mean, inv, relu=True, axis=axis)]

    def sums():
        x = values((300, 1001), 7)
        return [np.array([ss.canonical_sum(x), ss.global_norm([x, x[0]])]), ss.canonical_sum(x, axis=0)]

    def mse():
        problem = ss.problems.MSE(values((5000, 37), 8), values(5000, 9))
        w = values(37, 10)
        return [np.array([problem.loss(w)]), problem.gradient(w)]

    ss.set_num_threads(int(sys.argv[1]))
    for name, arrays in {
        "one array": steps(lambda w: ss.Adam(w, lr=0.01), [(1 << 21,)]),
        "many arrays": steps(lambda w: ss.NAG(w, lr=0.01), [(k % 700 + 1,) for k in range(1000)]),
        "clipped": steps(lambda w: ss.AdamW(w, clip_norm=1.0), [(100_003,), (17,)]),
        "NCHW": batchnorm(1),
        "NHWC": batchnorm(-1),
        "sums": sums(),
        "MSE": mse(),
    }.items():
        print(name, ss.digest(arrays))
"""


def digests(threads: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(threads)],
        env={**os.environ, "SAMESTEP_TUNE": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone() -> str:
    return digests(1)


@pytest.mark.more
@pytest.mark.parametrize("threads", [8, 16, 64, 100])
def test_many_threads_have_the_bits_of_one(threads, alone):
    assert len(alone.splitlines()) == 7
    assert digests(threads) == alone
