"""Each transformation gives the bits of the class of samestep, at every step, and works where it says."""

import numpy as np
import pytest

import samestep as ss

jax = pytest.importorskip("jax", reason="jax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")
if ss._core.xla_step() is None:
    pytest.skip("samestep was compiled without jaxlib's headers", allow_module_level=True)

import jax.numpy as jnp

import samestep.jax as face

SHAPES = ((3, 5), (), (0,), (1,), (2, 0, 3), (1000,), (70, 61))
STEPS = 6

CASES = {
    "sgd": ("sgd", ss.SGD, {"lr": 0.1}),
    "momentum": ("momentum", ss.Momentum, {"lr": 0.1, "momentum": 0.8}),
    "momentum_torch": ("momentum", ss.Momentum, {"lr": 0.1, "form": "torch"}),
    "momentum_dampened": ("momentum", ss.Momentum, {"lr": 0.1, "form": "torch", "dampening": 0.25}),
    "nag": ("nag", ss.NAG, {"lr": 0.1}),
    "nag_next": ("nag", ss.NAG, {"lr": 0.1, "momentum": 0.7, "momentum_next": 0.6}),
    "nag_torch": ("nag", ss.NAG, {"lr": 0.1, "form": "torch"}),
    "adagrad": ("adagrad", ss.AdaGrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator": 0.5}),
    "adagrad_inside": ("adagrad", ss.AdaGrad, {"lr": 0.1, "eps_placement": "inside"}),
    "rmsprop": ("rmsprop", ss.RMSProp, {"lr": 0.1}),
    "rmsprop_outside": ("rmsprop", ss.RMSProp, {"lr": 0.1, "eps_placement": "outside", "rho": 0.8}),
    "rmsprop_centered": ("rmsprop", ss.RMSProp, {"lr": 0.1, "centered": True, "eps": 1e-2}),
    "rmsprop_momentum": ("rmsprop", ss.RMSProp, {"lr": 0.1, "momentum": 0.9}),
    "rmsprop_both": ("rmsprop", ss.RMSProp, {"lr": 0.1, "momentum": 0.9, "centered": True, "eps": 1e-2}),
    "adam": ("adam", ss.Adam, {}),
    "adam_inside": (
        "adam",
        ss.Adam,
        {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-4, "eps_placement": "inside"},
    ),
    "amsgrad": ("adam", ss.Adam, {"amsgrad": True}),
    "adamw": ("adamw", ss.AdamW, {}),
    "adamw_amsgrad": ("adamw", ss.AdamW, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
}
DTYPES = ("float32", "float64", "bfloat16", "float16")


def numbers(rng, dtype, scale=1.0):
    return [np.asarray(scale * rng.normal(size=shape)).astype(jnp.dtype(dtype)) for shape in SHAPES]


def bits(arrays):
    return [np.asarray(a).tobytes() for a in arrays]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_step_gives_the_bits_of_the_class(case, dtype):
    name, kind, arguments = CASES[case]
    check(name, kind, arguments, dtype)


def check(name, kind, arguments, dtype, arguments_of_class=None):
    rng = np.random.default_rng(7)
    with jax.enable_x64(dtype == "float64"):
        arrays = numbers(rng, dtype)
        optimizer = kind(arrays, **(arguments_of_class or arguments))
        mine = getattr(face, name)(**arguments)
        params = [jnp.array(a) for a in arrays]
        state = mine.init(params)
        step = jax.jit(mine.step, donate_argnums=(1, 2))
        for t in range(1, STEPS + 1):
            grads = numbers(rng, dtype, scale=3.0)
            optimizer.step(grads)
            params, state = step([jnp.array(g) for g in grads], params, state)
            assert bits(params) == bits(arrays)
            assert set(state.states) == set(optimizer.state)
            for key, states in optimizer.state.items():
                assert [s.dtype for s in state.states[key]] == [s.dtype for s in states]
                assert bits(state.states[key]) == bits(states)
            assert int(state.count) == t
