"""torch.nn's linear layers on the package's kernels."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor

from .layer import WeightedLayer, as_node
from .linear import linear
from .linear_operators import by_operators


class Linear(WeightedLayer, torch.nn.Linear):
    """``torch.nn.Linear`` on the package's kernels: (..., in_features) to (..., out_features).

    Args:
        relu: whether a ReLU follows, in the same pass. The other arguments are torch's, in its order.

    State dicts of this layer and of torch's can be exchanged. A new layer's weights are torch's of the same
    seed, to rounding, and have the same bits on every machine; of a layer of torch's that was converted,
    ``reset_parameters`` draws such weights anew. See ``linear`` for formulas, dtypes and errors.

    Example:
        >>> import torch, samestep.torch
        >>> layer = samestep.torch.Linear(2, 1, relu=True)
        >>> layer.load_state_dict({"weight": torch.tensor([[1.0, 2]]), "bias": torch.tensor([0.5])})
        <All keys matched successfully>
        >>> layer(torch.tensor([[1.0, 2], [-1, -2]])).detach()
        tensor([[5.5000],
                [0.0000]])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        relu: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.relu = relu

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return by_operators(input, self.weight, self.bias, self.relu)
        else:  # noqa: RET505  TorchScript leaves out the branch only if it stands here
            return self._forward(input)

    def _forward(self, input: Tensor) -> Tensor:
        if isinstance(input, torch.fx.Proxy):
            return as_node(self, input, Linear.forward)
        return linear(input, self.weight, self.bias, relu=self.relu)


class LazyLinear(Linear, torch.nn.LazyLinear):
    """``torch.nn.LazyLinear`` on the package's kernels: a ``Linear`` from its first input on.

    Args:
        relu: whether a ReLU follows, in the same pass. The other arguments are torch's, in its order.

    Example:
        >>> import torch, samestep.torch
        >>> layer = samestep.torch.LazyLinear(3, relu=True)
        >>> y = layer(torch.ones(5, 2))
        >>> type(layer) is samestep.torch.Linear, layer.in_features, layer.relu
        (True, 2, True)
    """

    cls_to_become = Linear

    def __init__(
        self,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        relu: bool = False,
    ) -> None:
        super(Linear, self).__init__(out_features, bias, device, dtype)
        self.relu = relu

    def initialize_parameters(self, input: Any) -> None:
        if isinstance(input, torch.fx.Proxy):
            fix = "call the network once before it is traced"
            raise TypeError(f"{type(self).__name__}: a trace has no shapes to initialize it by; {fix}")
        super().initialize_parameters(input)
