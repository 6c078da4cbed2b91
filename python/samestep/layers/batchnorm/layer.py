"""Batch norm as a layer that keeps running statistics; the docstring of the package tells the shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ... import backends
from ...arguments import switch, whole_number
from ...backends import arrays
from ...backends.arrays import Array
from ..checks import reshape_hint
from .checks import check_axis, check_eps, check_momentum
from .functions import batchnorm_backward, batchnorm_inference, forward_and_statistics


class BatchNorm:
    """A batch-norm layer: weight, bias, running statistics, and the two passes.

    In training, ``forward`` normalises by the batch, as ``batchnorm_forward``, and updates the running
    statistics: ``running_mean = (1 - p)*running_mean + p*mean`` and
    ``running_var = (1 - p)*running_var + p*var*M/(M - 1)``. p is the momentum or, with momentum None,
    1/(number of batches so far), which makes them plain averages. After ``eval()``, ``forward`` normalises by
    the running statistics, as ``batchnorm_inference``.

    Args:
        num_channels: C, at least 1.
        eps: added to the variance, >= 0.
        momentum: share of the new batch in the running statistics, 0 to 1; or None.
        relu: whether a ReLU follows, fused into both passes.
        axis: the axis of the channels, 1 or -1.
        dtype: float32 or float64, of all arrays.
        backend: "auto", "cpu", "reference" or "cuda"; with "auto" the layer's own arrays are in main memory.

    Attributes:
        weight, bias: gamma and beta, (C,), to be trained by an optimizer. Ones and zeros at first.
        running_mean, running_var: (C,). Zeros and ones at first.
        num_batches_tracked: the number of batches in the running statistics.
        training: whether the layer is in training mode; True at first.

    These attributes, and eps, momentum, relu, axis and backend, can be set later; the new values are checked.
    To set another public name is an error, since it is misspelt, unless a derived class defines it.

    A copy or an unpickled layer has everything but what ``forward`` stores for ``backward``. ``copy.copy``
    shares the arrays with the original, also the running statistics; ``copy.deepcopy`` copies them. A layer
    in read-only memory, as worker processes may get it, can be used for inference.

    Raises:
        TypeError: an argument or attribute has another type.
        ValueError: an argument or attribute is out of range.
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
        num_channels = whole_number("num_channels", num_channels, at_least=1)
        dtype = _check_dtype(dtype)
        self.eps = eps
        self.momentum = momentum
        self.relu = relu
        self.axis = axis
        self.backend = backend
        self.training = True
        from_host = self._module.from_host
        self.weight: Array = from_host(np.ones(num_channels, dtype))
        self.bias: Array = from_host(np.zeros(num_channels, dtype))
        self.running_mean: Array = from_host(np.zeros(num_channels, dtype))
        self.running_var: Array = from_host(np.ones(num_channels, dtype))
        self.num_batches_tracked = 0
        # For backward: x, weight, bias, mean and inv of the last forward in training, and its options.
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
    def _module(self) -> Any:
        """The backend of the layer's own arrays."""
        return backends.module("cpu" if self.backend == "auto" else self.backend)

    def __repr__(self) -> str:
        momentum = "None" if self.momentum is None else f"{self.momentum:g}"
        return (
            f"BatchNorm({len(self.weight)}, eps={self.eps:g}, momentum={momentum}, relu={self.relu}, "
            f"axis={self.axis}, dtype={self.weight.dtype})"
        )

    def train(self, mode: bool = True) -> BatchNorm:
        """Sets the training mode, or for False the inference mode; returns the layer."""
        self.training = switch("mode", mode)
        return self

    def eval(self) -> BatchNorm:
        """Sets the inference mode, in which ``forward`` uses the running statistics; returns the layer."""
        return self.train(False)

    def forward(self, x: Array, out: Array | None = None) -> Array:
        """The layer's result for ``x``; in training mode the running statistics are updated.

        Args:
            x: as in ``batchnorm_forward``, with the layer's C and dtype. In training the layer keeps ``x``
                for ``backward`` without a copy. Do not write to it before that: the gradients would be wrong,
                without an error.
            out: as in ``batchnorm_forward``, or as in ``batchnorm_inference`` after ``eval()``.

        Returns:
            y, like ``x``.

        Raises:
            TypeError: an argument has another type or dtype.
            ValueError: an argument has another shape or layout. In both cases nothing has been changed.
        """
        self._check_input(x)
        if not self.training:
            statistics = (self.running_mean, self.running_var)
            return batchnorm_inference(
                x, self.weight, self.bias, *statistics, out=out, **self._options(), eps=self.eps
            )
        batches = _check_count("num_batches_tracked", self.num_batches_tracked + 1)
        self._check_writeable("running_mean", "running_var")
        running = {name: arrays.as_plain(getattr(self, name)) for name in ("running_mean", "running_var")}
        y, mean, inv, mean64, var64 = forward_and_statistics(
            x, self.weight, self.bias, self.eps, self.relu, self.axis, out, self.backend, running
        )
        p = 0.0 if self.momentum is None else self.momentum
        values = x.size // len(self.weight)
        self._module.update_running(
            *running.values(), mean64, var64, values, p, batches if self.momentum is None else 0
        )
        self._saved = [x, self.weight, self.bias, mean, inv], self._options()
        self.num_batches_tracked = batches
        return y

    def backward(self, dy: Array, out: Array | None = None) -> tuple[Array, Array, Array]:
        """The gradients of the last ``forward`` in training mode.

        Attributes that were set after that ``forward`` change nothing: its options and arrays are used. But
        these arrays are no copies, so what is written into them since then does change the gradients.

        Args:
            dy: the loss's gradient by the result of ``forward``, with the shape, dtype and layout of ``x``.
            out: the array for dx; it may be ``dy`` itself.

        Returns:
            dx, like ``x``; dweight and dbias, (C,).

        Raises:
            RuntimeError: there was no ``forward`` in training mode.
            TypeError: an argument has another type or dtype.
            ValueError: an argument has another shape or layout. In all cases nothing has been written.
        """
        if self._saved is None:
            raise RuntimeError(
                "backward: there was no forward in training mode before; call train() and forward() first"
            )
        saved, options = self._saved
        return batchnorm_backward(dy, *saved, out=out, **options)

    def _check_writeable(self, *names: str) -> None:
        for name in names:
            flags = getattr(getattr(self, name), "flags", None)  # arrays on a GPU may have none
            if not getattr(flags, "writeable", True):
                raise ValueError(
                    f"{name}: the array is read-only, expected a writeable one; copy.deepcopy(layer) makes "
                    "writeable copies of arrays in shared memory"
                )

    def _check_input(self, x: Any) -> None:
        """Raises unless x has the layer's dtype and channels; the functions' error would name gamma."""
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
        axis = check_axis(self.axis)
        if x.ndim >= 2 and x.shape[axis] != self.weight.size:
            raise ValueError(
                f"x: got shape {x.shape}, expected the layer's {self.weight.size} channels on axis {axis}"
            )

    def _options(self) -> dict[str, Any]:
        return {"relu": self.relu, "axis": self.axis, "backend": self.backend}

    def state_dict(self) -> dict[str, Any]:
        """Copies of the layer's arrays and its count of batches, under the names of PyTorch's state dicts.

        Returns:
            A dict with the NumPy arrays ``weight``, ``bias``, ``running_mean`` and ``running_var``, all (C,),
            and the int ``num_batches_tracked``.
        """
        state: dict[str, Any] = {name: self._module.to_host(getattr(self, name)) for name in _STATE}
        return {**state, "num_batches_tracked": self.num_batches_tracked}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copies what ``state_dict`` returned into the layer's arrays.

        Raises:
            ValueError: a key is missing or unknown, or an entry has another type, dtype or shape; nothing has
                been changed.
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
            self._module.assign(getattr(self, name), state_dict[name])
        self.num_batches_tracked = count


_STATE = ("weight", "bias", "running_mean", "running_var")


def _check_count(name: str, count: Any) -> int:
    if isinstance(count, np.ndarray) and count.ndim == 0:
        count = count[()]
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 0 <= count < 2**53:
        raise ValueError(f"{name}: got {count!r}, expected a whole number from 0 to 2^53 - 1")
    return int(count)


def _check_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] | None = None if dtype is None else np.dtype(dtype)  # NumPy: None is float64
    except (TypeError, ValueError):
        found = None
    if found is None or found not in arrays.DTYPES:
        raise TypeError(f"dtype: got {dtype!r}, expected float32 or float64")
    return found


def _check_backend(backend: Any) -> str:
    backends.check_name(backend)
    return str(backend)


def _check_vector(name: str, a: Any) -> Array:
    """``a`` if it has one axis and is aligned; ``forward`` checks it against the other arrays."""
    if not arrays.lives_on_gpu(a):
        arrays.check_aligned_array(name, a)
    if a.ndim != 1:
        raise ValueError(
            f"{name}: got shape {a.shape}, expected one axis, of channels{reshape_hint(name, a)}"
        )
    vector: Array = a
    return vector


# The check that the value of each attribute passes when it is set.
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "eps": check_eps,
    "momentum": lambda momentum: None if momentum is None else check_momentum(momentum),
    "relu": partial(switch, "relu"),
    "axis": check_axis,
    "backend": _check_backend,
    "training": partial(switch, "training"),
    "num_batches_tracked": partial(_check_count, "num_batches_tracked"),
    **{name: partial(_check_vector, name) for name in _STATE},
}
