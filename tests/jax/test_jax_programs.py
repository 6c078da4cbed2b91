"""The transformations within JAX's own programs: donation, loops, vmap, several devices, errors."""

import os
import subprocess
import sys

import numpy as np
import pytest

import samestep as ss

jax = pytest.importorskip("jax", reason="jax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")
if not ss._core.xla_calls():
    pytest.skip("samestep was compiled without jaxlib's headers", allow_module_level=True)

import jax.numpy as jnp

import samestep.jax as face

STEPS = 5


def expected(w, lr=0.1, steps=STEPS):
    w = np.array(w, np.float32)
    optimizer = ss.Adam(w, lr=lr)
    for _ in range(steps):
        optimizer.step(w - 3)
    return w.tobytes()


def bits(array):
    return np.asarray(array).tobytes()


def addresses(tree):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


def tree_of(n):
    return [
        jnp.full((n,), 2.0),
        {"a": jnp.full((2, 3), 1.0), "b": jnp.full((2, 3), 4.0)},
        jnp.float32(1.0) + 0,
    ]


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "clip_norm": 1.0}])
def test_donated_arrays_are_stepped_in_their_memory(options):
    mine = face.adam(0.1, **options)
    params = tree_of(100000)
    state = mine.init(params)
    step = jax.jit(mine.step, donate_argnums=(1, 2))
    before = addresses((params, state))
    for _ in range(3):
        grads = jax.tree.map(jnp.ones_like, params)
        params, state = step(grads, params, state)
        assert addresses((params, state)) == before


def test_no_copy_is_left_in_the_program():
    mine = face.adam(0.1)
    params = tree_of(1000)
    state = mine.init(params)
    donated = jax.jit(mine.step, donate_argnums=(1, 2)).lower(params, params, state).compile().as_text()
    assert donated.count("custom_call_target") == 1
    assert " copy(" not in donated
    assert " copy(" in jax.jit(mine.step).lower(params, params, state).compile().as_text()


def test_what_is_not_donated_stays():
    mine = face.adam(0.1)
    params = jnp.full((1000,), 2.0)
    state = mine.init(params)
    left, after = jax.jit(mine.step)(params, params, state)
    assert (params == 2).all()
    assert (state.states["m"] == 0).all()
    assert int(state.count) == 0
    assert not (left == 2).any()
    assert (after.states["m"] != 0).all()


def test_scan_and_fori_loop():
    mine = face.adam(0.1)
    params = jnp.arange(10, dtype=jnp.float32)

    def one(carry, _):
        params, state = carry
        return mine.step(params - 3, params, state), None

    @jax.jit
    def scanned(params):
        return jax.lax.scan(one, (params, mine.init(params)), length=STEPS)[0]

    @jax.jit
    def looped(params):
        return jax.lax.fori_loop(0, STEPS, lambda _, carry: one(carry, None)[0], (params, mine.init(params)))

    for run in (scanned, looped):
        left, state = run(params)
        assert bits(left) == expected(np.arange(10))
        assert int(state.count) == STEPS


def test_vmap_steps_one_after_the_other():
    """Each with a count and a learning rate of its own."""
    params = jnp.arange(12, dtype=jnp.float32).reshape(3, 4)
    rates = jnp.array([0.1, 0.2, 0.4])

    def train(params, lr):
        mine = face.adam(lr)
        state = mine.init(params)
        for _ in range(STEPS):
            params, state = mine.step(params - 3, params, state)
        return params, state.count

    left, counts = jax.jit(jax.vmap(train))(params, rates)
    assert counts.tolist() == [STEPS] * 3
    for row, w, lr in zip(left, params, rates, strict=True):
        assert bits(row) == expected(w, float(lr))


def test_it_has_no_derivative():
    mine = face.adam(0.1)
    w = jnp.ones(3)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda w: mine.step(w, w, mine.init(w))[0].sum())(w)


def test_two_threads_at_once():
    from concurrent.futures import ThreadPoolExecutor

    mine = face.adam(0.1)
    step = jax.jit(mine.step)
    w = np.arange(50000) % 7

    def run(_):
        params = jnp.array(w, jnp.float32)
        state = mine.init(params)
        for _ in range(STEPS):
            params, state = step(params - 3, params, state)
        return bits(params)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(run, range(16))) == {expected(w)}


def test_many_layouts():
    """More sizes than plans are kept for, twice each."""
    mine = face.adam(0.1)
    step = jax.jit(mine.step)
    for n in [*range(1, 80), *range(1, 80)]:
        params = jnp.arange(n, dtype=jnp.float32)
        left, _ = step(params - 3, params, mine.init(params))
        assert bits(left) == expected(np.arange(n), steps=1)


DEVICES = """
import functools, jax, jax.numpy as jnp, numpy as np, samestep as ss, samestep.jax
from jax.sharding import NamedSharding, PartitionSpec
mesh = jax.make_mesh((2,), ("x",))
mine = samestep.jax.adam(0.1)
start = np.arange(100000, dtype=np.float32) % 11
w = start.copy()
optimizer = ss.Adam(w, lr=0.1)
for _ in range(5):
    optimizer.step(w - 3)

def run(place):
    params = jax.device_put(start, place)
    state = mine.init(params)
    step = jax.jit(lambda p, s: mine.step(p - 3, p, s), donate_argnums=(0, 1))
    for _ in range(5):
        params, state = step(params, state)
    return params

for spec in PartitionSpec(), PartitionSpec("x"):
    left = run(NamedSharding(mesh, spec))
    for shard in left.addressable_shards:
        assert np.asarray(shard.data).tobytes() == w[shard.index].tobytes(), spec
    assert len(left.addressable_shards) == 2
    assert left.sharding.spec[0] == (spec[0] if spec else None), left.sharding

@functools.partial(jax.pmap, axis_name="x")
def step(params, state):
    return mine.step(jax.lax.pmean(params - 3, "x"), params, state)

params = jnp.stack([start, start])
state = jax.vmap(mine.init)(params)
for _ in range(5):
    params, state = step(params, state)
assert all(np.asarray(p).tobytes() == w.tobytes() for p in params)

spec = PartitionSpec("x")
@functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
def each(params):
    return mine.step(params - 3, params, mine.init(params))[0]
one = ss.Adam(part := start.copy(), lr=0.1); one.step(part - 3)
split = jax.device_put(start, NamedSharding(mesh, PartitionSpec("x")))
assert np.asarray(jax.jit(each)(split)).tobytes() == part.tobytes()

x, one, zero = start[:24].reshape(8, 3), np.ones(3, np.float32), np.zeros(3, np.float32)
@functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
def normalised(x):
    return samestep.jax.batch_norm(x, one, zero, zero, one)[0]
parts = [ss.batchnorm_forward(part, one, zero)[0] for part in (x[:4], x[4:])]
y = jax.jit(normalised)(jax.device_put(x, NamedSharding(mesh, spec)))
assert np.asarray(y).tobytes() == np.concatenate(parts).tobytes()
print("done")
"""


def test_two_devices():
    """Replicated and split parameters, pmap, shard_map, and batch norm of parts: the bits of one device."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", DEVICES], capture_output=True, encoding="utf-8", env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "done"


def test_state_of_shapes_alone():
    shape = jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)
    state = face.adam().init({"w": shape})
    assert state.states["m"]["w"].shape == (2, 3)
    assert state.states["m"]["w"].dtype == jnp.float32


# ---- errors ----


def test_what_does_not_fit_is_named():
    mine = face.adam(0.1)
    params = {"w": jnp.ones(3), "b": jnp.ones(())}
    state = mine.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    with pytest.raises(ValueError, match=r"grads: got PyTreeDef"):
        mine.step([jnp.ones(3)], params, state)
    with pytest.raises(TypeError, match=r"grads\['w'\]: got float32 \(2,\), expected float32 \(3,\)"):
        mine.step({**grads, "w": jnp.ones(2)}, params, state)
    with pytest.raises(TypeError, match=r"grads\['b'\]: got bfloat16 \(\), expected float32 \(\)"):
        mine.step({**grads, "b": jnp.ones((), jnp.bfloat16)}, params, state)
    with pytest.raises(TypeError, match=r"params\['w'\]: got int32, expected float32, float64"):
        mine.init({**params, "w": jnp.ones(3, jnp.int32)})
    with pytest.raises(TypeError, match=r"step\(grads, params, state\)"):
        mine.step(grads, state, params)
    with pytest.raises(ValueError, match="state: got one of r, expected m, v"):
        mine.step(grads, params, face.rmsprop(0.1).init(params))
    with pytest.raises(TypeError, match=r"state.count: got float32 \(\)"):
        mine.step(grads, params, state._replace(count=jnp.float32(0)))
    with pytest.raises(TypeError, match=r"state.states\['m'\]\['w'\]: got float32 \(4,\)"):
        mine.step(grads, params, mine.init({**params, "w": jnp.ones(4)}))


def test_arguments_are_checked_at_once():
    for make, error, message in (
        (lambda: face.adam(-1.0), ValueError, "lr: got -1.0"),
        (lambda: face.adam(betas=(0.9, 1.0)), ValueError, "beta2: got 1.0"),
        (lambda: face.adam(eps=lambda count: 0.1), TypeError, "eps: got a callable"),
        (lambda: face.adam(jnp.ones(2)), ValueError, r"lr: got an array of shape \(2,\)"),
        (lambda: face.adam(state_dir="x"), TypeError, "adam: got the unknown argument 'state_dir'"),
        (lambda: face.adam(zero_grads=True), TypeError, "adam: got the unknown argument 'zero_grads'"),
        (lambda: face.adam(nonfinite="raise"), ValueError, "nonfinite: got 'raise'"),
        (lambda: face.adam(master="split"), ValueError, "master: got 'split'"),
        (lambda: face.momentum(0.1, dampening=0.5), ValueError, "dampening: got 0.5"),
    ):
        with pytest.raises(error, match=message):
            make()
    with pytest.raises(ValueError, match="lr: got 1e-50, which is 0 in float32"):
        face.adam(1e-50).init(jnp.ones(2))
    with pytest.raises(TypeError, match="expected 16 bits for master"):
        face.adam(master="float32").init(jnp.ones(2))


def test_a_build_without_xla_s_headers_says_so(monkeypatch):
    from samestep.jax import call

    monkeypatch.setattr(call._core, "xla_calls", dict)
    with pytest.raises(ImportError, match="SAMESTEP_JAX=1 pip install"):
        call.register()


def test_count_stays_at_its_last_number():
    mine = face.adam(0.1)
    w = jnp.ones(3)
    state = mine.init(w)._replace(count=jnp.int32(2**31 - 1))
    _, after = mine.step(w, w, state)
    assert int(after.count) == 2**31 - 1
    with pytest.raises(Exception, match="count: got -1, expected 0 or more"):
        jax.block_until_ready(mine.step(w, w, state._replace(count=jnp.int32(-1))))
