"""samestep.torch.cross_entropy: torch's own cases, the bits of samestep.softmax_cross_entropy, errors."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")
pytest.importorskip("expecttest", reason="torch's case database needs expecttest")

from torch.testing._internal.common_methods_invocations import op_db

import samestep as ss
import samestep.torch as st
from bits import ISAS

HALVES = (torch.float16, torch.bfloat16)
DIGITS = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 2e-3, torch.bfloat16: 1e-2}
pytestmark = pytest.mark.filterwarnings(  # torch's own
    "ignore:`torch.jit:DeprecationWarning", "ignore:.*LeafSpec:FutureWarning"
)


def passes(function, x, target, scale=1.0):
    x = x.detach().requires_grad_()
    loss = function(x, target)
    loss.backward(torch.tensor(scale, dtype=loss.dtype))
    return loss.detach(), x.grad


@pytest.mark.parametrize("dtype", DIGITS, ids=str)
def test_op_db(dtype, record_property):
    """The cases that are computed are close to torch's; every other one is refused."""
    (op,) = (op for op in op_db if op.full_name == "nn.functional.cross_entropy")
    computed = refused = 0
    for sample in op.sample_inputs("cpu", dtype):
        (target,) = sample.args
        try:
            found = passes(
                lambda x, t, kwargs=sample.kwargs: st.cross_entropy(x, t, **kwargs), sample.input, target
            )
        except (NotImplementedError, TypeError, ValueError) as error:
            assert any(word in str(error) for word in (*sample.kwargs, "target: got", "input: got"))  # noqa: PT017
            refused += 1
            continue
        expected = passes(torch.nn.functional.cross_entropy, sample.input, target)
        assert sample.kwargs in ({}, {"reduction": "mean"})
        torch.testing.assert_close(found, expected, rtol=DIGITS[dtype], atol=DIGITS[dtype])
        computed += 1
    assert computed >= 2
    assert refused >= 10
    record_property(
        "shown", f"op_db nn.functional.cross_entropy: {computed} cases, {refused} refused, {dtype}"
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_are_the_packages_own_on_all_instruction_sets_and_threads(dtype, isa, threads):
    x, target = 4 * torch.randn(300, 70, dtype=dtype), torch.randint(70, (300,))
    loss, dz = ss.softmax_cross_entropy(x.numpy(), target.numpy(), backend="reference")
    before = ss.info()["isa"], ss.get_num_threads()
    try:
        ss.set_isa(isa)
        ss.set_num_threads(threads)
        found = passes(st.cross_entropy, x, target)
        turned = passes(st.cross_entropy, x.t().contiguous().t(), target.repeat_interleave(2)[::2])
        narrow = passes(st.cross_entropy, x, target.to(torch.uint8))
        scaled = passes(st.cross_entropy, x, target, scale=0.3)
    finally:
        ss.set_isa(before[0])
        ss.set_num_threads(before[1])
    for one in (found, turned, narrow):
        assert torch.equal(one[0], torch.tensor(loss, dtype=dtype))
        assert torch.equal(one[1], torch.from_numpy(dz))
    assert torch.equal(scaled[1], torch.tensor(0.3, dtype=dtype) * torch.from_numpy(dz))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_16_bits_are_those_of_float32_rounded_once(dtype):
    x, target = torch.randn(9, 7).to(dtype), torch.randint(7, (9,))
    found, wide = (passes(st.cross_entropy, z, target) for z in (x, x.float()))
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(found, wide, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        for function in (st.cross_entropy, torch.nn.functional.cross_entropy):
            assert function(x, target).dtype == torch.float32


def test_derivatives_and_transforms():
    x, target = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), torch.tensor([0, 4, 2, 2])

    def loss(x):
        return st.cross_entropy(x, target)

    assert torch.autograd.gradcheck(loss, (x,), check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, (x,))
    value, grad = passes(st.cross_entropy, x, target)
    (kept,) = torch.autograd.grad(loss(x), x, create_graph=True)
    x = x.detach()
    for found in (
        kept,
        torch.func.grad(loss)(x),
        *passes(torch.compile(st.cross_entropy, backend="aot_eager", fullgraph=True), x, target)[1:],
    ):
        assert torch.equal(found, grad)
    theirs = torch.func.hessian(lambda x: torch.nn.functional.cross_entropy(x, target))
    torch.testing.assert_close(torch.func.hessian(loss)(x), theirs(x))
    torch.testing.assert_close(torch.func.functionalize(loss)(x), value)
    stack, targets = torch.randn(3, 4, 5), torch.randint(5, (3, 4))
    found = torch.func.vmap(torch.func.grad(st.cross_entropy))(stack, targets)
    single = [passes(st.cross_entropy, one, t)[1] for one, t in zip(stack, targets, strict=True)]
    assert torch.equal(found, torch.stack(single))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype):
    x = torch.randn(4, 5, dtype=dtype, requires_grad=True)
    torch.library.opcheck(torch.ops.samestep.cross_entropy.default, (x, torch.tensor([0, 4, 2, 2])))


def test_export():
    class Loss(torch.nn.Module):
        def forward(self, x, target):
            return st.cross_entropy(x, target)

    x, target = torch.randn(4, 5), torch.tensor([0, 4, 2, 2])
    program = torch.export.export(Loss(), (x, target))
    assert "samestep.cross_entropy" in str(program.graph)
    assert torch.equal(program.module()(x, target), st.cross_entropy(x, target))
    apart = program.run_decompositions(st.decompositions())
    assert "samestep" not in str(apart.graph)
    torch.testing.assert_close(apart.module()(x, target), st.cross_entropy(x, target))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"input": [1.0]}, TypeError, "input: got list"),
        ({"input": torch.ones(3, 4).int()}, TypeError, "input: got torch.int32"),
        ({"input": torch.ones(4)}, ValueError, r"input: got shape \(4,\), expected \(N, C\).*input\[None\]"),
        ({"input": torch.ones(3, 4, 2)}, ValueError, r"input: got shape \(3, 4, 2\).*movedim\(1, -1\)"),
        ({"input": torch.ones(0, 4)}, ValueError, r"input: got shape \(0, 4\)"),
        ({"input": torch.ones(3, 4, device="meta")}, NotImplementedError, "input: got a tensor on meta"),
        ({"target": None}, TypeError, "target: got NoneType"),
        ({"target": torch.ones(3, 4)}, TypeError, r"target: got probabilities.*argmax\(1\)"),
        ({"target": torch.ones(3, dtype=torch.int32)}, TypeError, r"target: got torch.int32.*long\(\)"),
        ({"target": torch.ones(2).long()}, ValueError, r"target: got shape \(2,\), expected \(3,\)"),
        ({"target": torch.tensor([0, 4, 1])}, ValueError, r"target\[1\]: got 4, expected a class, 0 to 3$"),
        ({"target": torch.tensor([0, 1, -100])}, ValueError, r"target\[2\]: got -100.*keep = target >= 0"),
        ({"weight": torch.ones(4)}, NotImplementedError, "weight: got a tensor, .*torch.nn.functional"),
        ({"ignore_index": 3}, NotImplementedError, "ignore_index: got 3.*keep = target != ignore_index"),
        (
            {"reduction": "sum"},
            NotImplementedError,
            "reduction: got 'sum', expected 'mean'; for the sum, mult",
        ),
        ({"label_smoothing": 0.1}, NotImplementedError, "label_smoothing: got 0.1, expected 0.0"),
        ({"size_average": True}, NotImplementedError, "size_average: got True"),
        ({"reduce": False}, NotImplementedError, "reduce: got False"),
    ],
)
def test_what_does_not_fit(change, error, says):
    good = {"input": torch.ones(3, 4), "target": torch.tensor([0, 1, 3])}
    with pytest.raises(error, match=says):
        st.cross_entropy(**{**good, **change})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_module_is_the_function(dtype):
    loss, x, target = st.CrossEntropyLoss(), torch.randn(7, 5).to(dtype).requires_grad_(), torch.arange(7) % 5
    assert isinstance(loss, torch.nn.CrossEntropyLoss)
    expected = st.cross_entropy(x, target)
    (by_function,) = torch.autograd.grad(expected, x)
    runs = (loss, torch.jit.script(loss), torch.compile(loss, backend="aot_eager", fullgraph=True))
    for run in runs:
        found = run(x, target)
        assert torch.equal(found, expected)
        assert torch.equal(torch.autograd.grad(found, x)[0], by_function)


def test_the_module_is_one_node_of_a_trace():
    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loss = st.CrossEntropyLoss()

        def forward(self, x, target):
            return self.loss(x, target)

    traced = torch.fx.symbolic_trace(Loss())
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["loss"]
    x, target = torch.randn(7, 5), torch.arange(7) % 5
    assert torch.equal(traced(x, target), st.cross_entropy(x, target))


@pytest.mark.parametrize(
    "refused",
    [
        {"weight": torch.ones(4)},
        {"size_average": True},
        {"ignore_index": 3},
        {"reduce": False},
        {"reduction": "sum"},
        {"label_smoothing": 0.1},
    ],
    ids=lambda refused: next(iter(refused)),
)
def test_the_module_refuses_what_the_function_refuses(refused):
    ((name, value),) = refused.items()
    with pytest.raises(NotImplementedError, match=f"^{name}: got "):
        st.CrossEntropyLoss(**refused)
    if name in ("size_average", "reduce"):
        return  # which torch turns into a reduction
    loss = st.CrossEntropyLoss()
    setattr(loss, name, value)
    with pytest.raises(NotImplementedError, match=f"^{name}: got "):
        loss(torch.ones(3, 4), torch.tensor([0, 1, 3]))


def test_what_may_be_changed_before_the_backward_pass():
    """The gradient is there already, without the target; the input is kept for a second derivative."""
    x, target = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 3, 2])
    (expected,) = torch.autograd.grad(st.cross_entropy(x, target), x)
    loss = st.cross_entropy(x, target)
    target.zero_()
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)
    loss = st.cross_entropy(x, target)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
