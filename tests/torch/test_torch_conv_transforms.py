"""samestep.torch.Conv2d under what traces, transforms, exports and rebuilds layers."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.utils.checkpoint import checkpoint

import samestep.torch as st

RELUS = (False, True)
OPERATORS = torch.ops.samestep
HOW = ([1, 2], [1, 0], [2, 1], 2)
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:.*torch.ao:DeprecationWarning",
    "ignore:.*LeafSpec:FutureWarning",
)


def passes(function, source, x):
    x = x.clone().requires_grad_()
    y = function(x)
    y.pow(3).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in source.parameters())]


def same_bits(found, expected):
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_opcheck(dtype):
    def random(*shape):
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    last = torch.randn(2, 4, 5, 6, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    for x in (random(2, 4, 5, 6), last):
        weight = random(6, 2, 2, 3)
        torch.library.opcheck(OPERATORS.conv2d.default, (x, weight, random(6), *HOW, True))
        torch.library.opcheck(OPERATORS.conv2d.default, (x, weight, None, *HOW, False))
        grad = random(2, 6, 5, 2)
        torch.library.opcheck(OPERATORS.conv2d_input_gradient.default, (grad, weight, [5, 6], *HOW))
        torch.library.opcheck(OPERATORS.conv2d_weight_gradient.default, (grad, x, [2, 3], *HOW))


def test_operators_check_their_arguments():
    with pytest.raises(ValueError, match=r"input: got shape \(3, 4, 2\), expected \(N, 3, H, W\)"):
        OPERATORS.conv2d(torch.ones(3, 4, 2), torch.ones(2, 3, 1, 1), None, [1, 1], [0, 0], [1, 1], 1, False)


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("shape", [(2, 30, 7, 6), (30, 7, 6)], ids=str)
def test_compiled_layers_have_the_bits_of_the_eager_layer(shape, relu):
    one = torch.nn.Sequential(
        st.Conv2d(30, 4, 3, padding=1, relu=relu), st.Conv2d(4, 3, 2, padding="same", stride=1)
    )
    two, x = copy.deepcopy(one), torch.randn(shape)
    compiled = torch.compile(two, backend="aot_eager", fullgraph=True)
    same_bits(passes(compiled, two, x), passes(one, one, x))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    one, x = st.Conv2d(4, 3, 2, padding=1, relu=True), torch.randn(2, 4, 5, 6)
    dims = {0: torch.export.Dim("batch", min=1), 2: torch.export.Dim("height", min=3)}
    exported = torch.export.export(one, (x,), strict=strict, dynamic_shapes=(dims,))
    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert called.count("samestep.conv2d.default") == 1
    assert not any("aten.conv" in one for one in called)
    x = torch.randn(7, 4, 8, 6)
    assert torch.equal(exported.module()(x), one(x))
    apart = exported.run_decompositions(st.decompositions())
    assert not any("samestep" in str(node.target) for node in apart.graph.nodes)
    torch.testing.assert_close(apart.module()(x), one(x))


def test_exported_gradients_can_be_decomposed():
    from torch.fx.experimental.proxy_tensor import make_fx

    one, x = st.Conv2d(4, 3, 2, padding=1, relu=True), torch.randn(5, 4, 3, 4)

    def gradients(x, weight, bias):
        return torch.func.grad(lambda *p: st.conv2d(*p, padding=1, relu=True).pow(2).sum(), (0, 1, 2))(
            x, weight, bias
        )

    graph = make_fx(gradients, decomposition_table=st.decompositions())(x, *one.parameters())
    assert not any("samestep" in str(node.target) for node in graph.graph.nodes)
    found, expected = graph(x, *one.parameters()), gradients(x, *one.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # the exporters warn of themselves
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_gets_torchs_nodes(tmp_path, dynamo):
    for name in ("onnx", "onnxscript") if dynamo else ("onnx",):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'samestep[torch-test]'")
    import onnx

    file, one = str(tmp_path / "net.onnx"), st.Conv2d(4, 3, 2, relu=True).eval()
    torch.onnx.export(one, (torch.randn(2, 4, 3, 3),), file, dynamo=dynamo, verbose=False)
    nodes = onnx.load(file).graph.node
    assert [node.op_type for node in nodes] == ["Conv", "Relu"]


def test_shapes_without_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert st.Conv2d(4, 3, 2).to("meta")(torch.ones(2, 4, 5, 6, device="meta")).shape == (2, 3, 4, 5)
    with FakeTensorMode():
        assert st.Conv2d(4, 3, 2, stride=2)(torch.ones(4, 5, 6)).shape == (3, 2, 3)


@pytest.mark.parametrize("relu", RELUS)
def test_transforms(relu):
    one = st.Conv2d(2, 3, 2, padding=1, relu=relu, dtype=torch.float64)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    parameters = dict(one.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(one, parameters, (x,)).pow(3).sum()

    found = torch.func.grad(loss)(parameters, x)
    same_bits(list(found.values()), torch.autograd.grad(loss(parameters, x), list(parameters.values())))
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    single = [torch.func.grad(loss)(parameters, sample) for sample in x]
    for name, values in each.items():
        same_bits(list(values), [grads[name] for grads in single])
    theirs = st.convert(copy.deepcopy(one), back=True)
    for way in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        torch.testing.assert_close(*(torch.func.vmap(way(net))(x) for net in (one, theirs)))
    functionalized = torch.func.functionalize(torch.func.grad(loss))(parameters, x)
    torch.testing.assert_close(functionalized, found)


@pytest.mark.parametrize(
    "in_dims", [(0, None, None), (1, None, None), (None, 1, None), (1, 0, 1), (None, None, 0)], ids=str
)
def test_vmap_has_the_bits_of_single_calls(in_dims):
    shapes = ((2, 30, 4, 5), (3, 30, 3, 3), (3,))
    tensors = [
        torch.randn(shape if dim is None else (*shape[:dim], 4, *shape[dim:]))
        for shape, dim in zip(shapes, in_dims, strict=True)
    ]

    def call(*tensors):
        return st.conv2d(*tensors, padding=1, relu=True)

    found = torch.func.vmap(call, in_dims)(*tensors)
    single = [
        call(*(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, in_dims, strict=True)))
        for i in range(4)
    ]
    same_bits(list(found), single)


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize(
    "options",
    [{}, {"padding": "same"}, {"padding": (2, 1), "padding_mode": "circular", "stride": 2}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python")
def test_torchscript(options, relu):
    one, x = st.Conv2d(4, 3, 2, **options, relu=relu), torch.randn(3, 4, 5, 6)
    for made in (torch.jit.script(one), torch.jit.trace(one, x)):
        file = io.BytesIO()
        torch.jit.save(made, file)
        file.seek(0)
        loaded = torch.jit.load(file)
        same_bits(passes(loaded, loaded, x[:2]), passes(one, one, x[:2]))
        one.zero_grad()
    assert torch.equal(torch.jit.script(one)(x[0]), one(x[0]))


def test_fx_keeps_the_layer_whole_and_refuses_what_it_would_run_twice():
    net = torch.nn.Sequential(torch.nn.Identity(), st.Conv2d(4, 3, 2))
    graph = torch.fx.symbolic_trace(net)
    assert [str(node.target) for node in graph.graph.nodes] == ["input", "0", "1", "output"]
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(graph(x), net(x))
    net[1].register_forward_hook(lambda module, args, y: y + 1)
    with pytest.raises(TypeError, match="Conv2d: a trace would run its hooks or forward twice"):
        torch.fx.symbolic_trace(net)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    one, x = st.Conv2d(4, 3, 2, relu=True), torch.randn(5, 4, 3, 3)
    plain = passes(one, one, x)
    one.zero_grad()
    same_bits(passes(lambda x: checkpoint(one, x, use_reentrant=reentrant), one, x), plain)


def test_no_tool_loses_the_relu():
    from torch.fx.experimental.optimization import fuse
    from torch.utils.mkldnn import to_mkldnn

    norm, x = torch.nn.BatchNorm2d(3).eval(), torch.randn(2, 4, 5, 5)
    one, plain = st.Conv2d(4, 3, 2, relu=True).eval(), st.Conv2d(4, 3, 2).eval()
    with pytest.raises(TypeError, match=r"fuse_conv_bn_eval: reads the weight of samestep\.torch\.Conv2d"):
        torch.nn.utils.fusion.fuse_conv_bn_eval(one, norm)
    with pytest.raises(TypeError, match=r"a layer rebuilt from it has lost the ReLU"):
        to_mkldnn(torch.nn.Sequential(one))
    with pytest.raises(TypeError, match=r"quantize samestep\.torch\.Conv2d"):
        one.qconfig = torch.ao.quantization.default_qconfig
    net = torch.nn.Sequential(one, norm).eval()
    torch.testing.assert_close(fuse(net)(x), net(x))  # of classes that it knows alone
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(plain, norm)
    torch.testing.assert_close(fused(x), norm(plain(x)))
    torch.nn.utils.parametrizations.weight_norm(one)
    assert one(x).min() >= 0
