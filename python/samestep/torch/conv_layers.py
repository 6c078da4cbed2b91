"""torch.nn's convolutions on the package's kernels."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor

from .conv import conv2d
from .conv_operators import by_operators
from .layer import WeightedLayer, as_node


def _padded(input: Tensor, sides: list[int], mode: str) -> tuple[Tensor, list[int]]:
    """The input with what padding in rows and columns is left to ``conv2d`` lacks, and that. TorchScript
    compiles this function as well.

    Args:
        input: that of a layer.
        sides: its padding: of columns before the first and behind the last, then of rows.
        mode: its padding_mode.
    """
    if mode != "zeros":
        return torch.nn.functional.pad(input, sides, mode=mode), [0, 0]
    if sides[0] != sides[1] or sides[2] != sides[3]:
        input = torch.nn.functional.pad(input, [0, sides[1] - sides[0], 0, sides[3] - sides[2]])
    return input, [sides[2], sides[0]]


class Conv2d(WeightedLayer, torch.nn.Conv2d):
    """``torch.nn.Conv2d`` on the package's kernels: (N, in_channels, H, W) to (N, out_channels, H', W').

    Args:
        relu: whether a ReLU follows, in the same pass. The other arguments are torch's, in its order.

    State dicts of this layer and of torch's can be exchanged. See ``conv2d`` for formulas, dtypes and errors.
    With a ``padding_mode`` other than "zeros" torch.nn.functional.pad comes before: it only moves numbers,
    but its gradient adds them up in an order of torch's.

    Example:
        >>> import torch, samestep.torch
        >>> layer = samestep.torch.Conv2d(1, 1, 2, relu=True)
        >>> state = {"weight": torch.tensor([[[[1.0, 0], [0, -2]]]]), "bias": torch.tensor([9.0])}
        >>> layer.load_state_dict(state)
        <All keys matched successfully>
        >>> layer(torch.arange(9.0).reshape(1, 1, 3, 3)).detach()
        tensor([[[[1., 0.],
                  [0., 0.]]]])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        relu: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.relu = relu

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            input, padding = _padded(input, self._reversed_padding_repeated_twice, self.padding_mode)
            batch = input.unsqueeze(0) if input.dim() == 3 else input
            stride, dilation = list(self.stride), list(self.dilation)
            y = by_operators(batch, self.weight, self.bias, stride, padding, dilation, self.groups, self.relu)
            return y.squeeze(0) if input.dim() == 3 else y
        else:  # noqa: RET505  TorchScript leaves out the branch only if it stands here
            return self._forward(input)

    def _forward(self, input: Tensor) -> Tensor:
        if isinstance(input, torch.fx.Proxy):
            return as_node(self, input, Conv2d.forward)
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, (rows, columns) = _padded(input, self._reversed_padding_repeated_twice, self.padding_mode)
        return conv2d(
            input, weight, bias, self.stride, (rows, columns), self.dilation, self.groups, relu=self.relu
        )


class LazyConv2d(Conv2d, torch.nn.LazyConv2d):
    """``torch.nn.LazyConv2d`` on the package's kernels: a ``Conv2d`` from its first input on.

    Args:
        relu: whether a ReLU follows, in the same pass. The other arguments are torch's, in its order.

    Example:
        >>> import torch, samestep.torch
        >>> layer = samestep.torch.LazyConv2d(3, 2, relu=True)
        >>> y = layer(torch.ones(5, 2, 4, 4))
        >>> type(layer) is samestep.torch.Conv2d, layer.in_channels, layer.relu
        (True, 2, True)
    """

    cls_to_become = Conv2d

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        relu: bool = False,
    ) -> None:
        super(Conv2d, self).__init__(
            out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.relu = relu

    def initialize_parameters(self, input: Any) -> None:
        if isinstance(input, torch.fx.Proxy):
            fix = "call the network once before it is traced"
            raise TypeError(f"{type(self).__name__}: a trace has no shapes to initialize it by; {fix}")
        super().initialize_parameters(input)
