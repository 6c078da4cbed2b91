"""What the functions of batch norm refuse, before anything is written."""

from __future__ import annotations

import math

import numpy as np
import pytest

import samestep as ss
from batchnorm_arrays import G3, GOOD, X4, misaligned, read_only

pytestmark = pytest.mark.usefixtures("settings")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"x": [[1.0]]}, TypeError, "x: got list"),
        ({"x": X4.astype(np.float16)}, TypeError, "x: got dtype float16"),
        ({"x": X4.astype(">f4")}, TypeError, "x: got dtype >f4"),
        ({"x": X4[0, 0, 0]}, ValueError, "x: got shape"),
        ({"x": X4[..., ::2]}, ValueError, "x: strides"),
        ({"x": X4.transpose(0, 1, 3, 2)}, ValueError, "x: strides"),
        ({"x": misaligned(X4)}, ValueError, "x: its data do not lie"),
        ({"x": X4[:1, :, :1, :1]}, ValueError, "1 values a channel, expected at least 2"),
        ({"x": X4[:0]}, ValueError, "0 values a channel, expected at least 2"),
        ({"x": X4[:, :0]}, ValueError, "no channels"),
        ({"gamma": np.ones(3)}, TypeError, "gamma: got dtype float64, expected x's float32"),
        ({"gamma": None}, TypeError, "gamma: got NoneType"),
        ({"beta": np.ones(4, np.float32)}, ValueError, r"beta: got shape \(4,\), expected \(3,\)"),
        ({"beta": np.ones(6, np.float32)[::2]}, ValueError, "beta: strides"),
        ({"axis": 2}, ValueError, "axis: got 2"),
        ({"axis": 0}, ValueError, "axis: got 0"),
        ({"axis": True}, ValueError, "axis: got True"),
        ({"backend": "gpu"}, ValueError, "backend: got 'gpu'"),
        ({"eps": -1e-5}, ValueError, "eps: got -1e-05"),
        ({"eps": math.nan}, ValueError, "eps: got nan"),
        ({"eps": "a"}, TypeError, "eps: got 'a'"),
        ({"eps": "1e-5"}, TypeError, "eps: got '1e-5', expected a number"),
        ({"eps": math.inf}, ValueError, "eps: got inf, expected a finite number, 0 or more"),
        ({"axis": np.ones(2)}, ValueError, "axis: got array"),
        ({"relu": "no"}, TypeError, "relu: got 'no', expected True or False"),
        ({"relu": np.ones(2)}, TypeError, "relu: got array"),
        ({"mean": np.ones(2, np.float32)}, ValueError, "mean: got shape"),
        ({"inv": np.ones(3)}, TypeError, "inv: got dtype"),
        ({"dy": X4[:1]}, ValueError, "dy: got shape"),
        ({"dy": X4.astype(np.float64)}, TypeError, "dy: got dtype"),
        ({"dy": np.zeros((2, 4, 5, 3), np.float32).transpose(0, 3, 1, 2)}, ValueError, "dy: strides"),
        ({"out": X4.astype(np.float64)}, TypeError, "out: got dtype float64"),
        ({"out": X4[:1].copy()}, ValueError, "out: got shape"),
        ({"out": read_only(X4)}, ValueError, "out: the array is read-only"),
        ({"out": np.zeros((2, 3, 4, 10), np.float32)[..., ::2]}, ValueError, "out: strides"),
        ({"out": [0.0]}, TypeError, "out: got list"),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, str) else None,
)
def test_errors(change, error, says):
    """Each wrong argument is refused by every function that takes it, and nothing is written."""
    functions = {
        ss.batchnorm_forward: ("x", "gamma", "beta"),
        ss.batchnorm_backward: ("dy", "x", "gamma", "beta", "mean", "inv"),
        ss.batchnorm_inference: ("x", "gamma", "beta", "running_mean", "running_var"),
    }
    (wrong,) = change
    refused = 0
    for function, names in functions.items():
        keywords = {"axis", "out", "backend", "relu"} | (
            {"eps"} if function is not ss.batchnorm_backward else set()
        )
        training_only = wrong == "x" and "at least 2" in says and function is ss.batchnorm_inference
        if (wrong not in names and wrong not in keywords) or training_only:
            continue
        kept = {k: v.copy() for k, v in {**GOOD, "running_mean": G3, "running_var": G3}.items()}
        kept["dy"][...] = 3
        given = {**kept, **change}
        how = {"out": np.full_like(X4, 7), **{k: given[k] for k in keywords & set(given)}}
        watched = [v for v in (*kept.values(), how["out"]) if isinstance(v, np.ndarray)]
        before = [v.tobytes() for v in watched]
        with pytest.raises(error, match=says):
            function(*(given[k] for k in names), **how)
        assert before == [v.tobytes() for v in watched]
        refused += 1
    assert refused


def test_overlaps():
    room = np.zeros(2 * 3 * 8 + 4, np.float32)
    x = room[:48].reshape(2, 3, 8)
    moved = room[4:52].reshape(2, 3, 8)
    dy = np.zeros_like(x)
    for out in (x, moved):
        with pytest.raises(ValueError, match="out: overlaps x"):
            ss.batchnorm_forward(x, G3, G3, out=out)
        with pytest.raises(ValueError, match="out: overlaps x"):
            ss.batchnorm_backward(dy, x, G3, G3, G3, G3, out=out)
    with pytest.raises(ValueError, match="out: overlaps a part of dy"):
        ss.batchnorm_backward(x, dy, G3, G3, G3, G3, out=moved)
    with pytest.raises(ValueError, match="out: overlaps a part of x"):
        ss.batchnorm_inference(x, G3, G3, G3, G3, out=moved)
    with pytest.raises(ValueError, match="out: overlaps gamma"):
        ss.batchnorm_forward(dy, room[:3], G3, out=x)
    with pytest.raises(ValueError, match="out: overlaps running_var"):
        ss.batchnorm_inference(dy, G3, G3, G3, room[5:8], out=x)


def test_inference_of_nothing():
    y = ss.batchnorm_inference(X4[:0], G3, G3, G3, G3)
    assert y.shape == (0, 3, 4, 5)


# ---- the layer ----
