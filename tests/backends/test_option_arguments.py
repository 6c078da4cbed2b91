"""The options are stated once; what repeats them for type checkers and for C++ is held against that."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import get_type_hints

import pytest

import samestep as ss
from samestep.backends.options import OptionArguments, Options

ROOT = Path(__file__).parent.parent.parent
FIELDS = {field.name: field for field in dataclasses.fields(Options)}


def test_type_checkers_know_the_same_arguments():
    fields, arguments = get_type_hints(Options), get_type_hints(OptionArguments)
    beside = {"weight_decay", "state_dir"}  # a hyper-parameter, and where state is kept
    assert {name: kind for name, kind in arguments.items() if name not in beside} == fields
    assert beside <= set(inspect.signature(ss.Optimizer.__init__).parameters)


def test_what_is_not_asked_for_is_off():
    assert Options() == Options(**{name: field.default for name, field in FIELDS.items()})
    assert list(Options().arguments()) == list(FIELDS)
    assert Options(**Options(maximize=True, ema=0.5).arguments()) == Options(maximize=True, ema=0.5)
    assert Options(clip_norm=float("inf"), clip_value=float("inf")) == Options()


def test_the_core_reads_options_by_the_names_of_the_arguments():
    text = "".join(header.read_text() for header in (ROOT / "csrc" / "run").glob("*.h"))
    names = re.findall(r"\bROW\([\w:<>]+, (\w+), [^)]+\)", text)
    assert len(names) > 5
    assert set(names) <= set(FIELDS)


def test_options_are_checked_where_they_are_made():
    with pytest.raises(ValueError, match=r"ema: got 1\.5"):
        Options(ema=1.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().ema = 0.5
