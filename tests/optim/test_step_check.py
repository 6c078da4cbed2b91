"""Blocks that are computed twice: a step that is wrong is found and named, and a right one never accused."""

import itertools
import mmap
import os
import re

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from bits import ISAS, same_bits, snapshot
from option_grid import CASES, combinations, of_combination
from samestep.backends import cpu
from samestep.backends.face import MISMATCHED, Tensor
from samestep.backends.options import Options
from samestep.backends.reference import plan as reference_plan
from samestep.ledger import read_ledger

F32 = np.float32


@pytest.fixture
def mappings(settings):
    """Several mappings of one memory, at addresses that differ: no check sees that they are the same."""
    ss.set_num_threads(1)
    file = os.memfd_create("twice")
    os.ftruncate(file, 1 << 20)

    def make(dtype=F32, count=2, size=1 << 20):
        return [np.frombuffer(mmap.mmap(file, 1 << 20), dtype)[:size] for _ in range(count)]

    yield make
    os.close(file)


def test_a_step_that_was_made_twice_in_one_place(mappings):
    w, other = mappings(size=5000)
    w[:] = 1
    optimizer = ss.SGD([w, other], lr=0.5)
    grads = [np.ones(5000, F32)] * 2
    with pytest.raises(ss.CorruptionError) as caught:
        optimizer.step(grads, check=100)
    assert str(caught.value).startswith(
        "params[0]: element [0] of the parameter was stepped to 0.0 (00000000), and another thread computed "
        "0.5 (3f000000); the step does not count"
    )
    assert optimizer.t == 0
    assert optimizer.steps == [0, 0]
    assert w[0] == 0  # what it wrote stays
    optimizer.step([grads[0], None], check=100)
    assert optimizer.steps == [1, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16], ids=str)
@pytest.mark.parametrize(("shape", "at"), [((20 * 1024,), 7 * 1024 + 5), ((100, 150), 14_999), ((3, 5), 0)])
def test_a_wrong_element_is_named(mappings, dtype, shape, at):
    size = int(np.prod(shape))
    w, other = mappings(dtype)
    w, other = w[:size].reshape(shape), other[at : at + 1]
    w[:] = 1
    optimizer = ss.SGD([w, other], lr=0.25)
    with pytest.raises(ss.CorruptionError) as caught:
        optimizer.step([np.ones(shape, dtype), np.ones(1, dtype)], check=10**6)
    index = [int(i) for i in np.unravel_index(at, shape)]
    bits = [f"{int(np.array(v, dtype).view(f'u{w.itemsize}')):0{2 * w.itemsize}x}" for v in (0.5, 0.75)]
    assert str(caught.value).startswith(
        f"params[0]: element {index} of the parameter was stepped to 0.5 ({bits[0]}), "
        f"and another thread computed 0.75 ({bits[1]});"
    )


def test_an_array_in_another_order(mappings):
    w, other = mappings()
    w, other = w[:12].reshape(3, 4).T, other[5:6]
    w[:] = 1
    optimizer = ss.SGD([w, other], lr=0.25)
    with pytest.raises(
        ss.CorruptionError, match=r"params\[0\]: element 5 in the order of memory of the parameter"
    ):
        optimizer.step([np.ones((3, 4), F32).T, np.ones(1, F32)], check=1000)


@pytest.mark.parametrize("kind", ["state", "gradient"])
def test_a_state_and_a_gradient(mappings, kind):
    """What goes wrong need not be the parameter: a state, or a gradient that is set to zero too early."""
    first, other = mappings()
    first[:] = 1
    w, x = np.ones((2, 3000), F32)
    state, part = (first[:3000], other[7:8]) if kind == "state" else (np.zeros(3000, F32), np.zeros(1, F32))
    grads = [np.ones(3000, F32), np.ones(1, F32)]
    options = Options(zero_grads=True) if kind == "gradient" else None
    if kind == "gradient":
        grads = [first[:3000], other[7:8]]
    tensors = [Tensor(x[:1], [part]), Tensor(w, [state])]
    plan = cpu.Plan("momentum_heavy_ball", tensors, np.zeros(3, np.int64), options)
    assert plan.step(grads[::-1], [0.5, 0.5], 1.0, None, 100) == MISMATCHED
    tensor, number, element, stepped, again = plan.mismatch
    assert (tensor, element) == ((0, 0) if kind == "state" else (1, 7))
    assert number == (2 if kind == "state" else 1)
    assert stepped != again


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_one_nan_for_another(mappings, dtype):
    """Both steps leave a NaN, each its own: which one comes out of two depends on the loop."""
    w, other = mappings(dtype)
    w, other = w[:2000], other[1500:1501]
    w[:] = 1
    word = f"u{w.itemsize}"
    nan = np.array([np.nan], dtype).view(word)[0]
    grads = [np.ones(2000, dtype), np.ones(1, dtype)]
    for g, payload in ((grads[0][1500:1501], 4), (grads[1], 8)):
        g.view(word)[0] = nan | nan.dtype.type(payload)
    optimizer = ss.SGD([other, w], lr=0.5)
    optimizer.step(grads[::-1], check=100)
    assert optimizer.t == 1
    assert np.isnan(w[1500])
    if w.itemsize > 2:  # else they are made one where they are rounded
        assert w.view(word)[1500] & nan.dtype.type(12) == 8


def test_other_blocks_in_every_step(mappings):
    """One wrong block among 20, and one block checked in a step: found within a few times 20 steps."""
    w, other = mappings()
    w, other = w[: 20 * 1024], other[11 * 1024 :][:1]
    optimizer = ss.SGD([w, other], lr=0.25)
    grads = [np.ones(20 * 1024, F32), np.ones(1, F32)]
    found = []
    for _ in range(200):
        try:
            optimizer.step(grads, check=1)
        except ss.CorruptionError as error:
            found.append(str(error))
            optimizer.step(grads)  # the same step again would check the same block
    assert 5 <= len(found) <= 50  # of 200; two in 21 are expected: 19
    assert len({re.match(r"params\[(\d)\]", text).group(1) for text in found}) == 2
    assert optimizer.t == 200


def test_some_blocks_of_many_arrays(mappings):
    """At equal distances, so that a check of half of the blocks misses no two neighbours."""
    ws = mappings(count=3)
    parts = [ws[0][:3000], ws[0][4096:][:5000], ws[0][12_288:][:100]]
    optimizer = ss.SGD([*parts, *(ws[1][k : k + 1] for k in (0, 1024))], lr=0.25)
    grads = [np.ones(w.size, F32) for w in optimizer.params]
    for _ in range(10):
        with pytest.raises(ss.CorruptionError, match=r"params\[0\]: element \[(0|1024)\]"):
            optimizer.step(grads, check=6)
        optimizer.step(grads)


def test_no_bit_changes_and_no_right_step_is_accused(isa, settings):
    """With every option, NaNs of all kinds among the numbers, and more blocks asked for than there are."""
    ss.set_num_threads(3)
    for combination in combinations()[ISAS.index(isa) :: len(ISAS)]:
        checked, grads, scale = of_combination(*combination, (0, 1, 1000, 9000))
        plain, twins, _ = of_combination(*combination, (0, 1, 1000, 9000))
        for check, some in ((1, False), (10**6, True), (3, False)):
            if some:
                grads[2] = twins[2] = None
            checked.step(grads, scale=scale, check=check)
            plain.step(twins, scale=scale)
        given = [g for g in (*grads, *twins) if g is not None]
        same_bits(snapshot(checked) + given[:3], snapshot(plain) + given[3:])
        assert checked.steps == plain.steps == [3, 3, 1, 3]


def test_which_nan_comes_out_of_two_is_no_corruption(isa, settings):
    """The last elements of a work item go through another loop than those of a block."""
    ss.set_num_threads(2)
    rng = np.random.default_rng(0)

    def nans(n, dtype):
        word = np.dtype(f"u{dtype.itemsize}")
        payload = rng.integers(1, 1 << 20, n).astype(word)
        sign = rng.integers(0, 2, n).astype(word) << word.type(8 * word.itemsize - 1)
        return (payload | sign | np.array([np.nan], dtype).view(word)).view(dtype)

    for case in CASES:
        for options in ({}, {"weight_decay": 0.1}, {"ema": 0.5, "clip_value": 1e3}):
            n = 20_001
            w = np.zeros(n + 8, case.dtype)[3:][:n]
            w[:] = nans(n, case.dtype)
            optimizer = case.make([w], **options)
            for states in optimizer.state.values():
                states[0][:] = nans(n, case.dtype)
            optimizer.step([nans(n, case.dtype)], check=100)
            assert optimizer.t == 1


def test_every_option_by_the_reference():
    for combination in combinations()[::2]:
        checked, grads, scale = of_combination(*combination, (0, 65, 1025), backend="reference")
        plain, twins, _ = of_combination(*combination, (0, 65, 1025), backend="reference")
        checked.step(grads, scale=scale, check=1)
        plain.step(twins, scale=scale)
        same_bits(snapshot(checked) + grads, snapshot(plain) + twins)


KEPT = {
    "parameter": {},
    "m": {},
    "v": {},
    "ema": {"ema": 0.5},
    "master": {"master": "float32"},
    "low": {"master": "split"},
    "copy": {"copy_dtype": "float16"},
}


@pytest.mark.parametrize("name", KEPT)
def test_the_reference_names_the_array(monkeypatch, name):
    """One value is other the second time."""
    dtype = ml_dtypes.bfloat16 if name in ("master", "low") else F32
    w = np.ones((3, 5), dtype)
    optimizer = ss.Adam({"a": np.ones(2, dtype), "w": w}, lr=0.5, backend="reference", **KEPT[name])
    before = snapshot(optimizer)
    target = {**dict.fromkeys(["parameter"], w), **{k: s[1] for k, s in optimizer.state.items()}}[name]
    updates, calls = reference_plan.Plan._updates, itertools.count()

    def updated(self, *arguments):
        found = updates(self, *arguments)
        if next(calls) == 1:
            for own, value in found[1][1]:
                if own is target:
                    value.view(f"u{value.itemsize}")[1, 2] ^= 1
        return found

    monkeypatch.setattr(reference_plan.Plan, "_updates", updated)
    with pytest.raises(
        ss.CorruptionError, match=rf"^params\['w'\]: element \[1, 2\] of the {name} was stepped"
    ):
        optimizer.step({"a": np.ones(2, dtype), "w": np.ones((3, 5), dtype)}, check=1)
    same_bits(snapshot(optimizer), before)
    assert optimizer.t == 0


def test_the_reference_counts_elements_as_they_lie(monkeypatch):
    w = np.ones((5, 3), F32).T
    optimizer = ss.SGD([w], lr=0.5, backend="reference")
    updates, calls = reference_plan.Plan._updates, itertools.count()

    def updated(self, *arguments):
        found = updates(self, *arguments)
        if next(calls) == 1:
            found[0][1][0][1][2, 1] = 7  # 3 numbers lie before each column
        return found

    monkeypatch.setattr(reference_plan.Plan, "_updates", updated)
    with pytest.raises(ss.CorruptionError, match="element 5 in the order of memory"):
        optimizer.step([np.ones((5, 3), F32).T], check=1)


@pytest.mark.parametrize("wrong", [-1, 0.0, 1.5, "1", False, None, np.ones(2), np.zeros(1), 1j], ids=str)
@pytest.mark.parametrize("grouped", [False, True])
def test_what_is_no_number_of_blocks(wrong, grouped):
    w = np.ones(3)
    optimizer = ss.SGD([{"params": w}] if grouped else w, lr=0.5)
    with pytest.raises((TypeError, ValueError), match="check: got"):
        optimizer.step([np.ones(3)] if grouped else np.ones(3), check=wrong)
    assert optimizer.t == 0
    assert w.tolist() == [1.0] * 3


@pytest.mark.parametrize("check", [0, np.int64(0), np.int64(2), 2**62, 2**63 - 1, 2**64, 10**30], ids=str)
def test_any_whole_number_of_blocks(check):
    for w in (np.ones(3), np.zeros(0)):
        optimizer = ss.SGD([w], lr=0.5)
        optimizer.step([np.ones_like(w)], check=check)
        assert optimizer.t == 1


def test_no_gradient_at_all():
    optimizer = ss.SGD([np.ones(3)], lr=0.5)
    optimizer.step([None], check=3)
    assert optimizer.steps == [0]


def test_a_step_that_is_skipped():
    optimizer = ss.SGD([np.ones(3)], lr=0.5, nonfinite="skip")
    optimizer.step([np.full(3, np.nan)], check=3)
    assert optimizer.skipped
    assert optimizer.t == 0


def test_with_statistics_and_gradients_in_another_order():
    w = np.ones((3, 4))
    optimizer = ss.SGD([w], lr=0.5, copy_grads=True)
    optimizer.record_stats()
    optimizer.step([np.ones((4, 3)).T], check=2)
    assert optimizer.stats.copied == 96
    assert w.tolist() == np.full((3, 4), 0.5).tolist()


def test_a_step_that_does_not_count_is_not_recorded(mappings, tmp_path):
    w, other = mappings(size=5000)
    w[:] = 1
    optimizer, path = ss.SGD([w, other[:0]], lr=0.5), tmp_path / "run.jsonl"
    grads = [np.ones(5000, F32), np.ones(0, F32)]
    with optimizer.record(path):
        optimizer.step(grads, check=5)
        before = path.read_bytes()
        twice = ss.SGD([w, other], lr=0.5)
        with twice.record(tmp_path / "twice.jsonl"):
            with pytest.raises(ss.CorruptionError):
                twice.step([grads[0]] * 2, check=5)
            assert len(read_ledger(tmp_path / "twice.jsonl").records) == 1
        assert path.read_bytes() == before
        optimizer.step(grads, check=5)
    found = read_ledger(path).records
    assert [record.step for record in found] == [0, 1, 2]
    assert found[-1].tensors["params[0]"][1] == f"{ss.fingerprint(w):016x}"


def test_a_schedule_goes_on_where_it_was(mappings):
    w, other = mappings(size=10)
    optimizer = ss.SGD([w, other], lr=ss.schedules.step(0.5, every=1))
    lr = optimizer.lr
    with pytest.raises(ss.CorruptionError):
        optimizer.step([np.ones(10, F32)] * 2, check=1)
    assert optimizer.lr == lr
