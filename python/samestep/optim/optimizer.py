"""The optimizer: parameters, groups, state, step number, and the one call that steps them all."""

from __future__ import annotations

import copy
import math
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import backends
from ..arguments import check_choice, check_rounded, number, switch
from ..backends import arrays, cpu
from ..backends.arrays import Array
from ..backends.face import MOVED, NONFINITE, STEPPED
from ..backends.options import Options, arguments_of
from ..backends.reference.storage import join, widen
from ..optional import require
from .groups import Group, GroupParams, is_grouped
from .hyper import Hyper, pair
from .options import OptionArguments, check_options
from .stats import RecordingPlan, StepStats

if TYPE_CHECKING:
    from typing_extensions import Self


READ_ONLY_FIX = "set its flag, or step copy.deepcopy(optimizer) and its params"


class Optimizer:
    """What all optimizers share; use one of the classes of ``samestep.optimizers``.

    A subclass says which rule it is and names its hyper-parameters as ``Hyper`` attributes. A rule
    that comes in several forms is called ``<family>_<form>``, and where an option of its own makes it
    another rule, ``<family>_<variant>`` with a key of ``variants``.
    """

    family: ClassVar[str]  # the rule's name, without the form
    forms: ClassVar[tuple[str, ...]] = ()
    form_argument: ClassVar[str] = "form"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # the arguments that ask for each
    state_dict_keys: ClassVar = ("contract", "rule", "options", "t", "steps", "hyper", "state")
    _records = False

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
        for name in options:
            if name not in OptionArguments.__annotations__:
                raise TypeError(
                    f"{type(self).__name__}: got the unknown argument {name!r}, expected some of "
                    f"{', '.join((*self._own_arguments(), *OptionArguments.__annotations__))}"
                )
        backends.check_name(backend)
        check_choice(self.form_argument, form, self.forms or (None,))
        self.form = form
        self.variant = variant or None
        self.rule = "_".join(part for part in (self.family, form, variant) if part)
        self.backend = backend  # "auto" until the first parameter tells
        rows = {name: (hypers, states) for name, hypers, states in cpu.rules()}
        self._hyper_names, self._state_names = rows[self.rule]
        self.options = check_options(**options)
        self._default_hyper = {
            name: value if callable(value) else self._hyper_of(name).check(value)
            for name, value in {**hyper, "weight_decay": weight_decay}.items()
        }
        self._initial = dict(initial or {})
        self._state_dir = None if state_dir is None else os.fspath(state_dir)
        self._files: list[str] = []  # that were made there
        self._grouped = is_grouped(params)

        self.groups: list[Group] = []
        self._layouts: list[tuple[str, Array, arrays.Layout]] = []
        self._skipped = False
        self._state: dict[str, list[Array]] = {name: [] for name in self._state_names}
        for name, asked in (
            ("ema", self.options.ema),
            ("master", self.options.master == "float32"),
            ("low", self.options.master == "split"),
            ("copy", self.options.copy_dtype),
        ):
            if asked:
                self._state[name] = []
        # One count a parameter, then that of the whole. The plan counts all of them in the step itself: an
        # exception between the step and a count made here, such as Ctrl-C, would tear them apart.
        self._steps = np.zeros(1, np.int64)
        self._take_in(list(params) if self._grouped else [{"params": params}])

    @classmethod
    def _own_arguments(cls) -> list[str]:
        """What the constructors of this class and its bases take by name, options left out."""
        import inspect  # here: only an error needs it

        makers = [vars(kind)["__init__"] for kind in cls.__mro__ if "__init__" in vars(kind)]
        parameters = (p for make in makers[:-2] for p in inspect.signature(make).parameters.values())
        names = dict.fromkeys(p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self")
        return [name for name in names if name not in OptionArguments.__annotations__]

    def __setattr__(self, name: str, value: Any) -> None:
        # Names that no class knows are refused once the groups are there: most likely a hyper-parameter
        # of another optimizer or a misspelt one, which would change nothing.
        # A class derived elsewhere may have attributes of its own.
        known = name.startswith("_") or hasattr(type(self), name) or name in vars(self)
        is_derived = not type(self).__module__.startswith("samestep.")
        if not known and not is_derived and "groups" in vars(self):
            raise AttributeError(
                f"{name}: {type(self).__name__} has none, expected one of {', '.join(self._default_hyper)}"
            )
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
        self._take_in([group])
        self._grouped = True

    def _take_in(self, groups: list[Mapping[str, Any]]) -> None:
        """Adds groups, all or none."""
        self._check_layouts()
        before = vars(self).copy()
        before["groups"] = list(self.groups)
        before["_state"] = {name: list(states) for name, states in self._state.items()}
        before["_files"] = list(self._files)
        try:
            for entry in groups:
                self._add(entry)
            arrays.check_disjoint(zip(self._names, self._params, strict=True))
            self._make_state(len(before["_steps"]) - 1)
            self._remember_layouts()
            self._bind()
        except BaseException:
            self._remove_files(len(before["_files"]))
            vars(self).update(before)
            raise

    def _add(self, entry: Mapping[str, Any]) -> None:
        known = self._hyper_arguments(entry)
        i = len(self.groups)
        named = self._grouped or i > 0
        params = GroupParams(
            entry["params"],
            f"params[{i}]['params']" if named else "params",
            f"grads[{i}]" if named else "grads",
        )
        beside = dict(zip(self._names[:1], self._params[:1], strict=True)) if self.groups else {}
        given = dict(zip(params.names, params.arrays, strict=True))
        self.backend, seen = backends.choose_backend(self.backend, beside, given)
        params.arrays = seen[len(beside) :]
        if self.backend == "cuda":
            self._run.check_options(self.options, self._state_dir)
        for name, w in zip(params.names, params.arrays, strict=True):
            arrays.check_inplace(name, w, halves=self._takes_halves)
            self._check_storage(name, w)
        self.groups.append(Group(self, params, {**self._default_hyper, **known}))
        counts = np.zeros(len(params.arrays), np.int64)
        self._steps = np.concatenate([self._steps[:-1], counts, self._steps[-1:]])
        self._gather()

    def _make_state(self, first: int) -> None:
        """The state of the parameters from that index on, once all of them are known to be in order."""
        for name, states in self._state.items():
            for i in range(first, len(self._params)):
                states.append(self._first_state(name, i, self._params[i]))

    def _remove_files(self, first: int = 0) -> None:
        for path in self._files[first:]:
            os.unlink(path)

    def _gather(self) -> None:
        self._params = [w for group in self.groups for w in group.params.arrays]
        self._names = [name for group in self.groups for name in group.params.names]

    def _numbered(self) -> Iterator[tuple[Group, int]]:
        """The group and the number of each parameter."""
        groups = (group for group in self.groups for _ in group.params.arrays)
        return ((group, i) for i, group in enumerate(groups))

    def _remember_layouts(self) -> None:
        """Of every array that a step writes, the layout that kernels will walk."""
        named = [*zip(self._names, self._params, strict=True)]
        for state, values in self._state.items():
            named += ((f"state[{state!r}][{i}]", a) for i, a in enumerate(values))
        self._layouts = [(name, a, arrays.Layout.of(a)) for name, a in named]

    def _hyper_arguments(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The hyper-parameters of a group by their own names; ``betas`` are two of them."""
        known = {name: value for name, value in entry.items() if name != "params"}
        if "betas" in known and "beta1" in self._default_hyper:
            known["beta1"], known["beta2"] = pair(known.pop("betas"))
        for name in known:
            if name not in self._default_hyper:
                raise ValueError(
                    f"params: a group has the key {name!r}, expected some of {', '.join(self._default_hyper)}"
                )
        return known

    def _check_storage(self, name: str, w: Array) -> None:
        options = self.options
        if options.master == "split" and w.dtype.name != "bfloat16":
            raise TypeError(f"{name}: got {w.dtype}, expected bfloat16 for master='split'")
        if options.master == "float32" and not arrays.is_half(w):
            raise TypeError(f"{name}: got {w.dtype}, expected 16 bits for master='float32'")
        if options.copy_dtype is not None and w.dtype != np.float32:
            raise TypeError(f"{name}: got {w.dtype}, expected float32 for a copy in {options.copy_dtype}")
        if options.stochastic_rounding is not None:
            if w.dtype.name != "bfloat16":
                raise TypeError(f"{name}: got {w.dtype}, expected bfloat16 for stochastic_rounding")
            if not w.flags.c_contiguous:
                raise ValueError(f"{name}: its elements are not in C order, in which they are rounded")
        T = np.float32 if w.dtype.itemsize <= 4 else np.float64
        for limit in ("clip_value", "clip_norm"):  # of these infinity is none
            check_rounded(limit, min(getattr(options, limit), 1.0), T)
        check_rounded("ema", options.ema, T, below=1.0)

    def _first_state(self, name: str, i: int, w: Array) -> Array:
        dtype = self._state_dtype(name, w)
        state: Array
        if self._state_dir is None or w.size == 0:
            state = self._run.zeros_like(w, dtype)
        else:
            path = os.path.join(self._state_dir, f"{name}.{i}")
            state = arrays.mapped_like(path, w, dtype)
            self._files.append(path)
        if name in ("ema", "master", "copy"):
            with np.errstate(all="ignore"):
                state[...] = w
        elif name in self._initial:
            check_rounded("initial_accumulator", self._initial[name], dtype)
            self._run.assign(state, self._initial[name])
        return state

    def _state_dtype(self, name: str, w: Array) -> Any:
        if name == "low":
            return np.dtype(np.uint16)
        if name == "copy":
            return np.dtype(_half_type(self.options.copy_dtype))
        if arrays.is_half(w) and (self.options.state_dtype == "float32" or name in ("ema", "master")):
            return np.dtype(np.float32)
        return w.dtype

    def _hyper_of(self, name: str) -> Hyper:
        found: Hyper = getattr(type(self), name)
        return found

    @property
    def _run(self) -> Any:
        return backends.module(self.backend)

    @property
    def _takes_halves(self) -> bool:
        return self.backend != "cuda"

    def _check_layouts(self) -> None:
        """Raises unless all that a step writes lies as it was bound."""
        for name, a, bound in self._layouts:
            arrays.check_bound(name, a, bound)

    def _check_arrays(self) -> None:
        """Raises unless all that a step writes lies as it was bound and can be written."""
        self._check_layouts()
        for name, a, _ in self._layouts:
            arrays.check_writeable(name, a, READ_ONLY_FIX)
            arrays.check_aligned(name, a)
        arrays.check_disjoint(zip(self._names, self._params, strict=True))

    def _bind(self) -> None:
        """Makes the plan, or puts that off to a step: what was read from a file may be read-only.

        Whoever calls it has seen to it that all lies as ``_layouts`` says: a plan trusts what it binds.
        """
        self._weight_decay = [0.0] * len(self.groups)
        if not all(arrays.is_in_place(a) for _, a, _ in self._layouts):
            self._plan: Any = _NoPlan()
            self._refresh_hyper()
            return
        states = [list(self._state[name]) for name in self._state_names]
        options = None
        if len(self.groups) > 1 or self.options != Options():
            groups = (i for i, group in enumerate(self.groups) for _ in group.params.arrays)
            averages, masters, lows, copies = (
                tuple(self._state.get(name, ())) for name in ("ema", "master", "low", "copy")
            )
            options = self.options._replace(
                groups=tuple(groups), averages=averages, masters=masters, lows=lows, copies=copies
            )
        self._plan = self._run.Plan(self.rule, self._params, states, self._steps, options)
        if self._records:
            self._plan = RecordingPlan(self._plan, self._moved_bytes())
        self._refresh_hyper()

    def _moved_bytes(self) -> list[int]:
        """Of each parameter: g is read, w and states both ways; copies, and w with a master, only written."""
        of_w = (2 if self.options.master == "float32" else 3) + bool(self.options.zero_grads)
        ways = {name: 1 if name == "copy" else 2 for name in self._state}
        return [
            of_w * w.nbytes + sum(ways[name] * states[i].nbytes for name, states in self._state.items())
            for i, w in enumerate(self._params)
        ]

    def _set_hyper(self, **values: Any) -> None:
        """Sets hyper-parameters of all groups, or on an error none."""
        checked = [
            (group, name, group.check(name, value)) for group in self.groups for name, value in values.items()
        ]
        self._put(checked)

    def _put(self, checked: list[tuple[Group, str, tuple[float | None, Any]]]) -> None:
        """Sets what has been checked, or nothing while another thread is inside a step."""
        before = [(g, name, (g._hyper[name], g._schedules.get(name))) for g, name, _ in checked]
        try:
            for group, name, found in checked:
                group._set(name, *found)
            self._refresh_hyper()
        except BaseException:
            for group, name, found in before:
                group._set(name, *found)
            self._refresh_hyper()
            raise

    def _refresh_hyper(self) -> None:
        """Hands on what has been set; called after every change."""
        self._has_schedules = any(group._schedules for group in self.groups)
        self._hyper_values = [group[name] for group in self.groups for name in self._hyper_names]
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
        self._check_layouts()
        for i, group in enumerate(self.groups):
            for name, schedule in group._schedules.items():
                _check_picklable(f"groups[{i}][{name!r}]", schedule)
        # A copy's state lies in main memory.
        state = {**vars(self), "_state_dir": None, "_files": []}
        # Parameters go once, with their groups: joblib would make two of an array that it meets twice.
        remade = ("_plan", "_layouts", "_params", "_names")
        return {name: value for name, value in state.items() if name not in remade}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._steps = np.array(self._steps)  # it may be read-only, and a step counts in it
        self._gather()
        self._remember_layouts()
        self._bind()

    def __copy__(self) -> Self:
        """An optimizer of the same parameters, with hyper-parameters, state and step counts of its own."""
        own = ("groups", "_state", "_steps")
        shared = [*self._params, *(value for name, value in vars(self).items() if name not in own)]
        memo = {id(value): value for value in shared}
        # A derived class may keep them, or the optimizer itself, under another name.
        for value in (self, *self.groups, *(a for states in self._state.values() for a in states)):
            memo.pop(id(value), None)
        return copy.deepcopy(self, memo)

    def record_stats(self, on: bool = True) -> None:
        """Has every further step timed, or no longer; costs nothing while off. See ``stats``.

        Raises:
            TypeError: ``on`` is neither True nor False.
            ValueError: the arrays live on a GPU, whose steps have not ended when the call returns.
        """
        on = switch("on", on)
        if on and self.backend == "cuda":
            raise ValueError("record_stats: steps on a GPU end after the call; time them with CUDA's events")
        self._check_layouts()
        self._records = on
        self._bind()

    @property
    def stats(self) -> StepStats | None:
        """What the last step cost: ``bytes`` moved, ``seconds``, ``gb_per_s``; None if none was recorded.

        Example:
            >>> import numpy as np, samestep as ss
            >>> opt = ss.Adam(np.zeros(1000, np.float32))
            >>> opt.record_stats()
            >>> opt.step(np.ones(1000, np.float32))
            >>> opt.stats.bytes, opt.stats.gb_per_s > 0
            (28000, True)
        """
        stats: StepStats | None = getattr(self._plan, "stats", None)
        return stats

    @property
    def params(self) -> list[Array]:
        """The parameters, as arrays that are the caller's own."""
        return list(self._params)

    @property
    def state(self) -> dict[str, list[Array]]:
        """The state arrays by name, one for each parameter; "ema" among them."""
        return {name: list(values) for name, values in self._state.items()}

    @property
    def ema(self) -> list[Array]:
        """The running averages of the parameters; empty unless asked for with ``ema``."""
        return list(self._state.get("ema", ()))

    @property
    def iterate(self) -> list[Array]:
        """The point that the texts call x or w_t, one array for each parameter: copies of the parameters.

        Only ``NAG`` keeps another point in their place. 16-bit parameters are widened to float32.
        """
        return [self._widened(i) for i in range(len(self._params))]

    def _widened(self, i: int) -> Array:
        """A copy of a parameter in the type of the arithmetic."""
        w = self._params[i]
        if not arrays.is_half(w):
            return w.copy()
        if "master" in self._state:
            return self._state["master"][i].copy()
        if "low" in self._state:
            return np.asarray(join(w, self._state["low"][i]))  # without axes it is a number
        return np.asarray(widen(w))

    @property
    def copies(self) -> list[Array]:
        """The parameters in 16 bits; empty unless asked for with ``copy_dtype``."""
        return list(self._state.get("copy", ()))

    @property
    def skipped(self) -> bool:
        """Whether the last step was left out for a gradient that is not finite."""
        return self._skipped

    @property
    def t(self) -> int:
        """How many steps have been made."""
        return int(self._steps[-1])

    @property
    def steps(self) -> list[int]:
        """How many steps each parameter has made: a step whose gradient is None does not count."""
        return [int(n) for n in self._steps[:-1]]

    def step(self, grads: Any, *, scale: float = 1.0) -> float | None:
        """Makes one step in place: all parameters and states, or, on an error, none.

        Args:
            grads: gradients in the structure of ``params``, each with its parameter's shape, dtype
                and memory layout (``copy_grads`` takes any layout). None skips that parameter, or a branch
                of them: state and step count stay. With groups, a list with an entry for each.
            scale: the gradients count so many times: 1/loss_scale. A finite number.

        Returns:
            The norm of all gradients together, ``scale`` times, before clipping, if ``clip_norm`` is set.

        Raises:
            TypeError, ValueError: a gradient or ``scale`` does not fit, or a schedule gives what is out of
                range; nothing has been changed.
            FloatingPointError: a gradient is not finite and ``nonfinite`` is "raise"; likewise.
            RuntimeError: another thread is inside ``step`` of this optimizer.
        """
        flat = self._flat(grads)
        if type(scale) is not float or scale != 1.0:
            scale = _finite("scale", scale)
            if any(group._is_single for group in self.groups):
                check_rounded("scale", scale, np.float32)
        scheduled = self._scheduled() if self._has_schedules else None
        hyper = self._hyper_values if scheduled is None else self._values(scheduled)
        copied = 0
        status = self._plan.step(flat, hyper, scale)
        if self.options.copy_grads and status not in (STEPPED, NONFINITE):
            flat, copied = self._laid_out(flat)
            status = self._plan.step(flat, hyper, scale)
        if status not in (STEPPED, NONFINITE):
            status = self._step_with_care(flat, hyper, scale)
        if copied and self._records and status == STEPPED:
            self._plan.stats = self._plan.stats._replace(copied=copied)
        skipped = status == NONFINITE
        if skipped != self._skipped:  # asked, for to set an attribute takes five times as long
            self._skipped = skipped
        if scheduled is not None and not skipped:
            for group, values in zip(self.groups, scheduled, strict=True):
                group._hyper.update(values)
            self._hyper_values = hyper
        if skipped and self.options.nonfinite == "raise":
            raise FloatingPointError(f"{self._first_nonfinite(flat)}: infinite or NaN; nothing was changed")
        return self._plan.norm if self.options.clip_norm < math.inf else None

    def _flat(self, grads: Any) -> Any:
        if not self._grouped:
            return self.groups[0].params.flatten(grads)
        if not isinstance(grads, (list, tuple)) or len(grads) != len(self.groups):
            got = len(grads) if isinstance(grads, (list, tuple)) else type(grads).__name__
            raise ValueError(f"grads: got {got}, expected a list of {len(self.groups)}, one entry a group")
        flat: list[Any] = []
        for group, given in zip(self.groups, grads, strict=True):
            skipped = [None] * len(group.params.arrays)
            flat += skipped if given is None else group.params.flatten(given)
        return flat

    def _laid_out(self, grads: Any) -> tuple[list[Any], int]:
        """The gradients, those that lie in another order than their parameter copied, and bytes copied."""
        if self.backend == "cuda":
            grads = self._run.gradient_views(grads, self._params[0])
        out, copied = list(grads), 0
        for i, (g, w) in enumerate(zip(grads, self._params, strict=True)):
            where = np.ndarray if self.backend != "cuda" else type(w)
            is_plain = isinstance(g, where) and not isinstance(g, np.ma.MaskedArray)
            if is_plain and (g.dtype, g.shape) == (w.dtype, w.shape) and not arrays.same_layout(g, w):
                out[i] = self._run.empty_like(w)
                out[i][...] = g
                copied += g.nbytes
        return out, copied

    def _scheduled(self) -> list[dict[str, float | None]]:
        """Of each group, the values of its schedules at the coming step."""
        return [group.scheduled(self.t + 1) for group in self.groups]

    def _values(self, scheduled: list[dict[str, float | None]]) -> list[float]:
        """The hyper-parameters as the plan takes them, with these in the place of what the groups hold."""
        coming = [{**group._hyper, **values} for group, values in zip(self.groups, scheduled, strict=True)]
        return [self._followed(values, name) for values in coming for name in self._hyper_names]

    def _followed(self, values: Mapping[str, float | None], name: str) -> float:
        value = values[name]
        if value is None:
            followed = self._hyper_of(name).follows
            assert followed is not None
            value = self._followed(values, followed)
        return value

    def _first_nonfinite(self, grads: Any) -> str:
        names = (name for group in self.groups for name in group.params.grads_names)
        for name, g in zip(names, grads, strict=True):
            if g is not None and not np.isfinite(np.asarray(g, float)).all():
                return name
        return "grads"

    def _step_with_care(self, grads: Any, hyper: list[float], scale: float) -> int:
        """After a refusal: says what is wrong, or binds what has moved and sees subclasses as arrays."""
        self._check_arrays()
        names = [name for group in self.groups for name in group.params.grads_names]
        given = dict(zip(names, grads, strict=True))
        _, (_, *grads) = backends.choose_backend(self.backend, {self._names[0]: self._params[0], **given})
        written = arrays.extents(a for _, a, _ in self._layouts)
        for name, g, (_, _, bound) in zip(names, grads, self._layouts[: len(names)], strict=True):
            error = g is not None and arrays.gradient_error(name, g, bound, written)
            if error:
                raise error
        plain = [np.asarray(g) if isinstance(g, np.ndarray) else g for g in grads]
        if self.options.zero_grads:
            zeroed = [(name, g) for name, g in zip(names, plain, strict=True) if g is not None]
            for name, g in zeroed:
                arrays.check_inplace(name, g, halves=True)
            arrays.check_disjoint(zeroed)
        status: int = self._plan.step(plain, hyper, scale)
        if status not in (STEPPED, NONFINITE):  # what was bound has moved
            self._bind()
            status = self._plan.step(plain, hyper, scale)
        if status not in (STEPPED, NONFINITE):
            raise RuntimeError("params, grads: changed by another thread during the step")
        return status

    def _train(self, trainer: cpu.Trainer, steps: int) -> None:
        """So many steps along the gradient of the trainer's problem, in one native call."""
        if self._plan.train(trainer, self._hyper_values, steps) != STEPPED:
            self._check_arrays()
            self._bind()
            if self._plan.train(trainer, self._hyper_values, steps) != STEPPED:
                raise RuntimeError("params: moved by another thread during the steps")

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything but the parameters: plain ints, floats, strings and NumPy arrays.

        Keys: ``contract`` (version of the bit contract), ``rule``, ``options`` (name: value), ``t``,
        ``steps`` (one count a parameter), ``hyper`` (name: value, None for what follows another; with
        several groups a list of these) and ``state`` (name: list of arrays). Schedules are not in it.
        """
        state = {name: [self._run.to_host(s) for s in states] for name, states in self._state.items()}
        return {**self._facts(), "state": state}

    def _facts(self) -> dict[str, Any]:
        return {
            "contract": cpu.CONTRACT,
            "rule": self.rule,
            "options": arguments_of(self.options),
            "t": self.t,
            "steps": self.steps,
            "hyper": dict(self.groups[0]._hyper)
            if len(self.groups) == 1
            else [dict(group._hyper) for group in self.groups],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` returned; training goes on with the same bits.

        Args:
            state_dict: of an optimizer with the same rule and parameters of the same shapes and
                dtypes, on any backend, instruction set and thread count.

        Raises:
            TypeError, ValueError: it does not fit; nothing has been changed.
        """
        self._check_layouts()
        hypers = self._check_state_dict(state_dict)
        steps = np.array([*state_dict["steps"], state_dict["t"]], np.int64)
        for name, states in self._state.items():
            for new, old in zip(state_dict["state"][name], states, strict=True):
                self._run.assign(old, new)
        self._steps[:] = steps
        for group, hyper in zip(self.groups, hypers, strict=True):
            group._hyper.update(hyper)
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
        made_with = {
            "form": self.form,
            "variant": self.variant,
            "initial": self._initial,
            "hyper": {
                n: _apart_from_0(self.groups[0][n]) if callable(v) else v
                for n, v in self._default_hyper.items()
            },
        }
        params = [[w.dtype.name, list(w.shape)] for w in self._params]
        kind = {"class": type(self).__name__, "module": type(self).__module__}
        facts = {**self._facts(), **kind, "made_with": made_with, "params": params}
        from . import checkpoint  # here: it imports a third of what the package does

        checkpoint.write(path, facts, self._state)

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
        The class is the one that was saved: this one or, as long as it has been defined, one derived from
        it. Of a derived class ``__init__`` is not called: attributes that it sets are to be set
        again. Or make the optimizer and have it take the state over:
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
        kind = cls._kind_saved_as(os.fspath(path), facts["class"], facts.get("module"))
        made: Self = kind.__new__(kind)
        Optimizer.__init__(
            made, params, backend=backend, state_dir=state_dir, **facts["made_with"], **facts["options"]
        )
        state = {
            name: [checkpoint.restore(tensors.get(f"{name}.{i}"), s) for i, s in enumerate(states)]
            for name, states in made._state.items()
        }
        try:
            made._check_same_params(os.fspath(path), facts.get("params"))
            made.load_state_dict({**{key: facts.get(key) for key in cls.state_dict_keys}, "state": state})
        except BaseException as error:
            made._remove_files()
            if type(error) is ValueError and os.fspath(path) not in str(error):
                raise ValueError(f"{os.fspath(path)}: {error}") from None
            raise
        return made

    def _check_same_params(self, path: str, saved: list[list[Any]] | None) -> None:
        """Raises unless dtypes and shapes are as in the checkpoint; None: it is an old one without them."""
        if saved is None:
            return
        if len(saved) != len(self._params):
            raise ValueError(f"params: got {len(self._params)} arrays, expected {len(saved)} as in {path}")
        for name, w, (dtype, shape) in zip(self._names, self._params, saved, strict=True):
            if (w.dtype.name, w.shape) != (dtype, tuple(shape)):
                raise ValueError(
                    f"{name}: got {w.dtype} of shape {w.shape}, expected {dtype} of shape {tuple(shape)} "
                    f"as in {path}"
                )

    @classmethod
    def _kind_saved_as(cls, path: str, name: str, module: str | None) -> type[Self]:
        """This class or the one derived from it that has the name; of several, the one of that module.

        ``module``: None in old checkpoints.
        """
        kinds: list[type[Self]] = [cls]
        for kind in kinds:  # it grows
            kinds += (derived for derived in kind.__subclasses__() if derived not in kinds)
        named = [kind for kind in kinds if kind.__name__ == name]
        if not named:
            raise ValueError(
                f"{path}: of {name}, expected {cls.__name__} or a class derived from it; if {name} is one, "
                "define or import it before"
            )
        # Defined twice, as in a notebook, the last one counts.
        return ([kind for kind in named if kind.__module__ == module] or named[:1])[-1]

    def _check_state_dict(self, state_dict: Mapping[str, Any]) -> list[dict[str, float | None]]:
        def expect(what: str, got: Any, expected: Any) -> None:
            if isinstance(got, np.ndarray) or got != expected:  # of an array != would ask each element
                raise ValueError(f"{what}: got {got!r}, expected {expected!r}")

        def keys(what: str, got: Any, expected: Any) -> None:
            if not isinstance(got, Mapping):
                raise TypeError(f"{what}: got {type(got).__name__}, expected a dict")
            if set(got) != set(expected):
                raise ValueError(f"keys of {what}: got {list(got)}, expected {sorted(expected)}")

        def length(what: str, got: Any, expected: int) -> None:
            if not isinstance(got, (list, tuple)) and not (isinstance(got, np.ndarray) and got.ndim == 1):
                raise TypeError(f"{what}: got {type(got).__name__}, expected a list")
            expect(f"length of {what}", len(got), expected)

        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: got {type(state_dict).__name__}, expected a dict")
        keys("state_dict", state_dict, self.state_dict_keys)
        expect("state_dict['contract']", state_dict["contract"], cpu.CONTRACT)
        expect("state_dict['rule']", state_dict["rule"], self.rule)
        options = state_dict["options"]
        if not isinstance(options, Mapping):
            raise TypeError(f"state_dict['options']: got {type(options).__name__}, expected a dict")
        # One that came later is off in what was saved before; copy_grads is of this run alone.
        saved, own = {**arguments_of(Options()), **options}, arguments_of(self.options)
        expect("state_dict['options']", {**saved, "copy_grads": own["copy_grads"]}, own)
        length("state_dict['steps']", state_dict["steps"], len(self._params))
        for count in (state_dict["t"], *state_dict["steps"]):
            whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
            if not whole or not 0 <= count < 2**62:
                raise ValueError(f"state_dict: got step count {count!r}, expected a whole number >= 0")
        given = state_dict["hyper"]
        if isinstance(given, Mapping):
            given = [given]
        if not isinstance(given, (list, tuple)):
            raise TypeError(f"state_dict['hyper']: got {type(given).__name__}, expected a dict or a list")
        expect("number of groups in state_dict['hyper']", len(given), len(self.groups))
        hypers = []
        for group, hyper in zip(self.groups, given, strict=True):
            keys("state_dict['hyper']", hyper, group)
            hypers.append({name: group.check_number(name, value) for name, value in hyper.items()})
        keys("state_dict['state']", state_dict["state"], self._state)
        for name, states in self._state.items():
            what = f"state_dict['state'][{name!r}]"
            length(what, state_dict["state"][name], len(states))
            for i, (new, old) in enumerate(zip(state_dict["state"][name], states, strict=True)):
                arrays.check_writeable(f"state[{name!r}][{i}]", old, READ_ONLY_FIX)
                if not isinstance(new, np.ndarray):
                    raise TypeError(f"{what}[{i}]: got {type(new).__name__}, expected a NumPy array")
                expect(
                    f"dtype and shape of {what}[{i}]",
                    (str(new.dtype), new.shape),
                    (str(old.dtype), old.shape),
                )
        return hypers


def like_params(optimizer: Optimizer, g: Array) -> Any:
    """The gradient of the one parameter in the structure in which the optimizer was given it."""
    structured = optimizer.groups[0].params.unflatten([g])
    return [structured] if optimizer._grouped else structured


class _NoPlan:
    """Stands for the plan of arrays that cannot be stepped where they lie: a step then says why not."""

    norm = math.nan

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        pass

    def step(self, grads: Any, hyper: list[float], scale: float = 1.0) -> int:
        return MOVED

    def train(self, trainer: Any, hyper: list[float], steps: int) -> int:
        return MOVED


def _check_picklable(name: str, schedule: Any) -> None:
    """Raises where pickle, and nothing that can do more, is about to meet a function that it cannot store."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        module = frame.f_globals.get("__name__", "")
        if module == "copy" or any(part in module for part in ("cloudpickle", "dill")):  # or a copy of these
            return
    try:
        pickle.dumps(schedule)
    except Exception as error:
        raise pickle.PicklingError(
            f"{name}: got {schedule!r}, which pickle cannot store; use one of samestep.schedules, a function "
            "at the top level of a module, or cloudpickle"
        ) from error


def _apart_from_0(value: float) -> float:
    """What a schedule came to as a constructor takes it: 0 if float32 does not tell it from 0."""
    return value if value > 2.0**-150 else 0.0


def _half_type(name: str | None) -> Any:
    if name == "bfloat16":
        return require("ml_dtypes", "bfloat16", "bfloat16").bfloat16
    return np.float16


def _finite(name: str, value: Any) -> float:
    found = number(name, value)
    if not math.isfinite(found):
        raise ValueError(f"{name}: got {found}, expected a finite number")
    return found
