"""Parameters on NVIDIA GPUs: a plan for each GPU and rule, whose kernels run on torch's current stream.

The memory that is stepped, state included, is torch's. A plan knows where it lay, and every step looks again.
CuPy launches the kernels, and owns their small tables alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..backends import gpu
from ..backends.arrays import check_disjoint
from ..backends.face import STEPPED
from ..backends.face import Tensor as Bound
from ..backends.gpu.device import get_cupy
from ..backends.options import Options
from ..optional import require
from .memory import Memory, has_state, step_count
from .tensors import gpu_of, is_aligned, is_dense, local_tensor

Key = tuple[str, tuple[str, ...], bool, bool]  # rule, states, decoupled, maximize


def current_stream(number: int) -> int:
    """The address of torch's current stream on a GPU."""
    address: int = torch.cuda.current_stream(number).cuda_stream
    return address


@contextlib.contextmanager
def on_stream(number: int) -> Iterator[None]:
    """CuPy launches on torch's current stream of a GPU."""
    cuda = get_cupy().cuda
    with cuda.Device(number), cuda.ExternalStream(current_stream(number), number):
        yield


class _Address:
    """Where a tensor lies, for CuPy: nothing that keeps it there."""

    def __init__(self, tensor: Tensor) -> None:
        letter = "u" if tensor.dtype == torch.bfloat16 else "f"  # which the interface has no name for
        size = tensor.element_size()
        self.__cuda_array_interface__ = {
            "version": 3,
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * size for stride in tensor.stride()),
            "typestr": f"<{letter}{size}",
            "stream": None,  # the step runs on torch's
        }


def view(tensor: Tensor) -> Any:
    """CuPy's view of a dense tensor on the current GPU, complex numbers as pairs; it keeps nothing alive."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    bfloat16 = None
    if tensor.dtype == torch.bfloat16:
        bfloat16 = require("ml_dtypes", "torch.bfloat16 on a GPU", "bfloat16").bfloat16
    if tensor.numel() == 0:  # at no address
        dtype = bfloat16 or np.dtype(f"f{tensor.element_size()}")
        return get_cupy().empty(tuple(tensor.shape), dtype)
    found = get_cupy().asarray(_Address(tensor))
    return found if bfloat16 is None else found.view(bfloat16)


class _Place(NamedTuple):
    """Where a tensor lay, and how."""

    address: int
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Place:
        local = local_tensor(tensor)
        return cls(local.data_ptr(), local.dtype, local.shape, local.stride())


class GpuPlan(Memory):
    """Parameters on one GPU that one rule steps, of several groups."""

    def __init__(self, optimizer: Any, number: int, key: Key, members: Sequence[tuple[int, Tensor]]) -> None:
        super().__init__(optimizer, number)
        self._number = number
        rule, self._state_names, decoupled, maximize = key
        self.members = members  # (group, parameter)
        self.groups = sorted({group for group, _ in members})
        self.new_states: list[tuple[Tensor, dict[str, Any]]] = []  # what the first step adds to the state
        self._counts_steps = optimizer.counts_steps
        self._stream = current_stream(number)
        self._places: list[list[_Place]] = []  # of each parameter and its states
        self._blocks: list[Tensor | None] = []  # stepped in the place of parameters that are none
        self._likes: list[Tensor] = []  # without memory, laid out as what is stepped
        # The last gradients' addresses, and the views of them.
        self._given: list[tuple[int, Any] | None] = [None] * len(members)
        self._gradients: list[Tensor | None] = []
        self.has_begun = False  # whether the last step has written anything
        self._steps = np.zeros(len(members) + 1, np.int64)
        bound: list[Bound] = []
        counts: set[int] = set()
        with on_stream(number):
            for n, (group, param) in enumerate(members):
                own = self.memory("params", param)
                work = own if is_dense(own) else torch.empty_like(own)
                given = optimizer.state.get(param, {})
                new = {name: self.state(name, given.get(name), param, work) for name in self._state_names}
                states = [self.memory(f"state[{name!r}]", state) for name, state in new.items()]
                self._places.append([_Place.of(param), *map(_Place.of, states)])
                self._steps[n] = any(given.get(name) is not None for name in self._state_names)
                if self._counts_steps:
                    new["step"] = step_count(given.get("step", 0), counts)
                    counts.add(new["step"].data_ptr())
                if new:
                    self.new_states.append((param, new))
                self._blocks.append(None if work is own else work)
                self._likes.append(torch.empty_like(work, device="meta"))
                bound.append(Bound(view(work), [view(state) for state in states], self.groups.index(group)))
            try:
                check_disjoint(("params", a) for one in bound for a in one.arrays())
            except ValueError:
                raise RuntimeError(
                    "params: parameters or states share memory, so that a step would update it twice; pass "
                    "each once"
                ) from None
            options = Options(decoupled_weight_decay=decoupled, maximize=maximize)
            self._plan = gpu.Plan(rule, bound, self._steps, options)

    def is_in_place(self, state: Any) -> bool:
        """Whether all that the plan steps lies where it lay, for work on the same stream."""
        if current_stream(self._number) != self._stream:
            return False
        for (_, param), places in zip(self.members, self._places, strict=True):
            held = state.get(param, {})
            found = [param, *(held.get(name) for name in self._state_names)]
            if self._counts_steps and "step" not in held:
                return False
            for tensor, place in zip(found, places, strict=True):
                if tensor is None or gpu_of(tensor) != self.gpu or _Place.of(tensor) != place:
                    return False
        return True

    def take_gradients(self) -> list[Tensor]:
        """Finds the gradients, those that cannot be walked with their parameters as copies that can.

        Returns:
            The parameters that have one.
        """
        self._gradients = []
        stepped = []
        for (_, param), like in zip(self.members, self._likes, strict=True):
            grad = param.grad
            if grad is not None:
                stepped.append(param)
                grad = self.plain(grad, param, like)
                if grad.stride() != like.stride() or not is_aligned(grad):
                    grad = self.copied(grad, param, like)
            self._gradients.append(grad)
        return stepped

    def launch(self, state: Any, hyper: Sequence[Sequence[float]], weight_decay: Sequence[float]) -> None:
        """Steps the parameters whose gradients were taken, and their counts."""
        is_stepped = [grad is not None for grad in self._gradients]
        if not any(is_stepped):
            return
        counts = [state[param]["step"] for _, param in self.members] if self._counts_steps else []
        if counts:
            self._steps[:-1] = [int(count) for count in counts]
        self._plan.set_weight_decay([weight_decay[group] for group in self.groups])
        values = [value for group in self.groups for value in hyper[group]]
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
                while (refused := self._plan.step(self._views(), values)) != STEPPED:
                    self._copy_gradient(refused)  # it lies where the step writes
            finally:
                self.has_begun = refused == STEPPED or bool(self._steps[0] < 0)
            for own, block in strided:
                own.copy_(block)
        self._gradients = []
        if counts:
            torch._foreach_add_([c for c, is_one in zip(counts, is_stepped, strict=True) if is_one], 1)

    def _copy_gradient(self, n: int) -> None:
        grad = self._gradients[n]
        assert grad is not None
        self._gradients[n] = self.copied(grad, self.members[n][1], self._likes[n])

    def _views(self) -> list[Any]:
        """CuPy's views of the gradients: those of the last step, where they lie as they did."""
        views: list[Any] = []
        for n, grad in enumerate(self._gradients):
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
        members: dict[tuple[int, Key], list[tuple[int, Tensor]]] = {}
        for group, binding in enumerate(bindings):
            params = optimizer.param_groups[group]["params"]
            has_any_state = has_state(optimizer, binding.key[1])
            for param in {id(params[i]): params[i] for i in binding.gpu_at}.values():
                number = gpu_of(param)
                assert number is not None
                if param.grad is not None or optimizer.state.get(param) or not has_any_state:
                    members.setdefault((number, binding.key), []).append((group, param))
                else:
                    self._unbound.append(param)
        self._plans = [GpuPlan(optimizer, *where, some) for where, some in members.items()]

    def are_of(self, optimizer: Any, bindings: Sequence[Any]) -> bool:
        """Whether they can step what is to be stepped now."""
        return (
            self._bindings == list(bindings)
            and all(param.grad is None for param in self._unbound)
            and all(plan.is_in_place(optimizer.state) for plan in self._plans)
        )

    @property
    def has_begun(self) -> bool:
        """Whether the last step has written anything."""
        return any(plan.has_begun for plan in self._plans)

    def take_gradients(self) -> list[Tensor]:
        """Finds and checks all gradients; returns the parameters that have one."""
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "step: a CUDA graph is being captured, but each step reads lr and step counts in main "
                "memory, so that no graph can hold it; step after the graph's replay, or use torch.optim's "
                "with capturable=True"
            )
        return [param for plan in self._plans for param in plan.take_gradients()]

    def new_states(self) -> list[tuple[Tensor, dict[str, Any]]]:
        """What goes into the state of the parameters, once."""
        found = [new for plan in self._plans for new in plan.new_states]
        for plan in self._plans:
            plan.new_states = []
        return found

    def launch(self, optimizer: Any, hyper: Sequence[Sequence[float]], weight_decay: Sequence[float]) -> None:
        """Steps the parameters whose gradients were taken."""
        for plan in self._plans:
            plan.has_begun = False
        for plan in self._plans:
            plan.launch(optimizer.state, hyper, weight_decay)
