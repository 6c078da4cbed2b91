"""A network of samestep.torch's layers, loss and optimizer trains to one digest, whatever runs it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep as ss
import samestep.torch as st
from bits import ISAS

DIGEST = "e319d2680d09571e"
STEPS = 5
X, TARGET = (torch.arange(96 * 300) * 13 % 97).reshape(96, 300) / 97, torch.arange(96) % 10


def network():
    """Of torch's layers, with weights that no machine rounds in its own way, as torch's initial ones are."""
    relu = torch.nn.ReLU()
    net = torch.nn.Sequential(
        torch.nn.Linear(300, 32), torch.nn.BatchNorm1d(32), relu, torch.nn.Linear(32, 10)
    )
    with torch.no_grad():
        for layer in (net[0], net[3]):
            for i, p in enumerate(layer.parameters()):
                p.copy_((torch.arange(p.numel()).reshape(p.shape) * (37 + i) % 101 - 50) / 512)
    return net


def trained(compiled=False):
    net = st.convert(network())
    assert st.unconverted(net) == []
    optimizer = st.Adam(net.parameters(), lr=1e-2)
    run = torch.compile(net, backend="aot_eager", fullgraph=True) if compiled else net
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = st.cross_entropy(run(X), TARGET)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    return ss.digest([p.detach().numpy() for p in net.parameters()])


def trained_by_functions(backend):
    """The same by samestep's functions on arrays."""
    net, how = network(), {"backend": backend}
    params = [p.detach().numpy().copy() for p in net.parameters()]
    weight1, bias1, gamma, beta, weight2, bias2 = params
    optimizer = ss.Adam(params, lr=1e-2, **how)
    for _ in range(STEPS):
        z = ss.linear(X.numpy(), weight1.T, bias1, **how)
        h, mean, inv = ss.batchnorm_forward(z, gamma, beta, relu=True, **how)
        _, dy = ss.softmax_cross_entropy(ss.linear(h, weight2.T, bias2, **how), TARGET.numpy(), **how)
        dh, dw2, db2 = ss.linear_backward(dy, h, weight2.T, **how)
        dz, dgamma, dbeta = ss.batchnorm_backward(dh, z, gamma, beta, mean, inv, relu=True, **how)
        _, dw1, db1 = ss.linear_backward(dz, X.numpy(), weight1.T, input_gradient=False, **how)
        grads = [dw1.T.copy(), db1, dgamma, dbeta, dw2.T.copy(), db2]
        optimizer.step(grads)
    return ss.digest(params)


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("isa", ISAS)
def test_a_network_trains_to_one_digest(isa, threads):
    before = ss.info()["isa"], ss.get_num_threads(), torch.get_num_threads()
    try:
        ss.set_isa(isa)
        ss.set_num_threads(threads)
        torch.set_num_threads(threads)
        assert trained().startswith(DIGEST)
    finally:
        ss.set_isa(before[0])
        ss.set_num_threads(before[1])
        torch.set_num_threads(before[2])


def test_compiled_it_trains_to_the_same_digest():
    assert trained(compiled=True).startswith(DIGEST)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_functions_on_arrays_train_to_the_same_digest(backend):
    assert trained_by_functions(backend).startswith(DIGEST)
