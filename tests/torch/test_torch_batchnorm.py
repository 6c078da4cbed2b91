"""samestep.torch's batch norm: the cases of torch's own database against torch's own layers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")
pytest.importorskip("expecttest", reason="torch's case database needs expecttest")

from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import samestep as ss
import samestep.torch
from samestep.backends import reference

OURS = {cls.__name__: getattr(samestep.torch, cls.__name__) for cls in (
    torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d
)}  # fmt: skip
INFOS = [info for info in module_db if info.module_cls.__name__ in OURS]
DTYPES = (torch.float32, torch.float64)
TOLERANCES = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.bfloat16: {"rtol": 0.02, "atol": 0.02},
    torch.float16: {"rtol": 0.003, "atol": 0.003},
}
RELUS = (False, True)


def cases(info, dtype, training):
    """What the database constructs and calls the module with."""
    for case in info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=training):
        args, kwargs = case.constructor_input.args, case.constructor_input.kwargs
        (x,) = case.forward_input.args
        yield case.desc, args, {**kwargs, "dtype": dtype}, x


def pair(info, args, kwargs, training, relu):
    """torch's layer and ours, in the same state."""
    theirs = info.module_cls(*args, **kwargs)
    with torch.no_grad():
        for i, values in enumerate(theirs.state_dict().values()):
            if values.is_floating_point():
                values.copy_(torch.linspace(0.5, 2.0 + i, values.numel()))
    ours = OURS[info.module_cls.__name__](*args, **kwargs, relu=relu)
    ours.load_state_dict(theirs.state_dict())
    return theirs.train(training), ours.train(training)


def passes(layer, x, dy, relu=False):
    """The result, all gradients and the state after one forward and one backward pass."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    if relu:
        y = torch.relu(y)
    y.backward(dy)
    grads = {name: p.grad for name, p in layer.named_parameters()}
    return {
        "y": y.detach(),
        "dx": x.grad,
        **grads,
        **{f"state {k}": v for k, v in layer.state_dict().items()},
    }


def close(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_module_db(info, dtype, training, relu, record_property):
    count = 0
    for desc, args, kwargs, x in cases(info, dtype, training):
        theirs, ours = pair(info, args, kwargs, training, relu)
        dy = torch.randn(x.shape, dtype=dtype)
        close(passes(ours, x, dy), passes(theirs, x, dy, relu), **TOLERANCES[dtype])
        x = x.detach()
        if x.numel() and dtype == torch.float64:
            parameters = [p.detach().clone().requires_grad_() for p in ours.parameters()]
            names = [name for name, _ in ours.named_parameters()]

            def call(x, *values, ours=ours, names=names):
                return torch.func.functional_call(ours, dict(zip(names, values, strict=True)), (x,))

            ours.track_running_stats = ours.track_running_stats and not training  # a function of its inputs
            assert torch.autograd.gradcheck(call, (x.requires_grad_(), *parameters), fast_mode=True), desc
        count += 1
    assert count >= 6
    record_property(
        "shown", f"module_db {info.name}: {count} cases, {dtype}, training {training}, relu {relu}"
    )


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_module_db_errors(info):
    errors = info.module_error_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True)
    assert errors
    for error in errors:
        case = error.module_error_input
        layer = OURS[info.module_cls.__name__](*case.constructor_input.args, **case.constructor_input.kwargs)
        with pytest.raises(error.error_type, match=error.error_regex):
            layer(*case.forward_input.args)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16], ids=str)
def test_op_db(dtype, record_property):
    (op,) = (
        op for op in op_db if op.full_name == "nn.functional.batch_norm" and op.supports_dtype(dtype, "cpu")
    )
    count = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        results = []
        for function in (samestep.torch.batch_norm, torch.nn.functional.batch_norm):
            # torch may take a tensor several times; ours may not write to what it reads
            args = [a if a is None else a.detach().clone() for a in sample.args]
            x = sample.input.detach().clone().requires_grad_()
            for a in args[2:]:
                if a is not None:
                    a.requires_grad_()
            y = function(x, *args, **sample.kwargs)
            # of one sign: of a sum in 16 bits that cancels, no digit is sure
            y.backward(torch.linspace(0.25, 1, y.numel(), dtype=dtype).reshape(y.shape))
            tensors = {"y": y.detach(), "dx": x.grad, "mean": args[0], "var": args[1]}
            grads = {f"grad {i}": a.grad for i, a in enumerate(args) if i >= 2 and a is not None}
            results.append({k: v for k, v in {**tensors, **grads}.items() if v is not None})
        close(*results, **TOLERANCES[dtype], equal_nan=True)
        count += 1
    assert count >= 10
    record_property("shown", f"op_db nn.functional.batch_norm: {count} cases, {dtype}")


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((3, 5, 4, 2), torch.contiguous_format),
        ((3, 5, 4, 2), torch.channels_last),
        ((3, 5, 4, 2, 2), torch.channels_last_3d),
        ((3, 5), torch.contiguous_format),
    ],
    ids=str,
)
def test_bits_are_the_packages_own_in_every_layout(shape, memory_format, training, relu):
    """The layer equals samestep's functions on the reference backend, whatever the layout."""
    x, dy = torch.randn(shape), torch.randn(shape)
    cls = {2: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}[len(shape)]
    layer = OURS[cls](shape[1], eps=1e-3, relu=relu).train(training)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 2, shape[1]))
        layer.running_mean.copy_(torch.linspace(-0.3, 0.2, shape[1]))
    gamma, beta, mean, var = (layer.state_dict()[k].numpy().copy() for k in list(layer.state_dict())[:4])
    laid = x.clone(memory_format=memory_format)
    found = passes(layer, laid, dy)  # dy in another layout than x
    assert found["y"].is_contiguous(memory_format=memory_format)
    how = {"relu": relu, "backend": "reference"}
    if training:
        y, m, inv, mean64, var64 = ss.layers.batchnorm.forward_and_statistics(
            x.numpy(), gamma, beta, 1e-3, relu, 1, None, "reference"
        )
        grads = ss.batchnorm_backward(dy.numpy(), x.numpy(), gamma, beta, m, inv, **how)
        reference.update_running(mean, var, mean64, var64, x.numel() // shape[1], 0.1, 0)
    else:
        y = ss.batchnorm_inference(x.numpy(), gamma, beta, mean, var, eps=1e-3, **how)
        grads = ss.batchnorm_inference_backward(
            dy.numpy(), x.numpy(), gamma, beta, mean, var, eps=1e-3, **how
        )
    expected = [y, *grads, mean, var]
    names = ("y", "dx", "weight", "bias", "state running_mean", "state running_var")
    for name, value in zip(names, expected, strict=True):
        assert ss.digest(found[name].numpy()) == ss.digest(value), name


def test_any_strides():
    base = torch.randn(6, 5, 8, dtype=torch.float64)
    dy = torch.ones(()).double().expand(3, 5, 4)  # as sum() hands it back
    for x in (base[::2, :, ::2], base.transpose(0, 2)[:3, :, :4], base[:3].flip(0)[..., :4]):
        got = passes(OURS["BatchNorm1d"](5, dtype=x.dtype), x, dy)
        close(got, passes(torch.nn.BatchNorm1d(5, dtype=x.dtype), x, dy), **TOLERANCES[x.dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits_are_those_of_float32_rounded_once(dtype):
    x, dy = torch.randn(8, 4, 3).to(dtype), torch.randn(8, 4, 3).to(dtype)
    wide, narrow = OURS["BatchNorm1d"](4, relu=True), OURS["BatchNorm1d"](4, relu=True)
    expected, found = passes(wide, x.float(), dy.float()), passes(narrow, x, dy)
    assert found["y"].dtype == found["dx"].dtype == dtype
    for name, value in found.items():
        assert torch.equal(value, expected[name].to(value.dtype)), name


def test_one_value_a_channel():
    layer = OURS["BatchNorm1d"](3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        layer(torch.randn(1, 3))
    assert layer.num_batches_tracked == 0
    x, dy = torch.randn(1, 3), torch.randn(1, 3)
    close(passes(layer.eval(), x, dy), passes(torch.nn.BatchNorm1d(3).eval(), x, dy), rtol=1e-6, atol=1e-6)


def test_state_dicts_interchange_and_layers_copy():
    ours, theirs = OURS["BatchNorm2d"](3, momentum=None, relu=True), torch.nn.BatchNorm2d(3, momentum=None)
    for _ in range(3):
        ours(torch.randn(2, 3, 4, 4))
    theirs.load_state_dict(ours.state_dict())
    assert theirs.num_batches_tracked == 3
    again = OURS["BatchNorm2d"](3, momentum=None, relu=True)
    again.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 4, 4)
    expected = ours.eval()(x)
    for layer in (again, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(layer.eval()(x), expected)
    assert "relu=True" in repr(ours)


def test_a_layer_that_never_heard_of_relu_has_none():
    """torch's layer whose class was set; one that was pickled before there was a relu."""
    changed, old = torch.nn.BatchNorm2d(3), OURS["BatchNorm2d"](3)
    changed.__class__ = OURS["BatchNorm2d"]
    del old.relu
    x = torch.randn(2, 3, 4, 4)
    expected = OURS["BatchNorm2d"](3)(x)
    for layer in (changed, copy.deepcopy(old), pickle.loads(pickle.dumps(old))):
        assert "relu=False" in repr(layer)
        assert torch.equal(layer(x), expected)
        layer.relu = True
        assert torch.equal(layer(x), torch.relu(expected))
    assert OURS["BatchNorm2d"].relu is False


def test_version_counters():
    """autograd hears of what was written outside of it."""
    layer = OURS["BatchNorm1d"](3)
    before = layer.running_mean._version
    loss = (layer.running_mean * torch.ones(3, requires_grad=True)).sum()
    x = torch.randn(4, 3, requires_grad=True)
    y = layer(x)
    assert layer.running_mean._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with torch.inference_mode():
        layer = OURS["BatchNorm1d"](3)
        layer(torch.randn(4, 3))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            {"weight": torch.ones(3, dtype=torch.float64)},
            TypeError,
            "weight: got torch.float64, expected the input.s torch.float32",
        ),
        ({"bias": torch.ones(4)}, ValueError, r"bias: got shape \(4,\)"),
        ({"running_var": None}, ValueError, "running_mean, running_var"),
        ({"input": torch.ones(5, 3, device="meta")}, NotImplementedError, "input: got a tensor on meta"),
        (
            {"input": torch.ones(5, 3, dtype=torch.int64)},
            TypeError,
            "input: got torch.int64, expected one of torch.float32",
        ),
        ({"input": [1.0]}, TypeError, "input: got list, expected a tensor"),
        ({"weight": [1.0, 1.0, 1.0]}, TypeError, "weight: got list, expected a tensor"),
        ({"running_mean": torch.zeros(4)}, ValueError, r"running_mean: got shape \(4,\)"),
        ({"momentum": None}, TypeError, "momentum: got None, expected a number"),
        ({"eps": "a"}, TypeError, "eps: got .a., expected a number"),
        ({"relu": "no"}, TypeError, "relu: got .no., expected True or False"),
    ],
)
def test_what_does_not_fit_changes_nothing(change, error, says):
    good = {"input": torch.randn(5, 3), "running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    arguments = {**good, **change}
    with pytest.raises(error, match=says):
        samestep.torch.batch_norm(**arguments, training=True)
    assert torch.equal(good["running_mean"], torch.zeros(3))
    assert torch.equal(good["running_var"], torch.ones(3))


def test_a_compiled_network_trains_to_the_same_bits():
    torch.manual_seed(0)
    network = torch.nn.Sequential(OURS["BatchNorm1d"](4, relu=True), OURS["BatchNorm1d"](4))
    x = torch.randn(16, 4)
    digests = []
    for run in (network, torch.compile(copy.deepcopy(network), backend="eager")):
        for _ in range(2):
            run(x).square().sum().backward()
        tensors = [p.grad for p in run.parameters()] + list(run.buffers())[:2]
        digests.append(ss.digest([np.asarray(t.detach()) for t in tensors]))
    assert digests[0] == digests[1]
