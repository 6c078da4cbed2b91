"""Batch norm of samestep.torch under what traces, transforms, exports and rebuilds layers."""

from __future__ import annotations

import copy
import io
import warnings

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.utils.checkpoint import checkpoint

import samestep.torch as st

LIBRARIES = (torch.nn, st)
RELUS = (False, True)
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning", "ignore:.*torch.ao:DeprecationWarning"
)
TRAINING = (False, True)


def layer(relu=False, cls="BatchNorm2d", **options):
    made = getattr(st, cls)(4, relu=relu, **options)
    with torch.no_grad():
        made.weight.copy_(torch.linspace(-1, 2, 4))
        made.bias.copy_(torch.linspace(0.5, -0.5, 4))
    return made


def passes(function, source, x):
    """The result, the gradients and the state of ``source`` after a forward and a backward pass."""
    x = x.clone().requires_grad_()
    y = function(x)
    y.pow(3).sum().backward()
    grads = [p.grad.clone() for p in source.parameters()]
    return [y.detach(), x.grad, *grads, *(b.clone() for b in source.buffers())]


def same_bits(found, expected):
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


OPERATORS = torch.ops.samestep


def operator_arguments(dtype):
    x = torch.randn(3, 4, 2, dtype=dtype, requires_grad=True)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = (torch.randn(4, dtype=wide, requires_grad=True) for _ in range(2))
    mean, var = torch.zeros(4, dtype=wide), torch.ones(4, dtype=wide)
    grad, eps, sums = torch.randn(3, 4, 2, dtype=dtype), 1e-3, torch.ones(4, dtype=torch.float64)
    laid = x.detach().movedim(1, -1).contiguous().movedim(-1, 1)
    yield "batch_norm_training", (x, weight, bias, eps, False)
    yield "batch_norm_training", (laid, None, None, eps, True)
    yield "batch_norm_training_backward", (grad, x, weight, bias, mean, var, eps, False)
    yield "batch_norm_training_backward", (grad, laid[..., :1], None, None, mean, var, eps, False)
    yield "batch_norm_inference", (x, weight, bias, mean, var, eps, True)
    yield "batch_norm_inference_backward", (grad, x, None, bias, mean, var, eps, True)
    yield "running_statistics", (mean, var, sums, sums, 6, 0.1, None)
    yield "running_statistics", (mean, var, sums, sums, 6, None, torch.tensor(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_opcheck(dtype):
    for name, arguments in operator_arguments(dtype):
        if name == "batch_norm_training_backward":
            arguments = (torch.randn_like(arguments[1]), *arguments[1:])
        torch.library.opcheck(getattr(OPERATORS, name).default, arguments)


def test_operators_check_their_arguments():
    x, two = torch.ones(3, 4), torch.ones(2)
    with pytest.raises(ValueError, match=r"weight: got shape \(2,\), expected \(4,\)"):
        OPERATORS.batch_norm_training(x, two, None, 1e-5, False)
    with pytest.raises(ValueError, match=r"running_mean: got shape \(2,\), expected \(4,\)"):
        OPERATORS.batch_norm_inference(x, None, None, two, two, 1e-5, False)
    with pytest.raises(TypeError, match="input: got"):
        OPERATORS.batch_norm_training(x.long(), None, None, 1e-5, False)


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("training", TRAINING)
def test_operators_have_the_bits_of_the_eager_layer(training, relu):
    one = layer(relu, momentum=None).train(training)
    two, x = copy.deepcopy(one), torch.randn(5, 4, 3, 2)
    compiled = torch.compile(two, backend="aot_eager", fullgraph=True)
    if training:
        one.momentum = two.momentum = 0.25
    same_bits(passes(compiled, two, x), passes(one, one, x))


@pytest.mark.parametrize("training", TRAINING)
@pytest.mark.parametrize("strict", [False, True])
def test_export(training, strict):
    one, x = layer(True).train(training), torch.randn(2, 4, 3, 3)
    expected = copy.deepcopy(one)(x)
    exported = torch.export.export(one, (x,), strict=strict)
    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert f"samestep.batch_norm_{'training' if training else 'inference'}.default" in called
    assert torch.equal(exported.module()(x), expected)


def test_shapes_without_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert layer(device="cpu").to("meta")(torch.ones(2, 4, 3, 3, device="meta")).shape == (2, 4, 3, 3)
    with FakeTensorMode():
        x = torch.ones(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
        y = st.BatchNorm2d(4)(x)
        assert y.shape == x.shape
        assert y.stride() == x.stride()


@pytest.mark.parametrize("relu", RELUS)
def test_grad_of_a_functional_call(relu):
    x, one = torch.randn(8, 4), layer(relu, "BatchNorm1d", track_running_stats=False)

    def loss(parameters):
        return torch.func.functional_call(one, parameters, (x,)).pow(3).sum()

    parameters = dict(one.named_parameters())
    found = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    same_bits(list(found.values()), expected)


@pytest.mark.parametrize("relu", RELUS)
def test_jacobians_of_samples(relu):
    one, x = layer(relu, "BatchNorm1d").eval(), torch.randn(5, 4)
    theirs = st.convert(copy.deepcopy(one), back=True)

    def sample(net):
        return lambda row: net(row[None])[0]

    for way in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        found, expected = (torch.func.vmap(way(sample(net)))(x) for net in (one, theirs))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("relu", RELUS)
def test_vmap_has_the_bits_of_single_calls(relu):
    one, x = layer(relu, track_running_stats=False), torch.randn(3, 5, 4, 2, 2)
    weights = torch.randn(3, 4)

    def loss(weight, one_x):
        y = torch.func.functional_call(one, {"weight": weight, "bias": one.bias.detach()}, (one_x,))
        return y.pow(3).sum()

    found = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(weights, x)
    single = [torch.func.grad(loss, argnums=(0, 1))(w, v) for w, v in zip(weights, x, strict=True)]
    same_bits(found, [torch.stack(part) for part in zip(*single, strict=True)])
    shared = torch.func.vmap(one)(x)
    same_bits([shared], [torch.stack([one(v) for v in x])])


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("training", TRAINING)
def test_second_derivatives(training, relu):
    one = layer(relu, track_running_stats=not training, dtype=torch.float64).train(training)
    x = torch.randn(5, 4, 2, 1, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        return torch.func.functional_call(one, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradgradcheck(call, (x, one.weight, one.bias))
    assert torch.autograd.gradcheck(call, (x, one.weight, one.bias), check_forward_ad=True)


def test_a_first_gradient_that_keeps_its_graph_has_the_same_bits():
    x = torch.randn(5, 4, requires_grad=True)
    one = layer(True, "BatchNorm1d")
    first, second = (
        torch.autograd.grad(one(x).pow(3).sum(), [x, *one.parameters()], create_graph=keep)
        for keep in (False, True)
    )
    same_bits(first, second)


@pytest.mark.parametrize("lib", LIBRARIES, ids=lambda lib: lib.__name__)
def test_fx_keeps_the_layer_whole(lib):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), lib.BatchNorm2d(4)).eval()
    graph = torch.fx.symbolic_trace(net)
    assert [str(node.target) for node in graph.graph.nodes] == ["input", "0", "1", "output"]
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(graph(x), net(x))


def test_fx_refuses_what_it_would_run_twice():
    class Own(st.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    hooked = st.BatchNorm2d(4)
    hooked.register_forward_hook(lambda module, args, y: y + 1)
    for one in (Own(4), hooked):
        with pytest.raises(TypeError, match="would run its hooks or forward twice"):
            torch.fx.symbolic_trace(torch.nn.Sequential(one))


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("training", TRAINING)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_torchscript(training, relu, momentum):
    one, x = layer(relu, momentum=momentum).train(training), torch.randn(2, 4, 3, 3)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(one), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    same_bits(passes(loaded, loaded, x), passes(one, one, x))


@pytest.mark.parametrize("relu", RELUS)
def test_torchscript_trace(relu):
    one, x = layer(relu).eval(), torch.randn(2, 4, 3, 3)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(one, x), file)
    file.seek(0)
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(torch.jit.load(file)(x), one(x))


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_an_ensemble_trains_under_vmap(momentum):
    """Stacked layers with running statistics have the state of single ones, whatever each has seen."""
    single = [layer(True, "BatchNorm1d", momentum=momentum) for _ in range(4)]
    for k, one in enumerate(single):
        for _ in range(k):
            one(torch.randn(8, 4))
    x, base = torch.randn(4, 8, 4), copy.deepcopy(single[0])
    state = torch.func.stack_module_state(single)

    def call(parameters, buffers, x):
        return torch.func.functional_call(base, (parameters, buffers), (x,))

    def in_pairs(values):
        return {name: value.unflatten(0, (2, 2)) for name, value in values.items()}  # views of the state

    y = torch.func.vmap(call)(*state, x)
    same_bits([y], [torch.stack([one(v) for one, v in zip(single, x, strict=True)])])
    parameters, buffers = map(in_pairs, state)
    y = torch.func.vmap(torch.func.vmap(call))(parameters, buffers, x.unflatten(0, (2, 2))).flatten(0, 1)
    same_bits([y], [torch.stack([one(v) for one, v in zip(single, x, strict=True)])])
    for name, values in state[1].items():
        same_bits(list(values), [one.get_buffer(name) for one in single])


def test_vmap_says_that_it_cannot_update_shared_statistics():
    one = layer(cls="BatchNorm1d")
    with pytest.raises(RuntimeError, match="running_mean, running_var: got unbatched"):
        torch.func.vmap(one)(torch.randn(3, 8, 4))
    assert one.num_batches_tracked == 0
    assert torch.equal(one.running_mean, torch.zeros(4))


@pytest.mark.parametrize("training", TRAINING)
def test_batched_gradients(training):
    one, x = layer(True, "BatchNorm1d").train(training), torch.randn(3, 4)
    one.track_running_stats = not training
    slow, fast = (torch.autograd.functional.jacobian(one, x, vectorize=way) for way in (False, True))
    assert torch.equal(slow, fast)


def fuse_modules(net):
    import torch.ao.quantization

    return torch.ao.quantization.fuse_modules(net, ["0", "1"])


def to_mkldnn(net):
    import torch.utils.mkldnn

    return torch.utils.mkldnn.to_mkldnn(net)


def fuse_graph(net):
    import torch.fx.experimental.optimization

    return torch.fx.experimental.optimization.fuse(net)


def replace_all(net):
    net = copy.deepcopy(net)
    torch.func.replace_all_batch_norm_modules_(net)
    assert net[1].running_mean is None
    return net


def update_bn(net):
    net = copy.deepcopy(net).train()
    torch.optim.swa_utils.update_bn([torch.randn(4, 3, 5, 5)], net)
    assert net[1].num_batches_tracked == 1
    return net.eval()


def parametrize(net):
    net = copy.deepcopy(net)
    torch.nn.utils.parametrize.register_parametrization(net[1], "weight", torch.nn.Identity())
    return net


REBUILDERS = {
    "sync": (torch.nn.SyncBatchNorm.convert_sync_batchnorm, "convert_sync_batchnorm: reads eps"),
    "conv": (
        lambda net: torch.nn.utils.fusion.fuse_conv_bn_eval(net[0], net[1]),
        "fuse_conv_bn_eval: reads eps",
    ),
    "linear": (
        lambda net: torch.nn.utils.fusion.fuse_linear_bn_eval(torch.nn.Linear(3, 4).eval(), net[1]),
        "fuse_linear_bn_eval: reads eps",
    ),
    "quantization": (fuse_modules, "samestep.torch.layers.BatchNorm2d"),
    "mkldnn": (to_mkldnn, "a batch norm rebuilt from"),
    "fx fuse": (fuse_graph, None),
    "replace_all": (replace_all, None),
    "update_bn": (update_bn, None),
    "parametrize": (parametrize, None),
    "averaged": (lambda net: torch.optim.swa_utils.AveragedModel(net).module, None),
    "deepcopy": (copy.deepcopy, None),
}


@pytest.mark.parametrize("name", REBUILDERS)
def test_no_tool_loses_the_relu(name):
    """Each tool keeps the activation, or refuses and names the layer."""
    rebuild, refusal = REBUILDERS[name]
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), layer(relu=True)).eval()
    if refusal is not None:
        with pytest.raises((TypeError, AssertionError, NotImplementedError), match=refusal):
            rebuild(net)
        return
    y = rebuild(net)(torch.randn(2, 3, 5, 5))
    assert y.min() == 0
    assert (y == 0).float().mean() < 0.9


@pytest.mark.parametrize("relu", RELUS)
def test_another_librarys_converter_is_warned_of_the_relu(relu):
    """As timm's freeze_batch_norm_2d and detectron2's convert_frozen_batchnorm do."""

    def frozen(one):
        return torch.nn.BatchNorm2d(one.num_features, eps=one.eps, momentum=one.momentum, affine=one.affine)

    one = layer(relu, eps=1e-3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert frozen(one).eps == 1e-3
    assert len(caught) == relu
    if relu:
        assert "frozen: reads eps of samestep.torch.BatchNorm2d(relu=True)" in str(caught[0].message)
        assert caught[0].filename == __file__


def test_without_a_relu_the_tools_work():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), layer()).eval()
    assert isinstance(torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)[1], torch.nn.SyncBatchNorm)
    x = torch.randn(2, 3, 5, 5)
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(torch.nn.Conv2d(3, 4, 3).eval(), st.BatchNorm2d(4).eval())
    assert fused(x).shape == (2, 4, 3, 3)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.1])
def test_checkpoint_counts_as_torch_does(momentum, reentrant):
    states = []
    for lib in LIBRARIES:
        one = lib.BatchNorm1d(1, momentum=momentum)
        for k in range(4):
            x = torch.tensor([[float(k)], [k + 2.0]], requires_grad=True)
            checkpoint(one, x, use_reentrant=reentrant).sum().backward()
        states.append((round(one.running_mean.item(), 5), int(one.num_batches_tracked)))
    assert states[0] == states[1]
    assert states[1][1] == 8


def test_a_refused_batch_changes_neither_count_nor_statistics():
    one = st.BatchNorm1d(4)
    before = copy.deepcopy(one.state_dict())
    for x in (torch.ones(1, 4), torch.ones(3, 5), torch.ones(3, 4, dtype=torch.int64)):
        with pytest.raises((ValueError, TypeError)):
            one(x)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
