"""samestep.jax.linear and its gradients have the bits of samestep.linear and samestep.linear_backward."""

import numpy as np
import pytest

import samestep as ss

jax = pytest.importorskip("jax", reason="jax is not installed")
pytest.importorskip("optax", reason="optax is not installed")
if not ss._core.xla_calls():
    pytest.skip("samestep was compiled without jaxlib's headers", allow_module_level=True)

import jax.numpy as jnp

import samestep.jax as face

SHAPES = ((3, 4, 5), (1, 1, 1), (0, 3, 2), (4, 0, 3), (2, 3, 0), (70, 300, 130))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("relu", "has_bias"), [(False, False), (True, False), (False, True), (True, True)])
def test_bits_of_forward_and_gradients(shape, dtype, relu, has_bias):
    n, k, j = shape
    rng = np.random.default_rng(n + k + j)
    x, w, bias, dy = (rng.normal(size=s).astype(dtype) for s in ((n, k), (k, j), (j,), (n, j)))
    y = ss.linear(x, w, bias if has_bias else None, relu=relu)
    dx, dw, dbias = ss.linear_backward(dy, x, w, y=y if relu else None)
    operands = (x, w, bias)[: 2 + has_bias]
    with jax.enable_x64(dtype == "float64"):
        mine, back = jax.vjp(lambda *given: face.linear(*given, relu=relu), *map(jnp.array, operands))
        assert np.asarray(mine).tobytes() == y.tobytes()
        for found, expected in zip(back(jnp.array(dy)), (dx, dw, dbias), strict=False):
            assert found.dtype == dtype
            assert np.asarray(found).tobytes() == expected.tobytes()


def test_more_axes_jit_and_vmap():
    rng = np.random.default_rng(0)
    x, w, bias = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 5, 7), (7, 4), (4,)))
    expected = ss.linear(x.reshape(-1, 7), w, bias).tobytes()
    assert np.asarray(jax.jit(face.linear)(x, w, bias)).tobytes() == expected
    mapped = jax.vmap(face.linear, (0, None, None))(x, w, bias)
    assert mapped.shape == (2, 3, 5, 4)
    assert np.asarray(mapped).tobytes() == expected
    row = jax.vmap(jax.grad(lambda x, w: face.linear(x, w).sum()), (0, None))(x[0], w)
    assert row.shape == x[0].shape


def test_what_does_not_fit_is_named():
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    with pytest.raises(ValueError, match=r"x, w: got shapes \(2, 3\) and \(2, 3\)"):
        face.linear(x, x)
    with pytest.raises(ValueError, match=r"bias: got shape \(3,\), expected \(4,\)"):
        face.linear(x, w, jnp.ones(3))
    with pytest.raises(TypeError, match="w: got bfloat16"):
        face.linear(x, w.astype(jnp.bfloat16))
    with pytest.raises(TypeError, match="relu"):
        face.linear(x, w, relu="yes")
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda x: jax.grad(lambda x: face.linear(x, w).sum())(x).sum())(x)
