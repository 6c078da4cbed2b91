# The compiled extension, bound in csrc/python/. backends/face.py tells the shapes and formulas of what each
# backend offers.

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .backends.arrays import Array
from .backends.face import Tensor
from .backends.options import Options

# The compiler, its version and its flags.
compile_flags: str

# Of every rule its name, family, form, variant, the names of its hyper-parameters and those of its states.
def rules() -> list[tuple[str, str, str | None, str | None, tuple[str, ...], tuple[str, ...]]]: ...

# The instruction sets that this machine has, without those withdrawn; the best first.
def isas() -> list[str]: ...
def get_isa() -> str: ...

# False if the name is unknown or not supported here.
def set_isa(name: str) -> bool: ...

# Takes an instruction set out of isas(), unless it is the last.
def withdraw_isa(name: str) -> None: ...

# For the instruction set in use: every kernel's name, and a hash of its results for a few numbers.
def self_check() -> list[tuple[str, int]]: ...

# The length of the vectors of the instruction set in use.
def vector_bytes() -> int: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...

# Spreads work of any size over all threads, for tests; returns the setting before.
def wake_always(on: bool) -> bool: ...

# Whether plans try settings in their first steps, and keep the fastest; returns the setting before.
def set_tuning(on: bool) -> bool: ...

# Large jobs go to the threads of the OpenMP runtime that this library, if it is loaded, is linked to.
def use_openmp_of(library: str) -> bool: ...

# That library; empty where the package's own threads do all work, as in a forked child.
def openmp_library() -> str: ...

# What jax.ffi registers, by name, as capsules; none where jaxlib's headers were not there to compile it.
def xla_calls() -> dict[str, Any]: ...

# The number of processors that the affinity mask and the cgroup quota grant.
def default_num_threads() -> int: ...
def canonical_sum(x: Array, outer: int, n: int, inner: int) -> NDArray[np.float64]: ...
def block_sums(x: Array, outer: int, n: int, inner: int, squares: bool) -> NDArray[np.float64]: ...
def pair_sums(sums: NDArray[np.float64], outer: int, blocks: int, inner: int) -> NDArray[np.float64]: ...
def global_norm(arrays: Sequence[Array]) -> float: ...
def norm_of(sums: NDArray[np.float64], scale: float) -> float: ...
def clipped_scale(scale: float, norm: float, clip_norm: float) -> float: ...

# Leaves; an array that does not fit raises ValueError.
def weigh_leaf(g: Array | None, weight: float, out: Array) -> None: ...
def fingerprint(x: Array) -> int: ...
def finish_fingerprints(sums: NDArray[np.uint64], nbytes: NDArray[np.uint64]) -> NDArray[np.uint64]: ...
def add_leaves(to: Array, other: Array) -> None: ...
def average_leaves(total: Array, weight: float, out: Array) -> None: ...

# The linear layer; None, with nothing written, where an argument does not fit.
def linear(x: Any, w: Any, bias: Any, relu: Any, out: Any) -> Array | None: ...
def linear_backward(
    dy: Any, x: Any, w: Any, y: Any, input_gradient: bool, dx: Any, dw: Any, dbias: Any
) -> tuple[Array | None, Array, Array] | None: ...

# Convolution; None: not there, or not wanted.
_Window: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]

def conv2d(x: Array, w: Array, bias: Array | None, window: _Window, relu: bool, out: Array) -> None: ...
def conv2d_backward(
    dy: Array,
    x: Array | None,
    w: Array | None,
    y: Array | None,
    window: _Window,
    dx: Array | None,
    dw: Array | None,
    dbias: Array | None,
) -> None: ...

# out = function(x), as in face.Backend; returns out, for None a new array, or None: an array does not fit.
def exp(x: Any, out: Any) -> Array | None: ...
def log(x: Any, out: Any) -> Array | None: ...
def tanh(x: Any, out: Any) -> Array | None: ...
def sigmoid(x: Any, out: Any) -> Array | None: ...
def softmax_cross_entropy(z: Array, labels: NDArray[np.int64], dz: Array) -> float: ...
def batchnorm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    out: Array,
    mean: Array,
    inv: Array,
    mean64: NDArray[np.float64],
    var64: NDArray[np.float64],
    sizes: tuple[int, int, int],
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None: ...
def batchnorm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    inv: Array,
    out: Array,
    dgamma: Array,
    dbeta: Array,
    sizes: tuple[int, int, int],
    channels_last: bool,
    relu: bool,
) -> None: ...
def batchnorm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    out: Array,
    sizes: tuple[int, int, int],
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None: ...
def batchnorm_forward_blocks(
    x: Array,
    shift: Array,
    sums: NDArray[np.float64],
    sizes: tuple[int, int, int],
    channels_last: bool,
    first: int,
) -> None: ...
def batchnorm_forward_apply(
    x: Array,
    shift: Array,
    gamma: Array,
    beta: Array,
    sums: NDArray[np.float64],
    out: Array,
    mean: Array,
    inv: Array,
    mean64: NDArray[np.float64],
    var64: NDArray[np.float64],
    sizes: tuple[int, int, int],
    channels_last: bool,
    relu: bool,
    eps: float,
    values: int,
) -> None: ...
def batchnorm_backward_blocks(
    dy: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    inv: Array,
    sums: NDArray[np.float64],
    sizes: tuple[int, int, int],
    channels_last: bool,
    relu: bool,
    first: int,
) -> None: ...
def batchnorm_backward_apply(
    dy: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    inv: Array,
    sums: NDArray[np.float64],
    out: Array,
    dgamma: Array,
    dbeta: Array,
    sizes: tuple[int, int, int],
    channels_last: bool,
    relu: bool,
    values: int,
) -> None: ...
def update_running(
    running_mean: Array,
    running_var: Array,
    mean64: NDArray[np.float64],
    var64: NDArray[np.float64],
    values: int,
    momentum: float,
    batches: int,
) -> None: ...
def update_running_and_count(
    running_mean: Array,
    running_var: Array,
    mean64: NDArray[np.float64],
    var64: NDArray[np.float64],
    values: int,
    momentum: float,
    count: Array,  # of one int64, raised by one
) -> None: ...

class Plan:
    def __init__(
        self,
        rule: str,
        tensors: Sequence[Tensor],
        steps: NDArray[np.int64],
        options: Options | None = None,
    ) -> None: ...
    @property
    def norm(self) -> float: ...
    # (elements of a work item, threads, seconds of its trials, whether it is kept), the default first.
    @property
    def trials(self) -> list[tuple[int, int, list[float], bool]]: ...
    # Has all further steps run with one of them.
    def keep(self, setting: int) -> None: ...
    def step(
        self,
        grads: Sequence[Array | None],
        hyper: Sequence[float],
        scale: float = 1.0,
        sums: NDArray[np.uint64] | None = None,
        checks: int = 0,
    ) -> int: ...
    @property
    def mismatch(self) -> tuple[int, int, int, int, int]: ...
    def set_weight_decay(self, weight_decay: list[float]) -> None: ...
    # So many steps along the gradient of the trainer's problem; returns what step() returns.
    def train(self, trainer: Trainer, hyper: Sequence[float], steps: int) -> int: ...

# The roof of a step (commands/bench/roof.py): of each tensor what it reads, and what it reads and writes.
class Roof:
    def __init__(self, tensors: Sequence[tuple[Array, Sequence[Array]]], threads: int) -> None: ...
    # The ways to cut the arrays and to fetch them.
    @property
    def ways(self) -> list[str]: ...
    # Seconds of one pass of s = s + c g, each written s, on threads of its own that are started before.
    def seconds(self, way: int, passes: int = 1, c: float = 0.0) -> float: ...

# The memory of a tensor of torch as an array, which keeps the tensor alive; name: the argument's.
def array_of(tensor: Any, name: str) -> Array: ...

# The functions of these names on tensors, with torch's weight; None: a tensor does not fit.
def linear_of_tensors(input: Any, weight: Any, bias: Any, relu: bool) -> Any: ...
def linear_backward_of_tensors(grad: Any, input: Any, weight: Any, y: Any, by_bias: bool) -> Any: ...
def softmax_cross_entropy_of_tensors(input: Any, target: Any) -> Any: ...

# Which objects a list held, without a reference to them.
class Identities:
    def __init__(self, objects: list[Any]) -> None: ...
    def are_of(self, objects: list[Any]) -> bool: ...

# Where a group's states are: in which of the optimizer's states (-1: in none), under which name.
class StatePlaces:
    def __init__(self, positions: list[int], names: list[str]) -> None: ...
    # What is there; None, where one of them is missing.
    def look_up(self, states: list[Any]) -> list[Any] | None: ...

# The memory layouts that tensors of torch had when they were bound.
class Layouts:
    def __init__(self, tensors: list[Any], n_counts: int = 0) -> None: ...
    # The index of the first tensor whose memory or layout is no longer the bound one; -1: none.
    def find_moved(self, tensors: list[Any]) -> int: ...
    # The storages of tensors that all lie as they were bound, which keep that memory alive; else None.
    def hold(self, tensors: list[Any]) -> list[Any] | None: ...
    def get_addresses(self, tensors: list[Any]) -> tuple[list[int | None], list[Any]]: ...
    # The gradients, and what get_addresses() says of them.
    def get_gradients(self, params: list[Any]) -> tuple[list[Any], list[int | None], list[Any]]: ...

# A Plan of tensors that are named by their addresses; the caller keeps their memory alive.
class AddressedPlan:
    def __init__(
        self,
        rule: str,
        memory: list[tuple[str, int, int, list[int]]],
        steps: NDArray[np.int64],
        options: Options,
        strided: list[tuple[int, int, bool, list[int], list[int], list[int]]] = ...,
        counts: list[tuple[int, str]] = ...,
    ) -> None: ...
    @property
    def is_disjoint(self) -> bool: ...
    @staticmethod
    def step_together(
        plans: list[AddressedPlan],
        grads: list[list[int | None]],
        hyper: list[list[float]],
        weight_decay: list[float],
        then: Sequence[Callable[[], object]],
        sums: Sequence[NDArray[np.uint64]] | None = None,
    ) -> tuple[int, int] | None: ...

class Mse:
    def __init__(self, Phi: Array, y: Array, factor: float, per_row: bool) -> None: ...
    def evaluate(
        self, w: Array, rows: NDArray[np.int64] | None, r: Array | None, g: Array | None
    ) -> float: ...
    def block_sums(
        self, w: Array, rows: NDArray[np.int64] | None, of_gradient: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]: ...
    def finish(
        self, rows: int, squares: float, gradient: NDArray[np.float64] | None, g: Array | None
    ) -> float: ...

# The rows of each step of a problem, for Plan.train: csrc/run/train.cpp.
class Trainer:
    def __init__(self, problem: Mse, sampling: str, batch_size: int, seed: int) -> None: ...

# As backends.reference.sampling.Sampler.
class Sampler:
    def __init__(self, seed: int) -> None: ...
    def shuffle(self, n: int) -> NDArray[np.int64]: ...
    def draws(self, m: int, n: int) -> NDArray[np.int64]: ...
