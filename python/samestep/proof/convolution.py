"""The golden program of convolution; tests/native/convolution.h makes the same steps without Python."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import backends
from ..backends.arrays import Array
from ..backends.face import Window
from .vectors import integer_values


class ConvolutionProgram(NamedTuple):
    """A convolution of N images of C channels."""

    dtype: np.dtype[Any]
    input: tuple[int, int, int, int]  # (N, C, H, W)
    weight: tuple[int, int, int, int]  # (O, C/groups, R, S)
    window: Window
    result: tuple[int, int]  # (H', W')
    what: str  # "y", "relu", "gradients", or "masked", the gradients with a ReLU

    def __str__(self) -> str:
        shapes = " ".join("x".join(map(str, shape)) for shape in (self.input, self.weight, self.result))
        return f"conv2d {self.dtype} {shapes} {self.what}"

    def run(self, **options: Any) -> list[Array]:
        """y, or dx, dw and dbias; by the kernels, or ``backend="reference"``."""
        name = options.get("backend", "auto")
        backend: Any = backends.module("cpu" if name == "auto" else name)
        shape = (self.input[0], self.weight[0], *self.result)
        x = integer_values(self.input, 37, 11, 1009, 400, 128.3, self.dtype)
        w = integer_values(self.weight, 53, 17, 911, 455, 257.7, self.dtype)
        bias = integer_values(self.weight[:1], 5, 2, 11, 5, 9.1, self.dtype)
        dy = integer_values(shape, 31, 3, 401, 200, 77.7, self.dtype)
        x, w, bias, dy = (backend.from_host(a) for a in (x, w, bias, dy))
        y = backend.empty_like(dy)
        backend.conv2d(x, w, bias, self.window, self.what in ("relu", "masked"), y)
        if self.what in ("y", "relu"):
            return [backend.to_host(y)]
        gradients = [backend.empty_like(a) for a in (x, w, bias)]
        backend.conv2d_backward(dy, x, w, y if self.what == "masked" else None, self.window, *gradients)
        return [backend.to_host(a) for a in gradients]


# Blocks of 256 terms that end within a patch, across samples and within the outputs of a group.
_CASES = (
    ((3, 30, 9, 10), (4, 30, 3, 3), Window((1, 1), (1, 1), (1, 1), 1), (9, 10)),
    ((2, 4, 7, 9), (516, 2, 3, 2), Window((2, 1), (2, 0), (1, 3), 2), (5, 6)),
)


def convolution_programs(dtype: np.dtype[Any]) -> list[ConvolutionProgram]:
    return [
        ConvolutionProgram(dtype, *case, what)
        for case in _CASES
        for what in ("y", "relu", "gradients", "masked")
    ]
