"""What is measured: rules in the form that most peers have, and lists of shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...optim import optimizers
from ...optim.optimizer import Optimizer

Shapes = list[tuple[int, ...]]

LR = 1e-3

RULES: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda params: optimizers.SGD(params, LR),
    "Momentum": lambda params: optimizers.Momentum(params, LR, form="torch"),
    "NAG": lambda params: optimizers.NAG(params, LR, form="torch"),
    "AdaGrad": lambda params: optimizers.AdaGrad(params, LR),
    "RMSProp": lambda params: optimizers.RMSProp(params, LR, eps_placement="outside"),
    "Adam": lambda params: optimizers.Adam(params, LR),
}

SIZES = (64, 2**10, 2**14, 2**18, 2**22, 2**26)


def _resnet50() -> Shapes:
    """He et al. (2016), table 1: bottlenecks with batch norm."""

    def convolution(out: int, into: int, kernel: int) -> Shapes:
        return [(out, into, kernel, kernel), (out,), (out,)]  # weight; batch norm's gamma and beta

    shapes = convolution(64, 3, 7)
    into = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(width, into, 1) + convolution(width, width, 3)
            shapes += convolution(4 * width, width, 1)
            if block == 0:
                shapes += convolution(4 * width, into, 1)
            into = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def _gpt2_small() -> Shapes:
    """Radford et al. (2019): 12 layers of width 768, the output tied to the embedding."""
    d = 768
    layer: Shapes = [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,)]
    layer += [(d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return [(50257, d), (1024, d), *layer * 12, (d,), (d,)]


LISTS: dict[str, Shapes] = {
    "300 x 64": [(64,)] * 300,
    "1000 x 1000": [(1000,)] * 1000,
    "ResNet-50": _resnet50(),
    "GPT-2 small": _gpt2_small(),
}


def elements(shapes: Shapes) -> int:
    """The number of parameters of these shapes.

    Example:
        >>> from samestep.commands.bench.cases import LISTS, elements
        >>> {name: (len(LISTS[name]), elements(LISTS[name])) for name in ("ResNet-50", "GPT-2 small")}
        {'ResNet-50': (161, 25557032), 'GPT-2 small': (148, 124439808)}
    """
    return sum(math.prod(shape) for shape in shapes)
