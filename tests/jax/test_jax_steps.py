"""Each transformation gives the bits of the class of samestep, at every step, and works where it says."""

import numpy as np
import pytest

import samestep as ss

jax = pytest.importorskip("jax", reason="jax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")
if not ss._core.xla_calls():
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


OPTIONS = {
    "weight_decay": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "maximize": {"maximize": True},
    "clip_norm": {"clip_norm": 0.5},
    "clip_value": {"clip_value": 0.25},
    "ema": {"ema": 0.9},
    "flush_subnormals": {"flush_subnormals": True},
    "several": {"weight_decay": 0.1, "clip_norm": 2.0, "clip_value": 0.5, "ema": 0.5, "maximize": True},
}
HALF_OPTIONS = {
    "state_dtype": {"state_dtype": "param"},
    "master": {"master": "float32"},
    "ema": {"ema": 0.9},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["sgd", "nag", "adam"])
def test_options_give_the_bits_of_the_class(name, option):
    _, kind, arguments = CASES[name]
    check(name, kind, {**arguments, **OPTIONS[option]}, "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("option", HALF_OPTIONS)
def test_options_of_16_bits(option, dtype):
    check("adamw", ss.AdamW, HALF_OPTIONS[option], dtype)


def test_stochastic_rounding():
    check("adam", ss.Adam, {"stochastic_rounding": 2**63 + 5}, "bfloat16")


def test_flushed_state():
    """A state that decays below 2^-126 becomes 0, and without the option it does not."""
    for flush in (True, False):
        w = np.ones(3, np.float32)
        optimizer = ss.Momentum(w, lr=1.0, momentum=0.5, flush_subnormals=flush)
        mine = face.momentum(1.0, 0.5, flush_subnormals=flush)
        params = jnp.ones(3)
        state = mine.init(params)
        for g in (np.full(3, 1e-37, np.float32), *[np.zeros(3, np.float32)] * 5):
            optimizer.step(g)
            params, state = mine.step(jnp.array(g), params, state)
        assert bits([state.states["v"]]) == bits(optimizer.state["v"])
        assert (np.asarray(state.states["v"]) == 0).all() == flush


def test_a_skipped_step_changes_nothing():
    mine = face.adam(nonfinite="skip")
    params = [jnp.ones(3), jnp.zeros(2)]
    state = mine.init(params)
    params, state = mine.step([jnp.ones(3), jnp.ones(2)], params, state)
    grads = [jnp.ones(3), jnp.array([1.0, jnp.inf])]
    left, left_state = jax.jit(mine.step)(grads, params, state)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bits([a]) == bits([b]), (left, left_state), (params, state))
    )
    updates, _ = mine.update(grads, state, params)
    assert all((u == 0).all() for u in updates)
    assert np.isnan(face.adam().step(grads, params, state)[0][1]).any()


def test_mixed_types_and_trees():
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        arrays = {
            "a": [rng.normal(size=5), rng.normal(size=(2, 2)).astype(np.float32)],
            "b": (rng.normal(size=3).astype(jnp.bfloat16), {}, None),
        }
        given = jax.tree.map(jnp.array, arrays)
        flat = jax.tree.leaves(arrays)
        optimizer, mine = ss.Adam(flat, lr=0.1, clip_norm=1.0), face.adam(0.1, clip_norm=1.0)
        state = mine.init(given)
        for _ in range(3):
            grads = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), arrays)
            optimizer.step(jax.tree.leaves(grads))
            given, state = mine.step(jax.tree.map(jnp.array, grads), given, state)
        assert bits(jax.tree.leaves(given)) == bits(flat)
        assert given["b"][1:] == ({}, None)


def test_no_parameters_and_empty_ones():
    for params in ([], {}, [jnp.zeros(0)]):
        mine = face.adam()
        left, state = jax.jit(mine.step)(params, params, mine.init(params))
        assert jax.tree.structure(left) == jax.tree.structure(params)
        assert int(state.count) == 1


# ---- numbers that depend on the step, or that the program computes ----


def run_class(kind, arguments, steps=STEPS, change=lambda optimizer, t: None):
    w = np.arange(1, 7, dtype=np.float32)
    optimizer = kind(w, **arguments)
    for t in range(steps):
        change(optimizer, t)
        optimizer.step(w - 3)
    return w.tobytes()


def run_mine(mine, steps=STEPS):
    params = jnp.arange(1, 7, dtype=jnp.float32)
    state = mine.init(params)
    for _ in range(steps):
        params, state = jax.jit(mine.step)(params - 3, params, state)
    return np.asarray(params).tobytes()


def test_a_schedule_is_given_the_steps_made_so_far():
    rates = [0.5, 0.25, 0.125, 0.1, 0.01, 0.001]
    table = jnp.array(rates)

    def change(optimizer, t):
        optimizer.lr = float(np.float32(rates[t]))

    expected = run_class(ss.Adam, {"lr": 0.5}, change=change)
    assert run_mine(face.adam(lambda count: table[count])) == expected
    assert (
        run_mine(
            face.adam(optax.join_schedules([optax.constant_schedule(r) for r in rates], [1, 2, 3, 4, 5]))
        )
        == expected
    )
    assert run_class(ss.Adam, {"lr": 0.5}) != expected


def test_a_schedule_that_gives_a_float_keeps_its_bits():
    """A third is not a float32: the value of a constant schedule is the number itself."""
    assert run_mine(face.adam(optax.constant_schedule(1 / 3))) == run_class(ss.Adam, {"lr": 1 / 3})


def test_momentum_by_schedule():
    values = [0.5, 0.75, 0.875, 0.9375, 0.5, 0.25, 0.125]
    table = jnp.array(values)
    alike = {"lr": 0.1, "momentum": lambda t: values[t - 1]}
    follows = face.nag(0.1, lambda count: table[count])
    assert run_mine(follows) == run_class(ss.NAG, alike)
    ahead = face.nag(0.1, lambda count: table[count], momentum_next=lambda count: table[count + 1])
    assert run_mine(ahead) == run_class(ss.NAG, {**alike, "momentum_next": lambda t: values[t]})
    assert run_mine(ahead) != run_mine(follows)


def test_every_number_may_be_computed():
    names = ("weight_decay", "clip_norm", "clip_value", "ema")

    @jax.jit
    def run(lr, beta1, beta2, eps, *options):
        mine = face.adam(lr, (beta1, beta2), eps, **dict(zip(names, options, strict=True)))
        params = jnp.arange(1, 7, dtype=jnp.float32)
        state = mine.init(params)
        for _ in range(STEPS):
            params, state = mine.step(params - 3, params, state)
        return params, state.states["ema"]

    numbers = [np.float32(n) for n in (0.1, 0.8, 0.7, 1e-3, 0.01, 2.0, 0.9, 0.6)]
    w = np.arange(1, 7, dtype=np.float32)
    lr, beta1, beta2, eps, *options = map(float, numbers)
    optimizer = ss.Adam(w, lr, (beta1, beta2), eps, **dict(zip(names, options, strict=True)))
    for _ in range(STEPS):
        optimizer.step(w - 3)
    assert bits(run(*numbers)) == bits([w, *optimizer.ema])


def test_a_computed_number_out_of_range_is_an_error_of_the_step():
    for arguments, message in (
        ({"lr": jnp.float32(-1.0)}, "lr: got -1, expected a number of at least 0 and below inf"),
        ({"betas": (jnp.float32(1.0), 0.9)}, "beta1: got 1, expected a number of at least 0 and below 1"),
        ({"eps": jnp.float32(jnp.nan)}, "eps: got nan"),
    ):
        mine = face.adam(**arguments)
        w = jnp.ones(3)
        with pytest.raises(Exception, match=message):
            jax.block_until_ready(mine.step(w, w, mine.init(w)))


def test_inject_hyperparams():
    factory = optax.inject_hyperparams(face.rmsprop)
    mine = factory(lr=optax.linear_schedule(0.1, 0.2, 5), rho=0.8)
    params = jnp.arange(1, 7, dtype=jnp.float32)
    state = mine.init(params)
    rates = []
    for t in range(STEPS):
        if t == 3:
            state.hyperparams["rho"] = jnp.float32(0.5)
        updates, state = jax.jit(mine.update)(params - 3, state, params)
        params = optax.apply_updates(params, updates)
        rates.append(float(state.hyperparams["lr"]))
    assert len(set(rates)) == STEPS

    def change(optimizer, t):
        optimizer.lr, optimizer.rho = rates[t], float(np.float32(0.8 if t < 3 else 0.5))

    numbers = {"lr": 1.0, "rho": 0.5, "eps": float(np.float32(1e-6))}
    assert bits([params])[0] == run_class(ss.RMSProp, numbers, change=change)


def test_an_injected_accumulator():
    mine = optax.inject_hyperparams(face.adagrad)(lr=0.25, initial_accumulator=0.5)
    params = jnp.arange(1, 7, dtype=jnp.float32)
    updates, _ = mine.update(params - 3, jax.jit(mine.init)(params), params)
    numbers = {"lr": 0.25, "eps": float(np.float32(1e-7)), "initial_accumulator": 0.5}
    assert bits([params + updates])[0] == run_class(ss.AdaGrad, numbers, steps=1)


# ---- update: what is to be added ----


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("adamw")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_plus_updates_are_the_step(case, dtype):
    """To the last bit, signs of zeros included, and without the parameters."""
    name, _, arguments = CASES[case]
    rng = np.random.default_rng(3)
    with jax.enable_x64(dtype == "float64"):
        mine = getattr(face, name)(**arguments)
        params = jnp.array(rng.normal(size=100) * 10.0 ** rng.integers(-8, 2, 100), dtype)
        params = params.at[:6].set(jnp.array([0.0, -0.0, 0.0, -0.0, 1.0, -1.0], dtype))
        state = mine.init(params)
        for _ in range(STEPS):
            grads = (
                jnp.array(rng.normal(size=100), dtype).at[:4].set(jnp.array([0.0, 0.0, -0.0, -0.0], dtype))
            )
            stepped, after = mine.step(grads, params, state)
            updates, state = jax.jit(mine.update)(grads, state)
            params = optax.apply_updates(params, updates)
            assert bits([params]) == bits([stepped])
            assert bits(jax.tree.leaves(state)) == bits(jax.tree.leaves(after))


def test_subnormal_numbers():
    """XLA, which adds updates, makes 0 of them, in the mode that its threads are in; a step keeps them."""
    w, g = np.array([3e-39, 1e-38], np.float32), np.array([1e-39, 1e-39], np.float32)
    mine, params = face.sgd(1.0), jnp.array(w)
    state = mine.init(params)
    stepped, _ = jax.jit(mine.step)(jnp.array(g), params, state)
    updates, _ = jax.jit(mine.update)(jnp.array(g), state)
    ss.SGD(w, lr=1.0).step(g)
    assert bits([stepped]) == bits([w])
    assert bits([updates]) == bits([-g])
    assert not np.any(jax.jit(optax.apply_updates)(params, updates))


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"ema": 0.5}, {"weight_decay": jnp.float32(0.1)}])
def test_updates_that_need_the_parameters(options):
    mine = face.adam(0.1, **options)
    params = jnp.arange(1, 9, dtype=jnp.float32)
    state = mine.init(params)
    with pytest.raises(ValueError, match="params: got None"):
        mine.update(params, state)
    stepped, after = mine.step(params - 3, params, state)
    updates, state = mine.update(params - 3, state, params)
    assert bits(jax.tree.leaves(state)) == bits(jax.tree.leaves(after))
    np.testing.assert_allclose(params + updates, stepped, rtol=2e-7)


def test_in_a_chain():
    rng = np.random.default_rng(5)
    mine = optax.chain(optax.scale(2.0), face.adam(0.1))
    assert isinstance(face.adam(), optax.GradientTransformation)
    w = rng.normal(size=9).astype(np.float32)
    params, optimizer = jnp.array(w), ss.Adam(w, lr=0.1)
    state = mine.init(params)
    for _ in range(STEPS):
        g = rng.normal(size=9).astype(np.float32)
        optimizer.step(2 * g)
        updates, state = mine.update(jnp.array(g), state, params)
        params = optax.apply_updates(params, updates)
    assert bits([params]) == bits([w])
