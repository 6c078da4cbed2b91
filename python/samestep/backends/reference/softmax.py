"""Softmax with cross-entropy in NumPy; twin of csrc/contract/softmax.h.

For row i of N, with the type T of the arrays::

    m = max_j z_ij,  d_j = z_ij - m,  e_j = exp(d_j),  s = T(csum_j(e_j)),  loss_i = log(s) - d_label
    dz_ij = ((e_j/s) - [j = label])/T(N);   L = csum_i(loss_i)/N in float64
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from .functions import exp, log
from .sums import csum


def softmax_cross_entropy(z: Array, labels: NDArray[np.int64], dz: Array) -> float:
    """Returns L and writes its gradient to ``dz``, which may be z."""
    rows, T = len(z), z.dtype.type
    with np.errstate(all="ignore"):
        m = z[:, 0]
        for j in range(1, z.shape[1]):
            m = np.where(z[:, j] > m, z[:, j], m)
        d = z - m[:, np.newaxis]
        e, loss = np.empty_like(d), np.empty(rows, T)
        exp(d, e)
        s = csum(e.T.astype(np.float64)).astype(T)
        log(s, loss)
        loss = loss - d[np.arange(rows), labels]
        hit = (np.arange(z.shape[1]) == labels[:, np.newaxis]).astype(T)
        dz[...] = ((e / s[:, np.newaxis]) - hit) / T(rows)
        return float(csum(loss.astype(np.float64)) / float(rows))
