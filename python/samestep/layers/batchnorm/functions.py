"""Batch norm as functions on arrays; the package says which shapes and backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ... import backends
from ...arguments import switch
from ...backends import arrays
from ...backends.arrays import Array
from .checks import check_channels, check_eps, check_like, check_values, result_for


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
    ``y = gamma*((x - mean)*inv) + beta``; with ``relu``, ``y <= 0`` becomes +0 (NaN passes).
    The sums are taken in float64, of values shifted by the channel's first: no cancellation.

    Args:
        x: see the package; at least 2 values a channel.
        gamma, beta: (C,), of the dtype of ``x``.
        eps: added to the variance, >= 0.
        relu: whether a ReLU follows.
        axis: where the channels are: 1 or -1.
        out: array for the result, like ``x`` in shape, dtype and layout; it may not overlap ``x``,
            which the backward pass needs.
        backend: see the package.

    Returns:
        y, like ``x``; mean and inv, (C,): what the backward pass needs beside ``x``.

    Raises:
        TypeError, ValueError: an argument does not fit; nothing has been written.

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
    """The gradients of a loss with respect to what ``batchnorm_forward`` was given.

    With ``relu``, ``dy`` first becomes +0 where y was +0 for it (y is recomputed, nothing is saved).
    ``dbeta = sum(dy)``, ``dgamma = sum(dy*(x - mean))*inv``,
    ``dx = gamma*inv*(dy - dbeta/M - (x - mean)*inv*dgamma/M)``.

    Args:
        dy: the loss's gradient with respect to y; like ``x`` in shape, dtype and layout.
        x, gamma, beta, relu, axis: as in the forward pass.
        mean, inv: as it returned them.
        out: array for dx, like ``x``; may be ``dy`` itself, may not overlap otherwise.
        backend: see the package.

    Returns:
        dx, like ``x``; dgamma and dbeta, (C,).

    Raises:
        TypeError, ValueError: an argument does not fit; nothing has been written.

    Source:
        Ioffe & Szegedy (2015), section 3, with the sums taken once.

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
    backend, (dy, x, gamma, beta, mean, inv, out) = _enter(backend, read, {"out": out})
    run = backends.module(backend)
    relu = switch("relu", relu)
    walk = check_values(x, axis, at_least=2)
    check_like("dy", dy, x)
    for name, a in (("gamma", gamma), ("beta", beta), ("mean", mean), ("inv", inv)):
        check_channels(name, a, walk, x)
    dx = result_for(run, out, x, {"x": x, "gamma": gamma, "beta": beta, "mean": mean, "inv": inv}, ("dy", dy))
    dgamma, dbeta = run.empty_like(gamma), run.empty_like(gamma)
    see = walk.arrange
    run.batchnorm_backward(
        see(dy),
        see(x),
        gamma,
        beta,
        mean,
        inv,
        see(dx),
        dgamma,
        dbeta,
        walk.sizes,
        walk.channels_last,
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
    """Normalises every channel by given statistics: no channel's result depends on the batch.

    ``s = gamma/sqrt(running_var + eps)``, ``y = (x - running_mean)*s + beta``, then the ReLU if asked.

    Args:
        x, gamma, beta, relu, axis: as in ``batchnorm_forward``; any number of values.
        running_mean, running_var: (C,), of the dtype of ``x``.
        eps: added to the variance, >= 0.
        out: array for the result, like ``x``; may be ``x`` itself, may not overlap otherwise.
        backend: see the package.

    Returns:
        y, like ``x``.

    Raises:
        TypeError, ValueError: an argument does not fit; nothing has been written.

    Source:
        Ioffe & Szegedy (2015), alg. 2.

    Example:
        >>> import numpy as np, samestep as ss
        >>> one = np.ones(2)
        >>> ss.batchnorm_inference(np.array([[3.0, 5.0]]), one, one, 1 + one, 3 + one, eps=0.0)
        array([[1.5, 2.5]])
    """
    channels = {"gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var}
    backend, (x, *given, out) = _enter(backend, {"x": x, **channels}, {"out": out})
    run = backends.module(backend)
    channels = dict(zip(channels, given, strict=True))
    gamma, beta, running_mean, running_var = given
    eps, relu = check_eps(eps), switch("relu", relu)
    walk = check_values(x, axis, at_least=0)
    for name, a in channels.items():
        check_channels(name, a, walk, x)
    y = result_for(run, out, x, channels, ("x", x))
    see = walk.arrange
    run.batchnorm_inference(
        see(x),
        gamma,
        beta,
        running_mean,
        running_var,
        see(y),
        walk.sizes,
        walk.channels_last,
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
    """The gradients of a loss with respect to what ``batchnorm_inference`` was given: frozen statistics.

    With ``relu``, ``dy`` first becomes +0 where y was +0 for it (y is recomputed, nothing is saved).
    ``dbeta = sum(dy)``, ``dgamma = sum(dy*(x - running_mean))/sqrt(running_var + eps)``,
    ``dx = dy*s`` with ``s = gamma/sqrt(running_var + eps)``.

    Args:
        dy: the loss's gradient with respect to y; like ``x`` in shape, dtype and layout.
        x, gamma, beta, running_mean, running_var, eps, relu, axis: as in ``batchnorm_inference``.
        out: array for dx, like ``x``; it may not overlap what is read.
        backend: see the package.

    Returns:
        dx, like ``x``; dgamma and dbeta, (C,).

    Raises:
        TypeError, ValueError: an argument does not fit; nothing has been written.

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
    backend, (dy, x, *given, out) = _enter(backend, {"dy": dy, "x": x, **channels}, {"out": out})
    run = backends.module(backend)
    channels = dict(zip(channels, given, strict=True))
    gamma, beta, running_mean, running_var = given
    eps, relu = check_eps(eps), switch("relu", relu)
    walk = check_values(x, axis, at_least=0)
    check_like("dy", dy, x)
    for name, a in channels.items():
        check_channels(name, a, walk, x)
    dx = result_for(run, out, x, {"dy": dy, "x": x, **channels})
    how: dict[str, Any] = {"eps": eps, "axis": axis, "backend": backend}
    if relu:
        y = batchnorm_inference(x, gamma, beta, running_mean, running_var, relu=True, **how)
        dy = dy.copy(order="K")
        dy[y.view(f"u{y.itemsize}") == 0] = 0  # by its bits: no floating-point mode makes more of them zero
    # Sums and steps by the kernels of the other passes, of which one gives 1/sqrt(running_var + eps).
    one, zero, dgamma, dbeta = (run.empty_like(gamma) for _ in range(4))
    one[...], zero[...], dgamma[...], dbeta[...] = 1, 0, 0, 0
    inv = batchnorm_inference(one[np.newaxis], one, zero, zero, running_var, eps=eps, backend=backend)[0]
    see = walk.arrange
    run.batchnorm_backward(
        see(dy),
        see(x),
        gamma,
        beta,
        running_mean,
        inv,
        see(dx),
        dgamma,
        dbeta,
        walk.sizes,
        walk.channels_last,
        False,
    )
    batchnorm_inference(dy, gamma, zero, zero, running_var, out=dx, **how)
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
    """y, mean, inv, and mean and variance as they were before rounding to the dtype.

    ``running``: what the caller writes to next; checked here, before the first byte of y.
    """
    read = {"x": x, "gamma": gamma, "beta": beta}
    backend, (x, gamma, beta, *_, out) = _enter(backend, read, {**(running or {}), "out": out})
    run = backends.module(backend)
    eps, relu = check_eps(eps), switch("relu", relu)
    walk = check_values(x, axis, at_least=2)
    check_channels("gamma", gamma, walk, x)
    check_channels("beta", beta, walk, x)
    others = {"x": x, "gamma": gamma, "beta": beta}
    for name, a in (running or {}).items():
        check_channels(name, a, walk, x)
        arrays.check_inplace(name, a)
        for other, b in others.items():
            if arrays.may_overlap(a, b):
                raise ValueError(f"{name}: overlaps {other} in memory; give it an array of its own")
        others[name] = a
    y = result_for(run, out, x, others)
    mean, inv = run.empty_like(gamma), run.empty_like(gamma)
    mean64, var64 = (run.empty(walk.channels, np.float64, gamma) for _ in range(2))
    see = walk.arrange
    run.batchnorm_forward(
        see(x), gamma, beta, see(y), mean, inv, mean64, var64, walk.sizes, walk.channels_last, relu, eps
    )
    return y, mean, inv, mean64, var64


def _enter(backend: str, read: Mapping[str, Any], written: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """As ``backends.enter``; subclasses of NumPy's array, which may calculate otherwise, as plain arrays."""
    backend, seen = backends.enter(backend, read, written)
    return backend, [arrays.plain(a) for a in seen]
