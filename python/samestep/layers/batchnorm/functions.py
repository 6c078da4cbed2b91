"""Batch norm with an optional ReLU: functions on arrays, and a class that keeps running statistics.

Shapes: ``x`` is (N, C), (N, C, ...) with ``axis=1``, or (N, ..., C) with ``axis=-1``; float32 or
float64. A channel has M values, one for each sample and position. In memory, the channels must come
first or last and everything else in order, as in C order or as PyTorch's channels_last; the result has
the layout of ``x``. Neither that nor the instruction set nor the number of threads changes a bit.

``backend`` is "auto" (by where the arrays live), "cpu", "reference" (the NumPy twin: the same bits,
slowly) or "cuda" (arrays on a GPU; so are the results, as CuPy arrays).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ... import backends
from ...arguments import number, switch
from ...backends import arrays
from ...backends.arrays import Array


class _Walk(NamedTuple):
    """How kernels go over an array: ``arrange`` gives the view of it in C order."""

    arrange: Callable[[Array], Array]
    sizes: tuple[int, int, int]
    channels_last: bool

    @property
    def channels(self) -> int:
        return self.sizes[1]

    @property
    def values(self) -> int:
        return self.sizes[0] * self.sizes[2]


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
        x: see the module; at least 2 values a channel.
        gamma, beta: (C,), of the dtype of ``x``.
        eps: added to the variance, >= 0.
        relu: whether a ReLU follows.
        axis: where the channels are: 1 or -1.
        out: array for the result, like ``x`` in shape, dtype and layout; it may not overlap ``x``,
            which the backward pass needs.
        backend: see the module.

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
        backend: see the module.

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
    walk = _check_values(x, axis, at_least=2)
    _check_like("dy", dy, x)
    for name, a in (("gamma", gamma), ("beta", beta), ("mean", mean), ("inv", inv)):
        _check_channels(name, a, walk, x)
    dx = _result(run, out, x, {"x": x, "gamma": gamma, "beta": beta, "mean": mean, "inv": inv}, ("dy", dy))
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
        backend: see the module.

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
    walk = _check_values(x, axis, at_least=0)
    for name, a in channels.items():
        _check_channels(name, a, walk, x)
    y = _result(run, out, x, channels, ("x", x))
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
        backend: see the module.

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
    walk = _check_values(x, axis, at_least=0)
    _check_like("dy", dy, x)
    for name, a in channels.items():
        _check_channels(name, a, walk, x)
    dx = _result(run, out, x, {"dy": dy, "x": x, **channels})
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


class BatchNorm:
    """A batch-norm layer: weight, bias, running statistics, and the two passes.

    In training, ``forward`` normalises by the batch and updates the running statistics with
    p = momentum, or, for momentum None, p = 1/(batches so far), which is their plain average:
    ``running_mean = (1 - p)*running_mean + p*mean``, ``running_var`` likewise from the unbiased variance
    ``var*M/(M - 1)``. After ``eval()``, ``forward`` normalises by the running statistics.

    Args:
        num_channels: C, at least 1.
        eps: added to the variance, >= 0.
        momentum: share of the new batch in the running statistics, 0 to 1; or None.
        relu: whether a ReLU follows, fused into both passes.
        axis: where the channels are: 1 or -1.
        dtype: float32 or float64, of all arrays.
        backend: see the module.

    Attributes:
        weight, bias: gamma and beta, (C,); hand them to an optimizer. Ones and zeros at first.
        running_mean, running_var: (C,); zeros and ones at first.
        num_batches_tracked: how many batches they have seen.
        training: whether the layer is in training mode, as it is at first.

    All of these, eps, momentum, relu, axis and backend can be set later and are checked then. Other public
    names are refused: they are misspelt. A class derived from this one may have attributes of its own.

    A copy, be it by ``copy`` or pickled, has everything but what the last ``forward`` left for ``backward``.
    ``copy.copy`` shares the arrays, running statistics among them, ``copy.deepcopy`` does not. A layer that
    was loaded into read-only memory, as workers get them, is good for inference.

    Raises:
        TypeError, ValueError: an argument is out of range.
        AttributeError: a layer has no such attribute.

    Source:
        Ioffe & Szegedy (2015); the running statistics as in PyTorch's BatchNorm.

    Example:
        >>> import numpy as np, samestep as ss
        >>> layer = ss.BatchNorm(2, dtype=np.float64)
        >>> y = layer.forward(np.array([[1.0, 2], [3, 6], [5, 4], [7, 8]]))
        >>> layer.running_mean.round(6), layer.running_var.round(6)
        (array([0.4, 0.5]), array([1.566667, 1.566667]))
        >>> dx, dweight, dbias = layer.backward(np.ones((4, 2)))
        >>> dbias
        array([4., 4.])
    """

    def __init__(
        self,
        num_channels: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        relu: bool = False,
        axis: int = 1,
        dtype: Any = np.float32,
        backend: str = "auto",
    ) -> None:
        if isinstance(num_channels, bool) or not hasattr(num_channels, "__index__"):
            raise TypeError(f"num_channels: got {type(num_channels).__name__}, expected a whole number")
        if num_channels < 1:
            raise ValueError(f"num_channels: got {num_channels}, expected at least 1")
        dtype = _check_dtype(dtype)
        self.eps = eps
        self.momentum = momentum
        self.relu = relu
        self.axis = axis
        self.backend = backend
        self.training = True
        place = self._run.place
        self.weight: Array = place(np.ones(num_channels, dtype))
        self.bias: Array = place(np.zeros(num_channels, dtype))
        self.running_mean: Array = place(np.zeros(num_channels, dtype))
        self.running_var: Array = place(np.ones(num_channels, dtype))
        self.num_batches_tracked = 0
        # Of the last forward in training: x, weight, bias, mean, inv, and the switches.
        self._saved: tuple[list[Array], dict[str, Any]] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CHECKS:
            value = _CHECKS[name](value)
        elif type(self) is BatchNorm and not name.startswith("_") and not hasattr(BatchNorm, name):
            raise AttributeError(f"{name}: BatchNorm has none, expected one of {', '.join(_CHECKS)}")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_saved": None}

    @property
    def _run(self) -> Any:
        """The backend of the layer's own arrays, which are in main memory unless asked to a GPU."""
        return backends.module("cpu" if self.backend == "auto" else self.backend)

    def __repr__(self) -> str:
        momentum = "None" if self.momentum is None else f"{self.momentum:g}"
        return (
            f"BatchNorm({len(self.weight)}, eps={self.eps:g}, momentum={momentum}, relu={self.relu}, "
            f"axis={self.axis}, dtype={self.weight.dtype})"
        )

    def train(self, mode: bool = True) -> BatchNorm:
        """Training mode, or, for False, inference; returns the layer."""
        self.training = switch("mode", mode)
        return self

    def eval(self) -> BatchNorm:
        """Inference mode: ``forward`` uses the running statistics; returns the layer."""
        return self.train(False)

    def forward(self, x: Array, out: Array | None = None) -> Array:
        """The layer's result for ``x``; in training mode the running statistics take it in.

        Args:
            x: see the module. In training it is kept, not copied, for ``backward``: do not write to it
                until then. Nothing would tell, and the gradients would be those of other values.
            out: as in ``batchnorm_forward``, or ``batchnorm_inference`` after ``eval()``.

        Raises:
            TypeError, ValueError: an argument does not fit; nothing has been changed.
        """
        self._check_input(x)
        if not self.training:
            statistics = (self.running_mean, self.running_var)
            return batchnorm_inference(
                x, self.weight, self.bias, *statistics, out=out, **self._how(), eps=self.eps
            )
        batches = _check_count("num_batches_tracked", self.num_batches_tracked + 1)
        self._check_writeable("running_mean", "running_var")
        running = {name: arrays.plain(getattr(self, name)) for name in ("running_mean", "running_var")}
        y, mean, inv, mean64, var64 = forward_and_statistics(
            x, self.weight, self.bias, self.eps, self.relu, self.axis, out, self.backend, running
        )
        p = 0.0 if self.momentum is None else self.momentum
        values = x.size // len(self.weight)
        self._run.update_running(
            *running.values(), mean64, var64, values, p, batches if self.momentum is None else 0
        )
        self._saved = [x, self.weight, self.bias, mean, inv], self._how()
        self.num_batches_tracked = batches
        return y

    def backward(self, dy: Array, out: Array | None = None) -> tuple[Array, Array, Array]:
        """The gradients for the last ``forward`` in training mode: dx, dweight, dbias.

        They are those of the layer as it was: ``relu`` and ``axis`` may have been set since, and arrays
        replaced, but not written to.

        Args:
            dy: the loss's gradient with respect to its result, with the layout of ``x``.
            out: array for dx; may be ``dy`` itself.

        Raises:
            RuntimeError: there was no ``forward`` in training mode.
            TypeError, ValueError: an argument does not fit; nothing has been written.
        """
        if self._saved is None:
            raise RuntimeError(
                "backward: there was no forward in training mode to go back from; call forward first"
            )
        given, how = self._saved
        return batchnorm_backward(dy, *given, out=out, **how)

    def _check_writeable(self, *names: str) -> None:
        for name in names:
            flags = getattr(getattr(self, name), "flags", None)  # those on a GPU have others
            if not getattr(flags, "writeable", True):
                raise ValueError(
                    f"{name}: the array is read-only, as what processes share often is; copy.deepcopy(layer) "
                    "has arrays of its own"
                )

    def _check_input(self, x: Any) -> None:
        """Raises where x fits a layer, but not this one; the functions would blame gamma and beta."""
        if (self.bias.dtype, self.bias.shape) != (self.weight.dtype, self.weight.shape):
            raise ValueError(
                f"bias: got {self.bias.dtype} {self.bias.shape}, expected {self.weight.dtype} "
                f"{self.weight.shape} like weight"
            )
        if not arrays.is_array(x):
            return
        if x.dtype != self.weight.dtype:
            dtype = self.weight.dtype
            raise TypeError(f"x: got dtype {x.dtype}, expected the layer's {dtype}; use x.astype(np.{dtype})")
        axis = _check_axis(self.axis)
        if x.ndim >= 2 and x.shape[axis] != self.weight.size:
            raise ValueError(
                f"x: got shape {x.shape}, expected the layer's {self.weight.size} channels on axis {axis}"
            )

    def _how(self) -> dict[str, Any]:
        return {"relu": self.relu, "axis": self.axis, "backend": self.backend}

    def state_dict(self) -> dict[str, Any]:
        """A copy of what the layer holds, in the names of PyTorch's state dicts.

        Keys: ``weight``, ``bias``, ``running_mean``, ``running_var``, ``num_batches_tracked`` (an int).
        """
        state: dict[str, Any] = {name: self._run.to_host(getattr(self, name)) for name in _STATE}
        return {**state, "num_batches_tracked": self.num_batches_tracked}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` returned, into the arrays that the layer has.

        Raises:
            TypeError, ValueError: it does not fit; nothing has been changed.
        """
        expected = {*_STATE, "num_batches_tracked"}
        if not isinstance(state_dict, Mapping) or set(state_dict) != expected:
            got = sorted(state_dict) if isinstance(state_dict, Mapping) else type(state_dict).__name__
            raise ValueError(f"state_dict: got {got}, expected a dict with keys {sorted(expected)}")
        for name in _STATE:
            new, old = state_dict[name], getattr(self, name)
            is_plain = isinstance(new, np.ndarray) and not isinstance(new, np.ma.MaskedArray)
            if not is_plain or (new.dtype, new.shape) != (old.dtype, old.shape):
                seen = f"{new.dtype} {new.shape}" if is_plain else type(new).__name__
                raise ValueError(f"state_dict[{name!r}]: got {seen}, expected {old.dtype} {old.shape}")
        self._check_writeable(*_STATE)
        count = _check_count("state_dict['num_batches_tracked']", state_dict["num_batches_tracked"])
        for name in _STATE:
            self._run.assign(getattr(self, name), state_dict[name])
        self.num_batches_tracked = count


_STATE = ("weight", "bias", "running_mean", "running_var")


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
    walk = _check_values(x, axis, at_least=2)
    _check_channels("gamma", gamma, walk, x)
    _check_channels("beta", beta, walk, x)
    others = {"x": x, "gamma": gamma, "beta": beta}
    for name, a in (running or {}).items():
        _check_channels(name, a, walk, x)
        arrays.check_inplace(name, a)
        for other, b in others.items():
            if arrays.may_overlap(a, b):
                raise ValueError(f"{name}: overlaps {other} in memory; give it an array of its own")
        others[name] = a
    y = _result(run, out, x, others)
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


def _check_count(name: str, count: Any) -> int:
    if isinstance(count, np.ndarray) and count.ndim == 0:
        count = count[()]
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 0 <= count < 2**53:
        raise ValueError(f"{name}: got {count!r}, expected a whole number from 0 to 2^53 - 1")
    return int(count)


def check_eps(eps: Any) -> float:
    found = number("eps", eps)
    if not 0.0 <= found < math.inf:  # NaN fails as well
        raise ValueError(f"eps: got {found}, expected a finite number, 0 or more")
    return found


def check_momentum(momentum: Any) -> float:
    found = number("momentum", momentum)
    if not 0.0 <= found <= 1.0:
        raise ValueError(f"momentum: got {found}, expected a number from 0 to 1")
    return found


def _check_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] | None = None if dtype is None else np.dtype(dtype)  # NumPy: None is float64
    except (TypeError, ValueError):
        found = None
    if found is None or found not in arrays.DTYPES:
        raise TypeError(f"dtype: got {dtype!r}, expected float32 or float64")
    return found


def _check_backend(backend: Any) -> str:
    backends.check(backend)
    return str(backend)


def _check_axis(axis: Any) -> int:
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool) or axis not in (1, -1):
        raise ValueError(f"axis: got {axis!r}, expected 1 or -1, where the channels are")
    return int(axis)


def _check_vector(name: str, a: Any) -> Array:
    """``a`` if it could be an array of some layer; whether of this one, ``forward`` tells."""
    if not arrays.lives_on_gpu(a):
        arrays.check_aligned_array(name, a)
    if a.ndim != 1:
        raise ValueError(f"{name}: got shape {a.shape}, expected one axis, of channels{_reshaped(name, a)}")
    vector: Array = a
    return vector


def _reshaped(name: str, a: Array, shape: tuple[int, ...] | None = None) -> str:
    """What to do with an array of another shape, if it has the right elements."""
    if shape is not None and a.size != math.prod(shape):
        return ""
    to = a.size if shape is None else shape[0] if len(shape) == 1 else shape
    return f"; pass {f'np.asarray({name})' if isinstance(a, np.ndarray) else name}.reshape({to})"


# What a layer's attributes go through when they are set, by name.
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "eps": check_eps,
    "momentum": lambda momentum: None if momentum is None else check_momentum(momentum),
    "relu": partial(switch, "relu"),
    "axis": _check_axis,
    "backend": _check_backend,
    "training": partial(switch, "training"),
    "num_batches_tracked": partial(_check_count, "num_batches_tracked"),
    **{name: partial(_check_vector, name) for name in _STATE},
}


def _check_values(x: Any, axis: int, at_least: int) -> _Walk:
    """How to walk ``x``, or an error that says why it cannot be walked."""
    axis = _check_axis(axis)
    arrays.check_aligned_array("x", x)
    if x.ndim < 2:
        raise ValueError(
            f"x: got shape {x.shape}, expected samples and channels: (N, C), (N, C, ...) or (N, ..., C)"
        )
    N, C = x.shape[0], x.shape[axis]
    values = (
        math.prod(x.shape) // C if C else math.prod(n for i, n in enumerate(x.shape) if i != axis % x.ndim)
    )
    if values < at_least:
        raise ValueError(
            f"x: shape {x.shape} has {values} values a channel, expected at least 2 in training: "
            "the variance of one value says nothing"
        )
    if C == 0:
        raise ValueError(f"x: shape {x.shape} has no channels, expected at least one")

    def as_is(a: Array) -> Array:
        return a

    def channels_first(a: Array) -> Array:
        return _move_axis(a, axis, 1)

    def channels_last(a: Array) -> Array:
        return _move_axis(a, axis, a.ndim - 1)

    if C == 1 and x.flags.c_contiguous:
        return _Walk(as_is, (1, 1, values), False)
    # One position a channel: both walks are the same, and whole rows are the faster.
    if channels_last(x).flags.c_contiguous:
        return _Walk(channels_last, (values, C, 1), True)
    if channels_first(x).flags.c_contiguous:
        return _Walk(channels_first, (N, C, values // N), False)
    raise ValueError(
        f"x: strides {x.strides} for shape {x.shape} have gaps, or the channels neither first nor last; "
        "pass np.ascontiguousarray(x)"
    )


def _move_axis(a: Array, axis: int, to: int) -> Array:
    axes = [i for i in range(a.ndim) if i != axis % a.ndim]
    axes.insert(to, axis % a.ndim)
    return a.transpose(axes)


def _check_like(name: str, a: Any, x: Array) -> None:
    arrays.check_aligned_array(name, a)
    if a.dtype != x.dtype:
        raise TypeError(
            f"{name}: got dtype {a.dtype}, expected x's {x.dtype}; use {name}.astype(np.{x.dtype})"
        )
    if a.shape != x.shape:
        fix = _reshaped(name, a, x.shape)
        raise ValueError(f"{name}: got shape {a.shape}, expected x's {x.shape}{fix}")
    if a.size and not arrays.same_layout(a, x):
        raise ValueError(
            f"{name}: strides {a.strides} differ from x's {x.strides}, so the two cannot be walked "
            f"together; lay it out like x: a = np.empty_like(x); a[...] = {name}"
        )


def _check_channels(name: str, a: Any, walk: _Walk, x: Array) -> None:
    arrays.check_aligned_array(name, a)
    if a.dtype != x.dtype:
        raise TypeError(
            f"{name}: got dtype {a.dtype}, expected x's {x.dtype}; use {name}.astype(np.{x.dtype})"
        )
    if a.shape != (walk.channels,):
        fix = _reshaped(name, a, (walk.channels,))
        raise ValueError(
            f"{name}: got shape {a.shape}, expected ({walk.channels},), one for each channel{fix}"
        )
    if not a.flags.c_contiguous:
        raise ValueError(f"{name}: strides {a.strides} leave gaps; pass np.ascontiguousarray({name})")


def _result(
    run: Any, out: Any, x: Array, read: Mapping[str, Array], may_be: tuple[str, Array] | None = None
) -> Array:
    """``out`` if the result can be written to it while ``read`` is read, or a new array."""
    if out is None:
        new: Array = run.empty_like(x)
        return new
    arrays.check_inplace("out", out)
    _check_like("out", out, x)
    if may_be is not None:
        name, a = may_be
        if arrays.address(out) != arrays.address(a) and arrays.may_overlap(out, a):
            raise ValueError(f"out: overlaps a part of {name}; pass {name} itself, or an array of its own")
    for name, a in read.items():
        if arrays.may_overlap(out, a):
            raise ValueError(
                f"out: overlaps {name} in memory, which is still needed; pass an array of its own"
            )
    result: Array = np.asarray(out) if isinstance(out, np.ndarray) else out
    return result
