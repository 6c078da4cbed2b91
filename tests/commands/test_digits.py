"""The network on the digits: its gradients, its accuracy, the same run twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn.datasets")
from samestep.commands import digits

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"


@pytest.mark.parametrize("name", ["W1", "gamma", "beta", "W2", "b2"])
def test_gradients_are_slopes(name):
    rng = np.random.default_rng(1)
    network = digits.Network(6, dtype=np.float64)
    x, labels = rng.standard_normal((20, 6)), rng.integers(0, 10, 20)
    network.params["gamma"][...] = rng.uniform(0.5, 2, digits.HIDDEN)
    network.params["beta"][...] = rng.standard_normal(digits.HIDDEN)
    gradient = network.loss_and_gradients(x, labels)[1][name].ravel()
    values, h = network.params[name].reshape(-1), 1e-6
    for i in rng.choice(values.size, min(10, values.size), replace=False):
        losses = []
        for shifted in (values[i] + h, values[i] - h):
            before, values[i] = values[i], shifted
            losses.append(network.loss_and_gradients(x, labels)[0])
            values[i] = before
        assert gradient[i] == pytest.approx((losses[0] - losses[1]) / (2 * h), abs=1e-8)


def test_accuracy():
    result = digits.train_digits()
    assert result.test_accuracy >= 0.97
    assert result.train_accuracy >= 0.99
    assert len(result.losses) == digits.EPOCHS
    assert result.losses[-1] < 0.1 < 1 < result.losses[0]


def test_the_test_images_are_not_trained_on():
    x, labels, x_test, labels_test = digits.load()
    assert (len(x), len(x_test)) == (1797 - digits.TEST, digits.TEST)
    assert (len(labels), len(labels_test)) == (len(x), len(x_test))
    seen = {row.tobytes() for row in x}
    assert sum(row.tobytes() in seen for row in x_test) == 0
    assert set(labels) == set(labels_test) == set(range(10))


def test_the_same_run_twice():
    assert digits.train_digits(epochs=2).digest == digits.train_digits(epochs=2).digest
    assert digits.train_digits(epochs=2).digest != digits.train_digits(epochs=2, seed=1).digest


def test_the_example_runs():
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), "--epochs", "1"], capture_output=True, encoding="utf-8", check=True
    )
    assert "test accuracy" in run.stdout
