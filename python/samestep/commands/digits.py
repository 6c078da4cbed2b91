"""A small network on scikit-learn's handwritten digits: batch norm, ReLU and updates by samestep.

64 pixels - 64 hidden units with batch norm and ReLU - 10 classes, softmax cross-entropy. The two matrix
products and the softmax are NumPy's, and so the bits of the whole depend on this machine's BLAS. The rest is
in the bit contract: neither SAMESTEP_ISA nor SAMESTEP_THREADS changes the digest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.arrays import Array, digest
from ..backends.reference.sampling import Sampler
from ..layers.batchnorm import BatchNorm
from ..optim.optimizers import Adam
from ..optional import require

HIDDEN = 64
CLASSES = 10
TEST = 360  # of the 1797 images, a fifth
BATCH = 64
EPOCHS = 30
LR = 3e-3
REQUIRED = 0.97  # the share of test images that must be classified right
DIGEST_NOTE = (
    "The digest is the same on every instruction set and number of threads of samestep, but not on every "
    "machine: matrix products and softmax are NumPy's, whose last bits depend on its BLAS and processor."
)

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DigitsResult:
    """The result of a training run.

    Attributes:
        train_accuracy: the share of training images that are classified right.
        test_accuracy: the share of test images, which were not trained on.
        losses: for each epoch the mean cross-entropy of its batches, each before its step.
        seconds: the time of the training alone.
        steps: the number of updates.
        images: the number of training images.
        test_images: the number of test images.
        digest: the digest of the final parameters; see DIGEST_NOTE.
    """

    train_accuracy: float
    test_accuracy: float
    losses: list[float]
    seconds: float
    steps: int
    images: int
    test_images: int
    digest: str

    @property
    def passed(self) -> bool:
        """Whether enough of the test images are classified right."""
        return self.test_accuracy >= REQUIRED

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts."""
        return {
            "problem": {"name": "digits", "rows": self.images, "test_rows": self.test_images},
            **{name: value for name, value in vars(self).items() if "images" not in name},
            "digest_note": DIGEST_NOTE,
            "required_accuracy": REQUIRED,
            "passed": self.passed,
        }


class Network:
    """``logits = relu(batchnorm(x W1)) W2 + b2``.

    The layer before a batch norm has no bias, since subtracting the mean would remove it.

    Args:
        pixels: the number of values of an image.
        seed: of the initial weights, which have He's normal distribution.
        dtype: float32 or float64.

    Attributes:
        params: the arrays to optimize, by name.
        norm: the batch norm between the layers.

    Source:
        He et al., Delving deep into rectifiers (2015), for the initial weights.
    """

    def __init__(self, pixels: int, seed: int = 0, dtype: type[np.floating[Any]] = np.float32) -> None:
        rng = np.random.default_rng(seed)

        def start(rows: int, columns: int) -> Array:
            return rng.normal(0.0, np.sqrt(2.0 / rows), (rows, columns)).astype(dtype)

        self.norm = BatchNorm(HIDDEN, relu=True, dtype=dtype)
        self.params: dict[str, Array] = {
            "W1": start(pixels, HIDDEN),
            "gamma": self.norm.weight,
            "beta": self.norm.bias,
            "W2": start(HIDDEN, CLASSES),
            "b2": np.zeros(CLASSES, dtype),
        }

    def logits(self, x: Array) -> Array:
        """Scores of the classes, shape (n, 10), for images x of shape (n, pixels)."""
        self._hidden = self.norm.forward(x @ self.params["W1"])
        scores: Array = self._hidden @ self.params["W2"] + self.params["b2"]
        return scores

    def loss_and_gradients(self, x: Array, labels: Labels) -> tuple[float, dict[str, Array]]:
        """The mean cross-entropy, and its gradient by every parameter.

        d loss/d logits = (p - e)/n, where p is the softmax of the logits, and e is 1 for the true class and
        else 0; the chain rule gives the rest. x has shape (n, pixels), labels (n,).
        """
        logits = self.logits(x)
        n = np.arange(len(x))
        shifted = logits - logits.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        total = exponentials.sum(axis=1, keepdims=True)
        loss = float(np.mean(np.log(total[:, 0]) - shifted[n, labels]))

        d_logits = exponentials / total
        d_logits[n, labels] -= 1
        d_logits /= len(x)
        d_before, d_gamma, d_beta = self.norm.backward(d_logits @ self.params["W2"].T)
        return loss, {
            "W1": x.T @ d_before,
            "gamma": d_gamma,
            "beta": d_beta,
            "W2": self._hidden.T @ d_logits,
            "b2": d_logits.sum(axis=0),
        }

    def accuracy(self, x: Array, labels: Labels) -> float:
        """The share of images that are classified right, with the running statistics."""
        self.norm.eval()
        right = self.logits(x).argmax(axis=1) == labels
        self.norm.train()
        return float(right.mean())


def load() -> tuple[Array, Labels, Array, Labels]:
    """Training images and labels, test images and labels; pixels in [0, 1], float32.

    Raises:
        ImportError: without scikit-learn.
    """
    images, labels = require("sklearn.datasets", "the digits data").load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)
    order = Sampler(seed=0).shuffle(len(x))
    test, train = order[:TEST], order[TEST:]
    return x[train], labels[train], x[test], labels[test]


def train_digits(epochs: int = EPOCHS, seed: int = 0) -> DigitsResult:
    """Trains the network by Adam on shuffled mini-batches and tests it.

    Args:
        epochs: passes over the 1437 training images, 1 or more.
        seed: of the initial weights and of the batches.

    Raises:
        ImportError: without scikit-learn.
    """
    x, labels, x_test, labels_test = load()
    network = Network(x.shape[1], seed)
    optimizer = Adam(network.params, lr=LR)
    sampler = Sampler(seed)
    losses = []
    start = time.perf_counter()
    for epoch in range(epochs):
        optimizer.lr = LR * (1 - epoch / epochs)
        order = sampler.shuffle(len(x))
        batch_losses = []
        for first in range(0, len(x) - BATCH + 1, BATCH):  # a last, short batch would have poor statistics
            rows = order[first : first + BATCH]
            loss, gradients = network.loss_and_gradients(x[rows], labels[rows])
            optimizer.step(gradients)
            batch_losses.append(loss)
        losses.append(float(np.mean(batch_losses)))
    seconds = time.perf_counter() - start
    return DigitsResult(
        network.accuracy(x, labels),
        network.accuracy(x_test, labels_test),
        losses,
        seconds,
        optimizer.t,
        len(x),
        len(x_test),
        digest(network.params),
    )
