"""What the optimizers share: a torch.optim class whose step is one native call for all parameter groups.

Groups, hooks, state and state dicts stay torch's. Between two steps it is remembered how parameters and state
lie in memory (a binding); every step sees to it that all of it lies where and as it did and that every
gradient fits, in all groups, before the first byte is written. `_core.Layouts` is asked both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from operator import attrgetter, getitem, is_
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from .._core import AddressedPlan, Layouts
from ..backends.options import Options
from .tensors import is_aligned, is_dense, is_dtensor, local_tensor

FLOAT32_MAX = float(np.finfo(np.float32).max)
IN_PLACE = -1  # what Layouts.find_moved() returns, else the first tensor that lies elsewhere or otherwise
DOES_NOT_FIT = -1  # among the addresses of Layouts.get_addresses()
# What parameters are kept in, and what their state is kept in.
STATE_DTYPES = {dtype: dtype for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128)}
STATE_DTYPES[torch.bfloat16] = STATE_DTYPES[torch.float16] = torch.float32

gradient_of = attrgetter("grad")


class NativeOptimizer(torch.optim.Optimizer):
    """The mixin in front of a torch.optim class. A subclass says which rule a group asks for."""

    counts_steps: ClassVar[bool] = True  # whether there is a "step" in the state
    sparse_advice: ClassVar[str] = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not hasattr(Tensor, "__dlpack_c_exchange_api__"):
            raise RuntimeError(
                f"torch: got {torch.__version__}, expected 2.13 or later, whose tensors C can look at: "
                "pip install --upgrade torch"
            )
        super().__init__(*args, **kwargs)
        # GradScaler then unscales and skips by itself: `fused` must not change who does it.
        self.__dict__.pop("_step_supports_amp_scaling", None)
        for group in self.param_groups:
            _refuse_modes(group)

    def rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        """The rule of the core, and torch's names of its states, in the rule's order."""
        raise NotImplementedError

    def hyper(self, group: dict[str, Any]) -> list[float]:
        """The rule's hyper-parameters."""
        raise NotImplementedError

    @torch.compiler.disable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient or, on an error or an interrupt, of none.

        All groups are checked first. Then one native call steps their parameters, states and step counts: an
        exception out of a signal handler, such as KeyboardInterrupt, is raised before that call, when nothing
        has been stepped, or after it, when everything has. Other threads may meanwhile give parameters and
        states other memory or drop gradients; they must not write to these or resize their storages in place.

        Args:
            closure: evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        known = self._bindings()
        bindings: list[_Binding] = []
        taken: list[_Gradients] = []
        hyper, weight_decay = [], []
        for i, group in enumerate(self.param_groups):
            binding, gradients = self._prepare(group, known[i])
            known[i] = binding
            bindings.append(binding)
            taken.append(gradients)
            hyper.append(self.hyper(group))
            weight_decay.append(float(group["weight_decay"]))
            binding.check_hyper([*hyper[i], weight_decay[i]])
        new_states = [new for binding in bindings for new in binding.new_states]
        for param, state, _ in new_states:
            self.state[param] = state  # empty, if it is new
        for binding, gradients in zip(bindings, taken, strict=True):
            binding.announce(gradients)
        plans = [binding.plan for binding in bindings]
        then = [partial(state.update, new) for _, state, new in new_states]
        while refused := AddressedPlan.step_together(
            plans, [gradients.addresses for gradients in taken], hyper, weight_decay, then
        ):
            i, k = refused  # it lies where the step writes
            taken[i] = bindings[i].set_apart(taken[i], k)
        for binding in bindings:
            binding.new_states.clear()
        self._known_states = list(self.state.values())
        return loss

    def _bindings(self) -> list[_Binding | None]:
        """What the groups are bound to; nothing where the state is no longer the one of the last step."""
        bindings: list[_Binding | None] = self.__dict__.setdefault("_step_bindings", [])
        known = self.__dict__.get("_known_states", [])
        if len(known) != len(self.state) or not all(map(is_, self.state.values(), known)):
            bindings.clear()
        bindings += [None] * (len(self.param_groups) - len(bindings))
        return bindings

    def _prepare(self, group: dict[str, Any], binding: _Binding | None) -> tuple[_Binding, _Gradients]:
        """A binding that is in place, and gradients that fit it."""
        rule, states = self.rule(group)
        decoupled, maximize = bool(group.get("decoupled_weight_decay")), bool(group["maximize"])
        how = (rule, states, decoupled, maximize)
        if binding is not None and binding.how == how and _are_same(group["params"], binding.params):
            gradients = binding.take()
            if gradients is not None:
                return binding, gradients
        _refuse_modes(group)
        binding = _Binding(self, group["params"], *how)
        gradients = binding.take(is_new=True)
        if gradients is None:
            raise RuntimeError("params: changed by another thread during the step")
        return binding, gradients

    def state_dict(self) -> Any:
        """torch's, its step counts as float64: torch's own steps can go on with that, and it holds 2^53."""
        state_dict = super().state_dict()
        states = {
            k: {**v, "step": torch.as_tensor(v["step"]).to(torch.float64)} if "step" in v else v
            for k, v in state_dict["state"].items()
        }
        return {**state_dict, "state": states}

    def load_state_dict(self, state_dict: Any) -> None:
        """torch's, but it copies the state and rounds neither step counts nor 16-bit parameters' state."""
        given: list[Any] = []

        def copy_state(_: torch.optim.Optimizer, state_dict: Any) -> Any:
            given.append({**state_dict, "state": _copied_state(state_dict["state"])})
            return given[0]

        last = self.register_load_state_dict_pre_hook(copy_state)
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        for saved, group in zip(given[0]["param_groups"], self.param_groups, strict=True):
            for key, param in zip(saved["params"], group["params"], strict=True):
                saved_state = given[0]["state"].get(key, {})
                if saved_state.get("step") is not None:
                    self.state[param]["step"] = torch.tensor(int(saved_state["step"]))
                for name, values in saved_state.items():
                    if name != "step" and isinstance(values, Tensor) and values.dtype != param.dtype:
                        self.state[param][name] = values.to(STATE_DTYPES.get(param.dtype, param.dtype))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.pop("_step_bindings", None)


class _Gradients(NamedTuple):
    """What one step reads."""

    tensors: list[Tensor | None]  # that of every bound parameter, as it is walked
    addresses: list[int | None]
    storages: list[Any]  # keep that memory alive, whatever other threads do to the tensors


class _Bound(NamedTuple):
    """A parameter, and the memory that is stepped.

    Aliases, not the parameter: they hold that memory, whatever other the parameter is given meanwhile.
    """

    param: Tensor
    own: Tensor
    work: Tensor  # the same or, where that is no block, a block like it


class _Binding:
    """A group's parameters, their state, and the plan that steps them."""

    def __init__(
        self,
        optimizer: NativeOptimizer,
        params: list[Tensor],
        rule: str,
        states: tuple[str, ...],
        decoupled: bool,
        maximize: bool,
    ) -> None:
        self.how = rule, states, decoupled, maximize
        self.params = list(params)
        self.optimizer_name = type(optimizer).__name__
        self.sparse_advice = optimizer.sparse_advice
        # Each parameter's state, and what goes into it.
        self.new_states: list[tuple[Tensor, dict[str, Any], dict[str, Any]]] = []
        self.bound: list[_Bound] = []
        self.unbound: list[Tensor] = []  # have had no gradient
        has_state = bool(states) or optimizer.counts_steps
        for param in {id(p): p for p in params}.values():
            if param.grad is not None or optimizer.state.get(param) or not has_state:
                own = self._memory("params", param)
                self.bound.append(_Bound(param, own, own if is_dense(own) else torch.empty_like(own)))
            else:
                self.unbound.append(param)
        self.bound_params = [bound.param for bound in self.bound]
        steps = np.zeros(len(self.bound) + 1, np.int64)
        counts = torch.from_numpy(steps)
        memory: list[tuple[str, int, int, list[int]]] = []
        strided: list[tuple[int, int, bool, list[int], list[int], list[int]]] = []
        self.state_dicts: list[dict[str, Any]] = []
        self.state_keys: list[str] = []
        self.state_tensors: list[Tensor] = []
        state_memory: list[Tensor] = []
        for i, (param, own, work) in enumerate(self.bound):
            block = _as_real(work)
            if own.data_ptr() != work.data_ptr():
                real = _as_real(own)
                layout = [list(real.shape), list(real.stride()), list(block.stride())]
                strided.append((i, real.data_ptr(), real.is_neg(), *layout))
            state = optimizer.state.get(param, {})
            new = {name: self._state(name, state.get(name), param, work) for name in states}
            stepped = [self._memory(f"state[{name!r}]", tensor) for name, tensor in new.items()]
            if optimizer.counts_steps:
                steps[i] = int(state.get("step", 0))
                new["step"] = counts[i]
                stepped.append(counts[i])
            else:
                steps[i] = any(state.get(name) is not None for name in states)
            if has_state:
                self.new_states.append((param, state, new))
            self.state_dicts += [state] * len(new)
            self.state_keys += new
            self.state_tensors += new.values()
            state_memory += stepped
            places = [s.data_ptr() for s in stepped[: len(states)]]
            memory.append((str(block.dtype).removeprefix("torch."), block.numel(), block.data_ptr(), places))
        self.is_narrow = any(dtype != "float64" for dtype, *_ in memory)
        self.kept = [*self.bound_params, *self.state_tensors]
        self.has_shards = any(map(is_dtensor, self.kept))
        self.kept_memory = [bound.own for bound in self.bound] + state_memory
        self.kept_layouts = Layouts(self.kept_memory)
        self.gradient_layouts = Layouts([bound.work for bound in self.bound])
        self.plan = AddressedPlan(
            rule, memory, steps, Options(decoupled_weight_decay=decoupled, maximize=maximize), strided
        )
        if not self.plan.is_disjoint:
            raise RuntimeError(
                "params: parameters or states of one group share memory, so that a step would update it "
                "twice; pass each once, or those that share memory in groups of their own"
            )

    def take(self, is_new: bool = False) -> _Gradients | None:
        """The gradients, so that they can be walked. None: something does not lie as it was bound."""
        if not is_new and not self._is_in_place():
            return None
        if any(param.grad is not None for param in self.unbound):
            return None
        return self._fit(list(map(gradient_of, self.bound_params)))

    def _is_in_place(self) -> bool:
        try:
            if not all(map(is_, map(getitem, self.state_dicts, self.state_keys), self.state_tensors)):
                return False
        except KeyError:
            return False
        kept = list(map(local_tensor, self.kept)) if self.has_shards else self.kept
        return self.kept_layouts.find_moved(kept) == IN_PLACE

    def _fit(self, tensors: list[Tensor | None]) -> _Gradients:
        """The gradients, those that cannot be walked with their parameters as tensors that can."""
        for make_fit in (self._plain, self._copied):
            addresses, storages = self.gradient_layouts.get_addresses(tensors)
            if DOES_NOT_FIT not in addresses:
                break
            tensors = [
                make_fit(tensor, bound) if tensor is not None and address == DOES_NOT_FIT else tensor
                for tensor, address, bound in zip(tensors, addresses, self.bound, strict=True)
            ]
        else:
            addresses, storages = self.gradient_layouts.get_addresses(tensors)
            if DOES_NOT_FIT in addresses:
                raise RuntimeError("grad: changed by another thread during the step")
        return _Gradients(tensors, addresses, storages)

    def check_hyper(self, values: list[float]) -> None:
        """As torch does, refuses what its parameters' type cannot hold."""
        if max(values) > FLOAT32_MAX and self.is_narrow:
            raise RuntimeError(f"got {max(values)}: value cannot be converted to type float without overflow")

    def set_apart(self, gradients: _Gradients, i: int) -> _Gradients:
        """The gradients with a copy of one that lies where the step writes."""
        tensors = list(gradients.tensors)
        tensors[i] = self._copied(gradients.tensors[i], self.bound[i])
        return self._fit(tensors)

    def announce(self, gradients: _Gradients) -> None:
        """Tells autograd of the step before it is made: no interrupt may leave one that it never heard of."""
        stepped = self.bound_params
        if None in gradients.addresses:
            stepped = [p for p, a in zip(stepped, gradients.addresses, strict=True) if a is not None]
        torch.autograd.graph.increment_version(stepped)

    def _memory(self, name: str, tensor: Tensor) -> Tensor:
        """An alias of a tensor's local memory, or an error that says why there is none to step."""
        local = local_tensor(tensor).detach()
        if type(local) is not Tensor:
            raise TypeError(
                f"no implementation found for '{self.optimizer_name}.step' on types that implement "
                f"__torch_function__: [{type(local)}]; {name}: expected plain tensors, parameters or DTensors"
            )
        if local.layout is not torch.strided:
            raise RuntimeError(f"{name}: got layout {local.layout}, expected a dense tensor")
        if local.device.type != "cpu":
            raise NotImplementedError(
                f"{name}: got a tensor on {local.device}, expected one on the CPU; "
                f"use torch.optim.{self.optimizer_name} there"
            )
        if local.dtype not in STATE_DTYPES:
            raise NotImplementedError(
                f"{name}: got {local.dtype}, expected one of "
                f"{', '.join(str(dtype) for dtype in STATE_DTYPES)}; "
                f"use torch.optim.{self.optimizer_name} for it"
            )
        return local

    def _state(self, name: str, given: Any, param: Tensor, work: Tensor) -> Tensor:
        """A state as the plan steps it: the given one, laid out anew where it must be, or zeros."""
        dtype = STATE_DTYPES[param.dtype]
        if given is None:
            return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        if not isinstance(given, Tensor) or given.shape != param.shape:
            got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"state[{name!r}]: got {got}, expected a tensor of shape {tuple(param.shape)}")
        if given.dtype not in STATE_DTYPES or given.is_complex() != param.is_complex():
            raise TypeError(f"state[{name!r}]: got {given.dtype}, expected {dtype}")
        if given.dtype == dtype and type(given) in (Tensor, Parameter, type(param)):
            local = self._memory(f"state[{name!r}]", given)
            if local.stride() == work.stride() and not local.is_neg() and is_aligned(local):
                return given
        return torch.empty_like(param, dtype=dtype, memory_format=torch.preserve_format).copy_(given.detach())

    def _plain(self, grad: Tensor, bound: _Bound) -> Tensor:
        """A gradient as a plain tensor of the numbers it stands for, or an error that says why it is none."""
        param = bound.param
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
        return self._memory("grad", local_tensor(grad).resolve_conj()).resolve_neg()

    def _copied(self, grad: Tensor, bound: _Bound) -> Tensor:
        """A gradient in the layout that is stepped."""
        return torch.empty_like(bound.work).copy_(grad.detach())


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _are_same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


def _copied_state(value: Any) -> Any:
    """A state, or part of one, with tensors of its own."""
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.preserve_format)
    if isinstance(value, dict):
        return {k: _copied_state(v) for k, v in value.items()}
    return copy.deepcopy(value)


def _refuse_modes(group: dict[str, Any]) -> None:
    if group.get("capturable"):
        raise NotImplementedError(
            "capturable: got True, but the step runs on the CPU and reads lr and step counts there, "
            "so that no CUDA graph can hold it; use torch.optim's"
        )
    if group.get("differentiable"):
        raise NotImplementedError(
            "differentiable: got True, but the step is made in place by kernels that autograd does not see; "
            "use torch.optim's"
        )
