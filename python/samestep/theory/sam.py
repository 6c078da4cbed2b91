"""Sharpness-aware minimisation: a step along the gradient at the worst point near by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..optim.optimizer import Optimizer
from ..optim.plan import like_params
from ..problems import Floats
from ..sums import global_norm
from .checks import check_function, check_not_negative


def sam_step(optimizer: Optimizer, gradient: Callable[[Floats], Floats], rho: float) -> None:
    """e = rho g/|g|; one step of the optimizer at w along the gradient at w + e.

    To first order, e is where L is largest within the distance rho. At a minimum that largest value is
    L + (rho^2/2) lambda_max(H) and more: the notes' penalty on the largest eigenvalue is this limit, with
    the weight rho^2/2. Away from minima it is L + rho |g| and more.

    With a constant step SAM does not converge: on L = h w^2/2 it ends by jumping between w and -w,
    |w| = lr h rho/(2 - lr h).

    Args:
        optimizer: any, of a single array; its rule steps along the gradient at w + e.
        gradient: a function of the weights that returns an array of their shape. It is called twice, the
            second time while the optimizer's own array holds w + e.
        rho: the distance, 0 or more; 0 is the optimizer's plain step. Where g is 0, e is.

    Raises:
        ValueError: an optimizer of several arrays, a rho that is negative or not finite, or a gradient of
            another shape.
        TypeError: no optimizer, or the gradient is no function. Also what the optimizer says about a
            gradient that does not fit. Whatever is raised, the weights are left as they were.

    Source:
        Foret, Kleiner, Mobahi and Neyshabur (2021) (recalled).

    Example:
        >>> import numpy as np, samestep as ss
        >>> w = np.array([2.0])  # L = w^2
        >>> ss.theory.sam_step(ss.SGD(w, lr=0.25), lambda w: 2.0 * w, rho=0.5)
        >>> w
        array([0.75])
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: got {type(optimizer).__name__}, expected an optimizer such as ss.SGD")
    if len(optimizer.params) != 1:
        raise ValueError(
            f"optimizer: got one of {len(optimizer.params)} arrays, expected one of an array alone"
        )
    check_function("gradient", gradient)
    check_not_negative(rho=rho)

    w = optimizer.params[0]
    T: Any = np.float64 if w.dtype == np.float64 else np.float32  # 16 bits are computed in float32
    g: Any = np.asarray(gradient(w))
    if g.shape != w.shape:
        raise ValueError(f"gradient: returned shape {g.shape}, expected {w.shape} as the weights")
    g = g.astype(T, order="C")
    n = global_norm([g])
    e = np.zeros_like(g) if n == 0.0 else T(rho / n) * g
    saved = w.copy(order="K")
    try:
        w[...] = w.astype(T) + e
        g = np.array(gradient(w), copy=True)
    finally:
        w[...] = saved  # w - e would round
    optimizer.step(like_params(optimizer, g))
