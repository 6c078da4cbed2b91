"""The kernels on torch's tensors where they lie: bits as on arrays; what does not fit is left to others."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep as ss
import samestep.torch as st
from bits import same_bits
from control_register import MODES, mxcsr, needs_x86
from samestep import _core

DTYPES = (torch.float32, torch.float64)


def numbers(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def in_memory(how, values):
    """The same values, lying otherwise."""
    if how == "turned":
        return values.mT.contiguous().mT
    if how == "sparse":
        return torch.stack([values, values + 1], -1)[..., 0]
    if how == "offset":
        return torch.cat([values.new_zeros(1), values.flatten()])[1:].view(values.shape)
    if how == "rows apart":
        return torch.cat([values, values], -1)[..., : values.shape[-1]]
    return values


def by_tensors(x, w, bias, dy, labels):
    y = _core.linear_of_tensors(x, w, bias, True)
    plain = _core.linear_of_tensors(x, w, None, False)
    gradients = _core.linear_backward_of_tensors(dy, x, w, y, True)
    loss, dz = _core.softmax_cross_entropy_of_tensors(plain.reshape(len(labels), -1), labels)
    return [t.numpy() for t in (y, plain, *gradients, loss, dz)]


def by_arrays(x, w, bias, dy, labels):
    rows, w, bias = x.numpy().reshape(-1, x.shape[-1]), w.numpy().T, bias.numpy()
    y, plain = ss.linear(rows, w, bias, relu=True), ss.linear(rows, w)
    dx, dw, dbias = ss.linear_backward(dy.numpy().reshape(plain.shape), rows, w, y=y)
    loss, dz = ss.softmax_cross_entropy(plain, labels.numpy())
    shape = dy.shape
    loss = np.asarray(loss).astype(plain.dtype)
    return [y.reshape(shape), plain.reshape(shape), dx.reshape(x.shape), dw.T, dbias, loss, dz]


def arguments(dtype, lead=(5, 8), inputs=300, outputs=33, scale=1.0):
    shapes = ((*lead, inputs), (outputs, inputs), (outputs,), (*lead, outputs))
    tensors = [numbers(*shape, seed=i).mul(scale).to(dtype) for i, shape in enumerate(shapes)]
    rows = tensors[3].numel() // outputs
    return (*tensors, torch.arange(rows) * 7 % outputs)


@pytest.mark.parametrize("how", ["as is", "turned", "sparse", "offset", "rows apart"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_are_those_of_arrays(dtype, how, isa, threads):
    """At any strides and offset, and in parts: the largest products are shared by the threads."""
    for lead in ((40,), (5, 8), (1, 300), (1,), ()):
        if how == "turned" and lead in ((5, 8), ()):
            continue  # no matrix of rows, or none to turn
        x, w, bias, dy, labels = arguments(dtype, lead)
        expected = by_arrays(x, w, bias, dy, labels)
        x, w, dy = (in_memory(how, t) for t in (x, w, dy))
        same_bits(by_tensors(x, w, bias, dy, labels), expected)


def test_only_what_is_wanted():
    x, w, _, dy, _ = arguments(torch.float32)
    dx, dw, dbias = _core.linear_backward_of_tensors(dy, x, w, None, True)
    for wanted in ((0,), (1,), (2,), (0, 2), ()):
        found = _core.linear_backward_of_tensors(
            dy, x if 1 in wanted else None, w if 0 in wanted else None, None, 2 in wanted
        )
        for i, (got, expected) in enumerate(zip(found, (dx, dw, dbias), strict=True)):
            assert (got is None) == (i not in wanted)
            assert got is None or torch.equal(got, expected)


def test_a_gradient_that_is_one_number_everywhere():
    """As of a sum: it lies in one place of the memory."""
    x, w, _, dy, _ = arguments(torch.float32, lead=(40,))
    ones = torch.ones(()).expand(dy.shape)
    found = _core.linear_backward_of_tensors(ones, x, w, None, True)
    expected = _core.linear_backward_of_tensors(torch.ones(dy.shape), x, w, None, True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def misaligned(values):
    room = torch.zeros(values.nbytes + 1, dtype=torch.uint8)
    room[1:] = torch.from_numpy(np.frombuffer(values.numpy().tobytes(), np.uint8).copy())
    return torch.frombuffer(room.numpy().data, dtype=values.dtype, offset=1).view(values.shape)


CHANGES = {
    "integers": {"x": lambda x: x.long()},
    "16 bits": {"x": lambda x: x.half(), "w": lambda w: w.half(), "bias": lambda b: b.half()},
    "two types": {"w": lambda w: w.double()},
    "bias of another type": {"bias": lambda b: b.double()},
    "lazily negated": {"x": lambda x: torch._neg_view(x)},
    "lazily negated weight": {"w": lambda w: torch._neg_view(w)},
    "lazily negated bias": {"bias": lambda b: torch._neg_view(b)},
    "misaligned": {"x": misaligned},
    "no matrix of rows": {"x": lambda x: x.reshape(8, 5, -1).transpose(0, 1)},
    "no rows": {"x": lambda x: x[:0]},
    "no inputs": {"x": lambda x: x[..., :0], "w": lambda w: w[:, :0]},
    "zeros without memory": {"x": lambda x: torch._efficientzerotensor(x.shape)},
    "a weight of zeros without memory": {"w": lambda w: torch._efficientzerotensor(w.shape)},
    "a bias of zeros without memory": {"bias": lambda b: torch._efficientzerotensor(b.shape)},
    "few nonzero numbers": {"x": lambda x: x.to_sparse()},
    "a weight of few nonzero numbers": {"w": lambda w: w.to_sparse()},
    "quantized": {"x": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)},
    "another library's layout": {"x": lambda x: x.to_mkldnn()},
    "a number": {"x": lambda x: x[0, 0, 0]},
    "other inputs": {"x": lambda x: x[..., 1:]},
    "a weight of three axes": {"w": lambda w: w[None]},
    "a bias of another length": {"bias": lambda b: b[1:]},
    "a bias of two axes": {"bias": lambda b: b[None]},
    "a bias with gaps": {"bias": lambda b: torch.stack([b, b], 1)[:, 0]},
}


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_what_does_not_fit_is_left_to_others(change):
    given = dict(zip(("x", "w", "bias"), arguments(torch.float32), strict=False))
    assert _core.linear_of_tensors(*given.values(), False) is not None
    assert (
        _core.linear_of_tensors(*{k: change.get(k, lambda t: t)(v) for k, v in given.items()}.values(), False)
        is None
    )


@pytest.mark.parametrize(
    "change",
    [
        {"dy": lambda t: t[:4]},
        {"dy": lambda t: t[..., 1:]},
        {"y": lambda t: t[..., 1:]},
        {"y": lambda t: t[:4]},
        {"x": lambda t: t[:4]},
        {"w": lambda t: t[1:]},
        {"y": lambda t: t.double()},
        {"dy": lambda t: torch._neg_view(t)},
        {"dy": lambda t: torch._efficientzerotensor(t.shape)},
    ],
)
def test_gradients_that_do_not_fit(change):
    x, w, _, dy, _ = arguments(torch.float32)
    given = {"dy": dy, "x": x, "w": w, "y": dy}
    assert _core.linear_backward_of_tensors(*given.values(), True) is not None
    changed = {k: change.get(k, lambda t: t)(v) for k, v in given.items()}
    assert _core.linear_backward_of_tensors(*changed.values(), True) is None


@pytest.mark.parametrize(
    ("input", "target"),
    [
        (numbers(3, 4), torch.tensor([0, 1, 4])),
        (numbers(3, 4), torch.tensor([0, -1, 3])),
        (numbers(3, 4), torch.tensor([0, 1])),
        (numbers(3, 4), torch.tensor([0, 1, 2], dtype=torch.uint8)),
        (numbers(3, 4), torch.tensor([[0], [1], [2]])),
        (numbers(3, 4), torch.tensor([0, 9, 1, 9, 2])[::2]),
        (numbers(4, 3).T, torch.tensor([0, 1, 2])),
        (numbers(3, 4).half(), torch.tensor([0, 1, 2])),
        (torch._neg_view(numbers(3, 4)), torch.tensor([0, 1, 2])),
        (numbers(3, 4), torch._neg_view(torch.tensor([0, 1, 2]))),
        (numbers(3, 4), torch._efficientzerotensor(3, dtype=torch.int64)),
        (torch._efficientzerotensor((3, 4), dtype=torch.float64), torch.tensor([0, 1, 2])),
        (numbers(3, 4).to_sparse(), torch.tensor([0, 1, 2])),
        (numbers(2, 3, 4), torch.tensor([0, 1, 2, 0, 1, 2])),
    ],
)
def test_a_loss_that_does_not_fit(input, target):
    assert _core.softmax_cross_entropy_of_tensors(numbers(3, 4), torch.tensor([0, 1, 3])) is not None
    assert _core.softmax_cross_entropy_of_tensors(input, target) is None


@needs_x86
@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_any_floating_point_mode(dtype, bits):
    """Subnormal results, which some modes flush, and a loss that is rounded."""
    tiny = torch.finfo(dtype).tiny
    x, w, bias, dy, labels = arguments(dtype)
    given = (x * tiny, w, bias * tiny, dy * tiny, labels)
    expected = by_arrays(*given)
    assert ((expected[0] != 0) & (np.abs(expected[0]) < tiny)).any()
    logits = numbers(40, 33).to(dtype)
    loss, _ = _core.softmax_cross_entropy_of_tensors(logits, labels)
    with mxcsr(bits):
        found = by_tensors(*given)
        again, _ = _core.softmax_cross_entropy_of_tensors(logits, labels)
    same_bits(found, expected)
    assert again.numpy().tobytes() == loss.numpy().tobytes()


VALUES = {
    "lazily negated": lambda t: torch._neg_view(-t),
    "zeros without memory": lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
}


@pytest.mark.parametrize("how", VALUES.values(), ids=list(VALUES))
@pytest.mark.parametrize("changed", range(3))
def test_values_that_are_not_in_memory(changed, how):
    """Layers, gradients and loss are those of a copy that has them there."""
    functions = {
        "linear": (st.linear, (numbers(3, 4), numbers(2, 4), numbers(2))),
        "conv2d": (st.conv2d, (numbers(1, 4, 3, 3), numbers(2, 4, 2, 2), numbers(2))),
        "cross_entropy": (st.cross_entropy, (numbers(3, 4), torch.tensor([0, 3, 2]))),
        "batch_norm": (
            lambda x, weight, bias: st.batch_norm(x, None, None, weight, bias, training=True),
            (numbers(3, 4), numbers(4), numbers(4)),
        ),
    }
    for name, (function, given) in functions.items():
        values = [how(t) if i == changed else t for i, t in enumerate(given)]
        copies = [t.clone() if i == changed else t for i, t in enumerate(values)]
        expected = function(*copies)
        assert torch.equal(function(*values), expected), name
        weighs = [i for i, t in enumerate(given) if t.is_floating_point()]
        gradient, found = how(torch.ones_like(expected)), []
        for grad in gradient, gradient.clone():
            leaves = [t.clone().requires_grad_() if i in weighs else t for i, t in enumerate(given)]
            found.append(torch.autograd.grad(function(*leaves), [leaves[i] for i in weighs], grad))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), name


@pytest.mark.parametrize(
    ("convert", "says"),
    [
        (lambda t: t.to_sparse(), r"got a torch.sparse_coo tensor, .*to_dense\(\)"),
        (lambda t: t.to_mkldnn(), r"got a torch._mkldnn tensor, .*to_dense\(\)"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), r"got a quantized .*dequantize\(\)"),
        (lambda t: torch.nested.nested_tensor([t, t]), r"got a nested .*to_padded_tensor\(0\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
def test_layers_refuse_what_is_not_dense(convert, says):
    rows, images = (convert(torch.ones(shape)) for shape in ((3, 4), (1, 4, 3, 3)))
    for call in (
        lambda: st.linear(rows, torch.ones(2, 4)),
        lambda: st.conv2d(images, torch.ones(2, 4, 2, 2)),
        lambda: st.cross_entropy(rows, torch.tensor([0, 1, 2])),
        lambda: st.batch_norm(images, torch.zeros(4), torch.ones(4)),
    ):
        with pytest.raises(TypeError, match="^input: " + says):
            call()
