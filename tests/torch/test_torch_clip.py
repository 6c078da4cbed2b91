"""clip_grad_norm_ of samestep.torch: torch's norms, by the canonical sum."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.nn import Parameter

import samestep as ss
import samestep.torch

NORM_TYPES = (1, 2, math.inf, "1", "inf", float("inf"))
SHAPES = ((50, 70), (3,), (), (0, 4), (1025,))


def parameters(dtype):
    params = []
    for seed, shape in enumerate(SHAPES):
        generator = torch.Generator().manual_seed(seed)
        p = Parameter(torch.zeros(shape, dtype=dtype))
        grad = torch.randn(shape, dtype=torch.complex128, generator=generator) * 10
        p.grad = (grad if dtype.is_complex else grad.real).to(dtype)
        params.append(p)
    return [*params, Parameter(torch.zeros(2))]


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("norm_type", NORM_TYPES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_it_clips_as_torch_does(dtype, norm_type, foreach):
    for max_norm in (0.5, 1e9):
        ours, theirs = parameters(dtype), parameters(dtype)
        if norm_type not in (1, 2, "1"):  # torch has no largest element of none
            theirs[3].grad = None
        norm = samestep.torch.clip_grad_norm_(ours, max_norm, norm_type, foreach=foreach)
        expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type, foreach=foreach)
        rounding = 2e-2 if dtype is torch.bfloat16 else 1e-5
        assert norm.item() == pytest.approx(expected.item(), rel=rounding)
        for p, q in zip(ours, theirs, strict=True):
            if q.grad is not None:
                torch.testing.assert_close(p.grad, q.grad, rtol=rounding, atol=1e-7)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lay", [lambda g: g, lambda g: g.t().contiguous().t()], ids=["C", "Fortran"])
def test_the_norms_are_the_references(lay, threads):
    """Whatever the layout and the number of threads; and these bits on every machine."""
    params = parameters(torch.float32)
    params[0].grad = lay(params[0].grad)
    absolute = [np.abs(p.grad.numpy()).ravel() for p in params[:5]]
    sums = np.array([ss.canonical_sum(a, backend="reference") for a in absolute])
    before = ss.get_num_threads()
    ss.set_num_threads(threads)
    try:
        norm_1, norm_inf = (samestep.torch.clip_grad_norm_(params, 1e9, order).item() for order in (1, "inf"))
    finally:
        ss.set_num_threads(before)
    assert norm_1 == float(ss.canonical_sum(sums, backend="reference"))
    assert norm_inf == max(a.max() for a in absolute if a.size)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("norm_type", [1, 2, math.inf])
def test_norms_that_are_not_finite(norm_type, number):
    ends = []
    for clip in (torch.nn.utils.clip_grad_norm_, samestep.torch.clip_grad_norm_):
        params = [Parameter(torch.zeros(3)) for _ in range(2)]
        for p in params:
            p.grad = torch.tensor([1.0, 2.0, -3.0])
        params[1].grad[1] = number
        with pytest.raises(RuntimeError, match="non-finite, so it cannot be clipped"):
            clip(params, 1.0, norm_type, error_if_nonfinite=True)
        assert params[0].grad.tolist() == [1.0, 2.0, -3.0]
        norm = clip(params, 1.0, norm_type)
        ends.append([float(norm), *(p.grad for p in params)])
    torch.testing.assert_close(ends[0], ends[1], equal_nan=True)


def test_no_gradients():
    for norm_type in (1, 2, math.inf):
        assert samestep.torch.clip_grad_norm_([], 1.0, norm_type).item() == 0.0
        assert samestep.torch.clip_grad_norm_([Parameter(torch.zeros(2))], 1.0, norm_type).item() == 0.0
