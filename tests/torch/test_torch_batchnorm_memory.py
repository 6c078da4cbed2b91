"""Where the tensors of batch norm lie: shared, unaligned, resizable; and what the kernels alone refuse."""

import pytest

torch = pytest.importorskip("torch")

import samestep.torch


def sharing():
    """(changed argument, whose memory it shares, arguments) of a call."""
    x, statistics = torch.randn(4, 3), torch.rand(5)
    good = {"input": x, "running_mean": torch.zeros(3), "running_var": torch.ones(3), "weight": torch.ones(3)}
    yield "running_mean", "input", {**good, "running_mean": x.view(-1)[9:]}
    yield "running_var", "weight", {**good, "running_var": good["weight"]}
    yield (
        "running_var",
        "running_mean",
        {**good, "running_mean": statistics[:3], "running_var": statistics[2:]},
    )


@pytest.mark.parametrize("case", range(3))
def test_statistics_that_share_memory_are_refused_before_a_byte_is_written(case):
    name, other, arguments = list(sharing())[case]
    before = {k: v.clone() for k, v in arguments.items()}
    with pytest.raises(ValueError, match=f"{name}: overlaps {other} in memory"):
        samestep.torch.batch_norm(**arguments, training=True)
    assert all(torch.equal(before[k], v) for k, v in arguments.items())


def test_statistics_side_by_side_in_memory_are_two():
    both = torch.tensor([0.0, 0.0, 1.0, 1.0])
    samestep.torch.batch_norm(torch.tensor([[1.0, 2], [3, 6]]), both[:2], both[2:], training=True)
    assert torch.allclose(both, torch.tensor([0.2, 0.4, 1.1, 1.7]))


@pytest.mark.parametrize("name", ["input", "weight", "running_var"])
@pytest.mark.parametrize("training", [True, False])
def test_an_unaligned_tensor_is_refused_by_name(name, training):
    good = {"input": torch.ones(2, 3), "running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    good["weight"] = torch.ones(3)
    odd = torch.frombuffer(bytearray(1 + 24), dtype=torch.float32, offset=1, count=good[name].numel())
    with pytest.raises(ValueError, match=rf"{name}: its memory does not lie on a multiple of 4 bytes"):
        samestep.torch.batch_norm(**{**good, name: odd.view(good[name].shape)}, training=training)
    assert good["running_mean"].tolist() == [0.0] * 3


def test_storages_can_be_resized_after_a_call_as_fsdp_does():
    layer, x = samestep.torch.BatchNorm1d(3), torch.randn(4, 3, requires_grad=True)
    layer(x).sum().backward()
    assert all(t.untyped_storage().resizable() for t in (x, x.grad, *layer.parameters(), *layer.buffers()))


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (4, 0)])
def test_the_operators_refuse_what_has_no_variance(shape):
    with pytest.raises(ValueError, match=r"more than 1 value per channel|at least one channel"):
        torch.ops.samestep.batch_norm_training(torch.ones(shape), None, None, 1e-5, False)


LAYOUTS = [
    (shape, format)
    for shape in [(3, 4), (3, 1), (3, 4, 1, 1), (3, 1, 5), (1, 4, 5), (2, 4, 3, 3), (2, 4, 1, 3)]
    for format in (torch.contiguous_format, torch.channels_last)
    if len(shape) == 4 or format is torch.contiguous_format
]


@pytest.mark.parametrize(("shape", "format"), LAYOUTS)
def test_every_layout_has_the_bits_of_the_functions_on_arrays(shape, format):
    x = torch.randn(shape).contiguous(memory_format=format)
    gamma, beta = torch.randn(2, shape[1])
    y, mean, inv, _, _ = torch.ops.samestep.batch_norm_training(x, gamma, beta, 1e-5, True)
    arrays = [t.numpy() for t in (x, gamma, beta)]
    expected = samestep.batchnorm_forward(*arrays, relu=True)
    assert all(torch.equal(a, torch.from_numpy(b)) for a, b in zip((y, mean, inv), expected, strict=True))
    dy = torch.randn(shape).contiguous(memory_format=format)
    grads = torch.ops.samestep.batch_norm_training_backward(dy, x, gamma, beta, mean, inv, 1e-5, True)
    expected = samestep.batchnorm_backward(dy.numpy(), *arrays, *expected[1:], relu=True)
    assert all(torch.equal(a, torch.from_numpy(b)) for a, b in zip(grads, expected, strict=True))
