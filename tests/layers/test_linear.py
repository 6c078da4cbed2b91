"""What the functions of the linear layer refuse, before anything is written."""

from __future__ import annotations

import numpy as np
import pytest

import samestep as ss
from batchnorm_arrays import misaligned, read_only, same

X, W, BIAS = np.ones((4, 3), np.float32), np.ones((3, 2), np.float32), np.ones(2, np.float32)
DY = np.ones((4, 2), np.float32)
GOOD = {"x": X, "w": W, "bias": BIAS, "dy": DY, "y": DY, "backend": "auto"}
NOT_ALIGNED = misaligned(X)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"x": [[1.0]]}, TypeError, "x: got list, expected a NumPy array"),
        ({"x": X.astype(np.float16)}, TypeError, "x: got dtype float16"),
        ({"x": X.astype(">f4")}, TypeError, "x: got dtype >f4"),
        ({"x": X[0]}, ValueError, r"x: got shape \(3,\), expected a matrix"),
        ({"x": X[None]}, ValueError, r"x: got shape \(1, 4, 3\), expected a matrix"),
        ({"x": NOT_ALIGNED}, ValueError, "x: its data do not lie"),
        ({"x": np.ma.array(X)}, TypeError, "x: got MaskedArray"),
        ({"w": None}, TypeError, "w: got NoneType"),
        (
            {"w": W.astype(np.float64)},
            TypeError,
            r"w: got dtype float64, expected (x|dy)'s float32; use w\.astype",
        ),
        ({"w": np.ones((4, 2), np.float32)}, ValueError, r"w: got shape \(4, 2\), expected \(3, "),
        (
            {"w": np.ones((2, 3), np.float32)},
            ValueError,
            r"w: got shape \(2, 3\), .*pass the transpose, w\.T",
        ),
        ({"bias": np.ones(2)}, TypeError, "bias: got dtype float64"),
        (
            {"bias": np.ones((1, 2), np.float32)},
            ValueError,
            r"bias: got shape \(1, 2\), .*bias\)\.reshape\(2\)",
        ),
        ({"bias": np.ones(3, np.float32)}, ValueError, r"bias: got shape \(3,\), expected \(2,\)"),
        ({"bias": np.ones(4, np.float32)[::2]}, ValueError, "bias: strides"),
        ({"relu": "no"}, TypeError, "relu: got 'no', expected True or False"),
        ({"dy": DY[:3]}, ValueError, r"x: got shape \(4, 3\), expected \(3, any\): as many rows as dy"),
        ({"dy": DY.astype(np.float64)}, TypeError, "x: got dtype float32, expected dy's float64"),
        ({"y": DY[:, :1]}, ValueError, r"y: got shape \(4, 1\), expected \(4, 2\): the shape of dy"),
        ({"y": DY.astype(np.float64)}, TypeError, "y: got dtype float64"),
        ({"input_gradient": "no"}, TypeError, "input_gradient: got 'no'"),
        ({"backend": "gpu"}, ValueError, "backend: got 'gpu'"),
        ({"out": np.zeros((4, 2))}, TypeError, "out: got dtype float64"),
        ({"out": np.zeros((2, 4), np.float32)}, ValueError, r"out: got shape \(2, 4\), expected \(4, 2\)"),
        ({"out": np.zeros((2, 4), np.float32).T}, ValueError, "out: strides"),
        ({"out": np.zeros((4, 4), np.float32)[:, ::2]}, ValueError, "out: strides"),
        ({"out": read_only(DY)}, ValueError, "out: the array is read-only"),
        ({"out": [0.0]}, TypeError, "out: got list"),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, str) else None,
)
def test_errors(change, error, says, backend):
    """Each wrong argument is refused by every function that takes it, and nothing is written."""
    (wrong,) = change
    refused = 0
    for function, names, keywords in (
        (ss.linear, ("x", "w", "bias"), ("relu", "out")),
        (ss.linear_backward, ("dy", "x", "w"), ("y", "input_gradient")),
    ):
        if wrong not in (*names, *keywords, "backend"):
            continue
        given = {**GOOD, "backend": backend, **change}
        outs = [np.full((4, 2), 7, np.float32)]
        how = {k: given[k] for k in (*keywords, "backend") if k in given}
        if function is ss.linear:
            how.setdefault("out", outs[0])
        else:
            outs = [np.full(shape, 7, np.float32) for shape in ((4, 3), (3, 2), (2,))]
            how["out"] = tuple(outs)
        if wrong == "w" and "expected (3" in says and function is ss.linear_backward:
            continue
        with pytest.raises(error, match=says):
            function(*(given[k] for k in names), **how)
        assert all((a == 7).all() for a in outs)
        refused += 1
    assert refused


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("out", "error", "says"),
    [
        (np.zeros((4, 3), np.float32), TypeError, "out: got ndarray, expected a tuple of three"),
        ((None, None), TypeError, "out: got tuple, expected a tuple of three"),
        (
            (None, np.zeros((2, 3), np.float32), None),
            ValueError,
            r"out\[1\]: got shape \(2, 3\), expected \(3, 2\)",
        ),
        ((None, None, np.zeros(2)), TypeError, r"out\[2\]: got dtype float64"),
        ((X, None, None), ValueError, r"out\[0\]: overlaps x in memory"),
        ((np.zeros((4, 3), np.float32), W, None), ValueError, r"out\[1\]: overlaps w in memory"),
    ],
    ids=str,
)
def test_errors_of_the_gradients_arrays(out, error, says, backend):
    with pytest.raises(error, match=says):
        ss.linear_backward(DY, X, W, out=out, backend=backend)
    assert (X == 1).all()
    assert (W == 1).all()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_overlaps(backend):
    room = np.zeros(40, np.float32)
    x, w, bias = room[:12].reshape(4, 3), room[12:18].reshape(3, 2), room[18:20]
    for first, name in ((8, "x"), (13, "w"), (17, "w"), (19, "bias")):
        with pytest.raises(ValueError, match=f"out: overlaps {name}"):
            ss.linear(x, w, bias, out=room[first : first + 8].reshape(4, 2), backend=backend)
    ss.linear(x, w, bias, out=room[20:28].reshape(4, 2), backend=backend)
    # A reversed view begins at its last byte; a result beside it is free to be written.
    ss.linear(x[::-1, ::-1], w, bias, out=room[20:28].reshape(4, 2), backend=backend)
    with pytest.raises(ValueError, match="out: overlaps x"):
        ss.linear(room[20:32].reshape(4, 3)[::-1], w, bias, out=room[20:28].reshape(4, 2), backend=backend)
    outs = room[20:32].reshape(4, 3), room[30:36].reshape(3, 2), None
    with pytest.raises(ValueError, match=r"out\[1\]: overlaps out\[0\]"):
        ss.linear_backward(DY, x, w, out=outs, backend=backend)
    assert not room.any()


class Odd(np.ndarray):
    """Calculates otherwise than NumPy."""

    def __add__(self, other):
        raise NotImplementedError

    __mul__ = __getitem__ = __add__


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_subclasses_are_seen_as_arrays(backend):
    x, w = np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([[1], [2], [3]])
    expected = np.float32([[14], [32]])
    for kind in (np.memmap, np.matrix, Odd):
        found = ss.linear(x.view(kind), w.view(kind), backend=backend)
        assert type(found) is np.ndarray
        same(found, expected)
        assert (
            type(ss.linear_backward(expected.view(kind), x, w.view(kind), backend=backend)[1]) is np.ndarray
        )
    same(ss.linear(read_only(x), read_only(w), backend=backend), expected)
    same(ss.linear(x, w, relu=np.True_, backend=backend), expected)
