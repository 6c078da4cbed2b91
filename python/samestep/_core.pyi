from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends.arrays import Array
from .backends.face import Tensor
from .backends.options import Options

compile_flags: str

def rules() -> list[tuple[str, str, str | None, str | None, tuple[str, ...], tuple[str, ...]]]: ...
def coefficients(
    rule: str, dtype: np.dtype[Any], t: int, hyper: Sequence[float], weight_decay: float = 0.0
) -> bytes: ...
def isas() -> list[str]: ...
def get_isa() -> str: ...
def set_isa(name: str) -> bool: ...
def withdraw_isa(name: str) -> None: ...
def self_check() -> list[tuple[str, int]]: ...
def vector_bytes() -> int: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def wake_always(on: bool) -> bool: ...
def default_num_threads() -> int: ...
def canonical_sum(x: Array, outer: int, n: int, inner: int) -> NDArray[np.float64]: ...
def global_norm(arrays: Sequence[Array]) -> float: ...
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
def update_running(
    running_mean: Array,
    running_var: Array,
    mean64: NDArray[np.float64],
    var64: NDArray[np.float64],
    values: int,
    momentum: float,
    batches: int,
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
    def step(self, grads: Sequence[Array | None], hyper: Sequence[float], scale: float = 1.0) -> int: ...
    def set_weight_decay(self, weight_decay: list[float]) -> None: ...
    def train(self, trainer: Trainer, hyper: Sequence[float], steps: int) -> int: ...

class Layouts:
    def __init__(self, tensors: list[Any]) -> None: ...
    def find_moved(self, tensors: list[Any]) -> int: ...
    def get_addresses(self, tensors: list[Any]) -> tuple[list[int | None], list[Any]]: ...

class AddressedPlan:
    def __init__(
        self,
        rule: str,
        memory: list[tuple[str, int, int, list[int]]],
        steps: NDArray[np.int64],
        options: Options,
        strided: list[tuple[int, int, bool, list[int], list[int], list[int]]] = ...,
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
    ) -> tuple[int, int] | None: ...

class Mse:
    def __init__(self, Phi: Array, y: Array, factor: float, per_row: bool) -> None: ...
    def evaluate(
        self, w: Array, rows: NDArray[np.int64] | None, r: Array | None, g: Array | None
    ) -> float: ...

class Trainer:
    def __init__(self, problem: Mse, sampling: str, batch_size: int, seed: int) -> None: ...

class Sampler:
    def __init__(self, seed: int) -> None: ...
    def shuffle(self, n: int) -> NDArray[np.int64]: ...
    def draws(self, m: int, n: int) -> NDArray[np.int64]: ...
