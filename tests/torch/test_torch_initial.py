"""A new layer's weights: torch's draws, with the same bits whatever instructions torch's kernels use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep.torch as st

CAPABILITIES = ("default", "avx2", "avx512")  # torch takes the best below the one named
DIGEST = "245b383ef97abc95"
SCRIPT = """
import torch, samestep as ss, samestep.torch as st
def digest(lib):
    torch.manual_seed(0)
    layers = [lib.Linear(inputs, 33, dtype=dtype) for inputs in (64, 300) for dtype in DTYPES]
    lazy = lib.LazyLinear(7)
    lazy(torch.ones(2, 50))
    convolutions = [lib.Conv2d(6, 8, (3, 2), groups=2), lib.LazyConv2d(5, 3)]
    convolutions[1](torch.ones(1, 4, 5, 5))
    layers += [lazy, *convolutions]
    found = [p.detach().double().numpy() for layer in layers for p in layer.parameters()]
    return ss.digest(found)[:16]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
print(digest(st), digest(torch.nn))
"""


def test_the_same_bits_on_every_processor():
    """Torch's own are not the same, where the processor has fused multiply-adds."""
    found = {}
    for capability in CAPABILITIES:
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, encoding="utf-8", check=True
        )
        found[capability] = done.stdout.split()
    assert {ours for ours, _ in found.values()} == {DIGEST}
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert len({theirs for _, theirs in found.values()}) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["Linear", "LazyLinear"])
def test_torchs_weights_of_the_same_seed_to_rounding(name, dtype):
    found = []
    for lib in (st, torch.nn):
        torch.manual_seed(1)
        inputs = (50,) if name == "Linear" else ()
        layer = getattr(lib, name)(*inputs, 40, dtype=dtype)
        layer(torch.ones(3, 50, dtype=dtype))
        found.append(layer)
    for ours, theirs in zip(*(layer.parameters() for layer in found), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2 * torch.finfo(dtype).eps / 50**0.5)
        assert ours.abs().max() <= 50**-0.5
        assert ours.requires_grad


def test_layers_of_nothing_and_without_bias():
    torch.manual_seed(0)
    assert st.Linear(3, 2, bias=False).bias is None
    with pytest.warns(UserWarning, match="zero-element"):
        assert st.Linear(0, 2).bias.tolist() == [0, 0]
    lazy = st.LazyLinear(2)
    lazy.reset_parameters()
    assert lazy.has_uninitialized_params()
    lazy = st.LazyConv2d(2, 3)
    lazy.reset_parameters()
    assert lazy.has_uninitialized_params()


def test_a_converted_layer_draws_them_anew():
    layer, expected = st.convert(torch.nn.Linear(5, 4)), st.Linear(5, 4)
    for one in (layer, expected):
        torch.manual_seed(3)
        one.reset_parameters()
    assert torch.equal(layer.weight, expected.weight)
    assert torch.equal(layer.bias, expected.bias)
