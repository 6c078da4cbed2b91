"""The same step by other packages: for each a function that returns its calls by name.

A peer works on copies of the parameters. A peer that is not installed or does not have the rule is left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ...backends.arrays import Array
from .cases import LR

Calls = dict[str, Callable[[], Any]]

MOMENTUM, RHO, BETA1, BETA2 = 0.9, 0.9, 0.9, 0.999
EPS = {"AdaGrad": 1e-7, "RMSProp": 1e-6, "Adam": 1e-8}
STATES = {"SGD": 0, "Momentum": 1, "NAG": 1, "AdaGrad": 1, "RMSProp": 1, "Adam": 2}

TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}),
    "Momentum": ("SGD", {"momentum": MOMENTUM}),
    "NAG": ("SGD", {"momentum": MOMENTUM, "nesterov": True}),
    "AdaGrad": ("Adagrad", {"eps": EPS["AdaGrad"]}),
    "RMSProp": ("RMSprop", {"alpha": RHO, "eps": EPS["RMSProp"]}),
    "Adam": ("Adam", {"eps": EPS["Adam"]}),
}


def torch_steps(rule: str, params: list[Array], grads: list[Array], threads: int) -> Calls:
    """torch.optim's three implementations; the loop over tensors is the default on a CPU."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    name, options = TORCH[rule]
    calls: Calls = {}
    for kind, how in (
        ("loop", {"foreach": False}),
        ("foreach", {"foreach": True}),
        ("fused", {"fused": True}),
    ):
        weights = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in params]
        for w, g in zip(weights, grads, strict=True):
            w.grad = torch.from_numpy(g.copy())  # foreach with Nesterov momentum writes into it
        try:
            calls[f"torch {kind}"] = getattr(torch.optim, name)(weights, lr=LR, **options, **how).step
        except TypeError:  # no fused RMSprop
            continue
    return calls


def numpy_steps(rule: str, params: list[Array], grads: list[Array], threads: int) -> Calls:
    """The formulas as they are usually written in NumPy, on one thread."""
    return {"numpy": _step_each_tensor(_NUMPY[rule], rule, params, grads)}


def numba_steps(rule: str, params: list[Array], grads: list[Array], threads: int) -> Calls:
    """The functions of numpy_steps compiled by Numba: fused, on threads, with contraction and reordering."""
    numba = importlib.import_module("numba")
    numba.set_num_threads(threads)
    compiled = numba.njit(fastmath=True, parallel=True)(_NUMPY[rule])
    return {"numba": _step_each_tensor(compiled, rule, params, grads)}


def optax_steps(rule: str, params: list[Array], grads: list[Array], threads: int) -> Calls:
    """Optax in one jax.jit that may reuse its inputs' memory; XLA uses all processors."""
    jax = importlib.import_module("jax")
    optax = importlib.import_module("optax")
    optimizer = {
        "SGD": lambda: optax.sgd(LR),
        "Momentum": lambda: optax.sgd(LR, momentum=MOMENTUM),
        "NAG": lambda: optax.sgd(LR, momentum=MOMENTUM, nesterov=True),
        "AdaGrad": lambda: optax.adagrad(LR, initial_accumulator_value=0.0, eps=EPS["AdaGrad"]),
        "RMSProp": lambda: optax.rmsprop(LR, decay=RHO, eps=EPS["RMSProp"]),
        "Adam": lambda: optax.adam(LR, BETA1, BETA2, EPS["Adam"]),
    }[rule]()
    weights = [jax.numpy.asarray(w.copy()) for w in params]
    gradients = [jax.numpy.asarray(g) for g in grads]
    kept = [weights, optimizer.init(weights)]

    def update(weights: Any, state: Any, gradients: Any) -> Any:
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def step() -> None:
        kept[:] = jax.block_until_ready(compiled(*kept, gradients))

    return {"jax + optax": step}


def sklearn_steps(rule: str, params: list[Array], grads: list[Array], threads: int) -> Calls:
    """The optimizers inside scikit-learn's neural networks."""
    module = importlib.import_module("sklearn.neural_network._stochastic_optimizers")
    weights = [w.copy() for w in params]
    if rule == "Adam":
        optimizer = module.AdamOptimizer(weights, LR, BETA1, BETA2, EPS["Adam"])
    elif rule in ("Momentum", "NAG"):
        optimizer = module.SGDOptimizer(weights, LR, momentum=MOMENTUM, nesterov=rule == "NAG")
    else:
        return {}
    return {"scikit-learn": lambda: optimizer.update_params(weights, grads)}


PEERS: dict[str, Callable[[str, list[Array], list[Array], int], Calls]] = {
    "torch": torch_steps,
    "numpy": numpy_steps,
    "numba": numba_steps,
    "jax": optax_steps,
    "sklearn": sklearn_steps,
}


def steps_of(
    names: tuple[str, ...], rule: str, params: list[Array], grads: list[Array], threads: int
) -> Calls:
    """The calls of the named peers that are installed."""
    calls: Calls = {}
    for name in names:
        try:
            calls |= PEERS[name](rule, params, grads, threads)
        except ImportError:
            continue
    return calls


def _step_each_tensor(
    update: Callable[..., None], rule: str, params: list[Array], grads: list[Array]
) -> Callable[[], None]:
    weights = [w.copy() for w in params]
    states = [[np.zeros_like(w) for _ in range(STATES[rule])] for w in params]
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        lr, k = (LR / (1 - BETA1**t), 1 / (1 - BETA2**t) ** 0.5) if rule == "Adam" else (LR, 1.0)
        for w, g, state in zip(weights, grads, states, strict=True):
            update(w, g, *state, np.float32(lr), np.float32(k))

    return step


# For one tensor in NumPy. Factors are float32 scalars, so that NumPy does not widen to float64.
_A, _R, _1R, _B1, _1B1, _B2, _1B2 = map(
    np.float32, (MOMENTUM, RHO, 1 - RHO, BETA1, 1 - BETA1, BETA2, 1 - BETA2)
)
_E_ADAGRAD, _E_RMSPROP, _E_ADAM = map(np.float32, EPS.values())


def _numpy_sgd(w: Any, g: Any, lr: Any, _: Any) -> None:
    w -= lr * g


def _numpy_momentum(w: Any, g: Any, b: Any, lr: Any, _: Any) -> None:
    b *= _A
    b += g
    w -= lr * b


def _numpy_nag(w: Any, g: Any, b: Any, lr: Any, _: Any) -> None:
    b *= _A
    b += g
    w -= lr * (g + _A * b)


def _numpy_adagrad(w: Any, g: Any, r: Any, lr: Any, _: Any) -> None:
    r += g * g
    w -= lr * g / (np.sqrt(r) + _E_ADAGRAD)


def _numpy_rmsprop(w: Any, g: Any, r: Any, lr: Any, _: Any) -> None:
    r *= _R
    r += _1R * g * g
    w -= lr * g / (np.sqrt(r) + _E_RMSPROP)


def _numpy_adam(w: Any, g: Any, m: Any, v: Any, step: Any, k: Any) -> None:
    m *= _B1
    m += _1B1 * g
    v *= _B2
    v += _1B2 * g * g
    w -= step * m / (np.sqrt(v) * k + _E_ADAM)


_NUMPY: dict[str, Callable[..., None]] = {
    "SGD": _numpy_sgd,
    "Momentum": _numpy_momentum,
    "NAG": _numpy_nag,
    "AdaGrad": _numpy_adagrad,
    "RMSProp": _numpy_rmsprop,
    "Adam": _numpy_adam,
}
