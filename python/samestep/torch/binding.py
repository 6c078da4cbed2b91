"""A parameter group as it lies in memory, and the plan that steps it.

A binding holds no memory of torch's: it knows where parameters and states lay, and every step looks again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._core import AddressedPlan, Identities, Layouts, StatePlaces
from ..backends.options import Options
from .memory import STEP_LETTERS, Memory, has_state, step_count
from .tensors import gpu_of, is_dense, is_dtensor, local_tensor

FLOAT32_MAX = float(np.finfo(np.float32).max)
DOES_NOT_FIT = -1  # among the addresses of Layouts.get_addresses()


class NewState(NamedTuple):
    param: Tensor
    state: dict[str, Any]  # the optimizer's; empty, if it is new
    values: dict[str, Tensor]  # what goes into it


class StepMemory(NamedTuple):
    """What one step reads and writes."""

    params: list[Tensor]
    gradients: list[Tensor | None]  # that of every parameter, as it is walked
    addresses: list[int | None]  # theirs
    kept: list[Any]  # storages that keep all of that memory alive, whatever other threads do to the tensors
    kept_gradients: list[Any]
    new_states: list[NewState]
    stepped: list[Tensor]  # the parameters that have a gradient


class Binding(Memory):
    """Where a group's parameters and their state lie in main memory, and the plan that steps them.

    Parameters on a GPU are noted, and stepped elsewhere: gpu.py.
    """

    def __init__(
        self,
        optimizer: Any,  # a NativeOptimizer
        params: list[Tensor],
        rule: str,
        states: tuple[str, ...],
        decoupled: bool,
        maximize: bool,
    ) -> None:
        super().__init__(optimizer)
        self.key = rule, states, decoupled, maximize
        self.params = Identities(params)
        has_any_state = has_state(optimizer, states)
        self.gpu_at = [i for i, p in enumerate(params) if gpu_of(p) is not None]  # in the group
        self.bound_at: list[int] = []  # in the group
        self.unbound_at: list[int] = []  # of those that have had no gradient
        on_gpus = set(self.gpu_at)
        for i in {id(p): i for i, p in reversed(list(enumerate(params))) if i not in on_gpus}.values():
            is_stepped = params[i].grad is not None or optimizer.state.get(params[i]) or not has_any_state
            (self.bound_at if is_stepped else self.unbound_at).append(i)
        self.bound_at.sort()
        self.state_names: list[str] = []
        self.state_ids: list[int] = []  # of the parameter of each
        self.state_places: StatePlaces | None = None  # None: the state is not there yet
        self.blocks: list[Tensor] = []  # stepped in the place of parameters that are none
        self.likes: list[Tensor] = []  # without memory, laid out as what is stepped
        bound = [params[i] for i in self.bound_at]
        steps = np.zeros(len(bound) + 1, np.int64)
        memory: list[tuple[str, int, int, list[int]]] = []
        strided: list[tuple[int, int, bool, list[int], list[int], list[int]]] = []
        counts: list[tuple[int, str]] = []
        own_memory: list[Tensor] = []
        works: list[Tensor] = []
        state_memory: list[Tensor] = []
        count_memory: list[Tensor] = []
        new_states: list[NewState] = []
        for i, param in enumerate(bound):
            own = self.memory("params", param)
            own_memory.append(own)
            work = own
            if not is_dense(own):
                work = torch.empty_like(own)
                self.blocks.append(work)
            works.append(work)
            block = _as_real(work)
            if own is not work:
                real = _as_real(own)
                layout = [list(real.shape), list(real.stride()), list(block.stride())]
                strided.append((i, real.data_ptr(), real.is_neg(), *layout))
            state = optimizer.state.get(param, {})
            new = {name: self.state(name, state.get(name), param, work) for name in states}
            stepped = [self.memory(f"state[{name!r}]", tensor) for name, tensor in new.items()]
            places = [s.data_ptr() for s in stepped]
            if optimizer.counts_steps:
                new["step"] = step_count(state.get("step", 0), {address for address, _ in counts})
                count = new["step"].detach()
                counts.append((count.data_ptr(), STEP_LETTERS[count.dtype]))
                count_memory.append(count)
            else:
                steps[i] = any(state.get(name) is not None for name in states)
            if has_any_state:
                new_states.append(NewState(param, state, new))
            self.state_ids += [id(param)] * len(states)
            self.state_names += states
            state_memory += stepped
            memory.append((_name(block.dtype), block.numel(), block.data_ptr(), places))
        self.state_ids += [id(param) for param in bound[: len(count_memory)]]
        self.state_names += ["step"] * len(count_memory)
        kept = [*own_memory, *state_memory, *count_memory]
        wide = (torch.float64, torch.complex128)
        self.is_narrow = any(params[i].dtype not in wide for i in (*self.bound_at, *self.gpu_at))
        self.has_shards = any(map(is_dtensor, bound)) or any(
            is_dtensor(value) for new in new_states for value in new.values.values()
        )
        self.likes = [torch.empty_like(work, device="meta") for work in works]
        self.layouts = Layouts(kept, len(count_memory))
        self.gradient_layouts = Layouts(works)
        self.plan = AddressedPlan(
            rule, memory, steps, Options(decoupled_weight_decay=decoupled, maximize=maximize), strided, counts
        )
        if not self.plan.is_disjoint:
            raise RuntimeError(
                "params: parameters or states of one group share memory, so that a step would update it "
                "twice; pass each once, or those that share memory in groups of their own"
            )
        self._new = StepMemory(bound, [], [], kept, [], new_states, [])

    def get_new_memory(self) -> StepMemory:
        """What the first step reads and writes: held by that step, no longer by the binding."""
        new, self._new = self._new, StepMemory([], [], [], [], [], [], [])
        return self._fit(new.params, new.kept, new.new_states)

    def get_memory(self, params: list[Tensor], states: list[dict[str, Any]]) -> StepMemory | None:
        """What a later step reads and writes. None: something does not lie as it was bound.

        Args:
            params: the group's.
            states: all values of the optimizer's state.
        """
        if any(params[i].grad is not None for i in self.unbound_at) or self.state_places is None:
            return None
        if any(gpu_of(params[i]) is None for i in self.gpu_at):  # moved
            return None
        if len(self.bound_at) < len(params):
            params = [params[i] for i in self.bound_at]
        found = self.state_places.look_up(states)
        if found is None:
            return None
        kept = params + found
        if self.has_shards:
            kept = list(map(local_tensor, kept))
        storages = self.layouts.hold(kept)
        if storages is None:
            return None
        return self._fit(params, storages, [])

    def find_states(self, positions: dict[int, int]) -> None:
        """Notes where in the optimizer's state its own are, by the ids of parameters."""
        self.state_places = StatePlaces([positions.get(i, -1) for i in self.state_ids], self.state_names)

    def _fit(
        self,
        params: list[Tensor],
        kept: list[Any],
        new_states: list[NewState],
        gradients: list[Tensor | None] | None = None,
    ) -> StepMemory:
        """Adds the gradients, those that cannot be walked with their parameters as tensors that can."""
        layouts = self.gradient_layouts
        if gradients is None:
            tensors, addresses, storages = layouts.get_gradients(params)
        else:
            tensors, (addresses, storages) = gradients, layouts.get_addresses(gradients)
        for make_fit in (self.plain, self.copied):
            if len(storages) == len(tensors) or DOES_NOT_FIT not in addresses:
                break
            tensors = [
                make_fit(tensor, param, like) if tensor is not None and address == DOES_NOT_FIT else tensor
                for tensor, address, param, like in zip(tensors, addresses, params, self.likes, strict=True)
            ]
            addresses, storages = layouts.get_addresses(tensors)
        else:
            if DOES_NOT_FIT in addresses:
                raise RuntimeError("grad: changed by another thread during the step")
        stepped = params
        if len(storages) < len(params):
            stepped = [p for p, address in zip(params, addresses, strict=True) if address is not None]
        return StepMemory(params, tensors, addresses, kept, storages, new_states, stepped)

    def check_hyper(self, values: list[float]) -> None:
        """As torch does, refuses what its parameters' type cannot hold."""
        if max(values) > FLOAT32_MAX and self.is_narrow:
            raise RuntimeError(f"got {max(values)}: value cannot be converted to type float without overflow")

    def copy_gradient(self, memory: StepMemory, i: int) -> StepMemory:
        """With a copy of a gradient that lies where the step writes."""
        tensors = list(memory.gradients)
        tensors[i] = self.copied(memory.gradients[i], memory.params[i], self.likes[i])
        return self._fit(memory.params, memory.kept, memory.new_states, tensors)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
