"""The network on the digits: its gradients, its accuracy, its digest on every instruction set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn.datasets")
from samestep.backends.reference.sampling import Sampler
from samestep.commands import digits

# After two epochs; that of the whole run stands in docs/guide/command.md.
DIGEST = "a3274888a7b2c384"
ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide" / "command.md"
EXAMPLE = ROOT / "examples" / "digits.py"


@pytest.mark.parametrize("name", ["W1", "gamma", "beta", "W2", "b2"])
def test_gradients_are_slopes(name):
    rng = np.random.default_rng(1)
    network = digits.new_network(6, Sampler(0), np.float64)
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


def test_the_whole_run():
    result = digits.train_digits()
    assert f"`{result.digest[:16]}`" in GUIDE.read_text(encoding="utf-8")
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


@pytest.mark.usefixtures("isa", "threads")
def test_one_digest_of_the_weights_everywhere():
    assert digits.train_digits(epochs=2).digest[:16] == DIGEST


def test_the_reference_has_the_same_digest():
    assert digits.train_digits(epochs=2, backend="reference").digest[:16] == DIGEST


def test_another_seed_gives_other_weights():
    assert digits.train_digits(epochs=2, seed=1).digest[:16] != DIGEST


def test_initial_weights_have_the_variance_of_he():
    network = digits.new_network(64, Sampler(0))
    for name, inputs in (("W1", 64), ("W2", digits.HIDDEN)):
        w = network.params[name]
        assert w.dtype == np.float32
        assert np.abs(w).max() <= (6 / inputs) ** 0.5
        assert w.var() == pytest.approx(2 / inputs, rel=0.1)


def test_the_example_runs():
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), "--epochs", "1"], capture_output=True, encoding="utf-8", check=True
    )
    assert "test accuracy" in run.stdout
