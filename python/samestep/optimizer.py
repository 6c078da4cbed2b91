"""The optimizer: parameters, state, step number, and the one call that steps them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from . import arrays, cpu, reference
from .arrays import Array
from .stats import STEPPED, RecordingPlan, StepStats

BACKENDS = {"cpu": cpu, "reference": reference}


class Hyper:
    """A hyper-parameter: settable at any time, refused outside ``[at_least, below)``."""

    def __init__(self, *, at_least: float, below: float = math.inf) -> None:
        self.at_least = at_least
        self.below = below

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
        return self if optimizer is None else optimizer._hyper[self.name]

    def __set__(self, optimizer: Optimizer, value: Any) -> None:
        optimizer._hyper[self.name] = self.check(value)
        optimizer._hyper_values = [optimizer._hyper[name] for name in optimizer._hyper_names]

    def check(self, value: Any) -> float:
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{self.name}: got {value!r}, expected a number") from None
        if not self.at_least <= number < self.below:  # NaN fails as well
            raise ValueError(
                f"{self.name}: got {number}, expected a number in [{self.at_least:g}, {self.below:g})"
            )
        return number


class Optimizer:
    """What all optimizers share; use one of the classes of ``samestep.optimizers``.

    A subclass says which rule it is and names its hyper-parameters as ``Hyper`` attributes. A rule
    that comes in several forms is called ``<family>_<form>``.
    """

    family: ClassVar[str]  # the rule's name, without the form
    forms: ClassVar[tuple[str, ...]] = ()
    form_argument: ClassVar[str] = "form"
    state_dict_keys: ClassVar = ("contract", "rule", "t", "steps", "hyper", "state")
    _records = False

    def __init__(self, params: Any, *, form: str | None, backend: str, hyper: Mapping[str, Any]) -> None:
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(('auto', *BACKENDS))}")
        if form not in (self.forms or (None,)):
            raise ValueError(f"{self.form_argument}: got {form!r}, expected one of {', '.join(self.forms)}")
        self.form = form
        self.rule = self.family if form is None else f"{self.family}_{form}"
        self.backend = "cpu" if backend == "auto" else backend
        rows = {name: (hypers, states) for name, hypers, states in BACKENDS[self.backend].rules()}
        self._hyper_names, state_names = rows[self.rule]
        self._hyper = {name: getattr(type(self), name).check(value) for name, value in hyper.items()}
        self._hyper_values = [self._hyper[name] for name in self._hyper_names]

        self._single = isinstance(params, np.ndarray)
        self._params, self._names, self._keys = arrays.flatten(params)
        if not self._params:
            raise ValueError("params: got none, expected at least one array")
        self._shapes = [np.shape(w) for w in self._params]
        self._check_params()
        self._state = {name: [np.zeros_like(w, subok=False) for w in self._params] for name in state_names}
        # One count a parameter, then that of the whole. The plan counts all of them in the step itself: an
        # exception between the step and a count made here, such as Ctrl-C, would tear them apart.
        self._steps = np.zeros(len(self._params) + 1, np.int64)
        self._bind()

    def _check_params(self) -> None:
        for name, w, shape in zip(self._names, self._params, self._shapes, strict=True):
            arrays.check_inplace(name, w)
            if w.shape != shape:
                raise ValueError(f"{name}: its shape is now {w.shape}, expected {shape} as at the start")
        arrays.check_disjoint(zip(self._names, self._params, strict=True))

    def _bind(self) -> None:
        states = [list(s) for s in self._state.values()]
        self._plan: Any = BACKENDS[self.backend].Plan(self.rule, self._params, states, self._steps)
        if self._records:
            self._plan = RecordingPlan(self._plan, [w.nbytes * (3 + 2 * len(states)) for w in self._params])

    def __repr__(self) -> str:
        form = "" if self.form is None else f"{self.form_argument}={self.form!r}, "
        hyper = ", ".join(f"{name}={value:g}" for name, value in self._hyper.items())
        return f"{type(self).__name__}({form}{hyper}, t={self.t})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._bind()

    def record_stats(self, on: bool = True) -> None:
        """Has every further step timed, or no longer; costs nothing while off. See ``stats``."""
        self._records = bool(on)
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
        return self._plan.stats if self._records else None

    @property
    def params(self) -> list[Array]:
        """The parameters, as arrays that are the caller's own."""
        return list(self._params)

    @property
    def state(self) -> dict[str, list[Array]]:
        """The state arrays by name, one for each parameter; empty for a rule without state."""
        return {name: list(values) for name, values in self._state.items()}

    @property
    def t(self) -> int:
        """How many steps have been made."""
        return int(self._steps[-1])

    @property
    def steps(self) -> list[int]:
        """How many steps each parameter has made: a step whose gradient is None does not count."""
        return [int(n) for n in self._steps[:-1]]

    def step(self, grads: Any) -> None:
        """Makes one step in place: all parameters and states, or, on an error, none.

        Args:
            grads: gradients in the structure of ``params``, each with its parameter's shape, dtype
                and memory layout. None skips that parameter: its state and step count stay.

        Raises:
            TypeError, ValueError: a gradient does not fit; nothing has been changed.
            RuntimeError: another thread is inside ``step`` of this optimizer.
        """
        if self._single:
            grads = (grads,)
        elif self._keys is not None:
            grads = self._by_key(grads)
        elif not isinstance(grads, (list, tuple)):
            raise TypeError(f"grads: got {type(grads).__name__}, expected a list or tuple like params")
        if len(grads) != len(self._params):
            raise ValueError(
                f"grads: got {len(grads)} gradients, expected {len(self._params)}, one for each "
                "parameter (None for those to skip)"
            )
        status = self._plan.step(grads, self._hyper_values)
        if status != STEPPED:
            self._step_with_care(grads)

    def _step_with_care(self, grads: Any) -> None:
        """After a refusal: says what is wrong, or binds what has moved and sees subclasses as arrays."""
        self._check_params()
        written = [*self._params, *(s for states in self._state.values() for s in states)]
        for name, g, w in zip(self._names, grads, self._params, strict=True):
            error = g is not None and arrays.gradient_error(name.replace("params", "grads", 1), g, w, written)
            if error:
                raise error
        self._bind()
        plain = [None if g is None else np.asarray(g) for g in grads]
        if self._plan.step(plain, self._hyper_values) != STEPPED:
            raise RuntimeError("params, grads: changed by another thread during the step")

    def _train(self, trainer: cpu.Trainer, steps: int) -> None:
        """So many steps along the gradient of the trainer's problem, in one native call."""
        if self._plan.train(trainer, self._hyper_values, steps) != STEPPED:
            self._check_params()
            self._bind()
            if self._plan.train(trainer, self._hyper_values, steps) != STEPPED:
                raise RuntimeError("params: moved by another thread during the steps")

    def _by_key(self, grads: Any) -> list[Any]:
        if not isinstance(grads, Mapping):
            raise TypeError(f"grads: got {type(grads).__name__}, expected a dict like params")
        assert self._keys is not None
        for key in (*grads, *self._keys):
            if key not in grads or key not in self._keys:
                where = "params" if key in grads else "grads"
                raise ValueError(f"grads: key {key!r} is not in {where}; expected params' own keys")
        return [grads[key] for key in self._keys]

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything but the parameters: plain ints, floats, strings and arrays.

        Keys: ``contract`` (version of the bit contract), ``rule``, ``t``, ``steps`` (one count a
        parameter), ``hyper`` (name: value) and ``state`` (name: list of arrays).
        """
        return {
            "contract": cpu.CONTRACT,
            "rule": self.rule,
            "t": self.t,
            "steps": self.steps,
            "hyper": dict(self._hyper),
            "state": {name: [s.copy() for s in states] for name, states in self._state.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` returned; training goes on with the same bits.

        Args:
            state_dict: of an optimizer with the same rule and parameters of the same shapes and
                dtypes, on any backend, instruction set and thread count.

        Raises:
            TypeError, ValueError: it does not fit; nothing has been changed.
        """
        hyper = self._check_state_dict(state_dict)
        steps = np.array([*state_dict["steps"], state_dict["t"]], np.int64)
        for name, states in self._state.items():
            for new, old in zip(state_dict["state"][name], states, strict=True):
                old[...] = new
        self._steps[:] = steps
        self._hyper = hyper
        self._hyper_values = [hyper[name] for name in self._hyper_names]

    def _check_state_dict(self, state_dict: Mapping[str, Any]) -> dict[str, float]:
        def expect(what: str, got: Any, expected: Any) -> None:
            if got != expected:
                raise ValueError(f"{what}: got {got!r}, expected {expected!r}")

        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: got {type(state_dict).__name__}, expected a dict")
        expect("state_dict's keys", sorted(state_dict), sorted(self.state_dict_keys))
        expect("state_dict['contract']", state_dict["contract"], cpu.CONTRACT)
        expect("state_dict['rule']", state_dict["rule"], self.rule)
        expect("length of state_dict['steps']", len(state_dict["steps"]), len(self._params))
        for count in (state_dict["t"], *state_dict["steps"]):
            whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
            if not whole or not 0 <= count < 2**62:
                raise ValueError(f"state_dict: got step count {count!r}, expected a whole number >= 0")
        expect("keys of state_dict['hyper']", sorted(state_dict["hyper"]), sorted(self._hyper))
        hyper = {name: getattr(type(self), name).check(value) for name, value in state_dict["hyper"].items()}
        expect("keys of state_dict['state']", sorted(state_dict["state"]), sorted(self._state))
        for name, states in self._state.items():
            what = f"state_dict['state'][{name!r}]"
            expect(f"length of {what}", len(state_dict["state"][name]), len(states))
            for i, (new, old) in enumerate(zip(state_dict["state"][name], states, strict=True)):
                arrays.check_inplace(f"state[{name!r}][{i}]", old)
                if not isinstance(new, np.ndarray):
                    raise TypeError(f"{what}[{i}]: got {type(new).__name__}, expected a NumPy array")
                expect(
                    f"dtype and shape of {what}[{i}]",
                    (str(new.dtype), new.shape),
                    (str(old.dtype), old.shape),
                )
        return hyper
