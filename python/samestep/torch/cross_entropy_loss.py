"""torch.nn's cross-entropy loss on the package's kernels."""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor

from .cross_entropy import check_options, cross_entropy
from .layer import as_node


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss`` on the package's kernels: the mean over the rows, of class indices.

    Args:
        reduction: "mean".
        weight, size_average, ignore_index, reduce, label_smoothing: torch's, at their defaults.

    Raises:
        NotImplementedError: an option that the package has no kernel for.

    See ``cross_entropy`` for formula, dtypes and errors.

    Example:
        >>> import torch, samestep.torch
        >>> loss = samestep.torch.CrossEntropyLoss()
        >>> round(loss(torch.tensor([[1.0, 2, 3], [0, 0, 0]]), torch.tensor([2, 0])).item(), 6)
        0.753109
    """

    def __init__(
        self,
        weight: None = None,
        size_average: None = None,
        ignore_index: int = -100,
        reduce: None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        check_options(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        super().__init__()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.samestep.cross_entropy(input, target)[0]
        else:  # noqa: RET505  TorchScript leaves out the branch only if it stands here
            return self._forward(input, target)

    def _forward(self, input: Tensor, target: Tensor) -> Tensor:
        if isinstance(input, torch.fx.Proxy):
            return as_node(self, input, CrossEntropyLoss.forward, target)
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


def has_options(loss: torch.nn.CrossEntropyLoss) -> bool:
    """Whether torch's loss has options that the package has no kernel for."""
    try:
        check_options(loss.weight, None, loss.ignore_index, None, loss.reduction, loss.label_smoothing)
    except NotImplementedError:
        return True
    return False
