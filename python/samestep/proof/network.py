"""A small network that trains wholly inside the bit contract, and the run of it that ``verify`` repeats."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import backends
from ..backends.arrays import Array
from ..layers.batchnorm import BatchNorm
from ..layers.linear import linear, linear_backward
from ..layers.softmax import softmax_cross_entropy
from ..optim.optimizers import Adam
from ..parallel.groups import Alone, Group
from ..parallel.sharded import Sharded
from ..tree import ranges
from .vectors import finite_values


class Network:
    """``logits = relu(batchnorm(x W1)) W2 + b2``.

    The layer before a batch norm has no bias, since subtracting the mean would remove it.

    Args:
        W1: the initial weights, (inputs, hidden), float32 or float64; the network trains a copy.
        W2: (hidden, classes), likewise.
        backend: "auto", "cpu", "reference" or "cuda"; the arrays of the network live there.

    Attributes:
        params: the arrays to optimize, by name.
        norm: the batch norm between the layers.
    """

    def __init__(self, W1: Array, W2: Array, backend: str = "auto") -> None:
        self.backend = backend
        self.module: Any = backends.module("cpu" if backend == "auto" else backend)
        self.norm = BatchNorm(W1.shape[1], relu=True, dtype=W1.dtype, backend=backend)
        self.params: dict[str, Array] = {
            "W1": self.module.from_host(W1.copy()),
            "gamma": self.norm.weight,
            "beta": self.norm.bias,
            "W2": self.module.from_host(W2.copy()),
            "b2": self.module.from_host(np.zeros(W2.shape[1], W2.dtype)),
        }

    def logits(self, x: Array) -> Array:
        """Scores of the classes, (n, classes), for x of shape (n, inputs)."""
        self._hidden = self.norm.forward(linear(x, self.params["W1"], backend=self.backend))
        return linear(self._hidden, self.params["W2"], self.params["b2"], backend=self.backend)

    def loss_and_gradients(self, x: Array, labels: npt.NDArray[np.int64]) -> tuple[float, dict[str, Array]]:
        """The mean cross-entropy, and its gradient by every parameter; x (n, inputs), labels (n,)."""
        loss, d_logits = softmax_cross_entropy(self.logits(x), labels, backend=self.backend)
        d_hidden, dW2, db2 = linear_backward(d_logits, self._hidden, self.params["W2"], backend=self.backend)
        d_before, dgamma, dbeta = self.norm.backward(d_hidden)
        _, dW1, _ = linear_backward(
            d_before, x, self.params["W1"], input_gradient=False, backend=self.backend
        )
        return loss, {"W1": dW1, "gamma": dgamma, "beta": dbeta, "W2": dW2, "b2": db2}


class NetworkProgram(NamedTuple):
    """A whole run: ``steps`` steps of Adam on one batch, from weights to weights."""

    dtype: np.dtype[Any]
    shape: tuple[int, int, int, int]  # (rows, inputs, hidden, classes)
    steps: int
    leaves: int = 0  # into which the batch is cut; 0: it is not

    def __str__(self) -> str:
        name = f"network {self.dtype} {'x'.join(map(str, self.shape))} {self.steps}"
        return f"{name} {self.leaves} leaves" if self.leaves else name

    def run(self, group: Group | None = None, **options: Any) -> list[Array]:
        """The parameters, the running statistics and the loss before every step.

        With leaves, the parameters and each leaf's losses, one leaf after the other. Running statistics go
        by the leaves that a worker has seen, and so would show how many workers there are.

        Args:
            group: with leaves, the workers; None: one alone.
            options: such as the backend.
        """
        rows, inputs, hidden, classes = self.shape
        # Divided by powers of two: exact in both types.
        W1 = finite_values(inputs * hidden, self.dtype, 1).reshape(inputs, hidden) / self.dtype.type(8)
        W2 = finite_values(hidden * classes, self.dtype, 2).reshape(hidden, classes) / self.dtype.type(2)
        network = Network(W1, W2, **options)
        module = network.module
        x = module.from_host(finite_values(rows * inputs, self.dtype, 3).reshape(rows, inputs))
        labels = module.from_host((3 * np.arange(rows, dtype=np.int64) + 1) % classes)
        if self.leaves:
            losses_of_leaves = self._train_in_leaves(network, x, labels, group or Alone(), options)
            return [*map(module.to_host, network.params.values()), losses_of_leaves]
        optimizer = Adam(network.params, lr=0.01, **options)
        losses = []
        for _ in range(self.steps):
            loss, gradients = network.loss_and_gradients(x, labels)
            optimizer.step(gradients)
            losses.append(loss)
        ends = [*network.params.values(), network.norm.running_mean, network.norm.running_var]
        return [*(module.to_host(a) for a in ends), np.array(losses)]

    def _train_in_leaves(
        self, network: Network, x: Array, labels: Array, group: Group, options: dict[str, Any]
    ) -> Array:
        """Each leaf has a range of the rows, and its own statistics in batch norm; returns the losses."""
        optimizer = Sharded(
            lambda part: Adam(part, lr=0.01, **options), network.params, group, leaves=self.leaves
        )
        cuts = [len(x) * leaf // self.leaves for leaf in range(self.leaves + 1)]
        losses = np.empty((len(optimizer.leaves), self.steps))
        for step in range(self.steps):
            for own, leaf in zip(losses, optimizer.leaves, strict=True):
                rows = slice(cuts[leaf], cuts[leaf + 1])
                own[step], gradients = network.loss_and_gradients(x[rows], labels[rows])
                optimizer.add(leaf, gradients)
            optimizer.step()
        counts = [len(leaves) * self.steps for leaves in ranges(self.leaves, group.size)]
        return np.concatenate(group.all_gather(losses.ravel(), counts))
