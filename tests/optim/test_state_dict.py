"""State dicts: what they hold, what they refuse, and the bits after loading."""

import copy
import pickle

import numpy as np
import pytest

import samestep as ss
from bits import ISAS, same_bits, snapshot
from samestep.proof import vectors


class TestStateDict:
    @pytest.mark.parametrize("by_reference", [True, False], ids=["by-reference", "by-kernels"])
    def test_resume_gives_the_uninterrupted_bits(self, case, isa, by_reference, settings):
        """Saved by the reference, or under another instruction set on two threads, and loaded on three."""
        w = vectors.random_values(5000, case.dtype, 1)
        grads = [vectors.random_values(5000, case.dtype, s) for s in range(2, 8)]
        expected = case.run(w, grads)
        first = w.copy()
        ss.set_isa(ISAS[ISAS.index(isa) - 1])
        ss.set_num_threads(2)
        optimizer = case.make(first, backend="reference" if by_reference else "cpu")
        for g in grads[:3]:
            optimizer.step(g)
        saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
        ss.set_isa(isa)
        ss.set_num_threads(3)
        resumed = case.make(first, "other", backend="cpu")
        resumed.load_state_dict(saved)
        for g in grads[3:]:
            resumed.step(g)
        same_bits([first, *(s[0] for s in resumed.state.values())], expected)
        assert resumed.t == 6

    def test_plain_types(self):
        state = ss.Adam([np.ones(2), np.ones(3)]).state_dict()
        assert state["rule"] == "adam_outside"
        assert type(state["t"]) is int
        assert all(type(n) is int for n in state["steps"])
        assert all(type(x) is float for x in state["hyper"].values())
        assert all(type(a) is np.ndarray for s in state["state"].values() for a in s)

    def test_it_is_a_copy(self):
        w = np.ones(2)
        optimizer = ss.Adam(w)
        state = optimizer.state_dict()
        optimizer.step(np.ones(2))
        assert not state["state"]["m"][0].any()

    def test_one_of_the_first_contract_goes_on(self):
        optimizer, other = (ss.Adam(np.ones(2)) for _ in range(2))
        optimizer.step(np.ones(2))
        other.load_state_dict({**optimizer.state_dict(), "contract": 1})
        assert other.t == 1
        assert other.state_dict()["contract"] == 2

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda d: d.update(hyper=None),
            lambda d: d.update(hyper=3),
            lambda d: d.update(hyper=[3]),
            lambda d: d.update(hyper={1: 2.0, "lr": 0.1}),
            lambda d: d.update(state=None),
            lambda d: d.update(state={1: [], "m": []}),
            lambda d: d["state"].update(m=None),
            lambda d: d.update(steps=None),
            lambda d: d.update(steps=1),
            lambda d: d.update(rule=np.ones(2)),
            lambda d: d.update({1: 2}),
            lambda d: d.pop("t"),
            lambda d: d.update(extra=1),
            lambda d: d.update(contract=99),
            lambda d: d.update(contract=0),
            lambda d: d.update(contract=np.ones(2)),
            lambda d: d.update(rule="adam_inside"),
            lambda d: d.update(t=-1),
            lambda d: d.update(t=1.5),
            lambda d: d.update(t=2**70),
            lambda d: d.update(steps=[1, 2**63]),
            lambda d: d.update(steps=[1]),
            lambda d: d.update(steps=[1, -1]),
            lambda d: d["hyper"].pop("eps"),
            lambda d: d["hyper"].update(lr=-1.0),
            lambda d: d["state"].pop("v"),
            lambda d: d["state"]["v"].pop(),
            lambda d: d["state"]["v"].__setitem__(1, np.zeros(9)),
            lambda d: d["state"]["v"].__setitem__(1, np.zeros(3, np.float32)),
            lambda d: d["state"]["v"].__setitem__(1, [0.0] * 3),
        ],
    )
    def test_one_that_does_not_fit_changes_nothing(self, spoil):
        optimizer = ss.Adam([np.ones(2), np.ones(3)])
        optimizer.step([np.ones(2), np.ones(3)])
        before = snapshot(optimizer)
        bad = copy.deepcopy(optimizer.state_dict())
        for states in bad["state"].values():
            states[0] += 1
        spoil(bad)
        with pytest.raises((ValueError, TypeError), match=r"state_dict|lr"):
            optimizer.load_state_dict(bad)
        same_bits(snapshot(optimizer), before)
        assert (optimizer.t, optimizer.steps) == (1, [1, 1])

    def test_a_read_only_state_stops_loading_and_stepping_before_anything_is_written(self):
        optimizer = ss.Adam([np.ones(2), np.ones(3)])
        saved = optimizer.state_dict()
        for states in saved["state"].values():
            states[0] += 1
        optimizer.state["v"][1].flags.writeable = False
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=r"state\['v'\]\[1\]: the array is read-only"):
            optimizer.load_state_dict(saved)
        with pytest.raises(ValueError, match=r"read-only|like the parameters"):
            optimizer.step([np.ones(2), np.ones(3)])
        same_bits(snapshot(optimizer), before)
        assert optimizer.t == 0

    def test_a_state_resized_from_outside_is_refused(self):
        optimizer = ss.Adam(np.ones(1000))
        optimizer.state["m"][0].resize(10, refcheck=False)
        with pytest.raises(
            ValueError, match=r"state\['m'\]\[0\]: its shape is now \(10,\), expected \(1000,\)"
        ):
            optimizer.step(np.ones(1000))
        assert optimizer.t == 0

    def test_pickle_and_deepcopy_of_the_optimizer(self):
        optimizer = ss.Adam([np.ones(2), np.ones(3)])
        grads = [np.ones(2), np.ones(3)]
        optimizer.step(grads)
        twins = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
        for twin in (optimizer, *twins):
            twin.step(grads)
        for twin in twins:
            same_bits(snapshot(twin), snapshot(optimizer))
            assert twin.params[0] is not optimizer.params[0]

    def test_repr(self):
        assert repr(ss.SGD(np.ones(2), lr=0.5)) == "SGD(lr=0.5, t=0)"
