"""torch.optim's classes on the package's kernels: torch's arguments, defaults, formulas and state."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..backends import cpu
from ..optim.adaptive import rmsprop_variant
from .memory import STATE_DTYPES
from .optimizer import NativeOptimizer

State = tuple[str, ...]


class SGD(NativeOptimizer, torch.optim.SGD):
    """``torch.optim.SGD``: with momentum, dampening and nesterov.

    ``b = momentum*b + (1 - dampening)*g`` (``b = g`` at the first step), ``w = w - lr*b``; with nesterov
    ``w = w - lr*(g + momentum*b)``; without momentum ``w = w - lr*g``.

    Arguments, defaults, errors and state dicts are torch's. ``foreach`` and ``fused`` change no bit;
    with ``fused=True`` torch's GradScaler does not wait for GPUs, which then leave out a step by themselves.

    Raises:
        NotImplementedError: ``differentiable``, or a parameter is neither on the CPU nor on an NVIDIA GPU, or
            of no supported dtype.
        RuntimeError: a gradient is sparse, or parameters of a group share memory. Nothing has been changed.

    Source:
        PyTorch's documentation of ``torch.optim.SGD``.

    Example:
        >>> import torch, samestep.torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = samestep.torch.SGD([w], lr=0.25, momentum=0.5)
        >>> for _ in range(2):
        ...     w.grad = torch.tensor([2.0, 4.0])
        ...     optimizer.step()
        >>> w.detach(), optimizer.state[w]["momentum_buffer"]
        (tensor([-0.2500, -4.5000]), tensor([3., 6.]))
    """

    counts_steps = False
    sparse_advice = "; use torch.optim.SGD for them"

    def rule(self, group: dict[str, Any]) -> tuple[str, State]:
        if group["momentum"] == 0:
            return cpu.rule("sgd").name, ()
        if group["nesterov"]:
            return cpu.rule("nag", "torch").name, ("momentum_buffer",)
        variant = "dampened" if group["dampening"] else None
        return cpu.rule("momentum", "torch", variant).name, ("momentum_buffer",)

    def hyper(self, group: dict[str, Any]) -> list[float]:
        lr, momentum, dampening = (float(group[name]) for name in ("lr", "momentum", "dampening"))
        if momentum == 0:
            return [lr]
        return [lr, momentum, dampening] if dampening and not group["nesterov"] else [lr, momentum]


class Adagrad(NativeOptimizer, torch.optim.Adagrad):
    """``torch.optim.Adagrad``: ``r = r + g^2``, ``w = w - lr/(1 + (t - 1)*lr_decay)/(sqrt(r) + eps) * g``.

    Arguments, errors and what is promised are as in ``SGD``.

    Source:
        PyTorch's documentation of ``torch.optim.Adagrad``; Duchi, Hazan & Singer (2011).

    Example:
        >>> import torch, samestep.torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = samestep.torch.Adagrad([w], lr=0.5)
        >>> w.grad = torch.tensor([3.0])
        >>> optimizer.step()
        >>> w.detach(), optimizer.state[w]["sum"], optimizer.state[w]["step"]
        (tensor([0.5000]), tensor([9.]), tensor(1., dtype=torch.float64))
    """

    sparse_advice = "; use torch.optim.Adagrad for them"

    @functools.wraps(torch.optim.Adagrad.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for group in self.param_groups:
            for p in group["params"]:
                if STATE_DTYPES.get(p.dtype, p.dtype) != p.dtype:  # torch has rounded it to 16 bits
                    initial = group["initial_accumulator_value"]
                    self.state[p]["sum"] = torch.full_like(p, initial, dtype=STATE_DTYPES[p.dtype])

    def rule(self, group: dict[str, Any]) -> tuple[str, State]:
        return cpu.rule("adagrad", "outside").name, ("sum",)

    def hyper(self, group: dict[str, Any]) -> list[float]:
        return [float(group[name]) for name in ("lr", "eps", "lr_decay")]


class RMSprop(NativeOptimizer, torch.optim.RMSprop):
    """``torch.optim.RMSprop``: ``r = alpha*r + (1 - alpha)*g^2``, ``w = w - lr/(sqrt(r) + eps) * g``.

    ``centered`` takes the square of the mean gradient from r; with ``momentum``, ``b = momentum*b + q``,
    ``w = w - lr*b``, where q is the step without lr. Arguments, errors and promises are as in ``SGD``.

    Source:
        PyTorch's documentation of ``torch.optim.RMSprop``; Hinton (2012); Graves (2013).

    Example:
        >>> import torch, samestep.torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = samestep.torch.RMSprop([w], lr=0.5, alpha=0.75)
        >>> w.grad = torch.tensor([2.0])
        >>> optimizer.step()
        >>> w.detach(), optimizer.state[w]["square_avg"]
        (tensor([0.]), tensor([1.]))
    """

    def rule(self, group: dict[str, Any]) -> tuple[str, State]:
        centered, momentum = bool(group["centered"]), bool(group["momentum"] > 0)
        states = ("square_avg", *("grad_avg",) * centered, *("momentum_buffer",) * momentum)
        return cpu.rule("rmsprop", "outside", rmsprop_variant(centered, momentum)).name, states

    def hyper(self, group: dict[str, Any]) -> list[float]:
        names = ("lr", "alpha", "eps", "momentum") if group["momentum"] > 0 else ("lr", "alpha", "eps")
        return [float(group[name]) for name in names]


class Adam(NativeOptimizer, torch.optim.Adam):
    """``torch.optim.Adam``, with amsgrad and coupled or decoupled weight decay.

    ``m = beta1*m + (1 - beta1)*g``, ``v = beta2*v + (1 - beta2)*g^2``,
    ``w = w - lr*m'/(sqrt(v') + eps)`` with ``m' = m/(1 - beta1^t)``, ``v' = v/(1 - beta2^t)``.

    Arguments, errors and what is promised are as in ``SGD``; ``capturable`` is refused as well.

    Source:
        PyTorch's documentation of ``torch.optim.Adam``; Kingma & Ba (2015); Reddi et al. (2018).

    Example:
        >>> import torch, samestep.torch
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = samestep.torch.Adam(model.parameters(), lr=0.125)
        >>> before = model.weight.detach().clone()
        >>> model(torch.ones(3)).backward()
        >>> optimizer.step()
        >>> model.weight.detach() - before
        tensor([[-0.1250, -0.1250, -0.1250]])
    """

    sparse_advice = ", please consider SparseAdam instead"

    def rule(self, group: dict[str, Any]) -> tuple[str, State]:
        if group["amsgrad"]:
            states = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
            return cpu.rule("adam", "outside", "amsgrad").name, states
        return cpu.rule("adam", "outside").name, ("exp_avg", "exp_avg_sq")

    def hyper(self, group: dict[str, Any]) -> list[float]:
        beta1, beta2 = group["betas"]
        return [float(group["lr"]), float(beta1), float(beta2), float(group["eps"])]


class AdamW(Adam, torch.optim.AdamW):
    """``torch.optim.AdamW``: ``Adam`` with decoupled weight decay, ``lr*weight_decay*w`` a step.

    Source:
        PyTorch's documentation of ``torch.optim.AdamW``; Loshchilov & Hutter (2019).

    Example:
        >>> import torch, samestep.torch
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = samestep.torch.AdamW([w], lr=0.5, weight_decay=0.5)
        >>> w.grad = torch.tensor([0.0])
        >>> optimizer.step()
        >>> w.detach()
        tensor([1.5000])
    """


OPTIMIZERS = (SGD, Adagrad, RMSprop, Adam, AdamW)
