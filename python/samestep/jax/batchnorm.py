"""Batch norm with an optional ReLU, and its gradients, as calls of XLA."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..arguments import switch
from ..layers.batchnorm.checks import check_axis, check_eps, check_momentum
from .call import call
from .packages import jax

jnp = jax.numpy


def batch_norm(
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
    axis: int = 1,
) -> tuple[Any, tuple[Any, Any]]:
    """Normalises every channel: in training by mean and variance of the batch, else by the running ones.

    The formulas and the bits are those of ``samestep.BatchNorm``: in training of ``batchnorm_forward``, with
    ``weight`` and ``bias`` as gamma and beta, and of the running statistics, ``running_mean =
    (1 - p)*running_mean + p*mean`` and ``running_var = (1 - p)*running_var + p*var*M/(M - 1)``, where p is
    ``momentum`` and M the number of values a channel; else of ``batchnorm_inference``. The gradients by
    ``jax.grad``, in x, weight and bias, are those of ``batchnorm_backward`` and
    ``batchnorm_inference_backward``. Nothing is differentiated through the running statistics: their
    gradients are 0. There are first derivatives, in reverse mode; ``jax.vmap`` calls it one member after the
    other.

    Args:
        x: (N, C), (N, C, ...) or, with ``axis=-1``, (N, ..., C), float32 or float64; in training M >= 2.
        weight, bias, running_mean, running_var: (C,), the dtype of ``x``.
        training: whether to normalise by the batch.
        momentum: the share of the new batch in the running statistics, 0 to 1.
        eps: added to the variance, >= 0. Like the other options, a number of Python, not an array.
        relu: whether a ReLU follows: ``y <= 0`` becomes +0 (NaN passes).
        axis: the axis of the channels, 1 or -1.

    Returns:
        y, like ``x``, and the running mean and variance after this batch; without training they are those
        that came.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or range.

    Source:
        Ioffe & Szegedy (2015), alg. 1 and 2; the running statistics as in PyTorch's BatchNorm.

    Example:
        >>> import jax, jax.numpy as jnp, samestep.jax
        >>> x, one, zero = jnp.array([[1.0, 2], [3, 6], [5, 4], [7, 8]]), jnp.ones(2), jnp.zeros(2)
        >>> y, (mean, var) = samestep.jax.batch_norm(x, one, zero, zero, one, momentum=0.5, eps=0.0)
        >>> mean, y[3].round(4)
        (Array([2. , 2.5], dtype=float32), Array([1.3416, 1.3416], dtype=float32))
        >>> y, _ = samestep.jax.batch_norm(x, one, zero, 1 + one, 3 + one, training=False, eps=0.0)
        >>> y[3]
        Array([2.5, 3. ], dtype=float32)
    """
    training, relu, axis = switch("training", training), switch("relu", relu), check_axis(axis)
    momentum, eps = check_momentum(momentum), check_eps(eps)
    x = jnp.asarray(x)
    if x.dtype.name not in ("float32", "float64"):
        raise TypeError(f"x: got {x.dtype}, expected float32 or float64")
    if x.ndim < 2 or x.shape[axis] == 0:
        raise ValueError(
            f"x: got shape {x.shape}, expected samples and at least one channel: (N, C), (N, C, ...) or, "
            "with axis=-1, (N, ..., C)"
        )
    channels = x.shape[axis]
    values = x.size // channels
    if training and values < 2:
        raise ValueError(
            f"x: shape {x.shape} has {values} values a channel, expected at least 2 in training: one value "
            "has no variance; training=False takes a single sample"
        )
    of_channels = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    vectors = {name: jnp.asarray(array) for name, array in of_channels.items()}
    for name, array in vectors.items():
        if array.dtype != x.dtype:
            raise TypeError(f"{name}: got {array.dtype}, expected {x.dtype}, as x")
        if array.shape != (channels,):
            raise ValueError(f"{name}: got shape {array.shape}, expected ({channels},), as x has channels")
    flat = x.reshape(_layout(x.shape, axis))
    if training:
        y, *running = _train(relu, eps, momentum, flat, *vectors.values())
    else:
        y = _infer(relu, eps, flat, *vectors.values())
        running = [vectors["running_mean"], vectors["running_var"]]
    return y.reshape(x.shape), tuple(running)


def _layout(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape in which a call takes x: (M, C), or in planes (N, C, S)."""
    channels, positions = shape[axis], math.prod(shape[2:])
    if channels == 1:  # one plane
        return (1, 1, math.prod(shape))
    if axis == -1 or positions == 1:
        return (math.prod(shape) // channels, channels)
    return (shape[0], channels, positions)


def _like(*arrays: Any) -> list[Any]:
    return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]


def _trained(relu: bool, eps: float, momentum: float, x: Any, *vectors: Any) -> list[Any]:
    """y, both running statistics, and what the backward pass reads: mean and inv."""
    options = {"relu": relu, "eps": np.float64(eps), "momentum": np.float64(momentum)}
    made: list[Any] = call("samestep_batchnorm", _like(x, *vectors), {}, x, *vectors, **options)
    return made


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _train(relu: bool, eps: float, momentum: float, x: Any, *vectors: Any) -> list[Any]:
    return _trained(relu, eps, momentum, x, *vectors)[:3]


def _train_forward(relu: bool, eps: float, momentum: float, x: Any, *vectors: Any) -> tuple[Any, Any]:
    *results, mean, inv = _trained(relu, eps, momentum, x, *vectors)
    weight, bias, *_ = vectors
    return results, (x, weight, bias, mean, inv)


def _train_backward(relu: bool, eps: float, momentum: float, kept: Any, given: Any) -> tuple[Any, ...]:
    dy, *_ = given
    return (*call("samestep_batchnorm_backward", _like(*kept[:3]), {}, dy, *kept, relu=relu), None, None)


_train.defvjp(_train_forward, _train_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _infer(relu: bool, eps: float, x: Any, *vectors: Any) -> Any:
    options = {"relu": relu, "eps": np.float64(eps)}
    (y,) = call("samestep_batchnorm_inference", _like(x), {}, x, *vectors, **options)
    return y


def _infer_forward(relu: bool, eps: float, *operands: Any) -> tuple[Any, Any]:
    y = _infer(relu, eps, *operands)
    return y, (*operands, y if relu else None)


def _infer_backward(relu: bool, eps: float, kept: Any, dy: Any) -> tuple[Any, ...]:
    """In the steps of ``samestep.batchnorm_inference_backward``."""
    x, weight, bias, running_mean, running_var, y = kept
    if relu:
        # The bits of y are compared: XLA takes subnormals for 0.
        bits = jax.lax.bitcast_convert_type(y, f"uint{8 * y.dtype.itemsize}")
        dy = jnp.where(bits == 0, jnp.zeros_like(dy), dy)
    one, zero = jnp.ones_like(weight), jnp.zeros_like(weight)
    inv = _infer(False, eps, one[jnp.newaxis], one, zero, zero, running_var)[0]
    kept = (x, weight, bias, running_mean, inv)
    _, dweight, dbias = call("samestep_batchnorm_backward", _like(*kept[:3]), {}, dy, *kept, relu=False)
    return _infer(False, eps, dy, weight, zero, zero, running_var), dweight, dbias, None, None


_infer.defvjp(_infer_forward, _infer_backward)
