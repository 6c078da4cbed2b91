"""The weights that a new layer starts from: torch's draws, rounded alike on every processor."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def draw_parameters(weight: Tensor, bias: Tensor | None) -> None:
    """What torch's layers start from: uniform between -b and b, where b = 1/sqrt(inputs of an output).

    torch draws whole multiples u of 2^-24 in [0, 1) from its generator, of which 2 u - 1 is exact, so that
    only the product with b is rounded. ``torch.nn.init.uniform_`` makes ``u (2 b) - b`` of the same draws,
    rounded twice, or once where the processor fuses the two.

    Args:
        weight: (outputs, inputs, ...), with at least one element.
        bias: or None.
    """
    bound = 1.0 / math.sqrt(math.prod(weight.shape[1:]))
    with torch.no_grad():
        for tensor in (weight, bias):
            if tensor is not None:
                tensor.uniform_(0.0, 1.0).mul_(2.0).sub_(1.0).mul_(bound)
