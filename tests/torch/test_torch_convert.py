"""samestep.torch.convert: networks of torch.nn's layers to samestep's and back; what is left of torch's."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep.torch as st

NAMES = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"momentum": None, "eps": 1e-3}, {"affine": False}])
def test_there_and_back(name, options):
    theirs = getattr(torch.nn, name)(3, **options, dtype=torch.float64)
    theirs.requires_grad_(False)
    net = torch.nn.Sequential(theirs, torch.nn.Sequential(theirs)).eval()  # one layer at two places
    before = [*theirs.parameters(), *theirs.buffers()]
    keys = list(net.state_dict())
    assert st.convert(net) is net
    ours = net[0]
    assert type(ours) is getattr(st, name)
    assert net[1][0] is ours
    assert "relu=False" in repr(ours)
    assert st.convert(net, back=True) is net
    again = net[0]
    assert type(again) is getattr(torch.nn, name)
    assert net[1][0] is again
    assert repr(again) == repr(theirs)
    for layer in (ours, again):
        after = [*layer.parameters(), *layer.buffers()]
        assert all(a is b for a, b in zip(after, before, strict=True))
        assert not layer.training
        assert not any(p.requires_grad for p in layer.parameters())
    assert list(net.state_dict()) == keys


def test_hooks_move_and_can_be_removed():
    net, calls = torch.nn.Sequential(torch.nn.BatchNorm1d(3)), []
    handle = net[0].register_forward_hook(lambda *_: calls.append(1))
    st.convert(net)(torch.randn(4, 3))
    assert calls == [1]
    handle.remove()
    net(torch.randn(4, 3))
    assert calls == [1]


def test_a_relu_becomes_a_module():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), st.BatchNorm1d(3, relu=True))
    x = torch.randn(5, 2)
    expected = copy.deepcopy(net)(x)
    st.convert(net, back=True)
    assert [type(m) for m in net[1]] == [torch.nn.BatchNorm1d, torch.nn.ReLU]
    torch.testing.assert_close(net(x), expected)
    assert all(m.training for m in net.modules())
    assert not any("samestep" in type(m).__module__ for m in net.modules())
    st.convert(net)
    assert torch.equal(st.convert(net)[1](net[0](x)), net(x))


def test_a_relu_with_hooks_is_refused_and_nothing_changes():
    net = torch.nn.Sequential(st.BatchNorm1d(3), st.BatchNorm1d(3, relu=True))
    net[1].register_forward_hook(lambda *_: None)
    with pytest.raises(NotImplementedError, match=r"BatchNorm1d\(relu=True\): has hooks \(_forward_hooks\)"):
        st.convert(net, back=True)
    assert type(net[0]) is st.BatchNorm1d


def test_a_layer_itself_and_strangers():
    assert type(st.convert(torch.nn.BatchNorm2d(3))) is st.BatchNorm2d
    assert type(st.convert(st.BatchNorm2d(3), back=True)) is torch.nn.BatchNorm2d

    class Own(torch.nn.BatchNorm2d):
        pass

    own = Own(3)
    assert st.convert(torch.nn.Sequential(own, torch.nn.SyncBatchNorm(3)))[0] is own
    assert "eps" in copy.deepcopy(st.BatchNorm2d(3, relu=True)).__dict__


def test_an_exported_network_needs_no_samestep():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), st.BatchNorm1d(3, relu=True)).eval()
    exported = torch.export.export(st.convert(net, back=True), (torch.ones(2, 2),))
    assert not any("samestep" in str(node.target) for node in exported.graph.nodes)


@pytest.mark.parametrize("back", [False, True])
def test_torchs_synchronised_batch_norm_stays(back):
    net = torch.nn.Sequential(torch.nn.SyncBatchNorm(3))
    one = net[0]
    assert st.convert(net, back=back)[0] is one
    assert type(one) is torch.nn.SyncBatchNorm


@pytest.mark.parametrize("options", [{}, {"bias": False}])
def test_linear_there_and_back(options):
    theirs = torch.nn.Linear(3, 4, **options, dtype=torch.float64)
    embedding = torch.nn.Embedding(4, 3, dtype=torch.float64)
    theirs.weight = embedding.weight  # tied
    net = torch.nn.ModuleDict({"in": embedding, "out": theirs, "again": torch.nn.Sequential(theirs)}).eval()
    keys, before = list(net.state_dict()), list(net.parameters())
    assert st.convert(net) is net
    ours = net["out"]
    assert type(ours) is st.Linear
    assert net["again"][0] is ours
    assert not ours.training
    assert ours.weight is embedding.weight
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    st.convert(net, back=True)
    assert type(net["out"]) is torch.nn.Linear
    assert repr(net["out"]) == repr(theirs)
    assert list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))


def test_linear_with_a_relu_becomes_a_pair_and_lazy_stays_lazy():
    net, x = torch.nn.Sequential(st.Linear(3, 4, relu=True), st.LazyLinear(2)), torch.randn(5, 3)
    hidden = net[0](x)
    st.convert(net, back=True)
    assert [type(one) for one in net[0]] == [torch.nn.Linear, torch.nn.ReLU]
    torch.testing.assert_close(net[0](x), hidden)
    assert type(net[1]) is torch.nn.LazyLinear
    st.convert(net)
    assert type(net[1]) is st.LazyLinear
    assert net(x).shape == (5, 2)
    assert [type(one) for one in (net[0][0], net[1])] == [st.Linear, st.Linear]


def test_subclasses_of_linear_stay():
    attention = torch.nn.MultiheadAttention(4, 2)
    weighted = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 4))
    net = st.convert(torch.nn.ModuleDict({"attention": attention, "weighted": weighted}))
    assert type(net["attention"].out_proj) is torch.nn.modules.linear.NonDynamicallyQuantizableLinear
    assert net["weighted"] is weighted
    names = [name for name, _ in st.unconverted(net)]
    assert {"attention", "attention.out_proj", "weighted"} <= set(names)


def test_a_converted_encoder_computes_the_same():
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    x, one = torch.randn(3, 5, 8), st.convert(copy.deepcopy(layer))
    assert type(one.linear1) is type(one.linear2) is st.Linear
    for training in (True, False):
        torch.testing.assert_close(one.train(training)(x), layer.train(training)(x))


def test_unconverted_lists_what_torch_computes():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.inner = torch.nn.Linear(2, 2)

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.ReLU()

    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Flatten(), Own(), Plain()
    )
    net.append(torch.nn.Softmax(1)).append(torch.nn.SyncBatchNorm(2)).append(torch.nn.Sequential())
    left = {
        "4": Own,
        "6": torch.nn.Softmax,
        "7": torch.nn.SyncBatchNorm,
    }
    before = dict(st.unconverted(net))
    assert before == {
        **left,
        "0": torch.nn.Conv2d,
        "1": torch.nn.BatchNorm2d,
        "4.inner": torch.nn.Linear,
    }
    assert st.unconverted(st.convert(net)) == list(left.items())
    assert st.unconverted(st.Linear(2, 2)) == []
    assert st.unconverted(torch.nn.Linear(2, 2)) == [("", torch.nn.Linear)]


@pytest.mark.parametrize("options", [{}, {"padding": "same", "bias": False}, {"groups": 2, "stride": (1, 2)}])
def test_convolution_there_and_back(options):
    theirs = torch.nn.Conv2d(4, 6, 3, **options, dtype=torch.float64)
    net = torch.nn.Sequential(theirs, torch.nn.Sequential(theirs)).eval()
    keys, before, x = (
        list(net.state_dict()),
        list(net.parameters()),
        torch.randn(2, 4, 7, 7, dtype=torch.float64),
    )
    expected = theirs(x)
    st.convert(net)
    ours = net[0]
    assert type(ours) is st.Conv2d
    assert net[1][0] is ours
    assert not ours.training
    torch.testing.assert_close(ours(x), expected)
    st.convert(net, back=True)
    assert type(net[0]) is torch.nn.Conv2d
    assert repr(net[0]) == repr(theirs)
    assert list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))


def test_a_convolution_with_a_relu_becomes_a_pair_and_lazy_stays_lazy():
    net = torch.nn.Sequential(st.Conv2d(3, 4, 2, relu=True), st.LazyConv2d(2, 2, relu=True))
    x = torch.randn(5, 3, 4, 4)
    hidden = net[0](x)
    st.convert(net, back=True)
    assert [type(one) for one in (*net[0], *net[1])] == [
        torch.nn.Conv2d,
        torch.nn.ReLU,
        torch.nn.LazyConv2d,
        torch.nn.ReLU,
    ]
    torch.testing.assert_close(net[0](x), hidden)
    st.convert(net)
    assert net(x).shape == (5, 2, 2, 2)
    assert [type(one[0]) for one in net] == [st.Conv2d, st.Conv2d]


def test_a_convolution_that_torch_pads_is_listed():
    net = torch.nn.Sequential(
        st.Conv2d(3, 4, 2, padding=1), st.Conv2d(4, 4, 2, padding=1, padding_mode="reflect")
    )
    assert st.unconverted(net) == [("1", st.Conv2d)]


def test_a_loss_there_and_back_unless_it_has_options():
    net = torch.nn.ModuleDict(
        {
            "mean": torch.nn.CrossEntropyLoss(),
            "sum": torch.nn.CrossEntropyLoss(reduction="sum"),
            "smooth": torch.nn.CrossEntropyLoss(label_smoothing=0.1),
            "weighted": torch.nn.CrossEntropyLoss(torch.ones(3)),
            "ignoring": torch.nn.CrossEntropyLoss(ignore_index=0),
        }
    )
    st.convert(net)
    assert type(net["mean"]) is st.CrossEntropyLoss
    stay = ["sum", "smooth", "weighted", "ignoring"]
    assert st.unconverted(net) == [(name, torch.nn.CrossEntropyLoss) for name in stay]
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    assert torch.equal(net["mean"](x, target), st.cross_entropy(x, target))
    st.convert(net, back=True)
    assert type(net["mean"]) is torch.nn.CrossEntropyLoss
    assert torch.equal(net["mean"](x, target), torch.nn.functional.cross_entropy(x, target))
