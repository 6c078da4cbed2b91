"""A rule's row: its name is formed of its tokens, and the tokens find it."""

import pytest

from samestep import backends
from samestep.backends import cpu
from samestep.optim.optimizers import OPTIMIZERS
from samestep.proof import golden


@pytest.mark.parametrize("row", cpu.rules(), ids=lambda row: row.name)
def test_tokens_form_the_name_and_find_the_row(row):
    tokens = (row.family, row.form, row.variant)
    assert row.name == "_".join(token for token in tokens if token is not None)
    assert cpu.rule(*tokens) == row
    (kind,) = (kind for kind in OPTIMIZERS if kind.family == row.family)
    assert row.form in (kind.forms or (None,))
    assert row.variant in (None, *kind.variants)


@pytest.mark.parametrize("backend", backends.BACKENDS)
def test_backends_have_the_same_rows(backend):
    assert backends.module(backend).rules() == cpu.rules()


def test_every_row_has_one_case_a_dtype():
    names = [case.rule for case in golden.cases()]
    assert sorted(names) == sorted(2 * [row.name for row in cpu.rules()])


@pytest.mark.parametrize("tokens", [("adam",), ("sgd", "outside"), ("momentum", "heavy_ball", "dampened")])
def test_tokens_without_a_row(tokens):
    with pytest.raises(KeyError):
        cpu.rule(*tokens)
