"""The problems for which the texts' figures are known."""

import functools

import numpy as np
from sklearn.datasets import load_diabetes

from samestep.problems import MSE

PHI = [[1, 0], [0, 1], [1, 1]]
Y = [1, 2, 4]


def fixed(dtype=np.float64, scale="half_sum"):
    """Three rows, two weights, H = [[2, 1], [1, 2]]; the traces from 0 are dyadic."""
    return MSE(np.array(PHI, dtype), np.array(Y, dtype), scale)


@functools.cache
def diabetes(scale="half_sum", dtype=np.float64):
    """As shipped: 442 x 10, columns of mean 0 and norm 1; y centred."""
    X, y = load_diabetes(return_X_y=True)
    return MSE(X.astype(dtype), (y - y.mean()).astype(dtype), scale)


def small():
    """Six rows of it, few enough to enumerate every batch."""
    whole = diabetes()
    return MSE(whole.Phi[:6] * 10, whole.y[:6] / 100, "half_mean"), np.linspace(-1, 1, 10)
