"""The optimizer: parameters, groups, state, step number, and the one call that steps them all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import backends
from ..arguments import check_choice
from ..backends import cpu
from ..backends.arrays import Array
from ..backends.face import MISMATCHED, NONFINITE, STEPPED, settle
from ..backends.options import Options, check_names
from ..ledger.writer import Ledger
from .add_groups import add_groups, is_grouped
from .attributes import check_attribute
from .copies import restore_state, share_params, state_to_pickle
from .gradients import check_scale, copy_into_layouts, first_nonfinite
from .groups import Group, flatten_gradients, set_together
from .hyper import Hyper
from .mismatch import CorruptionError, checks_of, tell_mismatch
from .observed import Observed
from .param import Param, StateStore, check_layouts, check_writeable
from .plan import MADE, bind_plan, next_hyper, step_with_care, train
from .recorded import StepSums
from .state_dict import check_state_dict, facts_of

if TYPE_CHECKING:
    from typing_extensions import Self


class Optimizer(Observed):
    """What all optimizers share; use one of the classes of ``samestep.optimizers``.

    A subclass says which rules it is, by the tokens of their rows (``backends.face.RuleRow``), and names its
    hyper-parameters as ``Hyper`` attributes.
    """

    family: ClassVar[str]
    forms: ClassVar[tuple[str, ...]] = ()
    form_argument: ClassVar[str] = "form"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # the arguments that ask for each
    state_dict_keys: ClassVar[Sequence[str]] = ("contract", "rule", "options", "t", "steps", "hyper", "state")
    _times_steps = False
    _ledger: Ledger | None = None  # in which its steps are recorded
    _step_sums: StepSums | None = None  # or what these leave, of a part of the parameters
    _decides = True  # whether it sees all gradients, by which clip_norm and nonfinite go

    weight_decay = Hyper(at_least=0.0, optional=True)

    def __init__(
        self,
        params: Any,
        *,
        form: str | None,
        backend: str,
        hyper: Mapping[str, Any],
        variant: str | None = None,
        initial: Mapping[str, float] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        weight_decay: Any = 0.0,
        **options: Any,
    ) -> None:
        check_names(type(self), options)
        backends.check_name(backend)
        check_choice(self.form_argument, form, self.forms or (None,))
        self.form = form
        self.variant = variant or None
        row = cpu.rule(self.family, form, self.variant)
        self.rule = row.name
        self.backend = backend  # "auto" until the first parameter tells
        self._hyper_names, self._state_names = row.hyper, row.states
        self.options = Options(**options)
        self._default_hyper: dict[str, Any] = {
            name: value if callable(value) else self._hyper_of(name).check(value)
            for name, value in {**hyper, "weight_decay": weight_decay}.items()
        }
        folder = None if state_dir is None else os.fspath(state_dir)
        self._store = StateStore(self._state_names, self.options, initial or {}, folder)
        self._grouped = is_grouped(params)
        self.groups: list[Group] = []
        self._skipped = False
        # Steps of each parameter, then of the whole. A step increments them: Ctrl-C cannot come between.
        self._steps = np.zeros(1, np.int64)
        add_groups(self, list(params) if self._grouped else [{"params": params}])

    def __setattr__(self, name: str, value: Any) -> None:
        if "_plan" in vars(self):  # made, not being made
            check_attribute(self, name)
        super().__setattr__(name, value)

    def add_group(self, group: Mapping[str, Any]) -> None:
        """Adds parameters with hyper-parameters of their own; gradients then come as one entry a group.

        Args:
            group: ``{"params": arrays, "lr": ..., ...}``; what is not named is as at the start.

        Raises:
            TypeError, ValueError: an array cannot be updated in place or is there already, or a
                value is out of range; nothing has been changed.

        Example:
            >>> import numpy as np, samestep as ss
            >>> opt = ss.SGD(np.ones(2), lr=0.5)
            >>> opt.add_group({"params": np.ones(3), "lr": 0.25})
            >>> opt.step([np.ones(2), np.ones(3)])
            >>> [w[0].item() for w in opt.params]
            [0.5, 0.75]
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError('group: expected a dict with the key "params"')
        add_groups(self, [group])
        self._grouped = True

    def _hyper_of(self, name: str) -> Hyper:
        found: Hyper = getattr(type(self), name)
        return found

    @property
    def _module(self) -> Any:
        """The module of the backend."""
        return backends.module(self.backend)

    @property
    def _params(self) -> list[Param]:
        return [param for group in self.groups for param in group.params]

    def _bind(self) -> None:
        """Makes the plan of the step. The caller has checked that all arrays lie as they were bound."""
        self._settle()
        self._weight_decay = [0.0] * len(self.groups)
        self._plan = bind_plan(self)
        self._refresh_hyper()

    def _set_hyper(self, **values: Any) -> None:
        """Sets hyper-parameters of all groups, or on an error none."""
        checked = [(g, name, g.check(name, value)) for g in self.groups for name, value in values.items()]
        set_together(checked, self._refresh_hyper)

    def _refresh_hyper(self) -> None:
        """Hands the values of all groups to the plan; called after every change."""
        self._has_schedules = any(group._schedules for group in self.groups)
        self._hyper_values = [group[name] for group in self.groups for name in self._hyper_names]
        options = self.options
        decides = self._decides and (options.clip_norm is not None or options.nonfinite != "propagate")
        # Of the only group, where nothing else is to be checked or decided: checks take microseconds in use.
        more = self._grouped or len(self.groups) > 1 or self._has_schedules or decides
        self._plain = None if more else self.groups[0].structure
        weight_decay = [group["weight_decay"] for group in self.groups]
        if weight_decay != self._weight_decay:
            self._plan.set_weight_decay(weight_decay)
            self._weight_decay = weight_decay

    def __repr__(self) -> str:
        form = "" if self.form is None else f"{self.form_argument}={self.form!r}, "
        if len(self.groups) > 1:
            return f"{type(self).__name__}({form}{len(self.groups)} groups, t={self.t})"
        shown = {n: v for n, v in self.groups[0].items() if v or not self._hyper_of(n).optional}
        hyper = ", ".join(f"{name}={value:g}" for name, value in shown.items())
        return f"{type(self).__name__}({form}{hyper}, t={self.t})"

    def __getstate__(self) -> dict[str, Any]:
        return state_to_pickle(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore_state(self, state)

    def __copy__(self) -> Self:
        """An optimizer of the same parameters, with hyper-parameters, state and step counts of its own."""
        return share_params(self)

    @property
    def params(self) -> list[Array]:
        """The parameters, as arrays that are the caller's own."""
        return [param.array for param in self._params]

    @property
    def state(self) -> dict[str, list[Array]]:
        """The state arrays by name, one for each parameter; "ema" among them."""
        return {name: self._states_of(name) for name in self._store.names}

    @property
    def ema(self) -> list[Array]:
        """The running averages of the parameters; empty unless asked for with ``ema``."""
        return self._states_of("ema")

    @property
    def iterate(self) -> list[Array]:
        """The point that the texts call x or w_t, one array for each parameter: copies of the parameters.

        Only ``NAG`` keeps another point in their place. 16-bit parameters are widened to float32.
        """
        return [param.widened(self._module) for param in self._params]

    @property
    def copies(self) -> list[Array]:
        """The parameters in 16 bits; empty unless asked for with ``copy_dtype``."""
        return self._states_of("copy")

    def _states_of(self, name: str) -> list[Array]:
        return [param.states[name] for param in self._params if name in param.states]

    def step(self, grads: Any, *, scale: float = 1.0, check: int = 0) -> float | None:
        """Makes one step in place: all parameters and states, or, on an error, none.

        Args:
            grads: gradients in the structure of ``params``, each with its parameter's shape, dtype
                and memory layout (``copy_grads`` takes any layout). None skips that parameter, or a branch
                of them: state and step count stay. With groups, a list with an entry for each.
            scale: the gradients count so many times: 1/loss_scale. A finite number.
            check: so many blocks of 1024 elements, other ones in every step, are computed a second time by
                another thread, and compared before the step counts: a processor or memory that fails in
                silence is found by and by. On the CPU.

        Returns:
            The norm of all gradients together, ``scale`` times, before clipping, if ``clip_norm`` is set. On
            a GPU it is an array there without axes: ``float(norm)`` waits for it.

        Raises:
            TypeError, ValueError: a gradient, ``scale`` or ``check`` does not fit, or a schedule gives what
                is out of range; nothing has been changed.
            FloatingPointError: a gradient is not finite and ``nonfinite`` is "raise"; likewise.
            CorruptionError: two threads computed different bits; the step does not count, and what it wrote
                stays.
            RuntimeError: another thread is inside ``step`` of this optimizer.
        """
        plain = self._plain
        is_unchecked = type(check) is int and check == 0
        if plain is not None and type(scale) is float and scale == 1.0 and is_unchecked:
            flat = plain.flatten(grads)
            if self._plan.step(flat, self._hyper_values) == STEPPED:
                return None
        elif self._grouped:
            flat = flatten_gradients(self.groups, grads)
        else:
            flat = self.groups[0].structure.flatten(grads)
        return self._step_flat(flat, scale, check=check)

    def _step_flat(self, flat: Any, scale: float, following: Any = None, check: int = 0) -> float | None:
        """``step`` with one gradient for each parameter; ``following``: what ``next_hyper`` has returned."""
        more = checks_of(self, check)
        if type(scale) is not float or scale != 1.0:
            scale = check_scale(scale, any(group._is_single for group in self.groups))
        scheduled, hyper = following or next_hyper(self)
        copied = 0
        status = self._plan.step(flat, hyper, scale, *more)
        if self.options.copy_grads and status not in MADE:
            flat, copied = copy_into_layouts(flat, self._params, self._module)
            status = self._plan.step(flat, hyper, scale, *more)
        if status not in MADE:
            status = step_with_care(self, flat, hyper, scale, *more)
        if status == MISMATCHED:
            raise CorruptionError(tell_mismatch(self))
        if scheduled is not None:  # it takes effect if the step was made
            status = settle(self._plan) or status
        if copied and self._times_steps and status == STEPPED:
            self._plan.stats = self._plan.stats._replace(copied=copied)
        skipped = status == NONFINITE
        if skipped != self._skipped:  # comparing is five times as fast as setting an attribute
            self._skipped = skipped
        if scheduled is not None and not skipped:
            for group, values in zip(self.groups, scheduled, strict=True):
                group._hyper.update(values)
            self._hyper_values = hyper
        if skipped and self.options.nonfinite == "raise":
            name = first_nonfinite(flat, self._params, self._module)
            raise FloatingPointError(f"{name}: infinite or NaN; nothing was changed")
        return self._plan.norm if self.options.clip_norm is not None else None

    def _train(self, trainer: cpu.Trainer, steps: int) -> None:
        """So many steps along the gradient of the trainer's problem, in one native call."""
        train(self, trainer, steps)

    def _check_writeable(self) -> None:
        """Raises unless a step could write every array: layouts and flags may have been set since."""
        check_writeable(self._params)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything but the parameters: plain ints, floats, strings and NumPy arrays.

        Keys: ``contract`` (version of the bit contract), ``rule``, ``options`` (name: value), ``t``,
        ``steps`` (one count a parameter), ``hyper`` (name: value, None for what follows another; with
        several groups a list of these) and ``state`` (name: list of arrays). Schedules are not in it.
        """
        state = {name: [self._module.to_host(s) for s in states] for name, states in self.state.items()}
        return {**facts_of(self), "state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` returned; training goes on with the same bits.

        Args:
            state_dict: of an optimizer with the same rule and parameters of the same shapes and
                dtypes, on any backend, instruction set and thread count.

        Raises:
            TypeError, ValueError: it does not fit; nothing has been changed.
        """
        check_layouts(self._params)
        hypers = check_state_dict(self, state_dict)
        self._settle()
        steps = np.array([*state_dict["steps"], state_dict["t"]], np.int64)
        for name, states in self.state.items():
            for new, old in zip(state_dict["state"][name], states, strict=True):
                self._module.assign(old, new)
        self._steps[:] = steps
        for group, hyper in zip(self.groups, hypers, strict=True):
            group._hyper.update(hyper)
        if self._ledger is not None:
            self._ledger.at = -1
        self._bind()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything but the parameters to one safetensors file, whole or not at all.

        A temporary file in the same folder is written, synced and moved into place: whatever stops
        the process, ``path`` is what it was before or the whole new checkpoint. It keeps its permissions;
        a link stays, and what it leads to is replaced. Beside the state no more than a few pieces of it
        are in memory. Schedules are not in the file, nor is what a class of your own adds.

        Args:
            path: of the file, by custom ``*.safetensors``.

        Raises:
            OSError: the file cannot be written; no temporary file is left.
            ValueError: something that is neither file nor folder is there, such as a device.

        Example:
            >>> import numpy as np, samestep as ss, tempfile, os
            >>> w = np.ones(2)
            >>> opt = ss.Adam(w, lr=0.5)
            >>> opt.step(np.ones(2))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     opt.save(os.path.join(folder, "a.safetensors"))
            ...     ss.Adam.load(os.path.join(folder, "a.safetensors"), w)
            Adam(eps_placement='outside', lr=0.5, beta1=0.9, beta2=0.999, eps=1e-08, t=1)
        """
        from . import checkpoint  # here: it imports a third of what the package does

        checkpoint.write(path, {**facts_of(self), **checkpoint.facts_of(self)}, self.state)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        params: Any,
        backend: str = "auto",
        state_dir: str | os.PathLike[str] | None = None,
    ) -> Self:
        """The optimizer that ``save`` wrote, over these parameters; training goes on with the same bits.

        The state is copied from where it lies in the file: with ``state_dir`` it may be larger than memory.
        The class is the one that was saved: this one, or one derived from it that has been defined. The
        ``__init__`` of a derived class is not called: set its own attributes again, or construct it and call
        ``optimizer.load_state_dict(kind.load(path, params).state_dict())``.

        Args:
            path: of the file.
            params: arrays as at the time of saving, in any structure of as many groups.
            backend: "auto", "cpu", "reference" or "cuda".
            state_dir: as for the constructor: a folder without the files of another optimizer.

        Raises:
            TypeError, ValueError: the file is cut off or altered, of another rule or contract, or the
                parameters do not fit it; no file is left in ``state_dir``.
            FileExistsError: ``state_dir`` has the state of another optimizer, which stays.
        """
        from . import checkpoint

        facts, tensors = checkpoint.read(path)
        kind = checkpoint.find_class(cls, path, facts)
        loaded = kind.__new__(kind)
        Optimizer.__init__(
            loaded, params, backend=backend, state_dir=state_dir, **facts["made_with"], **facts["options"]
        )
        checkpoint.fill(loaded, path, facts, tensors)
        return loaded
