"""A network of samestep.torch's layers, loss and optimizer trains to one digest, whatever runs it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep as ss
import samestep.torch as st
from bits import ISAS

DIGEST, IMAGES_DIGEST = "e319d2680d09571e", "66427421c92f4763"
STEPS = 5
BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
X, TARGET = (torch.arange(96 * 300) * 13 % 97).reshape(96, 300) / 97, torch.arange(96) % 10
IMAGES = X.reshape(96, 3, 10, 10)


def with_weights(net):
    """The network with weights that no machine rounds in its own way, as torch's initial ones are."""
    with torch.no_grad():
        for layer in net:
            for i, p in enumerate(layer.parameters() if not isinstance(layer, BATCH_NORMS) else ()):
                p.copy_((torch.arange(p.numel()).reshape(p.shape) * (37 + i) % 101 - 50) / 512)
    return net


def network():
    """Of torch's layers."""
    relu = torch.nn.ReLU()
    return with_weights(
        torch.nn.Sequential(torch.nn.Linear(300, 32), torch.nn.BatchNorm1d(32), relu, torch.nn.Linear(32, 10))
    )


def network_of_images():
    """Convolutions of all kinds, of inputs (N, 3, 10, 10)."""
    return with_weights(
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 5, padding="same"),  # 400 terms
            torch.nn.ReLU(),
            torch.nn.Conv2d(32, 32, (3, 2), stride=2, dilation=(1, 2), groups=4, padding=1),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(800, 10),
        )
    )


def trained(compiled=False, net=network, x=X):
    net = st.convert(net())
    assert st.unconverted(net) == []
    optimizer = st.Adam(net.parameters(), lr=1e-2)
    run = torch.compile(net, backend="aot_eager", fullgraph=True) if compiled else net
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = st.cross_entropy(run(x), TARGET)
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
        assert trained(net=network_of_images, x=IMAGES).startswith(IMAGES_DIGEST)
    finally:
        ss.set_isa(before[0])
        ss.set_num_threads(before[1])
        torch.set_num_threads(before[2])


def test_compiled_it_trains_to_the_same_digest():
    assert trained(compiled=True).startswith(DIGEST)
    assert trained(compiled=True, net=network_of_images, x=IMAGES).startswith(IMAGES_DIGEST)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_functions_on_arrays_train_to_the_same_digest(backend):
    assert trained_by_functions(backend).startswith(DIGEST)
