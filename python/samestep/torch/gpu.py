"""Parameters on NVIDIA GPUs: a plan for each GPU and rule, whose kernels run on torch's current stream.

The memory that is stepped, state included, is torch's. A plan knows where it lay, and every step looks again.
CuPy launches the kernels, and owns their small tables alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..backends import gpu
from ..backends.arrays import check_disjoint
from ..backends.face import STEPPED
from ..backends.face import Tensor as Bound
from ..backends.options import Options
from .launching import current_stream, is_capturing, on_gpu, on_stream, view
from .memory import Memory, has_state, step_count
from .tensors import gpu_of, is_aligned, is_dense, local_tensor

Key = tuple[str, tuple[str, ...], bool, bool]  # rule, states, decoupled, maximize
LARGEST_COUNT = 2**53  # float64 holds every whole number up to it


class _Place(NamedTuple):
    """Where a tensor lay, and how."""

    address: int
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]

    @classmethod
    def of(cls, local: Tensor) -> _Place:
        return cls(local.data_ptr(), local.dtype, local.shape, local.stride())

    def is_of(self, local: Tensor) -> bool:
        """Whether a tensor lies there."""
        same = local.data_ptr() == self.address and local.stride() == self.stride
        return same and local.shape == self.shape and bool(local.dtype == self.dtype)


class StepTensors(NamedTuple):
    """What one step of a plan reads and writes; it is kept alive by this alone."""

    gradients: list[Tensor | None]  # of every parameter, as it is walked
    given: list[Tensor | None]  # the same as they were handed in
    counts: list[Tensor]  # of steps
    stepped: list[Tensor]  # the parameters that have a gradient
    storages: list[Any]  # of parameters and states


class GpuPlan(Memory):
    """Parameters on one GPU that one rule steps, of several groups.

    Args:
        optimizer: a NativeOptimizer.
        number: of the GPU.
        key: rule, names of its states, decoupled, maximize.
        members: (group, parameter).
        counting: addresses of tensors that count the steps of other parameters; these are added.
    """

    def __init__(
        self, optimizer: Any, number: int, key: Key, members: Sequence[tuple[int, Tensor]], counting: set[int]
    ) -> None:
        super().__init__(optimizer, number)
        rule, self._state_names, decoupled, maximize = key
        self.members = members
        self.groups = sorted({group for group, _ in members})
        self.new_states: list[tuple[Tensor, dict[str, Any]]] = []  # what the first step adds to the state
        self.has_begun = False  # whether the last step has written anything
        self._number = number
        self._stream = current_stream(number)
        self._places: list[list[_Place]] = []  # of each parameter and its states
        self._counts: list[_Place] = []  # of the tensors that count their steps
        self._blocks: list[Tensor | None] = []  # stepped in the place of parameters that are none
        self._likes: list[Tensor] = []  # without memory, laid out as what is stepped
        # The last gradients' addresses, and the views of them.
        self._given: list[tuple[int, Any] | None] = [None] * len(members)
        self._compiled: set[bool] = set()  # the steps, with decay of weights and without
        self._steps = np.zeros(len(members) + 1, np.int64)
        self._before = self._steps.copy()  # those before the last step that a GPU may have left out
        tensors = StepTensors([], [], [], [], [])
        bound: list[Bound] = []
        with on_stream(number):
            for n, (group, param) in enumerate(members):
                own = self.memory("params", param)
                work = own if is_dense(own) else torch.empty_like(own)
                given = optimizer.state.get(param, {})
                new = {name: self.state(name, given.get(name), param, work) for name in self._state_names}
                states = [self.memory(f"state[{name!r}]", state) for name, state in new.items()]
                self._places.append([_Place.of(local) for local in (own, *states)])
                tensors.storages.extend(local.untyped_storage() for local in (own, *states))
                self._steps[n] = any(given.get(name) is not None for name in self._state_names)
                if optimizer.counts_steps:
                    new["step"] = step_count(given.get("step", 0), counting)
                    counting.add(new["step"].data_ptr())
                    self._counts.append(_Place.of(new["step"]))
                    tensors.counts.append(new["step"])
                if new:
                    self.new_states.append((param, new))
                self._blocks.append(None if work is own else work)
                self._likes.append(torch.empty_like(work, device="meta"))
                bound.append(Bound(view(work), [view(state) for state in states], self.groups.index(group)))
            try:
                check_disjoint(("params", a) for one in bound for a in one.arrays())
            except ValueError:
                raise RuntimeError(
                    "params: parameters or states of one group share memory, so that a step would update it "
                    "twice; pass each once, or those that share memory in groups of their own"
                ) from None
            options = Options(decoupled_weight_decay=decoupled, maximize=maximize)
            self._plan = gpu.Plan(rule, bound, self._steps, options)
        self._first: StepTensors | None = tensors

    def find_tensors(self, state: Any) -> StepTensors | None:
        """What a step reads and writes but for gradients; None: something no longer lies where it lay."""
        _refuse_capture(self._number)
        if current_stream(self._number) != self._stream:
            return None
        first, self._first = self._first, None
        if first is not None:
            return first
        found = StepTensors([], [], [], [], [])
        for n, (_, param) in enumerate(self.members):
            held = state.get(param, {})
            tensors = [param, *(held.get(name) for name in self._state_names)]
            for place, tensor in zip(self._places[n], tensors, strict=True):
                if not isinstance(tensor, Tensor) or gpu_of(tensor) != self.gpu:
                    return None
                local = local_tensor(tensor)
                found.storages.append(local.untyped_storage())  # first: another thread may change it
                if not place.is_of(local):
                    return None
            if self._counts:
                count = held.get("step")
                if not isinstance(count, Tensor) or not self._counts[n].is_of(count):
                    return None
                found.counts.append(count)
        return found

    def prepare(
        self, found: StepTensors, hyper: Sequence[Sequence[float]], weight_decay: Sequence[float]
    ) -> None:
        """Adds the gradients, those that cannot be walked with their parameters as copies that can.

        All that may fail but a launch comes here: step counts are checked, and kernels compiled.
        """
        for (_, param), like in zip(self.members, self._likes, strict=True):
            grad = param.grad
            found.given.append(grad)
            if grad is not None:
                found.stepped.append(param)
                if not self._is_walked(grad, like):
                    grad = self._made_to_fit(grad, param, like)
            found.gradients.append(grad)
        for n, count in enumerate(found.counts):
            self._steps[n] = _checked_count(count.item())
        decay = [weight_decay[group] for group in self.groups]
        self._plan.set_weight_decay(decay)
        self._hyper = [value for group in self.groups for value in hyper[group]]
        if any(decay) not in self._compiled:
            with on_stream(self._number):
                self._plan.compile(self._hyper)
            self._compiled.add(any(decay))

    def unscale(self, found: StepTensors, inverse: Tensor) -> None:
        """Multiplies the gradients by the inverse of a scale, in place, as GradScaler.unscale_ does."""
        inverse = on_gpu(inverse, self._number)
        of_type: dict[torch.dtype, list[Tensor]] = {}
        for grad in found.given:
            if grad is not None:
                of_type.setdefault(grad.dtype, []).append(local_tensor(grad))
        with torch.no_grad():
            for grads in of_type.values():
                torch._amp_foreach_non_finite_check_and_unscale_(grads, torch.zeros_like(inverse), inverse)
        for n, grad in enumerate(found.given):
            if grad is not None and grad is not found.gradients[n]:  # of which that may be a copy
                found.gradients[n] = self._made_to_fit(grad, self.members[n][1], self._likes[n])

    def launch(self, found: StepTensors, found_inf: Tensor | None) -> None:
        """Steps what was prepared, and counts it; the device leaves it out if ``found_inf`` is not 0."""
        if not found.stepped:
            return
        if found_inf is not None:
            self._before = self._steps.copy()
            found_inf = on_gpu(found_inf, self._number)  # which lives until the launches have been made
        self._plan.found_inf = 0 if found_inf is None else found_inf.data_ptr()
        with on_stream(self._number), torch.no_grad():
            strided = [
                (self.memory("params", param), block)
                for (_, param), block in zip(self.members, self._blocks, strict=True)
                if block is not None
            ]
            for own, block in strided:
                block.copy_(own)
            refused = 0
            try:
                while (refused := self._plan.step(self._views(found.gradients), self._hyper)) != STEPPED:
                    grad = found.gradients[refused]  # it lies where the step writes
                    assert grad is not None
                    copied = self.copied(grad, self.members[refused][1], self._likes[refused])
                    found.gradients[refused] = copied
            finally:
                self.has_begun = refused == STEPPED or bool(self._steps[0] < 0)
            for own, block in strided:
                own.copy_(block)
        for n, count in enumerate(found.counts):
            if found.gradients[n] is not None:
                count.fill_(int(self._steps[n]))

    def take_back(self, counts: list[Tensor]) -> None:
        """Counts the last step, of these counts, as left out. It may be called again if it is interrupted."""
        for n, count in enumerate(counts):
            if count.item() == self._steps[n]:  # else somebody has set it since
                count.fill_(int(self._before[n]))
        self._plan.take_back(self._before)

    def _made_to_fit(self, grad: Tensor, param: Tensor, like: Tensor) -> Tensor:
        grad = self.plain(grad, param, like)
        if grad.stride() != like.stride() or not is_aligned(grad):
            grad = self.copied(grad, param, like)
        return grad

    def _is_walked(self, grad: Tensor, like: Tensor) -> bool:
        """Whether a gradient is plain, on this GPU, and lies as its parameter does."""
        return (
            type(grad) is Tensor
            and grad.layout is torch.strided
            and grad.dtype == like.dtype
            and grad.shape == like.shape
            and grad.stride() == like.stride()
            and gpu_of(grad) == self.gpu
            and not (grad.is_neg() or grad.is_conj())
            and is_aligned(grad)
        )

    def _views(self, gradients: list[Tensor | None]) -> list[Any]:
        """CuPy's views of the gradients: those of the last step, where they lie as they did."""
        views: list[Any] = []
        for n, grad in enumerate(gradients):
            if grad is None:
                views.append(None)
                continue
            given = self._given[n]
            if given is None or given[0] != grad.data_ptr():
                given = self._given[n] = grad.data_ptr(), view(grad)
            views.append(given[1])
        return views


class GpuSteps:
    """The plans of all parameters of an optimizer that lie on GPUs.

    Args:
        optimizer: a NativeOptimizer.
        bindings: of its groups.
    """

    def __init__(self, optimizer: Any, bindings: Sequence[Any]) -> None:
        self._bindings = list(bindings)
        self._unbound: list[Tensor] = []  # those that have had no gradient
        groups = [group["params"] for group in optimizer.param_groups]
        here = [[params[i] for i in b.gpu_at] for b, params in zip(bindings, groups, strict=True)]
        numbers = {gpu_of(param) for params in here for param in params}
        for number in sorted(number for number in numbers if number is not None):
            _refuse_capture(number)
        alone = _groups_that_share(here)
        members: dict[tuple[int, Key, int], list[tuple[int, Tensor]]] = {}
        for group, (binding, params) in enumerate(zip(bindings, here, strict=True)):
            has_any_state = has_state(optimizer, binding.key[1])
            for param in {id(param): param for param in params}.values():
                place = gpu_of(param)
                assert place is not None
                if param.grad is not None or optimizer.state.get(param) or not has_any_state:
                    where = place, binding.key, group if group in alone else -1
                    members.setdefault(where, []).append((group, param))
                else:
                    self._unbound.append(param)
        on_gpus = {id(param) for params in here for param in params}
        others = [param for params in groups for param in params if id(param) not in on_gpus]
        steps = [optimizer.state.get(param, {}).get("step") for param in others]
        counting = {step.data_ptr() for step in steps if isinstance(step, Tensor)}
        self._plans = [
            GpuPlan(optimizer, number, key, some, counting) for (number, key, _), some in members.items()
        ]

    def find_tensors(self, optimizer: Any, bindings: Sequence[Any]) -> list[StepTensors] | None:
        """What a step of each plan reads and writes; None: other plans are needed."""
        if self._bindings != list(bindings) or any(param.grad is not None for param in self._unbound):
            return None
        found = []
        for plan in self._plans:
            one = plan.find_tensors(optimizer.state)
            if one is None:
                return None
            found.append(one)
        return found

    def prepare(
        self,
        found: list[StepTensors],
        hyper: Sequence[Sequence[float]],
        weight_decay: Sequence[float],
    ) -> list[Tensor]:
        """Finds and checks gradients and step counts; returns the parameters that are to be stepped."""
        for plan, one in zip(self._plans, found, strict=True):
            plan.has_begun = False
            plan.prepare(one, hyper, weight_decay)
        return [param for one in found for param in one.stepped]

    @property
    def adds_state(self) -> bool:
        """Whether the next step adds to the optimizer's state."""
        return any(plan.new_states for plan in self._plans)

    def unscale(self, found: list[StepTensors], scale: Tensor) -> None:
        """Multiplies the gradients by the inverse of a scale, in place."""
        inverse = scale.double().reciprocal().float()  # as GradScaler.unscale_ forms it
        for plan, one in zip(self._plans, found, strict=True):
            plan.unscale(one, inverse)

    @property
    def has_begun(self) -> bool:
        """Whether the last step has written anything."""
        return any(plan.has_begun for plan in self._plans)

    def counted(self, found: list[StepTensors]) -> list[tuple[GpuPlan, list[Tensor]]]:
        """The plans that step something, and the tensors that count their steps."""
        return [(plan, one.counts) for plan, one in zip(self._plans, found, strict=True) if one.stepped]

    def launch(self, optimizer: Any, found: list[StepTensors], found_inf: Tensor | None) -> None:
        """Steps what was prepared; the first time it puts the states where torch has them.

        Args:
            optimizer: that of the plans.
            found: what was prepared.
            found_inf: if it is not 0, the device leaves the step out; then ``adds_state`` must be false.
        """
        for plan, one in zip(self._plans, found, strict=True):
            plan.launch(one, found_inf)
            for param, values in plan.new_states:
                optimizer.state[param].update(values)
            plan.new_states = []


def _checked_count(value: float) -> int:
    if not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"state['step']: got {value}, expected a number from 0 to 2^53")
    return int(value)


def _refuse_capture(number: int) -> None:
    if is_capturing(number):
        raise RuntimeError(
            "step: a CUDA graph is being captured, but each step reads lr and step counts in main memory, so "
            "that no graph can hold it; step after the graph's replay, or use torch.optim's with "
            "capturable=True"
        )


def _groups_that_share(groups: Sequence[Sequence[Tensor]]) -> set[int]:
    """The numbers of groups with a parameter that lies in the memory of another group's."""
    ranges = []
    for group, params in enumerate(groups):
        for param in params:
            local = local_tensor(param)
            if local.numel():
                last = sum((n - 1) * step for n, step in zip(local.shape, local.stride(), strict=True))
                begin = local.data_ptr()
                ranges.append((begin, begin + (last + 1) * local.element_size(), group))
    found, end, of = set(), 0, -1
    for begin, until, group in sorted(ranges):
        if begin < end and group != of:
            found |= {group, of}
        if until > end:
            end, of = until, group
    return found
