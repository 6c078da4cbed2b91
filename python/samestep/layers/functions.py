"""exp, log, tanh and sigmoid with the same bits on every machine.

Of float32 arrays every result is the float32 nearest to the true value, ties to even: correctly rounded, for
all 2^32 values. Of float64 arrays it lies within 1 unit in the last place of the true value and has the bits
that docs/numerics.md fixes. Subnormals are kept; NaN gives NaN.

``backend`` is "auto" (by the memory in which the arrays live), "cpu", "reference" (the NumPy twin: the same
bits, slowly) or "cuda" (arrays on a GPU; results are CuPy arrays).
"""

from __future__ import annotations

from .. import backends
from ..backends import arrays, cpu
from ..backends.arrays import Array
from .checks import check_out


def exp(x: Array, out: Array | None = None, *, backend: str = "auto") -> Array:
    """``e^x``, elementwise.

    Args:
        x: float32 or float64, any shape, axes in any order but without gaps.
        out: the array for the result, with the shape, dtype and layout of ``x``; it may be ``x`` itself.
        backend: as the module's docstring tells.

    Returns:
        ``out``, or a new array like ``x``.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or layout, or overlaps. In both cases nothing has been
        written.

    Source:
        Tang, Table-driven implementation of the exponential function in IEEE floating-point arithmetic
        (1989).

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.exp(np.float32([0.0, 1.0, -200.0, np.inf]))
        array([1.       , 2.7182817, 0.       ,       inf], dtype=float32)
    """
    return _map("exp", x, out, backend)


def log(x: Array, out: Array | None = None, *, backend: str = "auto") -> Array:
    """The natural logarithm, elementwise: -inf of 0, NaN below.

    Args, returns and errors are those of :func:`exp`.

    Source:
        Ng, fdlibm's e_log.c (1993), for the form of the polynomial.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.log(np.float32([1.0, 2.0, 0.0]))
        array([0.       , 0.6931472,      -inf], dtype=float32)
    """
    return _map("log", x, out, backend)


def tanh(x: Array, out: Array | None = None, *, backend: str = "auto") -> Array:
    """``(e^x - e^-x)/(e^x + e^-x)``, elementwise; the sign of zero is kept.

    Args, returns and errors are those of :func:`exp`.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.tanh(np.float32([0.5, -20.0]))
        array([ 0.46211717, -1.        ], dtype=float32)
    """
    return _map("tanh", x, out, backend)


def sigmoid(x: Array, out: Array | None = None, *, backend: str = "auto") -> Array:
    """``1/(1 + e^-x)``, elementwise.

    Args, returns and errors are those of :func:`exp`.

    Example:
        >>> import numpy as np, samestep as ss
        >>> ss.sigmoid(np.float32([0.0, 1.0, -100.0]))
        array([5.000000e-01, 7.310586e-01, 3.783506e-44], dtype=float32)
    """
    return _map("sigmoid", x, out, backend)


def _map(function: str, x: Array, out: Array | None, backend: str) -> Array:
    if backend in ("auto", "cpu"):
        y: Array | None = getattr(cpu, function)(x, out)
        if y is not None:
            return y
    # Something does not fit, has another layout or lies elsewhere.
    backend, (x, out) = backends.choose_backend(backend, {"x": x}, {"out": out})
    module = backends.module(backend)
    x = arrays.as_plain(x)
    arrays.check_aligned_array("x", x)
    if x.size and not arrays.is_dense(x):
        raise ValueError(
            f"x: strides {x.strides} for shape {x.shape} leave gaps or repeat elements, expected one block "
            "of memory; pass x.copy()"
        )
    y = check_out(module, out, x, {}, ("x", x))
    getattr(module, function)(_in_order_of_memory(x), _in_order_of_memory(y))
    return y


def _in_order_of_memory(a: Array) -> Array:
    """The view of a dense array that is in C order."""
    return a.transpose(sorted(range(a.ndim), key=lambda i: -a.strides[i])) if a.ndim > 1 else a
