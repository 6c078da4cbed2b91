"""Where two ledgers part: the step, the tensor, and what came first."""

import itertools
import random

import numpy as np
import pytest

from ledgers import NAMES, at, flip, write_run
from samestep.ledger import (
    Difference,
    Header,
    Ledger,
    LedgerError,
    NotComparableError,
    diff,
    first_parted_line,
    read_ledger,
)

STEPS = 6


@pytest.fixture
def compared(tmp_path):
    """Makes a run and one with changes, and compares them."""

    numbers = itertools.count()

    def compare(a=None, **b):
        paths = (tmp_path / f"{side}{next(numbers)}.jsonl" for side in "ab")
        return diff(write_run(next(paths), **(a or {})), write_run(next(paths), **b))

    return compare


def summary(found):
    first = found.first
    return first.step, first.after, first.what, first.name, first.kind


def test_equal_runs(compared):
    found = compared()
    assert found.is_equal
    assert found.first is None
    assert found.steps == tuple(range(STEPS + 1))
    assert found.left_out == ()
    assert found.options == {}


@pytest.mark.parametrize("step", [1, 2, STEPS])
@pytest.mark.parametrize("name", NAMES)
def test_a_gradient(compared, name, step):
    found = compared(before=at(step, lambda run: flip(run.grads[name], 20)))
    assert summary(found) == (step, step - 1, "gradient", name, "gradient")
    assert found.first.counts["gradient"] == found.first.counts["m"] == 1
    assert found.first.lines == (step + 2, step + 2)
    a, b = (side.records[step].tensors[name][0] for side in (found.a, found.b))
    assert found.first.values == (a, b)
    assert str(found.first) == f"step {step}: the gradient of {name} differs"


@pytest.mark.parametrize("kind", ["parameter", "m", "v"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_went_wrong(compared, name, kind):
    found = compared(after=at(3, lambda run: flip(run.arrays(name)[kind])))
    assert summary(found) == (3, 2, "update", name, kind)
    assert found.first.counts == {kind: 1}


def test_a_state_comes_before_the_parameter_made_of_it(compared):
    def change(run):
        flip(run.arrays("wte")["parameter"])
        flip(run.arrays("wte")["v"])

    found = compared(after=at(3, change))
    assert summary(found) == (3, 2, "update", "wte", "v")
    assert found.first.counts == {"parameter": 1, "v": 1}


def test_a_mean_of_the_parameters_comes_after_them(compared):
    kinds = ("gradient", "ema", "parameter")
    renamed = {"kinds": ("gradient", "m", "parameter"), "header": {"kinds": kinds}}

    def change(run):
        flip(run.arrays("wte")["parameter"])
        flip(run.arrays("wte")["m"])

    found = compared(renamed, after=at(3, change), **renamed)
    assert summary(found) == (3, 2, "update", "wte", "parameter")


@pytest.mark.parametrize("kind", ["parameter", "m", "v"])
def test_other_values_to_begin_with(compared, kind):
    found = compared(begin=lambda run: flip(run.arrays("h.weight")[kind]))
    assert summary(found) == (0, None, "start", "h.weight", kind)
    assert str(found.first) == f"step 0: the {kind} of h.weight that it starts from differs"


def test_a_hyper_parameter(compared):
    found = compared(before=lambda run: run.lr.__setitem__(1, 0.02 if run.step < 4 else 0.03))
    assert summary(found) == (4, 3, "hyper", "lr", "")
    assert found.first.group == 1
    assert found.first.values == (0.02, 0.03)
    assert found.first.counts == {"parameter": 1}
    assert str(found.first) == "step 4: lr of group 1 differs"


def test_the_scale(compared):
    found = compared(before=lambda run: setattr(run, "scale", 1.0 if run.step < 4 else 0.5))
    assert summary(found) == (4, 3, "scale", "scale", "")
    assert found.first.values == (1.0, 0.5)


def test_the_loss(compared):
    found = compared(before=at(4, lambda run: run.extras.update(loss=0.3)))
    assert summary(found) == (4, 3, "extra", "loss", "")
    assert found.first.values == ((0.25).hex(), (0.3).hex())
    assert found.first.counts == {}


def test_a_tensor_that_one_run_did_not_step(compared):
    found = compared(before=at(4, lambda run: run.grads.update({"h.weight": None})))
    assert summary(found) == (4, 3, "stepped", "h.weight", "")
    assert found.first.values == (True, False)
    assert str(found.first) == "step 4: whether h.weight has a gradient differs"


def test_what_comes_first_in_a_step(compared):
    """With everything changed at one step, and then less and less."""
    changes = {
        "extra": lambda run: run.extras.update(loss=0.3),
        "gradient": lambda run: flip(run.grads["h.bias"]),
        "scale": lambda run: setattr(run, "scale", 2.0),
        "hyper": lambda run: run.lr.__setitem__(0, 1.0),
    }
    while changes:
        found = compared(
            before=at(4, lambda run: [change(run) for change in changes.values()]),
            after=at(4, lambda run: flip(run.arrays("wte")["m"])),
        )
        assert found.first.what == next(iter(changes))
        del changes[found.first.what]


def test_the_first_tensor_is_the_first_of_the_optimizer(compared):
    found = compared(before=at(4, lambda run: [flip(run.grads[name]) for name in ("h.bias", "h.weight")]))
    assert found.first.name == "h.weight"
    assert found.first.counts["gradient"] == 2
    names = ["h.bias", "h.weight", "wte"]
    found = compared(
        {"names": names}, before=at(4, lambda run: [flip(run.grads[name]) for name in NAMES]), names=names
    )
    assert found.first.name == "h.bias"


class TestOfOtherForm:
    """What both have is compared, and what is not is said."""

    def test_steps_between_records(self, compared):
        found = compared({"steps": 8}, steps=8, every=4, after=at(5, lambda run: flip(run.w["wte"], 20)))
        assert found.steps == (0, 4, 8)
        assert summary(found) == (8, 4, "update", "wte", "parameter")
        assert str(found.first) == "between step 4 and 8: the parameter of wte differs"
        assert found.left_out == ("6 steps of A, 1 to 7",)

    def test_no_record_before(self, compared):
        found = compared({"first": 2}, first=4, every=2, after=at(5, lambda run: flip(run.w["wte"], 20)))
        assert found.steps == (4, 6)
        assert found.first.after == 4
        found = compared({"first": 1}, every=2, after=at(1, lambda run: flip(run.w["wte"], 20)))
        assert found.steps == (2, 4, 6)
        assert found.first.after is None
        assert str(found.first) == "step 2 or before: the parameter of wte differs"

    def test_a_start_is_compared_with_the_step_before_it(self, compared):
        assert compared(first=3).is_equal
        found = compared(first=3, after=at(3, lambda run: flip(run.arrays("h.bias")["m"])))
        assert summary(found) == (3, None, "start", "h.bias", "m")

    def test_a_run_that_ends_sooner(self, compared):
        found = compared(steps=4)
        assert found.is_equal
        assert found.left_out == ("2 steps of A, 5 to 6",)

    def test_states(self, compared):
        found = compared(kinds=("gradient", "parameter"))
        assert found.is_equal
        assert found.left_out == ("m, only in A", "v, only in A")
        found = compared(
            {"kinds": ("gradient", "parameter")},
            kinds=("gradient", "v", "parameter"),
            after=at(2, lambda run: flip(run.arrays("wte")["parameter"])),
        )
        assert summary(found) == (2, 1, "update", "wte", "parameter")
        assert found.left_out == ("v, only in B",)

    def test_tensors(self, compared):
        found = compared(names=["h.bias", "wte"], before=at(2, lambda run: flip(run.grads["h.bias"])))
        assert summary(found) == (2, 1, "gradient", "h.bias", "gradient")
        assert found.left_out == ("h.weight, only in A",)

    def test_a_tensor_of_another_shape(self, compared):
        def facts(shape):
            tensors = {name: {"dtype": "float32", "shape": [4], "group": 0} for name in NAMES}
            tensors["wte"]["shape"] = shape
            return {"tensors": tensors}

        found = compared({"header": facts([15])}, header=facts([5, 3]))
        assert found.is_equal
        assert found.left_out == ("wte, float32 [15] in A and float32 [5, 3] in B",)

    def test_groups_that_are_numbered_otherwise(self, tmp_path):
        paths = {}
        for side, groups, rates in (("a", (0, 1), (1, 2)), ("b", (1, 0), (2, 1)), ("c", (1, 0), (2, 3))):
            facts = {"dtype": "float32", "shape": [4]}
            tensors = {name: {**facts, "group": group} for name, group in zip("xy", groups, strict=True)}
            header = Header(2, "sgd", {}, 1, ("gradient", "parameter"), tensors)
            paths[side] = tmp_path / f"{side}.jsonl"
            rows = np.ones((2, 2), np.uint64)
            with Ledger(paths[side], header) as ledger:
                ledger.start(0, rows)
                ledger.add(1, rows, [{"lr": float(lr)} for lr in rates])
        assert diff(paths["a"], paths["b"]).is_equal
        first = diff(paths["a"], paths["c"]).first
        assert (first.what, first.group, first.values) == ("hyper", 0, (1.0, 3.0))

    def test_options(self, compared):
        found = compared({"header": {"options": {"clip": 1.0}}}, header={"options": {"ema": 0.5}})
        assert found.is_equal
        assert found.options == {"clip": (1.0, None), "ema": (None, 0.5)}

    def test_extras(self, compared):
        found = compared(extras=False)
        assert found.is_equal
        assert found.left_out == ("loss, only in A",)

    def test_a_step_that_was_made_again(self, tmp_path):
        """A run that was stopped after step 5 and taken up again at a checkpoint of step 3."""
        whole = write_run(tmp_path / "whole.jsonl")
        again = tmp_path / "again.jsonl"
        write_run(again, steps=5)
        write_run(again, first=3, append=True)
        assert [record.step for record in read_ledger(again).records] == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6]
        found = diff(whole, again)
        assert found.is_equal
        assert read_ledger(again).by_step()[3].tensors["wte"][0] is not None
        wrong = tmp_path / "wrong.jsonl"
        write_run(wrong, steps=5)
        write_run(wrong, first=3, append=True, after=at(3, lambda run: flip(run.w["h.bias"])))
        found = diff(whole, wrong)
        assert summary(found) == (3, 2, "start", "h.bias", "parameter")
        assert found.first.lines == (5, 8)


class TestNotComparable:
    @pytest.mark.parametrize("header", [{"contract": 3}, {"rule": "sgd"}])
    def test_another_contract_or_rule(self, compared, header):
        ((what, value),) = header.items()
        with pytest.raises(NotComparableError, match=f"^{what}: A has .* and B has {value}$"):
            compared(header=header)

    def test_no_tensor(self, compared):
        with pytest.raises(NotComparableError, match="no tensor of A"):
            compared({"names": ["wte"]}, names=["h.bias"])

    def test_no_step(self, compared):
        with pytest.raises(NotComparableError, match="steps: A has 0 to 2 and B has 4 to 6"):
            compared({"steps": 2}, first=4)

    def test_no_step_but_the_start(self, compared):
        with pytest.raises(NotComparableError, match="both have no step but the start"):
            compared({"steps": 5, "every": 3}, steps=5, every=4)

    def test_a_broken_file(self, tmp_path):
        write_run(tmp_path / "a.jsonl")
        path = write_run(tmp_path / "b.jsonl")
        path.write_bytes(path.read_bytes().replace(b'"step":3', b'"step":4'))
        with pytest.raises(LedgerError, match=r"b\.jsonl, line 5"):
            diff(tmp_path / "a.jsonl", path)

    def test_no_file(self, tmp_path):
        write_run(tmp_path / "a.jsonl")
        with pytest.raises(FileNotFoundError):
            diff(tmp_path / "a.jsonl", tmp_path / "c.jsonl")


class TestBisection:
    @pytest.mark.parametrize("step", [1, 2, 33, 64, 100])
    def test_it_asks_for_few_lines(self, tmp_path, step):
        sides = [
            read_ledger(write_run(tmp_path / "a.jsonl", steps=100)),
            read_ledger(
                write_run(
                    tmp_path / "b.jsonl", steps=100, before=at(step, lambda run: flip(run.grads["wte"], 20))
                )
            ),
        ]
        asked = [[], []]

        def answers(side):
            def digest(line):
                asked[side].append(line)
                return sides[side].digests[line - 1]

            return digest

        found = first_parted_line(answers(0), answers(1), 102)
        assert found == step + 2 == diff(*sides).first.lines[0]
        assert asked[0] == asked[1]
        assert len(asked[0]) <= 1 + 7  # log2 of 102, rounded up

    @pytest.mark.parametrize("lines", range(1, 40))
    def test_every_place(self, lines):
        for parted in range(1, lines + 1):
            found = first_parted_line(lambda k: "0", lambda k, at=parted: str(int(k >= at)), lines)
            assert found == parted
        assert first_parted_line(lambda k: "", lambda k: "", lines) is None

    def test_no_line(self):
        with pytest.raises(ValueError, match="lines: got 0, expected 1 or more"):
            first_parted_line("a".__getitem__, "b".__getitem__, 0)


def test_seeded_faults_are_all_located(tmp_path):
    """200 single bits, of a gradient, a parameter, a state or a hyper-parameter, at random steps."""
    whole = read_ledger(write_run(tmp_path / "whole.jsonl", steps=12))
    rng = random.Random(1)
    for fault in range(200):
        step, name = rng.randint(1, 12), rng.choice(NAMES)
        kind, bit = rng.choice(("gradient", "parameter", "m", "v", "lr")), rng.randrange(32)

        def change(run, name=name, kind=kind, bit=bit):
            if kind == "lr":
                group = run.lr.index(0.02) if name == "h.bias" else 0
                run.lr[group] = float(np.nextafter(run.lr[group], np.inf))
            else:
                flip(run.grads[name] if kind == "gradient" else run.arrays(name)[kind], bit)

        when = "before" if kind in ("gradient", "lr") else "after"
        path = write_run(tmp_path / f"{fault}.jsonl", steps=12, **{when: at(step, change)})
        first = diff(whole, path).first
        assert isinstance(first, Difference)
        assert (first.step, first.after) == (step, step - 1)
        if kind == "lr":
            assert (first.what, first.name, first.group) == ("hyper", "lr", int(name == "h.bias"))
        else:
            assert (first.name, first.kind) == (name, kind)
