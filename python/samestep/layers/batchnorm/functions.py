"""Batch norm as functions on arrays; the docstring of the package tells the shapes and backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ... import backends
from ...arguments import switch
from ...backends import arrays
from ...backends.arrays import Array
from ..checks import check_out, check_same_layout, check_vector
from .checks import check_eps, check_input


def batchnorm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    eps: float = 1e-5,
    relu: bool = False,
    axis: int = 1,
    out: Array | None = None,
    backend: str = "auto",
) -> tuple[Array, Array, Array]:
    """Normalises every channel by the mean and variance of this batch: the forward pass of training.

    ``mean = sum(x)/M``, ``var = sum((x - mean)^2)/M``, ``inv = 1/sqrt(var + eps)``,
    ``y = gamma*((x - mean)*inv) + beta``; with ``relu``, ``y <= 0`` becomes +0 (NaN passes). M is the number
    of values a channel. The sums are in float64; the first value of the channel is subtracted from all values
    first, so that no digits cancel.

    Args:
        x: (N, C), (N, C, ...) or, with ``axis=-1``, (N, ..., C), float32 or float64; M >= 2.
        gamma, beta: (C,), the dtype of ``x``.
        eps: added to the variance, >= 0.
        relu: whether a ReLU follows.
        axis: the axis of the channels, 1 or -1.
        out: the array for y, with the shape, dtype and layout of ``x``. It may not overlap ``x``, which the
            backward pass reads.
        backend: "auto", "cpu", "reference" or "cuda".

    Returns:
        y, like ``x``; mean and inv, (C,), which the backward pass reads as well.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape, layout or range. In both cases nothing has been written.

    Source:
        Ioffe & Szegedy (2015), alg. 1; Goodfellow, Bengio & Courville, Deep Learning (2016),
        eqs. 8.35-8.37.

    Example:
        >>> import numpy as np, samestep as ss
        >>> x = np.array([[1.0, 2], [3, 6], [5, 4], [7, 8]])
        >>> y, mean, inv = ss.batchnorm_forward(x, np.array([2.0, -1]), np.array([-1, 0.5]), relu=True)
        >>> mean
        array([4., 5.])
        >>> y.round(4)
        array([[0.    , 1.8416],
               [0.    , 0.0528],
               [0.    , 0.9472],
               [1.6833, 0.    ]])
    """
    y, mean, inv, _, _ = forward_and_statistics(x, gamma, beta, eps, relu, axis, out, backend)
    return y, mean, inv


def batchnorm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    inv: Array,
    *,
    relu: bool = False,
    axis: int = 1,
    out: Array | None = None,
    backend: str = "auto",
) -> tuple[Array, Array, Array]:
    """The gradients of a loss by the arguments x, gamma and beta of ``batchnorm_forward``.

    ``dbeta = sum(dy)``, ``dgamma = sum(dy*(x - mean))*inv``,
    ``dx = gamma*inv*(dy - dbeta/M - (x - mean)*inv*dgamma/M)``. With ``relu``, ``dy`` is +0 in these formulas
    wherever the ReLU made y +0; y is recomputed for that, not stored.

    Args:
        dy: the loss's gradient by y, with the shape, dtype and layout of ``x``.
        x, gamma, beta, relu, axis: those of the forward pass.
        mean, inv: (C,), the results of the forward pass.
        out: the array for dx, like ``x``. It may be ``dy`` itself, and may overlap no other argument.
        backend: "auto", "cpu", "reference" or "cuda".

    Returns:
        dx, like ``x``; dgamma and dbeta, (C,).

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape, layout or range. In both cases nothing has been written.

    Source:
        Ioffe & Szegedy (2015), section 3, with its sums brought together into two.

    Example:
        >>> import numpy as np, samestep as ss
        >>> x = np.array([[1.0], [3], [5], [7]])
        >>> gamma, beta = np.array([2.0]), np.array([-1.0])
        >>> y, mean, inv = ss.batchnorm_forward(x, gamma, beta)
        >>> dy = np.array([[1.0], [2], [-1], [0.5]])
        >>> dx, dgamma, dbeta = ss.batchnorm_backward(dy, x, gamma, beta, mean, inv)
        >>> dgamma.round(6), dbeta
        (array([-2.012459]), array([2.5]))
    """
    read = {"dy": dy, "x": x, "gamma": gamma, "beta": beta, "mean": mean, "inv": inv}
    backend, (dy, x, gamma, beta, mean, inv, out) = _choose_backend(backend, read, {"out": out})
    module = backends.module(backend)
    relu = switch("relu", relu)
    layout = check_input(x, axis, min_values=2)
    check_same_layout("dy", dy, x)
    for name, a in (("gamma", gamma), ("beta", beta), ("mean", mean), ("inv", inv)):
        check_vector(name, a, ("x", x), layout.channels, "channel")
    dx = check_out(
        module, out, x, {"x": x, "gamma": gamma, "beta": beta, "mean": mean, "inv": inv}, ("dy", dy)
    )
    dgamma, dbeta = module.empty_like(gamma), module.empty_like(gamma)
    module.batchnorm_backward(
        layout.to_c_order(dy),
        layout.to_c_order(x),
        gamma,
        beta,
        mean,
        inv,
        layout.to_c_order(dx),
        dgamma,
        dbeta,
        layout.sizes,
        layout.channels_last,
        relu,
    )
    return dx, dgamma, dbeta


def batchnorm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    eps: float = 1e-5,
    relu: bool = False,
    axis: int = 1,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Normalises every channel by fixed statistics, so that a sample's result depends on no other sample.

    ``s = gamma/sqrt(running_var + eps)``, ``y = (x - running_mean)*s + beta``; with ``relu``, ``y <= 0``
    becomes +0 (NaN passes).

    Args:
        x: as in ``batchnorm_forward``, with any number of values a channel.
        gamma, beta, running_mean, running_var: (C,), the dtype of ``x``.
        eps: added to the variance, >= 0.
        relu, axis: as in ``batchnorm_forward``.
        out: the array for y, like ``x``. It may be ``x`` itself, and may overlap no other argument.
        backend: "auto", "cpu", "reference" or "cuda".

    Returns:
        y, like ``x``.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape, layout or range. In both cases nothing has been written.

    Source:
        Ioffe & Szegedy (2015), alg. 2.

    Example:
        >>> import numpy as np, samestep as ss
        >>> one = np.ones(2)
        >>> ss.batchnorm_inference(np.array([[3.0, 5.0]]), one, one, 1 + one, 3 + one, eps=0.0)
        array([[1.5, 2.5]])
    """
    channels = {"gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var}
    backend, (x, *given, out) = _choose_backend(backend, {"x": x, **channels}, {"out": out})
    module = backends.module(backend)
    channels = dict(zip(channels, given, strict=True))
    gamma, beta, running_mean, running_var = given
    eps, relu = check_eps(eps), switch("relu", relu)
    layout = check_input(x, axis, min_values=0)
    for name, a in channels.items():
        check_vector(name, a, ("x", x), layout.channels, "channel")
    y = check_out(module, out, x, channels, ("x", x))
    module.batchnorm_inference(
        layout.to_c_order(x),
        gamma,
        beta,
        running_mean,
        running_var,
        layout.to_c_order(y),
        layout.sizes,
        layout.channels_last,
        relu,
        eps,
    )
    return y


def batchnorm_inference_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    eps: float = 1e-5,
    relu: bool = False,
    axis: int = 1,
    out: Array | None = None,
    backend: str = "auto",
) -> tuple[Array, Array, Array]:
    """The gradients of a loss by the arguments x, gamma and beta of ``batchnorm_inference``.

    ``dbeta = sum(dy)``, ``dgamma = sum(dy*(x - running_mean))/sqrt(running_var + eps)``,
    ``dx = dy*s`` with ``s = gamma/sqrt(running_var + eps)``. With ``relu``, ``dy`` is +0 in these formulas
    wherever the ReLU made y +0; y is recomputed for that, not stored.

    Args:
        dy: the loss's gradient by y, with the shape, dtype and layout of ``x``.
        x, gamma, beta, running_mean, running_var, eps, relu, axis: as in ``batchnorm_inference``.
        out: the array for dx, like ``x``. It may overlap no argument.
        backend: "auto", "cpu", "reference" or "cuda".

    Returns:
        dx, like ``x``; dgamma and dbeta, (C,).

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape, layout or range. In both cases nothing has been written.

    Source:
        Ioffe & Szegedy (2015), alg. 2, differentiated.

    Example:
        >>> import numpy as np, samestep as ss
        >>> one, two = np.ones(1), np.full(1, 2.0)
        >>> x, dy = np.array([[1.0], [5.0]]), np.array([[1.0], [3.0]])
        >>> dx, dgamma, dbeta = ss.batchnorm_inference_backward(dy, x, two, one, one, 3 + one, eps=0.0)
        >>> dx.ravel(), dgamma, dbeta
        (array([1., 3.]), array([6.]), array([4.]))
    """
    channels = {"gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var}
    backend, (dy, x, *given, out) = _choose_backend(backend, {"dy": dy, "x": x, **channels}, {"out": out})
    module = backends.module(backend)
    channels = dict(zip(channels, given, strict=True))
    gamma, beta, running_mean, running_var = given
    eps, relu = check_eps(eps), switch("relu", relu)
    layout = check_input(x, axis, min_values=0)
    check_same_layout("dy", dy, x)
    for name, a in channels.items():
        check_vector(name, a, ("x", x), layout.channels, "channel")
    dx = check_out(module, out, x, {"dy": dy, "x": x, **channels})
    options: dict[str, Any] = {"eps": eps, "axis": axis, "backend": backend}
    if relu:
        y = batchnorm_inference(x, gamma, beta, running_mean, running_var, relu=True, **options)
        dy = dy.copy(order="K")
        # The bits of y are compared: in flush-to-zero mode subnormals compare equal to 0.
        dy[y.view(f"u{y.itemsize}") == 0] = 0
    # inv = 1/sqrt(running_var + eps): inference with x = gamma = 1 and running_mean = beta = 0.
    one, zero, dgamma, dbeta = (module.empty_like(gamma) for _ in range(4))
    one[...], zero[...], dgamma[...], dbeta[...] = 1, 0, 0, 0
    inv = batchnorm_inference(one[np.newaxis], one, zero, zero, running_var, eps=eps, backend=backend)[0]
    module.batchnorm_backward(
        layout.to_c_order(dy),
        layout.to_c_order(x),
        gamma,
        beta,
        running_mean,
        inv,
        layout.to_c_order(dx),
        dgamma,
        dbeta,
        layout.sizes,
        layout.channels_last,
        False,
    )
    # dx = dy*s overwrites the dx of training, whose kernel was used for the two sums.
    batchnorm_inference(dy, gamma, zero, zero, running_var, out=dx, **options)
    return dx, dgamma, dbeta


def forward_and_statistics(
    x: Array,
    gamma: Array,
    beta: Array,
    eps: float,
    relu: bool,
    axis: int,
    out: Array | None,
    backend: str,
    running: Mapping[str, Array] | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """``batchnorm_forward``, which also returns mean and variance in float64, before they are rounded.

    Args:
        running: running statistics, (C,) each, by name. The caller updates them next, and so they are checked
            here, before the first byte of y is written.

    Returns:
        y, like ``x``; mean and inv, (C,), the dtype of ``x``; mean and variance, (C,), float64.
    """
    read = {"x": x, "gamma": gamma, "beta": beta}
    backend, (x, gamma, beta, *_, out) = _choose_backend(backend, read, {**(running or {}), "out": out})
    module = backends.module(backend)
    eps, relu = check_eps(eps), switch("relu", relu)
    layout = check_input(x, axis, min_values=2)
    check_vector("gamma", gamma, ("x", x), layout.channels, "channel")
    check_vector("beta", beta, ("x", x), layout.channels, "channel")
    in_use = {"x": x, "gamma": gamma, "beta": beta}
    for name, a in (running or {}).items():
        check_vector(name, a, ("x", x), layout.channels, "channel")
        arrays.check_inplace(name, a)
        for other, b in in_use.items():
            if arrays.may_overlap(a, b):
                raise ValueError(f"{name}: overlaps {other} in memory; give it an array of its own")
        in_use[name] = a
    y = check_out(module, out, x, in_use)
    mean, inv = module.empty_like(gamma), module.empty_like(gamma)
    mean64, var64 = (module.empty(layout.channels, np.float64, gamma) for _ in range(2))
    module.batchnorm_forward(
        layout.to_c_order(x),
        gamma,
        beta,
        layout.to_c_order(y),
        mean,
        inv,
        mean64,
        var64,
        layout.sizes,
        layout.channels_last,
        relu,
        eps,
    )
    return y, mean, inv, mean64, var64


def _choose_backend(
    backend: str, read: Mapping[str, Any], written: Mapping[str, Any]
) -> tuple[str, list[Any]]:
    """As ``backends.choose_backend``, with plain arrays: subclasses of NumPy's may override arithmetic."""
    backend, chosen = backends.choose_backend(backend, read, written)
    return backend, [arrays.as_plain(a) for a in chosen]
