"""torch.nn's batch-norm layers on the package's kernels."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
import torch.fx
from torch import Tensor

from .batchnorm import _batch_norm
from .batchnorm_operators import by_operators
from .layer import Layer, as_node

# torch's modules that read a layer's attributes to compute the layer by other means; others only list them.
_REBUILDERS = (
    "torch.nn.",
    "torch.ao.",
    "torch.quantization.",
    "torch.fx.",
    "torch.utils.",
    "torch._inductor.",
)


class _BatchNorm(Layer, torch.nn.modules.batchnorm._BatchNorm):
    """The base of the layers: torch's, with the argument ``relu`` and the kernels' forward pass."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        relu: bool = False,
    ) -> None:
        # torch's own, in full: there are tools that read a signature, as skip_init does
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.relu = relu

    __jit_unused_properties__ = ("eps",)

    # Not, for relu=True, a class outside of torch's _BatchNorm: update_bn, freezing and weight decay go by
    # isinstance and would pass it by in silence. Nor a pair of modules: torch's state dicts would not fit it.
    @property
    def eps(self) -> float:
        """What is added to the variance.

        Who reads it computes the batch norm anew. With relu=True that loses the ReLU: functions of torch, as
        convert_sync_batchnorm and fuse_conv_bn_eval, raise TypeError, other code gets a warning.
        """
        value: float = self.__dict__["eps"]
        if self.relu and not torch.compiler.is_compiling():
            reader = sys._getframe(1)
            module = reader.f_globals.get("__name__", "")
            is_refused = module.startswith(_REBUILDERS)
            if is_refused or not module.startswith(("samestep.", "torch.")):
                says = (
                    f"{reader.f_code.co_name}: reads eps of samestep.torch.{type(self).__name__}(relu=True); "
                    "a batch norm rebuilt from its attributes has lost the ReLU; first replace it by a batch "
                    "norm and a ReLU: model = samestep.torch.convert(model, back=True)"
                )
                if is_refused:
                    raise TypeError(says)
                warnings.warn(says, stacklevel=2)
        return value

    @eps.setter
    def eps(self, value: float) -> None:
        self.__dict__["eps"] = value

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            self._check_input_dim(input)
            tracking = self.training and self.track_running_stats
            use_running = tracking or not self.training
            return by_operators(
                input,
                self.running_mean if use_running else None,
                self.running_var if use_running else None,
                self.weight,
                self.bias,
                self.training or self.running_mean is None,
                self.momentum,
                self.eps,
                self.relu,
                self.num_batches_tracked if tracking else None,
            )
        else:  # noqa: RET505  TorchScript leaves out the branch only if it stands here
            return self._forward(input)

    def _forward(self, input: Tensor) -> Tensor:
        if isinstance(input, torch.fx.Proxy):
            return as_node(self, input, _BatchNorm.forward)
        self._check_input_dim(input)
        tracking = self.training and self.track_running_stats
        use_running = tracking or not self.training
        return _batch_norm(
            input,
            self.running_mean if use_running else None,
            self.running_var if use_running else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            self.momentum,
            self.eps,
            self.relu,
            self.num_batches_tracked if tracking else None,
        )


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` on the package's kernels: (N, C) or (N, C, L).

    Args:
        relu: whether a ReLU follows, in the same pass. The other arguments are torch's, in its order.

    State dicts of this layer and of torch's can be exchanged. See ``batch_norm`` for formulas, dtypes and
    errors.

    Example:
        >>> import torch, samestep.torch
        >>> layer = samestep.torch.BatchNorm1d(2, relu=True)
        >>> layer(torch.tensor([[1.0, 2], [3, 6], [5, 4], [7, 8]]))[3]
        tensor([1.3416, 1.3416], grad_fn=<SelectBackward0>)
        >>> layer.running_mean
        tensor([0.4000, 0.5000])
        >>> list(layer.state_dict()) == list(torch.nn.BatchNorm1d(2).state_dict())
        True
    """


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` on the package's kernels: (N, C, H, W), also channels_last.

    Arguments and promises are those of ``BatchNorm1d``.

    Example:
        >>> import torch, samestep.torch
        >>> x = torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
        >>> samestep.torch.BatchNorm2d(3)(x).is_contiguous(memory_format=torch.channels_last)
        True
    """


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` on the package's kernels: (N, C, D, H, W), also channels_last_3d.

    Arguments and promises are those of ``BatchNorm1d``.

    Example:
        >>> import torch, samestep.torch
        >>> samestep.torch.BatchNorm3d(3)(torch.ones(2, 3, 1, 1, 1)).flatten()
        tensor([0., 0., 0., 0., 0., 0.], grad_fn=<ViewBackward0>)
    """


class _LazyBatchNorm(_BatchNorm):
    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        relu: bool = False,
    ) -> None:
        super(_BatchNorm, self).__init__(eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.relu = relu

    def initialize_parameters(self, input: Any) -> None:
        if isinstance(input, torch.fx.Proxy):
            fix = "call the network once before it is traced"
            raise TypeError(f"{type(self).__name__}: a trace has no shapes to initialize it by; {fix}")
        super().initialize_parameters(input)


class LazyBatchNorm1d(_LazyBatchNorm, torch.nn.LazyBatchNorm1d):
    """``torch.nn.LazyBatchNorm1d`` on the package's kernels: a ``BatchNorm1d`` from its first input on.

    Args:
        relu: whether a ReLU follows, in the same pass. The other arguments are torch's, in its order.

    The first call, or a state dict, tells the number of channels. Until then the parameters and buffers are
    torch's uninitialized ones; state dicts of this layer and of torch's can be exchanged at any time.

    Example:
        >>> import torch, samestep.torch
        >>> layer = samestep.torch.LazyBatchNorm1d(relu=True)
        >>> y = layer(torch.tensor([[1.0, 2], [3, 6], [5, 4], [7, 8]]))
        >>> type(layer) is samestep.torch.BatchNorm1d, layer.num_features, layer.relu
        (True, 2, True)
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyBatchNorm, torch.nn.LazyBatchNorm2d):
    """``torch.nn.LazyBatchNorm2d`` on the package's kernels: a ``BatchNorm2d`` from its first input on.

    Arguments and promises are those of ``LazyBatchNorm1d``.

    Example:
        >>> import torch, samestep.torch
        >>> layer = samestep.torch.LazyBatchNorm2d()
        >>> layer(torch.ones(2, 3, 4, 4)).shape, layer.num_features
        (torch.Size([2, 3, 4, 4]), 3)
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyBatchNorm, torch.nn.LazyBatchNorm3d):
    """``torch.nn.LazyBatchNorm3d`` on the package's kernels: a ``BatchNorm3d`` from its first input on.

    Arguments and promises are those of ``LazyBatchNorm1d``.

    Example:
        >>> import torch, samestep.torch
        >>> layer = samestep.torch.LazyBatchNorm3d()
        >>> layer(torch.ones(2, 3, 1, 1, 1)).shape, layer.num_features
        (torch.Size([2, 3, 1, 1, 1]), 3)
    """

    cls_to_become = BatchNorm3d
