"""Parameter groups: own hyper-parameters and schedules, and the bits of one optimizer for each group."""

import copy
import functools

import numpy as np
import pytest

import samestep as ss
from bits import same_bits
from samestep.optim import schedules
from samestep.proof import vectors

F32 = np.dtype(np.float32)


def values(*sizes, seed=1):
    return [vectors.random_values(n, F32, seed + i) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_groups_equal_one_optimizer_each(backend):
    kinds = (
        (ss.Adam, {"betas": (0.8, 0.9)}),
        (ss.AdamW, {"weight_decay": 0.5}),
        (functools.partial(ss.RMSProp, momentum=0.5), {"momentum": 0.25, "weight_decay": 0.25}),
        (ss.SGD, {"weight_decay": 0.1}),
    )
    for kind, own in kinds:
        params, grads = values(5, 40_000, 7), values(5, 40_000, 7, seed=9)
        alone = [w.copy() for w in params]
        optimizer = kind(
            [{"params": params[:2], "lr": 0.5}, {"params": {"a": params[2]}, **own}], lr=0.25, backend=backend
        )
        each = [kind(alone[:2], lr=0.5), kind(alone[2], **{"lr": 0.25, **own})]
        for t in range(3):
            grads[0] = None if t == 1 else grads[0]
            optimizer.step([grads[:2], {"a": grads[2]}])
            each[0].step(grads[:2])
            each[1].step(grads[2])
        same_bits(params, alone)
        assert optimizer.steps == [*each[0].steps, *each[1].steps]


def test_hyper_parameters_of_one_group_and_of_all():
    w, v = np.zeros(1), np.zeros(1)
    optimizer = ss.SGD([{"params": w}, {"params": v, "lr": 2.0}], lr=1.0)
    with pytest.raises(ValueError, match=r"lr: differs between groups; read groups\[i\]\['lr'\]"):
        _ = optimizer.lr
    optimizer.groups[1]["weight_decay"] = 0.5
    optimizer.step([np.ones(1), np.ones(1)])
    optimizer.lr = 0.5
    optimizer.step([np.ones(1), np.ones(1)])
    assert (w[0], v[0]) == (-1.5, -2.0)
    assert optimizer.lr == 0.5
    with pytest.raises(ValueError, match="lr: got -1"):
        optimizer.groups[0]["lr"] = -1.0
    with pytest.raises(KeyError, match="momentum: expected one of lr, weight_decay"):
        optimizer.groups[0]["momentum"] = 1.0
    with pytest.raises(TypeError, match="cannot be deleted"):
        del optimizer.groups[0]["lr"]
    assert repr(optimizer) == "SGD(2 groups, t=2)"


def test_a_group_added_later_begins_at_its_first_step():
    params, grads = values(4, 6), values(4, 6, seed=9)
    alone = [w.copy() for w in params]
    optimizer, each = ss.Adam(params[0]), [ss.Adam(alone[0]), ss.Adam(alone[1], lr=0.5)]
    optimizer.step(grads[0])
    each[0].step(grads[0])
    optimizer.add_group({"params": params[1], "lr": 0.5})
    optimizer.step(grads)
    for one, g in zip(each, grads, strict=True):
        one.step(g)
    same_bits(params, alone)
    assert (optimizer.t, optimizer.steps) == (2, [2, 1])


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ({"lr": 0.1}, TypeError, 'group: expected a dict with the key "params"'),
        ({"params": []}, ValueError, r"params\[1\]\['params'\]: got none"),
        ({"params": np.ones(3), "momentum": 0.1}, ValueError, "a group has the key 'momentum'"),
        ({"params": np.ones(3), "lr": -1.0}, ValueError, "lr: got -1.0"),
        ({"params": [np.ones(3), np.arange(3)]}, TypeError, r"params\[1\]\['params'\]\[1\]: got dtype int64"),
        ({"params": "the same"}, ValueError, r"overlaps params"),
    ],
)
def test_a_group_that_does_not_fit_changes_nothing(group, error, message):
    w = np.ones(3)
    optimizer = ss.SGD(w, lr=1.0, ema=0.5)
    optimizer.step(np.ones(3))
    if isinstance(group.get("params"), str):
        group = {"params": w}
    with pytest.raises(error, match=message):
        optimizer.add_group(group)
    assert (len(optimizer.groups), len(optimizer.params), len(optimizer.ema), optimizer.steps) == (
        1,
        1,
        1,
        [1],
    )
    optimizer.step(np.ones(3))
    assert w.tolist() == [-1.0] * 3


def test_structure_of_the_gradients():
    optimizer = ss.SGD([{"params": np.ones(2)}, {"params": [np.ones(2)]}], lr=0.1)
    for grads, message in (
        ([np.ones(2)], "grads: got 1, expected a list of 2"),
        (np.ones(2), "grads: got ndarray"),
        ([np.ones(2), np.ones(2)], r"grads\[1\]: got ndarray, expected a list"),
        ([np.ones(2), [np.ones(3)]], r"grads\[1\]\[0\]: got shape \(3,\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            optimizer.step(grads)
    assert optimizer.t == 0


def test_state_goes_on_with_the_same_bits():
    params, grads = values(4, 6), values(4, 6, seed=9)

    def make(params):
        return ss.AdamW([{"params": params[0]}, {"params": params[1], "lr": 0.5}], ema=0.5)

    first = make(params)
    first.step(grads)
    twins = [[w.copy() for w in params] for _ in range(2)]
    second = make(twins[0])
    second.groups[1]["lr"] = 0.125
    second.load_state_dict(first.state_dict())
    copied = copy.deepcopy(first)
    for optimizer in (first, second, copied):
        optimizer.step(grads)
    same_bits(twins[0], params)
    same_bits(copied.params, params)
    same_bits(second.ema, first.ema)
    for spoil in (lambda d: d["hyper"].pop(), lambda d: d["options"].update(maximize=True)):
        bad = first.state_dict()
        spoil(bad)
        with pytest.raises(ValueError, match="state_dict"):
            second.load_state_dict(bad)


def test_a_copy_of_a_group_sets_nothing_in_the_optimizer():
    optimizer = ss.SGD(np.ones(2), lr=0.5)
    values = copy.copy(optimizer.groups[0])
    values["lr"] = 0.25
    assert (optimizer.lr, values) == (0.5, {"lr": 0.25, "weight_decay": 0.0})


class TestNestedParameters:
    def make(self):
        params = {
            "l1": {"W": np.ones((2, 2)), "b": np.ones(2)},
            "rest": [(np.ones(3), np.ones(1)), np.ones(4)],
        }
        return params, ss.Adam(params, lr=0.5, eps=0.0)

    def grads(self, params):
        if isinstance(params, dict):
            return {key: self.grads(params[key]) for key in reversed(params)}
        if isinstance(params, (list, tuple)):
            return [self.grads(entry) for entry in params]
        return np.full(params.shape, 3.0)

    def test_gradients_come_in_the_same_structure(self):
        params, optimizer = self.make()
        optimizer.step(self.grads(params))
        assert [w.shape for w in optimizer.params] == [(2, 2), (2,), (3,), (1,), (4,)]
        assert all((w == 0.5).all() for w in optimizer.params)

    def test_none_skips_an_array_or_a_branch(self):
        params, optimizer = self.make()
        grads = self.grads(params)
        grads["l1"]["b"] = None
        grads["rest"] = None
        optimizer.step(grads)
        assert optimizer.steps == [1, 0, 0, 0, 0]
        grads["rest"] = [None, np.full(4, 3.0)]
        optimizer.step(grads)
        assert optimizer.steps == [2, 0, 0, 0, 1]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda g: g.update(l1=[1, 2]), r"grads\['l1'\]: got list, expected a dict like params"),
            (lambda g: g["l1"].pop("W"), r"grads\['l1'\]: key 'W' is not in grads"),
            (lambda g: g["rest"].append(1), r"grads\['rest'\]: got 3 gradients, expected 2"),
            (
                lambda g: g["rest"].__setitem__(0, {}),
                r"grads\['rest'\]\[0\]: got dict, expected a list or tuple",
            ),
            (
                lambda g: g["rest"].__setitem__(1, [np.ones(4)]),
                r"grads\['rest'\]\[1\]: got list, expected a NumPy",
            ),
            (lambda g: g["l1"].update(b=np.ones(3)), r"grads\['l1'\]\['b'\]: got shape \(3,\), expected"),
        ],
    )
    def test_errors_name_the_path(self, change, message):
        params, optimizer = self.make()
        grads = self.grads(params)
        change(grads)
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.step(grads)
        assert optimizer.t == 0
        with pytest.raises(TypeError, match="grads: got NoneType"):
            optimizer.step(None)

    def test_parameters_are_named_by_their_path(self):
        for leaf in (None, "text", np.float64(1.0), np.ones(3, int)):
            with pytest.raises(TypeError, match=r"params\['a'\]\[0\]\[1\]: got"):
                ss.SGD({"a": [(np.ones(2), leaf)]}, lr=0.1)
        with pytest.raises(ValueError, match="params: got none"):
            ss.SGD({"a": [], "b": ()}, lr=0.1)

    def test_within_groups_and_in_minimize(self):
        layers = [{"W": np.ones(2)}, {"W": np.ones(3)}]
        optimizer = ss.SGD([{"params": layers}, {"params": np.ones(1), "lr": 0.25}], lr=0.5)
        optimizer.step([[{"W": np.ones(2)}, None], np.ones(1)])
        assert [w[0].item() for w in optimizer.params] == [0.5, 1.0, 0.75]
        optimizer.step([None, np.ones(1)])
        assert [w[0].item() for w in optimizer.params] == [0.5, 1.0, 0.5]
        assert optimizer.steps == [1, 0, 2]
        problem = ss.problems.MSE(np.eye(2), np.ones(2))
        run = ss.minimize(
            problem, np.zeros(2), ss.SGD({"a": (np.zeros(2),)}, lr=0.5), steps=2, callback=lambda *_: None
        )
        assert run.w.tolist() == [0.75, 0.75]

    def test_state_dict_checkpoint_and_digest(self):
        params, optimizer = self.make()
        optimizer.step(self.grads(params))
        _, other = self.make()
        other.load_state_dict(optimizer.state_dict())
        assert other.steps == optimizer.steps
        assert ss.digest(params) == ss.digest(optimizer.params)
        assert ss.global_norm(params) == ss.global_norm(optimizer.params)


class TestSchedules:
    def test_values(self):
        assert [schedules.step(1.0, every=3)(t) for t in (1, 3, 4)] == [1.0, 1.0, 0.1]
        cosine = schedules.cosine(2.0, steps=10, lowest=1.0)
        found = [cosine(t) for t in range(1, 13)]
        expected = [1 + (1 + np.cos(np.pi * min(t, 10) / 10)) / 2 for t in range(12)]
        np.testing.assert_allclose(found, expected, atol=1e-11)
        warm = schedules.warm_up(schedules.inverse_time(1.0, decay=1.0), steps=2)
        assert [warm(t) for t in (1, 2, 3)] == [0.5, 0.5, 1 / 3]
        for make in (lambda: schedules.step(1.0, every=0), lambda: schedules.cosine(1.0, steps=0)):
            with pytest.raises(ValueError, match="got 0, expected 1 or more"):
                make()

    def test_each_step_takes_its_own(self):
        seen = []

        def schedule(t):
            seen.append(t)
            return 1.0 / t

        w, v = np.zeros(1), np.zeros(1)
        optimizer = ss.SGD([{"params": w, "lr": schedule}, {"params": v}], lr=1.0)
        for _ in range(3):
            optimizer.step([np.ones(1), np.ones(1)])
        assert seen[-3:] == [1, 2, 3]
        assert w[0] == -(1.0 + 1 / 2 + 1 / 3)
        assert v[0] == -3.0
        optimizer.groups[0]["lr"] = 0.0  # in the place of the schedule
        optimizer.step([np.ones(1), None])
        assert w[0] == -(1.0 + 1 / 2 + 1 / 3)

    def test_a_skipped_step_asks_for_the_same_t_again(self):
        w = np.zeros(1)
        optimizer = ss.SGD(w, lr=lambda t: 1.0 / t, nonfinite="skip")
        for g in (np.inf, 1.0, 1.0):
            optimizer.step(np.array([g]))
        assert w[0] == -1.5

    def test_one_that_gives_no_step_size_changes_nothing(self):
        w = np.zeros(1)
        optimizer = ss.SGD(w, lr=lambda t: 1.0 if t < 2 else -1.0)
        optimizer.step(np.ones(1))
        with pytest.raises(ValueError, match=r"lr: got -1\.0"):
            optimizer.step(np.ones(1))
        assert (w[0], optimizer.t) == (-1.0, 1)

    def test_a_step_that_is_not_made_leaves_every_lr(self):
        halved = lambda t: 0.5**t  # noqa: E731
        v = np.zeros(1)
        optimizer = ss.SGD(
            [{"params": np.zeros(1), "lr": halved}, {"params": v, "lr": lambda t: 1.0 if t < 2 else np.nan}],
            lr=1.0,
            nonfinite="skip",
        )
        ones = [np.ones(1), np.ones(1)]
        optimizer.step(ones)
        with pytest.raises(ValueError, match="lr: got nan"):
            optimizer.step(ones)
        assert optimizer.groups[0]["lr"] == 0.5
        optimizer.groups[1]["lr"] = halved
        optimizer.groups[1]["lr"] = 0.5  # no schedule
        with pytest.raises(ValueError, match=r"grads\[1\]: got shape"):
            optimizer.step([np.ones(1), np.ones(2)])
        assert optimizer.lr == 0.5
        optimizer.step([np.ones(1), np.array([np.inf])])
        assert optimizer.skipped
        assert optimizer.lr == 0.5
        optimizer.step(ones)
        assert [group["lr"] for group in optimizer.groups] == [0.25, 0.5]

    def test_eps_has_none(self):
        with pytest.raises(TypeError, match="eps: got <function"):
            ss.Adam(np.ones(1), eps=lambda t: 1.0)

    def test_in_the_training_loop(self):
        problem = ss.problems.MSE(np.array([[1.0], [2.0]]), np.array([1.0, 3.0]))
        runs = [
            ss.minimize(problem, np.zeros(1), lambda w, lr=lr: ss.SGD(w, lr=lr), steps=5).w
            for lr in (0.1, lambda t: 0.1, lambda t: 0.1 / t)
        ]
        assert (runs[0] == runs[1]).all()
        assert (runs[0] != runs[2]).all()


@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentun", "params"])
def test_values_are_no_attributes(name):
    """Set as one, a value would change nothing."""
    optimizer = ss.SGD([{"params": np.ones(2)}, {"params": np.ones(2)}], lr=0.5)
    for group in (optimizer.groups[0], copy.deepcopy(optimizer).groups[1]):
        before = vars(group).copy()
        with pytest.raises(
            AttributeError, match=rf"^{name}: a group is a dict, .* lr, weight_decay: groups\[0\]"
        ):
            setattr(group, name, 0.25)
        assert vars(group) == before
