"""docs/theory.md, the part on the lecture notes: every row names a function and a test, and both exist."""

import ast
import functools
import re
from pathlib import Path

import pytest

import samestep as ss

ROOT = Path(__file__).parent.parent
HEADING = "# The lecture notes, formula by formula"
ELSEWHERE = {12, 20, 21}  # basins and over-parameterisation, with the slides' landscapes


def part():
    """The page from our heading to the next of its rank."""
    page = (ROOT / "docs" / "theory.md").read_text()
    return re.split(r"^# ", page[page.index(HEADING) + 2 :], flags=re.M)[0]


def rows():
    """(item, function, test) of every row of every table."""
    found = []
    for line in part().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and cells[0] != "item" and not set(line) <= set("|-"):
            found.append((cells[0], cells[2], cells[3]))
    return found


@functools.cache
def defined(file):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


@pytest.mark.parametrize(("item", "function", "test"), rows(), ids=[row[0] for row in rows()])
def test_a_row(item, function, test):
    names = re.findall(r"`([\w.]+)`", function)
    assert names
    for name in names:
        home = ss
        for part in name.split("."):
            assert hasattr(home, part), f"{item}: there is no samestep.{name}"
            home = getattr(home, part)
        assert callable(home)
    tests = re.findall(r"`(test_\w+|Test\w+)`", test)
    files = re.findall(r"\[(test_\w+\.py)\]\(\.\./tests/\1\)", test) or ["test_theory_momentum.py"]
    assert tests
    there = set().union(*map(defined, files))
    for name in tests:
        assert name in there, f"{item}: no {name} in {', '.join(files)}"


def test_no_item_is_left_out():
    items = " ".join(item for item, *_ in rows())
    numbers = {int(n) for n in re.findall(r"A(\d+)", items)}
    for first, last in re.findall(r"A(\d+)\u2013A(\d+)", items):
        numbers |= set(range(int(first), int(last) + 1))
    assert numbers == set(range(1, 32)) - ELSEWHERE
    assert "B17" in items


def test_every_function_of_ours_is_in_a_row():
    """Those of the modules that a row's function comes from; but for the types that they return."""
    named = set(re.findall(r"`theory\.(\w+)`", part()))
    modules = {getattr(ss.theory, name).__module__ for name in named}
    ours = {
        name for name in ss.theory.__all__ if getattr(getattr(ss.theory, name), "__module__", "") in modules
    }
    assert ours - named == {"GapBounds", "Tuning"}
