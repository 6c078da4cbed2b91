"""Every rule, form and dtype: the kernels' bits against the reference's and the golden digests."""

import itertools

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from samestep import _core
from samestep.backends import reference
from samestep.proof import golden, vectors

# 0, 1, the lanes of every vector width and their neighbours, a prime above one work item.
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 65537)


def test_registries_agree():
    assert _core.rules() == reference.rules()
    assert {case.rule for case in golden.cases()} == {name for name, *_ in _core.rules()}


def test_kernels_equal_the_reference_at_every_size(case, isa, threads):
    for size in SIZES:
        w = vectors.random_values(size, case.dtype, seed=size)
        grads = [vectors.random_values(size, case.dtype, seed=size + 10 * t) for t in (1, 2, 3)]
        expected = case.run(w, grads, backend="reference")
        same_bits(case.run(w, grads, backend="cpu"), expected)


def special_values(dtype):
    info = np.finfo(dtype)
    positive = [0.0, info.smallest_subnormal, info.tiny, 1e-30, 1.0, 3.0, 1e30, info.max, np.inf]
    return np.array([*positive, *(-x for x in positive), np.nan, 0.1], dtype)


def test_kernels_equal_the_reference_on_special_values_in_every_tail(case, isa):
    """Short arrays, since a tail may go wrong where a body does not; half of the values are zeros."""
    values = special_values(case.dtype)
    values = np.concatenate([values, np.tile(np.array([0.0, -0.0], case.dtype), len(values) // 2)])
    rng = np.random.default_rng(1)
    sizes = [size for size in range(1, 34) for _ in range(4)]
    w, g = ([rng.choice(values, size) for size in sizes] for _ in range(2))
    results = []
    for backend in ("cpu", "reference"):
        target = [a.copy() for a in w]
        optimizer = case.make(target, backend=backend)
        optimizer.step(g)
        results.append([*target, *itertools.chain(*optimizer.state.values())])
    same_bits(*results)


def test_kernels_equal_the_reference_on_all_products_of_special_values(case, isa):
    values = special_values(case.dtype)
    n_states = len(case.make(np.zeros(1, case.dtype)).state)
    axes = [values] * (2 + n_states)
    w, g, *states = (np.ascontiguousarray(a.ravel()) for a in np.meshgrid(*axes))
    results = []
    for backend in ("cpu", "reference"):
        target = w.copy()
        optimizer = case.make(target, backend=backend)
        for array, state in zip(optimizer.state.values(), states, strict=True):
            array[0][...] = state
        optimizer._steps[:] = 1  # torch's momentum reads no state at its first step
        optimizer.step(g)
        results.append([target, *(s[0] for s in optimizer.state.values())])
    same_bits(*results)


@pytest.mark.more
def test_a_million_random_cases(case):
    w = vectors.random_values(1_000_003, case.dtype, seed=11)
    grads = [vectors.random_values(1_000_003, case.dtype, seed=s) for s in (13, 15)]
    for hyper in vectors.HYPER:
        expected = case.run(w, grads, hyper, backend="reference")
        same_bits(case.run(w, grads, hyper, backend="cpu"), expected)


@pytest.mark.more
def test_every_thread_count(case, isa, settings):
    size = 10 * 32768 + 1
    w, g = vectors.random_values(size, case.dtype, 1), vectors.random_values(size, case.dtype, 3)
    expected = case.run(w, [g], backend="reference")
    for n in range(1, 9):
        ss.set_num_threads(n)
        same_bits(case.run(w, [g], backend="cpu"), expected)


def test_any_split_in_any_order(case):
    size = 70_000
    w, g = vectors.random_values(size, case.dtype, 1), vectors.random_values(size, case.dtype, 3)
    expected = case.run(w, [g, g])
    rng = np.random.default_rng(0)
    for pieces in (2, 5, 40):
        cuts = np.sort(rng.integers(0, size, pieces - 1))
        params, grads = [p.copy() for p in np.split(w, cuts)], np.split(g, cuts)
        order = rng.permutation(pieces)
        optimizer = case.make([params[i] for i in order])
        for _ in range(2):
            optimizer.step([grads[i] for i in order])
        back = np.argsort(order)
        states = [np.concatenate([s[i] for i in back]) for s in optimizer.state.values()]
        same_bits([np.concatenate(params), *states], expected)


def test_any_offset_into_an_array(case, isa):
    size = 100
    w = vectors.random_values(size, case.dtype, seed=1)
    g = vectors.random_values(size, case.dtype, seed=2)
    expected = case.run(w, [g], backend="reference")
    for offset in range(16):
        block = np.full(size + 32, 7, case.dtype)
        inside = block[offset : offset + size]
        inside[:] = w
        gradient = np.full(size + 32, 7, case.dtype)[15 - offset :][:size]
        gradient[:] = g
        optimizer = case.make(inside, backend="cpu")
        optimizer.step(gradient)
        same_bits([inside, *(s[0] for s in optimizer.state.values())], expected)
        assert (block[:offset] == 7).all()
        assert (block[offset + size :] == 7).all()


def test_list_equals_each_alone_equals_concatenated(case, isa, threads):
    sizes = (1, 0, 17, 40000, 5, 33000, 64)
    w = vectors.random_values(sum(sizes), case.dtype, seed=1)
    grads = [vectors.random_values(sum(sizes), case.dtype, seed=s) for s in (2, 3, 4)]
    cuts = list(itertools.accumulate(sizes))[:-1]
    whole = case.run(w, grads)

    alone = [
        case.run(part, list(parts))
        for part, *parts in zip(np.split(w, cuts), *(np.split(g, cuts) for g in grads), strict=True)
    ]
    same_bits([np.concatenate(arrays) for arrays in zip(*alone, strict=True)], whole)

    listed = [part.copy() for part in np.split(w, cuts)]
    optimizer = case.make(listed)
    for g in grads:
        optimizer.step(np.split(g, cuts))
    states = [np.concatenate(s) for s in optimizer.state.values()]
    same_bits([np.concatenate(listed), *states], whole)


def test_both_dtypes_in_one_list(case):
    other = np.dtype(np.float64 if case.dtype == np.float32 else np.float32)
    w, g = vectors.random_values(50, case.dtype, 1), vectors.random_values(50, case.dtype, 2)
    expected = case.run(w, [g])
    mixed = [w.copy(), np.ones(3, other)]
    optimizer = case.make(mixed)
    optimizer.step([g, np.ones(3, other)])
    same_bits([mixed[0], *(s[0] for s in optimizer.state.values())], expected)


def test_subnormal_witness(isa):
    """A flushed subnormal would make the step a thousand times too long."""
    w = np.zeros(40, np.float32)
    optimizer = ss.AdaGrad(w, lr=0.01, eps=2.0**-80)
    optimizer.step(np.full(40, 2.0**-70, np.float32))
    np.testing.assert_allclose(-w, 0.009990243, rtol=1e-6)


def test_powering_is_close_to_the_exact_power():
    from fractions import Fraction

    for base in (0.9, 0.999, 0.5, 0.99999):
        for t in (1, 2, 3, 10, 1000, 12345):
            exact = float(Fraction(base) ** t)
            assert abs(reference.power(base, t) - exact) <= t * 2.0**-53 * exact
    assert reference.power(0.9, 0) == 1.0


def test_step_counters_pass_2_to_24_and_2_to_31():
    for steps in (2**24, 2**31, 2**40):
        results = []
        for backend in ("cpu", "reference"):
            w = np.ones(3)
            optimizer = ss.Adam(w, backend=backend)
            state = optimizer.state_dict()
            state["t"], state["steps"] = steps, [steps]
            optimizer.load_state_dict(state)
            optimizer.step(np.ones(3))
            assert (optimizer.t, optimizer.steps) == (steps + 1, [steps + 1])
            results.append([w])
        same_bits(*results)
