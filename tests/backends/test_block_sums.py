"""What a step leaves of fingerprints on its way: those of copies, whatever the step does, and wherever."""

import itertools

import numpy as np
import pytest

import samestep as ss
from bits import same_bits, snapshot
from option_grid import CASES, CASES32, F32, combinations, made, of_combination, share_of, values
from samestep import backends
from samestep.backends import reference
from samestep.backends.face import STEPPED, Tensor
from samestep.backends.reference.fingerprint import block_sum
from samestep.fingerprints import finish

# Around runs of the loops, blocks of each type and vectors; several work items.
SIZES = (0, 1, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 5000, 40_000)


def arrays_of(optimizer):
    return [p.tensor(optimizer._state_names, 0).arrays() for p in optimizer._params]


def step(optimizer, grads, scale=1.0, sums=None):
    return optimizer._plan.step(grads, optimizer._hyper_values, scale, sums)


def recorded(optimizer, grads, scale=1.0, kinds=None):
    """The fingerprints of a step that were made on its way, and those of what it was given and left."""
    arrays = arrays_of(optimizer)
    kinds = kinds or 1 + max(map(len, arrays))
    given = [None if g is None else ss.fingerprint(g) for g in grads]
    sums = np.full((len(arrays), kinds), 7, np.uint64)  # of another step
    assert step(optimizer, grads, scale, sums) == STEPPED
    rows, expected = np.zeros_like(sums), np.zeros_like(sums)
    for i, (g, own) in enumerate(zip(given, arrays, strict=True)):
        if g is None:
            assert not sums[i].any()
            continue
        nbytes = np.array([own[0].nbytes, *(a.nbytes for a in own)][:kinds], np.uint64)
        n = len(nbytes)
        assert not sums[i, n:].any()
        rows[i, :n] = finish(sums[i : i + 1, :n].copy(), nbytes[None])[0]
        expected[i, :n] = [g, *map(ss.fingerprint, own)][:kinds]
    return rows, expected


def check(optimizer, grads, scale=1.0, kinds=None):
    found, expected = recorded(optimizer, grads, scale, kinds)
    wrong = [(optimizer.params[i].size, k) for i, k in np.argwhere(found != expected)]
    assert not wrong, f"(size, kind): {wrong}"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_rule(case, backend):
    sizes = SIZES if backend == "cpu" else SIZES[:-1]
    optimizer = made(case, sizes, case.dtype, backend=backend)
    check(optimizer, [values(n, case.dtype, 90 + i) for i, n in enumerate(sizes)])


def test_every_rule_on_any_machine(machine):
    for case in CASES:
        grads = [values(n, case.dtype, 90 + i) for i, n in enumerate(SIZES)]
        optimizer = made(case, SIZES, case.dtype)
        check(optimizer, grads)
        check(optimizer, grads)


def test_every_option_with_every_form_of_storage(machine):
    for combination in share_of(machine):
        optimizer, grads, scale = of_combination(*combination, (0, 1, 65, 129, 513, 1025, 2500, 9000))
        check(optimizer, grads, scale)


def test_every_option_by_the_reference():
    for combination in combinations():
        optimizer, grads, scale = of_combination(*combination, (0, 65, 1025), backend="reference")
        check(optimizer, grads, scale)


def test_no_bit_of_the_step_changes(machine):
    """Nor of a step after it that is not recorded, nor of one whose items were cut before."""
    for combination in share_of(machine):
        plain, grads, scale = of_combination(*combination, (1, 1000, 9000))
        twin, twin_grads, _ = of_combination(*combination, (1, 1000, 9000))
        for is_recorded in (False, True, False):
            if is_recorded:
                check(twin, twin_grads, scale)
            else:
                assert step(twin, twin_grads, scale) == STEPPED
            assert step(plain, grads, scale) == STEPPED
        same_bits(snapshot(twin) + twin_grads, snapshot(plain) + grads)
        assert twin.steps == plain.steps


@pytest.mark.parametrize("offset", [1, 3, 7])
def test_wherever_the_arrays_lie(machine, offset):
    for case in CASES[:: 7 if offset > 1 else 1]:
        n = 5000
        places = []
        for seed in range(2):
            place = np.zeros(n + 16, case.dtype)[offset + seed :][:n]
            place[...] = values(n, case.dtype, seed)
            places.append(place)
        check(case.make([places[0]]), [places[1]])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_gradient_that_is_none_and_fewer_kinds(settings, backend):
    case = CASES32[-1]
    sizes = (300, 5000, 0, 2049)
    grads = [values(n, F32, i) for i, n in enumerate(sizes)]
    for threads in (1, 3):
        ss.set_num_threads(threads)
        for ema in (None, 0.5):
            optimizer = made(case, sizes, F32, backend=backend, ema=ema)
            for missing in range(len(sizes)):
                check(optimizer, [None if i == missing else g for i, g in enumerate(grads)])
            check(optimizer, [None] * len(sizes))
            for kinds in range(1, 4):
                check(optimizer, grads, kinds=kinds)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("form", ["float32", "float64", "bfloat16", "split"])
def test_parts_of_an_array_add_up(backend, form, settings):
    """With options and without."""
    ss.set_num_threads(3)
    n, cuts = 12_345, (0, 1024, 3 * 1024, 9 * 1024, 12_345)
    for i, name in enumerate(("plain", "ema", "decoupled")):
        whole, (g,), _ = of_combination(3 + i, form, name, (n,), backend=backend)
        totals = []
        for ends in ((0, n), cuts):
            # What the reference would step in one piece lies in several arrays here.
            tensor = whole._params[0].tensor(whole._state_names, 0)
            pieces = list(itertools.pairwise(ends))
            fields = {
                k: getattr(tensor, k) for k in ("ema", "master", "low") if getattr(tensor, k) is not None
            }
            tensors = [
                Tensor(
                    tensor.w[b:e].copy(),
                    [s[b:e].copy() for s in tensor.states],
                    first=b,
                    **{k: a[b:e].copy() for k, a in fields.items()},
                )
                for b, e in pieces
            ]
            module = backends.module(backend)
            plan = module.Plan(whole.rule, tensors, np.zeros(len(pieces) + 1, np.int64), whole.options)
            plan.set_weight_decay([whole.weight_decay])
            sums = np.zeros((len(pieces), 1 + len(tensors[0].arrays())), np.uint64)
            grads = [g[b:e].copy() for b, e in pieces]
            assert plan.step(grads, whole._hyper_values, 1.0, sums) == STEPPED
            totals.append(sums.sum(axis=0, dtype=np.uint64))
        np.testing.assert_array_equal(*totals)


def test_arrays_of_two_axes(isa):
    for dtype in (np.float32, np.float64):
        w, g = (values(60 * 50, np.dtype(dtype), i).reshape(60, 50) for i in range(2))
        check(ss.Adam([w], ema=0.9), [g])
        check(ss.Adam([w.reshape(5, 12, 50)]), [g.reshape(5, 12, 50)])
    check(ss.Adam([np.full((), 2.0)]), [np.ones(())])


WRONG = {
    "signed": np.zeros((2, 4), np.int64),
    "float64": np.zeros((2, 4)),
    "another byte order": np.zeros((2, 4), ">u8"),
    "a row too few": np.zeros((1, 4), np.uint64),
    "a row too many": np.zeros((3, 4), np.uint64),
    "one axis": np.zeros(8, np.uint64),
    "three axes": np.zeros((2, 2, 2), np.uint64),
    "Fortran's order": np.zeros((4, 2), np.uint64).T,
    "with gaps": np.zeros((2, 8), np.uint64)[:, ::2],
    "a list": [[0] * 4] * 2,
    "unaligned": np.zeros(65, np.uint8)[1:].view(np.uint64).reshape(2, 4),
    "read-only": np.zeros((2, 4), np.uint64),
}
WRONG["read-only"].flags.writeable = False


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("wrong", WRONG)
def test_other_arrays_are_refused_before_anything_is_written(backend, wrong):
    optimizer = made(CASES32[-1], (3, 2000), F32, backend=backend)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="sums: expected a writeable uint64 array in C order, with a row"):
        step(optimizer, [np.ones(3, F32), np.ones(2000, F32)], 1.0, WRONG[wrong])
    same_bits(snapshot(optimizer), before)
    assert optimizer.t == 0


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_step_that_is_not_made_counts_for_nothing(backend):
    optimizer = made(CASES32[-1], (3,), F32, backend=backend, nonfinite="skip")
    sums = np.zeros((1, 4), np.uint64)
    g = np.array([1, np.nan, 2], F32)
    assert step(optimizer, [g], 1.0, sums) != STEPPED
    assert optimizer.t == 0
    g[1] = 1
    check(optimizer, [g])


def test_the_reference_is_the_formula():
    """Its sums are finished by its own mix."""
    optimizer = made(CASES32[-1], (700,), F32, backend="reference")
    g = values(700, F32, 1)
    sums = np.zeros((1, 1 + len(arrays_of(optimizer)[0])), np.uint64)
    step(optimizer, [g], 1.0, sums)
    arrays = [g, *arrays_of(optimizer)[0]]
    assert sums.tolist() == [[block_sum(a) for a in arrays]]
    finished = finish(sums, np.full(sums.shape, g.nbytes, np.uint64))
    assert finished.tolist() == [[reference.fingerprint(a) for a in arrays]]
