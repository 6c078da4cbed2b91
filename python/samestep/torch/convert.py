"""Networks of torch.nn's layers to samestep's and back, and what of a network has no counterpart."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch.nn import Module

from . import conv_layers, layers, linear_layers
from .cross_entropy_loss import CrossEntropyLoss, has_options
from .layer import Layer

_Network = TypeVar("_Network", bound=Module)

_NAMES = [f"{kind}BatchNorm{dim}d" for kind in ("", "Lazy") for dim in (1, 2, 3)]
_OURS: dict[type[Module], type[Module]] = {
    torch.nn.Linear: linear_layers.Linear,
    torch.nn.LazyLinear: linear_layers.LazyLinear,
    torch.nn.Conv2d: conv_layers.Conv2d,
    torch.nn.LazyConv2d: conv_layers.LazyConv2d,
    torch.nn.CrossEntropyLoss: CrossEntropyLoss,
    **{getattr(torch.nn, name): getattr(layers, name) for name in _NAMES},
}
# Whose results and gradients are numbers of the input, or zeros, at places that a comparison decides.
_EXACT = {
    getattr(torch.nn, name)
    for name in (
        *("Sequential", "ModuleList", "ModuleDict"),
        *("Identity", "ReLU", "ReLU6", "Hardtanh", "Threshold"),
        *("Flatten", "Unflatten", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle"),
        *(f"{kind}Pad{dim}d" for kind in ("Constant", "Zero") for dim in (1, 2, 3)),
    )
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def convert(model: _Network, back: bool = False) -> _Network | Module:
    """Replaces torch.nn's layers in a network by samestep's, in place; ``back``: the other way.

    These are Linear, Conv2d, BatchNorm1d, BatchNorm2d, BatchNorm3d and their lazy forms, and
    CrossEntropyLoss; ``unconverted`` lists what is left of torch's.

    A new layer has the parameters, buffers, hooks and settings of the old one: the same tensors, so that an
    optimizer that has them goes on. A layer at two places of the network is one layer at both afterwards.
    Lazy layers stay lazy. Subclasses of these layers stay as they are. So does torch.nn.SyncBatchNorm,
    for which there is ``parallel.sync_batchnorm``, and a CrossEntropyLoss with options that samestep's
    refuses.

    Args:
        model: the network, or a layer itself.
        back: samestep's layers become torch.nn's. One with ``relu=True`` becomes
            ``Sequential(layer, ReLU)``; the names of its parameters in a state dict have "0." before the
            last part from then on.

    Returns:
        ``model``; if that is such a layer itself, its replacement.

    Raises:
        NotImplementedError: a layer with ``relu=True`` has hooks, which would then run around the layer
            without its ReLU. Nothing has been replaced.

    Example:
        >>> import torch, samestep.torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
        >>> type(samestep.torch.convert(net)[1]) is samestep.torch.BatchNorm2d
        True
        >>> type(samestep.torch.convert(net, back=True)[1]) is torch.nn.BatchNorm2d
        True
    """
    classes = _THEIRS if back else _OURS
    found = [module for module in model.modules() if type(module) in classes and not _stays(module)]
    for old in found:
        _check_hooks(old)
    new = {id(old): _replacement(old, classes[type(old)]) for old in found}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    return new.get(id(model), model)


def unconverted(model: Module) -> list[tuple[str, type[Module]]]:
    """The modules of a network whose results or gradients torch computes, with bits of this machine.

    Listed is every module that is not samestep's and that has parameters or buffers of its own, or no other
    modules in it; and a Conv2d with another padding_mode than "zeros", for torch adds up the gradients of
    what it padded with. Left out are modules that only select, move or compare numbers, such as ReLU and
    Flatten. Functions that a ``forward`` calls, as ``torch.matmul``, cannot be seen from outside.

    Args:
        model: the network, before or after ``convert``.

    Returns:
        Names, as in ``model.named_modules()``, and classes; an empty list: nothing is left of torch's.

    Example:
        >>> import torch, samestep.torch
        >>> net = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> for name, kind in samestep.torch.unconverted(samestep.torch.convert(net)):
        ...     print(name, kind.__name__)
        0 Conv1d
    """
    return [
        (name, type(module))
        for name, module in model.named_modules()
        if (
            not isinstance(module, (Layer, CrossEntropyLoss))
            or getattr(module, "padding_mode", "zeros") != "zeros"
        )
        and type(module) not in _EXACT
        and (module._parameters or module._buffers or not module._modules)
    ]


def _stays(module: Module) -> bool:
    return type(module) is torch.nn.CrossEntropyLoss and has_options(module)


def _check_hooks(old: Module) -> None:
    if not getattr(old, "relu", False):
        return
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    own = {old._initialize_hook.id} if hasattr(old, "_initialize_hook") else set()
    found = [kind for kind in kinds if getattr(old, kind).keys() - own]
    if found:
        raise NotImplementedError(
            f"{type(old).__name__}(relu=True): has hooks ({', '.join(found)}), expected none: they would run "
            "around the layer without its ReLU; remove them, convert, and register them again"
        )


def _replacement(old: Module, cls: type[Module]) -> Module:
    new: Module = object.__new__(cls)
    new.__dict__.update(old.__dict__)  # parameters, buffers, hooks, training flag: the same objects
    if hasattr(old, "_initialize_hook"):  # a lazy layer's own hooks are methods of the old layer
        new._forward_pre_hooks[old._initialize_hook.id] = new._infer_parameters
        old._load_hook.remove()
        new._load_hook = new._register_load_state_dict_pre_hook(new._lazy_load_hook)
    if not new.__dict__.pop("relu", False):
        return new
    pair = torch.nn.Sequential(new, torch.nn.ReLU())
    pair.training = pair[1].training = old.training
    return pair
