"""samestep.torch's lazy batch norm beside torch's: the first input or a state dict tells the channels."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep.torch as st

NAMES = {"BatchNorm1d": (5, 3), "BatchNorm2d": (5, 3, 4, 2), "BatchNorm3d": (5, 3, 2, 2, 1)}
NAMES_AND_SHAPES = pytest.mark.parametrize(("name", "shape"), NAMES.items(), ids=NAMES)


def lazy(name, lib=st, **options):
    return getattr(lib, f"Lazy{name}")(**options)


@NAMES_AND_SHAPES
@pytest.mark.parametrize(
    "options", [{"relu": True, "momentum": None}, {"affine": False, "dtype": torch.float64}]
)
def test_it_becomes_the_layer_at_the_first_input(name, shape, options):
    one, expected = lazy(name, **options), getattr(st, name)(3, **options)
    x = torch.randn(shape, dtype=options.get("dtype"))
    assert torch.equal(one(x), expected(x))
    assert repr(one) == repr(expected)
    assert type(one) is type(expected)
    assert one.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(one.state_dict()[k], v) for k, v in expected.state_dict().items())
    assert not one._forward_pre_hooks
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert torch.equal(again.eval()(x), expected.eval()(x))


@pytest.mark.parametrize(
    ("of", "to"), [(torch.nn, st), (st, torch.nn)], ids=["theirs to ours", "ours to theirs"]
)
@NAMES_AND_SHAPES
def test_state_dicts_interchange_before_and_after(name, shape, of, to):
    source, target = lazy(name, of), lazy(name, to)
    target.load_state_dict(source.state_dict())
    assert target.has_uninitialized_params()
    x = torch.randn(shape)
    source(x)
    target.load_state_dict(source.state_dict())
    assert not target.has_uninitialized_params()
    torch.testing.assert_close(target.eval()(x), source.eval()(x))
    assert type(target) is getattr(to, name)
    assert target.num_batches_tracked == 1


@NAMES_AND_SHAPES
def test_it_refuses_the_inputs_that_torchs_refuses(name, shape):
    for wrong in ((3,), (*shape, 1, 1)):
        errors = []
        for lib in (torch.nn, st):
            with pytest.raises((IndexError, ValueError)) as caught:
                lazy(name, lib)(torch.ones(wrong))
            errors.append((caught.type, str(caught.value)))
        assert errors[0] == errors[1]


@NAMES_AND_SHAPES
@pytest.mark.parametrize("relu", [False, True])
def test_convert_there_and_back(name, shape, relu):
    old = lazy(name, torch.nn)
    net, x, calls = torch.nn.Sequential(old), torch.randn(shape), []
    st.convert(net)
    assert type(net[0]) is type(lazy(name))
    assert next(iter(net[0]._forward_pre_hooks.values())).__self__ is net[0]
    net[0].relu = relu
    st.convert(net, back=True)
    assert b"samestep" not in pickle.dumps(net)
    one = net[0][0] if relu else net[0]
    assert type(one) is type(old)
    one.register_forward_hook(lambda *_: calls.append(1))
    expected = getattr(torch.nn, name)(3)(x)
    assert torch.equal(net(x), expected.relu() if relu else expected)
    assert type(one) is getattr(torch.nn, name)
    assert calls == [1]
    assert not one._forward_pre_hooks
    assert not one._load_state_dict_pre_hooks


def test_a_converted_layer_loads_and_starts():
    state = torch.nn.BatchNorm1d(3).state_dict()
    net = st.convert(torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.LazyBatchNorm1d()))
    net[1].load_state_dict(state)
    assert net[1].weight.shape == (3,)
    x = torch.randn(4, 2)
    compiled = torch.compile(net, backend="aot_eager", dynamic=False)  # nor does torch's take symbols
    assert compiled(x).shape == (4, 3)
    assert type(net[1]) is st.BatchNorm1d
    assert net[1].num_batches_tracked == 1


def test_a_lazy_relu_with_hooks_of_its_own_is_refused_and_nothing_changes():
    net = torch.nn.Sequential(st.LazyBatchNorm1d(), st.LazyBatchNorm1d(relu=True))
    net[1].register_forward_pre_hook(lambda *_: None)
    before = [dict(one._forward_pre_hooks) for one in net]
    with pytest.raises(NotImplementedError, match=r"LazyBatchNorm1d\(relu=True\): has hooks \(_forward_pre"):
        st.convert(net, back=True)
    assert [dict(one._forward_pre_hooks) for one in net] == before
    assert type(net[0]) is st.LazyBatchNorm1d


def test_a_trace_before_the_first_input_is_refused():
    net = torch.nn.Sequential(st.LazyBatchNorm1d())
    with pytest.raises(TypeError, match="LazyBatchNorm1d: a trace has no shapes"):
        torch.fx.symbolic_trace(net)
    assert net[0].num_features == 0
    net(torch.randn(4, 3))
    assert [node.op for node in torch.fx.symbolic_trace(net).graph.nodes][1] == "call_module"
