"""On a real GPU: every digest, random words against the CPU's bytes, streams, sizes beyond 2^31.
bench/gpu.sh runs these; without a GPU they are skipped.
"""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import option_grid
import samestep as ss
from bits import same_bits
from samestep.backends import cpu, gpu
from samestep.backends.face import STEPPED, Tensor, Window
from samestep.backends.reference.fingerprint import mix
from samestep.parallel import nccl
from samestep.proof import golden, verify
from worker_processes import run_processes
from worker_trainings import STEPS, alone, train_on_real_gpus

WHY_NOT = gpu.why_not()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no GPU: {str(WHY_NOT).partition(';')[0]}"),
]

WORDS = 100_000_000  # at least so many are compared, over all rules and types


def any_bits(size: int, dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray:
    """Normal numbers, 5 % subnormals, 1 % infinities and NaN."""
    values = rng.standard_normal(size).astype(dtype)
    bits, kind = values.view(f"u{dtype.itemsize}"), rng.random(size)
    info = np.finfo(dtype)
    sign = bits & bits.dtype.type(1 << (info.bits - 1))
    mantissa = rng.integers(1, 1 << info.nmant, size).astype(bits.dtype)
    exponent = bits.dtype.type(((1 << info.nexp) - 1) << info.nmant)
    bits[:] = np.where(kind < 0.05, sign | mantissa, bits)
    special = np.where(rng.random(size) < 0.5, exponent, exponent | mantissa)
    bits[:] = np.where(kind > 0.99, sign | special, bits)
    return values


@pytest.fixture(scope="module")
def cupy() -> Any:
    return gpu.device.get_cupy()


@pytest.mark.parametrize("group", golden.programs(), ids=str)
def test_golden_digests(group):
    for program in golden.programs()[group]:
        if str(program) in golden.DIGESTS:
            found = golden.program_digest(program, backend="cuda")
            assert found == golden.DIGESTS[str(program)], str(program)


def test_random_words(case, cupy):
    """Parameters, gradients and states of any bits, three steps: not a word differs from the CPU's."""
    size = 1 + WORDS // len(golden.cases())
    rng = np.random.default_rng(0)
    w = any_bits(size, case.dtype, rng)
    there = cupy.asarray(w)
    one, other = case.make(w), case.make(there)
    state = one.state_dict()
    state["state"] = {name: [any_bits(size, case.dtype, rng)] for name in state["state"]}
    one.load_state_dict(state)
    other.load_state_dict(state)
    for _ in range(3):
        g = any_bits(size, case.dtype, rng)
        one.step(g)
        other.step(cupy.asarray(g))
    same_bits([there.get()], [w])
    same_bits(*([s[0] for s in o.state_dict()["state"].values()] for o in (other, one)))


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((32, 64, 56, 56), 1), ((8, 33, 7, 7), 1), ((4096, 300), 1), ((8, 5, 5, 129), -1)]
)
def test_batch_norm(cupy, dtype, relu, shape, axis):
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    gamma, beta = rng.standard_normal((2, shape[axis])).astype(dtype)
    there = [cupy.asarray(a) for a in (x, gamma, beta)]
    how = {"relu": relu, "axis": axis}
    forward, expected = ss.batchnorm_forward(*there, **how), ss.batchnorm_forward(x, gamma, beta, **how)
    same_bits([a.get() for a in forward], list(expected))
    back = ss.batchnorm_backward(cupy.asarray(dy), *there, *forward[1:], **how)
    same_bits([a.get() for a in back], list(ss.batchnorm_backward(dy, x, gamma, beta, *expected[1:], **how)))


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(1000, 777, 300), (1, 513, 1), (4096, 64, 10), (64, 64, 64)], ids=str)
def test_linear(cupy, dtype, sizes):
    rng = np.random.default_rng(3)
    N, K, J = sizes
    x, w, bias, dy = (rng.standard_normal(shape).astype(dtype) for shape in ((N, K), (K, J), (J,), (N, J)))
    there = [cupy.asarray(a) for a in (x, w)]
    y, found = ss.linear(x, w, bias, relu=True), ss.linear(*there, cupy.asarray(bias), relu=True)
    same_bits([found.get()], [y])
    same_bits([ss.linear(there[1].T, there[0].T).get()], [ss.linear(w.T, x.T)])
    back = ss.linear_backward(cupy.asarray(dy), *there, y=found)
    same_bits([a.get() for a in back], list(ss.linear_backward(dy, x, w, y=y)))


CONVOLUTIONS = {
    # N, C of a group, (H, W), outputs of a group, (R, S), how; of the last, the patches of dx in parts.
    "3 x 3": (8, 64, (56, 56), 128, (3, 3), Window((1, 1), (1, 1), (1, 1), 1)),
    "7 x 7, a step of 2": (8, 3, (112, 112), 64, (7, 7), Window((2, 2), (3, 3), (1, 1), 1)),
    "small images": (32, 256, (7, 7), 300, (3, 3), Window((1, 1), (1, 1), (1, 1), 1)),
    "1 x 1": (8, 300, (14, 14), 65, (1, 1), Window((1, 1), (0, 0), (1, 1), 1)),
    "groups, gaps": (4, 5, (33, 29), 7, (3, 2), Window((2, 1), (2, 3), (1, 3), 4)),
    "depthwise": (16, 1, (28, 28), 1, (3, 3), Window((1, 1), (1, 1), (1, 1), 96)),
    "in parts": (2, 64, (200, 200), 16, (5, 5), Window((1, 1), (2, 2), (1, 1), 1)),
}


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(cupy, dtype, name):
    N, C, size, outputs, kernel, window = CONVOLUTIONS[name]
    out = (
        (there + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for there, taps, stride, padding, dilation in zip(size, kernel, *window[:3], strict=True)
    )
    G, rng = window.groups, np.random.default_rng(7)
    shapes = (N, G * C, *size), (G * outputs, C, *kernel), (G * outputs,), (N, G * outputs, *out)
    x, w, bias, dy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    found = []
    for module, place, fetch in ((cpu, np.array, np.array), (gpu, cupy.asarray, cupy.asnumpy)):
        arrays = [place(a) for a in (x, w, bias, dy)]
        y, *gradients = (module.empty_like(a) for a in (arrays[3], *arrays[:3]))
        module.conv2d(*arrays[:3], window, True, y)
        module.conv2d_backward(arrays[3], *arrays[:2], y, window, *gradients)
        found.append([fetch(a) for a in (y, *gradients)])
    same_bits(*reversed(found))


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
def test_sums_and_the_squared_error(cupy, dtype):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((50_001, 123)).astype(dtype)
    there = cupy.asarray(x)
    for axis in (None, 0, 1):
        same_bits([ss.canonical_sum(there, axis).get()], [ss.canonical_sum(x, axis)])
    assert ss.global_norm([there, there[:7]]) == ss.global_norm([x, x[:7]])
    y, w = x[:, 0].copy(), x[0].copy()
    one, other = ss.problems.MSE(x, y), ss.problems.MSE(there, cupy.asarray(y))
    same_bits([other.gradient(cupy.asarray(w)).get()], [one.gradient(w)])
    assert other.loss(cupy.asarray(w)) == one.loss(w)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint16"])
def test_fingerprints(cupy, dtype):
    for size in (1, 257, 100_003, 50_000_001):
        bits = np.random.default_rng(4).integers(0, 2**16, size * np.dtype(dtype).itemsize // 2, np.uint16)
        x = bits.view(dtype)
        there = cupy.asarray(x)
        assert ss.fingerprint(there) == ss.fingerprint(x)
        assert ss.fingerprint(there[1:]) == ss.fingerprint(x[1:])


def test_fingerprints_of_a_step(case, cupy):
    """The sums of a step are those of what it read and wrote; beside a tensor that sits out."""
    rng = np.random.default_rng(5)
    params = [cupy.asarray(any_bits(size, case.dtype, rng)) for size in (1, 257, 10, 1_000_003)]
    rows = [row for row in gpu.rules() if row.name == case.rule]
    tensors = [Tensor(w, [cupy.zeros_like(w) for _ in rows[0].states]) for w in params]
    plan = gpu.Plan(case.rule, tensors, np.zeros(5, np.int64))
    sums = np.empty((4, 2 + len(rows[0].states)), np.uint64)
    for _ in range(3):
        grads = [cupy.asarray(any_bits(w.size, case.dtype, rng)) for w in params]
        grads[2] = None
        assert plan.step(grads, [0.5] * len(rows[0].hyper), 1.0, sums) == STEPPED
        for g, tensor, row in zip(grads, tensors, sums, strict=True):
            arrays = [] if g is None else [g, *tensor.arrays()]
            expected = [ss.fingerprint(a.get()) for a in arrays] or [0] * len(row)
            sizes = np.array([a.nbytes for a in arrays], np.uint64)
            assert (mix(row ^ mix(sizes)) if arrays else row).tolist() == expected


def test_subnormals_are_kept(cupy):
    """Flushed, this step of AdaGrad would be a thousand times as long."""
    w = cupy.zeros(1000, np.float32)
    ss.AdaGrad(w, lr=0.01, eps=2.0**-80).step(cupy.full(1000, 2.0**-70, np.float32))
    assert abs(float(w[0]) + 0.009990243) < 1e-8


def test_the_callers_stream_is_used_and_not_waited_for(cupy):
    w, g = cupy.zeros(1 << 20, np.float32), cupy.ones(1 << 20, np.float32)
    optimizer = ss.Adam(w, lr=0.1)
    optimizer.step(g)
    cupy.cuda.Device().synchronize()
    a = cupy.ones((8192, 8192), np.float64)
    cupy.matmul(a, a)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        for _ in range(20):
            a = cupy.matmul(a, a) * 1e-4  # long enough to be under way still
        g[...] = 2.0  # in the stream's order: the step must see it
        optimizer.step(g)
        under_way = not stream.done
    stream.synchronize()
    assert under_way, "step() waited for the stream"
    here = np.zeros(1, np.float32)
    one = ss.Adam(here, lr=0.1)
    one.step(np.ones(1, np.float32))
    one.step(np.full(1, 2.0, np.float32))
    assert (w == here[0]).all()


def test_more_than_2_to_the_31_elements(cupy):
    size = 2**31 + 12_345
    free, _ = cupy.cuda.runtime.memGetInfo()
    if free < 9 * size:
        pytest.skip(f"needs {9 * size >> 30} GiB of GPU memory, {free >> 30} are free")
    w, g = cupy.zeros(size, np.float32), cupy.zeros(size, np.float32)
    places = [0, 4096, 2**31 - 1, 2**31, 2**31 + 4097, size - 1]
    for i in places:
        g[i] = i % 97 + 1
    ss.SGD(w, lr=0.5).step(g)
    assert [float(w[i]) for i in places] == [-0.5 * (i % 97 + 1) for i in places]
    assert int(cupy.count_nonzero(w)) == len(places)
    assert float(ss.canonical_sum(g)) == sum(i % 97 + 1 for i in places)


def test_tensors_of_torch(cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    w = torch.zeros(1000, device="cuda")
    g = torch.arange(1000.0, device="cuda")
    optimizer = ss.Momentum(w, lr=0.5)
    optimizer.step(g)
    optimizer.step(g)
    here = np.zeros(1000, np.float32)
    one = ss.Momentum(here, lr=0.5)
    for _ in range(2):
        one.step(np.arange(1000, dtype=np.float32))
    same_bits([w.cpu().numpy()], [here])
    with pytest.raises(TypeError, match="detach"):
        ss.SGD(torch.zeros(3, device="cuda", requires_grad=True), lr=0.1)
    with pytest.raises(TypeError, match="which is not on a GPU"):
        optimizer.step(torch.zeros(1000))


def test_a_stream_of_torch_is_waited_for(cupy):
    """The gradient is made on a stream that CUDA's default stream, CuPy's, does not wait for by itself."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    w, g = torch.zeros(1 << 20, device="cuda"), torch.zeros(1 << 20, device="cuda")
    optimizer = ss.SGD(w, lr=0.5)
    optimizer.step(g)
    a = torch.ones(4096, 4096, dtype=torch.float64, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(20):
            a = torch.matmul(a, a) * 1e-4  # long enough to be under way still
        g.fill_(2.0)
        optimizer.step(g)
    cupy.cuda.Device().synchronize()
    assert (w == -1.0).all()


def test_verify_includes_the_gpu():
    result = verify.run(lambda line: None)
    assert result["gpu"] == gpu.device_name()
    assert result["failures"] == []


def test_minimize(cupy):
    rng = np.random.default_rng(9)
    Phi, y, w0 = rng.standard_normal((3000, 20)), rng.standard_normal(3000), np.zeros(20)
    way = {"epochs": 3, "batch_size": 700, "sampling": "shuffle", "record_w": True}
    here, there = ss.problems.MSE(Phi, y), ss.problems.MSE(cupy.asarray(Phi), cupy.asarray(y))
    one = ss.minimize(here, w0, lambda w: ss.Adam(w, lr=0.1), **way)
    other = ss.minimize(there, cupy.asarray(w0), lambda w: ss.Adam(w, lr=0.1), **way)
    same_bits([other.w.get(), other.w0.get(), other.losses, other.ws], [one.w, one.w0, one.losses, one.ws])
    assert not other.diverged
    assert str(ss.theory.check_run(there, other)) == str(ss.theory.check_run(here, one))
    timed = ss.minimize(there, cupy.asarray(w0), lambda w: ss.Adam(w, lr=0.1), deadline=0.2)
    assert timed.stopped == "deadline"


@pytest.mark.parametrize("engine", ["gloo", "nccl", "cpu:gloo,cuda:nccl"])
def test_sharded_by_processes(cupy, engine):
    """Gloo carries by way of main memory, so that several processes may share a GPU."""
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    count = cupy.cuda.runtime.getDeviceCount()
    if engine != "gloo" and count < 2:
        pytest.skip("one GPU alone")
    size = 3 if engine == "gloo" else min(count, 8)
    assert run_processes(size, train_on_real_gpus, engine) == [alone(STEPS)] * size


def test_arrays_as_nccl_takes_them(cupy):
    """Where they lie, in order with what CuPy has launched."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    a = cupy.arange(5000, dtype=np.float32)
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        with stream, nccl.stream_of(a):
            assert torch.cuda.current_stream(a.device.id).cuda_stream == stream.ptr
            a += 1
            there = nccl.on_its_gpu(a)
            assert there.data_ptr() == a.data.ptr
            assert there.view(torch.float32).tolist() == a.get().tolist()


def in_main_memory(optimizer):
    """Parameters and states as the numbers that their bits are; a NaN of 16 bits is any."""
    arrays = [*optimizer.params, *(s for states in optimizer.state.values() for s in states)]
    found = [a if isinstance(a, np.ndarray) else a.get() for a in arrays]
    return [a.astype(np.float32) if a.dtype.name in ("float16", "bfloat16") else a for a in found]


@pytest.mark.parametrize(("i", "form", "name"), option_grid.combinations(), ids=str)
def test_options(cupy, i, form, name):
    sizes = (0, 1, 7, 1000, 100_003)
    try:
        one, grads, scale = option_grid.of_combination(i, form, name, sizes)
        there = [cupy.asarray(w) for w in one.params]
    except (TypeError, ValueError) as error:
        pytest.skip(f"this CuPy has no bfloat16: {error}")
    arguments = {k: v for k, v in one.options.arguments().items() if k != "copy_grads"}
    case = next(c for c in golden.cases() if c.rule == one.rule)
    other = case.make(there, weight_decay=one.groups[0]["weight_decay"], **arguments)
    other.load_state_dict(one.state_dict())
    for step in range(2):
        mine, theirs = [g.copy() for g in grads], [cupy.asarray(g) for g in grads]
        if step:
            mine[3] = theirs[3] = None
        norms = one.step(mine, scale=scale), other.step(theirs, scale=scale)
        if one.options.clip_norm is not None:
            same_bits([norms[1].get()], [np.array(norms[0])])
        same_bits(in_main_memory(other), in_main_memory(one))
    assert other.steps == one.steps


@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
def test_the_norm_of_many_gradients(cupy, dtype):
    rng = np.random.default_rng(6)
    grads = [rng.standard_normal(n).astype(dtype) for n in (3_000_001, 7, 0, *range(1000, 3000, 7))]
    optimizer = ss.SGD([cupy.zeros_like(cupy.asarray(g)) for g in grads], lr=0.5, clip_norm=1.0)
    assert float(optimizer.step([cupy.asarray(g) for g in grads])) == ss.global_norm(grads)


def test_a_step_is_left_out_without_waiting(cupy):
    w, g = cupy.zeros(1 << 20, np.float32), cupy.ones(1 << 20, np.float32)
    optimizer = ss.Adam(w, lr=0.1, clip_norm=1.0, nonfinite="skip")
    optimizer.step(g)
    assert not optimizer.skipped
    before, states = w.get(), [s[0].get() for s in optimizer.state.values()]
    a = cupy.ones((8192, 8192), np.float64)
    cupy.matmul(a, a)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        for _ in range(20):
            a = cupy.matmul(a, a) * 1e-4  # long enough to be under way still
        g[-1] = np.nan
        norm = optimizer.step(g)
        under_way = not stream.done
        assert optimizer.skipped
    assert under_way, "step() waited for the stream"
    assert np.isnan(float(norm))
    assert optimizer.t == 1
    same_bits([w.get(), *(s[0].get() for s in optimizer.state.values())], [before, *states])
