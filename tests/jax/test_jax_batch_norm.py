"""samestep.jax.batch_norm, its statistics and its gradients have the bits of samestep's batch norm."""

import numpy as np
import pytest

import samestep as ss

jax = pytest.importorskip("jax", reason="jax is not installed")
pytest.importorskip("optax", reason="optax is not installed")
if not ss._core.xla_calls():
    pytest.skip("samestep was compiled without jaxlib's headers", allow_module_level=True)

import jax.numpy as jnp

import samestep.jax as face

# And the axis of the channels. One channel, one position and many elements are ways of their own.
SHAPES = (
    ((4, 3), 1),
    ((3, 1), -1),
    ((5, 3, 1, 1), 1),
    ((2, 1, 5), 1),
    ((3, 4, 5, 2), 1),
    ((3, 5, 2, 4), -1),
    ((40, 70), 1),
    ((12, 16, 20, 20), 1),
    ((12, 20, 20, 6), -1),
)
EACH = pytest.mark.parametrize("dtype", ["float32", "float64"])
RELU = pytest.mark.parametrize("relu", [False, True])
NAMES = ("x", "weight", "bias", "running_mean", "running_var")


def numbers(shape, axis, dtype, seed=0):
    """x, weight, bias, running mean and variance, and dy."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(3, shape[axis])), rng.random((1, shape[axis])) + 0.25
    x, dy = rng.normal(1.5, 2.0, shape), rng.normal(size=shape)
    return [a.astype(dtype) for a in (x, *np.concatenate(vectors), dy)]


def assert_same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert np.asarray(mine).tobytes() == theirs.tobytes()


def trained(x, weight, bias, running_mean, running_var, *, momentum, **options):
    """What samestep.BatchNorm makes of one batch: y and the running statistics."""
    layer = ss.BatchNorm(len(weight), momentum=momentum, dtype=x.dtype, **options)
    layer.weight, layer.bias = weight, bias
    layer.running_mean, layer.running_var = running_mean.copy(), running_var.copy()
    return layer.forward(x), layer.running_mean, layer.running_var


@EACH
@RELU
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_bits_in_training(shape, axis, dtype, relu):
    *operands, dy = numbers(shape, axis, dtype)
    x, weight, bias, *_ = operands
    options = {"eps": 1e-3, "relu": relu, "axis": axis}
    _, mean, inv = ss.batchnorm_forward(x, weight, bias, **options)
    gradients = ss.batchnorm_backward(dy, x, weight, bias, mean, inv, relu=relu, axis=axis)
    expected = trained(*operands, momentum=0.3, **options)
    with jax.enable_x64(dtype == "float64"):
        norm = jax.jit(lambda *given: face.batch_norm(*given, momentum=0.3, **options))
        y, back, running = jax.vjp(norm, *map(jnp.array, operands), has_aux=True)
        assert_same((y, *running), expected)
        assert_same(back(jnp.array(dy)), (*gradients, *np.zeros((2, len(weight)), dtype)))


@EACH
@RELU
@pytest.mark.parametrize(("shape", "axis"), [*SHAPES, ((1, 3), 1), ((0, 3), 1), ((0, 1, 2), -1)], ids=str)
def test_bits_of_inference(shape, axis, dtype, relu):
    *operands, dy = numbers(shape, axis, dtype)
    options = {"eps": 1e-3, "relu": relu, "axis": axis}
    expected = ss.batchnorm_inference(*operands, **options)
    gradients = ss.batchnorm_inference_backward(dy, *operands, **options)
    with jax.enable_x64(dtype == "float64"):
        norm = jax.jit(lambda *given: face.batch_norm(*given, training=False, **options))
        y, back, running = jax.vjp(norm, *map(jnp.array, operands), has_aux=True)
        assert_same((y, *running), (expected, *operands[3:]))
        assert_same(back(jnp.array(dy)), (*gradients, *np.zeros((2, shape[axis]), dtype)))


def test_defaults_are_those_of_the_layer():
    *operands, _ = numbers((6, 3, 2), 1, "float32")
    y, running = face.batch_norm(*operands)
    assert_same((y, *running), trained(*operands, momentum=0.1))
    assert_same(face.batch_norm(*operands, training=False)[:1], [ss.batchnorm_inference(*operands)])


def test_relu_keeps_the_gradient_where_y_is_subnormal():
    """The ReLU cuts off where y is +0, of which XLA's arithmetic does not tell subnormals."""
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    x = np.array([[1e-40], [-1.0], [2.0]], np.float32)
    options = {"eps": 0.0, "relu": True}
    expected = ss.batchnorm_inference_backward(np.ones_like(x), x, one, zero, zero, one, **options)
    assert expected[0].ravel().tolist() == [1.0, 0.0, 1.0]
    _, back, _ = jax.vjp(
        lambda *given: face.batch_norm(*given, training=False, **options),
        x,
        one,
        zero,
        zero,
        one,
        has_aux=True,
    )
    assert_same(back(jnp.ones_like(x))[:3], expected)


@pytest.mark.parametrize("training", [True, False])
def test_vmap_has_the_bits_of_each_member(training):
    members = [numbers((4, 3, 5), 1, "float32", seed) for seed in range(3)]
    _, *shared, _ = members[0]
    x, dy = (np.stack([member[i] for member in members]) for i in (0, -1))

    def gradients(x, dy, *vectors):
        y, back, running = jax.vjp(
            lambda *given: face.batch_norm(*given, training=training, relu=True), x, *vectors, has_aux=True
        )
        return (y, *running, *back(dy))

    found = jax.jit(jax.vmap(gradients, (0, 0, None, None, None, None)))(x, dy, *shared)
    for i in range(3):
        assert_same([a[i] for a in found], [np.asarray(a) for a in gradients(x[i], dy[i], *shared)])


def test_grad_of_a_loss_and_two_batches_in_a_scan():
    *operands, _ = numbers((6, 3), 1, "float32")
    x, weight, bias, *running = operands
    batches = np.stack([x, x[::-1] * 2])

    def loss(weight, bias, running, x):
        y, running = face.batch_norm(x, weight, bias, *running)
        return y.sum(), running

    def step(running, x):
        (dweight, dbias), running = jax.grad(loss, (0, 1), has_aux=True)(weight, bias, running, x)
        return running, (dweight, dbias)

    after, (dweight, dbias) = jax.jit(lambda *given: jax.lax.scan(step, *given))(tuple(running), batches)
    for i, batch in enumerate(batches):
        _, mean, inv = ss.batchnorm_forward(batch, weight, bias)
        gradients = ss.batchnorm_backward(np.ones_like(batch), batch, weight, bias, mean, inv)
        assert_same((dweight[i], dbias[i]), gradients[1:])
        _, *running = trained(batch, weight, bias, *running, momentum=0.1)
    assert_same(after, running)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": jnp.ones(3)}, ValueError, r"x: got shape \(3,\), expected samples and at least one channel"),
        ({"x": jnp.ones((2, 0, 4))}, ValueError, r"x: got shape \(2, 0, 4\), expected samples and at least"),
        (
            {"x": jnp.ones((1, 3))},
            ValueError,
            r"x: shape \(1, 3\) has 1 values a channel, expected at least 2",
        ),
        ({"x": jnp.ones((4, 3), int)}, TypeError, "x: got int32, expected float32 or float64"),
        ({"axis": 2}, ValueError, "axis: got 2, expected 1 or -1"),
        ({"momentum": 1.5}, ValueError, r"momentum: got 1\.5, expected a number from 0 to 1"),
        ({"momentum": None}, TypeError, "momentum: got None, expected a number"),
        ({"eps": -1.0}, ValueError, r"eps: got -1\.0, expected a finite number, 0 or more"),
        ({"relu": "yes"}, TypeError, "relu: got 'yes', expected True or False"),
        ({"training": 2}, TypeError, "training: got 2, expected True or False"),
    ],
)
def test_what_does_not_fit_is_named(changed, error, message):
    arguments = {**dict(zip(NAMES, numbers((4, 3), 1, "float32"), strict=False)), **changed}
    with pytest.raises(error, match=message):
        face.batch_norm(**arguments)


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_is_not_of_the_channels_is_named(name):
    arguments = dict(zip(NAMES, numbers((4, 3), 1, "float32"), strict=False))
    with pytest.raises(ValueError, match=rf"{name}: got shape \(4,\), expected \(3,\), as x has channels"):
        face.batch_norm(**{**arguments, name: jnp.ones(4)})
    with pytest.raises(TypeError, match=f"{name}: got float16, expected float32, as x"):
        face.batch_norm(**{**arguments, name: jnp.ones(3, "float16")})


def test_what_the_program_computes_is_no_option():
    *operands, _ = numbers((4, 3), 1, "float32")
    with pytest.raises(TypeError, match=r"eps: got .*, expected a number"):
        jax.jit(lambda eps: face.batch_norm(*operands, eps=eps))(1e-3)
