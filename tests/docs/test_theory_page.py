"""docs/theory/index.md: every row names functions and tests that exist, and no item is left out."""

import ast
import functools
import re
from pathlib import Path

import pytest

import samestep as ss

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "theory"
INDEX = (FOLDER / "index.md").read_text(encoding="utf-8")
# Names in a table may leave out the module that the name before them has.
HOMES = (ss, ss.problems, ss.theory, ss.theory.landscape, ss.theory.flows)


def rows():
    """(item, function, test) of each row of the tables that have these columns."""
    found, columns = [], []
    for line in INDEX.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            columns = []
        elif "item" in cells:
            columns = [cells.index(name) for name in ("item", "function", "test")]
        elif columns and not set(line) <= set("|-: "):
            found.append(tuple(cells[i] for i in columns))
    return found


def reaches(home, dotted):
    for name in dotted.split("."):
        if not hasattr(home, name):
            return False
        home = getattr(home, name)
    return True


@functools.cache
def defined(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


@pytest.mark.parametrize(("item", "function", "test"), rows(), ids=lambda cell: cell[:12])
def test_a_row(item, function, test):
    names = re.findall(r"`(\w[\w.]*)(?:\([^`]*\))?`", function)
    links = [FOLDER / link for link in re.findall(r"\]\(([^)]+)\)", function + test)]
    tests = re.findall(r"`(test_\w+\*?|Test\w+)`", test)
    assert all(link.is_file() for link in links), f"{item}: {links}"
    for name in names:
        assert any(reaches(home, name) for home in HOMES), f"{item}: there is no function {name}"
    files = [link for link in links if link.name.startswith("test_")] or list(
        (ROOT / "tests").rglob("test_*.py")
    )
    there = set().union(*map(defined, files))
    for name in tests:
        assert any(re.fullmatch(name.replace("*", r"\w*"), one) for one in there), f"{item}: no test {name}"
    # Only a claim without a formula (B5) has neither function nor test.
    assert (names and (tests or links)) or item == "B5"


def test_no_item_is_left_out():
    items = " ".join(item for item, *_ in rows())
    named = set(re.findall(r"[AB]\d+", items))
    for letter, first, last in re.findall(r"([AB])(\d+)\u2013[AB]?(\d+)", items):
        named |= {f"{letter}{number}" for number in range(int(first), int(last) + 1)}
    assert named >= {f"A{n}" for n in range(1, 32)} | {f"B{n}" for n in range(1, 23)}


def test_every_function_of_the_theory_is_in_a_chapter():
    """But for the types that they return."""
    chapters = "".join(
        page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md") if page.stem != "index"
    )
    functions = {name for name in ss.theory.__all__ if callable(getattr(ss.theory, name))}
    types = {name for name in functions if isinstance(getattr(ss.theory, name), type)}
    assert {name for name in functions - types if not re.search(rf"\b{name}\b", chapters)} == set()
