"""Which of torch's tensors a step takes, and as what: parameters, states, step counts and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .tensors import gpu_of, is_aligned, is_dtensor, local_tensor, plain_tensor

# What parameters are kept in, and what their state is kept in.
STATE_DTYPES = {dtype: dtype for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128)}
STATE_DTYPES[torch.bfloat16] = STATE_DTYPES[torch.float16] = torch.float32
# torch's own steps can go on with float64, and it holds every whole number up to 2^53.
STEP_DTYPE = torch.float64
# AddressedPlan's letters for what a step count may be kept in.
STEP_LETTERS = {torch.float64: "d", torch.float32: "f", torch.int64: "i"}


class Memory:
    """Where a step's tensors are to lie: in main memory, or on one GPU.

    Args:
        optimizer: a NativeOptimizer, which messages name.
        gpu: the number of the GPU; None: in main memory.
    """

    def __init__(self, optimizer: Any, gpu: int | None = None) -> None:
        self.gpu = gpu
        self.optimizer_name = type(optimizer).__name__
        self.sparse_advice = optimizer.sparse_advice

    def memory(self, name: str, tensor: Tensor) -> Tensor:
        """An alias of a tensor's local memory, or an error that says why there is none to step."""
        local = plain_tensor(local_tensor(tensor))
        if type(local) is not Tensor:
            raise TypeError(
                f"no implementation found for '{self.optimizer_name}.step' on types that implement "
                f"__torch_function__: [{type(local)}]; {name}: expected plain tensors, parameters or DTensors"
            )
        if local.layout is not torch.strided:
            raise RuntimeError(f"{name}: got layout {local.layout}, expected a dense tensor")
        if gpu_of(local) != self.gpu or (self.gpu is None and local.device.type != "cpu"):
            place = "the CPU" if self.gpu is None else f"GPU {self.gpu}"
            if name == "params":
                place = f"the CPU or an NVIDIA GPU; use torch.optim.{self.optimizer_name} there"
            else:
                place += ", as its parameter"
            raise NotImplementedError(f"{name}: got a tensor on {local.device}, expected one on {place}")
        if local.dtype not in STATE_DTYPES:
            raise NotImplementedError(
                f"{name}: got {local.dtype}, expected one of "
                f"{', '.join(str(dtype) for dtype in STATE_DTYPES)}; "
                f"use torch.optim.{self.optimizer_name} for it"
            )
        return local

    def state(self, name: str, given: Any, param: Tensor, work: Tensor) -> Tensor:
        """A state as the plan steps it: the given one, laid out anew where it must be, or zeros."""
        dtype = STATE_DTYPES[param.dtype]
        if given is None:
            return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        if not isinstance(given, Tensor) or given.shape != param.shape:
            got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"state[{name!r}]: got {got}, expected a tensor of shape {tuple(param.shape)}")
        if given.dtype not in STATE_DTYPES or given.is_complex() != param.is_complex():
            raise TypeError(f"state[{name!r}]: got {given.dtype}, expected {dtype}")
        is_here = given.device == param.device
        if is_here and given.dtype == dtype and type(given) in (Tensor, Parameter, type(param)):
            local = self.memory(f"state[{name!r}]", given)
            if local.stride() == work.stride() and not local.is_neg() and is_aligned(local):
                return given
        return torch.empty_like(param, dtype=dtype, memory_format=torch.preserve_format).copy_(given.detach())

    def plain(self, grad: Tensor, param: Tensor, _: Tensor) -> Tensor:
        """A gradient as a plain tensor of the numbers it stands for, or an error that says why it is none."""
        if grad.is_sparse or grad.layout is not torch.strided:
            raise RuntimeError(f"{self.optimizer_name} does not support sparse gradients{self.sparse_advice}")
        if grad.dtype != param.dtype or grad.shape != param.shape:
            raise TypeError(
                f"grad: got {grad.dtype} of shape {tuple(grad.shape)}, "
                f"expected the parameter's {param.dtype} of shape {tuple(param.shape)}"
            )
        grad = grad.detach()
        if is_dtensor(param) and (not is_dtensor(grad) or grad.placements != param.placements):
            grad = grad.redistribute(param.device_mesh, param.placements)
        return self.memory("grad", local_tensor(grad).resolve_conj()).resolve_neg()

    def copied(self, grad: Tensor, _: Tensor, like: Tensor) -> Tensor:
        """A gradient in the layout that is stepped."""
        return torch.empty_like(like, device=grad.device).copy_(grad.detach())


def step_count(given: Any, others: set[int]) -> Tensor:
    """The tensor that counts a parameter's steps: the given one, if it can, else one with its number.

    One that processes share is kept in its own type. ``others``: addresses of those that count already.
    """
    if isinstance(given, Tensor) and type(given) in (Tensor, Parameter) and given.device.type == "cpu":
        can_count = given.dtype == STEP_DTYPE or (given.dtype in STEP_LETTERS and given.is_shared())
        if can_count and given.numel() == 1 and given.data_ptr() not in others:
            return given
    return torch.tensor(int(given), dtype=STEP_DTYPE)


def has_state(optimizer: Any, states: tuple[str, ...]) -> bool:
    """Whether a rule with these states leaves something in the optimizer's state."""
    return bool(states) or optimizer.counts_steps
