"""The golden programs: what is computed on the inputs of vectors.py, and the digests of golden.json that
the results must have on every execution path.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from .. import backends
from ..backends import cpu
from ..backends.arrays import DTYPES, Array, digest
from ..layers.batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference
from ..layers.functions import exp, log, sigmoid, tanh
from ..layers.linear import linear, linear_backward
from ..layers.softmax import softmax_cross_entropy
from ..optim.optimizer import Optimizer
from ..optim.optimizers import OPTIMIZERS
from ..problems import MSE
from ..sums import canonical_sum, global_norm
from .convolution import ConvolutionProgram, convolution_programs
from .fingerprints import FingerprintProgram, fingerprint_programs
from .leaves import LeavesProgram, leaves_programs
from .network import NetworkProgram
from .vectors import HYPER, OPTIONS, STORAGE, finite_values, inputs_of, integer_values, random_values

FILE = resources.files(__package__).joinpath("golden.json")
DIGESTS: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))["digests"]

# Elements in a rule's programs: none, one, less than a vector, one work item, several and a short last one.
SIZES = (0, 1, 7, 1000, 100_003)
# With options a work item is stepped in chunks: here some chunks and a short last one within one item.
OPTION_SIZES = (0, 1, 7, 1000, 2500)
LONG_STEPS = 10_000


class Case(NamedTuple):
    """One rule for one dtype."""

    optimizer: type[Optimizer]
    form: str | None
    variant: str | None
    dtype: np.dtype[Any]

    @property
    def rule(self) -> str:
        return cpu.rule(self.optimizer.family, self.form, self.variant).name

    def __str__(self) -> str:
        return f"{self.rule} {self.dtype}"

    def make(self, params: Any, hyper: str = "default", **options: Any) -> Optimizer:
        """The optimizer with one of the sets of HYPER."""
        if self.form is not None:
            options[self.optimizer.form_argument] = self.form
        if self.variant is not None:
            options.update(self.optimizer.variants[self.variant])
        optimizer = self.optimizer(params, lr=HYPER[hyper]["lr"], **options)
        for name in optimizer.groups[0]:
            if name in HYPER[hyper]:
                setattr(optimizer, name, HYPER[hyper][name])
        return optimizer

    def run(self, w: Array, grads: list[Array], hyper: str = "default", **options: Any) -> list[Array]:
        """The parameter and the states after a step with each gradient, from copies."""
        backend = _backend(options)
        w = backend.from_host(w.copy())
        names = list(map(id, grads))  # few gradients, thousands of times
        placed = {name: backend.from_host(g) for name, g in dict(zip(names, grads, strict=True)).items()}
        optimizer = self.make(w, hyper, **options)
        for name in names:
            optimizer.step(placed[name])
        return [backend.to_host(a) for a in (w, *(states[0] for states in optimizer.state.values()))]


def cases() -> list[Case]:
    """Every rule and dtype, read from the registries of optimizers and of rules."""
    rows = {(row.family, row.form, row.variant) for row in cpu.rules()}
    tokens: list[tuple[type[Optimizer], str | None, str | None]] = []
    for optimizer in OPTIMIZERS:
        forms = optimizer.forms or (None,)
        tokens += ((optimizer, form, None) for form in forms)
        variants = ((form, variant) for form in forms for variant in optimizer.variants)
        # Not every form has every variant: dampening belongs to torch's momentum alone.
        tokens += ((optimizer, *each) for each in variants if (optimizer.family, *each) in rows)
    return [Case(*each, dtype) for each in tokens for dtype in DTYPES]


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
        w, grads = inputs_of(self.inputs, self.size, self.steps, self.case.dtype)
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
        given, grads = inputs_of(self.inputs, self.size, 3, self.case.dtype)
        own_options, scale = OPTIONS[self.options]
        backend = _backend(options)
        w = backend.from_host(given.copy())
        optimizer = self.case.make(w, **own_options, **options)
        if "lr_decay" in optimizer.groups[0] and self.options == "all":
            optimizer.groups[0]["lr_decay"] = 0.5
        for g in grads:
            optimizer.step(backend.from_host(g.copy()), scale=scale)
        return [backend.to_host(a) for a in (w, *(states[0] for states in optimizer.state.values()))]


class StorageProgram(NamedTuple):
    """Three steps of one case on parameters in 16 bits, stored as a row of STORAGE says. Needs ml_dtypes."""

    case: Case
    storage: str
    size: int

    def __str__(self) -> str:
        return f"{self.case} random {self.size} 3 {self.storage}"

    def run(self, **options: Any) -> list[Array]:
        """The parameter and the states."""
        import ml_dtypes  # NumPy has no bfloat16

        name, own_options = STORAGE[self.storage]
        dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else np.float16)
        given, grads = inputs_of("random", self.size, 3, self.case.dtype)
        with np.errstate(all="ignore"):
            w, *grads = (a.astype(dtype) for a in (given, *grads))
        backend = _backend(options)
        w = backend.from_host(w)
        optimizer = self.case.make(w, **own_options, **options)
        for g in grads:
            optimizer.step(backend.from_host(g))
        return [backend.to_host(a) for a in (w, *(states[0] for states in optimizer.state.values()))]


class SumProgram(NamedTuple):
    """The canonical sum of the values, and the norm of two pieces of them: the root of the sum of squares."""

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
        backend = _backend(options)
        return [backend.to_host(a) for a in self._results(backend.from_host, options)]

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
        backend = _backend(options)
        w = backend.from_host(w)
        problem = MSE(backend.from_host(Phi), backend.from_host(y), **options)
        if self.what == "residual":
            return [backend.to_host(problem.residual(w))]
        if self.what == "gradient":
            return [backend.to_host(problem.gradient(w))]
        return [np.array([problem.loss(w)], np.float64)]


class LinearProgram(NamedTuple):
    """The linear layer: N rows of K columns times (K, J)."""

    dtype: np.dtype[Any]
    shape: tuple[int, int, int]  # (N, K, J)
    what: str  # "product", "y", "relu", "gradients", or "masked", the gradients with a ReLU

    def __str__(self) -> str:
        return f"linear {self.dtype} {'x'.join(map(str, self.shape))} {self.what}"

    def run(self, **options: Any) -> list[Array]:
        rows, inputs, columns = self.shape
        backend = _backend(options)
        x = integer_values((rows, inputs), 37, 11, 1009, 400, 128.3, self.dtype)
        w = integer_values((inputs, columns), 53, 17, 911, 455, 257.7, self.dtype)
        bias = integer_values((columns,), 5, 2, 11, 5, 9.1, self.dtype)
        dy = integer_values((rows, columns), 31, 3, 401, 200, 77.7, self.dtype)
        x, w, bias, dy = (backend.from_host(a) for a in (x, w, bias, dy))
        if self.what in ("gradients", "masked"):
            y = linear(x, w, bias, relu=True, **options) if self.what == "masked" else None
            return [backend.to_host(a) for a in linear_backward(dy, x, w, y=y, **options)]
        added = None if self.what == "product" else bias
        return [backend.to_host(linear(x, w, added, relu=self.what == "relu", **options))]


class FunctionProgram(NamedTuple):
    """exp, log, tanh or sigmoid of values of all kinds, and of some over the range where it is curved."""

    name: str
    dtype: np.dtype[Any]
    size: int

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {self.size}"

    def run(self, **options: Any) -> list[Array]:
        backend = _backend(options)
        curved = integer_values((self.size,), 37, 11, 100_003, 50_001, 401.7, self.dtype)
        given = [backend.from_host(x) for x in (random_values(self.size, self.dtype, 1), curved)]
        return [backend.to_host(FUNCTIONS[self.name](x, **options)) for x in given]


class SoftmaxProgram(NamedTuple):
    """Loss and gradient of N rows of C logits."""

    dtype: np.dtype[Any]
    shape: tuple[int, int]  # (N, C)

    def __str__(self) -> str:
        return f"softmax {self.dtype} {self.shape[0]}x{self.shape[1]}"

    def run(self, **options: Any) -> list[Array]:
        backend = _backend(options)
        rows, columns = self.shape
        z = backend.from_host(integer_values(self.shape, 37, 11, 1009, 400, 31.7, self.dtype))
        labels = backend.from_host((3 * np.arange(rows, dtype=np.int64) + 1) % columns)
        loss, dz = softmax_cross_entropy(z, labels, **options)
        return [np.array([loss]), backend.to_host(dz)]


def _backend(options: dict[str, Any]) -> Any:
    """The module that runs a program: the programs' arrays start as NumPy's, so "auto" is the CPU."""
    name = options.get("backend", "auto")
    return backends.module("cpu" if name == "auto" else name)


FUNCTIONS = {"exp": exp, "log": log, "tanh": tanh, "sigmoid": sigmoid}

Program = (
    RuleProgram
    | OptionProgram
    | StorageProgram
    | SumProgram
    | BatchNormProgram
    | LinearProgram
    | ConvolutionProgram
    | MseProgram
    | FunctionProgram
    | SoftmaxProgram
    | LeavesProgram
    | FingerprintProgram
    | NetworkProgram
)


def programs() -> dict[str, list[Program]]:
    """All programs, by kernel and dtype, in the order of golden.json and of the certificate."""
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
        found[f"linear {dtype}"] = [
            LinearProgram(dtype, shape, what)
            for shape in ((7, 600, 5), (65, 257, 50), (1, 1, 1))
            for what in ("product", "y", "relu", "gradients", "masked")
        ]
        found[f"conv2d {dtype}"] = [*convolution_programs(dtype)]
        found[f"mse {dtype}"] = [
            MseProgram(dtype, shape, what)
            for shape in ((1500, 37), (1, 1), (70, 1030))
            for what in ("residual", "gradient", "loss")
        ]
        found[f"functions {dtype}"] = [FunctionProgram(name, dtype, n) for name in FUNCTIONS for n in SIZES]
        found[f"softmax {dtype}"] = [
            SoftmaxProgram(dtype, shape) for shape in ((9, 11), (1, 1), (64, 33), (5, 2500), (1100, 3))
        ]
        found[f"leaves {dtype}"] = [*leaves_programs(dtype)]
        found[f"whole run {dtype}"] = [
            NetworkProgram(dtype, (40, 270, 16, 5), 20, leaves) for leaves in (0, 4)
        ]
    found["fingerprint"] = [*fingerprint_programs()]
    return found


def is_long(program: Program) -> bool:
    """Whether the reference takes long: LONG_STEPS steps of a rule, or a training with its exact products."""
    return isinstance(program, NetworkProgram) or (
        isinstance(program, RuleProgram) and program.steps == LONG_STEPS
    )


def program_digest(program: Program, **options: Any) -> str:
    """The digest of the program's results as golden.json has it: its first 16 digits."""
    return digest(program.run(**options))[:16]


def difference(got: Array, expected: Array) -> str | None:
    """Where two arrays first differ in bits (any NaN equals any NaN), or None."""
    bits = f"u{expected.dtype.itemsize}"
    a, b = got.ravel(), expected.ravel()
    unequal = a.view(bits) != b.view(bits)
    if not unequal.any():
        return None
    differs = unequal & ~(np.isnan(a) & np.isnan(b))
    if not differs.any():
        return None
    i = int(np.argmax(differs))
    return (
        f"element {i}: got {a[i]!r} (0x{a.view(bits)[i]:x}), expected {b[i]!r} (0x{b.view(bits)[i]:x}); "
        f"{int(differs.sum())} of {a.size} differ"
    )
