"""The linear layer with an optional ReLU, and its gradients, as calls of XLA."""

from __future__ import annotations

import functools
import math
from typing import Any

from ..arguments import switch
from .call import call
from .packages import jax

jnp = jax.numpy


def linear(x: Any, w: Any, bias: Any = None, *, relu: bool = False) -> Any:
    """The matrix product ``y = x w + bias``; with ``relu``, ``y <= 0`` becomes +0 (NaN passes).

    The order of additions and the bits are those of ``samestep.linear``, and of ``samestep.linear_backward``
    for the gradients by ``jax.grad``. It has first derivatives, in reverse mode; ``jax.vmap`` calls it one
    member after the other.

    Args:
        x: (..., K), float32 or float64.
        w: (K, J), the dtype of ``x``.
        bias: (J,), the dtype of ``x``, or None.
        relu: whether a ReLU follows.

    Returns:
        y, (..., J).

    Raises:
        TypeError: an argument has another dtype.
        ValueError: an argument has another shape.

    Source:
        docs/numerics.md and csrc/contract/product.h for the order.

    Example:
        >>> import jax, jax.numpy as jnp, samestep.jax
        >>> x, w = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0, 0.0, -1.0], [1.0, 1.0, 1.0]])
        >>> samestep.jax.linear(x, w, jnp.array([0.5, 0.0, -2.0]), relu=True)
        Array([[3.5, 2. , 0. ],
               [7.5, 4. , 0. ]], dtype=float32)
        >>> jax.grad(lambda w: samestep.jax.linear(x, w).sum())(w)
        Array([[4., 4., 4.],
               [6., 6., 6.]], dtype=float32)
    """
    arrays = {"x": jnp.asarray(x), "w": jnp.asarray(w)}
    if bias is not None:
        arrays["bias"] = jnp.asarray(bias)
    x, w = arrays["x"], arrays["w"]
    for name, array in arrays.items():
        if array.dtype != x.dtype or x.dtype.name not in ("float32", "float64"):
            raise TypeError(f"{name}: got {array.dtype}, expected float32 or float64, one for all")
    if x.ndim == 0 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(f"x, w: got shapes {x.shape} and {w.shape}, expected (..., K) and (K, J)")
    if bias is not None and arrays["bias"].shape != w.shape[1:]:
        raise ValueError(f"bias: got shape {arrays['bias'].shape}, expected {w.shape[1:]}, as w has columns")
    y = _linear(
        switch("relu", relu), x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), w, *list(arrays.values())[2:]
    )
    return y.reshape(*x.shape[:-1], w.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linear(relu: bool, x: Any, w: Any, *bias: Any) -> Any:
    shape = jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), x.dtype)
    (y,) = call("samestep_linear", [shape], {}, x, w, *bias, relu=relu)
    return y


def _forward(relu: bool, x: Any, w: Any, *bias: Any) -> tuple[Any, Any]:
    y = _linear(relu, x, w, *bias)
    return y, (x, w, bias, y if relu else None)


def _backward(_: bool, kept: Any, dy: Any) -> tuple[Any, ...]:
    x, w, bias, y = kept
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (x, w, *bias)]
    return tuple(call("samestep_linear_backward", shapes, {}, dy, x, w, *(() if y is None else (y,))))


_linear.defvjp(_forward, _backward)
