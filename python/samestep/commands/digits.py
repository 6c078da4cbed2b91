"""A small network on scikit-learn's handwritten digits, trained wholly inside the bit contract.

64 pixels - 64 hidden units with batch norm and ReLU - 10 classes, softmax cross-entropy, Adam. Initial
weights and batches come from the sampler. So the weights at the end are the same on every machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.arrays import Array, digest
from ..backends.reference.sampling import Sampler
from ..optim.optimizers import Adam
from ..optional import require
from ..proof.network import Network
from ..sums import canonical_sum

HIDDEN = 64
CLASSES = 10
TEST = 360  # of the 1797 images, a fifth
BATCH = 64
EPOCHS = 30
LR = 3e-3
REQUIRED = 0.97  # the share of test images that must be classified right
DIGEST_NOTE = (
    "The digest is the same on every machine, instruction set and number of threads: all that lies between "
    "the images and the weights is in the bit contract, matrix products and softmax as well."
)

Labels = NDArray[np.int64]
Rows = NDArray[np.int64]


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


def new_network(
    pixels: int, sampler: Sampler, dtype: type[np.floating[Any]] = np.float32, backend: str = "auto"
) -> Network:
    """The network with random weights: uniform between -a and a, where a = sqrt(6/(inputs of the layer)).

    A weight is a whole multiple of 2^-23, times a: integers and one product, the same everywhere. The normal
    numbers of numpy.random go through the C library's functions, and may change with NumPy's version.

    Source:
        He et al., Delving deep into rectifiers (2015), for the variance, 2/(inputs of the layer).
    """

    def weights(rows: int, columns: int) -> Array:
        grid = sampler.draws(rows * columns, 2**24) / 2**23 - 1
        return (grid * math.sqrt(6 / rows)).astype(dtype).reshape(rows, columns)

    return Network(weights(pixels, HIDDEN), weights(HIDDEN, CLASSES), backend)


def accuracy(network: Network, x: Array, labels: Labels) -> float:
    """The share of images that are classified right, with the running statistics."""
    network.norm.eval()
    right = network.logits(x).argmax(axis=1) == labels
    network.norm.train()
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


def batches(sampler: Sampler, images: int, epochs: int) -> Iterator[tuple[float, list[Rows]]]:
    """For every epoch Adam's lr, which falls in a line, and the rows of the images in each batch."""
    for epoch in range(epochs):
        order = sampler.shuffle(images)
        firsts = range(0, images - BATCH + 1, BATCH)  # a last, short batch would have poor statistics
        yield LR * (1 - epoch / epochs), [order[first : first + BATCH] for first in firsts]


def train_digits(epochs: int = EPOCHS, seed: int = 0, backend: str = "auto") -> DigitsResult:
    """Trains the network by Adam on shuffled mini-batches and tests it.

    Args:
        epochs: passes over the 1437 training images, 1 or more.
        seed: of the initial weights and of the batches.
        backend: "auto", "cpu" or "reference" (the same bits, slowly).

    Raises:
        ImportError: without scikit-learn.
    """
    x, labels, x_test, labels_test = load()
    sampler = Sampler(seed)
    network = new_network(x.shape[1], sampler, backend=backend)
    optimizer = Adam(network.params, lr=LR, backend=backend)
    losses = []
    start = time.perf_counter()
    for optimizer.lr, rows_of_batches in batches(sampler, len(x), epochs):
        batch_losses = []
        for rows in rows_of_batches:
            loss, gradients = network.loss_and_gradients(x[rows], labels[rows])
            optimizer.step(gradients)
            batch_losses.append(loss)
        losses.append(float(canonical_sum(np.array(batch_losses))) / len(batch_losses))
    seconds = time.perf_counter() - start
    return DigitsResult(
        accuracy(network, x, labels),
        accuracy(network, x_test, labels_test),
        losses,
        seconds,
        optimizer.t,
        len(x),
        len(x_test),
        digest(network.params),
    )
