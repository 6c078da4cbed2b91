"""One run, in the memory of a GPU, in main memory, or in both by turns: one digest."""

from typing import Any

import numpy as np
import pytest

import samestep as ss
from host_cupy import device
from samestep.proof import vectors

STEPS = 12


def train(places: list[tuple[str, str]]) -> str:
    """Adam on a least-squares problem, with a norm to clip at and a moving average.

    Args:
        places: of each step, where the gradient is computed and where the step is made: "cpu", "gpu".
    """
    Phi = vectors.finite_values(60 * 9, np.dtype(np.float32), 1).reshape(60, 9)
    y = vectors.finite_values(60, np.dtype(np.float32), 2)
    problems = {"cpu": ss.problems.MSE(Phi, y), "gpu": ss.problems.MSE(device(Phi), device(y))}
    w: Any = vectors.finite_values(9, np.dtype(np.float32), 3)
    optimizer, lies = None, "cpu"
    for at, steps_at in places:
        if optimizer is None or steps_at != lies:
            saved = None if optimizer is None else optimizer.state_dict()
            w = w if steps_at == lies else device(w) if steps_at == "gpu" else w.get()
            optimizer, lies = ss.Adam(w, lr=0.05, clip_norm=0.5, ema=0.9), steps_at
            if saved is not None:
                optimizer.load_state_dict(saved)
        there = w if at == lies else device(w) if at == "gpu" else w.get()
        g = problems[at].gradient(there)
        optimizer.step(g if at == lies else g.get() if lies == "cpu" else device(g))
    assert optimizer is not None
    return ss.digest([a if lies == "cpu" else a.get() for a in (w, optimizer.ema[0], *optimizer.state["m"])])


@pytest.mark.parametrize(
    "places",
    [
        pytest.param([("gpu", "gpu")] * STEPS, id="on the GPU"),
        pytest.param([("cpu", "cpu")] * 5 + [("gpu", "gpu")] * (STEPS - 5), id="started on the CPU"),
        pytest.param([("gpu", "gpu")] * 5 + [("cpu", "cpu")] * (STEPS - 5), id="ended on the CPU"),
        pytest.param([("gpu", "cpu")] * STEPS, id="gradients of the GPU, steps on the CPU"),
        pytest.param([("cpu", "gpu"), ("gpu", "cpu"), ("gpu", "gpu")] * (STEPS // 3), id="by turns"),
    ],
)
def test_one_digest(kernels, places):
    expected = train([("cpu", "cpu")] * STEPS)
    assert not any(name.startswith("step_") for name, *_ in kernels.launches)
    assert train(places) == expected
    assert kernels.launches
