"""Running statistics of samestep.torch's batch norm and their count: all of a batch, or nothing of it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from torch.utils._python_dispatch import TorchDispatchMode

import samestep.torch as st
from samestep.torch import batchnorm, batchnorm_operators
from samestep.torch import running as running_statistics

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of forward mode
FILES = {module.__file__ for module in (batchnorm, batchnorm_operators, running_statistics)}


class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def by_the_kernels(one, x):
    one(x)


def by_operators(one, x):
    with Watch():
        one(x)


def under_a_transform(one, x):
    torch.func.grad(lambda x: one(x).pow(2).sum())(x)


def by_torch(one, x):
    with torch.autograd.forward_ad.dual_level():
        one(torch.autograd.forward_ad.make_dual(x, x))


PATHS = {call.__name__: call for call in (by_the_kernels, by_operators, under_a_transform, by_torch)}


def running(one):
    return [value.clone() for value in one.buffers()]


def same(one, others):
    return all(a.equal(b) for a, b in zip(running(one), others, strict=True))


class Interrupt(BaseException):
    pass


@contextlib.contextmanager
def interrupt_at(number):
    """Raises before that bytecode of the files that write: there Python hears signals."""
    left = [number]

    def trace(frame, event, _):
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        left[0] -= event == "opcode"
        if event == "opcode" and left[0] == 0:
            raise Interrupt
        return trace

    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        gc.enable()


@pytest.mark.parametrize("path", PATHS)
def test_an_interrupt_at_any_bytecode_leaves_all_or_nothing(path):
    def made():
        torch.manual_seed(0)
        one = st.BatchNorm1d(3)
        one(torch.randn(4, 3))
        return one, torch.randn(4, 3)

    one, x = made()
    before = running(one)
    PATHS[path](one, x)
    after, outcomes = running(one), []
    for number in itertools.count(1):
        one, x = made()
        was_interrupted = True
        with contextlib.suppress(Interrupt), interrupt_at(number):
            PATHS[path](one, x)
            was_interrupted = False
        is_done = same(one, after)
        assert is_done or same(one, before), f"bytecode {number}"
        outcomes.append(is_done)
        if not was_interrupted:
            break
    assert True in outcomes[:-1]
    assert False in outcomes
    assert outcomes == sorted(outcomes)


def inference_tensor(value):
    with torch.inference_mode():
        return value.clone()


@pytest.mark.parametrize("name", ["running_mean", "running_var", "num_batches_tracked"])
@pytest.mark.parametrize("path", PATHS)
def test_statistics_that_cannot_be_written_change_nothing(path, name):
    one, x = st.BatchNorm1d(3), torch.randn(4, 3)
    setattr(one, name, inference_tensor(one.get_buffer(name)))
    before = running(one)
    with pytest.raises(RuntimeError, match=r"got an inference tensor outside of torch\.inference_mode"):
        PATHS[path](one, x)
    assert same(one, before)
    with torch.inference_mode():
        one(x)
    assert one.num_batches_tracked == 1


@pytest.mark.parametrize("path", PATHS)
def test_statistics_with_overlaps_change_nothing(path):
    one, x = st.BatchNorm1d(3), torch.randn(4, 3)
    one.running_var = torch.ones(1).expand(3)
    before = running(one)
    with pytest.raises(RuntimeError, match="got elements that share memory"):
        PATHS[path](one, x)
    assert same(one, before)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_updates_as_the_kernels_do(path):
    ones = [st.BatchNorm1d(3, momentum=None) for _ in range(2)]
    for _ in range(3):
        x = torch.randn(4, 3)
        for one, call in zip(ones, (by_the_kernels, PATHS[path]), strict=True):
            versions = [value._version for value in one.buffers()]
            call(one, x)
            assert all(v._version > old for v, old in zip(one.buffers(), versions, strict=True))
    for found, expected in zip(*(one.buffers() for one in ones), strict=True):
        torch.testing.assert_close(found, expected, **({} if path == "by_torch" else {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("path", [by_the_kernels, by_operators, by_torch], ids=lambda path: path.__name__)
def test_a_layer_whose_statistics_were_taken_away_counts_on_as_torchs(path):
    layers = [lib.BatchNorm1d(3) for lib in (torch.nn, st)]
    for one, call in zip(layers, (by_the_kernels, path), strict=True):
        one.running_mean = one.running_var = None
        for _ in range(2):
            call(one, torch.randn(4, 3))
    assert [int(one.num_batches_tracked) for one in layers] == [2, 2]
