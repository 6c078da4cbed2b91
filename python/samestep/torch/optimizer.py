"""What the optimizers share: a torch.optim class whose step is one native call for all parameter groups.

Groups, hooks, state and state dicts stay torch's. A binding notes how a group's parameters and state lie in
memory. Before a step writes its first byte, it checks that all of it still lies there and that every gradient
fits, in all groups; `_core.Layouts` answers both. Parameters on GPUs have plans of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._core import AddressedPlan, Identities
from ..ledger.records import Path
from .binding import Binding, NewState, StepMemory
from .gpu import GpuSteps, StepTensors
from .launching import Later
from .memory import STATE_DTYPES, STEP_DTYPE
from .named import Names
from .recording import Recording
from .scaling import OpenStep, Scaling, settle, supports_scaling

MODES = {"capturable", "differentiable"}  # that a step refuses


class NativeOptimizer(torch.optim.Optimizer):
    """The mixin in front of a torch.optim class. A subclass says which rule a group asks for."""

    counts_steps: ClassVar[bool] = True  # whether there is a "step" in the state
    sparse_advice: ClassVar[str] = ""

    # No __init__: programs look for `fused` in a constructor's signature, and so it is torch's own.
    # GradScaler asks for it before each step. torch's constructors set it with `fused`, on whatever device.
    _step_supports_amp_scaling = property(supports_scaling, lambda self, value: None)

    @property
    def state(self) -> Any:
        """torch's. Where a GPU may have left out the last step, this waits until that is known.

        A tensor that was taken from here before that step has counted it until then.
        """
        if "_open_step" in self.__dict__:
            settle(self.__dict__)
        try:
            return self.__dict__["state"]
        except KeyError:  # of a wrapper that looks for what it lacks in the optimizer
            raise AttributeError("state") from None

    @state.setter
    def state(self, value: Any) -> None:
        self.__dict__["state"] = value

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if not hasattr(Tensor, "__dlpack_c_exchange_api__"):
            raise RuntimeError(
                f"torch: got {torch.__version__}, expected 2.13 or later, whose tensors C can look at: "
                "pip install --upgrade torch"
            )
        if isinstance(param_group, dict):  # what else it may be, torch says
            _refuse_modes({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        """The rule of the core, and torch's names of its states, in the rule's order."""
        raise NotImplementedError

    def hyper(self, group: dict[str, Any]) -> list[float]:
        """The rule's hyper-parameters."""
        raise NotImplementedError

    @torch._disable_dynamo  # torch.compiler.disable would import the compiler here, for seconds
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient or, on an error or an interrupt, of none.

        All groups are checked first. Then one native call steps their parameters, states and step counts: an
        exception out of a signal handler, such as KeyboardInterrupt, is raised before that call, when nothing
        has been stepped, or after it, when everything has. Other threads may meanwhile give parameters and
        states other memory or drop gradients; they must not write to these or resize their storages in place.

        Parameters on an NVIDIA GPU are stepped by kernels on torch's current stream, for which nothing waits.
        An exception between two launches leaves a step half made: every further step says so, and nothing is
        copied or saved of it. With ``fused=True`` torch's GradScaler has the GPU leave out a step whose
        gradients are not finite.

        Args:
            closure: evaluates the model again and returns the loss.
        """
        if "found_inf" not in self.__dict__:
            return self._step(closure, None)
        try:
            if closure is not None:
                raise RuntimeError("closure: got one, but GradScaler has looked at the gradients before it")
            return self._step(None, Scaling.of(self))
        except BaseException:
            # GradScaler takes them away after a step that returns; the next one would multiply the scales.
            for name in ("found_inf", "grad_scale"):
                self.__dict__.pop(name, None)
            raise

    def _step(self, closure: Callable[[], Any] | None, scaling: Scaling | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_whole()
        state = self.state  # which settles the last step
        known = self._bindings(state)
        states = list(state.values())
        bindings: list[Binding] = []
        memories: list[StepMemory] = []
        new_states: list[NewState] = []
        stepped: list[Tensor] = []
        hyper, weight_decay = [], []
        for i, group in enumerate(self.param_groups):
            binding, memory = self._prepare(group, known[i], states)
            known[i] = binding
            bindings.append(binding)
            memories.append(memory)
            new_states += memory.new_states
            stepped += memory.stepped
            hyper.append(self.hyper(group))
            weight_decay.append(float(group["weight_decay"]))
            binding.check_hyper([*hyper[i], weight_decay[i]])
        if scaling is not None and any(memory.stepped for memory in memories):
            raise RuntimeError("found_inf: got one for parameters in main memory; let GradScaler set it")
        on_gpus = None
        if any(binding.gpu_at for binding in bindings):
            on_gpus, gpu_tensors = self._steps_on_gpus(bindings)
            stepped += on_gpus.prepare(gpu_tensors, hyper, weight_decay)
        else:
            self.__dict__.pop("_gpu_steps", None)
        recording: Recording | None = self.__dict__.get("_recording")
        if recording is not None and recording.is_closed:  # by a child process, which has the parent's
            recording = None
        if scaling is not None and on_gpus is not None:
            scaling.unscale(self, on_gpus, gpu_tensors)
            if recording is not None or on_gpus.adds_state:  # what a step that is left out must not do
                if scaling.found_inf.item():
                    self.__dict__.pop("_is_half_stepped", None)
                    return loss
                scaling = None
        sums = None if recording is None else recording.begin_native(bindings)
        for param, values, _ in new_states:
            state[param] = values  # empty, if it is new
        # Autograd hears of the step before it is made: no interrupt may leave one that it never heard of.
        torch.autograd.graph.increment_version(stepped)
        plans = [binding.plan for binding in bindings]
        then = [partial(one.update, values) for _, one, values in new_states]
        if on_gpus is not None and any(a is not None for memory in memories for a in memory.addresses):
            then.append(partial(self.__dict__.__setitem__, "_is_half_stepped", True))
        while refused := AddressedPlan.step_together(
            plans, [memory.addresses for memory in memories], hyper, weight_decay, then, sums
        ):
            i, k = refused  # it lies where the step writes
            memories[i] = bindings[i].copy_gradient(memories[i], k)
        if on_gpus is not None:
            self._launch(on_gpus, gpu_tensors, None if scaling is None else scaling.found_inf)
        if None in [binding.state_places for binding in bindings]:
            positions = {key: k for k, key in enumerate(map(id, state))}
            for binding in bindings:
                binding.find_states(positions)
            self._state_params = Identities(list(state))
        if recording is not None:
            recording.end(is_native=sums is not None)
        return loss

    def record(
        self,
        path: Path | None,
        *,
        names: Names | None = None,
        every: int = 1,
        state: bool = True,
        sync: bool = False,
        merkle: bool = False,
        append: bool = False,
    ) -> Any:
        """Writes what every further step computes into a file, a line a step, or no longer.

        As ``samestep.torch.record``, which has arguments and errors, but the fingerprints are made in the
        step's own pass, where a parameter is contiguous. ``path`` None: no further step is recorded.

        Example:
            >>> import os, tempfile, torch, samestep as ss, samestep.torch
            >>> w = torch.nn.Parameter(torch.ones(2))
            >>> optimizer = ss.torch.SGD([w], lr=0.5)
            >>> w.grad = torch.ones(2)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = os.path.join(folder, "run.jsonl")
            ...     with optimizer.record(path, names={"w": w}):
            ...         optimizer.step()
            ...     last = ss.ledger.read_ledger(path).records[-1]
            >>> last.tensors["w"][1] == f"{ss.fingerprint(w.detach().numpy()):016x}"
            True
        """
        how: dict[str, Any] = {
            "every": every,
            "state": state,
            "sync": sync,
            "merkle": merkle,
            "append": append,
        }
        new = None if path is None else Recording(self, path, names=names, **how)
        old = self.__dict__.get("_recording")
        if old is not None:
            old.close()
        self._recording = new
        return new

    def _bindings(self, state: Any) -> list[Any]:
        """What the groups are bound to; nothing where parameters have come into the state, or left it."""
        bindings: list[Any] = self.__dict__.setdefault("_step_bindings", [])
        known = self.__dict__.get("_state_params")
        if known is None or not known.are_of(list(state)):
            bindings.clear()
        bindings += [None] * (len(self.param_groups) - len(bindings))
        return bindings

    def _steps_on_gpus(self, bindings: list[Binding]) -> tuple[GpuSteps, list[StepTensors]]:
        """Plans of the parameters on GPUs, and what they step, which is in place."""
        known: GpuSteps | None = self.__dict__.get("_gpu_steps")
        found = None if known is None else known.find_tensors(self, bindings)
        while known is None or found is None:  # in the second turn only if another thread interferes
            known = self._gpu_steps = GpuSteps(self, bindings)
            found = known.find_tensors(self, bindings)
        return known, found

    def _launch(self, on_gpus: GpuSteps, found: list[StepTensors], found_inf: Tensor | None) -> None:
        """Steps the parameters on GPUs, after those in main memory, or leaves that to the GPUs."""
        has_stepped = "_is_half_stepped" in self.__dict__
        later = None if found_inf is None else Later(found_inf)
        self._is_half_stepped = True
        try:
            on_gpus.launch(self, found, found_inf)
            if later is not None:
                self._open_step = OpenStep(later, on_gpus.counted(found))
        except BaseException:
            if not (has_stepped or on_gpus.has_begun):
                del self._is_half_stepped
            raise
        del self._is_half_stepped

    def _check_whole(self) -> None:
        if "_is_half_stepped" in self.__dict__:
            raise RuntimeError(
                "an earlier step was interrupted between two launches, or another thread is in one, so that "
                "parameters and states do not belong together; put all of them back as they were saved, the "
                "states with load_state_dict"
            )

    def state_dict(self) -> Any:
        """torch's; it raises RuntimeError after a step that was half made."""
        self._check_whole()
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        self._check_whole()
        state: dict[str, Any] = super().__getstate__()
        return state

    def _prepare(
        self, group: dict[str, Any], binding: Binding | None, states: list[dict[str, Any]]
    ) -> tuple[Binding, StepMemory]:
        """A binding that is in place, and the memory of its step."""
        rule, names = self.rule(group)
        params = group["params"]
        key = (rule, names, bool(group.get("decoupled_weight_decay")), bool(group["maximize"]))
        if binding is not None and binding.key == key and binding.params.are_of(params):
            memory = binding.get_memory(params, states)
            if memory is not None:
                return binding, memory
        _refuse_modes(group)
        binding = Binding(self, params, *key)
        return binding, binding.get_new_memory()

    def load_state_dict(self, state_dict: Any) -> None:
        """torch's, but it copies the state and rounds neither step counts nor 16-bit parameters' state.

        The modes that a step refuses say how a checkpoint came about: they are loaded as switched off.
        """
        given: list[Any] = []

        def copy_state(_: torch.optim.Optimizer, state_dict: Any) -> Any:
            groups = [
                {**group, **dict.fromkeys(MODES & group.keys(), False)}
                for group in state_dict["param_groups"]
            ]
            given.append({**state_dict, "param_groups": groups, "state": _copied_state(state_dict["state"])})
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
                    self.state[param]["step"] = torch.tensor(int(saved_state["step"]), dtype=STEP_DTYPE)
                for name, values in saved_state.items():
                    if name != "step" and isinstance(values, Tensor) and values.dtype != param.dtype:
                        dtype = STATE_DTYPES.get(param.dtype, param.dtype)
                        self.state[param][name] = values.to(param.device, dtype)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.pop("_step_bindings", None)
        self.__dict__.pop("_state_params", None)
        self.__dict__.pop("_gpu_steps", None)
        self.__dict__.pop("_is_half_stepped", None)
        self.__dict__.pop("_open_step", None)


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
            "capturable: got True, but each step reads lr and step counts in main memory, "
            "so that no CUDA graph can hold it; use torch.optim's"
        )
    if group.get("differentiable"):
        raise NotImplementedError(
            "differentiable: got True, but the step is made in place by kernels that autograd does not see; "
            "use torch.optim's"
        )
