"""Softmax with cross-entropy: the loss of a classifier and its gradient, in one call."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backends
from ..backends import arrays
from ..backends.arrays import Array
from .checks import check_out


def softmax_cross_entropy(
    z: Array, labels: Array, *, out: Array | None = None, backend: str = "auto"
) -> tuple[float, Array]:
    """The mean cross-entropy of the softmax of every row with its label, and the gradient by ``z``.

    ``p_ij = e^z_ij / sum_k e^z_ik``, ``loss = -mean_i(log p_i,label)``, ``dz_ij = (p_ij - [j = label])/N``.
    The largest logit of a row is subtracted first, so that nothing overflows. The row's sum is a canonical
    sum of correctly rounded exponentials: no bit depends on the machine, the threads or the other rows.

    Args:
        z: (N, C), the logits, float32 or float64, C order; N and C at least 1.
        labels: (N,), whole numbers from 0 to C - 1, of any integer dtype.
        out: the array for dz, like ``z``; it may be ``z`` itself.
        backend: "auto" (by the memory in which the arrays live), "cpu", "reference" (the NumPy twin: the same
            bits, slowly) or "cuda".

    Returns:
        The loss; dz, like ``z``.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or layout, or a label is no column. In both cases nothing
            has been written.

    Source:
        Goodfellow, Bengio & Courville, Deep Learning (2016), section 6.2.2.3; docs/numerics.md for the bits.

    Example:
        >>> import numpy as np, samestep as ss
        >>> loss, dz = ss.softmax_cross_entropy(np.float32([[1, 2, 3], [0, 0, 0]]), np.array([2, 0]))
        >>> round(loss, 6)
        0.753109
        >>> dz.round(4)
        array([[ 0.045 ,  0.1224, -0.1674],
               [-0.3333,  0.1667,  0.1667]], dtype=float32)
    """
    backend, (z, labels, out) = backends.choose_backend(backend, {"z": z, "labels": labels}, {"out": out})
    module = backends.module(backend)
    z, labels, out = arrays.as_plain(z), arrays.as_plain(labels), arrays.as_plain(out)
    arrays.check_readable("z", z)
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(
            f"z: got shape {z.shape}, expected at least one row and one column of logits, (N, C)"
        )
    labels = _check_labels(module, labels, z)
    dz = check_out(module, out, z, {"labels": labels}, ("z", z))
    return float(module.softmax_cross_entropy(z, labels, dz)), dz


def _check_labels(module: Any, labels: Any, z: Array) -> Array:
    """The labels as int64 in C order, or an error that says why they are none."""
    if not arrays.is_array(labels) or isinstance(labels, np.ma.MaskedArray):
        raise TypeError(
            f"labels: got {type(labels).__name__}, expected an array of whole numbers; make one of it with "
            "np.array(labels)"
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"labels: got dtype {labels.dtype}, expected whole numbers; use labels.astype(np.int64), or of "
            "one-hot rows labels.argmax(1)"
        )
    if labels.shape != z.shape[:1]:
        raise ValueError(f"labels: got shape {labels.shape}, expected {z.shape[:1]}, one for each row of z")
    on_host = labels if isinstance(labels, np.ndarray) else module.to_host(labels)
    wrong = (on_host < 0) | (on_host >= z.shape[1])
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f"labels[{i}]: got {int(on_host[i])}, expected a column of z, 0 to {z.shape[1] - 1}")
    if isinstance(labels, np.ndarray):
        return np.ascontiguousarray(labels, np.int64)
    fits = labels.dtype == np.int64 and labels.flags.c_contiguous
    checked: Array = labels if fits else module.from_host(np.ascontiguousarray(on_host, np.int64))
    return checked
