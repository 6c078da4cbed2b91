"""Sharded optimizers: the bits of one process for any number of workers, whatever else the step does."""

import functools

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from control_register import DAZ, FTZ, mxcsr, needs_x86
from samestep.parallel import Sharded, mean_of_leaves, run_threads, threads, weighted_mean
from samestep.parallel.vector import Vector
from samestep.tree import ranges
from simulated import Network

SHAPES = [(3000,), (7,), (), (50, 70), (0,), (1024,)]
WORKERS = [1, 2, 3, 4, 5, 7, 8, 11]
ADAM = functools.partial(ss.Adam, lr=0.1)
ALL_OPTIONS = functools.partial(
    ss.AdamW,
    lr=0.1,
    weight_decay=0.1,
    clip_norm=1.0,
    clip_value=0.01,
    nonfinite="skip",
    ema=0.9,
    maximize=True,
)


def params(dtypes=(np.float32,), shapes=SHAPES):
    draw = np.random.default_rng(0)
    return [draw.standard_normal(s).astype(dtypes[i % len(dtypes)]) for i, s in enumerate(shapes)]


def gradients(t, leaf, like):
    draw = np.random.default_rng([t, leaf])
    return [np.asarray(draw.standard_normal(w.shape)).astype(w.dtype) for w in like]


def digest(arrays):
    return ss.digest([a.view(np.float16) if a.dtype == np.uint16 else a for a in arrays])


def state_of(sharded):
    return digest([a for arrays in sharded.state_dict()["state"].values() for a in arrays])


def train(group, make=ADAM, leaves=8, dtypes=(np.float32,), weights=None, steps=3, scale=1.0, shapes=SHAPES):
    """What can be seen of a training: parameters, state, norms."""
    own = params(dtypes, shapes)
    opt, norms = Sharded(make, own, group, leaves=leaves), []
    for t in range(steps):
        order = np.random.default_rng([t, group.rank]).permutation(opt.leaves)
        for leaf in order:
            opt.add(leaf, gradients(t, leaf, own), weight=1.0 if weights is None else weights[leaf])
        norms.append(opt.step(scale=scale))
    return digest(own), state_of(opt), norms


CASES = {
    "adam": {},
    "odd number of leaves": {"leaves": 7},
    "one leaf": {"leaves": 1},
    "more leaves than a power of two": {"leaves": 12},
    "SGD": {"make": functools.partial(ss.SGD, lr=0.1)},
    "all options": {"make": ALL_OPTIONS, "scale": 0.5},
    "float64": {"dtypes": (np.float64,), "make": functools.partial(ADAM, clip_norm=0.5)},
    "both types": {"dtypes": (np.float32, np.float64), "make": functools.partial(ADAM, clip_norm=0.5)},
    "a few elements last": {
        "dtypes": (np.float64, np.float32),
        "shapes": SHAPES[:2],
        "leaves": 7,
    },
    "float16": {"dtypes": (np.float16,), "make": functools.partial(ADAM, clip_norm=0.5, ema=0.5)},
    "bfloat16": {"dtypes": (ml_dtypes.bfloat16,), "make": functools.partial(ADAM, state_dtype="param")},
    "split": {"dtypes": (ml_dtypes.bfloat16,), "make": functools.partial(ADAM, master="split")},
    "master": {"dtypes": (np.float16,), "make": functools.partial(ADAM, master="float32", clip_norm=1.0)},
    "a copy": {"make": functools.partial(ADAM, copy_dtype="bfloat16")},
    "weights": {"weights": [3, 1, 0, 2, 5, 0.5, 1, 0]},
    "a schedule": {"make": functools.partial(ss.SGD, lr=lambda t: 0.1 / t)},
    "the reference": {"make": functools.partial(ADAM, backend="reference", clip_norm=1.0)},
}


@pytest.mark.parametrize("case", CASES)
def test_one_digest_for_any_number_of_workers(case):
    seen = [found for size in WORKERS for found in run_threads(size, lambda g: train(g, **CASES[case]))]
    assert len(seen) == sum(WORKERS)
    assert all(found == seen[0] for found in seen)


@needs_x86
@pytest.mark.parametrize("dtypes", [(np.float32,), (np.float64,), (np.float16,)], ids=str)
def test_each_worker_may_be_in_another_floating_point_mode(dtypes):
    """Of subnormal gradients and state, some workers would flush what others keep, or round it elsewhere."""
    factor = {2: 1.0, 4: 1e-39, 8: 1e-309}[np.dtype(*dtypes).itemsize]

    def one(group, mode):
        own = [(w * factor).astype(w.dtype) for w in params(dtypes[:1])]
        leaves = [[(g * factor).astype(g.dtype) for g in gradients(0, leaf, own)] for leaf in range(7)]
        own, found = [np.asarray(w) for w in own], []
        weights = [0.1 * (leaf + 1) for leaf in range(7)]
        with mxcsr(mode):
            opt = Sharded(functools.partial(ss.Momentum, lr=0.1, clip_norm=1.0), own, group, leaves=7)
            for _ in range(2):
                for leaf in opt.leaves:
                    opt.add(leaf, [np.asarray(g) for g in leaves[leaf]], weight=weights[leaf])
                found.append(opt.step())
        return digest(own), state_of(opt), np.array(found).tobytes()

    modes = [0, FTZ | DAZ, FTZ | 2 << 13, DAZ | 3 << 13]
    expected = run_threads(1, lambda group: one(group, 0))
    assert run_threads(4, lambda group: one(group, modes[group.rank])) == expected * 4
    assert run_threads(3, lambda group: one(group, modes[group.rank + 1])) == expected * 3


@pytest.mark.parametrize("size", [3, 5, 7])
def test_large_parts_travel_in_rounds_with_the_same_bits(size, monkeypatch):
    few, many = [], []
    for large, made in ((1 << 20, few), (0, many)):
        monkeypatch.setattr(ss.parallel.exchange, "_LARGE", large)
        network = Network(size)
        found = network.run(train)
        made += [*found, max(network.transfers)]
    assert few[:-1] == many[:-1]
    assert many[-1] > few[-1]


@pytest.mark.parametrize("make", [ADAM, ALL_OPTIONS], ids=["adam", "all options"])
@pytest.mark.parametrize("dtypes", [(np.float32,), (np.float32, np.float64), (np.float16,)], ids=str)
def test_the_bits_are_those_of_one_optimizer_along_the_mean_of_the_leaves(make, dtypes):
    own = params(dtypes)
    opt = make(own)
    norms = [
        opt.step(mean_of_leaves([gradients(t, leaf, own) for leaf in range(12)]), scale=0.5) for t in range(3)
    ]
    state = digest([a for arrays in opt.state.values() for a in arrays])
    (found,) = set(map(str, run_threads(3, lambda g: train(g, make, leaves=12, dtypes=dtypes, scale=0.5))))
    assert found == str((digest(own), state, norms))


def test_the_mean_is_that_of_the_contract():
    leaves = [np.float32([1.0, x]) for x in (2**24, 1, 1, 1, -(2**24))]
    by_hand = np.float32(0)
    ((a, b), (c, d)), e = ((leaves[0][1], leaves[1][1]), (leaves[2][1], leaves[3][1])), leaves[4][1]
    by_hand = np.float32(np.float32(np.float32(a + b) + np.float32(c + d)) + e) / np.float32(5)
    assert mean_of_leaves(leaves).tolist() == [1.0, by_hand]
    assert by_hand != np.float32(sum(float(x[1]) for x in leaves) / 5)  # else the order could not show


def test_a_weighted_mean_reads_no_leaf_of_weight_0():
    nan = np.full(3, np.nan)
    for backend in ("cpu", "reference"):
        found = weighted_mean([nan, np.ones(3), None, 4 * np.ones(3)], [0, 2, 0, 1], backend=backend)
        assert found.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [3, 0.1, 2]])
def test_mean_of_leaves_has_the_bits_of_its_twin(weights):
    leaves = [{"a": (x, x.T[1:])} for x in np.random.default_rng(1).standard_normal((3, 40, 40)).astype("f4")]
    found = [weighted_mean(leaves, weights, backend=b) for b in ("cpu", "reference")]
    assert ss.digest(found[0]) == ss.digest(found[1])
    assert found[0]["a"][1].shape == (39, 40)


def test_leaves_of_other_kinds_than_plain_arrays_are_refused_by_name():
    ones = np.ones(3)
    masked = np.ma.masked_array(ones, [1, 0, 0])
    for leaves, says in (
        ([masked, ones], r"leaves\[0\]: got MaskedArray"),
        ([ones, masked], r"leaves\[1\]: got MaskedArray"),
        ([{"a": [ones]}, {"a": [masked]}], r"leaves\[1\]\['a'\]\[0\]: got MaskedArray"),
        ([1.0, 2.0], r"leaves\[0\]: got float"),
        ([np.arange(3), np.arange(3)], r"leaves\[0\]: got dtype int64"),
        ([ones, ones.astype(">f8")], r"leaves\[1\]: got >f8"),
        ([ones, None], r"leaves\[1\]: got None"),
        ([[ones, ones], [ones, None]], r"leaves\[1\]: got None"),
    ):
        refused(lambda leaves=leaves: mean_of_leaves(leaves), TypeError, says)
    opt = Sharded(functools.partial(ss.SGD, lr=0.1), {"a": [ones.copy()]}, threads(1)[0], leaves=1)
    refused(lambda: opt.add(0, {"a": [masked]}), TypeError, r"grads\['a'\]\[0\]: got MaskedArray")


def test_leaves_may_lie_in_memory_in_any_way():
    x = np.arange(12.0).reshape(3, 4)
    odd = np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(np.float64).reshape(3, 4)
    assert not odd.flags.aligned
    for leaf in (odd, np.asfortranarray(x), x[::-1, ::-1][::-1, ::-1], np.ma.masked_array(x).data):
        assert mean_of_leaves([x, leaf]).tolist() == x.tolist()
        w = np.zeros((3, 4))
        opt = Sharded(functools.partial(ss.SGD, lr=1.0), w, threads(1)[0], leaves=1)
        opt.add(0, leaf)
        opt.step()
        assert w.tolist() == (-x).tolist()


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1e-60, 1], r"weight: got 1e-60, which is 0 in float32"),
        ([1, 1e60], r"weight: got 1e\+60, which is inf in float32"),
        ([3e38, 3e38], r"weight: the sum of those of all leaves: got 6e\+38, which is inf in float32"),
    ],
)
def test_weights_that_float32_cannot_tell_from_0_or_infinity_are_refused(weights, says):
    x = np.ones(3, np.float32)
    refused(lambda: weighted_mean([x, x], weights), ValueError, says)
    assert np.isfinite(weighted_mean([x.astype(np.float64)] * 2, weights)).all()

    def one(group):
        w = np.ones(3000, np.float32)
        opt = Sharded(functools.partial(ss.SGD, lr=0.1), [w, np.ones(2)], group, leaves=2)
        for leaf in opt.leaves:
            opt.add(leaf, [w, np.ones(2)], weight=weights[leaf])
        opt.step()

    if max(weights) < 1e39 and min(weights) > 1e-40:
        assert all("the sum of those of all leaves" in x for x in each_error(2, one))
    else:
        refused(lambda: run_threads(1, one), ValueError, says)


@pytest.mark.parametrize(
    ("weights", "error", "says"),
    [
        ((x for x in (1, 2)), TypeError, "weights: got generator, expected a list of numbers"),
        (3, TypeError, "weights: got int"),
        ("12", TypeError, "weights: got str"),
        ([1], ValueError, "weights: got 1, expected 2"),
        ([1, -1], ValueError, r"weights\[1\]: got -1"),
        ([0, 0], ValueError, "weights: got only zeros"),
    ],
)
def test_weights_are_checked(weights, error, says):
    refused(lambda: weighted_mean([np.ones(2), None], weights), error, says)


def test_structures_stay():
    def one(group):
        own = {"body": [np.ones(2000), np.ones((2, 3))], "head": np.ones(5)}
        opt = Sharded(lambda p: ss.SGD(p, lr=0.5), own, group, leaves=2)
        for leaf in opt.leaves:
            opt.add(leaf, {"body": [np.ones(2000), None], "head": leaf * np.ones(5)})
        opt.step()
        return own["body"][0][1999], own["body"][1][1, 2], own["head"][0], opt.optimizer.steps

    assert run_threads(2, one) == [(0.5, 1.0, 0.75, [1, 0, 1])] * 2


def test_groups_of_parameters():
    def one(group):
        own = params()
        make = lambda p: ss.SGD([{"params": p[:2]}, {"params": p[2:], "lr": 0.25}], lr=0.5)  # noqa: E731
        opt = Sharded(make, own, group, leaves=4)
        for leaf in opt.leaves:
            opt.add(leaf, [np.ones_like(w) for w in own])
        opt.step()
        return [np.unique(w - before).tolist() for w, before in zip(own, params(), strict=True) if w.size > 1]

    found = run_threads(3, one)
    assert found[0] == found[1] == found[2]
    assert {round(x, 4) for x in found[0][0]} == {-0.5}
    assert {round(x, 4) for x in found[0][2]} == {-0.25}


def test_a_parameter_that_no_leaf_has_a_gradient_for_is_skipped():
    def one(group, leaf_with_gradient):
        w = [np.ones(3000), np.ones(4)]
        opt = Sharded(lambda p: ss.Momentum(p, lr=0.5), w, group, leaves=3)
        for leaf in opt.leaves:
            opt.add(leaf, [np.ones(3000), np.ones(4) if leaf == leaf_with_gradient else None])
        opt.step()
        return digest(w), opt.optimizer.steps

    for leaf, steps in ((2, [1, 1]), (None, [1, 0])):
        found = [x for size in (1, 2, 4) for x in run_threads(size, lambda g, leaf=leaf: one(g, leaf))]
        assert all(x == found[0] for x in found)
        assert found[0][1] == steps


def test_a_gradient_in_a_leaf_of_weight_0_alone_is_none():
    def one(group):
        w = [np.ones(3000), np.ones(4)]
        opt = Sharded(functools.partial(ss.Momentum, lr=0.5), w, group, leaves=2)
        for leaf in opt.leaves:
            opt.add(leaf, [np.ones(3000), None if leaf == 0 else np.ones(4)], weight=1.0 - leaf)
        opt.step()
        return opt.optimizer.steps, w[1].tolist()

    assert run_threads(1, one) + run_threads(2, one) == [([1, 0], [1.0] * 4)] * 3


def test_the_norm_is_summed_in_the_order_of_the_blocks():
    """2^54 + 3 and 1 + 1 is another float64 than 2^54 + 1 and 3 + 1."""
    g = np.zeros(4096, np.float32)
    g[0] = 2.0**27
    g[[1024, 1025, 1026, 2048, 3072]] = 1

    def one(group):
        opt = Sharded(functools.partial(ss.SGD, lr=0.1, clip_norm=1.0), np.zeros_like(g), group, leaves=8)
        for leaf in opt.leaves:
            opt.add(leaf, g)
        found = opt.step()
        assert np.isnan(opt.optimizer._plan.norm)  # that of a part alone is not taken
        return found

    norms = {norm for size in WORKERS for norm in run_threads(size, one)}
    assert norms == {ss.global_norm([g])} == {2.0**27 + 2.0**-25}


@pytest.mark.parametrize("policy", ["skip", "raise"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_all_workers_or_none_step_along_what_is_not_finite(policy, clip_norm):
    def one(group):
        own = params()
        make = functools.partial(ADAM, nonfinite=policy, clip_norm=clip_norm)
        opt, seen = Sharded(make, own, group, leaves=4), []
        for t in range(3):
            for leaf in opt.leaves:
                grads = gradients(t, leaf, own)
                if (t, leaf) == (1, 3):
                    grads[0][1500] = np.inf
                opt.add(leaf, grads)
            try:
                opt.step()
            except FloatingPointError:
                assert policy == "raise"
            seen.append((opt.skipped, opt.t, digest(own)))
        return seen

    found = [x for size in (1, 3, 4) for x in run_threads(size, one)]
    assert all(x == found[0] for x in found)
    assert [x[:2] for x in found[0]] == [(False, 1), (True, 1), (False, 2)]
    assert found[0][0][2] == found[0][1][2] != found[0][2][2]


def test_finite_gradients_whose_squares_overflow_are_not_refused():
    def one(group):
        w = np.ones(3000)
        opt = Sharded(lambda p: ss.SGD(p, lr=0.1, nonfinite="raise", clip_norm=1.0), w, group, leaves=2)
        for leaf in opt.leaves:
            opt.add(leaf, np.full(3000, 1e200))
        return opt.step(), opt.skipped

    assert run_threads(2, one) == [(np.inf, False)] * 2


def test_state_dicts_go_from_any_number_of_workers_to_any_other_and_to_none():
    def first(group):
        own = params()
        opt = Sharded(ALL_OPTIONS, own, group, leaves=6)
        step(opt, own, 0)
        return opt.state_dict(), own, [a.copy() for a in opt.ema]

    def step(opt, own, t):
        for leaf in opt.leaves:
            opt.add(leaf, gradients(t, leaf, own))
        opt.step()

    def second(group, state_dict, own):
        own = [w.copy() for w in own]
        opt = Sharded(ALL_OPTIONS, own, group, leaves=6)
        opt.load_state_dict(state_dict)
        step(opt, own, 1)
        return digest(own), state_of(opt)

    (state_dict, own, ema), *_ = run_threads(3, first)
    assert digest(ema) == digest(state_dict["state"]["ema"])
    found = [x for n in (1, 2, 5) for x in run_threads(n, lambda g: second(g, state_dict, own))]
    alone = ALL_OPTIONS([w.copy() for w in own])
    alone.load_state_dict(state_dict)
    alone.step(mean_of_leaves([gradients(1, leaf, own) for leaf in range(6)]))
    assert {x[0] for x in found} == {digest(alone.params)}
    assert len({x[1] for x in found}) == 1


def test_parameters_and_hyper_parameters_may_be_set_between_steps():
    def one(group):
        own = params()
        opt = Sharded(ADAM, own, group, leaves=4)
        for t in range(2):
            for leaf in opt.leaves:
                opt.add(leaf, gradients(t, leaf, own))
            opt.step()
            opt.optimizer.lr = 0.01
            own[0][:] = 5.0
        return digest(own)

    assert len({x for n in (1, 2, 3) for x in run_threads(n, one)}) == 1


# ---- what travels, and what is kept ----


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("leaves", [8, 12, 16, 40])
def test_bytes_sent_are_a_rings_or_at_most_twice_as_many(size, leaves):
    n = 64 * 1024
    network = Network(size)

    def one(group):
        w = np.ones(n, np.float32)
        opt = Sharded(functools.partial(ss.SGD, lr=0.1), w, group, leaves=leaves)
        before = network.sent[group.rank]
        for leaf in opt.leaves:
            opt.add(leaf, w)
        opt.step()
        return network.sent[group.rank] - before

    ring, small = 2 * (size - 1) / size * 4 * n, 1000 * size
    sent = network.run(one)
    share, rest = divmod(leaves, size)
    if size & (size - 1) == 0 and rest == 0 and share & (share - 1) == 0:
        assert max(sent) <= ring + small
    assert max(sent) <= 2 * ring + small


@pytest.mark.parametrize("leaves", [2, 16, 64, 100])
def test_a_worker_keeps_one_sum_for_each_bit_of_the_number_of_its_leaves_and_one_buffer(leaves):
    def one(group):
        w = np.ones(4096, np.float32)
        opt = Sharded(functools.partial(ss.SGD, lr=0.1), w, group, leaves=leaves)
        for _ in range(2):
            for leaf in opt.leaves:
                opt.add(leaf, w)
            opt.step()
        return len(opt._leaf_sums._spare), len(opt.leaves).bit_length() + 1

    for kept, most in run_threads(2, one):
        assert kept <= most


@pytest.mark.parametrize(("size", "leaves"), [(2, 2), (4, 8), (3, 7), (2, 12), (5, 3)])
def test_no_vector_is_made_after_the_first_step(size, leaves, monkeypatch):
    made = []
    buffer = Vector.buffer
    monkeypatch.setattr(Vector, "buffer", lambda vector: made.append(0) or buffer(vector))

    def one(group):
        w = np.ones(4096, np.float32)
        opt = Sharded(functools.partial(ss.SGD, lr=0.1), w, group, leaves=leaves)
        for step in range(4):
            for leaf in opt.leaves:
                opt.add(leaf, w)
            opt.step()
            group.all_gather(np.zeros(1), [1] * size)
            if step == 0:
                first = len(made)
            group.all_gather(np.zeros(1), [1] * size)
        return first

    assert run_threads(size, one) == [len(made)] * size


# ---- errors ----


def refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_arguments_are_checked():
    alone = threads(1)[0]
    w = np.ones(3)
    good = functools.partial(ss.SGD, lr=0.1)
    refused(lambda: Sharded(good, w, "gloo", leaves=1), TypeError, r"group: got str, expected what")
    refused(lambda: Sharded(good, w, alone, leaves=0), ValueError, r"leaves: got 0, expected 1 or more")
    refused(lambda: Sharded(good, [1.0], alone, leaves=1), TypeError, r"params\[0\]: got float")
    refused(lambda: Sharded(good, np.ones((2, 3)).T, alone, leaves=1), ValueError, "not in C order")
    refused(lambda: Sharded(lambda p: 3, w, alone, leaves=1), TypeError, "make_optimizer: returned int")
    refused(lambda: Sharded(lambda p: good(w), w, alone, leaves=1), ValueError, "other arrays")
    zeroing = functools.partial(good, zero_grads=True)
    refused(lambda: Sharded(zeroing, w, alone, leaves=1), ValueError, "zero_grads: got True")
    random = functools.partial(good, stochastic_rounding=1)
    half = w.astype(ml_dtypes.bfloat16)
    refused(lambda: Sharded(random, half, alone, leaves=1), ValueError, "stochastic_rounding: ")

    opt = Sharded(good, [w, np.ones(2)], alone, leaves=2)
    fits = [np.ones(3), np.ones(2)]
    refused(lambda: opt.add(2, fits), ValueError, r"leaf: got 2, expected one of this worker's: 0 to 1")
    refused(lambda: opt.add(0.0, fits), TypeError, "leaf: got 0.0")
    refused(lambda: opt.add(0, [np.ones(3)]), ValueError, "got 1 gradients, expected 2")
    refused(
        lambda: opt.add(0, [np.ones(3), np.ones(3)]), ValueError, r"grads\[1\]: got float64 of shape \(3,\)"
    )
    refused(lambda: opt.add(0, [np.ones(3), np.ones(2, "f4")]), TypeError, r"grads\[1\]: got float32")
    refused(lambda: opt.add(0, [np.ones(3), [1, 2]]), TypeError, r"grads\[1\]: got list")
    refused(lambda: opt.add(0, fits, weight=-1), ValueError, "weight: got -1")
    refused(lambda: opt.add(0, fits, weight=np.nan), ValueError, "weight: got nan")
    refused(opt.step, ValueError, "leaves: 0, 1 of 2 were not added")
    opt.add(0, fits)
    refused(lambda: opt.add(0, fits), ValueError, "leaf: got 0, which was added before")
    refused(opt.step, ValueError, "leaves: 1 of 2 were not added")
    opt.add(1, fits)
    opt.step()
    assert w.tolist() == [0.9] * 3
    for leaf in opt.leaves:
        opt.add(leaf, None, weight=0.0)
    refused(opt.step, ValueError, r"weight: those of all leaves add up to 0.0")


def each_error(size, function):
    def one(group):
        try:
            return function(group)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    return run_threads(size, one, timeout=20)


def test_an_error_of_one_worker_is_raised_on_all_and_none_waits():
    good = functools.partial(ss.SGD, lr=0.1)

    def bad_params(group):
        Sharded(good, np.ones(3) if group.rank else [3], group, leaves=2)

    first, *others = each_error(3, bad_params)
    assert first.startswith("TypeError: params[0]: got int")
    assert all(x.startswith("TypeError: worker 0 of 3 has given up: TypeError: params[0]") for x in others)

    def other_shapes(group):
        Sharded(good, np.ones(3 + group.rank // 2), group, leaves=2)

    assert all("ValueError: params: got the value [['float64', [" in x for x in each_error(3, other_shapes))

    def missing(group):
        w = np.ones(3)
        opt = Sharded(good, w, group, leaves=4)
        for leaf in opt.leaves:
            if leaf != 2:
                opt.add(leaf, w)
        opt.step()

    assert set(each_error(3, missing)) == {
        "ValueError: leaves: 2 of 4 were not added; expected each once a step, if need be with weight=0"
    }

    def other_lr(group):
        w = np.ones(3)
        opt = Sharded(functools.partial(ss.SGD, lr=0.1 * (1 + group.rank)), w, group, leaves=4)
        for leaf in opt.leaves:
            opt.add(leaf, w)
        opt.step()

    def other_weight_decay(group):
        w = np.ones(3)
        opt = Sharded(functools.partial(ss.SGD, lr=0.1), w, group, leaves=4)
        opt.optimizer.weight_decay = 0.1 * (group.rank == 1)
        for leaf in opt.leaves:
            opt.add(leaf, w)
        opt.step()

    for other in (other_lr, other_weight_decay):
        said = "ValueError: hyper-parameters, t or scale: got others"
        assert all(str(x).startswith(said) for x in each_error(3, other))


def test_schedules_are_called_once_a_step_and_agreed_on_before_it():
    def one(group, lr_of):
        w, called = np.ones(3000), []

        def lr(t):
            called.append(t)
            return lr_of(t, group.rank)

        opt, seen = Sharded(functools.partial(ss.SGD, lr=lr), w, group, leaves=4), []
        del called[:]
        for t in (1, 2):
            for leaf in opt.leaves:
                opt.add(leaf, np.ones(3000))
            before = w.copy()
            try:
                opt.step()
                assert called == [*range(1, t + 1)]
            except Exception as error:
                assert np.array_equal(w, before)
                seen.append(f"{t} {type(error).__name__}: {error}")
                break
        return seen

    def failing(t, rank):
        if (t, rank) == (2, 1):
            raise OSError("no table of rates")
        return 0.1

    assert run_threads(3, lambda group: one(group, lambda t, rank: 0.1 / t)) == [[]] * 3
    assert run_threads(3, lambda group: one(group, failing)) == [
        ["2 OSError: worker 1 of 3 has given up: OSError: no table of rates"],
        ["2 OSError: no table of rates"],
        ["2 OSError: worker 1 of 3 has given up: OSError: no table of rates"],
    ]
    other = run_threads(3, lambda group: one(group, lambda t, rank: 0.1 if t == 1 else 0.1 + rank))
    assert all(text.startswith("2 ValueError: hyper-parameters, t or scale: got others") for (text,) in other)


def test_after_an_error_before_the_step_the_leaves_stay_and_the_step_can_be_made():
    def one(group):
        w = np.ones(3000, np.float32)
        opt, errors = Sharded(functools.partial(ss.SGD, lr=0.5), w, group, leaves=4), []
        for leaf in opt.leaves:
            if leaf:
                opt.add(leaf, np.ones_like(w))
        for scale in (1.0, np.nan if group.rank == 1 else 1.0, 2.0 if group.rank == 2 else 1.0):
            try:
                opt.step(scale=scale)
            except Exception as error:
                errors.append(type(error))
            if not opt._leaf_sums.weights.get(0) and group.rank == 0:
                opt.add(0, np.ones_like(w))
        opt.step()
        return errors, w[0], opt.t

    assert run_threads(3, one) == [([ValueError] * 3, 0.5, 1)] * 3


def test_a_step_that_fails_on_one_worker_changes_no_parameter_and_ends_the_training_on_all():
    def one(group):
        w = np.ones(3000)
        opt = Sharded(functools.partial(ss.Momentum, lr=0.5), w, group, leaves=3)
        if group.rank == 1:
            opt.optimizer._step_flat = None  # fails when it is called
        for leaf in opt.leaves:
            opt.add(leaf, w)
        errors = []
        for call in (opt.step, opt.step, lambda: opt.add(group.rank, w), opt.state_dict):
            try:
                call()
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
        assert np.all(w == 1)
        return errors

    found = run_threads(3, one, timeout=20)
    assert [x[0] for x in found] == [
        "RuntimeError: worker 1 could not step; no parameter has been changed",
        "TypeError: 'NoneType' object is not callable",
        "RuntimeError: worker 1 could not step; no parameter has been changed",
    ]
    assert all("start again with a new group" in text for x in found for text in x[1:])
    assert [len(x) for x in found] == [4] * 3


def test_an_interrupt_during_the_exchange_ends_the_training():
    class Interrupting(type(threads(1)[0])):
        def transfer(self, send, receive):
            super().transfer(send, receive)
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def one(group, left):
        group.__class__, group.left = Interrupting, 10**9
        w = np.ones(3000)
        opt = Sharded(functools.partial(ss.SGD, lr=0.5), w, group, leaves=2)
        for leaf in opt.leaves:
            opt.add(leaf, w)
        group.left = left
        with pytest.raises(KeyboardInterrupt):
            opt.step()
        assert np.all(w == 1)
        with pytest.raises(RuntimeError, match="start again with a new group"):
            opt.step()
        return "refused"

    for left in range(1, 6):
        assert run_threads(2, lambda group, left=left: one(group, left)) == ["refused"] * 2


def test_parameters_that_differ_at_the_beginning_are_found_by_name():
    def one(group):
        own = [np.ones(3000), np.full(5, float(group.rank == 2))]
        opt = Sharded(functools.partial(ss.SGD, lr=0.1), own, group, leaves=3)
        for leaf in opt.leaves:
            opt.add(leaf, own)
        opt.step()

    found = each_error(3, one)
    assert len(set(found)) == 1
    assert found[0].startswith("ValueError: params[1]: got values of fingerprint")
    assert "seed all alike, or load one checkpoint on all" in found[0]


def test_state_files_have_a_folder_for_each_worker_and_none_stays_after_an_error(tmp_path):
    for name in ("same", "0", "1"):
        (tmp_path / name).mkdir()

    def one(group, name):
        w = np.ones(5000)
        make = functools.partial(ss.Adam, lr=0.1, state_dir=tmp_path / name)
        opt = Sharded(make, w, group, leaves=2)
        for leaf in opt.leaves:
            opt.add(leaf, w)
        opt.step()
        return ss.digest(w)

    found = each_error(2, lambda group: one(group, "same"))
    assert all("FileExistsError: state_dir: the file" in text for text in found)
    assert list((tmp_path / "same").iterdir()) == []

    mine = ss.Adam(np.ones(5), lr=0.1, state_dir=tmp_path / "same")
    refused(lambda: Sharded(lambda p: mine, np.ones(5), threads(1)[0], leaves=1), ValueError, "other arrays")
    assert len(list((tmp_path / "same").iterdir())) == 2
    assert len(set(run_threads(2, lambda group: one(group, str(group.rank))))) == 1


def test_two_optimizers_that_workers_step_in_another_order_are_not_mixed_up():
    def one(group):
        both = [np.ones(3000), np.ones(3000)]
        opts = [Sharded(functools.partial(ss.SGD, lr=0.1), w, group, leaves=2) for w in both]
        for leaf in opts[0].leaves:
            opts[0].add(leaf, np.ones(3000))
            opts[1].add(leaf, np.full(3000, 5.0))
        with pytest.raises(ValueError, match="of several optimizers all workers step the same one"):
            opts[group.rank].step()
        for opt in opts:
            opt.step()
        return [w[0] for w in both]

    assert run_threads(2, one) == [[0.9, 0.5]] * 2


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda d: None, TypeError, "state_dict: got NoneType"),
        (lambda d: {}, ValueError, "state_dict"),
        (lambda d: {**d, "state": None}, (TypeError, ValueError), "state"),
        (
            lambda d: {**d, "state": {"m": [[1.0] * 3], "v": [[1.0] * 3]}},
            TypeError,
            r"state\['m'\]: got list",
        ),
        (lambda d: {**d, "state": {"m": [np.ones(2)], "v": [np.ones(2)]}}, ValueError, r"state\['m'\]: got"),
        (lambda d: {**d, "state": {"m": []}}, ValueError, r"state\['m'\]: got arrays"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(change, error, says):
    opt = Sharded(ADAM, np.ones(3), threads(1)[0], leaves=1)
    before = opt.state_dict()
    refused(lambda: opt.load_state_dict(change(before)), error, says)
    assert digest(opt.state_dict()["state"]["m"]) == digest(before["state"]["m"])


@pytest.mark.parametrize(("size", "most"), [(1, 3), (2, 4), (4, 5), (3, 4), (5, 4)])
def test_a_step_of_small_arrays_is_a_few_messages(size, most):
    """Agreement, sums (of powers of two in a round for each bit), whether all could step, parameters."""
    network = Network(size)

    def one(group):
        own = [np.ones(100) for _ in range(4)]
        opt, made = Sharded(ADAM, own, group, leaves=8), []
        for _ in range(2):
            for leaf in opt.leaves:
                opt.add(leaf, own)
            before = network.transfers[group.rank]
            opt.step()
            made.append(network.transfers[group.rank] - before)
        return made[1]

    assert max(network.run(one)) <= most


def test_ranges_are_what_the_optimizer_says():
    found = run_threads(3, lambda g: Sharded(ADAM, params(), g, leaves=7).leaves)
    assert found == ranges(7, 3)
