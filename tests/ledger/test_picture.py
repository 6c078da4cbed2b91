"""The distance of two runs over steps and tensors."""

import math

import numpy as np
import pytest

from ledgers import NAMES, at, flip, write_run
from samestep.ledger import diff, picture


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledgers")

    def change(run):
        if run.step == 4:
            flip(run.grads["h.weight"], 20)
        if run.step == 6:
            run.grads["wte"] = None

    a = write_run(folder / "a.jsonl", steps=8, kinds=("gradient", "parameter"))
    return diff(a, write_run(folder / "b.jsonl", steps=8, kinds=("gradient", "parameter"), before=change))


def test_a_column_for_each_step(found):
    drawn = picture(found, 100)
    assert drawn.columns == tuple((step, step) for step in range(9))
    assert not drawn.is_in_ulps
    assert list(drawn.rows) == NAMES
    assert drawn.rows["h.weight"] == (0, 0, 0, 0, 1, 0.5, 0.5, 0.5, 0.5)  # the parameter stays parted
    assert drawn.rows["wte"] == (0, 0, 0, 0, 0, 0, 1, 0.5, 0.5)
    assert drawn.rows["h.bias"] == (0,) * 9
    assert drawn.lit == ("h.weight", 4)


def test_several_steps_in_a_column(found):
    drawn = picture(found, 4)
    assert drawn.columns == ((0, 1), (2, 3), (4, 5), (6, 8))
    assert drawn.rows["h.weight"] == (0, 0, 1, 0.5)
    assert drawn.lit == ("h.weight", 2)


def test_with_values(found):
    asked = []

    def values(step, name, kind):
        asked.append((step, name, kind))
        x = np.ones(2, np.float32)
        y = x.view(np.uint32) + np.array([0, 3], np.uint32)
        return None if kind == "gradient" else (x, y.view(np.float32))

    drawn = picture(found, 100, values)
    assert drawn.is_in_ulps
    assert drawn.rows["h.weight"][4] == math.log2(1 + 3) / 32
    assert drawn.rows["wte"][6] == 1.0  # a step that one did not make has no distance
    assert ("wte", 4) not in {(name, step) for step, name, _ in asked}


def test_the_tensors_that_part_first(found):
    drawn = picture(found, 100)
    assert drawn.nearest_the_parting(1) == ["h.weight"]
    assert drawn.nearest_the_parting(2) == ["wte", "h.weight"]
    assert drawn.nearest_the_parting(99) == NAMES


@pytest.mark.parametrize("changes", [{}, {"before": at(2, lambda run: run.extras.update(loss=0.0))}])
def test_nothing_is_lit_where_no_tensor_parts(tmp_path, changes):
    a, b = write_run(tmp_path / "a.jsonl"), write_run(tmp_path / "b.jsonl", **changes)
    drawn = picture(diff(a, b), 100)
    assert drawn.lit is None
    assert {level for levels in drawn.rows.values() for level in levels} == {0.0}
