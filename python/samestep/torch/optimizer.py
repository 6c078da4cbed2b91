"""What the optimizers share: a torch.optim class whose step is one native call for all parameter groups.

Groups, hooks, state and state dicts stay torch's. Between two steps the memory of parameters and state is
remembered by address (a binding); every step sees to it that all of it lies as it was bound and that every
gradient fits, in all groups, before the first byte is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter, getitem, is_
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from .._core import AddressedPlan
from ..backends.options import Options
from .tensors import is_aligned, is_dense, is_dtensor, local_tensor

FLOAT32_MAX = float(np.finfo(np.float32).max)
# What parameters are kept in, and what their state is kept in.
STATE_DTYPES = {dtype: dtype for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128)}
STATE_DTYPES[torch.bfloat16] = STATE_DTYPES[torch.float16] = torch.float32

dtype_of, shape_of = attrgetter("dtype"), attrgetter("shape")


class NativeOptimizer(torch.optim.Optimizer):
    """The mixin in front of a torch.optim class. A subclass says which rule a group asks for."""

    counts_steps: ClassVar[bool] = True  # whether there is a "step" in the state
    sparse_advice: ClassVar[str] = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
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

        Parameters, states and counts of all groups are stepped in one native call, in which Python hears no
        signal.

        Args:
            closure: evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        known = self._bindings()
        bindings: list[_Binding] = []
        grads: list[list[Tensor | None]] = []  # held: what their addresses lead to must outlive the step
        hyper, weight_decay = [], []
        for i, group in enumerate(self.param_groups):
            binding, taken = self._prepare(group, known[i])
            known[i] = binding
            bindings.append(binding)
            grads.append(taken)
            hyper.append(self.hyper(group))
            weight_decay.append(float(group["weight_decay"]))
            binding.check_hyper([*hyper[i], weight_decay[i]])
        addresses = list(map(_addresses, grads))
        then = [done for b, g in zip(bindings, grads, strict=True) for done in b.begin(self.state, g)]
        plans = [binding.plan for binding in bindings]
        while refused := AddressedPlan.step_together(plans, addresses, hyper, weight_decay, then):
            group, i = refused  # it lies where the step writes
            copy = torch.empty_like(grads[group][i]).copy_(grads[group][i])
            grads[group][i], addresses[group][i] = copy, copy.data_ptr()
        for binding, taken in zip(bindings, addresses, strict=True):
            binding.end(taken)
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

    def _prepare(
        self, group: dict[str, Any], binding: _Binding | None
    ) -> tuple[_Binding, list[Tensor | None]]:
        """A binding, and the gradients of its parameters as they are stepped."""
        rule, states = self.rule(group)
        decoupled, maximize = bool(group.get("decoupled_weight_decay")), bool(group["maximize"])
        how = (rule, states, decoupled, maximize)
        if binding is not None and binding.how == how and _are_same(group["params"], binding.params):
            grads = binding.gradients()
            if grads is not None:
                return binding, grads
        _refuse_modes(group)
        with torch.no_grad():
            binding = _Binding(self, group["params"], *how)
            grads = binding.gradients(is_new=True)
        if grads is None:
            raise RuntimeError("params: changed by another thread during the step")
        return binding, grads

    def state_dict(self) -> Any:
        """torch's, its step counts as float64: torch's own steps can go on with that, and it holds 2^53."""
        state_dict = super().state_dict()
        states = {
            k: {**v, "step": torch.as_tensor(v["step"]).to(torch.float64)} if "step" in v else v
            for k, v in state_dict["state"].items()
        }
        return {**state_dict, "state": states}

    def load_state_dict(self, state_dict: Any) -> None:
        """torch's, but that neither step counts nor the float32 state of 16-bit parameters are rounded."""
        given: list[Any] = []
        last = self.register_load_state_dict_pre_hook(lambda _, state_dict: given.append(state_dict))
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


class _Entry(NamedTuple):
    """A parameter, and the memory that is stepped."""

    param: Tensor
    address: int
    work: Tensor  # the parameter's own memory or, where that has gaps, a copy
    is_bound: bool  # False while it has had no gradient

    @property
    def is_simple(self) -> bool:
        """Whether a contiguous gradient of the same type and size fits.

        Of one element a lazily negated view is contiguous, too.
        """
        is_own = self.is_bound and self.address == self.work.data_ptr()
        is_plain = type(self.param) in (Tensor, Parameter) and not self.param.is_complex()
        return is_own and is_plain and self.work.numel() > 1 and self.work.is_contiguous()


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
        self.new_states: list[tuple[Tensor, dict[str, Any], dict[str, Any]]] = []  # of whom, theirs, news
        self.entries: list[_Entry] = []
        has_state = bool(states) or optimizer.counts_steps
        distinct = list({id(p): p for p in params}.values())
        bound = [p for p in distinct if p.grad is not None or optimizer.state.get(p) or not has_state]
        steps = np.zeros(len(bound) + 1, np.int64)
        counts = torch.from_numpy(steps)
        memory: list[tuple[str, int, int, list[int]]] = []
        self.state_dicts: list[dict[str, Any]] = []
        self.state_keys: list[str] = []
        self.state_tensors: list[Tensor] = []
        self.walked: list[Tensor] = []  # the states but for the counts, as they are in torch's dict
        for param in distinct:
            if len(memory) == len(bound) or param is not bound[len(memory)]:
                self.entries.append(_Entry(param, 0, param, False))
                continue
            own = self._memory("params", param)
            work = own if is_dense(own) else torch.empty_like(own).copy_(own)
            state = optimizer.state.get(param, {})
            new = {name: self._state(name, state.get(name), param, work) for name in states}
            stepped = [self._memory(f"state[{name!r}]", tensor) for name, tensor in new.items()]
            if optimizer.counts_steps:
                steps[len(memory)] = int(state.get("step", 0))
                new["step"] = counts[len(memory)]
            else:
                steps[len(memory)] = any(state.get(name) is not None for name in states)
            if has_state:
                self.new_states.append((param, state, new))
            self.state_dicts += [state] * len(new)
            self.state_keys += new
            self.state_tensors += new.values()
            self.walked += (new[name] for name in states)
            places = [s.data_ptr() for s in stepped]
            memory.append((str(work.dtype).removeprefix("torch."), work.numel(), work.data_ptr(), places))
            self.entries.append(_Entry(param, own.data_ptr(), work, True))
        self.is_simple = len(distinct) == len(params) and all(entry.is_simple for entry in self.entries)
        self.dtypes, self.shapes = list(map(dtype_of, self.params)), list(map(shape_of, self.params))
        self.addresses = [entry.address for entry in self.entries]
        self.has_dtensors = any(map(is_dtensor, self.walked))
        self.walked_layouts = self._walked_layouts()
        # The memory itself: what is torch's may be given other memory while another thread steps.
        self.held = [local_tensor(state).detach() for state in self.walked]
        self.bound = [entry for entry in self.entries if entry.is_bound]
        self.bound_params = [entry.param for entry in self.bound]
        self.works = [entry.work for entry in self.bound]
        self.copied = [i for i, e in enumerate(self.bound) if e.work.data_ptr() != e.address]
        self.plan = AddressedPlan(rule, memory, steps, Options(decoupled=decoupled, maximize=maximize))
        if not self.plan.is_disjoint:
            raise RuntimeError(
                "params: parameters or states of one group share memory, so that a step would update it "
                "twice; pass each once, or those that share memory in groups of their own"
            )

    def gradients(self, is_new: bool = False) -> list[Tensor | None] | None:
        """The gradients as they are stepped. None: something does not lie as it was bound."""
        if not is_new and not self._state_is_there():
            return None
        return self._simple_gradients() or self._gradients()

    def _state_is_there(self) -> bool:
        try:
            is_same = all(map(is_, map(getitem, self.state_dicts, self.state_keys), self.state_tensors))
            return is_same and self._walked_layouts() == self.walked_layouts
        except (KeyError, RuntimeError):  # a state is gone, or no longer of a layout with an address
            return False

    def _walked_layouts(self) -> list[list[Any]]:
        """Where the states but for the counts lie, and how."""
        states = list(map(local_tensor, self.walked)) if self.has_dtensors else self.walked
        facts: list[Callable[[Tensor], Any]] = [Tensor.data_ptr, Tensor.numel]
        if not self.is_simple:
            facts += [Tensor.stride, dtype_of]
        return [list(map(fact, states)) for fact in facts]

    def _simple_gradients(self) -> list[Tensor | None] | None:
        """The gradients, if every parameter is simple and has one that fits as it is.

        The same questions as below, asked of all at once: most of what a small parameter's step costs.
        """
        if not self.is_simple:
            return None
        grads: list[Any] = [param.grad for param in self.params]
        try:
            fits = (
                set(map(type, grads)) == {Tensor}
                and self._lie_as_bound(grads)
                and self._lie_as_bound(self.params)
                and list(map(Tensor.data_ptr, self.params)) == self.addresses
            )
        except RuntimeError:  # one is of a layout that is none
            return None
        return grads if fits else None

    def _lie_as_bound(self, tensors: list[Any]) -> bool:
        """Whether one flat walk over memory visits the same indices in each as in its simple parameter."""
        return (
            list(map(dtype_of, tensors)) == self.dtypes
            and list(map(shape_of, tensors)) == self.shapes
            and all(map(Tensor.is_contiguous, tensors))
        )

    def _gradients(self) -> list[Tensor | None] | None:
        """The gradients, or copies of them where they do not fit as they are."""
        grads: list[Tensor | None] = []
        for entry in self.entries:
            grad = entry.param.grad
            if grad is None:
                if entry.is_bound:
                    grads.append(None)
                continue
            if not entry.is_bound or not self._is_there(entry):
                return None
            grads.append(self._laid_out(grad, entry))
        return grads

    def check_hyper(self, values: list[float]) -> None:
        """As torch does, refuses what its parameters' type cannot hold."""
        if max(values) > FLOAT32_MAX and any(w.dtype != torch.float64 for w in self.works):
            raise RuntimeError(f"got {max(values)}: value cannot be converted to type float without overflow")

    def begin(
        self, states: dict[Tensor, dict[str, Any]], grads: list[Tensor | None]
    ) -> list[Callable[[], object]]:
        """Copies in what has gaps; returns what has to be done right after the native call."""
        then: list[Callable[[], object]] = []
        for param, state, new in self.new_states:
            states[param] = state
            then.append(partial(state.update, new))
        for i in self.copied:
            if grads[i] is not None:
                entry = self.bound[i]
                memory = self._memory("params", entry.param)
                entry.work.copy_(memory)
                then.append(partial(memory.copy_, entry.work))
        return then

    def end(self, addresses: list[int | None]) -> None:
        """Tells autograd what was stepped."""
        self.new_states.clear()
        stepped = self.bound_params
        if None in addresses:
            stepped = [p for p, address in zip(stepped, addresses, strict=True) if address is not None]
        torch.autograd.graph.increment_version(stepped)

    def _memory(self, name: str, tensor: Tensor) -> Tensor:
        """The local, real, dense or strided memory of a tensor, or an error that says why there is none."""
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
        return torch.view_as_real(local) if local.is_complex() else local

    def _state(self, name: str, given: Any, param: Tensor, work: Tensor) -> Tensor:
        """A state as the plan steps it: the given one, laid out anew where it must be, or zeros."""
        dtype = STATE_DTYPES[param.dtype]
        if given is None:
            return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        if not isinstance(given, Tensor) or given.shape != param.shape:
            got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"state[{name!r}]: got {got}, expected a tensor of shape {tuple(param.shape)}")
        if given.dtype == dtype and type(given) in (Tensor, Parameter, type(param)):
            local = self._memory(f"state[{name!r}]", given)
            if local.stride() == work.stride() and not local.is_neg() and is_aligned(local):
                return given
        return torch.empty_like(param, dtype=dtype, memory_format=torch.preserve_format).copy_(given)

    def _is_there(self, entry: _Entry) -> bool:
        """Whether the parameter still lies where it was bound."""
        own = self._memory("params", entry.param)
        work = entry.work
        if own.dtype != work.dtype or own.shape != work.shape:
            return False
        if entry.address != work.data_ptr():
            return not is_dense(own)
        return bool(own.data_ptr() == entry.address and own.stride() == work.stride() and not own.is_neg())

    def _laid_out(self, grad: Tensor, entry: _Entry) -> Tensor:
        """The gradient's memory, in the layout that is stepped; a copy where it has another."""
        param = entry.param
        if grad.is_sparse or grad.layout is not torch.strided:
            raise RuntimeError(f"{self.optimizer_name} does not support sparse gradients{self.sparse_advice}")
        if grad.dtype != param.dtype or grad.shape != param.shape:
            raise TypeError(
                f"grad: got {grad.dtype} of shape {tuple(grad.shape)}, "
                f"expected the parameter's {param.dtype} of shape {tuple(param.shape)}"
            )
        if is_dtensor(param) and (not is_dtensor(grad) or grad.placements != param.placements):
            grad = grad.redistribute(param.device_mesh, param.placements)
        with torch.no_grad():
            local = self._memory("grad", local_tensor(grad).resolve_conj()).resolve_neg()
            if local.stride() == entry.work.stride() and is_aligned(local):
                return local
            return torch.empty_like(entry.work).copy_(local)


def _addresses(grads: list[Any]) -> list[int | None]:
    """Where gradients lie; None stays None."""
    try:
        return list(map(Tensor.data_ptr, grads))
    except TypeError:  # one is None
        return [None if g is None else g.data_ptr() for g in grads]


def _are_same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


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
