"""The golden digests: what was computed, on which inputs, and the digests that every execution path
must meet. Inputs are made of integer arithmetic, so that any language makes the same ones.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from .. import backends
from ..backends.arrays import DTYPES, Array, digest
from ..layers.batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference
from ..optim.optimizer import Optimizer
from ..optim.optimizers import OPTIMIZERS
from ..problems import MSE
from ..sums import canonical_sum, global_norm

FILE = resources.files(__package__).joinpath("golden.json")
DIGESTS: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))["digests"]

# Of every rule: nothing, one element, less than a vector, one work item, several with a last short one.
SIZES = (0, 1, 7, 1000, 100_003)
# With options, some chunks with a last short one within a work item; several items with all of them at once.
OPTION_SIZES = (0, 1, 7, 1000, 2500)
LONG_STEPS = 10_000

# Hyper-parameters by name; those that a rule does not have are left out. "default" is the optimizer's
# own, with lr 0.01.
HYPER: dict[str, dict[str, float]] = {
    "default": {"lr": 0.01},
    "other": {
        "lr": 0.3,
        "momentum": 0.5,
        "momentum_next": 0.25,
        "dampening": 0.25,
        "rho": 0.6,
        "beta1": 0.7,
        "beta2": 0.8,
        "eps": 0.01,
    },
    "zero": {
        "lr": 1.0,
        "momentum": 0.0,
        "momentum_next": 0.0,
        "dampening": 0.0,
        "rho": 0.0,
        "beta1": 0.0,
        "beta2": 0.0,
        "eps": 0.0,
    },
}

# Options by name, with the scale of the gradients.
OPTIONS: dict[str, tuple[dict[str, Any], float]] = {
    "coupled": ({"weight_decay": 0.1}, 1.0),
    "decoupled": ({"weight_decay": 0.1, "decoupled_weight_decay": True}, 1.0),
    "all": (
        {
            "weight_decay": 0.25,
            "decoupled_weight_decay": True,
            "maximize": True,
            "clip_norm": 10.0,
            "clip_value": 0.25,
            "ema": 0.9,
            "flush_subnormals": True,
            "zero_grads": True,
        },
        0.7,
    ),
}

# Parameters and gradients in 16 bits, by name: dtype, options.
STORAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "float32_state": ("bfloat16", {}),
    "bfloat16_state": (
        "bfloat16",
        {"state_dtype": "param", "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    "at_random": ("bfloat16", {"stochastic_rounding": 7}),
    "master": ("bfloat16", {"master": "float32", "flush_subnormals": True}),
    "half_master": ("float16", {"master": "float32"}),
    "float16_state": ("float16", {"state_dtype": "param"}),
}


class Case(NamedTuple):
    """One rule, in one form or variant, for one dtype."""

    optimizer: type[Optimizer]
    form: str | None
    dtype: np.dtype[Any]

    @property
    def rule(self) -> str:
        family = self.optimizer.family
        return family if self.form is None else f"{family}_{self.form}"

    def __str__(self) -> str:
        return f"{self.rule} {self.dtype}"

    def make(self, params: Any, hyper: str = "default", **options: Any) -> Optimizer:
        """The optimizer with one of the sets of HYPER."""
        if self.form is not None and self.form in self.optimizer.variants:
            options.update(self.optimizer.variants[self.form])
        elif self.form is not None:
            options[self.optimizer.form_argument] = self.form
        made = self.optimizer(params, lr=HYPER[hyper]["lr"], **options)
        for name in made.groups[0]:
            if name in HYPER[hyper]:
                setattr(made, name, HYPER[hyper][name])
        return made

    def run(self, w: Array, grads: list[Array], hyper: str = "default", **options: Any) -> list[Array]:
        """The parameter and the states after a step with each gradient, from copies."""
        run = _backend(options)
        w = run.from_host(w.copy())
        placed = {id(g): run.from_host(g) for g in grads}
        optimizer = self.make(w, hyper, **options)
        for g in grads:
            optimizer.step(placed[id(g)])
        return [run.to_host(a) for a in (w, *(states[0] for states in optimizer.state.values()))]


def cases() -> list[Case]:
    """Every rule, form and dtype, read from the registry of optimizers."""
    return [
        Case(optimizer, form, dtype)
        for optimizer in OPTIMIZERS
        for form in (*(optimizer.forms or (None,)), *optimizer.variants)
        for dtype in DTYPES
    ]


class RuleProgram(NamedTuple):
    """Some steps of one case: inputs, their number and size, hyper-parameters."""

    case: Case
    inputs: str  # "exact", "random" or "finite"
    size: int
    steps: int
    hyper: str

    def __str__(self) -> str:
        return f"{self.case} {self.inputs} {self.size} {self.steps} {self.hyper}"

    def run(self, **options: Any) -> list[Array]:
        """The parameter and the states; by the kernels, or ``backend="reference"``."""
        w, grads = _inputs(self.inputs, self.size, self.steps, self.case.dtype)
        return self.case.run(w, grads, self.hyper, **options)


class OptionProgram(NamedTuple):
    """Three steps of one case with one of the sets of OPTIONS."""

    case: Case
    options: str
    inputs: str
    size: int

    def __str__(self) -> str:
        return f"{self.case} {self.inputs} {self.size} 3 {self.options}"

    def run(self, **options: Any) -> list[Array]:
        """The parameter, the states and the running average."""
        given, grads = _inputs(self.inputs, self.size, 3, self.case.dtype)
        asked, scale = OPTIONS[self.options]
        run = _backend(options)
        w = run.from_host(given.copy())
        optimizer = self.case.make(w, **asked, **options)
        if "lr_decay" in optimizer.groups[0] and self.options == "all":
            optimizer.groups[0]["lr_decay"] = 0.5
        for g in grads:
            optimizer.step(run.from_host(g.copy()), scale=scale)
        return [run.to_host(a) for a in (w, *(states[0] for states in optimizer.state.values()))]


class StorageProgram(NamedTuple):
    """Three steps of one case on parameters in 16 bits, in one of the ways of STORAGE. Needs ml_dtypes."""

    case: Case
    storage: str
    size: int

    def __str__(self) -> str:
        return f"{self.case} random {self.size} 3 {self.storage}"

    def run(self, **options: Any) -> list[Array]:
        """The parameter and the states."""
        import ml_dtypes  # NumPy has no bfloat16

        name, asked = STORAGE[self.storage]
        dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else np.float16)
        given, grads = _inputs("random", self.size, 3, self.case.dtype)
        with np.errstate(all="ignore"):
            w, *grads = (a.astype(dtype) for a in (given, *grads))
        optimizer = self.case.make(w, **asked, **options)
        for g in grads:
            optimizer.step(g)
        return [w, *(states[0] for states in optimizer.state.values())]


class SumProgram(NamedTuple):
    """The canonical sums of the values and, through the norm, of their squares."""

    dtype: np.dtype[Any]
    size: int

    def __str__(self) -> str:
        return f"sum {self.dtype} {self.size}"

    def run(self, **options: Any) -> list[Array]:
        x = _backend(options).from_host(finite_values(self.size, self.dtype, 1))
        pieces = [x[: self.size // 3], x[self.size // 3 :]]
        return [np.array([float(canonical_sum(x, **options)), global_norm(pieces, **options)])]


class BatchNormProgram(NamedTuple):
    """Forward, backward and inference of C channels of M values."""

    dtype: np.dtype[Any]
    relu: bool
    shape: tuple[int, int]  # (C, M)
    what: str  # "statistics", "y", "gradients" or "inference"

    def __str__(self) -> str:
        kind = "batchnorm+relu" if self.relu else "batchnorm"
        return f"{kind} {self.dtype} {self.shape[0]}x{self.shape[1]} {self.what}"

    def run(self, **options: Any) -> list[Array]:
        run = _backend(options)
        return [run.to_host(a) for a in self._results(run.from_host, options)]

    def _results(self, place: Callable[[Array], Array], options: dict[str, Any]) -> list[Array]:
        channels = self.shape[0]
        x = integer_values(self.shape, 37, 11, 1009, 400, 128.3, self.dtype)[None]
        dy = integer_values(self.shape, 53, 17, 911, 455, 257.7, self.dtype)[None]
        gamma = integer_values((channels,), 3, 1, 7, 3, 2.5, self.dtype)
        beta = integer_values((channels,), 5, 2, 11, 5, 9.1, self.dtype)
        if self.what == "inference":
            var = place(abs(gamma) + self.dtype.type(0.5))
            x, gamma, beta = place(x), place(gamma), place(beta)
            return [batchnorm_inference(x, gamma, beta, beta, var, relu=self.relu, **options)]
        x, dy, gamma, beta = place(x), place(dy), place(gamma), place(beta)
        y, mean, inv = batchnorm_forward(x, gamma, beta, relu=self.relu, **options)
        if self.what == "statistics":
            return [mean, inv]
        if self.what == "y":
            return [y]
        return list(batchnorm_backward(dy, x, gamma, beta, mean, inv, relu=self.relu, **options))


class MseProgram(NamedTuple):
    """Residual, gradient and loss of N rows of p columns."""

    dtype: np.dtype[Any]
    shape: tuple[int, int]  # (N, p)
    what: str  # "residual", "gradient" or "loss"

    def __str__(self) -> str:
        return f"mse {self.dtype} {self.shape[0]}x{self.shape[1]} {self.what}"

    def run(self, **options: Any) -> list[Array]:
        rows, columns = self.shape
        Phi = integer_values(self.shape, 29, 13, 907, 450, 331.1, self.dtype)
        y = integer_values((rows,), 31, 3, 401, 200, 77.7, self.dtype)
        w = integer_values((columns,), 7, 1, 19, 9, 6.3, self.dtype)
        run = _backend(options)
        w = run.from_host(w)
        problem = MSE(run.from_host(Phi), run.from_host(y), **options)
        if self.what == "residual":
            return [run.to_host(problem.residual(w))]
        if self.what == "gradient":
            return [run.to_host(problem.gradient(w))]
        return [np.array([problem.loss(w)], np.float64)]


def _backend(options: dict[str, Any]) -> Any:
    name = options.get("backend", "auto")
    return backends.module("cpu" if name == "auto" else name)


Program = RuleProgram | OptionProgram | StorageProgram | SumProgram | BatchNormProgram | MseProgram


def programs() -> dict[str, list[Program]]:
    """What the file holds, by kernel and dtype."""
    found: dict[str, list[Program]] = {}
    for case in cases():
        found[str(case)] = [
            RuleProgram(case, "exact", 1000, 5, "default"),
            *(RuleProgram(case, "random", size, 3, hyper) for hyper in HYPER for size in SIZES),
            RuleProgram(case, "finite", 7, LONG_STEPS, "default"),
            *(
                OptionProgram(case, name, "finite" if name == "all" else "random", size)
                for name in OPTIONS
                for size in (*OPTION_SIZES, *((100_003,) if name == "all" else ()))
            ),
        ]
        if case.dtype == np.float32:
            found[str(case)] += [
                StorageProgram(case, name, size) for name in STORAGE for size in OPTION_SIZES
            ]
    for dtype in DTYPES:
        found[f"sum {dtype}"] = [SumProgram(dtype, size) for size in SIZES]
        found[f"batchnorm {dtype}"] = [
            BatchNormProgram(dtype, relu, shape, what)
            for relu in (False, True)
            for shape in ((5, 2500), (3, 49), (300, 7))
            for what in ("statistics", "y", "gradients", "inference")
        ]
        found[f"mse {dtype}"] = [
            MseProgram(dtype, shape, what)
            for shape in ((1500, 37), (1, 1), (70, 1030))
            for what in ("residual", "gradient", "loss")
        ]
    return found


def is_long(program: Program) -> bool:
    """Whether it makes LONG_STEPS steps."""
    return isinstance(program, RuleProgram) and program.steps == LONG_STEPS


def runs_on_gpu(program: Program) -> bool:
    """Whether ``backend="cuda"`` takes the program's options; it does not take all of them yet."""
    return not isinstance(program, StorageProgram) and not (
        isinstance(program, OptionProgram) and program.options == "all"
    )


def program_digest(program: Program, **options: Any) -> str:
    """The first 16 digits, as the file has them."""
    return digest(program.run(**options))[:16]


@functools.lru_cache(maxsize=16)
def _inputs(inputs: str, size: int, steps: int, dtype: np.dtype[Any]) -> tuple[Array, list[Array]]:
    if inputs == "exact":
        return exact_inputs(dtype)
    make = random_values if inputs == "random" else finite_values
    # Seven gradients in turn: thousands would take longer to make than to step with.
    turns = [make(size, dtype, 3 + 2 * t) for t in range(min(steps, 7))]
    return make(size, dtype, 1), [turns[t % 7] for t in range(steps)]


def exact_inputs(dtype: np.dtype[Any]) -> tuple[Array, list[Array]]:
    """Parameters and five gradients that are exact in both types."""
    i = np.arange(1000)
    w = ((37 * i % 101 - 50) / 64).astype(dtype)
    return w, [(((53 * i + 29 * t) % 97 - 48) / 128).astype(dtype) for t in range(5)]


def integer_values(
    shape: tuple[int, ...], a: int, b: int, m: int, s: int, d: float, dtype: np.dtype[Any]
) -> Array:
    """``(((i*a + (i div 7)*b) mod m) - s)/d`` over the flat index i, in float64, then rounded."""
    i = np.arange(np.prod(shape, dtype=np.int64))
    return (((i * a + i // 7 * b) % m - s) / d).astype(dtype).reshape(shape)


def random_words(size: int, seed: int) -> Array:
    """Words 1, 2, ... of the splitmix64 generator from state ``seed * 2^32``."""
    z = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed << 32)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def finite_values(size: int, dtype: np.dtype[Any], seed: int) -> Array:
    """Values in [-1, 1), uniform on a grid of 2^-23, which is exact in both types."""
    return ((random_words(size, seed) >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0).astype(dtype)


def random_values(size: int, dtype: np.dtype[Any], seed: int) -> Array:
    """finite_values, one in eight replaced by any bit pattern: infinities, NaN, every exponent; one in
    four of these without its sign and exponent: a subnormal or zero.
    """
    values = finite_values(size, dtype, seed)
    bits = values.view(f"u{dtype.itemsize}")
    words, patterns = random_words(size, seed), random_words(size, seed + 1)
    mantissa = bits.dtype.type((1 << np.finfo(dtype).nmant) - 1)
    any_bits = patterns.astype(bits.dtype)
    any_bits = np.where(patterns >> np.uint64(62) == 0, any_bits & mantissa, any_bits)
    bits[:] = np.where(words & np.uint64(7) == 0, any_bits, bits)
    return values


def difference(got: Array, expected: Array) -> str | None:
    """Where two arrays first differ in bits (any NaN equals any NaN), or None."""
    bits = f"u{expected.dtype.itemsize}"
    a, b = got.ravel(), expected.ravel()
    differs = (a.view(bits) != b.view(bits)) & ~(np.isnan(a) & np.isnan(b))
    if not differs.any():
        return None
    i = int(np.argmax(differs))
    return (
        f"element {i}: got {a[i]!r} (0x{a.view(bits)[i]:x}), expected {b[i]!r} (0x{b.view(bits)[i]:x}); "
        f"{int(differs.sum())} of {a.size} differ"
    )
